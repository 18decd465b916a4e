/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/asset.h"

#include <openssl/sha.h>
#include <string.h>

#include "common/fdpass.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/provider_key.h"
#include "common/serving.h"
#include "decrypt/header.h"
#include "decrypt/reply.h"
#include "decrypt/unwrap.h"
#include "tbenc/signature.h"

#define MANIFEST_NAME "model.manifest.json"

static void asset_manifest_freep(struct tbenc_manifest **m)
{
    *m = tbenc_manifest_free(*m);
}

static int asset_no_credential(struct tb_outcome *o, const char *name, int r)
{
    if (r == -EACCES)
        return tb_outcome_set(
            o, TB_EXIT_NOPERM,
            "the credential %s was refused: the contract does not allow this asset now; see "
            "'journalctl --namespace=trustbridge -u tb-authorize'",
            name);
    if (r == -ENXIO || r == -ENOENT)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "there is no credential %s; the unit needs LoadCredential=%s:SOCKET", name,
                              name);
    return tb_outcome_set(o, TB_EXIT_IOERR, "cannot read the credential %s: %s", name, strerror(-r));
}

/* As it came: 64 hex digits, or "none". */
static int asset_manifest_named(char ret[static TB_KEY_HEX_CHARS + 1], struct tb_outcome *o)
{
    _cleanup_secret_ char *value = NULL;
    size_t len;
    int r = tb_credential_read("manifest-sha256", &value, &len);

    if (r < 0)
        return asset_no_credential(o, "manifest-sha256", r);
    if (len > 0 && value[len - 1] == '\n')
        len--;
    if (len > TB_KEY_HEX_CHARS)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "the credential manifest-sha256 is neither 64 hex digits nor 'none'");
    snprintf(ret, TB_KEY_HEX_CHARS + 1, "%.*s", (int)len, value);
    return 0;
}

static int asset_unwrap(const struct tb_config *c, const struct tb_wrapped_key *w, struct tb_key *ret,
                        struct tb_outcome *o)
{
    char manifest[TB_KEY_HEX_CHARS + 1];
    int r = asset_manifest_named(manifest, o);

    return r == 0 ? tb_unwrap_key(c, manifest, w, ret, o) : r;
}

int tb_asset_key(const struct tb_config *c, struct tb_key *ret, struct tb_outcome *o)
{
    _cleanup_secret_ char *value = NULL;
    struct tb_wrapped_key w;
    size_t len;
    int r = tb_credential_read("model-key", &value, &len);

    if (r < 0)
        return asset_no_credential(o, "model-key", r);
    if (len == TB_KEY_BYTES) {
        memcpy(ret->b, value, TB_KEY_BYTES);
        return 0;
    }
    if (tb_wrapped_key_read(value, len, &w) < 0)
        return tb_outcome_set(
            o, TB_EXIT_NOPERM,
            "the credential model-key has %zu bytes, neither a key's %d nor a sealed one's %d: "
            "the key was refused",
            len, TB_KEY_BYTES, TB_WRAPPED_KEY_BYTES);
    return asset_unwrap(c, &w, ret, o);
}

/* Is this the manifest the contract names? */
static int asset_check_bound(const uint8_t sha256[static TBENC_SHA256_BYTES], struct tb_outcome *o)
{
    char value[TB_KEY_HEX_CHARS + 1];
    uint8_t want[TBENC_SHA256_BYTES];
    int r = asset_manifest_named(value, o);

    if (r != 0)
        return r;
    if (strcmp(value, "none") == 0)
        return 0;
    if (tb_hex_decode(value, strlen(value), want, sizeof(want)) < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG,
                              "the credential manifest-sha256 is neither 64 hex digits nor 'none'");
    if (!tb_mem_equal(want, sha256, sizeof(want)))
        return tb_outcome_set(o, TB_EXIT_DATAERR,
                              MANIFEST_NAME
                              " is not the manifest the contract names (its SHA-256 differs); remove it so "
                              "that tb-hydrate fetches it again");
    return 0;
}

/* What was signed, by whom TB_PROVIDER_KEY names. */
static int asset_parse_manifest(const char *provider_key, const char *path, const char *text, size_t len,
                                struct tbenc_manifest **ret, struct tb_outcome *o)
{
    struct tb_minisign_keys keys;
    char err[TB_MINISIGN_ERR_MAX];
    struct tbenc_error e = {0};
    int r = tb_provider_key_load(provider_key, &keys, err);

    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG, "TB_PROVIDER_KEY: %s", err);
    r = tbenc_manifest_parse_signed(text, len, TBENC_OVERLAY, &keys, ret, &e);
    if (r == -ENOKEY)
        return tb_outcome_set(
            o, TB_EXIT_DATAERR,
            "%s: %s; TB_PROVIDER_KEY pins whose signature counts: have the provider sign it "
            "(tbpkg sign), or pin the provider's new key",
            path, e.message);
    if (r < 0)
        return tb_outcome_set(o, r == -ENOMEM ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "%s: %s", path, e.message);
    return 0;
}

