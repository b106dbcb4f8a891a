#include "priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cs/base/clock.h"

/* An outcome of detection that was told to someone: kept until the engine's end. */
struct cs_engine_found {
    struct cs_engine_found *next;
    struct cs_codex codex;
};

static const char *const kind_names[] = {
    [CS_ENGINE_AUTO] = "auto",
    [CS_ENGINE_APP_SERVER] = "app-server",
    [CS_ENGINE_MCP] = "mcp",
    [CS_ENGINE_EXEC] = "exec",
};
enum { KINDS = sizeof kind_names / sizeof *kind_names };

static const struct cs_driver_ops *const drivers[KINDS] = {
    [CS_ENGINE_APP_SERVER] = &cs_app_server_ops,
    [CS_ENGINE_MCP] = &cs_mcp_ops,
    [CS_ENGINE_EXEC] = &cs_exec_ops,
};

const char *cs_engine_kind_name(enum cs_engine_kind kind)
{
    return kind_names[kind];
}

enum cs_status cs_engine_kind_parse(const char *word, enum cs_engine_kind *out_kind,
                                    struct cs_err *err)
{
    for (int i = 0; i < KINDS; i++) {
        if (strcmp(word, kind_names[i]) == 0) {
            *out_kind = (enum cs_engine_kind)i;
            return CS_OK;
        }
    }
    return cs_err_set(err, CS_INVALID, "invalid_engine",
                      "The engine must be auto, app-server, mcp or exec");
}

/* ---- detection ---- */

/* Whether we run below a Codex that a daemon of this very instance started: then its tools call us,
 * we would call it, and so on. */
static bool recursive(const struct cs_engine *engine)
{
    const char *own = getenv("CODEX_SESSIOND_INSTANCE"); /* NOLINT(concurrency-mt-unsafe) */

    return own != NULL && strcmp(own, engine->options.instance) == 0;
}

static bool same_codex(const struct cs_codex *a, const struct cs_codex *b)
{
    return strcmp(a->path, b->path) == 0 && strcmp(a->version, b->version) == 0 &&
           a->kinds == b->kinds && a->best == b->best && strcmp(a->why, b->why) == 0;
}

/* Make @found what is known; with the mutex. It is owned from here on. */
static void adopt(struct cs_engine *engine, struct cs_engine_found *found)
{
    if (engine->found != NULL && same_codex(&engine->found->codex, &found->codex)) {
        free(found);
        return;
    }
    found->next = engine->found;
    engine->found = found;
    engine->codex = found->codex;
}

static enum cs_status detect(struct cs_engine *engine, struct cs_err *err)
{
    struct cs_engine_found *found = calloc(1, sizeof *found);

    if (found == NULL)
        return cs_err_nomem(err);
    if (recursive(engine))
        snprintf(
            found->codex.why, sizeof found->codex.why, "%s",
            "This daemon was started by a Codex that it serves itself (CODEX_SESSIOND_INSTANCE "
            "is set). Start it outside of Codex.");
    else
        cs_codex_detect(engine->spawner, engine->options.codex, engine->options.kind,
                        &found->codex);
    pthread_mutex_lock(&engine->mutex);
    adopt(engine, found);
    pthread_mutex_unlock(&engine->mutex);
    return CS_OK;
}

void cs_engine_refresh(struct cs_engine *engine)
{
    (void)detect(engine, NULL); /* without memory the last outcome stands */
}

void cs_engine_info(struct cs_engine *engine, struct cs_engine_info *out_info)
{
    const struct cs_codex *codex;

    pthread_mutex_lock(&engine->mutex);
    codex = &engine->found->codex;
    pthread_mutex_unlock(&engine->mutex);
    *out_info = (struct cs_engine_info){
        .usable = (codex->kinds & 1U << codex->best) != 0,
        .path = codex->path,
        .version = codex->version,
        .kind = codex->best,
        .kinds = codex->kinds,
        .why = codex->why,
    };
}

/* ---- life ---- */

static const char *copy_string(char **at, const char *text)
{
    const char *copy = *at;

    if (text == NULL)
        return NULL;
    *at = stpcpy(*at, text) + 1;
    return copy;
}

/* Own the strings of @options, in one block. */
static bool copy_options(struct cs_engine *engine, const struct cs_engine_options *options)
{
    const char *all[] = {options->codex, options->instance, options->api_key, options->version};
    size_t len = 1;
    char *at;

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        len += all[i] != NULL ? strlen(all[i]) + 1 : 0;
    at = engine->strings = malloc(len);
    if (at == NULL)
        return false;
    engine->options = *options;
    engine->options.codex = copy_string(&at, options->codex);
    engine->options.instance = copy_string(&at, options->instance);
    engine->options.api_key = copy_string(&at, options->api_key);
    engine->options.version = copy_string(&at, options->version);
    return true;
}

