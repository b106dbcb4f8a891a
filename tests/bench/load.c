/* load: an HTTP client that keeps C connections busy, one request at a time on each.
 *
 *   load PORT CONNECTIONS SECONDS REQUESTS [--max N] [--each N] [--warmup SECONDS] [--bodies FILE]
 *
 * REQUESTS is a file of lines "METHOD PATH [JSON BODY]". Connection i sends lines i, i+C, i+2C, …
 * and begins anew at the file's end. It stops after SECONDS, or when N requests have been answered.
 * Prints one line of JSON: requests, seconds, rate, p50_us, p99_us, max_us, bytes, errors (answers
 * that are not 2xx, and broken connections), first_error. --bodies writes each answer's body as a
 * line. One thread, epoll, no pipelining.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 8192
#define READ_MAX 262144

struct request {
    char *bytes; /* head and body */
    size_t len;
};

struct connection {
    int fd;
    size_t next;      /* index of its next request */
    uint64_t started; /* requests */
    size_t sent;      /* bytes of the request that are out */
    int64_t began_us;
    bool busy; /* a request is under way */
    bool in_body;
    size_t body_left;
    int status;
    bool closes; /* the server said so */
    char head[HEAD_MAX];
    size_t head_len;
    char *body; /* with --bodies */
    size_t body_len;
};

static struct {
    int port, connections;
    double seconds, warmup;
    uint64_t max, each; /* 0: no limit */
    struct request *requests;
    size_t request_count;
    FILE *bodies;
    int epoll;
    uint32_t *times_us;
    size_t time_count, time_cap;
    uint64_t answered, started, bytes, errors;
    int busy;  /* connections with a request under way */
    bool over; /* no more requests */
    char first_error[300];
    bool warm;
} self;

static _Noreturn void die(const char *what)
{
    (void)fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *must(void *memory)
{
    if (memory == NULL) {
        die("memory");
    }
    return memory;
}

static int64_t now_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void failed(const char *what, const char *detail, size_t len)
{
    if (self.errors++ == 0) {
        (void)snprintf(self.first_error, sizeof self.first_error, "%s %.*s", what,
                       (int)(len < 200 ? len : 200), detail);
        for (char *c = self.first_error; *c != '\0'; c++) {
            *c =
                *c == '"' || *c == '\\' || (unsigned char)*c < ' ' ? '\'' : *c; /* goes into JSON */
        }
    }
}

/* ---- requests ---- */

static void read_requests(const char *path)
{
    FILE *file = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0;
    if (file == NULL) {
        die(path);
    }
    for (ssize_t len; (len = getline(&line, &cap, file)) > 0;) {
        line[len - 1] = line[len - 1] == '\n' ? '\0' : line[len - 1];
        char *path_at = strchr(line, ' ');
        if (path_at == NULL) {
            die("a line without a path");
        }
        *path_at++ = '\0';
        char *body = strchr(path_at, ' ');
        if (body != NULL) {
            *body++ = '\0';
        }
        size_t body_len = body == NULL ? 0 : strlen(body), room = strlen(path_at) + body_len + 256;
        struct request request = {.bytes = must(malloc(room))};
        int head =
            body == NULL
                ? snprintf(request.bytes, room, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
                           line, path_at, self.port)
                : snprintf(
                      request.bytes, room,
                      "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
                      "Content-Length: %zu\r\n\r\n%s",
                      line, path_at, self.port, body_len, body);
        request.len = (size_t)head;
        self.requests = must(realloc(self.requests, (self.request_count + 1) * sizeof request));
        self.requests[self.request_count++] = request;
    }
    free(line);
    (void)fclose(file);
    if (self.request_count == 0) {
        die("no requests");
    }
}

/* ---- connections ---- */

static void watch(struct connection *connection, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data = {.ptr = connection}};
    if (epoll_ctl(self.epoll, operation, connection->fd, &event) != 0) {
        die("epoll_ctl");
    }
}

static void dial(struct connection *connection)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)self.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0 || connect(connection->fd, (struct sockaddr *)&to, sizeof to) != 0 ||
        setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) != 0 ||
        fcntl(connection->fd, F_SETFL, O_NONBLOCK) != 0) {
        die("connect");
    }
    watch(connection, EPOLL_CTL_ADD, EPOLLIN);
}

