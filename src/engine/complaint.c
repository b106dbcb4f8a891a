#include "complaint.h"

#include <string.h>

#include "cs/base/json.h"
#include "cs/base/log.h"

/* Length of the escape sequence that starts at text[0] == ESC. */
static size_t escape_length(const char *text, size_t len)
{
    size_t at = 2;

    if (len < 2)
        return len;
    if (text[1] == '[') { /* ends with a letter or one of @[\]^_`{|}~ */
        while (at < len && !(text[at] >= 0x40 && text[at] <= 0x7e))
            at++;
        return at < len ? at + 1 : len;
    }
    if (text[1] == ']') { /* ends with BEL or ESC \ */
        while (at < len && text[at] != '\a' && text[at] != 0x1b)
            at++;
        return at < len && text[at] == 0x1b ? at + 2 : at + 1;
    }
    return 2;
}

/* Bytes of the valid UTF-8 character at text[0] that may stay, or 0. */
static size_t plain_length(const char *text, size_t len)
{
    unsigned char c = (unsigned char)*text;
    size_t need = c < 0x80 ? 1 : c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;

    if (c < 0x80)
        return c == '\n' || c == '\t' || (c >= 0x20 && c != 0x7f) ? 1 : 0;
    if (need > len || !cs_utf8_valid(text, need))
        return 0;
    return c == 0xc2 && (unsigned char)text[1] < 0xa0 ? 0 : need; /* C1 controls */
}

size_t cs_complaint_clean(char *text, size_t len)
{
    size_t from = 0, to = 0;

    while (from < len) {
        size_t rest = len - from, keep;

        if (text[from] == 0x1b) {
            keep = escape_length(text + from, rest);
            from += keep < rest ? keep : rest;
            continue;
        }
        keep = plain_length(text + from, rest);
        memmove(text + to, text + from, keep);
        to += keep;
        from += keep > 0 ? keep : 1;
    }
    while (to > 0 && (text[to - 1] == '\n' || text[to - 1] == ' '))
        to--;
    text[to] = '\0';
    return to;
}

static void tell_left(struct cs_complaint *complaint, pid_t pid)
{
    if (complaint->left > 0)
        cs_log(CS_LOG_DEBUG, "codex_stderr_left_out", "pid", CS_NUM(pid), "lines",
               CS_NUM(complaint->left), NULL);
    complaint->left = 0;
}

/* Log the line that has begun, unless it is empty or too many were. */
static void end_line(struct cs_complaint *complaint, pid_t pid, int64_t now)
{
    size_t len = cs_complaint_clean(complaint->line, complaint->len);

    if (now - complaint->since >= 1000) {
        tell_left(complaint, pid);
        complaint->since = now;
        complaint->logged = 0;
    }
    if (len > 0 && complaint->logged >= CS_COMPLAINT_RATE) {
        complaint->left++;
    } else if (len > 0) {
        complaint->logged++;
        cs_log(CS_LOG_DEBUG, complaint->cut ? "codex_stderr_cut" : "codex_stderr", "pid",
               CS_NUM(pid), "line", complaint->line, NULL);
    }
    complaint->len = 0;
    complaint->cut = false;
}

void cs_complaint_take(struct cs_complaint *complaint, pid_t pid, const char *data, size_t len,
                       int64_t now)
{
    if (!cs_log_enabled(CS_LOG_DEBUG)) {
        complaint->len = 0;
        return;
    }
    for (size_t i = 0; i < len; i++) {
        if (data[i] == '\n')
            end_line(complaint, pid, now);
        else if (complaint->len < CS_COMPLAINT_LINE)
            complaint->line[complaint->len++] = data[i];
        else
            complaint->cut = true;
    }
}

void cs_complaint_end(struct cs_complaint *complaint, pid_t pid)
{
    if (complaint->len > 0)
        end_line(complaint, pid, complaint->since);
    tell_left(complaint, pid);
}
