/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/key_vault.h"

#include <errno.h>
#include <stdlib.h>
#include <stdarg.h>
#include <string.h>

#include "common/backoff.h"
#include "common/hex.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/azure/auth.h"
#include "provider/azure/blob.h"
#include "provider/azure/token.h"

#define VAULT_SERVICE "vault.azure.net"
#define VAULT_VERSION "?api-version=7.4"
#define VAULT_CONTENT_TYPE "application/vnd.trustbridge.key"
#define VAULT_SECRET_MAX 127
#define VAULT_TRIES 4

static const char secret_alnum[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-";

static int secret_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);
static int secret_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, TB_AZURE_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

void key_vault_clear(struct key_vault *v)
{
    tb_freep(&v->url);
    tb_freep(&v->secret);
}

bool key_vault_is_id(const char *place)
{
    return strncmp(place, "https://", 8) == 0 || strncmp(place, "http://", 7) == 0;
}

int key_vault_parse(const char *text, struct key_vault *ret, char err[static TB_AZURE_ERR_MAX])
{
    struct key_vault v = {0};
    bool is_url = key_vault_is_id(text);
    const char *host = is_url ? strstr(text, "://") + 3 : text, *slash = strchr(host, '/');
    size_t n = slash ? (size_t)(slash - host) : strlen(host);
    char why[BLOB_ERR_MAX];

    if (!is_url && (n < 3 || n > 24 || strspn(host, secret_alnum) != n))
        return secret_fail(err, -EINVAL, "'%.*s' is not the name of a key vault", (int)MIN(n, (size_t)40),
                           host);
    if (slash && (strlen(slash + 1) < 1 || strlen(slash + 1) > VAULT_SECRET_MAX ||
                  strspn(slash + 1, secret_alnum) != strlen(slash + 1)))
        return secret_fail(err, -EINVAL, "a secret's name has 1 to %d letters, digits and '-'",
                           VAULT_SECRET_MAX);
    v.url = is_url ? strndup(text, (size_t)(host - text) + n)
                   : tb_strf("https://%.*s.vault.azure.net", (int)n, host);
    v.secret = slash ? strdup(slash + 1) : NULL;
    if (!v.url || (slash && !v.secret)) {
        key_vault_clear(&v);
        return secret_fail(err, -ENOMEM, "out of memory");
    }
    if (blob_base_url_check("the key vault", v.url, false, why) < 0) {
        key_vault_clear(&v);
        return secret_fail(err, -EINVAL, "%s", why);
    }
    *ret = v;
    return 0;
}

char *key_vault_secret_name(const char *asset_id, const char *key_id)
{
    char *name = tb_strf("%s-%s", asset_id, key_id);

    for (char *p = name; p && *p; p++)
        if (!strchr(secret_alnum, *p))
            *p = '-';
    return name;
}

/* -- calls ------------------------------------------------------------------------------------- */

/* A service principal in the environment, the machine's identity, the login of az. */
static int secret_token(struct tb_azure_token *ret, char err[static TB_AZURE_ERR_MAX])
{
    const char *tenant = getenv("AZURE_TENANT_ID"), *client = getenv("AZURE_CLIENT_ID");
    _cleanup_secret_ char *secret = azure_auth_take_env("AZURE_CLIENT_SECRET");
    char first[TB_AZURE_ERR_MAX];
    int r;

    client = client && *client ? client : NULL;
    if (tenant && *tenant && client && secret)
        return azure_token_principal(VAULT_SERVICE, tenant, client, secret, NULL, ret, err);
    r = tb_azure_identity_token(VAULT_SERVICE, client, ret, first);
    if (r == 0)
        return 0;
    if (tb_azure_identity_configured())
        return secret_fail(err, r, "%s", first);
    return azure_token_cli(VAULT_SERVICE, ret, err);
}