/** Send what is left of the request; the rest follows when the socket takes it. */
static void send_more(struct connection *connection)
{
    const struct request *request = &self.requests[connection->next];
    while (connection->sent < request->len) {
        ssize_t n = send(connection->fd, request->bytes + connection->sent,
                         request->len - connection->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                watch(connection, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            }
            return; /* any other error shows when reading */
        }
        connection->sent += (size_t)n;
    }
    watch(connection, EPOLL_CTL_MOD, EPOLLIN);
}

static void begin(struct connection *connection)
{
    if (self.over || (self.max > 0 && self.started >= self.max) ||
        (self.each > 0 && connection->started >= self.each)) {
        return;
    }
    self.started++;
    self.busy++;
    connection->busy = true;
    connection->started++;
    connection->sent = connection->head_len = connection->body_len = 0;
    connection->in_body = false;
    connection->began_us = now_us();
    const struct request *request = &self.requests[connection->next];
    ssize_t n = send(connection->fd, request->bytes, request->len, MSG_NOSIGNAL);
    connection->sent = n > 0 ? (size_t)n : 0;
    if (connection->sent < request->len) {
        send_more(connection);
    }
}

static void redial(struct connection *connection)
{
    (void)close(connection->fd);
    dial(connection);
}

static void finish(struct connection *connection)
{
    int64_t took = now_us() - connection->began_us;
    self.busy--;
    connection->busy = false;
    self.answered += self.over ? 0 : 1;
    if (self.warm && !self.over) {
        if (self.time_count == self.time_cap) {
            self.time_cap = self.time_cap * 2 + 65536;
            self.times_us = must(realloc(self.times_us, self.time_cap * sizeof *self.times_us));
        }
        self.times_us[self.time_count++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
    }
    if (connection->status < 200 || connection->status > 299) {
        char code[16];
        (void)snprintf(code, sizeof code, "%d", connection->status);
        failed(code, connection->body != NULL ? connection->body : "", connection->body_len);
    } else if (self.bodies != NULL) {
        (void)fwrite(connection->body, 1, connection->body_len, self.bodies);
        (void)fputc('\n', self.bodies);
    }
    connection->next = (connection->next + (size_t)self.connections) % self.request_count;
    if (connection->closes) {
        redial(connection);
    }
    begin(connection);
}

/** Take the head's status, length and connection option. False if it is not what a server may say.
 */
static bool parse_head(struct connection *connection)
{
    long length = -1;
    connection->closes = false;
    connection->status = 0;
    if (strncmp(connection->head, "HTTP/1.", 7) == 0) {
        connection->status = (int)strtol(connection->head + 9, NULL, 10);
    }
    for (char *line = strstr(connection->head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, "Content-Length:", 15) == 0) {
            length = strtol(line + 15, NULL, 10);
        } else if (strncasecmp(line, "Connection: close", 17) == 0) {
            connection->closes = true;
        }
    }
    connection->body_left = length > 0 ? (size_t)length : 0;
    return connection->status != 0 && length >= 0;
}

static void keep_body(struct connection *connection, const char *data, size_t len)
{
    if (self.bodies == NULL && connection->status < 300) {
        return;
    }
    connection->body = must(realloc(connection->body, connection->body_len + len + 1));
    memcpy(connection->body + connection->body_len, data, len);
    connection->body_len += len;
    connection->body[connection->body_len] = '\0';
}

/** Take @len bytes that came. False: the connection is of no more use. */
static bool take(struct connection *connection, const char *data, size_t len)
{
    if (!connection->in_body) {
        size_t before = connection->head_len, room = HEAD_MAX - 1 - before,
               part = len < room ? len : room;
        memcpy(connection->head + before, data, part);
        connection->head[before + part] = '\0';
        connection->head_len += part;
        char *end = strstr(connection->head, "\r\n\r\n");
        if (end == NULL) {
            return part == len;
        }
        size_t head_len = (size_t)(end - connection->head) + 4;
        end[2] = '\0';
        if (!parse_head(connection)) {
            return false;
        }
        connection->in_body = true;
        data += head_len - before;
        len -= head_len - before;
    }
    if (len > connection->body_left) {
        return false;
    }
    keep_body(connection, data, len);
    connection->body_left -= len;
    if (connection->body_left == 0) {
        finish(connection);
    }
    return true;
}

