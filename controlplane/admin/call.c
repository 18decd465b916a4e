/* SPDX-License-Identifier: Apache-2.0 */
/* What the calls have in common: refusals, parameters, members, listings. */
#include "controlplane/admin/call.h"

#include <stdarg.h>
#include <string.h>

#include "common/text.h"
#include "common/units.h"

int cp_refuse(struct cp_call *c, unsigned status, const char *error, const char *fmt, ...)
{
    char message[600];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    tb_text_plain(message); /* it may have a name of the path, and ends on a terminal */
    tb_json_freep(&c->answer);
    c->answer = cJSON_CreateObject();
    cJSON_AddStringToObject(c->answer, "error", error);
    cJSON_AddStringToObject(c->answer, "message", message);
    c->status = status;
    c->refused = true;
    return -ECANCELED;
}

int cp_refuse_unknown(struct cp_call *c, const char *noun, const char *id)
{
    char error[40];

    snprintf(error, sizeof(error), "%s_unknown", noun);
    return cp_refuse(c, 404, error, "there is no %s %s; list them to see their names", noun, id);
}

/* -- query ------------------------------------------------------------------------------------- */

bool cp_is_text(const char *s)
{
    size_t n;

    for (; *s; s += n) {
        n = tb_utf8_char(s, NULL);
        if (n == 0)
            return false;
    }
    return true;
}

int cp_query_check(struct cp_call *c, const char *const *names)
{
    const struct cp_query *q = c->rq->query;

    if (q && q->n > CP_QUERY_MAX)
        return cp_refuse_body(c, "there are more than %d parameters", CP_QUERY_MAX);
    for (size_t i = 0; q && i < q->n; i++) {
        size_t k = 0;

        while (names[k] && strcmp(names[k], q->v[i].name) != 0)
            k++;
        if (!names[k])
            return cp_refuse_body(c, "this call has no parameter of that name; its description names them");
        for (size_t j = 0; j < i; j++)
            if (strcmp(q->v[j].name, names[k]) == 0)
                return cp_refuse_body(c, "the parameter %s is there twice", names[k]);
        if (!q->v[i].value || !*q->v[i].value)
            return cp_refuse_body(c, "the parameter %s has no value", names[k]);
        if (!cp_is_text(q->v[i].value))
            return cp_refuse_body(c, "the parameter %s is not UTF-8", names[k]);
    }
    return 0;
}

const char *cp_query_text(const struct cp_call *c, const char *name)
{
    const struct cp_query *q = c->rq->query;

    for (size_t i = 0; q && i < q->n && i < CP_QUERY_MAX; i++)
        if (strcmp(q->v[i].name, name) == 0)
            return q->v[i].value;
    return "";
}

int cp_query_uint(struct cp_call *c, const char *name, uint64_t min, uint64_t max, uint64_t fallback,
                  uint64_t *ret)
{
    const char *text = cp_query_text(c, name);

    *ret = fallback;
    if (*text && tb_uint_parse(text, min, max, ret) < 0)
        return cp_refuse_body(c, "the parameter %s is not a number of %llu to %llu", name,
                              (unsigned long long)min, (unsigned long long)max);
    return 0;
}

int cp_query_word(struct cp_call *c, const char *name, const char *const *words, const char **ret)
{
    *ret = cp_query_text(c, name);
    if (!**ret)
        return 0;
    for (; *words; words++)
        if (strcmp(*words, *ret) == 0)
            return 0;
    return cp_refuse_body(c, "the parameter %s has a value that it does not know", name);
}

int cp_query_contract(struct cp_call *c, const char **ret)
{
    *ret = cp_query_text(c, "contract_id");
    return **ret && !tb_id_valid(*ret)
               ? cp_refuse_body(c, "the parameter contract_id does not match ^[A-Za-z0-9_-]{1,100}$")
               : 0;
}

int cp_query_limit(struct cp_call *c, uint64_t *ret)
{
    return cp_query_uint(c, "limit", 1, CP_PAGE_MAX, CP_PAGE_DEFAULT, ret);
}

/* -- body -------------------------------------------------------------------------------------- */
static int body_refuse_member(struct cp_call *c, const char *const *names)
{
    char known[300] = "none";
    size_t n = 0;

    for (size_t i = 0; names[i] && n < sizeof(known); i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", names[i]);
    return cp_refuse_body(c, "there is a member that this call does not know; it knows: %s", known);
}

int cp_body_check(struct cp_call *c, const cJSON *o, const char *const *names)
{
    const cJSON *m;

    cJSON_ArrayForEach (m, o) {
        size_t k = 0;

        while (names[k] && strcmp(names[k], m->string) != 0)
            k++;
        if (!names[k])
            return body_refuse_member(c, names);
    }
    return 0;
}

static bool body_has(const cJSON *o, const char *name, bool null, uint64_t *ret)
{
    const cJSON *m = tb_json_member(o, name);

    if (m && null && cJSON_IsNull(m)) {
        *ret = 0;
        return false;
    }
    return m;
}

int cp_body_uint(struct cp_call *c, const cJSON *o, const char *name, uint64_t min, uint64_t max, bool null,
                 uint64_t *ret)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v;

    if (!body_has(o, name, null, ret))
        return 0;
    if (tb_json_get_uint(o, name, max, &v, err) < 0 || v < min)
        return cp_refuse_body(c, "%s is not a whole number of %llu to %llu", name, (unsigned long long)min,
                              (unsigned long long)max);
    *ret = v;
    return 0;
}

