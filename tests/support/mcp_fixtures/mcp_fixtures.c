/* The daemon's /mcp with a table of tools, resources and prompts that conformance suites ask for in
 * the place of Codex. Everything else is the product's: the protocol, the transport, the store, and
 * turns, which what takes long here is, too.
 *
 *   mcp_fixtures FOLDER     serves on a free port of loopback, which it prints, until SIGTERM
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cs/api/http.h"
#include "cs/base/clock.h"
#include "cs/base/embed.h"
#include "cs/mcp/table.h"
#include "fixture_engine.h"
#include "turn.h"

extern const struct cs_embedded fixture_definitions[];

#define ASK_MS  10000
#define STEP_MS 50

#define PNG                                                                                        \
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg" \
    "gg=="
#define WAV "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="

#define TEXT(text)  "{\"type\":\"text\",\"text\":\"" text "\"}"
#define IMAGE       "{\"type\":\"image\",\"data\":\"" PNG "\",\"mimeType\":\"image/png\"}"
#define AUDIO       "{\"type\":\"audio\",\"data\":\"" WAV "\",\"mimeType\":\"audio/wav\"}"
#define RESOURCE(u) "{\"type\":\"resource\",\"resource\":" u "}"

/* ---- tools that always answer the same ---- */

static const struct {
    const char *name, *content;
} answers[] = {
    {"test_simple_text", "[" TEXT("This is a simple text response for testing.") "]"},
    {"test_image_content", "[" IMAGE "]"},
    {"test_audio_content", "[" AUDIO "]"},
    {"test_embedded_resource",
     "[" RESOURCE("{\"uri\":\"test://embedded-resource\",\"mimeType\":\"text/plain\","
                  "\"text\":\"This is an embedded resource content.\"}") "]"},
    {"test_multiple_content_types",
     "[" TEXT("Multiple content types test:") "," IMAGE "," RESOURCE(
         "{\"uri\":\"test://mixed-content-resource\",\"mimeType\":\"application/json\","
         "\"text\":\"{\\\"test\\\":\\\"data\\\",\\\"value\\\":123}\"}") "]"},
    {"json_schema_2020_12_tool", "[" TEXT("done") "]"},
};

static enum cs_status answer(struct cs_mcp_call *call, struct cs_err *err)
{
    size_t i;

    for (i = 0; i < sizeof answers / sizeof *answers; i++)
        if (strcmp(answers[i].name, cs_mcp_name(call)) == 0)
            cs_jsonw_raw(cs_mcp_result(call), "content", answers[i].content,
                         strlen(answers[i].content));
    (void)err;
    return CS_OK;
}

static enum cs_status done(struct cs_mcp_call *call)
{
    cs_mcp_text(call, "done", 4);
    return CS_OK;
}

/* ---- tools that say something on the way ---- */

static enum cs_status fail(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)call;
    return cs_err_set(err, CS_UPSTREAM, NULL,
                      "This tool intentionally returns an error for testing");
}

static enum cs_status log_thrice(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_mcp_log(call, "info", "Tool execution started");
    (void)cs_mcp_pause(call, STEP_MS);
    cs_mcp_log(call, "info", "Tool processing data");
    (void)cs_mcp_pause(call, STEP_MS);
    cs_mcp_log(call, "info", "Tool execution completed");
    return done(call);
}

static enum cs_status log_once(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_mcp_log(call, "info", "Tool is logging");
    return done(call);
}

static enum cs_status progress(struct cs_mcp_call *call, struct cs_err *err)
{
    int percent;

    (void)err;
    for (percent = 0; percent <= 100; percent += 50) {
        cs_mcp_progress(call, percent, 100, NULL);
        (void)cs_mcp_pause(call, STEP_MS);
    }
    return done(call);
}

static enum cs_status change_tools(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_mcp_changed(cs_mcp_server(call), CS_MCP_TOOLS);
    return done(call);
}

static enum cs_status change_prompts(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_mcp_changed(cs_mcp_server(call), CS_MCP_PROMPTS);
    return done(call);
}

/* ---- tools that ask, with sessions ---- */

