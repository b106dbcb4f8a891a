/* main: the verbs `token` and `backup`. */
#include <stdio.h>
#include <stdlib.h>

#include "cs/api/http.h"
#include "cs/base/file.h"
#include "cs/store/store.h"
#include "verbs.h"

int cs_verb_token(const struct cs_verb_input *input)
{
    struct cs_err err = {0};
    char token[65];
    char *path;
    enum cs_status rc = cs_mkdir_private(input->config->data_dir, &err);

    if (rc != CS_OK)
        return cs_verb_fail(&err);
    path = cs_path_join(input->config->data_dir, "token");
    rc = path != NULL ? cs_token_load(path, token, &err) : cs_err_nomem(&err);
    free(path);
    if (rc != CS_OK)
        return cs_verb_fail(&err);
    puts(token);
    return 0;
}

int cs_verb_backup(const struct cs_verb_input *input)
{
    struct cs_err err = {0};

    if (cs_store_backup(input->config->data_dir, input->operand, &err) != CS_OK)
        return cs_verb_fail(&err);
    printf("wrote %s\n", input->operand);
    return 0;
}
