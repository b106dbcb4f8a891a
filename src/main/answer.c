#include "answer.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES 16384
#define FIELD_SLACK    64 /* "data: " and the like before what counts */

void cs_answer_init(struct cs_answer *answer, size_t max,
                    void (*message)(void *arg, const char *text, size_t len), void *arg)
{
    *answer = (struct cs_answer){.message = message, .arg = arg, .left = -1, .retry_ms = -1};
    cs_buf_init(&answer->line, LINE_MAX_BYTES);
    cs_buf_init(&answer->field, max + FIELD_SLACK);
    cs_buf_init(&answer->data, max);
}

void cs_answer_fini(struct cs_answer *answer)
{
    cs_buf_fini(&answer->line);
    cs_buf_fini(&answer->field);
    cs_buf_fini(&answer->data);
}

static enum cs_status refuse(struct cs_err *err)
{
    return cs_err_set(err, CS_INVALID, "bad_answer", "the daemon's answer is not HTTP");
}

/* Hand on what is in data, on one line: JSON has line ends only where a space is as good. */
static void emit(struct cs_answer *answer)
{
    size_t i;

    if (answer->data.status != CS_OK)
        return; /* and let the caller see it */
    for (i = 0; i < answer->data.len; i++)
        if (answer->data.data[i] == '\n' || answer->data.data[i] == '\r')
            answer->data.data[i] = ' ';
    if (answer->data.len > 0)
        answer->message(answer->arg, answer->data.data, answer->data.len);
    cs_buf_reset(&answer->data);
}

static void finish(struct cs_answer *answer)
{
    answer->part = CS_ANSWER_WHOLE;
    if (!answer->stream)
        emit(answer);
}

/* ---- head ---- */

static bool copy_id(char out[CS_ANSWER_ID_MAX], const char *text)
{
    size_t len = strlen(text), i;

    if (len >= CS_ANSWER_ID_MAX)
        return false;
    for (i = 0; i < len; i++)
        if (text[i] < 0x21 || text[i] > 0x7e) /* it goes into a header one day */
            return false;
    memcpy(out, text, len + 1);
    return true;
}

static bool take_status(struct cs_answer *answer, const char *line)
{
    char *end = NULL;
    long status;

    if (strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12 || line[8] != ' ')
        return false;
    status = strtol(line + 9, &end, 10);
    answer->status = (int)status;
    return end == line + 12 && status >= 200;
}

static bool take_header(struct cs_answer *answer, char *line)
{
    char *value = strchr(line, ':'), *end = NULL;

    if (value == NULL)
        return false;
    *value++ = '\0';
    value += strspn(value, " \t");
    if (strcasecmp(line, "content-type") == 0)
        answer->stream = strncasecmp(value, "text/event-stream", 17) == 0;
    else if (strcasecmp(line, "transfer-encoding") == 0)
        answer->chunked = strcasecmp(value, "chunked") == 0;
    else if (strcasecmp(line, "mcp-session-id") == 0)
        (void)copy_id(answer->session, value);
    else if (strcasecmp(line, "content-length") == 0) {
        answer->left = strtoll(value, &end, 10);
        return end != value && *end == '\0' && answer->left >= 0;
    }
    return true;
}

static void begin_body(struct cs_answer *answer)
{
    answer->part = answer->chunked ? CS_ANSWER_CHUNK_SIZE : CS_ANSWER_PLAIN;
    if (!answer->chunked && answer->left == 0)
        finish(answer);
}

static bool take_size(struct cs_answer *answer, const char *line)
{
    char *end = NULL;
    unsigned long long size = strtoull(line, &end, 16);

    if (end == line || strchr("; \t", *end) == NULL || size > INT32_MAX)
        return false;
    answer->left = (int64_t)size;
    answer->part = size > 0 ? CS_ANSWER_CHUNK : CS_ANSWER_TRAILER;
    return true;
}

/* A line that is no part of the body, without its end. */
static bool take_line(struct cs_answer *answer, char *line)
{
    bool empty = line[0] == '\0';

    switch (answer->part) {
    case CS_ANSWER_HEAD:
        if (answer->status == 0)
            return take_status(answer, line);
        if (!empty)
            return take_header(answer, line);
        begin_body(answer);
        return true;
    case CS_ANSWER_CHUNK_SIZE:
        return take_size(answer, line);
    case CS_ANSWER_CHUNK_END:
        answer->part = CS_ANSWER_CHUNK_SIZE;
        return empty;
    case CS_ANSWER_TRAILER:
        if (empty)
            finish(answer);
        return true;
    case CS_ANSWER_PLAIN:
    case CS_ANSWER_CHUNK:
    case CS_ANSWER_WHOLE:
        break;
    }
    return false;
}