/* Answer with what the client says to @params. */
static enum cs_status ask(struct cs_mcp_call *call, const char *capability, const char *method,
                          const char *params, struct cs_err *err)
{
    struct cs_json *reply = NULL;
    struct cs_buf text;
    enum cs_status rc;

    if (!cs_mcp_can(call, capability))
        return cs_mcp_refuse_capability(call, capability, err);
    rc = cs_mcp_ask(call, method, params, cs_mono_ms() + ASK_MS, &reply, err);
    if (rc != CS_OK)
        return rc;
    cs_buf_init(&text, 65536);
    cs_buf_adds(&text, "The client says: ");
    cs_json_dump(cs_json_get(reply, "result"), &text);
    if (text.status == CS_OK)
        cs_mcp_text(call, text.data, text.len);
    rc = cs_buf_check(&text, err);
    cs_buf_fini(&text);
    cs_json_free(reply);
    return rc;
}

/* The same with argument @name put between @before and @after. */
static enum cs_status ask_with(struct cs_mcp_call *call, const char *const words[3],
                               const char *name, const char *const parts[2], struct cs_err *err)
{
    const char *text = cs_mcp_arg(call, name);
    struct cs_buf params;
    enum cs_status rc;

    cs_buf_init(&params, 65536);
    cs_buf_adds(&params, parts[0]);
    cs_json_quote(&params, text, strlen(text));
    cs_buf_adds(&params, parts[1]);
    rc = cs_buf_check(&params, err);
    if (rc == CS_OK)
        rc = ask(call, words[0], words[1], params.data, err);
    cs_buf_fini(&params);
    return rc;
}

static enum cs_status sample(struct cs_mcp_call *call, struct cs_err *err)
{
    static const char *const words[] = {"sampling", "sampling/createMessage", NULL};
    static const char *const parts[] = {
        "{\"messages\":[{\"role\":\"user\",\"content\":{\"type\":\"text\",\"text\":",
        "}}],\"maxTokens\":100}"};

    return ask_with(call, words, "prompt", parts, err);
}

static enum cs_status elicit(struct cs_mcp_call *call, struct cs_err *err)
{
    static const char *const words[] = {"elicitation", "elicitation/create", NULL};
    static const char *const parts[] = {
        "{\"message\":",
        ",\"requestedSchema\":{\"type\":\"object\",\"properties\":{"
        "\"username\":{\"type\":\"string\",\"description\":\"User's response\"},"
        "\"email\":{\"type\":\"string\",\"description\":\"User's email address\"}},"
        "\"required\":[\"username\",\"email\"]}}"};

    return ask_with(call, words, "message", parts, err);
}

static enum cs_status elicit_defaults(struct cs_mcp_call *call, struct cs_err *err)
{
    return ask(call, "elicitation", "elicitation/create",
               "{\"message\":\"Please look through the defaults\",\"requestedSchema\":{"
               "\"type\":\"object\",\"properties\":{"
               "\"name\":{\"type\":\"string\",\"default\":\"John Doe\"},"
               "\"age\":{\"type\":\"integer\",\"default\":30},"
               "\"score\":{\"type\":\"number\",\"default\":95.5},"
               "\"status\":{\"type\":\"string\",\"enum\":[\"active\",\"inactive\",\"pending\"],"
               "\"default\":\"active\"},"
               "\"verified\":{\"type\":\"boolean\",\"default\":true}},\"required\":[]}}",
               err);
}

#define TITLED(a, b, c)                                                                            \
    "[{\"const\":\"value1\",\"title\":\"" a "\"},{\"const\":\"value2\",\"title\":\"" b "\"},"      \
    "{\"const\":\"value3\",\"title\":\"" c "\"}]"

