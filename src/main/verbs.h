/* main/verbs: the command line's verbs.
 *
 * Layer: main. Each returns the exit status: 0 done, 1 failed (a sentence on stderr says why), 2
 * wrong usage.
 */
#ifndef CS_MAIN_VERBS_H
#define CS_MAIN_VERBS_H

#include "cs/base/config.h"

/** A verb's input: the settings, loaded from what followed the verb, and its operand. */
struct cs_verb_input {
    const struct cs_config *config;
    const char *operand; /* first word that is no flag, or NULL */
    int argc;            /* the flags, for reloading */
    char **argv;
};

int cs_verb_serve(const struct cs_verb_input *input);
int cs_verb_doctor(const struct cs_verb_input *input);
int cs_verb_token(const struct cs_verb_input *input);
int cs_verb_sync(const struct cs_verb_input *input);
int cs_verb_backup(const struct cs_verb_input *input);
int cs_verb_mcp(const struct cs_verb_input *input);

/** Print "codex-sessiond: <message>" on stderr and return 1. */
struct cs_err;
int cs_verb_fail(const struct cs_err *err);

#endif
