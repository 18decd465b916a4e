/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/release.h"

#include <string.h>

#include "common/hex.h"

int cp_release_find(struct cp_store *s, struct cp_release *l)
{
    struct cp_asset base;
    int r = cp_store_get_places(s, &l->asset, &l->places);

    l->base_places.n = 0;
    if (r < 0 || l->asset.base_version == 0)
        return r;
    r = cp_store_get_asset(s, l->asset.asset_id, l->asset.base_version, &base);
    return r < 0 ? r : cp_store_get_places(s, &base, &l->base_places);
}

static void release_prepare_places(const struct cp_sas *sas, const struct cp_places *p, uint64_t now_us)
{
    for (size_t i = 0; i < p->n; i++) {
        (void)cp_sas_prepare(sas, p->v[i].ciphertext_url, now_us);
        (void)cp_sas_prepare(sas, p->v[i].manifest_url, now_us);
    }
}

void cp_release_prepare(const struct cp_sas *sas, const struct cp_release *l, uint64_t now_us)
{
    release_prepare_places(sas, &l->places, now_us);
    release_prepare_places(sas, &l->base_places, now_us);
}

/* One that cannot be signed now is left out, if another can. */
static int release_deal_places(const struct cp_sas *sas, const struct cp_places *places, const char *machine,
                               uint64_t now_us, uint64_t end_us, struct cp_release_urls *ret)
{
    size_t order[CP_DEALT_MAX], n = cp_deal(places, machine, order);
    int failed = 0;

    ret->n = 0;
    for (size_t i = 0; i < n; i++) {
        const struct cp_blob_place *p = &places->v[order[i]];
        int r = cp_sas_url(sas, p->ciphertext_url, now_us, end_us, ret->v[ret->n].sas);

        if (r >= 0)
            r = cp_sas_url(sas, p->manifest_url, now_us, end_us, ret->v[ret->n].manifest);
        if (r >= 0)
            ret->n++;
        else
            failed = r;
    }
    return ret->n ? 0 : failed;
}

int cp_release_deal(const struct cp_sas *sas, struct cp_release *l, const char *machine, uint64_t now_us,
                    uint64_t end_us)
{
    int r = release_deal_places(sas, &l->places, machine, now_us, end_us, &l->urls);

    l->base_urls.n = 0;
    if (r == 0 && l->base_places.n)
        r = release_deal_places(sas, &l->base_places, machine, now_us, end_us, &l->base_urls);
    return r;
}

static bool release_add_place(const struct cp_release_urls *u, size_t i, cJSON *o)
{
    return cJSON_AddStringToObject(o, "sas_url", u->v[i].sas) &&
           cJSON_AddStringToObject(o, "manifest_url", u->v[i].manifest);
}

/* Clients that are older do not look at the fallbacks. */
static bool release_add_urls(const struct cp_release_urls *u, cJSON *j)
{
    cJSON *array;

    if (!release_add_place(u, 0, j))
        return false;
    array = u->n > 1 ? cJSON_AddArrayToObject(j, "fallbacks") : NULL;
    for (size_t i = 1; array && i < u->n; i++) {
        cJSON *o = cJSON_CreateObject();

        if (!o || !cJSON_AddItemToArray(array, o) || !release_add_place(u, i, o))
            return false;
    }
    return array || u->n <= 1;
}

bool cp_release_add_urls(const struct cp_release *l, cJSON *j)
{
    return release_add_urls(&l->urls, j);
}

bool cp_release_add_key(const struct cp_release *l, cJSON *j)
{
    char hex[TB_KEY_HEX_CHARS + 1];
    bool ok;

    tb_hex_encode(l->key.b, sizeof(l->key.b), hex);
    ok = cJSON_AddStringToObject(j, "decryption_key_hex", hex);
    tb_erase(hex, sizeof(hex));
    return ok;
}

bool cp_release_add_version(const struct cp_release *l, cJSON *j)
{
    cJSON *base;

    if ((*l->asset.manifest_sha256 &&
         !cJSON_AddStringToObject(j, "manifest_sha256", l->asset.manifest_sha256)) ||
        tb_json_add_uint(j, "asset_version", l->asset.version) < 0)
        return false;
    if (l->base_urls.n == 0)
        return true;
    base = cJSON_AddObjectToObject(j, "base");
    return base && tb_json_add_uint(base, "asset_version", l->asset.base_version) == 0 &&
           release_add_urls(&l->base_urls, base);
}