static enum cs_status elicit_enums(struct cs_mcp_call *call, struct cs_err *err)
{
    return ask(
        call, "elicitation", "elicitation/create",
        "{\"message\":\"Please choose\",\"requestedSchema\":{\"type\":\"object\","
        "\"properties\":{"
        "\"untitledSingle\":{\"type\":\"string\","
        "\"enum\":[\"option1\",\"option2\",\"option3\"]},"
        "\"titledSingle\":{\"type\":\"string\",\"oneOf\":" TITLED(
            "First Option", "Second Option",
            "Third Option") "},"
                            "\"legacyEnum\":{\"type\":\"string\",\"enum\":[\"opt1\",\"opt2\","
                            "\"opt3\"],"
                            "\"enumNames\":[\"Option One\",\"Option Two\",\"Option Three\"]},"
                            "\"untitledMulti\":{\"type\":\"array\",\"items\":{\"type\":\"string\","
                            "\"enum\":[\"option1\",\"option2\",\"option3\"]}},"
                            "\"titledMulti\":{\"type\":\"array\",\"items\":{\"anyOf\":" TITLED(
                                "First Choice", "Second Choice",
                                "Third Choice") "}}},\"required\":[]}}",
        err);
}

static enum cs_status need_sampling(struct cs_mcp_call *call, struct cs_err *err)
{
    if (!cs_mcp_can(call, "sampling"))
        return cs_mcp_refuse_capability(call, "sampling", err);
    return done(call);
}

/* ---- tools that ask, without sessions: by a result that is not complete ---- */

#define ELICIT(message, field, type)                                                               \
    "{\"method\":\"elicitation/create\",\"params\":{\"message\":\"" message                        \
    "\",\"requestedSchema\":{\"type\":\"object\",\"properties\":{\"" field "\":{\"type\":\"" type  \
    "\"}},\"required\":[\"" field "\"]}}}"
#define SAMPLE(prompt, tokens)                                                                     \
    "{\"method\":\"sampling/createMessage\",\"params\":{\"messages\":[{\"role\":\"user\","         \
    "\"content\":{\"type\":\"text\",\"text\":\"" prompt "\"}}],\"maxTokens\":" tokens "}}"
#define ROOTS "{\"method\":\"roots/list\",\"params\":{}}"

#define NEEDS_MAX 3

struct need {
    const char *key, *capability, *request;
};

/* What a call needs before it completes; with a state, it must bring it back. */
static const struct inquiry {
    const char *name;
    struct need needs[NEEDS_MAX];
    const char *state, *after; /* the state that comes back, for the second of two rounds */
} inquiries[] = {
    {"test_input_required_result_elicitation",
     {{"user_name", "elicitation", ELICIT("What is your name?", "name", "string")}},
     NULL,
     NULL},
    {"test_input_required_result_sampling",
     {{"capital_question", "sampling", SAMPLE("What is the capital of France?", "100")}},
     NULL,
     NULL},
    {"test_input_required_result_list_roots", {{"client_roots", "roots", ROOTS}}, NULL, NULL},
    {"test_input_required_result_request_state",
     {{"confirm", "elicitation", ELICIT("Please confirm", "ok", "boolean")}},
     "confirming",
     NULL},
    {"test_input_required_result_tampered_state",
     {{"confirm", "elicitation", ELICIT("Please confirm", "ok", "boolean")}},
     "confirming",
     NULL},
    {"test_input_required_result_multiple_inputs",
     {{"user_name", "elicitation", ELICIT("What is your name?", "name", "string")},
      {"greeting", "sampling", SAMPLE("Generate a greeting", "50")},
      {"client_roots", "roots", ROOTS}},
     "collecting",
     NULL},
    {"test_input_required_result_multi_round",
     {{"step2", "elicitation", ELICIT("Step 2: What is your favorite color?", "color", "string")}},
     "second",
     "first"},
    {"test_input_required_result_multi_round",
     {{"step1", "elicitation", ELICIT("Step 1: What is your name?", "name", "string")}},
     "first",
     NULL},
    {"test_input_required_result_capabilities",
     {{"user_name", "elicitation", ELICIT("What is your name?", "name", "string")},
      {"greeting", "sampling", SAMPLE("Generate a greeting", "50")}},
     NULL,
     NULL},
    {"test_streaming_elicitation",
     {{"user_name", "elicitation", ELICIT("What is your name?", "name", "string")}},
     NULL,
     NULL},
    {"test_tool_with_task",
     {{"user_name", "elicitation", ELICIT("What is your name?", "name", "string")}},
     NULL,
     NULL},
    {"test_input_required_result_prompt",
     {{"user_context", "elicitation",
       ELICIT("What context should the prompt use?", "context", "string")}},
     NULL,
     NULL},
};