/* Bearer header and exchange; anything but 200 is a refusal. */
static int secret_call(const char *method, const char *url, const char *body, struct tb_http_response *ret,
                       char err[static TB_AZURE_ERR_MAX])
{
    static const char begin[] = "Authorization: Bearer ";
    struct tb_azure_token token = {0};
    _cleanup_secret_ char *bearer = NULL;
    const struct tb_http_tls tls = {.allow_http = blob_url_is_loopback(url)};
    struct tb_http_request rq = {
        .method = method, .url = url, .body = body, .body_len = body ? strlen(body) : 0, .tls = &tls};
    struct tb_backoff backoff = {.base_ms = 300, .cap_ms = 5000};
    char why[MAX(TB_HTTP_ERR_MAX, TB_AZURE_ERR_MAX / 2)];
    int r = secret_token(&token, err);

    if (r < 0)
        return r;
    bearer = tb_secret_alloc(sizeof(begin) + strlen(token.text));
    if (bearer)
        strcpy(stpcpy(bearer, begin), token.text);
    tb_secret_free(token.text);
    if (!bearer)
        return secret_fail(err, -ENOMEM, "out of memory");
    rq.headers = (const char *const[]){bearer, "Content-Type: application/json", NULL};
    for (;;) {
        r = tb_http_do(&rq, ret, why);
        if ((r == 0 && !tb_http_status_retryable(ret->status)) || (r < 0 && r != -ETIMEDOUT) ||
            backoff.attempt + 1 >= VAULT_TRIES)
            break;
        tb_sleep_ms(tb_backoff_next_ms(&backoff, r == 0 ? ret->retry_after_ms : -1));
        if (r == 0)
            tb_http_response_clear(ret);
    }
    if (r < 0)
        return secret_fail(err, r, "%s", why);
    if (ret->status == 200)
        return 0;
    tb_azure_refusal(ret, why, sizeof(why));
    return secret_fail(err, ret->status == 404 ? -ENOENT : -EACCES, "Key Vault answered %s%s", why,
                       ret->status == 401 || ret->status == 403
                           ? "; the identity needs the role 'Key Vault Secrets Officer'"
                           : "");
}

/* {"value": HEX, "contentType": ..., "tags": {...}}: only the value is a secret, and it is put in last. */
static char *secret_body(const char *asset_id, const char *key_id, const struct tb_key *key)
{
    _cleanup_free_ char *text = tb_strf("{\"contentType\":\"" VAULT_CONTENT_TYPE "\",\"tags\":{\"asset_id\":"
                                        "\"%s\",\"key_id\":\"%s\"},\"value\":\"",
                                        asset_id, key_id);
    size_t n = text ? strlen(text) : 0;
    char *body = text ? tb_secret_alloc(n + TB_KEY_HEX_CHARS + 3) : NULL;

    if (!body)
        return NULL;
    memcpy(body, text, n);
    tb_hex_encode(key->b, TB_KEY_BYTES, body + n);
    memcpy(body + n + TB_KEY_HEX_CHARS, "\"}", 3);
    return body;
}

static int secret_parse_secret(const struct tb_http_response *rs, struct tb_key *ret_key, char **ret_id,
                               char err[static TB_AZURE_ERR_MAX])
{
    char why[TB_JSON_ERR_MAX];
    const char *id, *value;
    cJSON *o = NULL;
    int r = tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, why);

    if (r < 0)
        return secret_fail(err, r, "Key Vault's answer: %s", why);
    r = tb_json_get_string(o, "id", &id, why);
    if (r == 0)
        r = tb_json_get_string(o, "value", &value, why);
    if (r < 0)
        r = secret_fail(err, -EBADMSG, "Key Vault's answer: %s", why);
    else if (tb_hex_decode(value, strlen(value), ret_key->b, TB_KEY_BYTES) < 0)
        r = secret_fail(err, -EINVAL, "the secret is not a key of 64 hex digits");
    else if (ret_id && !(*ret_id = strdup(id)))
        r = secret_fail(err, -ENOMEM, "out of memory");
    if (cJSON_IsString(cJSON_GetObjectItemCaseSensitive(o, "value")))
        tb_erase(cJSON_GetObjectItemCaseSensitive(o, "value")->valuestring, strlen(value));
    cJSON_Delete(o);
    return r;
}

int key_vault_put(const struct key_vault *v, const char *asset_id, const char *key_id,
                  const struct tb_key *key, char **ret_id, char err[static TB_AZURE_ERR_MAX])
{
    _cleanup_free_ char *url = tb_strf("%s/secrets/%s" VAULT_VERSION, v->url, v->secret), *id = NULL;
    _cleanup_secret_ char *body = secret_body(asset_id, key_id, key);
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_key_ struct tb_key stored;
    int r;

    if (!url || !body)
        return secret_fail(err, -ENOMEM, "out of memory");
    r = secret_call("PUT", url, body, &rs, err);
    if (r == 0)
        r = secret_parse_secret(&rs, &stored, &id, err);
    if (r == 0 && memcmp(stored.b, key->b, TB_KEY_BYTES) != 0)
        r = secret_fail(err, -EBADMSG, "Key Vault stored something else");
    if (r == 0)
        *ret_id = TAKE_PTR(id);
    return r;
}

int key_vault_get(const char *id, struct tb_key *ret, char err[static TB_AZURE_ERR_MAX])
{
    _cleanup_free_ char *url = tb_strf("%s" VAULT_VERSION, id);
    _cleanup_http_response_ struct tb_http_response rs = {0};
    int r = url ? secret_call("GET", url, NULL, &rs, err) : secret_fail(err, -ENOMEM, "out of memory");

    return r == 0 ? secret_parse_secret(&rs, ret, NULL, err) : r;
}
