/* mcp/schema: the part of JSON Schema that our tools' arguments need. */
#include <stdio.h>
#include <string.h>

#include "priv.h"

struct check {
    const struct cs_json *properties;
    bool closed; /* no others than these */
    struct cs_err *err;
};

static enum cs_status wrong(struct cs_err *err, const char *name, const char *what)
{
    return cs_err_set(err, CS_INVALID, "invalid_arguments", "Argument `%.64s` %s", name, what);
}

static bool has_type(const struct cs_json *value, const char *type)
{
    switch (cs_json_type(value)) {
    case CS_JSON_STRING:
        return strcmp(type, "string") == 0;
    case CS_JSON_INT:
        return strcmp(type, "integer") == 0 || strcmp(type, "number") == 0;
    case CS_JSON_REAL:
        return strcmp(type, "number") == 0;
    case CS_JSON_BOOL:
        return strcmp(type, "boolean") == 0;
    case CS_JSON_ARRAY:
        return strcmp(type, "array") == 0;
    case CS_JSON_OBJECT:
        return strcmp(type, "object") == 0;
    case CS_JSON_NULL:
        return strcmp(type, "null") == 0;
    }
    return false;
}

static bool in_enum(const struct cs_json *list, const char *text)
{
    size_t i;

    for (i = 0; i < cs_json_size(list); i++)
        if (strcmp(cs_json_string(cs_json_at(list, i), NULL), text) == 0)
            return true;
    return false;
}

/* The model that reads it is to know what it may have. */
static enum cs_status not_in_enum(struct cs_err *err, const char *name, const struct cs_json *list)
{
    enum cs_status rc;
    struct cs_buf text;

    cs_buf_init(&text, 256);
    cs_buf_adds(&text, "must be one of ");
    cs_json_dump(list, &text);
    rc = wrong(err, name, text.status == CS_OK ? text.data : "is not one of those it may be");
    cs_buf_fini(&text);
    return rc;
}

static enum cs_status out_of_range(struct cs_err *err, const char *name,
                                   const struct cs_json *schema)
{
    int64_t most = cs_json_int(cs_json_get(schema, "maximum"), INT64_MAX);
    char what[64];

    if (most == INT64_MAX)
        snprintf(what, sizeof what, "must be at least %lld",
                 (long long)cs_json_int(cs_json_get(schema, "minimum"), 0));
    else
        snprintf(what, sizeof what, "must be from %lld to %lld",
                 (long long)cs_json_int(cs_json_get(schema, "minimum"), INT64_MIN),
                 (long long)most);
    return wrong(err, name, what);
}

static enum cs_status check_value(const struct cs_json *schema, const char *name,
                                  const struct cs_json *value, struct cs_err *err)
{
    const char *type = cs_json_get_string(schema, "type");
    const char *text = cs_json_string(value, NULL);
    int64_t number = cs_json_int(value, 0);

    if (type != NULL && !has_type(value, type)) {
        char what[64];

        snprintf(what, sizeof what, "must be of type %.32s", type);
        return wrong(err, name, what);
    }
    if (text != NULL && cs_json_get(schema, "enum") != NULL &&
        !in_enum(cs_json_get(schema, "enum"), text))
        return not_in_enum(err, name, cs_json_get(schema, "enum"));
    if (text != NULL && text[0] == '\0' && cs_json_int(cs_json_get(schema, "minLength"), 0) > 0)
        return wrong(err, name, "must not be empty");
    if (cs_json_type(value) == CS_JSON_INT &&
        (number < cs_json_int(cs_json_get(schema, "minimum"), INT64_MIN) ||
         number > cs_json_int(cs_json_get(schema, "maximum"), INT64_MAX)))
        return out_of_range(err, name, schema);
    return CS_OK;
}

static bool check_member(const char *name, const struct cs_json *value, void *arg)
{
    struct check *check = arg;
    const struct cs_json *schema = cs_json_get(check->properties, name);

    if (schema == NULL)
        return !check->closed || wrong(check->err, name, "is unknown") == CS_OK;
    return check_value(schema, name, value, check->err) == CS_OK;
}

enum cs_status cs_schema_check(const struct cs_json *schema, const struct cs_json *args,
                               struct cs_err *err)
{
    const struct cs_json *required = cs_json_get(schema, "required");
    struct cs_err why = {0};
    struct check check = {
        .properties = cs_json_get(schema, "properties"),
        .closed = !cs_json_bool(cs_json_get(schema, "additionalProperties"), true),
        .err = &why,
    };
    size_t i;

    if (args != NULL && cs_json_type(args) != CS_JSON_OBJECT)
        return cs_err_set(err, CS_INVALID, "invalid_arguments", "arguments must be an object");
    for (i = 0; i < cs_json_size(required); i++) {
        const char *name = cs_json_string(cs_json_at(required, i), NULL);

        if (cs_json_get(args, name) == NULL)
            return wrong(err, name, "is required");
    }
    if (args == NULL || cs_json_each(args, check_member, &check))
        return CS_OK;
    return cs_err_set(err, why.status, why.code, "%s", why.msg);
}
