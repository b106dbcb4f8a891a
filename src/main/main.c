/* main: the command line. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cs/base/buf.h"
#include "cs/base/log.h"
#include "verbs.h"

static int verb_version(const struct cs_verb_input *input);
static int verb_help(const struct cs_verb_input *input);

static const struct verb {
    const char *name;
    int (*run)(const struct cs_verb_input *input);
    bool settings; /* needs the settings; the others work whatever they are */
    bool operand;
    const char *usage, *help;
} verbs[] = {
    {"serve", cs_verb_serve, true, false, "serve [SETTINGS]",
     "serve until SIGTERM; SIGHUP reloads"},
    {"doctor", cs_verb_doctor, true, false, "doctor [SETTINGS]",
     "check Codex, credentials, folders, port, clock and Redis; exit 1 names the mend"},
    {"token", cs_verb_token, true, false, "token [SETTINGS]",
     "print the bearer token for clients of other users or hosts"},
    {"sync", cs_verb_sync, true, false, "sync [SETTINGS]",
     "let the running daemon exchange everything with Redis now, and say how it stands"},
    {"backup", cs_verb_backup, true, true, "backup FILE [SETTINGS]",
     "write a consistent copy of the database, also while a daemon serves it"},
    {"mcp", cs_verb_mcp, true, false, "mcp [SETTINGS]",
     "MCP on stdin and stdout, for editors; starts the daemon when none runs"},
    {"version", verb_version, false, false, "version", "print the version"},
    {"help", verb_help, false, false, "help", "print this"},
};
#define VERBS (sizeof verbs / sizeof verbs[0])

int cs_verb_fail(const struct cs_err *err)
{
    fprintf(stderr, "codex-sessiond: %s\n", err->msg);
    return 1;
}

static int verb_version(const struct cs_verb_input *input)
{
    (void)input;
    puts("codex-sessiond " CS_VERSION);
    return 0;
}

static int verb_help(const struct cs_verb_input *input)
{
    struct cs_buf settings;
    size_t i;

    (void)input;
    puts("codex-sessiond: durable, portable sessions for the Codex CLI\n\nusage:");
    for (i = 0; i < VERBS; i++)
        printf("  codex-sessiond %-24s %s\n", verbs[i].usage, verbs[i].help);
    puts("\nsettings (flag, environment, key in config.json):");
    cs_buf_init(&settings, 65536);
    cs_config_help(&settings);
    fputs(settings.data != NULL ? settings.data : "", stdout);
    cs_buf_fini(&settings);
    return 0;
}

static const struct verb *find_verb(const char *name)
{
    size_t i;

    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        name = "help";
    if (strcmp(name, "--version") == 0)
        name = "version";
    for (i = 0; i < VERBS; i++)
        if (strcmp(verbs[i].name, name) == 0)
            return &verbs[i];
    return NULL;
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
    struct cs_verb_input input = {NULL, NULL, 0, NULL};
    struct cs_config config;
    struct cs_err err = {0};
    int status;

    if (!verb->settings)
        return verb->run(&input);
    if (verb->operand && (argc < 1 || argv[0][0] == '-')) {
        fprintf(stderr, "usage: codex-sessiond %s\n", verb->usage);
        return 2;
    }
    if (verb->operand) {
        input.operand = argv[0];
        argc--, argv++;
    }
    input.argc = argc;
    input.argv = argv;
    if (cs_config_load(&config, argc, argv, environ, &err) != CS_OK) {
        cs_verb_fail(&err);
        return 2;
    }
    input.config = &config;
    status = verb->run(&input);
    cs_config_fini(&config);
    return status;
}

int main(int argc, char **argv)
{
    const struct verb *verb = argc > 1 ? find_verb(argv[1]) : NULL;

    if (verb == NULL) {
        if (argc > 1)
            fprintf(stderr, "codex-sessiond: no such command: %s\n", argv[1]);
        fprintf(stderr, "usage: codex-sessiond serve | doctor | token | sync | backup FILE | mcp | "
                        "version | help\n");
        return 2;
    }
    return run_verb(verb, argc - 2, argv + 2);
}