static enum cs_status inquire(struct cs_mcp_call *call, const struct inquiry *inquiry,
                              struct cs_err *err)
{
    struct cs_jsonw *w = cs_mcp_result(call);
    struct cs_buf sealed;
    enum cs_status rc = CS_OK;
    size_t i;

    cs_mcp_result_type(call, "input_required");
    cs_jsonw_object(w, "inputRequests");
    for (i = 0; i < NEEDS_MAX && inquiry->needs[i].key != NULL; i++)
        if (cs_mcp_can(call, inquiry->needs[i].capability))
            cs_jsonw_raw(w, inquiry->needs[i].key, inquiry->needs[i].request,
                         strlen(inquiry->needs[i].request));
    cs_jsonw_end_object(w);
    if (inquiry->state == NULL)
        return CS_OK;
    cs_buf_init(&sealed, 4096);
    rc = cs_mcp_seal(cs_mcp_server(call), inquiry->state, &sealed, err);
    if (rc == CS_OK)
        cs_jsonw_string(w, "requestState", sealed.data);
    cs_buf_fini(&sealed);
    return rc;
}

/* Whether the client has answered all that it could be asked. */
static bool is_answered(struct cs_mcp_call *call, const struct inquiry *inquiry)
{
    const struct cs_json *given = cs_json_get(cs_mcp_params(call), "inputResponses");
    size_t i;

    for (i = 0; i < NEEDS_MAX && inquiry->needs[i].key != NULL; i++)
        if (cs_mcp_can(call, inquiry->needs[i].capability) &&
            cs_json_type(cs_json_get(given, inquiry->needs[i].key)) != CS_JSON_OBJECT)
            return false;
    return true;
}

static enum cs_status complete_inquiry(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_buf text;
    enum cs_status rc;

    cs_buf_init(&text, 65536);
    cs_buf_adds(&text, "state-ok: ");
    cs_json_dump(cs_json_get(cs_mcp_params(call), "inputResponses"), &text);
    rc = cs_buf_check(&text, err);
    if (rc == CS_OK)
        cs_mcp_text(call, text.data, text.len);
    cs_buf_fini(&text);
    return rc;
}

/* The inquiry that the call is in, given the state that it brings; NULL: what it brings is not
 * ours. */
static const struct inquiry *find_inquiry(const char *name, const char *state)
{
    size_t i;

    for (i = 0; i < sizeof inquiries / sizeof *inquiries; i++) {
        const struct inquiry *one = &inquiries[i];

        if (strcmp(one->name, name) == 0 &&
            (state[0] == '\0' ? one->after == NULL
                              : one->state != NULL && strcmp(one->state, state) == 0))
            return one;
    }
    return NULL;
}

/* The inquiry that follows on @one. */
static const struct inquiry *next_inquiry(const struct inquiry *one)
{
    size_t i;

    for (i = 0; i < sizeof inquiries / sizeof *inquiries; i++)
        if (strcmp(inquiries[i].name, one->name) == 0 && inquiries[i].after != NULL &&
            one->state != NULL && strcmp(inquiries[i].after, one->state) == 0)
            return &inquiries[i];
    return NULL;
}

static enum cs_status need_input(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *params = cs_mcp_params(call);
    const struct cs_json *given = cs_json_get(params, "inputResponses");
    const char *sealed = cs_json_get_string(params, "requestState");
    const struct inquiry *inquiry, *next;
    char state[64] = "";

    if (given != NULL && cs_json_type(given) != CS_JSON_OBJECT)
        return cs_mcp_refuse(call, -32602, NULL, err, "inputResponses must be an object");
    if (sealed != NULL && !cs_mcp_unseal(cs_mcp_server(call), sealed, state, sizeof state))
        return cs_mcp_refuse(call, -32602, NULL, err, "This requestState is not of this server");
    inquiry = find_inquiry(cs_mcp_name(call), state);
    if (inquiry == NULL)
        return cs_mcp_refuse(call, -32602, NULL, err, "This requestState is of another call");
    cs_mcp_progress(call, 1, 0, NULL);
    if (given == NULL || !is_answered(call, inquiry) || (inquiry->state != NULL && sealed == NULL))
        return inquire(call, inquiry, err);
    next = next_inquiry(inquiry);
    return next != NULL ? inquire(call, next, err) : complete_inquiry(call, err);
}

