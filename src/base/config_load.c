#include "config_load.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/json.h"

/* Foreign environment names, the strongest first; each is weaker than the setting's own name. */
static const struct {
    const char *name;
    size_t setting;
} aliases[] = {
    {"PORT", CS_AT_port},
    {"OPENAI_API_KEY", CS_AT_openai_api_key},
    {"UPSTASH_REDIS_URL", CS_AT_redis_url},
    {"REDIS_URL", CS_AT_redis_url},
    {"UPSTASH_REDIS_REST_URL", CS_AT_redis_url},
    {"UPSTASH_REDIS_TOKEN", CS_AT_redis_token},
    {"UPSTASH_REDIS_REST_TOKEN", CS_AT_redis_token},
};

/* --- one value ----------------------------------------------------------------------------- */

enum cs_status cs_load_refuse(const struct cs_setting *setting, const struct cs_place *place,
                              const char *why, struct cs_err *err)
{
    static const char *const origins[] = {[CS_FROM_DEFAULT] = "default",
                                          [CS_FROM_FILE] = "file ",
                                          [CS_FROM_ENV] = "environment ",
                                          [CS_FROM_FLAG] = "flag --"};
    char key[CS_SETTING_NAME];
    cs_setting_key(setting, key);
    return cs_err_set(err, CS_INVALID, "invalid_config", "%s %s (%s%.*s)", key, why,
                      origins[place->origin], (int)place->len, place->len > 0 ? place->name : "");
}

static enum cs_status check_text(const struct cs_setting *setting, const struct cs_place *place,
                                 const char *text, struct cs_err *err)
{
    char why[200];
    size_t len = strlen(text);
    if (!cs_utf8_valid(text, len))
        return cs_load_refuse(setting, place, "is not valid UTF-8", err);
    if (len < (size_t)setting->min || len > (size_t)setting->max) {
        (void)snprintf(why, sizeof why, "has %zu bytes, but may have %" PRId64 " to %" PRId64, len,
                       setting->min, setting->max);
        return cs_load_refuse(setting, place, why, err);
    }
    const char *const *words = cs_setting_words(setting);
    if (!words || cs_setting_rank(words, text) >= 0)
        return CS_OK;
    size_t used = (size_t)snprintf(why, sizeof why, "is \"%s\", but may be", text);
    for (int i = 0; words[i] && used < sizeof why; i++)
        used +=
            (size_t)snprintf(why + used, sizeof why - used, "%s %s", i > 0 ? "," : "", words[i]);
    return cs_load_refuse(setting, place, why, err);
}

enum cs_status cs_load_accept(struct cs_load *load, size_t index, const struct cs_place *place,
                              struct cs_setting_value value, struct cs_err *err)
{
    const struct cs_setting *setting = &cs_settings[index];
    struct cs_place *held = &load->places[index];
    if (setting->kind == CS_SETTING_STR) {
        enum cs_status status = check_text(setting, place, value.text, err);
        if (status != CS_OK)
            return status;
    } else if (value.number < setting->min || value.number > setting->max) {
        char why[120];
        (void)snprintf(why, sizeof why, "is %" PRId64 ", but may be %" PRId64 " to %" PRId64,
                       value.number, setting->min, setting->max);
        return cs_load_refuse(setting, place, why, err);
    }
    /* Of two equal flags the later one counts. */
    if (held->origin != CS_FROM_DEFAULT &&
        !(held->origin == CS_FROM_FLAG && place->origin == CS_FROM_FLAG))
        return CS_OK;
    if (setting->kind == CS_SETTING_STR) {
        char *copy = strdup(value.text);
        if (!copy)
            return cs_err_nomem(err);
        char **text = cs_setting_text(&load->config, setting);
        free(*text);
        *text = copy;
    } else {
        cs_setting_put(&load->config, setting, value.number);
    }
    *held = *place;
    return CS_OK;
}

static bool parse_bool(const char *text, int64_t *out_number)
{
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    bool no = strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
    if (yes || no)
        *out_number = yes;
    return yes || no;
}

static bool parse_int(const char *text, int64_t *out_number)
{
    const char *digits = text + (*text == '-');
    if (!isdigit((unsigned char)*digits))
        return false;
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno != 0 || *end != '\0')
        return false;
    *out_number = number;
    return true;
}

/* A value given as text: by flag or environment. */
static enum cs_status accept_text(struct cs_load *load, size_t index, const struct cs_place *place,
                                  const char *text, struct cs_err *err)
{
    struct cs_setting_value value = {.text = text};
    switch (cs_settings[index].kind) {
    case CS_SETTING_STR:
        break;
    case CS_SETTING_INT:
        if (!parse_int(text, &value.number))
            return cs_load_refuse(&cs_settings[index], place, "is not a whole number", err);
        break;
    case CS_SETTING_BOOL:
        if (!parse_bool(text, &value.number))
            return cs_load_refuse(&cs_settings[index], place, "is neither true nor false", err);
        break;
    }
    return cs_load_accept(load, index, place, value, err);
}

enum cs_status cs_load_fill(char **member, const char *text, struct cs_err *err)
{
    if (*member)
        return CS_OK;
    *member = strdup(text);
    return *member ? CS_OK : cs_err_nomem(err);
}

