/* engine/detect: which Codex is there, and what it offers. */
#include "priv.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cs/base/clock.h"

/* What each version has (seen on the wire): app-server speaks the protocol of app_server.c from
 * 0.80 on; `mcp-server` exists from 0.44 to 0.153, before that the server was `mcp`, a word that
 * later means something else; exec reports events in today's form from 0.44 on. Below 0.98 other
 * things differ, so we say to upgrade. */
enum { APP_SERVER_SINCE = 80, MCP_SERVER_SINCE = 44, EXEC_SINCE = 44, SUPPORTED_SINCE = 98 };

enum { DEADLINE_MS = 10000, OUTPUT_MAX = 128 * 1024 };

#if defined(__aarch64__)
#define PACKAGE "codex-linux-arm64"
#define TRIPLE  "aarch64-unknown-linux-musl"
#else
#define PACKAGE "codex-linux-x64"
#define TRIPLE  "x86_64-unknown-linux-musl"
#endif

/* ---- the native binary ---- */

static bool executable(const char *path)
{
    return access(path, X_OK) == 0;
}

/* The file that @name stands for: a path as it is, else the first in PATH. */
static bool find_file(const char *name, char *out, size_t cap)
{
    const char *path = getenv("PATH"); /* NOLINT(concurrency-mt-unsafe) */

    if (strchr(name, '/') != NULL)
        return (size_t)snprintf(out, cap, "%s", name) < cap;
    while (path != NULL && *path != '\0') {
        size_t len = strcspn(path, ":");

        if (len > 0 && (size_t)snprintf(out, cap, "%.*s/%s", (int)len, path, name) < cap &&
            executable(out))
            return true;
        path += len + (path[len] == ':');
    }
    return false;
}

static bool is_elf(const char *path)
{
    char magic[4] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool elf = fd >= 0 && read(fd, magic, sizeof magic) == (ssize_t)sizeof magic &&
               memcmp(magic, "\177ELF", sizeof magic) == 0;

    if (fd >= 0)
        close(fd);
    return elf;
}

/* The npm launcher is a node program that starts the native one: twice the memory, and a SIGKILL
 * would miss the child. Replace it in @path, where the layouts of npm and pnpm, old and new, put
 * the native binary; a script of another kind stays. */
static void skip_launcher(char *path, size_t cap)
{
    static const char *const layouts[] = {
        "../" PACKAGE "/vendor/" TRIPLE "/bin/codex",
        "node_modules/@openai/" PACKAGE "/vendor/" TRIPLE "/bin/codex",
        "../" PACKAGE "/vendor/" TRIPLE "/codex/codex",
        "node_modules/@openai/" PACKAGE "/vendor/" TRIPLE "/codex/codex",
        "vendor/" TRIPLE "/bin/codex",
        "vendor/" TRIPLE "/codex/codex",
    };
    static const char launcher[] = "/bin/codex.js";
    size_t len = strlen(path), tail = sizeof launcher - 1;
    char *native = NULL;

    if (len <= tail || strcmp(path + len - tail, launcher) != 0)
        return;
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts && native == NULL; i++) {
        char *candidate;

        if (asprintf(&candidate, "%.*s/%s", (int)(len - tail), path, layouts[i]) < 0)
            return;
        if (executable(candidate) && is_elf(candidate))
            native = realpath(candidate, NULL);
        free(candidate);
    }
    if (native != NULL && strlen(native) < cap)
        memcpy(path, native, strlen(native) + 1);
    free(native);
}

/* Fill @codex's path, or its `why`. */
static bool resolve(const char *name, struct cs_codex *codex)
{
    char *real = NULL;
    bool found = find_file(name, codex->path, sizeof codex->path);

    if (found)
        real = realpath(codex->path, NULL);
    if (real != NULL && strlen(real) < sizeof codex->path && executable(real)) {
        memcpy(codex->path, real, strlen(real) + 1);
        skip_launcher(codex->path, sizeof codex->path);
        free(real);
        return true;
    }
    if (strchr(name, '/') == NULL)
        snprintf(codex->why, sizeof codex->why,
                 "There is no %s in PATH. Install the Codex CLI with \"npm install -g "
                 "@openai/codex\", or name it with --codex PATH.",
                 name);
    else
        snprintf(codex->why, sizeof codex->why, "%.300s %s. Name the Codex CLI with --codex PATH.",
                 name, real != NULL ? "is not a program that we may run" : "does not exist");
    free(real);
    codex->path[0] = '\0';
    return false;
}

/* ---- asking it ---- */

struct answer {
    struct cs_buf out;
    int wait_status;
    char errors[256];
};

static void answer_line(void *arg, char *line, size_t len)
{
    struct answer *answer = arg;

    cs_buf_add(&answer->out, line, len);
    cs_buf_addc(&answer->out, '\n');
}

static void answer_exit(void *arg, int wait_status, bool line_too_long, const char *errors)
{
    struct answer *answer = arg;

    (void)line_too_long;
    answer->wait_status = wait_status;
    snprintf(answer->errors, sizeof answer->errors, "%s", errors);
}

/* Run Codex with one flag. False, and `why`, unless it answered in time. */
static bool ask(struct cs_spawner *spawner, struct cs_codex *codex, const char *flag,
                struct answer *answer)
{
    const char *argv[] = {codex->path, flag, NULL};
    struct cs_process_spec spec = {
        .argv = argv,
        .max_line = OUTPUT_MAX,
        .events = {.on_line = answer_line, .on_exit = answer_exit},
        .arg = answer,
    };
    struct cs_process *process = NULL;
    struct cs_err err = {0};
    char end[64];
    bool in_time;

