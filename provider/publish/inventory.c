/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/inventory.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/azure/blob_list.h"

#define MANIFEST_TAIL "/" ASSET_DEFAULT_MANIFEST
#define CIPHERTEXT_TAIL "/" ASSET_DEFAULT_NAME

void inventory_clear(struct inventory *i)
{
    for (size_t k = 0; k < i->n; k++) {
        free(i->v[k].folder);
        (void)tbenc_manifest_free(i->v[k].manifest);
    }
    free(i->v);
    blob_entries_clear(&i->entries);
}

const struct stored *inventory_find(const struct inventory *i, const char *folder)
{
    for (size_t k = 0; k < i->n; k++)
        if (strcmp(i->v[k].folder, folder) == 0)
            return &i->v[k];
    return NULL;
}

/* -- what lies there --------------------------------------------------------------------------- */

static struct stored *inventory_folder(struct inventory *i, const char *name, size_t len)
{
    struct stored *s;

    for (size_t k = 0; k < i->n; k++)
        if (strlen(i->v[k].folder) == len && memcmp(i->v[k].folder, name, len) == 0)
            return &i->v[k];
    s = &i->v[i->n];
    s->folder = strndup(name, len);
    if (!s->folder)
        return NULL;
    i->n++;
    return s;
}

static bool inventory_ends(const char *name, const char *tail, size_t *ret_len)
{
    size_t n = strlen(name), t = strlen(tail);

    *ret_len = n > t ? n - t : 0;
    return n > t && strcmp(name + n - t, tail) == 0;
}

static int inventory_sort_out(struct inventory *i)
{
    i->v = calloc(i->entries.n + 1, sizeof(*i->v));
    if (!i->v)
        return tbpkg_fail_errno(i->store->container, -ENOMEM);
    for (size_t k = 0; k < i->entries.n; k++) {
        const struct blob_entry *b = &i->entries.v[k];
        size_t len;
        bool ct = inventory_ends(b->name, CIPHERTEXT_TAIL, &len);
        struct stored *s =
            ct || inventory_ends(b->name, MANIFEST_TAIL, &len) ? inventory_folder(i, b->name, len) : NULL;

        if (s && ct)
            s->ct = b;
        else if (s)
            s->mf = b;
    }
    return CLI_OK;
}

/* A manifest that cannot be read is none: the list says so, and goes on. */
static int inventory_read_manifest(const struct inventory *i, struct stored *s)
{
    _cleanup_free_ char *path = tb_strf("%s/%s", i->store->container, s->mf->name), *text = NULL;
    struct tbenc_error e;
    size_t len;
    int rc = path ? store_fetch(i->store, path, TBENC_MANIFEST_MAX, &text, &len)
                  : tbpkg_fail_errno(s->folder, -ENOMEM);

    if (rc == CLI_OK && text)
        (void)tbenc_manifest_parse(text, len, TBENC_OVERLAY | TBENC_LENIENT, &s->manifest, &e);
    return rc;
}

static int inventory_count_blocks(const struct inventory *i, struct stored *s)
{
    _cleanup_staged_set_ struct blob_staged_set staged = {0}, committed = {0};
    struct blob_object o = {.path = tb_strf("%s/%s", i->store->container, s->ct->name)};
    int rc = o.path ? blob_object_staged(&i->store->client, &o, &staged, &committed)
                    : tbpkg_fail_errno(s->folder, -ENOMEM);

    free(o.path);
    s->staged_blocks = staged.n;
    for (size_t k = 0; k < staged.n; k++)
        s->staged_bytes += staged.blocks[k].size;
    s->uploading = (staged.n > 0 || staged.n_foreign > 0) && committed.n == 0 && s->ct->size == 0;
    return rc;
}

