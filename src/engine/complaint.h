/* engine/complaint: what a child writes to stderr: safe to show, and line by line in the debug log.
 *
 * Layer: engine, private.
 */
#ifndef CS_ENGINE_COMPLAINT_H
#define CS_ENGINE_COMPLAINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** Bytes of a line that are logged. */
#define CS_COMPLAINT_LINE 1000
/** Lines of a child that are logged per second. */
#define CS_COMPLAINT_RATE 50

/** One child's; zeroed at first. Its reader thread's. */
struct cs_complaint {
    char line[CS_COMPLAINT_LINE + 1]; /* that has begun */
    size_t len;
    bool cut;         /* it is longer than that */
    int64_t since;    /* mono ms: when the second began that is counted */
    int logged, left; /* lines in it; and not logged in it */
};

/** Make text[0, len) safe to show, in place: no escape sequences, no control characters but
 * newlines and tabs, valid UTF-8, no blanks at its end. Writes a NUL, so there must be room for it.
 * Returns the length. */
size_t cs_complaint_clean(char *text, size_t len);

/** Log the lines in data[0, len), which the child @pid wrote by @now (mono ms). Only at log level
 * debug. */
void cs_complaint_take(struct cs_complaint *complaint, pid_t pid, const char *data, size_t len,
                       int64_t now);
/** The child is gone: log what it wrote without a newline, and how much was left out. */
void cs_complaint_end(struct cs_complaint *complaint, pid_t pid);

#endif