/* ---- tools that take long: turns, which are tasks for clients that know them ---- */

static enum cs_status run(struct cs_mcp_call *call, const char *prompt, bool asks,
                          struct cs_err *err)
{
    struct cs_turn_request request = {.prompt = prompt,
                                      .prompt_len = strlen(prompt),
                                      .sandbox = "read-only",
                                      .cwd = "/tmp",
                                      .approval = asks ? "on-request" : "never"};

    return cs_turn_call(call, &request, err);
}

static enum cs_status greet(struct cs_mcp_call *call, struct cs_err *err)
{
    const char *name = cs_mcp_arg(call, "name");
    char text[256];
    int len = snprintf(text, sizeof text, "Hello, %.200s!", name != NULL ? name : "you");

    (void)err;
    cs_mcp_text(call, text, (size_t)len);
    return CS_OK;
}

static enum cs_status compute_slowly(struct cs_mcp_call *call, struct cs_err *err)
{
    int64_t seconds = cs_json_int(cs_json_get(cs_mcp_args(call), "seconds"), 0);
    char prompt[64];

    snprintf(prompt, sizeof prompt, "sleep %lld", (long long)seconds);
    return run(call, prompt, false, err);
}

static enum cs_status fail_slowly(struct cs_mcp_call *call, struct cs_err *err)
{
    if (!cs_mcp_can(call, CS_TASKS_EXTENSION))
        return cs_mcp_refuse_capability(call, CS_TASKS_EXTENSION, err);
    return run(call, "fail", false, err);
}

static enum cs_status confirm(struct cs_mcp_call *call, struct cs_err *err)
{
    return run(call, "ask 1", true, err);
}

static enum cs_status confirm_twice(struct cs_mcp_call *call, struct cs_err *err)
{
    return run(call, "ask 2", true, err);
}

/* Asks before it begins. */
static enum cs_status ask_and_run(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct cs_json *given = cs_json_get(cs_mcp_params(call), "inputResponses");
    const char *name =
        cs_json_string(cs_json_path(given, "user_name", "content", "name", NULL), NULL);
    char prompt[128];

    if (name == NULL)
        return inquire(call, find_inquiry(cs_mcp_name(call), ""), err);
    snprintf(prompt, sizeof prompt, "say Hello %.100s", name);
    return run(call, prompt, false, err);
}

static const struct cs_mcp_entry tools[] = {
    {"greet", greet, false},
    {"slow_compute", compute_slowly, true},
    {"failing_job", fail_slowly, true},
    {"confirm_delete", confirm, true},
    {"multi_input", confirm_twice, true},
    {"test_tool_with_task", ask_and_run, true},
    {"test_simple_text", answer, false},
    {"test_image_content", answer, false},
    {"test_audio_content", answer, false},
    {"test_embedded_resource", answer, false},
    {"test_multiple_content_types", answer, false},
    {"json_schema_2020_12_tool", answer, false},
    {"test_error_handling", fail, false},
    {"test_tool_with_logging", log_thrice, false},
    {"test_logging_tool", log_once, false},
    {"test_tool_with_progress", progress, false},
    {"test_sampling", sample, false},
    {"test_elicitation", elicit, false},
    {"test_elicitation_sep1034_defaults", elicit_defaults, false},
    {"test_elicitation_sep1330_enums", elicit_enums, false},
    {"test_missing_capability", need_sampling, false},
    {"test_trigger_tool_change", change_tools, false},
    {"test_trigger_prompt_change", change_prompts, false},
    {"test_input_required_result_elicitation", need_input, false},
    {"test_input_required_result_sampling", need_input, false},
    {"test_input_required_result_list_roots", need_input, false},
    {"test_input_required_result_request_state", need_input, false},
    {"test_input_required_result_multiple_inputs", need_input, false},
    {"test_input_required_result_multi_round", need_input, false},
    {"test_input_required_result_tampered_state", need_input, false},
    {"test_input_required_result_capabilities", need_input, false},
    {"test_streaming_elicitation", need_input, false},
    {NULL, NULL, false},
};

