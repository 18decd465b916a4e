/* SPDX-License-Identifier: Apache-2.0 */
#include "common/serving.h"

#include <string.h>

#include "common/domain_file.h"
#include "common/id.h"
#include "common/io.h"
#include "common/json.h"

static uint64_t serving_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err) == 0 ? v : 0;
}

static bool serving_bool(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    bool v = false;

    return tb_json_get_bool(o, name, &v, err) == 0 && v;
}

int tb_serving_read(const char *target_dir, const char *asset_id, struct tb_serving *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *id = "";
    int r = tb_state_read_at(target_dir, TB_SERVING_NAME, &o);

    if (r < 0)
        return r;
    *ret = (struct tb_serving){.version = serving_uint(o, "version"),
                               .beside = serving_bool(o, "beside"),
                               .previous = serving_uint(o, "previous"),
                               .previous_beside = serving_bool(o, "previous_beside")};
    if (tb_json_get_string(o, "asset_id", &id, err) < 0 || !tb_asset_id_valid(id) || ret->version == 0)
        return -EBADMSG;
    snprintf(ret->asset_id, sizeof(ret->asset_id), "%s", id);
    return strcmp(id, asset_id) == 0 ? 0 : -ENOENT;
}

uint64_t tb_serving_version(const char *target_dir, const char *asset_id)
{
    struct tb_serving s;

    return tb_serving_read(target_dir, asset_id, &s) == 0 ? s.version : 0;
}

uint64_t tb_serving_held(const char *target_dir, const char *asset_id, uint64_t current)
{
    struct tb_serving s;

    if (tb_serving_read(target_dir, asset_id, &s) < 0)
        return 0;
    return s.previous && (current == 0 || current == s.version) ? s.previous : s.version;
}

int tb_serving_write(const char *target_dir, const struct tb_serving *s)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddStringToObject(o, "asset_id", s->asset_id) ||
        tb_json_add_uint(o, "version", s->version) < 0 || !cJSON_AddBoolToObject(o, "beside", s->beside))
        return -ENOMEM;
    if (s->previous && (tb_json_add_uint(o, "previous", s->previous) < 0 ||
                        !cJSON_AddBoolToObject(o, "previous_beside", s->previous_beside)))
        return -ENOMEM;
    return tb_state_write(target_dir, TB_SERVING_NAME, o, 1);
}

char *tb_serving_place(const char *target_dir, const char *asset_id, uint64_t version, bool beside)
{
    return beside ? tb_strf("%s/%s@%llu", target_dir, asset_id, (unsigned long long)version)
                  : strdup(target_dir);
}

char *tb_serving_dir(const char *target_dir, const char *asset_id)
{
    struct tb_serving s;

    return tb_serving_read(target_dir, asset_id, &s) < 0
               ? strdup(target_dir)
               : tb_serving_place(target_dir, asset_id, s.version, s.beside);
}

bool tb_serving_is_place(const char *name)
{
    const char *at = strrchr(name, '@');
    char id[TB_ID_MAX + 1];

    if (!at || at - name > TB_ID_MAX || at[1] < '1' || at[1] > '9' || strlen(at + 1) > 16 ||
        strspn(at + 1, "0123456789") != strlen(at + 1))
        return false;
    snprintf(id, sizeof(id), "%.*s", (int)(at - name), name);
    return tb_asset_id_valid(id);
}
