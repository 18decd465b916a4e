/* SPDX-License-Identifier: Apache-2.0 */
/* key-encryption keys: which wrap what, and everything wrapped anew under the current one. The key service
 * takes its time, so it is asked before the transaction, which puts a new wrapping only in the place of the
 * one that it was made from. A call does a few keys; who calls goes on until none is left. */
#include <inttypes.h>
#include <string.h>

#include "controlplane/admin/call.h"

#define REWRAP_KEYS 20 /* in one call */

struct cp_rewrap {
    struct cp_asset from;
    struct cp_wrapped to;
};

void cp_kek_release(struct cp_call *c)
{
    free(c->rewraps);
    c->rewraps = NULL;
}

static int kek_rewrap(struct cp_call *c, struct cp_rewrap *w)
{
    struct cp_keyring *k = c->api->keyring;
    _cleanup_key_ struct tb_key key;
    int r = cp_keyring_unwrap(k, w->from.asset_id, &w->from.wrapped, &key);

    if (r == -ENOKEY)
        return cp_refuse(c, 409, "kek_unknown",
                         "version %" PRIu64
                         " of %s is under %s, which this server does not know; its operator "
                         "names it with --kek-old",
                         w->from.version, w->from.asset_id,
                         *w->from.wrapped.kek_id ? w->from.wrapped.kek_id : "a file's key without an id");
    if (r == 0)
        r = cp_keyring_wrap(k, w->from.asset_id, &key, &w->to);
    if (r == -EAGAIN)
        return cp_refuse(c, 503, "key_service_unavailable", "the key service does not answer; try again");
    if (r < 0)
        return cp_refuse(c, 500, "key_not_opened", "the key of version %" PRIu64 " of %s does not open",
                         w->from.version, w->from.asset_id);
    return 0;
}

static int kek_rewrap_some(struct cp_store *s, struct cp_call *c)
{
    struct cp_asset after = {0};
    int r = 0;

    c->rewraps = calloc(REWRAP_KEYS, sizeof(*c->rewraps));
    if (!c->rewraps)
        return -ENOMEM;
    while (r == 0 && c->n_rewraps < REWRAP_KEYS) {
        struct cp_rewrap *w = &c->rewraps[c->n_rewraps];

        r = cp_store_next_other_kek(s, c->kek_id, &after, &w->from);
        if (r < 0)
            return r == -ENOENT ? 0 : r;
        after = w->from;
        r = kek_rewrap(c, w);
        c->n_rewraps++;
    }
    return r;
}

int cp_kek_prepare(struct cp_store *s, struct cp_call *c)
{
    int r = c->api->keyring ? cp_keyring_check(c->api->keyring, c->kek_id) : -EAGAIN;

    if (r < 0)
        c->kek_id[0] = '\0';
    if (c->name == CP_CALL_KEK_LIST)
        return 0;
    if (r < 0)
        return cp_refuse(c, 503, "key_service_unavailable",
                         "the current key-encryption key does not wrap and unwrap now; try again");
    return kek_rewrap_some(s, c);
}

/* -- the calls --------------------------------------------------------------------------------- */
struct kek_sheet {
    cJSON *array;
    const char *current;
    uint64_t left; /* not under the current one */
};

static int kek_row(const char *kek_id, uint64_t versions, void *ctx)
{
    struct kek_sheet *h = ctx;
    bool current = *h->current && strcmp(kek_id, h->current) == 0;
    cJSON *o;

    h->left += current ? 0 : versions;
    if (!h->array)
        return 0;
    o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(h->array, o))
        return -ENOMEM;
    cJSON_AddStringToObject(o, "kek_id", kek_id);
    tb_json_add_uint(o, "versions", versions);
    cJSON_AddBoolToObject(o, "current", current);
    return 0;
}

int cp_admin_kek_list(struct cp_store *s, struct cp_call *c)
{
    struct kek_sheet h = {.current = c->kek_id};
    int r = cp_query_check(c, (const char *const[]){NULL});
    cJSON *o;

    if (r < 0)
        return r;
    o = cp_say(c, 200);
    if (*c->kek_id)
        cJSON_AddStringToObject(o, "current", c->kek_id);
    h.array = cJSON_AddArrayToObject(o, "keks");
    return h.array ? cp_store_each_kek(s, kek_row, &h) : -ENOMEM;
}

static int kek_put(struct cp_store *s, struct cp_call *c, const struct cp_rewrap *w)
{
    cJSON *before, *after;
    int r = cp_store_rewrap_asset(s, &w->from, &w->to);

    if (r < 0)
        return r;
    before = cJSON_CreateObject();
    after = cJSON_CreateObject();
    tb_json_add_uint(before, "version", w->from.version);
    cJSON_AddStringToObject(before, "kek_id", w->from.wrapped.kek_id);
    tb_json_add_uint(after, "version", w->from.version);
    cJSON_AddStringToObject(after, "kek_id", w->to.kek_id);
    return cp_note(s, c, "asset.rewrap", w->from.asset_id, before, after);
}

int cp_admin_kek_rewrap(struct cp_store *s, struct cp_call *c)
{
    struct kek_sheet h = {.current = c->kek_id};
    uint64_t done = 0;
    cJSON *o;
    int r = cp_body_check(c, c->body, (const char *const[]){NULL});

    for (size_t i = 0; r == 0 && i < c->n_rewraps; i++) {
        r = kek_put(s, c, &c->rewraps[i]);
        done += r == 0;
        if (r == -ESTALE) /* somebody else wrapped it anew meanwhile */
            r = 0;
    }
    if (r == 0)
        r = cp_store_each_kek(s, kek_row, &h);
    if (r < 0)
        return r;
    o = cp_say(c, 200);
    cJSON_AddStringToObject(o, "current", c->kek_id);
    tb_json_add_uint(o, "rewrapped", done);
    return tb_json_add_uint(o, "left", h.left) == 0 ? 0 : -ENOMEM;
}