/* ---- resources ---- */

static void write_content(struct cs_mcp_call *call, const char *type, const char *member,
                          const char *text)
{
    struct cs_jsonw *w = cs_mcp_result(call);

    cs_jsonw_array(w, "contents");
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "uri", cs_mcp_name(call));
    cs_jsonw_string(w, "mimeType", type);
    cs_jsonw_string(w, member, text);
    cs_jsonw_end_object(w);
    cs_jsonw_end_array(w);
}

static enum cs_status read_resource(struct cs_mcp_call *call, struct cs_err *err)
{
    static const char before[] = "test://template/", after[] = "/data";
    const char *uri = cs_mcp_name(call);
    size_t len = strlen(uri), fixed = sizeof before - 1 + sizeof after - 1;
    char id[64], text[256];

    if (strcmp(uri, "test://static-text") == 0 || strcmp(uri, "test://watched-resource") == 0) {
        write_content(call, "text/plain", "text",
                      "This is the content of the static text resource.");
    } else if (strcmp(uri, "test://static-binary") == 0) {
        write_content(call, "image/png", "blob", PNG);
    } else if (strncmp(uri, before, sizeof before - 1) == 0 && len > fixed &&
               len - fixed < sizeof id && strcmp(uri + len - (sizeof after - 1), after) == 0) {
        snprintf(id, sizeof id, "%.*s", (int)(len - fixed), uri + sizeof before - 1);
        snprintf(text, sizeof text,
                 "{\"id\":\"%s\",\"templateTest\":true,\"data\":\"Data for ID: %s\"}", id, id);
        write_content(call, "application/json", "text", text);
    } else {
        return cs_err_set(err, CS_NOT_FOUND, NULL, "There is no such resource");
    }
    return CS_OK;
}

/* ---- prompts ---- */

static void write_message(struct cs_jsonw *w, const char *content)
{
    cs_jsonw_object(w, NULL);
    cs_jsonw_string(w, "role", "user");
    cs_jsonw_raw(w, "content", content, strlen(content));
    cs_jsonw_end_object(w);
}

static enum cs_status simple_prompt(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_jsonw_array(cs_mcp_result(call), "messages");
    write_message(cs_mcp_result(call), TEXT("This is a simple prompt for testing."));
    cs_jsonw_end_array(cs_mcp_result(call));
    return CS_OK;
}

static enum cs_status image_prompt(struct cs_mcp_call *call, struct cs_err *err)
{
    (void)err;
    cs_jsonw_array(cs_mcp_result(call), "messages");
    write_message(cs_mcp_result(call), IMAGE);
    write_message(cs_mcp_result(call), TEXT("Please analyze the image above."));
    cs_jsonw_end_array(cs_mcp_result(call));
    return CS_OK;
}

static enum cs_status arguments_prompt(struct cs_mcp_call *call, struct cs_err *err)
{
    struct cs_buf text, content;
    enum cs_status rc;

    cs_buf_init(&text, 4096);
    cs_buf_init(&content, 16384);
    cs_buf_addf(&text, "Prompt with arguments: arg1='%s', arg2='%s'", cs_mcp_arg(call, "arg1"),
                cs_mcp_arg(call, "arg2"));
    rc = cs_buf_check(&text, err);
    if (rc == CS_OK) {
        cs_buf_adds(&content, "{\"type\":\"text\",\"text\":");
        cs_json_quote(&content, text.data, text.len);
        cs_buf_adds(&content, "}");
        rc = cs_buf_check(&content, err);
    }
    if (rc == CS_OK) {
        cs_jsonw_array(cs_mcp_result(call), "messages");
        write_message(cs_mcp_result(call), content.data);
        cs_jsonw_end_array(cs_mcp_result(call));
    }
    cs_buf_fini(&text);
    cs_buf_fini(&content);
    return rc;
}

