/* core/request: what a caller may ask for. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cs/base/json.h"
#include "priv.h"

#define PROMPT_MAX_CHARS 1048576 /* Codex refuses longer input */
#define LABEL_MAX        128     /* bytes of userId and model */
#define TITLE_MAX        512
#define TTL_MAX_SECONDS  31536000

static const char *const sandboxes[] = {"read-only", "workspace-write", "danger-full-access"};

/* 0, 1, 2 by growing power; -1 for an unknown word. */
static int sandbox_rank(const char *sandbox)
{
    int i;

    for (i = 0; i < 3; i++)
        if (strcmp(sandbox, sandboxes[i]) == 0)
            return i;
    return -1;
}

enum cs_status cs_request_sandbox(const struct cs_config *config, const char *sandbox,
                                  struct cs_err *err)
{
    int rank = sandbox_rank(sandbox);

    if (rank < 0)
        return cs_err_set(err, CS_INVALID, "invalid_sandbox",
                          "sandbox must be read-only, workspace-write or danger-full-access");
    if (rank > sandbox_rank(config->sandbox_ceiling))
        return cs_err_set(err, CS_DENIED, "sandbox_above_ceiling",
                          "sandbox %s is above the ceiling of this daemon, %s", sandbox,
                          config->sandbox_ceiling);
    return CS_OK;
}

/* Whether @path is @dir or lies in it. Both are resolved. */
static bool lies_in(const char *path, const char *dir, size_t dir_len)
{
    while (dir_len > 1 && dir[dir_len - 1] == '/')
        dir_len--;
    if (strncmp(path, dir, dir_len) != 0)
        return false;
    return path[dir_len] == '\0' || path[dir_len] == '/' || (dir_len == 1 && dir[0] == '/');
}

static bool lies_in_resolved(const char *path, const char *dir)
{
    char *resolved = realpath(dir, NULL);
    bool in = resolved != NULL && lies_in(path, resolved, strlen(resolved));

    free(resolved);
    return in;
}

/* Whether @path has one of the @count names among its components. */
static bool has_component(const char *path, const char *const *names, size_t count)
{
    for (size_t len; *path != '\0'; path += len) {
        path += strspn(path, "/");
        len = strcspn(path, "/");
        for (size_t i = 0; i < count; i++)
            if (len == strlen(names[i]) && strncmp(path, names[i], len) == 0)
                return true;
    }
    return false;
}

bool cs_request_inside(const char *cwd, const char *path)
{
    static const char *const never[] = {"..", ".git", ".codex", ".agents"};
    char *folder, *real = NULL;
    struct stat st;
    bool inside = false;

    if (path[0] != '/' || has_component(path, never, sizeof never / sizeof never[0]))
        return false;
    folder = strdup(path);
    /* what is there of it; a link to nowhere would be followed, so it counts as outside */
    while (folder != NULL && (real = realpath(folder, NULL)) == NULL && lstat(folder, &st) != 0 &&
           strrchr(folder, '/') != folder)
        *strrchr(folder, '/') = '\0';
    if (real != NULL)
        inside = lies_in_resolved(real, cwd) &&
                 !has_component(real, never, sizeof never / sizeof never[0]);
    free(real);
    free(folder);
    return inside;
}

/* Whether @path lies in one of the colon-separated folders of @list. */
static bool allowed(const char *path, const char *list)
{
    char *copy = strdup(list), *rest = copy, *dir;
    bool in = false;

    while (copy != NULL && !in && (dir = strsep(&rest, ":")) != NULL)
        in = dir[0] == '/' && lies_in_resolved(path, dir);
    free(copy);
    return in;
}

enum cs_status cs_request_cwd(const struct cs_config *config, const char *asked, char **out_path,
                              struct cs_err *err)
{
    const char *path = asked != NULL ? asked : config->cwd;
    char *resolved;
    struct stat st;
    enum cs_status rc = CS_OK;

    if (path == NULL || path[0] != '/' || strlen(path) >= PATH_MAX)
        return cs_err_set(err, CS_INVALID, "invalid_cwd", "cwd must be an absolute path");
    resolved = realpath(path, NULL);
    if (resolved == NULL || stat(resolved, &st) != 0 || !S_ISDIR(st.st_mode))
        rc = cs_err_set(err, CS_INVALID, "invalid_cwd", "cwd is not an existing folder");
    else if (strcmp(resolved, "/") == 0 || lies_in_resolved(resolved, config->data_dir))
        rc = cs_err_set(err, CS_DENIED, "cwd_denied",
                        "cwd may be neither the root folder nor the daemon's data folder");
    else if (config->cwd_allow != NULL && !allowed(resolved, config->cwd_allow))
        rc = cs_err_set(err, CS_DENIED, "cwd_denied", "cwd lies in none of the allowed folders");
    if (rc != CS_OK) {
        free(resolved);
        return rc;
    }
    *out_path = resolved;
    return CS_OK;
}

