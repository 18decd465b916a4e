/* SPDX-License-Identifier: Apache-2.0 */
#include "common/repairs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/text.h"

static const char *const repairs_states[] = {
    [TB_REPAIR_WAITING] = "waiting", [TB_REPAIR_FETCHED] = "fetched", [TB_REPAIR_GIVEN_UP] = "given_up"};

static int repairs_add_record(cJSON *array, const struct tb_repair_record *r)
{
    cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddItemToArray(array, o) || !cJSON_AddStringToObject(o, "file", r->file) ||
        tb_json_add_uint(o, "chunk", r->chunk) < 0 || tb_json_add_uint(o, "tries", r->tries) < 0 ||
        !cJSON_AddStringToObject(o, "state", repairs_states[r->state]))
        return -ENOMEM;
    return 0;
}

int tb_repairs_add(cJSON *doc, const struct tb_repairs *s, bool named)
{
    cJSON *o, *array;

    if (s->waiting == 0 && s->fetched == 0 && s->n == 0)
        return 0;
    o = cJSON_AddObjectToObject(doc, "repairs");
    if (!o || tb_json_add_uint(o, "waiting", s->waiting) < 0 ||
        tb_json_add_uint(o, "fetched", s->fetched) < 0)
        return -ENOMEM;
    if (!named)
        return 0;
    array = cJSON_AddArrayToObject(o, "records");
    for (size_t i = 0; array && i < s->n; i++)
        if (repairs_add_record(array, &s->r[i]) < 0)
            return -ENOMEM;
    return array ? 0 : -ENOMEM;
}

static uint64_t repairs_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    (void)tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err);
    return v;
}

static bool repairs_read_record(const cJSON *o, struct tb_repair_record *ret)
{
    char err[TB_JSON_ERR_MAX];
    const char *file, *state;

    if (!cJSON_IsObject(o) || tb_json_get_string(o, "file", &file, err) < 0 ||
        tb_json_get_string(o, "state", &state, err) < 0)
        return false;
    *ret = (struct tb_repair_record){.chunk = repairs_uint(o, "chunk"),
                                     .tries = (unsigned)(repairs_uint(o, "tries") % 1000)};
    snprintf(ret->file, sizeof(ret->file), "%s", file);
    tb_text_trim(ret->file);
    for (size_t i = 0; i < sizeof(repairs_states) / sizeof(repairs_states[0]); i++)
        if (strcmp(state, repairs_states[i]) == 0) {
            ret->state = (enum tb_repair_state)i;
            return true;
        }
    return false;
}

void tb_repairs_read(const cJSON *doc, struct tb_repairs *ret)
{
    const cJSON *o = tb_json_member(doc, "repairs"), *record;

    *ret = (struct tb_repairs){0};
    if (!cJSON_IsObject(o))
        return;
    ret->waiting = repairs_uint(o, "waiting");
    ret->fetched = repairs_uint(o, "fetched");
    cJSON_ArrayForEach (record, tb_json_member(o, "records"))
        if (ret->n < TB_REPAIRS_MAX && repairs_read_record(record, &ret->r[ret->n]))
            ret->n++;
}