static enum cs_status resource_prompt(struct cs_mcp_call *call, struct cs_err *err)
{
    const char *uri = cs_mcp_arg(call, "resourceUri");
    struct cs_buf content;
    enum cs_status rc;

    cs_buf_init(&content, 16384);
    cs_buf_adds(&content, "{\"type\":\"resource\",\"resource\":{\"uri\":");
    cs_json_quote(&content, uri, strlen(uri));
    cs_buf_adds(&content, ",\"mimeType\":\"text/plain\","
                          "\"text\":\"Embedded resource content for testing.\"}}");
    rc = cs_buf_check(&content, err);
    if (rc == CS_OK) {
        cs_jsonw_array(cs_mcp_result(call), "messages");
        write_message(cs_mcp_result(call), content.data);
        write_message(cs_mcp_result(call), TEXT("Please process the embedded resource above."));
        cs_jsonw_end_array(cs_mcp_result(call));
    }
    cs_buf_fini(&content);
    return rc;
}

static enum cs_status input_prompt(struct cs_mcp_call *call, struct cs_err *err)
{
    const struct inquiry *inquiry = find_inquiry(cs_mcp_name(call), "");

    return is_answered(call, inquiry) ? simple_prompt(call, err) : inquire(call, inquiry, err);
}

static const struct cs_mcp_entry prompts[] = {
    {"test_simple_prompt", simple_prompt, false},
    {"test_prompt_with_arguments", arguments_prompt, false},
    {"test_prompt_with_embedded_resource", resource_prompt, false},
    {"test_prompt_with_image", image_prompt, false},
    {"test_input_required_result_prompt", input_prompt, false},
    {NULL, NULL, false},
};

static const struct cs_mcp_table table = {
    .definitions = fixture_definitions,
    .name = "mcp-fixtures",
    .title = "Fixtures",
    .tools = tools,
    .prompts = prompts,
    .read_resource = read_resource,
};

/* ---- the server ---- */

struct parts {
    struct cs_config config;
    struct cs_store *store;
    struct cs_engine engine;
    struct cs_core *core;
    struct cs_http *http;
};

static enum cs_status start(struct parts *parts, const char *folder, struct cs_err *err)
{
    char data[4096], token[4200], port[] = "--port=0", threads[] = "--http-threads=64";
    char *argv[] = {data, port, threads, NULL}, *envp[] = {NULL};
    struct cs_store_options store = {.dir = folder};
    struct cs_store_opened opened;
    struct cs_core_parts core = {.config = &parts->config};
    struct cs_http_options http = {.token_path = token, .version = "1.0.0", .mcp = &table};
    enum cs_status rc;

    snprintf(data, sizeof data, "--data-dir=%s", folder);
    snprintf(token, sizeof token, "%s/token", folder);
    rc = cs_config_load(&parts->config, 3, argv, envp, err);
    if (rc == CS_OK)
        rc = cs_store_open(&store, &parts->store, &opened, err);
    if (rc == CS_OK)
        rc = cs_cond_init(&parts->engine.changed, err);
    (void)pthread_mutex_init(&parts->engine.mutex, NULL);
    core.store = parts->store;
    core.engine = &parts->engine;
    if (rc == CS_OK)
        rc = cs_core_new(&core, &parts->core, err);
    http.core = parts->core;
    return rc == CS_OK ? cs_http_start(&http, &parts->http, err) : rc;
}

int main(int argc, char **argv)
{
    static struct parts parts;
    struct cs_err err = {0};
    sigset_t ends;
    int got;

    if (argc != 2)
        return 2;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    (void)sigprocmask(SIG_BLOCK, &ends, NULL);
    if (start(&parts, argv[1], &err) != CS_OK) {
        fprintf(stderr, "mcp_fixtures: %s\n", err.msg);
        return 1;
    }
    printf("listening on http://127.0.0.1:%d\n", cs_http_port(parts.http));
    fflush(stdout);
    (void)sigwait(&ends, &got);
    cs_http_quiesce(parts.http);
    (void)cs_core_drain(parts.core, cs_mono_ms() + 1000);
    cs_http_stop(parts.http);
    cs_core_free(parts.core);
    cs_store_close(parts.store);
    cs_config_fini(&parts.config);
    return 0;
}
