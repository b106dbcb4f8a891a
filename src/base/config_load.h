/* base/config_load: a load of the settings under way, from the strongest source to the weakest.
 *
 * Layer: base, private. config.c drives it; config_load.c has flags and environment, config_file.c
 * the file and what depends on the account. One thread.
 */
#ifndef CS_BASE_CONFIG_LOAD_H
#define CS_BASE_CONFIG_LOAD_H

#include "setting.h"

/** Sources, the weakest first. */
enum cs_origin { CS_FROM_DEFAULT, CS_FROM_FILE, CS_FROM_ENV, CS_FROM_FLAG };

/** Where a value came from, for messages. Borrows the name. */
struct cs_place {
    enum cs_origin origin;
    const char *name;
    size_t len;
};

/** A setting that has its place is not set again by a weaker source, but every value is checked. */
struct cs_load {
    struct cs_config config; /* what is loaded so far; to be freed by whoever began the load */
    struct cs_place places[CS_SETTINGS];
    char *const *envp;
    const char *file; /* borrowed from flags or environment, or NULL */
};

/** Take what the source says. Each returns CS_INVALID, "invalid_config", for a value that cannot
 * be. */
CS_MUST_USE enum cs_status cs_load_flags(struct cs_load *load, int argc, char *const argv[],
                                         struct cs_err *err);
CS_MUST_USE enum cs_status cs_load_environment(struct cs_load *load, struct cs_err *err);
/** Of the account only what nothing else has set: user, folders. */
CS_MUST_USE enum cs_status cs_load_file_and_account(struct cs_load *load, struct cs_err *err);

/** Check @value and store a copy of it, unless a stronger source has set it. */
CS_MUST_USE enum cs_status cs_load_accept(struct cs_load *load, size_t index,
                                          const struct cs_place *place,
                                          struct cs_setting_value value, struct cs_err *err);
/** The error "SETTING @why (where it came from)". */
enum cs_status cs_load_refuse(const struct cs_setting *setting, const struct cs_place *place,
                              const char *why, struct cs_err *err);
/** The value of the variable @name; NULL: it is not set. */
const char *cs_load_env(char *const envp[], const char *name);
/** Put a copy of @text into an unset @member. */
CS_MUST_USE enum cs_status cs_load_fill(char **member, const char *text, struct cs_err *err);

#endif
