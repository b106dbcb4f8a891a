/* base/config_file: settings from the file, and those that depend on the account. */
#include <pwd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cs/base/file.h"
#include "cs/base/json.h"
#include "cs/base/log.h"
#include "config_load.h"

#define FILE_MAX 65536

/* --- file ---------------------------------------------------------------------------------- */

struct walk {
    struct cs_load *load;
    struct cs_place place;
    bool has_secret;
    enum cs_status status;
    struct cs_err *err;
};

static size_t find_key(const char *key)
{
    char name[CS_SETTING_NAME];
    size_t i = 0;
    for (; i < CS_SETTINGS; i++) {
        cs_setting_key(&cs_settings[i], name);
        if (strcmp(name, key) == 0)
            break;
    }
    return i;
}

static bool take_member(const char *key, const struct cs_json *json, void *arg)
{
    static const enum cs_json_type types[] = {[CS_SETTING_STR] = CS_JSON_STRING,
                                              [CS_SETTING_INT] = CS_JSON_INT,
                                              [CS_SETTING_BOOL] = CS_JSON_BOOL};
    static const char *const wrong[] = {[CS_SETTING_STR] = "is not a string",
                                        [CS_SETTING_INT] = "is not a whole number",
                                        [CS_SETTING_BOOL] = "is neither true nor false"};
    struct walk *walk = arg;
    size_t index = find_key(key);
    if (index == CS_SETTINGS) {
        walk->status = cs_err_set(walk->err, CS_INVALID, "invalid_config",
                                  "unknown setting \"%.*s\" (file %s)", CS_SETTING_NAME, key,
                                  walk->place.name);
        return false;
    }
    const struct cs_setting *setting = &cs_settings[index];
    walk->has_secret |= setting->secret;
    if (cs_json_type(json) != types[setting->kind]) {
        walk->status = cs_load_refuse(setting, &walk->place, wrong[setting->kind], walk->err);
        return false;
    }
    struct cs_setting_value value = {.text = cs_json_string(json, NULL)};
    value.number =
        setting->kind == CS_SETTING_INT ? cs_json_int(json, 0) : cs_json_bool(json, false);
    walk->status = cs_load_accept(walk->load, index, &walk->place, value, walk->err);
    return walk->status == CS_OK;
}

static void warn_if_readable(const char *path)
{
    static atomic_flag warned = ATOMIC_FLAG_INIT;
    struct stat st;
    if (stat(path, &st) != 0 || (st.st_mode & 077) == 0 || atomic_flag_test_and_set(&warned))
        return;
    cs_log(CS_LOG_WARN, "config_file_readable", "path", path, "hint",
           "it holds a secret and others can read it: chmod 600", (char *)NULL);
}

static enum cs_status parse_file(struct cs_load *load, const struct cs_buf *text,
                                 struct cs_err *err)
{
    const char *path = load->config.file;
    struct cs_json *json = NULL;
    struct cs_err why = {0};
    enum cs_status status =
        cs_json_parse(text->data ? text->data : "", text->len, FILE_MAX, &json, &why);
    if (status == CS_INVALID)
        return cs_err_set(err, status, "invalid_config", "%.300s (file %.150s)", why.msg, path);
    if (status != CS_OK)
        return cs_err_set(err, status, why.code, "%s", why.msg);
    struct walk walk = {
        .load = load, .place = {CS_FROM_FILE, path, strlen(path)}, .status = CS_OK, .err = err};
    if (cs_json_type(json) == CS_JSON_OBJECT)
        (void)cs_json_each(json, take_member, &walk);
    else
        walk.status = cs_err_set(err, CS_INVALID, "invalid_config",
                                 "the settings are not a JSON object (file %s)", path);
    cs_json_free(json);
    if (walk.status == CS_OK && walk.has_secret)
        warn_if_readable(path);
    return walk.status;
}

/* Read config.file. A file that nobody named may be missing: then the member becomes NULL. */
static enum cs_status take_file(struct cs_load *load, bool optional, struct cs_err *err)
{
    struct cs_buf text;
    cs_buf_init(&text, FILE_MAX);
    struct cs_err why = {0};
    enum cs_status status = cs_file_read(load->config.file, &text, &why);
    if (status == CS_OK) {
        status = parse_file(load, &text, err);
    } else if (status == CS_NOT_FOUND && optional) {
        free(load->config.file);
        load->config.file = NULL;
        status = CS_OK;
    } else if (status == CS_NO_MEM) {
        status = cs_err_nomem(err);
    } else {
        status = cs_err_set(err, CS_INVALID, "invalid_config", "the file of settings: %s", why.msg);
    }
    cs_buf_fini(&text);
    return status;
}

/* --- what depends on the account ----------------------------------------------------------- */

/* The account's name and home; both may stay NULL. */
static enum cs_status look_up_account(char **out_name, char **out_home, struct cs_err *err)
{
    const size_t cap = 65536;
    char *space = malloc(cap);
    if (!space)
        return cs_err_nomem(err);
    enum cs_status status = CS_OK;
    struct passwd entry;
    struct passwd *found = NULL;
    if (getpwuid_r(geteuid(), &entry, space, cap, &found) == 0 && found) {
        char *name = strdup(found->pw_name);
        char *home = strdup(found->pw_dir);
        if (name && home) {
            *out_name = name;
            *out_home = home;
        } else {
            free(name);
            free(home);
            status = cs_err_nomem(err);
        }
    }
    free(space);
    return status;
}

/* $@variable/codex-sessiond/@name, else @home/@fallback/codex-sessiond/@name. A base folder that is
 * not absolute does not count, as the XDG specification says. */
static char *xdg_path(const char *variable, const char *home, const char *fallback,
                      const char *name)
{
    char *path = NULL;
    const char *tail = *name ? "/" : "";
    int len = variable && variable[0] == '/'
                  ? asprintf(&path, "%s/codex-sessiond%s%s", variable, tail, name)
                  : asprintf(&path, "%s/%s/codex-sessiond%s%s", home, fallback, tail, name);
    return len < 0 ? NULL : path;
}

static enum cs_status take_account(struct cs_load *load, const char *name, const char *home,
                                   struct cs_err *err)
{
    struct cs_config *config = &load->config;
    char number[24];
    (void)snprintf(number, sizeof number, "%lu", (unsigned long)geteuid());
    enum cs_status status = cs_load_fill(&config->user, name ? name : number, err);
    if (status == CS_OK)
        status = cs_load_fill(&config->cwd, home, err);
    if (status != CS_OK || config->data_dir)
        return status;
    config->data_dir = xdg_path(cs_load_env(load->envp, "XDG_DATA_HOME"), home, ".local/share", "");
    return config->data_dir ? CS_OK : cs_err_nomem(err);
}

enum cs_status cs_load_file_and_account(struct cs_load *load, struct cs_err *err)
{
    char *name = NULL;
    char *account_home = NULL;
    enum cs_status status = look_up_account(&name, &account_home, err);
    if (status != CS_OK)
        return status;
    const char *home = cs_load_env(load->envp, "HOME");
    if (!home || home[0] != '/')
        home = account_home ? account_home : "/";
    if (!load->file)
        load->file = cs_load_env(load->envp, CS_SETTING_ENV "CONFIG");
    load->config.file = load->file ? strdup(load->file)
                                   : xdg_path(cs_load_env(load->envp, "XDG_CONFIG_HOME"), home,
                                              ".config", "config.json");
    status = load->config.file ? take_file(load, !load->file, err) : cs_err_nomem(err);
    if (status == CS_OK)
        status = take_account(load, name, home, err);
    free(name);
    free(account_home);
    return status;
}
