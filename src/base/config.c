#include "cs/base/config.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "config_load.h"

/* --- loading ------------------------------------------------------------------------------- */

/* The stronger of two places, which is the one to blame. */
static const struct cs_place *blame(const struct cs_load *load, size_t a, size_t b)
{
    const struct cs_place *x = &load->places[a];
    const struct cs_place *y = &load->places[b];
    return x->origin >= y->origin ? x : y;
}

static enum cs_status check_together(const struct cs_load *load, struct cs_err *err)
{
    const struct cs_config *config = &load->config;
    const char *const *sandboxes = cs_setting_words(&cs_settings[CS_AT_sandbox]);
    if (config->turn_timeout_ms > config->turn_timeout_max_ms)
        return cs_load_refuse(&cs_settings[CS_AT_turn_timeout_ms],
                              blame(load, CS_AT_turn_timeout_ms, CS_AT_turn_timeout_max_ms),
                              "is above turnTimeoutMaxMs", err);
    if (cs_setting_rank(sandboxes, config->sandbox) >
        cs_setting_rank(sandboxes, config->sandbox_ceiling))
        return cs_load_refuse(&cs_settings[CS_AT_sandbox],
                              blame(load, CS_AT_sandbox, CS_AT_sandbox_ceiling),
                              "is above sandboxCeiling", err);
    return CS_OK;
}

static enum cs_status take_defaults(struct cs_load *load, struct cs_err *err)
{
    for (size_t i = 0; i < CS_SETTINGS; i++) {
        const struct cs_setting *setting = &cs_settings[i];
        if (setting->kind != CS_SETTING_STR) {
            if (load->places[i].origin == CS_FROM_DEFAULT)
                cs_setting_put(&load->config, setting, setting->number);
        } else if (setting->text) {
            enum cs_status status =
                cs_load_fill(cs_setting_text(&load->config, setting), setting->text, err);
            if (status != CS_OK)
                return status;
        }
    }
    return CS_OK;
}

enum cs_status cs_config_load(struct cs_config *config, int argc, char *const argv[],
                              char *const envp[], struct cs_err *err)
{
    struct cs_load load = {.envp = envp};
    enum cs_status status = cs_load_flags(&load, argc, argv, err);
    if (status == CS_OK)
        status = cs_load_environment(&load, err);
    if (status == CS_OK)
        status = cs_load_file_and_account(&load, err);
    if (status == CS_OK)
        status = take_defaults(&load, err);
    if (status == CS_OK)
        status = check_together(&load, err);
    if (status == CS_OK)
        *config = load.config;
    else
        cs_config_fini(&load.config);
    return status;
}

void cs_config_fini(struct cs_config *config)
{
    for (size_t i = 0; i < CS_SETTINGS; i++)
        if (cs_settings[i].kind == CS_SETTING_STR)
            free(*cs_setting_text(config, &cs_settings[i]));
    free(config->file);
    *config = (struct cs_config){0};
}

static bool same(const struct cs_config *a, const struct cs_config *b,
                 const struct cs_setting *setting)
{
    struct cs_setting_value x = cs_setting_get(a, setting);
    struct cs_setting_value y = cs_setting_get(b, setting);
    if (!x.text || !y.text)
        return x.text == y.text && x.number == y.number;
    return strcmp(x.text, y.text) == 0;
}

enum cs_status cs_config_reload(struct cs_config *config, const struct cs_config *from,
                                struct cs_buf *ignored, struct cs_err *err)
{
    enum cs_status status = CS_OK;
    char *copies[CS_SETTINGS] = {0};
    for (size_t i = 0; i < CS_SETTINGS && status == CS_OK; i++) {
        const char *text = cs_setting_get(from, &cs_settings[i]).text;
        if (!cs_settings[i].reloadable || !text)
            continue;
        copies[i] = strdup(text);
        if (!copies[i])
            status = cs_err_nomem(err);
    }
    for (size_t i = 0; i < CS_SETTINGS && status == CS_OK; i++) {
        char key[CS_SETTING_NAME];
        cs_setting_key(&cs_settings[i], key);
        if (!cs_settings[i].reloadable && !same(config, from, &cs_settings[i]))
            cs_buf_addf(ignored, "%s%s", ignored->len > 0 ? "," : "", key);
    }
    if (status == CS_OK)
        status = cs_buf_check(ignored, err);
    for (size_t i = 0; i < CS_SETTINGS && status == CS_OK; i++) {
        if (!cs_settings[i].reloadable)
            continue;
        if (cs_settings[i].kind == CS_SETTING_STR) {
            char **text = cs_setting_text(config, &cs_settings[i]);
            char *old = *text;
            *text = copies[i];
            copies[i] = old;
        } else {
            cs_setting_put(config, &cs_settings[i], cs_setting_get(from, &cs_settings[i]).number);
        }
    }
    for (size_t i = 0; i < CS_SETTINGS; i++)
        free(copies[i]);
    return status;
}

/* --- showing ------------------------------------------------------------------------------- */

static void add_range(struct cs_buf *out, const struct cs_setting *setting)
{
    const char *const *words = cs_setting_words(setting);
    if (words) {
        for (int i = 0; words[i]; i++)
            cs_buf_addf(out, "%s%s", i > 0 ? "|" : "", words[i]);
        return;
    }
    switch (setting->kind) {
    case CS_SETTING_STR:
        cs_buf_addf(out, "text of %" PRId64 " to %" PRId64 " bytes", setting->min, setting->max);
        break;
    case CS_SETTING_INT:
        cs_buf_addf(out, "%" PRId64 " to %" PRId64, setting->min, setting->max);
        break;
    case CS_SETTING_BOOL:
        cs_buf_adds(out, "true or false");
        break;
    }
}

static void add_default(struct cs_buf *out, const struct cs_setting *setting)
{
    switch (setting->kind) {
    case CS_SETTING_STR:
        cs_buf_adds(out, setting->text ? setting->text : "unset");
        break;
    case CS_SETTING_INT:
        cs_buf_addf(out, "%" PRId64, setting->number);
        break;
    case CS_SETTING_BOOL:
        cs_buf_adds(out, setting->number ? "true" : "false");
        break;
    }
}

void cs_config_help(struct cs_buf *out)
{
    static const char *const operands[] = {
        [CS_SETTING_STR] = " TEXT", [CS_SETTING_INT] = " NUMBER", [CS_SETTING_BOOL] = ""};
    cs_buf_adds(out, "  --config FILE\n      the file of settings (environment " CS_SETTING_ENV
                     "CONFIG)\n");
    for (size_t i = 0; i < CS_SETTINGS; i++) {
        const struct cs_setting *setting = &cs_settings[i];
        char env[CS_SETTING_NAME];
        char key[CS_SETTING_NAME];
        cs_setting_env(setting, env);
        cs_setting_key(setting, key);
        if (setting->secret)
            cs_buf_addf(out, "  %s\n      %s; a secret, so it has no flag\n", env, setting->help);
        else
            cs_buf_addf(out, "  --%s%s\n      %s\n", setting->flag, operands[setting->kind],
                        setting->help);
        cs_buf_addf(out, "      environment %s; file \"%s\"; ", env, key);
        add_range(out, setting);
        cs_buf_adds(out, "; default ");
        add_default(out, setting);
        cs_buf_addc(out, '\n');
    }
}