static int inventory_look(struct inventory *i)
{
    int rc = CLI_OK;

    for (size_t k = 0; rc == CLI_OK && k < i->n; k++) {
        struct stored *s = &i->v[k];

        if (s->mf)
            rc = inventory_read_manifest(i, s);
        if (rc == CLI_OK && s->ct)
            rc = inventory_count_blocks(i, s);
    }
    for (size_t k = 0; k < i->n; k++)
        for (size_t l = 0; l < i->n; l++) {
            const struct tbenc_manifest *over = i->v[k].manifest, *m = i->v[l].manifest;

            if (over && m && over->base && !m->base && strcmp(over->asset_id, m->asset_id) == 0 &&
                memcmp(over->base->sha256_ciphertext, m->sha256_ciphertext, TBENC_SHA256_BYTES) == 0)
                i->v[l].overlay = &i->v[k];
        }
    return rc;
}

/* -- what is registered ------------------------------------------------------------------------ */

static uint64_t inventory_number(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t n;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &n, err) == 0 ? n : 0;
}

static const char *inventory_text(const cJSON *o, const char *name)
{
    const cJSON *v = tb_json_member(o, name);

    return cJSON_IsString(v) ? v->valuestring : "";
}

/* By its place; or by what it is: the same ciphertext may be registered from another account. */
static bool inventory_is_version(const struct inventory *i, const struct stored *s, const cJSON *v)
{
    _cleanup_free_ char *url =
        tb_strf("%s/%s/%s" CIPHERTEXT_TAIL, i->store->service.url, i->store->container, s->folder);
    char hex[65] = "";

    if (s->manifest)
        tb_hex_encode(s->manifest->sha256_ciphertext, 32, hex);
    return (url && strcmp(url, inventory_text(v, "ciphertext_url")) == 0) ||
           (*hex && strcmp(hex, inventory_text(v, "sha256_ciphertext")) == 0);
}

static void inventory_take_versions(const struct inventory *i, struct stored *s, const cJSON *asset)
{
    const cJSON *versions = tb_json_member(asset, "versions"), *v;

    cJSON_ArrayForEach (v, versions) {
        if (s->version == 0 && inventory_is_version(i, s, v)) {
            s->version = inventory_number(v, "version");
            s->current = cJSON_IsTrue(tb_json_member(v, "current"));
        }
    }
    if (s->version == 0)
        return;
    cJSON_ArrayForEach (v, versions) {
        if (inventory_number(v, "base_version") == s->version)
            s->overlay_version = inventory_number(v, "version");
    }
    if (s->current)
        s->contracts = inventory_number(asset, "live_contracts");
}

/* One asset of those that are registered. */
static int inventory_ask_one(struct inventory *i, const char *asset_id)
{
    _cleanup_free_ char *path = remote_path("assets", asset_id);
    _cleanup_json_ cJSON *asset = NULL;
    int rc = remote_get(i->remote, path, &(struct remote_object){.kind = "asset", .name = asset_id}, &asset);

    for (size_t k = 0; rc == CLI_OK && k < i->n; k++)
        inventory_take_versions(i, &i->v[k], asset);
    return rc;
}

static int inventory_ask(struct inventory *i)
{
    _cleanup_json_ cJSON *assets = NULL;
    const cJSON *a;
    int rc = remote_list(i->remote, "assets", "assets", &assets);

    if (rc != CLI_OK)
        return rc;
    cJSON_ArrayForEach (a, tb_json_member(assets, "assets")) {
        if (rc == CLI_OK)
            rc = inventory_ask_one(i, inventory_text(a, "asset_id"));
    }
    return rc;
}

int inventory_take(struct inventory *i)
{
    int rc = blob_list(&i->store->client, &i->entries);

    if (rc == CLI_OK)
        rc = inventory_sort_out(i);
    if (rc == CLI_OK)
        rc = inventory_look(i);
    return rc == CLI_OK && i->remote ? inventory_ask(i) : rc;
}

/* -- saying it --------------------------------------------------------------------------------- */

