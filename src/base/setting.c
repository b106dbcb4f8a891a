#include "setting.h"

#include <stdio.h>
#include <string.h>

#define DEFAULT_STR(def)  .text = (def)
#define DEFAULT_INT(def)  .number = (def)
#define DEFAULT_BOOL(def) .number = (def)

const struct cs_setting cs_settings[CS_SETTINGS] = {
#define X(kind_, field_, flag_, def_, min_, max_, secret_, reload_, help_)                         \
    {.field = #field_,                                                                             \
     .flag = (flag_),                                                                              \
     .kind = CS_SETTING_##kind_,                                                                   \
     .offset = offsetof(struct cs_config, field_),                                                 \
     DEFAULT_##kind_(def_),                                                                        \
     .min = (min_),                                                                                \
     .max = (max_),                                                                                \
     .secret = (secret_),                                                                          \
     .reloadable = (reload_),                                                                      \
     .help = (help_)},
    CS_CONFIG_TABLE(X)
#undef X
};

/* Settings that take one of a few words. */
static const char *const sandboxes[] = {"read-only", "workspace-write", "danger-full-access", NULL};
static const char *const engines[] = {"auto", "app-server", "mcp", "exec", NULL};
static const char *const levels[] = {"debug", "info", "warn", "error", NULL};

static const struct {
    const char *field;
    const char *const *words;
} choices[] = {
    {"engine", engines},
    {"log_level", levels},
    {"sandbox", sandboxes},
    {"sandbox_ceiling", sandboxes},
};

static char upper(char c)
{
    if (c >= 'a' && c <= 'z')
        c = (char)(c - 'a' + 'A');
    return c;
}

void cs_setting_key(const struct cs_setting *setting, char out[CS_SETTING_NAME])
{
    size_t len = 0;
    bool hump = false;
    for (const char *from = setting->field; *from && len < CS_SETTING_NAME - 1; from++) {
        if (*from != '_') {
            out[len] = *from;
            if (hump)
                out[len] = upper(*from);
            len++;
        }
        hump = *from == '_';
    }
    out[len] = '\0';
}

void cs_setting_env(const struct cs_setting *setting, char out[CS_SETTING_NAME])
{
    size_t len = (size_t)snprintf(out, CS_SETTING_NAME, "%s%s", CS_SETTING_ENV, setting->flag);
    for (size_t i = strlen(CS_SETTING_ENV); i < len && i < CS_SETTING_NAME - 1; i++) {
        out[i] = upper(out[i]);
        if (out[i] == '-')
            out[i] = '_';
    }
}

char **cs_setting_text(struct cs_config *config, const struct cs_setting *setting)
{
    return (char **)(void *)((char *)config + setting->offset);
}

struct cs_setting_value cs_setting_get(const struct cs_config *config,
                                       const struct cs_setting *setting)
{
    const void *at = (const char *)config + setting->offset;
    switch (setting->kind) {
    case CS_SETTING_STR:
        return (struct cs_setting_value){.text = *(char *const *)at};
    case CS_SETTING_INT:
        return (struct cs_setting_value){.number = *(const int64_t *)at};
    case CS_SETTING_BOOL:
        break;
    }
    return (struct cs_setting_value){.number = *(const bool *)at};
}

void cs_setting_put(struct cs_config *config, const struct cs_setting *setting, int64_t number)
{
    void *at = (char *)config + setting->offset;
    if (setting->kind == CS_SETTING_INT)
        *(int64_t *)at = number;
    else
        *(bool *)at = number != 0;
}

const char *const *cs_setting_words(const struct cs_setting *setting)
{
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (strcmp(choices[i].field, setting->field) == 0)
            return choices[i].words;
    return NULL;
}

int cs_setting_rank(const char *const *words, const char *word)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return i;
    return -1;
}
