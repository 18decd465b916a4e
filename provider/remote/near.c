/* SPDX-License-Identifier: Apache-2.0 */
/* The name that was meant, for who wrote another. */
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/near.h"
#include "provider/remote/remote.h"

static const struct {
    const char *kind, *path, *member, *id;
} near_kinds[] = {
    {"contract", "contracts", "contracts", "contract_id"},
    {"machine", "machines", "machines", "hw_id"},
    {"asset", "assets", "assets", "asset_id"},
    {"token", "tokens", "tokens", "name"},
    {"offer", "offers", "offers", "offer_id"},
    {"purchase", "purchases", "purchases", "purchase_id"},
};

/* One page is enough for a hint, and nothing is said when it may not be read. */
char *remote_near(const struct remote *r, const struct remote_object *object)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_json_ cJSON *page = NULL;
    _cleanup_free_ char *path = NULL, *full = NULL;
    char why[TB_JSON_ERR_MAX];
    const cJSON *row;
    size_t k = 0;

    while (k < ARRAY_SIZE(near_kinds) && (!object->kind || strcmp(near_kinds[k].kind, object->kind) != 0))
        k++;
    if (k == ARRAY_SIZE(near_kinds) || !object->name)
        return NULL;
    path = remote_query(strdup(near_kinds[k].path), "limit", "1000");
    path = remote_query(path, "contract_id", object->contract);
    full = path ? tb_strf(REMOTE_ADMIN "%s", path) : NULL;
    if (!full ||
        remote_exchange(r, &(struct remote_call){.path = full, .answer_max = REMOTE_ANSWER_MAX}, &rs) !=
            CLI_OK ||
        rs.status != 200 || tb_json_parse(rs.body, rs.len, REMOTE_ANSWER_MAX, &page, why) < 0)
        return NULL;
    cJSON_ArrayForEach (row, tb_json_member(page, near_kinds[k].member)) {
        const char *name = NULL;

        if (tb_json_get_string(row, near_kinds[k].id, &name, why) == 0 && tb_near(object->name, name))
            return strdup(name);
    }
    return NULL;
}
