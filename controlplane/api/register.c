/* SPDX-License-Identifier: Apache-2.0 */
/* POST /api/v1/assets/register */
#include <string.h>

#include "common/hex.h"
#include "common/log.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/metrics.h"
#include "tbenc/tbenc.h"

struct cp_registration {
    struct cp_asset asset;
    struct cp_put_how how;
    struct cp_caller who;
    char why[CP_JWT_ERR_MAX];
    struct cp_places places;
    struct cp_proof_base base; /* what the manifest stands on */
    uint64_t now_us;
    enum cp_put put;
    uint64_t live; /* contracts that stand in the way */
};

static const char *const register_actions[] = {[CP_PUT_NEW] = "asset.register",
                                               [CP_PUT_SAME] = "asset.update",
                                               [CP_PUT_REPLACED] = "asset.replace",
                                               [CP_PUT_BESIDE] = "asset.add"};

static int register_check_base(struct cp_store *s, const struct cp_registration *g)
{
    struct cp_base b = {.version = g->base.version};

    memcpy(b.manifest_sha256, g->base.manifest_sha256, sizeof(b.manifest_sha256));
    memcpy(b.sha256_ciphertext, g->base.sha256_ciphertext, sizeof(b.sha256_ciphertext));
    return cp_store_check_base(s, &g->asset, &b);
}

static int register_store(struct cp_store *s, void *ctx)
{
    struct cp_registration *g = ctx;
    char version[24], places[24];
    int r = cp_caller_recheck(s, &g->who, g->now_us, g->why);

    if (r == 0)
        r = register_check_base(s, g);
    if (r == 0)
        r = cp_store_put_asset(s, &g->asset, &g->how, &g->put, &g->live);
    if (r == 0 && g->put == CP_PUT_REPLACED && g->live > 0 &&
        !(g->who.scopes & (CP_SCOPE_OWNER | CP_SCOPE_REPLACE)))
        r = -EPERM;
    if (r == 0)
        r = cp_store_put_places(s, &g->asset, &g->places);
    if (r < 0)
        return r;
    snprintf(places, sizeof(places), "%zu", g->places.n);
    snprintf(version, sizeof(version), "%llu", (unsigned long long)g->asset.version);
    return cp_change(s, g->now_us, g->who.actor, register_actions[g->put], g->asset.asset_id, "version",
                     version, "sha256_ciphertext", g->asset.sha256_ciphertext, "key_id", g->asset.key_id,
                     "kek_id", g->asset.wrapped.kek_id, "places", g->places.n > 1 ? places : NULL);
}

static void register_warn_unsigned(const struct cp_api *api, const struct cp_registration *g)
{
    char url[CP_SAS_URL_MAX], origin[200];

    for (size_t i = 0; api->sas.n_accounts && i < g->places.n; i++)
        if (cp_sas_url(&api->sas, g->places.v[i].ciphertext_url, g->now_us, UINT64_MAX, url) == 1)
            tb_warn("register: %s at %s is not a blob of storage account %s%s: its URLs will be handed out "
                    "without a SAS",
                    g->asset.asset_id, tb_http_origin(g->places.v[i].ciphertext_url, origin, sizeof(origin)),
                    api->sas.accounts[0].name, api->sas.n_accounts > 1 ? " or another" : "");
    tb_erase(url, sizeof(url));
}

static int register_wrap(const struct cp_api *api, const struct tb_key *key, struct cp_asset *a)
{
    uint8_t id[TBENC_KEY_ID_BYTES];
    int r = tbenc_key_id(key->b, id);

    if (r < 0)
        return r;
    tb_hex_encode(id, sizeof(id), a->key_id);
    return cp_keyring_wrap(api->keyring, a->asset_id, key, &a->wrapped);
}

static const struct {
    const char *error, *message;
} register_faults[] = {
    [CP_PROOF_WRONG_KEY] = {"wrong_key", "the key does not open the asset"},
    [CP_PROOF_WRONG_BLOB] = {"wrong_blob", "the blob is not the asset that is registered"},
    [CP_PROOF_WRONG_MANIFEST] = {"wrong_manifest", "the manifest is not the one that is registered"},
    [CP_PROOF_MISSING] = {"blob_missing",
                          "the asset is not where it is said to be, or may not be read: upload it first"},
    [CP_PROOF_UNAVAILABLE] = {"storage_unavailable", "the storage of the asset does not answer; try again"},
};