enum cs_status cs_engine_new(const struct cs_engine_options *options, struct cs_engine **out_engine,
                             struct cs_err *err)
{
    struct cs_engine *engine = calloc(1, sizeof *engine);
    enum cs_status rc = CS_OK;

    if (engine == NULL)
        return cs_err_nomem(err);
    pthread_mutex_init(&engine->mutex, NULL);
    if (!copy_options(engine, options))
        rc = cs_err_nomem(err);
    if (rc == CS_OK)
        rc = cs_spawner_new(options->instance, &engine->spawner, err);
    if (rc == CS_OK)
        rc = detect(engine, err);
    if (rc == CS_OK)
        *out_engine = engine;
    else
        cs_engine_free(engine, cs_mono_ms());
    return rc;
}

void cs_engine_free(struct cs_engine *engine, int64_t deadline)
{
    if (engine == NULL)
        return;
    for (int i = CS_ENGINE_APP_SERVER; i < KINDS; i++)
        if (engine->drivers[i] != NULL)
            drivers[i]->destroy(engine->drivers[i], deadline);
    cs_spawner_free(engine->spawner, deadline);
    while (engine->found != NULL) {
        struct cs_engine_found *next = engine->found->next;

        free(engine->found);
        engine->found = next;
    }
    pthread_mutex_destroy(&engine->mutex);
    free(engine->strings);
    free(engine);
}

void cs_engine_figures(struct cs_engine *engine, int64_t *out_children, int64_t *out_restarts)
{
    *out_children = cs_spawner_children(engine->spawner);
    *out_restarts = __atomic_load_n(&engine->restarts, __ATOMIC_RELAXED);
}

/* ---- turns ---- */

/* Choose the turn's driver, and make it if it is the first of its kind. With no Codex at all the
 * turn gets none. */
static enum cs_status choose_driver(struct cs_engine *engine, struct cs_engine_turn *turn,
                                    struct cs_err *err)
{
    const struct cs_codex *codex;
    enum cs_engine_kind kind;
    enum cs_status rc = CS_OK;

    pthread_mutex_lock(&engine->mutex);
    codex = &engine->found->codex;
    kind = turn->request.kind != CS_ENGINE_AUTO ? turn->request.kind : codex->best;
    if (codex->kinds == 0) {
        turn->unavailable = codex->why;
    } else if ((codex->kinds & 1U << kind) == 0) {
        rc = cs_err_set(err, CS_INVALID, "engine_unavailable",
                        "The engine %s is not available with Codex %s", cs_engine_kind_name(kind),
                        codex->version);
    } else if (turn->request.approvals && drivers[kind]->answer == NULL) {
        rc = cs_err_set(err, CS_INVALID, "approvals_unavailable",
                        "The engine %s cannot ask for approvals", cs_engine_kind_name(kind));
    } else {
        if (engine->drivers[kind] == NULL)
            rc = drivers[kind]->create(engine, &engine->drivers[kind], err);
        turn->ops = drivers[kind];
        turn->driver = engine->drivers[kind];
    }
    pthread_mutex_unlock(&engine->mutex);
    return rc;
}

enum cs_status cs_engine_turn_start(struct cs_engine *engine,
                                    const struct cs_engine_request *request,
                                    struct cs_engine_turn **out_turn, struct cs_err *err)
{
    struct cs_engine_turn *turn = calloc(1, sizeof *turn);
    enum cs_status rc;

    if (turn == NULL)
        return cs_err_nomem(err);
    turn->engine = engine;
    turn->request = *request;
    rc = cs_turn_init(turn, err);
    if (rc == CS_OK)
        rc = choose_driver(engine, turn, err);
    if (rc == CS_OK) {
        *out_turn = turn;
    } else {
        cs_turn_fini(turn);
        free(turn);
    }
    return rc;
}

enum cs_status cs_engine_turn_answer(struct cs_engine_turn *turn, const char *id, bool approve,
                                     struct cs_err *err)
{
    if (turn->ops == NULL || turn->ops->answer == NULL)
        return cs_err_set(err, CS_NOT_FOUND, "approval_not_found", "Codex does not ask anything");
    return turn->ops->answer(turn->driver, turn, id, approve, err);
}

void cs_engine_turn_free(struct cs_engine_turn *turn)
{
    if (turn == NULL)
        return;
    if (turn->begun && turn->ops != NULL) {
        if (!turn->done && !turn->cancel_sent)
            turn->ops->cancel(turn->driver, turn);
        turn->ops->detach(turn->driver, turn);
    }
    cs_turn_fini(turn);
    free(turn);
}