/* Add to @line up to a line's end, which is left out. Returns how many bytes were used; *out_whole
 * tells whether the end was there. */
static size_t add_line(struct cs_buf *line, const char *data, size_t len, bool *out_whole)
{
    const char *end = memchr(data, '\n', len);
    size_t used = end != NULL ? (size_t)(end - data) : len;

    cs_buf_add(line, data, used);
    *out_whole = end != NULL && line->status == CS_OK;
    if (!*out_whole)
        return used;
    if (line->len > 0 && line->data[line->len - 1] == '\r')
        line->data[--line->len] = '\0';
    return used + 1;
}

/* ---- events ---- */

/* A field of an event; @value is what follows its name and ": ". */
static void take_field(struct cs_answer *answer, const char *name, const char *value, size_t len)
{
    char *end = NULL;
    long long retry;

    if (strcmp(name, "data") == 0) {
        if (answer->data.len > 0)
            cs_buf_addc(&answer->data, ' ');
        cs_buf_add(&answer->data, value, len);
    } else if (strcmp(name, "id") == 0) {
        (void)copy_id(answer->last_id, value);
    } else if (strcmp(name, "retry") == 0) {
        retry = strtoll(value, &end, 10);
        if (end != value && *end == '\0' && retry >= 0)
            answer->retry_ms = retry;
    }
}

static void take_event_line(struct cs_answer *answer)
{
    struct cs_buf *line = &answer->field;
    char *colon = line->len > 0 ? memchr(line->data, ':', line->len) : NULL;
    const char *value;

    if (line->len == 0) {
        emit(answer);
    } else if (colon != NULL) { /* one without is an empty field, which says nothing here */
        *colon = '\0';
        value = colon + (colon[1] == ' ' ? 2 : 1);
        take_field(answer, line->data, value, (size_t)(line->data + line->len - value));
    }
    cs_buf_reset(line);
}

static void take_events(struct cs_answer *answer, const char *data, size_t len)
{
    bool whole;
    size_t used;

    while (len > 0 && answer->field.status == CS_OK) {
        used = add_line(&answer->field, data, len, &whole);
        if (whole)
            take_event_line(answer);
        data += used;
        len -= used;
    }
}

/* ---- the whole ---- */

static bool in_body(const struct cs_answer *answer)
{
    return answer->part == CS_ANSWER_PLAIN || answer->part == CS_ANSWER_CHUNK;
}

static size_t take_body(struct cs_answer *answer, const char *data, size_t len)
{
    size_t used = answer->left >= 0 && (uint64_t)answer->left < len ? (size_t)answer->left : len;

    if (answer->stream)
        take_events(answer, data, used);
    else
        cs_buf_add(&answer->data, data, used);
    if (answer->left < 0)
        return used;
    answer->left -= (int64_t)used;
    if (answer->left == 0 && answer->part == CS_ANSWER_CHUNK)
        answer->part = CS_ANSWER_CHUNK_END;
    else if (answer->left == 0)
        finish(answer);
    return used;
}

static enum cs_status check(const struct cs_answer *answer, struct cs_err *err)
{
    enum cs_status rc = cs_buf_check(&answer->line, err);

    if (rc == CS_OK)
        rc = cs_buf_check(&answer->field, err);
    return rc == CS_OK ? cs_buf_check(&answer->data, err) : rc;
}

enum cs_status cs_answer_feed(struct cs_answer *answer, const char *data, size_t len,
                              struct cs_err *err)
{
    enum cs_status rc = CS_OK;
    bool whole, good = true;
    size_t used;

    while (len > 0 && rc == CS_OK && answer->part != CS_ANSWER_WHOLE) {
        if (in_body(answer)) {
            used = take_body(answer, data, len);
        } else {
            used = add_line(&answer->line, data, len, &whole);
            if (whole)
                good = take_line(answer, answer->line.data);
            if (whole)
                cs_buf_reset(&answer->line);
        }
        data += used;
        len -= used;
        rc = good ? check(answer, err) : refuse(err);
    }
    return rc;
}

bool cs_answer_end(struct cs_answer *answer)
{
    if (answer->part == CS_ANSWER_PLAIN && answer->left < 0)
        finish(answer);
    return answer->part == CS_ANSWER_WHOLE;
}