static void on_event(struct connection *connection, uint32_t events, char *scratch)
{
    if ((events & EPOLLOUT) != 0) {
        send_more(connection);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) {
        return;
    }
    ssize_t n = recv(connection->fd, scratch, READ_MAX, 0);
    if (n < 0 && errno == EAGAIN) {
        return;
    }
    self.bytes += n > 0 ? (uint64_t)n : 0;
    if (n <= 0 && !connection->busy) { /* idle for too long */
        (void)close(connection->fd);
        return;
    }
    if (n <= 0 || !take(connection, scratch, (size_t)n)) {
        if (n != 0 || connection->head_len > 0) {
            failed("broken connection", connection->head, connection->head_len);
        } else {
            failed("closed before the answer", "", 0);
        }
        self.busy--;
        connection->busy = false;
        redial(connection);
        begin(connection);
    }
}

/* ---- the run ---- */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t percentile(double p)
{
    return self.time_count == 0 ? 0 : self.times_us[(size_t)((double)(self.time_count - 1) * p)];
}

static void serve_events(char *scratch)
{
    struct epoll_event events[256];
    int count = epoll_wait(self.epoll, events, 256, 20);
    for (int i = 0; i < count; i++) {
        on_event(events[i].data.ptr, events[i].events, scratch);
    }
}

static void run(struct connection *connections)
{
    char *scratch = must(malloc(READ_MAX));
    int64_t start = now_us(), now = start;
    int64_t warm_at = start + (int64_t)(self.warmup * 1e6),
            end = start + (int64_t)(self.seconds * 1e6);
    self.warm = self.warmup <= 0;
    for (int i = 0; i < self.connections; i++) {
        begin(&connections[i]);
    }
    while (now < end && self.busy > 0) {
        serve_events(scratch);
        now = now_us();
        if (!self.warm && now >= warm_at) {
            self.warm = true;
            self.answered = self.bytes = 0;
            start = now;
        }
    }
    self.over = true;
    for (int64_t last = now + 5000000; self.busy > 0 && now_us() < last;) {
        serve_events(scratch);
    }
    double seconds = (double)(now - start) / 1e6;
    qsort(self.times_us, self.time_count, sizeof *self.times_us, compare);
    (void)printf("{\"requests\":%" PRIu64 ",\"seconds\":%.3f,\"rate\":%.1f,\"p50_us\":%" PRIu32
                 ",\"p99_us\":%" PRIu32 ",\"max_us\":%" PRIu32 ",\"bytes\":%" PRIu64
                 ",\"errors\":%" PRIu64 ",\"first_error\":\"%s\"}\n",
                 self.answered, seconds, (double)self.answered / seconds, percentile(0.5),
                 percentile(0.99), percentile(1), self.bytes, self.errors, self.first_error);
    free(scratch);
}

int main(int argc, char *argv[])
{
    if (argc < 5 || argc % 2 == 0) {
        (void)fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS REQUESTS [--max N] [--warmup "
                              "S] [--bodies FILE]\n");
        return 2;
    }
    self.port = (int)strtol(argv[1], NULL, 10);
    self.connections = (int)strtol(argv[2], NULL, 10);
    self.seconds = strtod(argv[3], NULL);
    for (int i = 5; i < argc; i += 2) {
        if (strcmp(argv[i], "--max") == 0) {
            self.max = strtoull(argv[i + 1], NULL, 10);
        } else if (strcmp(argv[i], "--each") == 0) {
            self.each = strtoull(argv[i + 1], NULL, 10);
        } else if (strcmp(argv[i], "--warmup") == 0) {
            self.warmup = strtod(argv[i + 1], NULL);
        } else if (strcmp(argv[i], "--bodies") == 0) {
            self.bodies = fopen(argv[i + 1], "we");
        }
    }
    read_requests(argv[4]);
    self.epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *connections = must(calloc((size_t)self.connections, sizeof *connections));
    for (int i = 0; i < self.connections; i++) {
        connections[i].next = (size_t)i % self.request_count;
        dial(&connections[i]);
    }
    run(connections);
    if (self.bodies != NULL) {
        (void)fclose(self.bodies);
    }
    return 0; /* the kernel takes the rest */
}
