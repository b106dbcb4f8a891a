#include "branch.h"

#include <stdlib.h>

#include "db.h"

void cs_path_fini(struct cs_path *path)
{
    free(path->links);
    *path = (struct cs_path){0};
}

static struct cs_path_link *add_link(struct cs_path *path)
{
    size_t cap = path->cap > 0 ? path->cap * 2 : 64;
    struct cs_path_link *links;

    if (path->count == path->cap) {
        links = reallocarray(path->links, cap, sizeof *links);
        if (links == NULL)
            return NULL;
        path->links = links;
        path->cap = cap;
    }
    return &path->links[path->count++];
}

/* A parent stands before its children in order, so one walk backwards finds the whole way. */
static void mark_active(struct cs_path *path)
{
    int64_t origin = 0, seq = 0;
    size_t active = 0;
    size_t i;

    for (i = path->count; i > 0; i--) {
        struct cs_path_link *link = &path->links[i - 1];

        if (i < path->count && (link->origin != origin || link->seq != seq))
            continue;
        link->active = true;
        active++;
        origin = link->parent_origin;
        seq = link->parent_seq;
    }
    path->branched = active < path->count;
}

enum cs_status cs_path_read(struct cs_db *db, int64_t session, struct cs_path *out_path,
                            struct cs_err *err)
{
    struct cs_path path = {0};
    struct cs_path_link *link = NULL;
    bool room = true;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_LINKS);
    cs_sql_int(&q, session);
    while (room && cs_sql_next(&q)) {
        link = add_link(&path);
        room = link != NULL;
        if (link != NULL)
            *link = (struct cs_path_link){cs_sql_get_int(&q, 0), cs_sql_get_int(&q, 1),
                                          cs_sql_get_int(&q, 2), cs_sql_get_int(&q, 3), false};
    }
    status = cs_sql_end(&q, "read the branches", err);
    if (status == CS_OK && !room)
        status = cs_err_nomem(err);
    if (status != CS_OK) {
        cs_path_fini(&path);
        return status;
    }
    mark_active(&path);
    *out_path = path;
    return CS_OK;
}

bool cs_path_active(const struct cs_path *path, int64_t origin, int64_t seq, size_t *hint)
{
    size_t i;

    for (i = *hint; i < path->count; i++)
        if (path->links[i].origin == origin && path->links[i].seq == seq) {
            *hint = i + 1;
            return path->links[i].active;
        }
    return true;
}

enum cs_status cs_branch_flagged(struct cs_db *db, int64_t session, bool *out_flagged,
                                 struct cs_err *err)
{
    bool flagged = false;
    struct cs_sql q;
    enum cs_status status;

    cs_sql_begin(&q, db, CS_SQL_SESSION_STATE);
    cs_sql_int(&q, session);
    if (cs_sql_next(&q))
        flagged = cs_sql_get_int(&q, 1) != 0;
    status = cs_sql_end(&q, "read the session", err);
    if (status == CS_OK)
        *out_flagged = flagged;
    return status;
}

enum cs_status cs_branch_flag(struct cs_db *db, int64_t session, struct cs_err *err)
{
    struct cs_sql q;

    cs_sql_begin(&q, db, CS_SQL_REPLICA_SET_BRANCHED);
    cs_sql_int(&q, session);
    return cs_sql_run(&q, "flag a branch", err);
}