static int asset_read_manifest(const char *dir, const char *provider_key,
                               const uint8_t client_sha256[static TBENC_SHA256_BYTES],
                               struct tbenc_manifest **ret, struct tb_outcome *o)
{
    _cleanup_free_ char *path = tb_path_join(dir, MANIFEST_NAME), *text = NULL;
    uint8_t sha256[TBENC_SHA256_BYTES];
    size_t len;
    int r;

    if (!path)
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r == -ENOENT)
        return tb_outcome_set(o, TB_EXIT_NOINPUT, "%s is not there; tb-hydrate has not finished", path);
    if (r == -EFBIG)
        return tb_outcome_set(o, TB_EXIT_DATAERR, "%s is larger than any manifest may be", path);
    if (r < 0)
        return tb_outcome_set(o, tb_errno_is_ours(r) ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "cannot read %s: %s",
                              path, strerror(-r));
    SHA256((const uint8_t *)text, len, sha256);
    /* First: another version may have been chosen since. That passes, and is no fault of the manifest. */
    if (!tb_mem_equal(sha256, client_sha256, sizeof(sha256)))
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s changed since the client read it; start again", path);
    r = asset_check_bound(sha256, o);
    return r == 0 ? asset_parse_manifest(provider_key, path, text, len, ret, o) : r;
}

/* What an overlay stands on lies in a place of its own, by a manifest that the overlay's binds. */
static int asset_open_base(const char *dir, const struct tbenc_manifest *m, struct tb_asset *ret,
                           struct tb_outcome *o)
{
    _cleanup_free_ char *place = tb_path_join(dir, TB_SERVING_BASE_NAME), *path = NULL, *text = NULL;
    struct tbenc_error e = {0};
    size_t len;
    int r;

    path = place ? tb_path_join(place, MANIFEST_NAME) : NULL;
    if (!path)
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r == -ENOENT)
        return tb_outcome_set(o, TB_EXIT_NOINPUT, "%s is not there; tb-hydrate has not finished", path);
    if (r < 0)
        return tb_outcome_set(o, tb_errno_is_ours(r) ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "cannot read %s: %s",
                              path, strerror(-r));
    r = tbenc_base_parse(m, text, len, &ret->base, &e);
    if (r < 0)
        return tb_outcome_set(o, r == -ENOMEM ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "%s: %s", path, e.message);
    return tb_supply_open(&ret->base_supply, place, ret->base, o);
}

int tb_asset_open(const struct tb_config *c, const uint8_t client_sha256[static TBENC_SHA256_BYTES],
                  struct tb_asset *ret, struct tb_outcome *o)
{
    _cleanup_(asset_manifest_freep) struct tbenc_manifest *m = NULL;
    _cleanup_free_ char *dir = tb_serving_dir(c->target_dir, c->asset_id);
    int r = dir ? asset_read_manifest(dir, c->provider_key, client_sha256, &m, o)
                : tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");

    if (r != 0)
        return r;
    if (strcmp(m->asset_id, c->asset_id) != 0)
        return tb_outcome_set(o, TB_EXIT_DATAERR, MANIFEST_NAME " is of asset '%s', TB_ASSET_ID is '%s'",
                              m->asset_id, c->asset_id);
    r = tb_supply_open(&ret->supply, dir, m, o);
    ret->manifest = TAKE_PTR(m); /* which it goes by */
    if (r == 0 && ret->manifest->base)
        r = asset_open_base(dir, ret->manifest, ret, o);
    if (r == 0 && tbenc_manifest_tree(ret->manifest, &ret->tree) < 0)
        r = tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    return r;
}

void tb_asset_clear(struct tb_asset *a)
{
    tb_supply_close(&a->supply);
    tb_supply_close(&a->base_supply);
    a->manifest = tbenc_manifest_free(a->manifest);
    a->base = tbenc_manifest_free(a->base);
    a->tree = tbenc_manifest_free(a->tree);
}

void tb_asset_weights(struct tb_asset *a, struct tb_weights *w)
{
    w->files = a->tree;
    w->layers[0] =
        (struct weights_layer){.manifest = a->manifest, .ciphertext = tb_supply_ciphertext(&a->supply)};
    if (a->base)
        w->layers[1] =
            (struct weights_layer){.manifest = a->base, .ciphertext = tb_supply_ciphertext(&a->base_supply)};
    w->n_layers = a->base ? 2 : 1;
}

/* 0: it is one, or nobody can mend it, which is found once more when it is used. -EAGAIN: it is fetched. */
static int asset_look_at_header(struct tb_supply *s)
{
    const struct tbenc_record rec = tb_header_record(s->manifest);
    struct tbenc_header header;
    struct tbenc_error e;
    int r = tbenc_opener_header(s->fd, s->manifest, 0, &header, &e);

    return (r == -EBADMSG || tb_errno_is_disk(r)) && tb_supply_damaged(s, &rec, r) ? -EAGAIN : 0;
}

int tb_asset_await_header(struct tb_asset *a, bool (*stop)(void *ctx), void *ctx)
{
    struct tb_supply *const of[] = {&a->supply, a->base ? &a->base_supply : NULL};
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(of) && of[i]; i++)
        do {
            r = stop(ctx) ? -ECANCELED : tb_supply_await(of[i], 0, TBENC_HEADER_BYTES);
            if (r == 0)
                r = asset_look_at_header(of[i]);
        } while (r == -EAGAIN);
    return r;
}