/* Fetches and opens the asset with the key at one place. */
static enum cp_proof register_prove(const struct cp_api *api, struct cp_registration *g,
                                    const struct cp_blob_place *l, const struct tb_key *key,
                                    char why[static CP_PROOF_ERR_MAX])
{
    const struct cp_asset *a = &g->asset;
    uint64_t now_us = g->now_us;
    char ciphertext[CP_SAS_URL_MAX], manifest[CP_SAS_URL_MAX];
    const struct cp_claim claim = {.ciphertext_url = ciphertext,
                                   .manifest_url = manifest,
                                   .chunk_bytes = a->chunk_bytes,
                                   .plaintext_bytes = a->plaintext_bytes,
                                   .sha256_ciphertext = a->sha256_ciphertext,
                                   .manifest_sha256 = a->manifest_sha256,
                                   .key = key,
                                   .ret_base = &g->base};
    enum cp_proof proof = CP_PROOF_MISSING;

    if (cp_sas_prepare(&api->sas, l->ciphertext_url, now_us) < 0 ||
        cp_sas_prepare(&api->sas, l->manifest_url, now_us) < 0) {
        proof = CP_PROOF_UNAVAILABLE;
        snprintf(why, CP_PROOF_ERR_MAX, "there is no key to sign its URLs with");
    } else if (cp_sas_url(&api->sas, l->ciphertext_url, now_us, UINT64_MAX, ciphertext) < 0 ||
               cp_sas_url(&api->sas, l->manifest_url, now_us, UINT64_MAX, manifest) < 0)
        snprintf(why, CP_PROOF_ERR_MAX, "its URLs are not .../CONTAINER/BLOB of the storage account");
    else
        proof = api->prove(&claim, &api->storage_tls, why);
    tb_erase(ciphertext, sizeof(ciphertext));
    tb_erase(manifest, sizeof(manifest));
    return proof;
}

/* At every place. true when *ret is the answer. */
static bool register_refuse_unproved(const struct cp_api *api, struct cp_registration *g,
                                     const struct tb_key *key, const struct cp_request *rq,
                                     struct cp_reply *ret)
{
    char found[CP_PROOF_ERR_MAX] = "", why[CP_PROOF_ERR_MAX + 256], origin[200];
    enum cp_proof proof = CP_PROOF_GOOD;
    size_t i = 0;

    while (i < g->places.n && proof == CP_PROOF_GOOD)
        proof = register_prove(api, g, &g->places.v[i++], key, found);
    if (proof == CP_PROOF_GOOD)
        return false;
    snprintf(why, sizeof(why), "%s%s%s%s", g->places.n > 1 ? "at " : "",
             g->places.n > 1 ? tb_http_origin(g->places.v[i - 1].ciphertext_url, origin, sizeof(origin)) : "",
             g->places.n > 1 ? ": " : "", found);
    cp_metric_add(CP_METRIC_REGISTER_REFUSED);
    tb_warn("register: %s refused from %s: %s: %s", g->asset.asset_id, rq->peer, register_faults[proof].error,
            why);
    cp_answer(ret, proof == CP_PROOF_UNAVAILABLE ? 503 : 422, "error", register_faults[proof].error,
              "message", register_faults[proof].message, "details", why);
    ret->retry_s = proof == CP_PROOF_UNAVAILABLE;
    return true;
}

/* What an overlay stands on is not there, or what others stand on would be another. */
static void register_answer_base(const struct cp_registration *g, int r, struct cp_reply *ret)
{
    unsigned long long base = g->base.version;
    char details[300];

    if (r == -ENOENT)
        snprintf(details, sizeof(details),
                 "it is an overlay on version %llu of %s, which is not registered here: register that first, "
                 "or publish the whole model",
                 base, g->asset.asset_id);
    else if (r == -EBADMSG)
        snprintf(
            details, sizeof(details),
            "it is an overlay on version %llu of %s, and what is registered here by that number has another "
            "key, manifest or ciphertext, or is an overlay itself: publish it against the version that is",
            base, g->asset.asset_id);
    else
        snprintf(details, sizeof(details),
                 "another version of %s stands on this one and names its manifest: that cannot be replaced; "
                 "upload the manifest as it was, or delete the other version first",
                 g->asset.asset_id);
    tb_warn("register: %s refused: %s", g->asset.asset_id, details);
    cp_metric_add(CP_METRIC_REGISTER_REFUSED);
    cp_answer(ret, r == -ENOTEMPTY ? 409 : 422, "error", r == -ENOTEMPTY ? "base_in_use" : "wrong_base",
              "message",
              r == -ENOTEMPTY ? "an overlay stands on this version" : "the overlay's base is not registered",
              "details", details);
}