static const char *inventory_state(const struct stored *s)
{
    if (s->uploading)
        return "uploading";
    if (!s->ct || !s->mf)
        return s->ct ? "no manifest" : "no ciphertext";
    if (!s->manifest)
        return "bad manifest";
    return s->ct->size == tbenc_manifest_ciphertext_bytes(s->manifest) ? "complete" : "wrong size";
}

static void inventory_show_age(cJSON *o, const struct blob_entry *b)
{
    char text[TB_RFC3339_MAX], age[TB_SPAN_MAX];
    uint64_t now = tb_now_realtime_us(), at;
    struct tm tm = {0};

    if (!b || !*b->modified || !strptime(b->modified, "%a, %d %b %Y %H:%M:%S GMT", &tm))
        return;
    at = (uint64_t)timegm(&tm) * TB_USEC_PER_SEC;
    cJSON_AddStringToObject(o, "modified_at", tb_rfc3339_format(at, 0, text));
    cJSON_AddStringToObject(o, "age", tb_span_format(now > at ? now - at : 0, age));
    tb_json_add_uint(o, "age_seconds", (now > at ? now - at : 0) / TB_USEC_PER_SEC);
}

cJSON *inventory_show(const struct inventory *i, const struct stored *s)
{
    _cleanup_free_ char *url = tb_strf("%s/%s/%s", i->store->service.url, i->store->container, s->folder);
    const struct tbenc_manifest *m = s->manifest;
    cJSON *o = cJSON_CreateObject();
    char hex[65];

    cJSON_AddStringToObject(o, "folder", s->folder);
    cJSON_AddStringToObject(o, "state", inventory_state(s));
    if (m)
        cJSON_AddStringToObject(o, "asset_id", m->asset_id);
    tb_json_add_uint(o, "bytes", s->ct && !s->uploading ? s->ct->size : s->staged_bytes);
    if (m && m->has_key_id) {
        tb_hex_encode(m->key_id, TBENC_KEY_ID_BYTES, hex);
        cJSON_AddStringToObject(o, "key_id", hex);
    }
    if (m) {
        tb_hex_encode(m->sha256_ciphertext, 32, hex);
        cJSON_AddStringToObject(o, "sha256_ciphertext", hex);
    }
    if (m && m->base)
        tb_json_add_uint(o, "base_version", m->base->version);
    if (s->staged_blocks)
        tb_json_add_uint(o, "uncommitted_blocks", s->staged_blocks);
    if (s->staged_bytes)
        tb_json_add_uint(o, "uncommitted_bytes", s->staged_bytes);
    inventory_show_age(o, s->ct ? s->ct : s->mf);
    if (i->remote)
        cJSON_AddBoolToObject(o, "registered", s->version != 0);
    if (s->version) {
        tb_json_add_uint(o, "version", s->version);
        cJSON_AddBoolToObject(o, "current", s->current);
        if (s->current)
            tb_json_add_uint(o, "contracts", s->contracts);
    }
    if (s->overlay)
        cJSON_AddStringToObject(o, "overlay", s->overlay->folder);
    if (url)
        cJSON_AddStringToObject(o, "url", url);
    return o;
}

int inventory_check_unneeded(const struct inventory *i, const struct stored *s)
{
    const char *id = s->manifest ? s->manifest->asset_id : s->folder;

    if (s->overlay_version)
        tbpkg_failf(s->folder,
                    "version %" PRIu64 " of %s stands on it; remove that "
                    "first: tbpkg asset delete %s@%" PRIu64,
                    s->overlay_version, id, id, s->overlay_version);
    else if (s->version)
        tbpkg_failf(s->folder,
                    "is registered as version %" PRIu64 " of %s%s, and machines fetch it; first: tbpkg asset "
                    "delete %s@%" PRIu64,
                    s->version, id, s->current ? ", the current one" : "", id, s->version);
    else if (s->overlay)
        tbpkg_failf(s->folder, "%s in the same container stands on it; remove that first: tbpkg rm %s",
                    s->overlay->folder, s->overlay->folder);
    else
        return CLI_OK;
    (void)i;
    return CLI_REFUSED;
}
