/* Any bytes as the end of a session's value in Redis: no crash, and a tail that is taken for ours
 * is whole. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mirror/script.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds)
{
    if (!holds)
        abort();
}

static bool positive(const char *origin, const struct cs_json *n, void *arg)
{
    (void)origin, (void)arg;
    return cs_json_int(n, 0) > 0;
}

static void check(const char *text, size_t len)
{
    struct cs_tail tail = {.kind = CS_TAIL_MISS};
    demand(cs_tail_parse(text, len, &tail, NULL) == CS_OK);
    demand((tail.kind == CS_TAIL_MISS) == (len == 0));
    if (tail.kind == CS_TAIL_WIDER)
        demand(len == CS_TAIL_WIDTH && tail.width > len && tail.width <= CS_TAIL_WIDTH_MAX);
    if (tail.kind == CS_TAIL_PROTOCOL)
        demand(tail.protocol > CS_PROTOCOL);
    if (tail.kind == CS_TAIL_OURS) {
        demand(tail.width <= len && tail.width >= CS_TAIL_WIDTH);
        demand(tail.length > 0 && tail.stamp >= 0 && tail.meta >= 0);
        demand(cs_json_each(tail.vv, positive, NULL));
    }
    cs_tail_fini(&tail);
}

/* As it is, and as the middle of what would be a tail. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char head[] = "],\"_cx\":{\"p\":1,\"L\":9,\"at\":1,\"ix\":1,\"mv\":0,\"vv\":{";
    static const char foot[] = ",\"w\":\"1024\"}";
    char tail[CS_TAIL_WIDTH];
    size_t room = sizeof tail - (sizeof head - 1) - (sizeof foot - 1);
    check(size > 0 ? (const char *)data : "", size);
    memset(tail, ' ', sizeof tail);
    memcpy(tail, head, sizeof head - 1);
    memcpy(tail + sizeof tail - (sizeof foot - 1), foot, sizeof foot - 1);
    if (size > 0)
        memcpy(tail + sizeof head - 1, data, size < room ? size : room);
    check(tail, sizeof tail);
    return 0;
}