    cs_buf_init(&answer->out, OUTPUT_MAX);
    if (cs_process_spawn(spawner, &spec, &process, &err) != CS_OK) {
        snprintf(codex->why, sizeof codex->why, "%.500s", err.msg);
        return false;
    }
    cs_process_close_stdin(process);
    in_time = cs_process_wait(process, cs_mono_ms() + DEADLINE_MS);
    if (!in_time)
        cs_process_end_by(process, 0);
    cs_process_free(process);
    if (in_time && answer->out.len > 0)
        return true;
    cs_process_describe(answer->wait_status, end, sizeof end);
    if (in_time)
        snprintf(codex->why, sizeof codex->why, "\"%.200s %s\" %s and printed nothing. %.200s",
                 codex->path, flag, end, answer->errors);
    else
        snprintf(codex->why, sizeof codex->why, "\"%.300s %s\" did not answer within %d s.",
                 codex->path, flag, DEADLINE_MS / 1000);
    return false;
}

/* ---- understanding its answers ---- */

/* The version in "codex-cli 0.169.0"; a version 1.x counts as newer than every 0.x. */
static bool parse_version(const char *text, char *out, size_t cap, long *out_minor)
{
    const char *word = text + strcspn(text, "0123456789");
    size_t len = strcspn(word, " \t\r\n");
    char *dot;
    long major = strtol(word, &dot, 10);

    if (len == 0 || len >= cap || *dot != '.')
        return false;
    memcpy(out, word, len);
    out[len] = '\0';
    *out_minor = major > 0 ? LONG_MAX : strtol(dot + 1, NULL, 10);
    return true;
}

/* Whether --help lists the subcommand: a line that starts with two spaces and the word. */
static bool has_command(const char *help, const char *word)
{
    size_t len = strlen(word);
    const char *line = strstr(help, "Commands:");

    if (line == NULL)
        return false;
    while ((line = strchr(line, '\n')) != NULL) {
        line++;
        if (*line == '\n' || *line == '\0')
            break; /* the list ends with an empty line */
        if (strncmp(line, "  ", 2) == 0 && strncmp(line + 2, word, len) == 0 &&
            strchr(" \r\n", line[2 + len]) != NULL)
            return true;
    }
    return false;
}

static void find_kinds(struct cs_codex *codex, const char *help, long minor)
{
    if (has_command(help, "app-server") && minor >= APP_SERVER_SINCE)
        codex->kinds |= 1U << CS_ENGINE_APP_SERVER;
    if (has_command(help, "mcp-server"))
        codex->mcp_subcommand = "mcp-server";
    else if (has_command(help, "mcp") && minor < MCP_SERVER_SINCE)
        codex->mcp_subcommand = "mcp";
    if (codex->mcp_subcommand != NULL)
        codex->kinds |= 1U << CS_ENGINE_MCP;
    if (has_command(help, "exec") && minor >= EXEC_SINCE)
        codex->kinds |= 1U << CS_ENGINE_EXEC;
}

static void choose(struct cs_codex *codex, enum cs_engine_kind wanted, long minor)
{
    static const char *const because[] = {
        [CS_ENGINE_APP_SERVER] = "one app-server process serves all conversations",
        [CS_ENGINE_MCP] = "this version has no app-server that we can use",
        [CS_ENGINE_EXEC] =
            "this version has neither an app-server nor an MCP server that we can use",
    };
    const char *upgrade =
        minor < SUPPORTED_SINCE
            ? " Versions before 0.98 are not supported: upgrade with \"npm install -g "
              "@openai/codex\"."
            : "";
    enum cs_engine_kind best = CS_ENGINE_APP_SERVER;

    while (best < CS_ENGINE_EXEC && (codex->kinds & 1U << best) == 0)
        best++;
    codex->best = wanted != CS_ENGINE_AUTO ? wanted : best;
    if (codex->kinds == 0)
        snprintf(codex->why, sizeof codex->why, "Codex %s offers no way that we can drive it.%s",
                 codex->version, upgrade);
    else if ((codex->kinds & 1U << codex->best) == 0)
        snprintf(codex->why, sizeof codex->why,
                 "The engine %s was asked for, but Codex %s does not have it. Use --engine auto, "
                 "which would take %s.%s",
                 cs_engine_kind_name(wanted), codex->version, cs_engine_kind_name(best), upgrade);
    else if (wanted != CS_ENGINE_AUTO)
        snprintf(codex->why, sizeof codex->why, "Codex %s: %s, as the setting engine asks for.%s",
                 codex->version, cs_engine_kind_name(wanted), upgrade);
    else
        snprintf(codex->why, sizeof codex->why, "Codex %s: %s, because %s.%s", codex->version,
                 cs_engine_kind_name(best), because[best], upgrade);
}

void cs_codex_detect(struct cs_spawner *spawner, const char *path_or_null,
                     enum cs_engine_kind wanted, struct cs_codex *out)
{
    struct answer answer = {0};
    long minor = 0;

    *out = (struct cs_codex){.best = CS_ENGINE_AUTO};
    if (!resolve(path_or_null != NULL ? path_or_null : "codex", out))
        return;
    if (ask(spawner, out, "--version", &answer)) {
        if (parse_version(answer.out.data, out->version, sizeof out->version, &minor)) {
            cs_buf_fini(&answer.out);
            if (ask(spawner, out, "--help", &answer)) {
                find_kinds(out, answer.out.data, minor);
                choose(out, wanted, minor);
            }
        } else {
            snprintf(out->why, sizeof out->why,
                     "\"%.300s --version\" did not print a version: this is not the Codex CLI.",
                     out->path);
        }
    }
    cs_buf_fini(&answer.out);
}
