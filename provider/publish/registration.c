/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/registration.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/publish/store.h"

void registration_clear(struct registration *g)
{
    g->manifest = tbenc_manifest_free(g->manifest);
    remote_clear(&g->remote);
    tb_secret_free(g->body);
    tb_erase(g->key_hex, sizeof(g->key_hex));
}

/* -- what is sent ------------------------------------------------------------------------------ */

static int registration_read_manifest(struct registration *g)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_error e = {.message = ""};
    unsigned n = sizeof(g->manifest_sha256);
    size_t len = 0;
    int r;

    r = tb_read_file(g->manifest_path, TBENC_MANIFEST_MAX, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(g->manifest_path, r);
    r = tbenc_manifest_parse(text, len, TBENC_OVERLAY, &g->manifest, &e);
    if (r < 0)
        return asset_fail(g->manifest_path, r, &e);
    if (strcmp(g->manifest->asset_id, g->asset_id) != 0)
        return tbpkg_failf(g->manifest_path,
                           "belongs to asset '%s', not '%s'; check --asset-id and --manifest",
                           g->manifest->asset_id, g->asset_id);
    if (EVP_Digest(text, len, g->manifest_sha256, &n, EVP_sha256(), NULL) != 1)
        return tbpkg_fail_errno(g->manifest_path, -EIO);
    return CLI_OK;
}

static void registration_add_hex(cJSON *o, const char *name, const uint8_t sha256[32])
{
    char hex[65];

    tb_hex_encode(sha256, 32, hex);
    cJSON_AddStringToObject(o, name, hex);
}

/* Of the ciphertext itself, where it lies elsewhere than under the first name. */
static bool registration_names_blob(const char *url)
{
    return tb_text_ends_with(url, "/model.tbenc");
}

static int registration_add_place(const struct registration *g, const char *base, cJSON *o)
{
    bool whole = registration_names_blob(base);
    _cleanup_free_ char *ct = whole ? strdup(base) : store_ciphertext_name(base, g->asset_id, g->place);
    _cleanup_free_ char *mf =
        whole ? tb_strf("%.*s/model.manifest.json", (int)(strrchr(base, '/') - base), base)
              : store_manifest_name(base, g->asset_id, g->place);

    return ct && mf && cJSON_AddStringToObject(o, "ciphertext", ct) &&
                   cJSON_AddStringToObject(o, "manifest", mf)
               ? 0
               : -ENOMEM;
}

/* A control plane that knows of one place takes the first. */
static int registration_add_places(const struct registration *g, cJSON *o)
{
    cJSON *further = g->n_bases > 1 ? cJSON_CreateArray() : NULL, *place;
    int r = registration_add_place(g, g->bases[0], o);

    if (further)
        cJSON_AddItemToObject(o, "further", further);
    for (size_t i = 1; r == 0 && i < g->n_bases; i++) {
        place = cJSON_CreateObject();
        cJSON_AddItemToArray(further, place);
        r = place ? registration_add_place(g, g->bases[i], place) : -ENOMEM;
    }
    return r;
}

static char *registration_document_without_key(const struct registration *g)
{
    const struct tbenc_manifest *m = g->manifest;
    _cleanup_json_ cJSON *d = cJSON_CreateObject();
    cJSON *o;

    cJSON_AddStringToObject(d, "asset_id", g->asset_id);
    o = cJSON_AddObjectToObject(d, "blob_urls");
    if (!o || registration_add_places(g, o) < 0)
        return NULL;
    o = cJSON_AddObjectToObject(d, "metadata");
    cJSON_AddStringToObject(o, "format", "tbenc/v1"); /* of the ciphertext, an overlay's, too */
    cJSON_AddStringToObject(o, "algo", "aes-256-gcm-chunked");
    tb_json_add_uint(o, "chunk_bytes", m->chunk_bytes);
    tb_json_add_uint(o, "plaintext_bytes", m->plaintext_bytes);
    registration_add_hex(o, "sha256_ciphertext", m->sha256_ciphertext);
    registration_add_hex(o, "manifest_sha256", g->manifest_sha256);
    if (m->has_tags_sha256)
        registration_add_hex(o, "tags_sha256", m->tags_sha256);
    if (g->replace)
        cJSON_AddTrueToObject(d, "replace");
    if (g->no_promote)
        cJSON_AddFalseToObject(d, "promote");
    return cJSON_PrintUnformatted(d);
}

static int registration_take_key(struct registration *g)
{
    _cleanup_key_ struct tb_key key;
    int rc = cli_key_arg_read(g->cli, g->key_arg, &key);

    if (rc == CLI_OK)
        rc = asset_key_check(g->manifest, &key, cli_key_arg_name(g->key_arg));
    if (rc == CLI_OK)
        tb_hex_encode(key.b, TB_KEY_BYTES, g->key_hex);
    return rc;
}

static int registration_build_body(struct registration *g)
{
    _cleanup_free_ char *text = registration_document_without_key(g);
    size_t room;

    if (!text)
        return tbpkg_fail_errno("tbpkg register", -ENOMEM);
    room = strlen(text) + TB_KEY_HEX_CHARS + 64;
    tb_secret_free(g->body);
    g->body = tb_secret_alloc(room);
    if (!g->body)
        return tbpkg_fail_errno("tbpkg register", -ENOMEM);
    /* The document ends in '}': the key takes its place. */
    g->body_len = (size_t)snprintf(g->body, room, "%.*s,\"decryption_key_hex\":\"%s\"}",
                                   (int)strlen(text) - 1, text, g->key_hex);
    return CLI_OK;
}

