/* store/message: the rows of table `message`: the log of every conversation.
 *
 * Layer: store. W: needs the writer's cs_db. A row holds its message rendered as a JSON object,
 * ready to be sent; there is no second copy of the content. `seq` is contiguous per (session,
 * origin); the order of a conversation is (hlc, origin, seq).
 */
#ifndef CS_STORE_MESSAGE_H
#define CS_STORE_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cs/store/store.h"

enum cs_message_kind {
    CS_MESSAGE_USER,      /* "user": a prompt */
    CS_MESSAGE_ASSISTANT, /* "assistant": Codex's answer; a turn's outcome when it completed */
    CS_MESSAGE_CONTEXT,   /* "context": given by the caller beside the first prompt */
    CS_MESSAGE_OUTCOME,   /* "error": a turn that failed, was cancelled or interrupted */
};

/** The `type` member of the rendered message. */
const char *cs_message_kind_name(enum cs_message_kind kind);

struct cs_message_new {
    int64_t session; /* rowid */
    enum cs_message_kind kind;
    const char *content; /* UTF-8 */
    size_t content_len;
    const char *turn;  /* turn id, or NULL */
    const char *extra; /* further members, rendered: `"code":"x","model":"y"`; or NULL */
    int64_t at;        /* wall ms: the timestamp shown */
};

/**
 * W. Append one message: mints seq and hlc (after all that this session has seen), parent = the
 * newest message in order, renders `{"type":…,"content":…,"timestamp":…,"turnId":…,<extra>}` and
 * its hash. *out_id (may be NULL) is its rowid.
 */
CS_MUST_USE enum cs_status cs_message_append(struct cs_db *db, const struct cs_message_new *message,
                                             int64_t *out_id, struct cs_err *err);

/**
 * Append the rendered messages of @session to @out, oldest first, comma-separated, without
 * brackets: the newest @limit (0: all) of those whose position is before @before (0: from the
 * newest). *out_count counts them; *out_before (may be NULL) is the value of @before that continues
 * with the older ones, 0 at the start. A position is a message's rowid: it holds when messages of
 * other hosts are merged in. One that @session does not have is CS_INVALID, code "invalid_before".
 * @out keeps what it held on failure.
 */
CS_MUST_USE enum cs_status cs_message_history(struct cs_db *db, int64_t session, unsigned limit,
                                              int64_t before, struct cs_buf *out,
                                              int64_t *out_count, int64_t *out_before,
                                              struct cs_err *err);

/** One message of a transcript for an engine. */
struct cs_transcript_item {
    enum cs_message_kind kind; /* never CS_MESSAGE_OUTCOME */
    char *text;                /* owned by the transcript */
    size_t len;
};
struct cs_transcript {
    struct cs_transcript_item *items; /* oldest first */
    size_t count;
};
void cs_transcript_free(struct cs_transcript *transcript);

/** What a model should know of @session so far: prompts with their answers and contexts. Prompts
 * whose turn did not complete are left out, and so is everything of turn @except (a turn id; NULL
 * for none). */
CS_MUST_USE enum cs_status cs_message_transcript(struct cs_db *db, int64_t session,
                                                 const char *except,
                                                 struct cs_transcript **out_transcript,
                                                 struct cs_err *err);

/** The turn that the newest message of @session in order belongs to; "" for none. */
CS_MUST_USE enum cs_status cs_message_newest_turn(struct cs_db *db, int64_t session,
                                                  char out_tid[CS_UUID_MAX], struct cs_err *err);

/** A row of the log with what it belongs to. Free with cs_message_row_fini(). */
struct cs_message_row {
    int64_t id, session; /* rowids */
    enum cs_message_kind kind;
    int64_t at; /* wall ms */
    char sid[CS_UUID_MAX], cid[CS_UUID_MAX];
    char tid[CS_UUID_MAX]; /* turn id; "" for none */
    char *user;
    char *frag; /* the rendered message */
    size_t len;
};
void cs_message_row_fini(struct cs_message_row *row);
/** Message @id. CS_NOT_FOUND, code "message_not_found". */
CS_MUST_USE enum cs_status cs_message_get(struct cs_db *db, int64_t id,
                                          struct cs_message_row *out_row, struct cs_err *err);

/** A part of the log, in the order of ids. */
struct cs_message_range {
    int64_t after, upto; /* ids: after < id ≤ upto */
    int64_t session;     /* rowid; 0: of all */
    const char *user;    /* NULL: of all */
};
/** Ids of messages, ascending. */
struct cs_message_page {
    int64_t *ids; /* room for `max` */
    size_t max, count;
    int64_t reached; /* up to where the range was looked through */
};
/** Fill @page with the first ids of @range. page->reached is range->upto at its end; else go on
 * from there, also when there were none (so that no call takes long). */
CS_MUST_USE enum cs_status cs_message_ids(struct cs_db *db, const struct cs_message_range *range,
                                          struct cs_message_page *page, struct cs_err *err);

/** The greatest id that a message has or had. */
CS_MUST_USE enum cs_status cs_message_top(struct cs_db *db, int64_t *out_id, struct cs_err *err);

/** The content of message @id. The caller frees *out_text. */
CS_MUST_USE enum cs_status cs_message_content(struct cs_db *db, int64_t id, char **out_text,
                                              size_t *out_len, struct cs_err *err);

#endif
