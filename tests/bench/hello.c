/* hello: the least that civetweb can do, the measure of every HTTP figure: one fixed answer in one
 * write, with the server settings of src/api/http.c.
 *
 *   hello THREADS [BODY BYTES]
 *
 * Prints the port; ends when stdin does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <civetweb.h>

static char *answer;
static size_t answer_len;

static int begin_request(struct mg_connection *connection)
{
    return mg_write(connection, answer, answer_len) > 0 ? 200 : 500;
}

int main(int argc, char *argv[])
{
    const char *threads = argc > 1 ? argv[1] : "64";
    size_t body = argc > 2 ? strtoul(argv[2], NULL, 10) : 13;
    answer = calloc(1, body + 256);
    if (answer == NULL) {
        return 1;
    }
    int head = snprintf(
        answer, 256,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body);
    memset(answer + head, 'x', body);
    answer_len = (size_t)head + body;
    const char *options[] = {"listening_ports",
                             "127.0.0.1:0",
                             "num_threads",
                             threads,
                             "enable_keep_alive",
                             "yes",
                             "keep_alive_timeout_ms",
                             "5000",
                             "request_timeout_ms",
                             "10000",
                             "tcp_nodelay",
                             "1",
                             "connection_queue",
                             "4096",
                             "listen_backlog",
                             "4096",
                             "decode_url",
                             "no",
                             "enable_directory_listing",
                             "no",
                             "enable_auth_domain_check",
                             "no",
                             "access_control_allow_origin",
                             "",
                             "access_control_allow_methods",
                             "",
                             "access_control_allow_headers",
                             "",
                             NULL};
    struct mg_callbacks callbacks = {.begin_request = begin_request};
    (void)mg_init_library(0);
    struct mg_context *server = mg_start(&callbacks, NULL, options);
    struct mg_server_port port;
    if (server == NULL || mg_get_server_ports(server, 1, &port) != 1) {
        (void)fprintf(stderr, "hello: civetweb did not start\n");
        return 1;
    }
    (void)printf("%d\n", port.port);
    (void)fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    return 0; /* mg_stop() would wait for idle connections */
}