int cp_body_time(struct cp_call *c, const cJSON *o, const char *name, bool null, uint64_t *ret)
{
    char err[TB_JSON_ERR_MAX];
    const char *text;
    uint64_t us;

    if (!body_has(o, name, null, ret))
        return 0;
    if (tb_json_get_string(o, name, &text, err) < 0 || tb_rfc3339_parse(text, &us) < 0 || us == 0)
        return cp_refuse_body(c, "%s is not a time like 2026-12-31T00:00:00Z", name);
    *ret = us;
    return 0;
}

static bool body_asset_ref_valid(const char *id)
{
    return strcmp(id, CP_ANY_ASSET) == 0 || tb_asset_id_valid(id);
}

static bool body_hw_id_valid(const char *id)
{
    for (const char *s = id; *s; s++)
        if (*s <= ' ' || *s >= 0x7f)
            return false;
    return *id && strlen(id) <= CP_HW_ID_MAX;
}

static bool body_any_text(const char *text)
{
    return *text;
}

const struct cp_id_kind cp_plain_id = {tb_id_valid, "1 to 100 letters, digits, _ and -"},
                        cp_asset_ref_id = {body_asset_ref_valid, "\"*\" or " TB_ASSET_ID_WORDS},
                        cp_hw_id = {body_hw_id_valid, "1 to 200 printable characters without space"},
                        cp_asset_id = {tb_asset_id_valid, TB_ASSET_ID_WORDS},
                        cp_any_text = {body_any_text, "a text of that length"};

int cp_body_id(struct cp_call *c, const char *name, const struct cp_id_kind *kind, const char *fallback,
               char *out, size_t room)
{
    char err[TB_JSON_ERR_MAX];
    const char *text = fallback;

    if ((tb_json_member(c->body, name) || !fallback) && tb_json_get_string(c->body, name, &text, err) < 0)
        return cp_refuse_body(c, "%s", err);
    if (text != fallback && (strlen(text) >= room || !kind->valid(text)))
        return cp_refuse_body(c, "%s is not %s", name, kind->words);
    memmove(out, text, strlen(text) + 1); /* the fallback may be what is there */
    return 0;
}

int cp_body_mode(struct cp_call *c, enum cp_mode *ret)
{
    char err[TB_JSON_ERR_MAX];
    const char *mode;

    if (!tb_json_member(c->body, "mode"))
        return 0;
    if (tb_json_get_string(c->body, "mode", &mode, err) == 0)
        for (int m = 0; m < _CP_MODE_MAX; m++)
            if (strcmp(mode, cp_mode_names[m]) == 0) {
                *ret = (enum cp_mode)m;
                return 0;
            }
    return cp_refuse_body(c, "mode is not enrolled, certificate or open");
}

/* -- answers ----------------------------------------------------------------------------------- */
cJSON *cp_say(struct cp_call *c, unsigned status)
{
    tb_json_freep(&c->answer);
    c->status = status;
    c->answer = cJSON_CreateObject();
    return c->answer;
}

int cp_listing_begin(struct cp_call *c, const char *name, struct cp_listing *ret)
{
    *ret = (struct cp_listing){.c = c};
    ret->array = cJSON_AddArrayToObject(cp_say(c, 200), name);
    return ret->array ? cp_query_limit(c, &ret->limit) : -ENOMEM;
}

cJSON *cp_listing_row(struct cp_listing *l, int *ret)
{
    cJSON *o;

    *ret = 1; /* stops */
    l->more = l->n == l->limit;
    if (l->more)
        return NULL;
    o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(l->array, o)) {
        *ret = -ENOMEM;
        return NULL;
    }
    l->n++;
    *ret = 0;
    return o;
}

int cp_listing_end(struct cp_listing *l, int r)
{
    if (r < 0)
        return r;
    if (l->more)
        cJSON_AddStringToObject(l->c->answer, "next", l->last);
    return 0;
}

int cp_note(struct cp_store *s, struct cp_call *c, const char *action, const char *object, cJSON *before,
            cJSON *after)
{
    _cleanup_json_ cJSON *details = cJSON_CreateObject();
    char scopes[CP_SCOPES_TEXT_MAX], key[CP_SHA256_HEX + 1];

    cJSON_AddStringToObject(details, "scopes", cp_scopes_text(c->who.scopes, scopes));
    if (c->rq->idempotency_key) {
        cp_idempotency_hash(c, key);
        cJSON_AddStringToObject(details, "idempotency", key);
    }
    if (before && !cJSON_AddItemToObject(details, "before", before))
        cJSON_Delete(before);
    if (after && !cJSON_AddItemToObject(details, "after", after))
        cJSON_Delete(after);
    return details ? cp_store_add_change_json(s, c->now_us, c->who.actor, action, object, details) : -ENOMEM;
}
