/* Whatever a client of MCP sends: a message with its headers, in each revision, against a server
 * whose tools do nothing.
 *
 * The first byte picks the headers; what follows is the message. It is sent twice, with and without
 * a stream.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/embed.h"
#include "mcp/priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char definitions[] =
    "{\"capabilities\":{\"tools\":{},\"prompts\":{},\"resources\":{\"subscribe\":true},"
    "\"completions\":{}},\"tools\":[{\"name\":\"t\",\"description\":\"d\",\"inputSchema\":{"
    "\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\",\"enum\":[\"a\",\"b\"]},"
    "\"n\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":9},\"o\":{\"type\":\"object\"}},"
    "\"required\":[\"s\"],\"additionalProperties\":false}}],"
    "\"prompts\":[{\"name\":\"p\",\"arguments\":[{\"name\":\"a\",\"required\":true}]}]}";

static const struct cs_embedded files[] = {
    {"definitions", (const unsigned char *)definitions, sizeof definitions - 1}, {NULL, NULL, 0}};

static enum cs_status say(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_mcp_progress(call, 1, 2, "half");
    cs_mcp_log(call, "info", "said");
    cs_mcp_text(call, "x", 1);
    return CS_OK;
}

static enum cs_status read_none(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)call;
    return cs_err_set(err, CS_NOT_FOUND, NULL, "nothing");
}

static const struct cs_mcp_entry tools[] = {{"t", say, false}, {NULL, NULL, false}};
static const struct cs_mcp_entry prompts[] = {{"p", say, false}, {NULL, NULL, false}};
static const struct cs_mcp_table table = {.definitions = files,
                                          .name = "fuzz",
                                          .title = "Fuzz",
                                          .tools = tools,
                                          .prompts = prompts,
                                          .read_resource = read_none};

static bool check_sent(void *arg, const char *event, const char *json, size_t len)
{
    struct cs_json *root = NULL;

    (void)arg;
    (void)event;
    if (cs_json_parse(json, len, len, &root, NULL) != CS_OK || memchr(json, '\n', len) != NULL)
        abort();
    cs_json_free(root);
    return true;
}

/* Whatever would wait for the daemon's events: there is no daemon. */
static enum cs_status refuse(void *arg, struct cs_err *err)
{
    (void)arg;
    return cs_err_set(err, CS_BUSY, "busy", "busy");
}

static void post(struct cs_mcp *mcp, const struct cs_mcp_head *head, const char *text, size_t len,
                 bool streams)
{
    struct cs_mcp_stream stream = {.send = streams ? check_sent : NULL, .enter = refuse};
    struct cs_mcp_answer answer;

    cs_mcp_post(mcp, head, text, len, &stream, &answer);
    if (answer.json.len > 0)
        (void)check_sent(NULL, NULL, answer.json.data, answer.json.len);
    else if (answer.status != 202)
        abort();
    cs_mcp_answer_fini(&answer);
}

/* A session of the revision that the first byte picks; "" without. */
static void begin(struct cs_mcp *mcp, unsigned pick, char session[CS_MCP_SESSION_MAX])
{
    session[0] = '\0';
    if (pick % 3 < 2 &&
        cs_session_begin(mcp, (enum cs_revision)(pick % 3), 0, session, NULL) != CS_OK)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {NULL, "tools/call", "tools/list", "server/discover"};
    struct cs_mcp_head head = {0};
    struct cs_mcp *mcp = NULL;
    char session[CS_MCP_SESSION_MAX];

    if (size < 1)
        return 0;
    if (cs_mcp_new(NULL, &table, "0", &mcp, NULL) != CS_OK)
        abort();
    begin(mcp, data[0], session);
    if (session[0] != '\0')
        head.session = session;
    else
        head.revision = "2026-07-28";
    head.method = names[data[0] / 3 % 4];
    head.name = data[0] / 12 % 2 == 0 ? "t" : "=?base64?dA==?=";
    post(mcp, &head, (const char *)data + 1, size - 1, false);
    post(mcp, &head, (const char *)data + 1, size - 1, true);
    cs_mcp_free(mcp);
    return 0;
}