/* --- flags --------------------------------------------------------------------------------- */

static enum cs_status bad_flag(const char *name, size_t len, const char *why, struct cs_err *err)
{
    int shown = len < CS_SETTING_NAME ? (int)len : CS_SETTING_NAME;
    return cs_err_set(err, CS_INVALID, "invalid_config", "%s (flag --%.*s)", why, shown, name);
}

static enum cs_status no_such_flag(const char *name, size_t len, struct cs_err *err)
{
    for (size_t i = 0; i < CS_SETTINGS; i++) {
        if (!cs_settings[i].secret || strlen(cs_settings[i].flag) != len ||
            memcmp(cs_settings[i].flag, name, len) != 0)
            continue;
        const struct cs_place place = {CS_FROM_FLAG, cs_settings[i].flag, len};
        return cs_load_refuse(
            &cs_settings[i], &place,
            "is a secret: give it by environment or file, as everybody can read flags", err);
    }
    return bad_flag(name, len, "unknown setting", err);
}

static size_t find_flag(const char *name, size_t len)
{
    size_t i = 0;
    while (i < CS_SETTINGS && (cs_settings[i].secret || strlen(cs_settings[i].flag) != len ||
                               memcmp(cs_settings[i].flag, name, len) != 0))
        i++;
    return i;
}

/* Take the flag at argv[*index] and its value; *index moves to the last argument taken. */
static enum cs_status take_flag(struct cs_load *load, int argc, char *const argv[], int *index,
                                struct cs_err *err)
{
    const char *name = argv[*index] + 2;
    size_t len = strcspn(name, "=");
    const char *text = name[len] == '=' ? name + len + 1 : NULL;
    bool config = len == strlen("config") && memcmp(name, "config", len) == 0;
    size_t setting = find_flag(name, len);
    if (!config && setting == CS_SETTINGS)
        return no_such_flag(name, len, err);

    const char *next = *index + 1 < argc ? argv[*index + 1] : NULL;
    int64_t ignored;
    if (!text && !config && cs_settings[setting].kind == CS_SETTING_BOOL) {
        bool given = next && parse_bool(next, &ignored);
        *index += given;
        text = given ? next : "true";
    } else if (!text) {
        if (!next)
            return bad_flag(name, len, "a value is missing", err);
        (*index)++;
        text = next;
    }
    if (!config)
        return accept_text(load, setting, &(struct cs_place){CS_FROM_FLAG, name, len}, text, err);
    load->file = text;
    return CS_OK;
}

enum cs_status cs_load_flags(struct cs_load *load, int argc, char *const argv[], struct cs_err *err)
{
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0 || argv[i][2] == '\0')
            return cs_err_set(err, CS_INVALID, "invalid_config",
                              "argument %d is not a flag: flags begin with --", i + 1);
        enum cs_status status = take_flag(load, argc, argv, &i, err);
        if (status != CS_OK)
            return status;
    }
    return CS_OK;
}

/* --- environment --------------------------------------------------------------------------- */

const char *cs_load_env(char *const envp[], const char *name)
{
    size_t len = strlen(name);
    for (; *envp; envp++)
        if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=')
            return *envp + len + 1;
    return NULL;
}

static size_t find_env(const char *entry, size_t len)
{
    char name[CS_SETTING_NAME];
    size_t i = 0;
    for (; i < CS_SETTINGS; i++) {
        cs_setting_env(&cs_settings[i], name);
        if (strlen(name) == len && memcmp(name, entry, len) == 0)
            break;
    }
    return i;
}

/* Whether @entry is a name of ours that is no setting. */
static bool reserved(const char *entry, size_t len)
{
    static const char *const names[] = {CS_SETTING_ENV "CONFIG", CS_SETTING_ENV "INSTANCE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == len && memcmp(names[i], entry, len) == 0)
            return true;
    return false;
}

enum cs_status cs_load_environment(struct cs_load *load, struct cs_err *err)
{
    for (char *const *at = load->envp; *at; at++) {
        size_t len = strcspn(*at, "=");
        if (strncmp(*at, CS_SETTING_ENV, strlen(CS_SETTING_ENV)) != 0 || reserved(*at, len))
            continue;
        size_t setting = find_env(*at, len);
        if (setting == CS_SETTINGS || (*at)[len] == '\0')
            return cs_err_set(err, CS_INVALID, "invalid_config",
                              "unknown setting (environment %.*s)",
                              len < CS_SETTING_NAME ? (int)len : CS_SETTING_NAME, *at);
        enum cs_status status = accept_text(
            load, setting, &(struct cs_place){CS_FROM_ENV, *at, len}, *at + len + 1, err);
        if (status != CS_OK)
            return status;
    }
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        const struct cs_place place = {CS_FROM_ENV, aliases[i].name, strlen(aliases[i].name)};
        const char *text = cs_load_env(load->envp, aliases[i].name);
        if (!text || *text == '\0' || load->places[aliases[i].setting].origin != CS_FROM_DEFAULT)
            continue;
        enum cs_status status = accept_text(load, aliases[i].setting, &place, text, err);
        if (status != CS_OK)
            return status;
    }
    return CS_OK;
}
