#include "cs/store/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"
#include "cs/base/json.h"
#include "db.h"

#define PAGE        32    /* sessions read at once */
#define AROUND      60    /* bytes of a snippet before the text */
#define TEXT_MAX    1024  /* bytes of what is looked for */
#define PATTERN_MAX 16384 /* of its pattern */

void cs_findings_fini(struct cs_findings *findings)
{
    size_t i;

    for (i = 0; i < findings->count; i++)
        cs_session_fini(&findings->items[i].session);
    free(findings->items);
    *findings = (struct cs_findings){0};
}

/* ---- text ---- */

/* Messages are stored as JSON: what to look for in that, as a pattern of LIKE. It finds whatever
 * has the text, and perhaps more. */
static enum cs_status make_pattern(const char *text, struct cs_buf *out, struct cs_err *err)
{
    struct cs_buf quoted;
    size_t i;
    enum cs_status status;

    cs_buf_init(&quoted, PATTERN_MAX);
    cs_json_quote(&quoted, text, strlen(text));
    cs_buf_addc(out, '%');
    for (i = 1; i + 1 < quoted.len; i++) {
        if (strchr("%_!", quoted.data[i]) != NULL)
            cs_buf_addc(out, '!');
        cs_buf_addc(out, quoted.data[i]);
    }
    cs_buf_addc(out, '%');
    status = cs_buf_check(&quoted, err);
    cs_buf_fini(&quoted);
    return status == CS_OK ? cs_buf_check(out, err) : status;
}

static bool is_inside(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The part of @text around @at, on one line, cut at characters. */
static void cut_snippet(const char *text, const char *at, char out[CS_SNIPPET_MAX])
{
    const char *start = at - text > AROUND ? at - AROUND : text;
    size_t len, i;

    while (is_inside(*start))
        start++;
    len = strnlen(start, CS_SNIPPET_MAX - 1);
    while (len > 0 && is_inside(start[len]))
        len--;
    for (i = 0; i < len; i++) {
        out[i] = start[i];
        if ((unsigned char)start[i] < ' ')
            out[i] = ' ';
    }
    out[len] = '\0';
}

static bool look_in(const char *text, const char *wanted, char snippet[CS_SNIPPET_MAX])
{
    const char *at = wanted != NULL ? strcasestr(text, wanted) : NULL;

    if (at != NULL)
        cut_snippet(text, at, snippet);
    return at != NULL;
}

/* ---- one session ---- */

/* A rendered message; NULL when it is damaged. */
static struct cs_json *message(struct cs_sql *q)
{
    struct cs_json *json = NULL;
    size_t len = 0;
    const char *frag = cs_sql_get_bytes(q, 0, &len);

    return frag != NULL && cs_json_parse(frag, len, len, &json, NULL) == CS_OK ? json : NULL;
}

static enum cs_status read_host(struct cs_db *db, struct cs_finding *finding, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_NEWEST_FRAG);
    cs_sql_int(&q, finding->session.id);
    if (cs_sql_next(&q)) {
        struct cs_json *json = message(&q);
        const char *host = cs_json_get_string(json, "host");

        snprintf(finding->host, sizeof finding->host, "%s", host != NULL ? host : "");
        cs_json_free(json);
    }
    return cs_sql_end(&q, "read the newest message", err);
}

static enum cs_status look_in_messages(struct cs_db *db, const char *pattern, const char *text,
                                       struct cs_finding *finding, bool *out_found,
                                       struct cs_err *err)
{
    bool found = false;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_MESSAGE_LIKE);
    cs_sql_int(&q, finding->session.id);
    cs_sql_text(&q, pattern);
    while (!found && cs_sql_next(&q)) {
        struct cs_json *json = message(&q);
        const char *content = cs_json_get_string(json, "content");

        found = content != NULL && look_in(content, text, finding->snippet);
        cs_json_free(json);
    }
    status = cs_sql_end(&q, "search the messages", err);
    if (status == CS_OK)
        *out_found = found;
    return status;
}

/* Whether the session is one of those looked for. */
static enum cs_status examine(struct cs_db *db, const struct cs_search *search, const char *pattern,
                              struct cs_finding *finding, bool *out_found, struct cs_err *err)
{
    const struct cs_session *session = &finding->session;
    enum cs_status status = CS_OK;

    *out_found = true;
    if (pattern == NULL)
        cut_snippet(session->initial_prompt, session->initial_prompt, finding->snippet);
    else if (!look_in(session->title, search->text, finding->snippet))
        status = look_in_messages(db, pattern, search->text, finding, out_found, err);
    if (status == CS_OK && *out_found)
        status = read_host(db, finding, err);
    return status;
}

/* ---- all of them ---- */

struct scan {
    const struct cs_search *search;
    const char *pattern; /* NULL: every session */
    struct cs_findings findings;
    int64_t last; /* id of the session examined last */
    bool full;    /* enough, or no more time */
};

/* Examine the sessions of a page; those that are found are moved out of it. */
static enum cs_status scan_page(struct cs_db *db, struct scan *scan, struct cs_session_list *page,
                                struct cs_err *err)
{
    enum cs_status status = CS_OK;
    size_t i;

    for (i = 0; i < page->count && status == CS_OK && !scan->full; i++) {
        struct cs_finding finding = {.session = page->items[i]}; /* borrowed until it is found */
        bool found = false;

        scan->last = finding.session.id;
        status = examine(db, scan->search, scan->pattern, &finding, &found, err);
        if (status == CS_OK && found) {
            scan->findings.items[scan->findings.count++] = finding;
            page->items[i] = (struct cs_session){0};
        }
        scan->full =
            scan->findings.count == scan->search->limit || cs_mono_ms() >= scan->search->deadline;
    }
    return status;
}

static enum cs_status scan_all(struct cs_db *db, struct scan *scan, struct cs_err *err)
{
    struct cs_session_filter filter = {.live = scan->search->archived ? 0 : 1,
                                       .before_id = scan->search->before_id,
                                       .limit = PAGE};
    enum cs_status status = CS_OK;

    do {
        struct cs_session_list page;

        status = cs_session_list(db, &filter, &page, err);
        if (status != CS_OK)
            return status;
        filter.before_id = page.next_before_id;
        status = scan_page(db, scan, &page, err);
        cs_session_list_fini(&page);
    } while (status == CS_OK && !scan->full && filter.before_id != 0);
    scan->findings.next_before_id = scan->full ? scan->last : 0;
    return status;
}

enum cs_status cs_search(struct cs_db *db, const struct cs_search *search,
                         struct cs_findings *out_findings, struct cs_err *err)
{
    bool all = search->text == NULL || search->text[0] == '\0';
    struct scan scan = {.search = search};
    struct cs_buf pattern;
    enum cs_status status = CS_OK;

    if (!all && strlen(search->text) > TEXT_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_query", "The text may have %d bytes", TEXT_MAX);
    scan.findings.items = calloc(search->limit, sizeof *scan.findings.items);
    if (scan.findings.items == NULL)
        return cs_err_nomem(err);
    cs_buf_init(&pattern, PATTERN_MAX);
    if (!all)
        status = make_pattern(search->text, &pattern, err);
    scan.pattern = pattern.data;
    if (status == CS_OK)
        status = scan_all(db, &scan, err);
    cs_buf_fini(&pattern);
    if (status == CS_OK)
        *out_findings = scan.findings;
    else
        cs_findings_fini(&scan.findings);
    return status;
}