static void register_answer_failure(const struct cp_api *api, const struct cp_request *rq,
                                    const struct cp_store *s, const struct cp_registration *g, int r,
                                    struct cp_reply *ret)
{
    char message[200];

    if (r == -EPERM) {
        cp_answer_scope(&g->who, CP_SCOPE_OWNER | CP_SCOPE_REPLACE, "replacing what live contracts use", ret);
        return;
    }
    if (r == -EACCES || r == -EKEYEXPIRED) {
        cp_answer_caller(api, s, rq, r, g->why, ret);
        return;
    }
    if (r == -ENOTEMPTY || r == -EBADMSG || r == -ENOENT) {
        register_answer_base(g, r, ret);
        return;
    }
    if (r != -EADDRINUSE) {
        cp_answer_store_failure(s, "register", r, ret);
        return;
    }
    snprintf(message, sizeof(message),
             "%llu live contract%s this asset, and its key or contents would be others; to replace them "
             "register with --replace",
             (unsigned long long)g->live, g->live == 1 ? " uses" : "s use");
    tb_warn("register: %s not replaced: %s", g->asset.asset_id, message);
    cp_answer(ret, 409, "error", "asset_in_use", "message", message);
}

static const char *const register_words[] = {
    [CP_PUT_NEW] = "the asset is registered",
    [CP_PUT_SAME] = "the earlier registration was replaced",
    [CP_PUT_REPLACED] = "the earlier registration was replaced",
    [CP_PUT_BESIDE] = "the version is kept beside the current one, until it is promoted",
};

static void register_answer(const struct cp_registration *g, struct cp_reply *ret)
{
    _cleanup_json_ cJSON *j = cJSON_CreateObject();

    cJSON_AddStringToObject(j, "status", "registered");
    cJSON_AddStringToObject(j, "asset_id", g->asset.asset_id);
    tb_json_add_uint(j, "version", g->asset.version);
    cJSON_AddStringToObject(j, "message", register_words[g->put]);
    cp_answer_json(ret, g->put == CP_PUT_NEW ? 201 : 200, j);
}

void cp_answer_register(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                        struct cp_reply *ret)
{
    struct cp_registration g = {.now_us = rq->now_us};
    _cleanup_key_ struct tb_key key = {0};
    char err[TB_JSON_ERR_MAX];
    int r;

    if (!cp_authenticate(api, s, rq, CP_CALL_REGISTER, &g.who, ret))
        return;
    r = cp_register_parse(rq->body, rq->body_len, &g.asset, &g.how, &key, err);
    if (r == 0)
        r = cp_register_places(rq->body, rq->body_len, &g.asset, &g.places, err);
    if (r < 0) {
        tb_warn("register: refused from %s: %s", rq->peer, err);
        cp_answer(ret, 400, "error", "invalid_request", "message", "the registration is not valid", "details",
                  err);
        return;
    }
    g.asset.registered_us = g.asset.updated_us = rq->now_us;
    if (register_refuse_unproved(api, &g, &key, rq, ret))
        return;
    g.asset.base_version = g.base.version;
    r = register_wrap(api, &key, &g.asset);
    if (r < 0) {
        tb_error_errno(r, "register: the key of %s cannot be wrapped", g.asset.asset_id);
        cp_answer_key_service(ret);
        return;
    }
    r = cp_store_transact(s, register_store, &g);
    if (r < 0) {
        register_answer_failure(api, rq, s, &g, r, ret);
        return;
    }
    cp_metric_add(CP_METRIC_REGISTERED);
    register_warn_unsigned(api, &g);
    if (g.put == CP_PUT_REPLACED)
        tb_warn("register: the key or the contents of %s are others now (version %llu); `asset restore %s` "
                "brings the earlier registration back",
                g.asset.asset_id, (unsigned long long)g.asset.version, g.asset.asset_id);
    tb_info("register: %s version %llu from %s: %s", g.asset.asset_id, (unsigned long long)g.asset.version,
            rq->peer, register_words[g.put]);
    register_answer(&g, ret);
}
