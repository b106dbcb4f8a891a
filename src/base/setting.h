/* base/setting: one setting as a value: its row of the table, its names, where it lies in a
 * struct cs_config.
 *
 * Layer: base, private to the files of base/config. No state: any thread.
 */
#ifndef CS_BASE_SETTING_H
#define CS_BASE_SETTING_H

#include "cs/base/config.h"

#define CS_SETTING_NAME 64 /* no setting's name is longer, with its NUL */
#define CS_SETTING_ENV  "CODEX_SESSIOND_"

enum cs_setting_kind { CS_SETTING_STR, CS_SETTING_INT, CS_SETTING_BOOL };

struct cs_setting {
    const char *field; /* snake_case */
    const char *flag;
    const char *help;
    size_t offset;    /* in struct cs_config */
    const char *text; /* default of a STR */
    int64_t number;   /* default of an INT or BOOL */
    int64_t min;
    int64_t max;
    enum cs_setting_kind kind;
    bool secret;
    bool reloadable;
};

/** An index into the table by field name, and how many there are. */
enum {
#define X(kind, field, flag, def, min, max, secret, reload, help) CS_AT_##field,
    CS_CONFIG_TABLE(X)
#undef X
        CS_SETTINGS
};

extern const struct cs_setting cs_settings[CS_SETTINGS];

/** "data_dir" → "dataDir", its name in the file. */
void cs_setting_key(const struct cs_setting *setting, char out[CS_SETTING_NAME]);
/** "data-dir" → "CODEX_SESSIOND_DATA_DIR". */
void cs_setting_env(const struct cs_setting *setting, char out[CS_SETTING_NAME]);

/** The words that a STR may be, ended by NULL (sandboxes from the least to the most); NULL: any
 * text. */
const char *const *cs_setting_words(const struct cs_setting *setting);
/** The place of @word among @words; -1: it is none. */
int cs_setting_rank(const char *const *words, const char *word);

struct cs_setting_value {
    const char *text; /* of a STR; or NULL: unset */
    int64_t number;   /* of an INT or BOOL */
};

/** The value in @config, which lends the text. */
struct cs_setting_value cs_setting_get(const struct cs_config *config,
                                       const struct cs_setting *setting);
/** Where @config keeps its own copy of a STR. */
char **cs_setting_text(struct cs_config *config, const struct cs_setting *setting);
/** Put an INT or BOOL. */
void cs_setting_put(struct cs_config *config, const struct cs_setting *setting, int64_t number);

#endif
