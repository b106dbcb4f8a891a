/* api/openapi: the contract, as it was built in. */
#include "priv.h"

extern const struct cs_embedded cs_openapi[];

enum cs_status cs_api_openapi(struct cs_request *rq, struct cs_reply *reply, struct cs_err *err)
{
    struct cs_jsonw w;

    (void)rq;
    cs_reply_begin(reply, &w);
    reply->cacheable = true;
    cs_buf_add(&reply->out, cs_openapi[0].data, cs_openapi[0].len);
    return cs_buf_check(&reply->out, err);
}
