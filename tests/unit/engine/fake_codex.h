/* A stand-in for the Codex CLI: a shell script in a folder of the test. */
#ifndef FAKE_CODEX_H
#define FAKE_CODEX_H

#include <ftw.h>
#include <sys/stat.h>

#include "children.h"

#define HELP_0_169                                                                                 \
    "Codex CLI\n\nUsage: codex [OPTIONS] [PROMPT]\n\nCommands:\n"                                  \
    "  exec            Run Codex non-interactively [aliases: e]\n"                                 \
    "  mcp             Manage external MCP servers for Codex\n"                                    \
    "  app-server      [experimental] Run the app server\n"                                        \
    "  apply           Apply the diff; mcp-server and others\n"                                    \
    "                  mcp-server is gone\n\n"                                                     \
    "Options:\n  mcp-server  not in the list\n"
#define HELP_0_153 "Commands:\n  exec  x\n  mcp  x\n  mcp-server  x\n  app-server  x\n\nOptions:\n"
#define HELP_0_58  "Commands:\n  exec  x\n  mcp  x\n  mcp-server  x\n  app-server  x\n\n"
#define HELP_0_36  "Commands:\n  exec  x\n  mcp  x\n  login  x\n\n"

/** A new folder; write_file() and remove_folder() serve it. */
static inline void make_folder(char out[64])
{
    strcpy(out, "/tmp/engine-test-XXXXXX"); /* NOLINT: fits */
    assert_non_null(mkdtemp(out));
}

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static inline void remove_folder(const char *folder)
{
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/** Write @text to @folder/@name, making the folders between. */
static inline void write_file(const char *folder, const char *name, const char *text)
{
    char path[512];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(path, 0700), 0);
}

/** A script @folder/codex that answers --version and --help, and else runs @body. */
static inline void write_codex(const char *folder, const char *version, const char *help,
                               const char *body)
{
    char script[8192];

    snprintf(script, sizeof script,
             "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'codex-cli %s'; exit; fi\n"
             "if [ \"$1\" = --help ]; then cat <<'END'\n%sEND\nexit; fi\n%s\n",
             version, help, body);
    write_file(folder, "codex", script);
}

#endif
