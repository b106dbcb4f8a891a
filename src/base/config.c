#include "cs/base/config.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
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

#define ENV_PREFIX "CODEX_SESSIOND_"
#define FILE_MAX   65536
#define NAME_CAP   64 /* no setting's name is longer */

enum kind { STR, INT, BOOL };

struct setting {
    const char *field; /* snake_case */
    const char *flag;
    const char *help;
    size_t offset;    /* in struct cs_config */
    const char *text; /* default of a STR */
    int64_t number;   /* default of an INT or BOOL */
    int64_t min;
    int64_t max;
    enum kind kind;
    bool secret;
    bool reloadable;
};

#define DEFAULT_STR(def)  .text = (def)
#define DEFAULT_INT(def)  .number = (def)
#define DEFAULT_BOOL(def) .number = (def)

static const struct setting settings[] = {
#define X(kind_, field_, flag_, def_, min_, max_, secret_, reload_, help_)                         \
    {.field = #field_,                                                                             \
     .flag = (flag_),                                                                              \
     .kind = (kind_),                                                                              \
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

#define SETTINGS (sizeof settings / sizeof *settings)

/* An index into the table by field name. */
enum {
#define X(kind, field, flag, def, min, max, secret, reload, help) AT_##field,
    CS_CONFIG_TABLE(X)
#undef X
};

/* Settings that take one of a few words; sandboxes from the least to the most. */
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

/* Foreign environment names, the strongest first; each is weaker than the setting's own name. */
static const struct {
    const char *name;
    size_t setting;
} aliases[] = {
    {"PORT", AT_port},
    {"OPENAI_API_KEY", AT_openai_api_key},
    {"UPSTASH_REDIS_URL", AT_redis_url},
    {"REDIS_URL", AT_redis_url},
    {"UPSTASH_REDIS_REST_URL", AT_redis_url},
    {"UPSTASH_REDIS_TOKEN", AT_redis_token},
    {"UPSTASH_REDIS_REST_TOKEN", AT_redis_token},
};

enum origin { DEFAULT, FROM_FILE, FROM_ENV, FROM_FLAG };

/* Where a value came from, for messages. Borrows the name. */
struct place {
    enum origin origin;
    const char *name;
    size_t len;
};

/* A load under way. Sources are read from the strongest to the weakest; a setting that has its
 * place is not set again by a weaker one, but every value is checked. */
struct load {
    struct cs_config config;
    struct place places[SETTINGS];
    char *const *envp;
    const char *file; /* borrowed from flags or environment, or NULL */
};

struct value {
    const char *text; /* of a STR */
    int64_t number;   /* of an INT or BOOL */
};

/* --- names and members --------------------------------------------------------------------- */

static char upper(char c)
{
    if (c >= 'a' && c <= 'z')
        c = (char)(c - 'a' + 'A');
    return c;
}

/* "data_dir" → "dataDir" */
static void file_key(const struct setting *setting, char out[NAME_CAP])
{
    size_t len = 0;
    bool hump = false;
    for (const char *from = setting->field; *from && len < NAME_CAP - 1; from++) {
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

/* "data-dir" → "CODEX_SESSIOND_DATA_DIR" */
static void env_name(const struct setting *setting, char out[NAME_CAP])
{
    size_t len = (size_t)snprintf(out, NAME_CAP, "%s%s", ENV_PREFIX, setting->flag);
    for (size_t i = strlen(ENV_PREFIX); i < len && i < NAME_CAP - 1; i++) {
        out[i] = upper(out[i]);
        if (out[i] == '-')
            out[i] = '_';
    }
}

static char **text_of(struct cs_config *config, const struct setting *setting)
{
    return (char **)(void *)((char *)config + setting->offset);
}

static struct value get(const struct cs_config *config, const struct setting *setting)
{
    const void *at = (const char *)config + setting->offset;
    switch (setting->kind) {
    case STR:
        return (struct value){.text = *(char *const *)at};
    case INT:
        return (struct value){.number = *(const int64_t *)at};
    case BOOL:
        break;
    }
    return (struct value){.number = *(const bool *)at};
}

static void set_number(struct cs_config *config, const struct setting *setting, int64_t number)
{
    void *at = (char *)config + setting->offset;
    if (setting->kind == INT)
        *(int64_t *)at = number;
    else
        *(bool *)at = number != 0;
}

static const char *const *words_of(const struct setting *setting)
{
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (strcmp(choices[i].field, setting->field) == 0)
            return choices[i].words;
    return NULL;
}

static int rank(const char *const *words, const char *word)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return i;
    return -1;
}

static const char *get_env(char *const envp[], const char *name)
{
    size_t len = strlen(name);
    for (; *envp; envp++)
        if (strncmp(*envp, name, len) == 0 && (*envp)[len] == '=')
            return *envp + len + 1;
    return NULL;
}

/* --- one value ----------------------------------------------------------------------------- */

static enum cs_status refuse(const struct setting *setting, const struct place *place,
                             const char *why, struct cs_err *err)
{
    static const char *const origins[] = {[DEFAULT] = "default",
                                          [FROM_FILE] = "file ",
                                          [FROM_ENV] = "environment ",
                                          [FROM_FLAG] = "flag --"};
    char key[NAME_CAP];
    file_key(setting, key);
    return cs_err_set(err, CS_INVALID, "invalid_config", "%s %s (%s%.*s)", key, why,
                      origins[place->origin], (int)place->len, place->len > 0 ? place->name : "");
}

static enum cs_status check_text(const struct setting *setting, const struct place *place,
                                 const char *text, struct cs_err *err)
{
    char why[200];
    size_t len = strlen(text);
    if (!cs_utf8_valid(text, len))
        return refuse(setting, place, "is not valid UTF-8", err);
    if (len < (size_t)setting->min || len > (size_t)setting->max) {
        (void)snprintf(why, sizeof why, "has %zu bytes, but may have %" PRId64 " to %" PRId64, len,
                       setting->min, setting->max);
        return refuse(setting, place, why, err);
    }
    const char *const *words = words_of(setting);
    if (!words || rank(words, text) >= 0)
        return CS_OK;
    size_t used = (size_t)snprintf(why, sizeof why, "is \"%s\", but may be", text);
    for (int i = 0; words[i] && used < sizeof why; i++)
        used +=
            (size_t)snprintf(why + used, sizeof why - used, "%s %s", i > 0 ? "," : "", words[i]);
    return refuse(setting, place, why, err);
}

/* Check @value and store it, unless a stronger source has set it. */
static enum cs_status accept_value(struct load *load, size_t index, const struct place *place,
                                   struct value value, struct cs_err *err)
{
    const struct setting *setting = &settings[index];
    struct place *held = &load->places[index];
    if (setting->kind == STR) {
        enum cs_status status = check_text(setting, place, value.text, err);
        if (status != CS_OK)
            return status;
    } else if (value.number < setting->min || value.number > setting->max) {
        char why[120];
        (void)snprintf(why, sizeof why, "is %" PRId64 ", but may be %" PRId64 " to %" PRId64,
                       value.number, setting->min, setting->max);
        return refuse(setting, place, why, err);
    }
    /* Of two equal flags the later one counts. */
    if (held->origin != DEFAULT && !(held->origin == FROM_FLAG && place->origin == FROM_FLAG))
        return CS_OK;
    if (setting->kind == STR) {
        char *copy = strdup(value.text);
        if (!copy)
            return cs_err_nomem(err);
        char **text = text_of(&load->config, setting);
        free(*text);
        *text = copy;
    } else {
        set_number(&load->config, setting, value.number);
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
static enum cs_status accept_text(struct load *load, size_t index, const struct place *place,
                                  const char *text, struct cs_err *err)
{
    struct value value = {.text = text};
    switch (settings[index].kind) {
    case STR:
        break;
    case INT:
        if (!parse_int(text, &value.number))
            return refuse(&settings[index], place, "is not a whole number", err);
        break;
    case BOOL:
        if (!parse_bool(text, &value.number))
            return refuse(&settings[index], place, "is neither true nor false", err);
        break;
    }
    return accept_value(load, index, place, value, err);
}

/* --- flags --------------------------------------------------------------------------------- */

static enum cs_status bad_flag(const char *name, size_t len, const char *why, struct cs_err *err)
{
    int shown = len < NAME_CAP ? (int)len : NAME_CAP;
    return cs_err_set(err, CS_INVALID, "invalid_config", "%s (flag --%.*s)", why, shown, name);
}

static enum cs_status no_such_flag(const char *name, size_t len, struct cs_err *err)
{
    for (size_t i = 0; i < SETTINGS; i++) {
        if (!settings[i].secret || strlen(settings[i].flag) != len ||
            memcmp(settings[i].flag, name, len) != 0)
            continue;
        const struct place place = {FROM_FLAG, settings[i].flag, len};
        return refuse(&settings[i], &place,
                      "is a secret: give it by environment or file, as everybody can read flags",
                      err);
    }
    return bad_flag(name, len, "unknown setting", err);
}

static size_t find_flag(const char *name, size_t len)
{
    size_t i = 0;
    while (i < SETTINGS && (settings[i].secret || strlen(settings[i].flag) != len ||
                            memcmp(settings[i].flag, name, len) != 0))
        i++;
    return i;
}

/* Take the flag at argv[*index] and its value; *index moves to the last argument taken. */
static enum cs_status take_flag(struct load *load, int argc, char *const argv[], int *index,
                                struct cs_err *err)
{
    const char *name = argv[*index] + 2;
    size_t len = strcspn(name, "=");
    const char *text = name[len] == '=' ? name + len + 1 : NULL;
    bool config = len == strlen("config") && memcmp(name, "config", len) == 0;
    size_t setting = find_flag(name, len);
    if (!config && setting == SETTINGS)
        return no_such_flag(name, len, err);

    const char *next = *index + 1 < argc ? argv[*index + 1] : NULL;
    int64_t ignored;
    if (!text && !config && settings[setting].kind == BOOL) {
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
        return accept_text(load, setting, &(struct place){FROM_FLAG, name, len}, text, err);
    load->file = text;
    return CS_OK;
}

static enum cs_status take_flags(struct load *load, int argc, char *const argv[],
                                 struct cs_err *err)
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

static size_t find_env(const char *entry, size_t len)
{
    char name[NAME_CAP];
    size_t i = 0;
    for (; i < SETTINGS; i++) {
        env_name(&settings[i], name);
        if (strlen(name) == len && memcmp(name, entry, len) == 0)
            break;
    }
    return i;
}

/* Whether @entry is a name of ours that is no setting. */
static bool reserved(const char *entry, size_t len)
{
    static const char *const names[] = {ENV_PREFIX "CONFIG", ENV_PREFIX "INSTANCE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == len && memcmp(names[i], entry, len) == 0)
            return true;
    return false;
}

static enum cs_status take_env(struct load *load, struct cs_err *err)
{
    for (char *const *at = load->envp; *at; at++) {
        size_t len = strcspn(*at, "=");
        if (strncmp(*at, ENV_PREFIX, strlen(ENV_PREFIX)) != 0 || reserved(*at, len))
            continue;
        size_t setting = find_env(*at, len);
        if (setting == SETTINGS || (*at)[len] == '\0')
            return cs_err_set(err, CS_INVALID, "invalid_config",
                              "unknown setting (environment %.*s)",
                              len < NAME_CAP ? (int)len : NAME_CAP, *at);
        enum cs_status status =
            accept_text(load, setting, &(struct place){FROM_ENV, *at, len}, *at + len + 1, err);
        if (status != CS_OK)
            return status;
    }
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        const struct place place = {FROM_ENV, aliases[i].name, strlen(aliases[i].name)};
        const char *text = get_env(load->envp, aliases[i].name);
        if (!text || *text == '\0' || load->places[aliases[i].setting].origin != DEFAULT)
            continue;
        enum cs_status status = accept_text(load, aliases[i].setting, &place, text, err);
        if (status != CS_OK)
            return status;
    }
    return CS_OK;
}

/* --- file ---------------------------------------------------------------------------------- */

struct walk {
    struct load *load;
    struct place place;
    bool has_secret;
    enum cs_status status;
    struct cs_err *err;
};

static size_t find_key(const char *key)
{
    char name[NAME_CAP];
    size_t i = 0;
    for (; i < SETTINGS; i++) {
        file_key(&settings[i], name);
        if (strcmp(name, key) == 0)
            break;
    }
    return i;
}

static bool take_member(const char *key, const struct cs_json *json, void *arg)
{
    static const enum cs_json_type types[] = {
        [STR] = CS_JSON_STRING, [INT] = CS_JSON_INT, [BOOL] = CS_JSON_BOOL};
    static const char *const wrong[] = {[STR] = "is not a string",
                                        [INT] = "is not a whole number",
                                        [BOOL] = "is neither true nor false"};
    struct walk *walk = arg;
    size_t index = find_key(key);
    if (index == SETTINGS) {
        walk->status =
            cs_err_set(walk->err, CS_INVALID, "invalid_config",
                       "unknown setting \"%.*s\" (file %s)", NAME_CAP, key, walk->place.name);
        return false;
    }
    const struct setting *setting = &settings[index];
    walk->has_secret |= setting->secret;
    if (cs_json_type(json) != types[setting->kind]) {
        walk->status = refuse(setting, &walk->place, wrong[setting->kind], walk->err);
        return false;
    }
    struct value value = {.text = cs_json_string(json, NULL)};
    value.number = setting->kind == INT ? cs_json_int(json, 0) : cs_json_bool(json, false);
    walk->status = accept_value(walk->load, index, &walk->place, value, walk->err);
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

static enum cs_status parse_file(struct load *load, const struct cs_buf *text, struct cs_err *err)
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
        .load = load, .place = {FROM_FILE, path, strlen(path)}, .status = CS_OK, .err = err};
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
static enum cs_status take_file(struct load *load, bool optional, struct cs_err *err)
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

static enum cs_status fill(char **member, const char *text, struct cs_err *err)
{
    if (*member)
        return CS_OK;
    *member = strdup(text);
    return *member ? CS_OK : cs_err_nomem(err);
}

static enum cs_status take_account(struct load *load, const char *name, const char *home,
                                   struct cs_err *err)
{
    struct cs_config *config = &load->config;
    char number[24];
    (void)snprintf(number, sizeof number, "%lu", (unsigned long)geteuid());
    enum cs_status status = fill(&config->user, name ? name : number, err);
    if (status == CS_OK)
        status = fill(&config->cwd, home, err);
    if (status != CS_OK || config->data_dir)
        return status;
    config->data_dir = xdg_path(get_env(load->envp, "XDG_DATA_HOME"), home, ".local/share", "");
    return config->data_dir ? CS_OK : cs_err_nomem(err);
}

static enum cs_status take_file_and_account(struct load *load, struct cs_err *err)
{
    char *name = NULL;
    char *account_home = NULL;
    enum cs_status status = look_up_account(&name, &account_home, err);
    if (status != CS_OK)
        return status;
    const char *home = get_env(load->envp, "HOME");
    if (!home || home[0] != '/')
        home = account_home ? account_home : "/";
    if (!load->file)
        load->file = get_env(load->envp, ENV_PREFIX "CONFIG");
    load->config.file = load->file ? strdup(load->file)
                                   : xdg_path(get_env(load->envp, "XDG_CONFIG_HOME"), home,
                                              ".config", "config.json");
    status = load->config.file ? take_file(load, !load->file, err) : cs_err_nomem(err);
    if (status == CS_OK)
        status = take_account(load, name, home, err);
    free(name);
    free(account_home);
    return status;
}

/* --- the whole ----------------------------------------------------------------------------- */

/* The stronger of two places, which is the one to blame. */
static const struct place *blame(const struct load *load, size_t a, size_t b)
{
    const struct place *x = &load->places[a];
    const struct place *y = &load->places[b];
    return x->origin >= y->origin ? x : y;
}

static enum cs_status check_together(const struct load *load, struct cs_err *err)
{
    const struct cs_config *config = &load->config;
    if (config->turn_timeout_ms > config->turn_timeout_max_ms)
        return refuse(&settings[AT_turn_timeout_ms],
                      blame(load, AT_turn_timeout_ms, AT_turn_timeout_max_ms),
                      "is above turnTimeoutMaxMs", err);
    if (rank(sandboxes, config->sandbox) > rank(sandboxes, config->sandbox_ceiling))
        return refuse(&settings[AT_sandbox], blame(load, AT_sandbox, AT_sandbox_ceiling),
                      "is above sandboxCeiling", err);
    return CS_OK;
}

static enum cs_status take_defaults(struct load *load, struct cs_err *err)
{
    for (size_t i = 0; i < SETTINGS; i++) {
        const struct setting *setting = &settings[i];
        if (setting->kind != STR) {
            if (load->places[i].origin == DEFAULT)
                set_number(&load->config, setting, setting->number);
        } else if (setting->text) {
            enum cs_status status = fill(text_of(&load->config, setting), setting->text, err);
            if (status != CS_OK)
                return status;
        }
    }
    return CS_OK;
}

enum cs_status cs_config_load(struct cs_config *config, int argc, char *const argv[],
                              char *const envp[], struct cs_err *err)
{
    struct load load = {.envp = envp};
    enum cs_status status = take_flags(&load, argc, argv, err);
    if (status == CS_OK)
        status = take_env(&load, err);
    if (status == CS_OK)
        status = take_file_and_account(&load, err);
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
    for (size_t i = 0; i < SETTINGS; i++)
        if (settings[i].kind == STR)
            free(*text_of(config, &settings[i]));
    free(config->file);
    *config = (struct cs_config){0};
}

static bool same(const struct cs_config *a, const struct cs_config *b,
                 const struct setting *setting)
{
    struct value x = get(a, setting);
    struct value y = get(b, setting);
    if (!x.text || !y.text)
        return x.text == y.text && x.number == y.number;
    return strcmp(x.text, y.text) == 0;
}

enum cs_status cs_config_reload(struct cs_config *config, const struct cs_config *from,
                                struct cs_buf *ignored, struct cs_err *err)
{
    enum cs_status status = CS_OK;
    char *copies[SETTINGS] = {0};
    for (size_t i = 0; i < SETTINGS && status == CS_OK; i++) {
        const char *text = get(from, &settings[i]).text;
        if (!settings[i].reloadable || !text)
            continue;
        copies[i] = strdup(text);
        if (!copies[i])
            status = cs_err_nomem(err);
    }
    for (size_t i = 0; i < SETTINGS && status == CS_OK; i++) {
        char key[NAME_CAP];
        file_key(&settings[i], key);
        if (!settings[i].reloadable && !same(config, from, &settings[i]))
            cs_buf_addf(ignored, "%s%s", ignored->len > 0 ? "," : "", key);
    }
    if (status == CS_OK)
        status = cs_buf_check(ignored, err);
    for (size_t i = 0; i < SETTINGS && status == CS_OK; i++) {
        if (!settings[i].reloadable)
            continue;
        if (settings[i].kind == STR) {
            char **text = text_of(config, &settings[i]);
            char *old = *text;
            *text = copies[i];
            copies[i] = old;
        } else {
            set_number(config, &settings[i], get(from, &settings[i]).number);
        }
    }
    for (size_t i = 0; i < SETTINGS; i++)
        free(copies[i]);
    return status;
}

/* --- showing ------------------------------------------------------------------------------- */

static void add_range(struct cs_buf *out, const struct setting *setting)
{
    const char *const *words = words_of(setting);
    if (words) {
        for (int i = 0; words[i]; i++)
            cs_buf_addf(out, "%s%s", i > 0 ? "|" : "", words[i]);
        return;
    }
    switch (setting->kind) {
    case STR:
        cs_buf_addf(out, "text of %" PRId64 " to %" PRId64 " bytes", setting->min, setting->max);
        break;
    case INT:
        cs_buf_addf(out, "%" PRId64 " to %" PRId64, setting->min, setting->max);
        break;
    case BOOL:
        cs_buf_adds(out, "true or false");
        break;
    }
}

static void add_default(struct cs_buf *out, const struct setting *setting)
{
    switch (setting->kind) {
    case STR:
        cs_buf_adds(out, setting->text ? setting->text : "unset");
        break;
    case INT:
        cs_buf_addf(out, "%" PRId64, setting->number);
        break;
    case BOOL:
        cs_buf_adds(out, setting->number ? "true" : "false");
        break;
    }
}

void cs_config_help(struct cs_buf *out)
{
    static const char *const operands[] = {[STR] = " TEXT", [INT] = " NUMBER", [BOOL] = ""};
    cs_buf_adds(out,
                "  --config FILE\n      the file of settings (environment " ENV_PREFIX "CONFIG)\n");
    for (size_t i = 0; i < SETTINGS; i++) {
        const struct setting *setting = &settings[i];
        char env[NAME_CAP];
        char key[NAME_CAP];
        env_name(setting, env);
        file_key(setting, key);
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

void cs_config_dump(const struct cs_config *config, struct cs_jsonw *out)
{
    for (size_t i = 0; i < SETTINGS; i++) {
        const struct setting *setting = &settings[i];
        struct value value = get(config, setting);
        char key[NAME_CAP];
        file_key(setting, key);
        if (setting->secret)
            cs_jsonw_bool(out, key, value.text != NULL);
        else if (setting->kind == STR)
            cs_jsonw_string(out, key, value.text);
        else if (setting->kind == INT)
            cs_jsonw_int(out, key, value.number);
        else
            cs_jsonw_bool(out, key, value.number != 0);
    }
}