/* At most @max bytes of printable text; NULL is fine. */
static enum cs_status check_label(const char *name, const char *code, const char *text, size_t max,
                                  struct cs_err *err)
{
    const unsigned char *p;

    if (text == NULL)
        return CS_OK;
    if (text[0] == '\0' || strlen(text) > max)
        return cs_err_set(err, CS_INVALID, code, "%s must have 1 to %zu bytes", name, max);
    for (p = (const unsigned char *)text; *p != '\0'; p++)
        if (*p < 0x20 || *p == 0x7f)
            return cs_err_set(err, CS_INVALID, code, "%s must not hold control characters", name);
    return CS_OK;
}

static enum cs_status check_prompt(const struct cs_turn_request *request, struct cs_err *err)
{
    size_t i, chars = 0;
    bool blank = true;

    for (i = 0; i < request->prompt_len; i++) {
        unsigned char c = (unsigned char)request->prompt[i];

        chars += (c & 0xc0) != 0x80;
        blank = blank && (c == ' ' || (c >= '\t' && c <= '\r'));
    }
    if (request->prompt == NULL || blank)
        return cs_err_set(err, CS_INVALID, "prompt_required", "Prompt is required");
    for (i = 0; i < request->context_len; i++)
        chars += ((unsigned char)request->context[i] & 0xc0) != 0x80;
    if (chars > PROMPT_MAX_CHARS)
        return cs_err_set(err, CS_TOO_LARGE, "prompt_too_large",
                          "Prompt and context may have %d characters together", PROMPT_MAX_CHARS);
    if (!cs_utf8_valid(request->prompt, request->prompt_len) ||
        (request->context != NULL && !cs_utf8_valid(request->context, request->context_len)))
        return cs_err_set(err, CS_INVALID, "invalid_prompt", "Prompt must be UTF-8 without NUL");
    return CS_OK;
}

static enum cs_status check_numbers(const struct cs_config *config,
                                    const struct cs_turn_request *request, struct cs_err *err)
{
    if (request->timeout_ms != 0 &&
        (request->timeout_ms < 1000 || request->timeout_ms > config->turn_timeout_max_ms))
        return cs_err_set(err, CS_INVALID, "invalid_timeout", "timeoutMs must be 1000 to %lld",
                          (long long)config->turn_timeout_max_ms);
    if (request->ttl_seconds < -1 || request->ttl_seconds > TTL_MAX_SECONDS)
        return cs_err_set(err, CS_INVALID, "invalid_ttl", "ttlSeconds must be 0 to %d",
                          TTL_MAX_SECONDS);
    return CS_OK;
}

static enum cs_status check_approval(const char *word, struct cs_err *err)
{
    if (word != NULL && strcmp(word, "never") != 0 && strcmp(word, "on-request") != 0)
        return cs_err_set(err, CS_INVALID, "invalid_approval_policy",
                          "approvalPolicy must be never or on-request");
    return CS_OK;
}

static enum cs_status check_engine(struct cs_core *core, const char *word, struct cs_err *err)
{
    struct cs_engine_info info;
    enum cs_engine_kind kind;
    enum cs_status rc;

    if (word == NULL)
        return CS_OK;
    rc = cs_engine_kind_parse(word, &kind, err);
    if (rc != CS_OK || kind == CS_ENGINE_AUTO)
        return rc;
    cs_engine_info(core->engine, &info);
    if (info.usable && (info.kinds & (1u << kind)) == 0)
        return cs_err_set(err, CS_INVALID, "engine_unavailable",
                          "Codex %s does not offer the engine %s", info.version, word);
    return CS_OK;
}

enum cs_status cs_request_check(struct cs_core *core, const struct cs_turn_request *request,
                                struct cs_err *err)
{
    const struct cs_config *config = cs_core_config(core);
    enum cs_status rc = check_prompt(request, err);

    if (rc == CS_OK && request->continued &&
        (request->identifier == NULL || request->identifier[0] == '\0'))
        rc = cs_err_set(err, CS_INVALID, "identifier_required",
                        "Either conversationId or sessionId is required");
    if (rc == CS_OK && request->sandbox != NULL)
        rc = cs_request_sandbox(config, request->sandbox, err);
    if (rc == CS_OK)
        rc = check_label("userId", "invalid_user", request->user, LABEL_MAX, err);
    if (rc == CS_OK)
        rc = check_label("model", "invalid_model", request->model, LABEL_MAX, err);
    if (rc == CS_OK && request->title != NULL && request->title[0] != '\0')
        rc = check_label("title", "invalid_title", request->title, TITLE_MAX, err);
    if (rc == CS_OK)
        rc = check_label("Idempotency-Key", "invalid_idempotency_key", request->idempotency_key,
                         255, err);
    if (rc == CS_OK)
        rc = check_numbers(config, request, err);
    if (rc == CS_OK)
        rc = check_approval(request->approval, err);
    if (rc == CS_OK)
        rc = check_engine(core, request->engine, err);
    return rc;
}
