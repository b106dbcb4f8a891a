/* engine_time: how long an app-server takes for a turn when nothing stands between: the floor of
 * our own overhead.
 *
 *   engine_time CODEX TURNS
 *
 * Starts CODEX app-server, begins a thread and runs TURNS turns one after the other. Prints
 * {"p50_us":…,"p99_us":…}, each from writing turn/start to reading turn/completed.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char line[1 << 16];

static int64_t now_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/** Read lines until one contains @mark; it stays in `line`. */
static void await(FILE *from, const char *mark)
{
    do {
        if (fgets(line, sizeof line, from) == NULL) {
            (void)fprintf(stderr, "engine_time: the engine ended before %s\n", mark);
            exit(1);
        }
    } while (strstr(line, mark) == NULL);
}

static void start(const char *codex, FILE **out_to, FILE **out_from)
{
    int in[2], out[2];
    if (pipe(in) != 0 || pipe(out) != 0) {
        exit(1);
    }
    pid_t pid = fork();
    if (pid == 0) {
        (void)dup2(in[0], STDIN_FILENO);
        (void)dup2(out[1], STDOUT_FILENO);
        (void)close(in[1]);
        (void)close(out[0]);
        (void)execl(codex, codex, "app-server", (char *)NULL);
        _exit(127);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    *out_to = fdopen(in[1], "w");
    *out_from = fdopen(out[0], "r");
    if (pid < 0 || *out_to == NULL || *out_from == NULL) {
        exit(1);
    }
}

int main(int argc, char *argv[])
{
    size_t turns = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    uint32_t *times = calloc(turns + 1, sizeof *times);
    FILE *to = NULL, *from = NULL;
    if (turns == 0 || times == NULL) {
        (void)fprintf(stderr, "usage: engine_time CODEX TURNS\n");
        return 2;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    start(argv[1], &to, &from);
    (void)fputs("{\"id\":1,\"method\":\"initialize\",\"params\":{}}\n{\"method\":\"initialized\"}\n"
                "{\"id\":2,\"method\":\"thread/start\",\"params\":{\"cwd\":\"/\"}}\n",
                to);
    (void)fflush(to);
    await(from, "\"thread\":{\"id\":\"");
    char thread[64] = "";
    (void)snprintf(thread, sizeof thread, "%.36s", strstr(line, "\"thread\":{\"id\":\"") + 16);
    for (size_t i = 0; i < turns; i++) {
        int64_t began = now_us();
        (void)fprintf(
            to,
            "{\"id\":%zu,\"method\":\"turn/start\",\"params\":{\"threadId\":\"%s\",\"input\":"
            "[{\"type\":\"text\",\"text\":\"How long does it take?\"}]}}\n",
            i + 3, thread);
        (void)fflush(to);
        await(from, "\"turn/completed\"");
        times[i] = (uint32_t)(now_us() - began);
    }
    (void)fclose(to);
    (void)wait(NULL);
    qsort(times, turns, sizeof *times, compare);
    (void)printf("{\"p50_us\":%" PRIu32 ",\"p99_us\":%" PRIu32 "}\n", times[turns / 2],
                 times[turns * 99 / 100]);
    return 0;
}