/* -- the exchange ------------------------------------------------------------------------------ */

/* A server may repeat the request in its answer: the key does not reach the terminal that way either. */
static void registration_mask_key(const struct registration *g, char *text)
{
    for (char *p = text; (p = strcasestr(p, g->key_hex)); p += TB_KEY_HEX_CHARS)
        memset(p, '*', TB_KEY_HEX_CHARS);
}

static int registration_fail(const struct registration *g, int rc, const char *reason, const char *remedy)
{
    _cleanup_free_ char *url = tb_strf("%s" REGISTRATION_API_PATH, g->remote.base);

    return tbpkg_fail_as(rc, url ? url : "control plane", reason, remedy);
}

static int registration_exit_code(long status)
{
    if (status == 401 || status == 403)
        return CLI_DENIED;
    if (status == 404)
        return CLI_NOT_FOUND;
    if (status == 409 || status == 412 || status == 422)
        return CLI_REFUSED;
    return tb_http_status_retryable(status) ? CLI_UNAVAILABLE : CLI_FAILED;
}

static int registration_refused(struct registration *g, const struct tb_http_response *rs)
{
    char text[640], reason[700];
    const char *remedy = NULL;

    remote_describe(rs, text, sizeof(text));
    snprintf(reason, sizeof(reason), "answered %ld%s", rs->status, text);
    if (rs->status == 401)
        remedy =
            g->remote.authorization
                ? "the bearer token is not valid (any more): get a new one for --token-file, or for "
                  "tbpkg login"
                : "it requires a bearer token: give --token-file, set TB_EDC_TOKEN_FILE, or run tbpkg login";
    else if (rs->status == 403)
        remedy = "the token or client certificate is not allowed to register this asset: ask the control "
                 "plane's operator";
    else if (rs->status == 404 || (rs->status >= 300 && rs->status < 400))
        remedy = "check --edc-endpoint: it is the base URL, without " REGISTRATION_API_PATH;
    else if (rs->status == 409)
        remedy = "--replace lets live contracts get the new key and contents with their next renewal; or use "
                 "a new "
                 "asset id";
    else if (rs->status == 429 || rs->status >= 500)
        remedy = "run the command again later";
    return registration_fail(g, registration_exit_code(rs->status), reason, remedy);
}

static int registration_print_answer(struct registration *g, const struct tb_http_response *rs)
{
    _cleanup_json_ cJSON *d = NULL;
    char why[TB_JSON_ERR_MAX], reason[TB_JSON_ERR_MAX + 64];

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &d, why) == 0)
        return cli_print_json(d);
    snprintf(reason, sizeof(reason), "answered %ld, but not with JSON (%s)", rs->status, why);
    return registration_fail(g, CLI_FAILED, reason, "is --edc-endpoint a control plane?");
}

static int registration_ask(struct registration *g, struct tb_http_response *ret)
{
    const struct remote_call call = {
        .method = "POST", .path = REGISTRATION_API_PATH, .body = g->body, .body_len = g->body_len};
    int rc = remote_exchange(&g->remote, &call, ret);

    if (rc == CLI_OK)
        registration_mask_key(g, ret->body);
    return rc;
}

static bool registration_is_done(const struct tb_http_response *rs)
{
    return rs->status == 200 || rs->status == 201;
}

/* The control plane has looked, and what lies under the first name is another version or nothing: this one
 * may lie aside. */
static bool registration_may_lie_aside(const struct registration *g, const struct tb_http_response *rs)
{
    static const char *const errors[] = {"wrong_blob", "wrong_manifest", "blob_missing"};
    _cleanup_json_ cJSON *d = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *error = "";

    if (rs->status != 422 || registration_names_blob(g->bases[0]) ||
        tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &d, why) < 0 ||
        tb_json_get_string(d, "error", &error, why) < 0)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        if (strcmp(error, errors[i]) == 0)
            return true;
    return false;
}

static int registration_exchange(struct registration *g)
{
    _cleanup_http_response_ struct tb_http_response first = {0}, aside = {0};
    int rc = registration_ask(g, &first);

    if (rc != CLI_OK)
        return rc;
    if (registration_may_lie_aside(g, &first)) {
        store_place_of(g->manifest, g->place);
        rc = registration_build_body(g);
        if (rc == CLI_OK)
            rc = registration_ask(g, &aside);
        if (rc != CLI_OK)
            return rc;
        if (registration_is_done(&aside))
            return registration_print_answer(g, &aside);
    }
    return registration_is_done(&first) ? registration_print_answer(g, &first)
                                        : registration_refused(g, &first);
}

int registration_send(struct registration *g)
{
    int rc = registration_read_manifest(g);

    if (rc == CLI_OK)
        rc = remote_open(&g->remote, true);
    if (rc == CLI_OK)
        rc = registration_take_key(g);
    if (rc == CLI_OK)
        rc = registration_build_body(g);
    return rc == CLI_OK ? registration_exchange(g) : rc;
}
