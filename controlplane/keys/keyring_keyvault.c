/* SPDX-License-Identifier: Apache-2.0 */
/* A KEK in Azure Key Vault or Managed HSM, by the REST API's wrapkey and unwrapkey (7.4), RSA-OAEP-256,
 * with the managed identity of the machine. The id is the URL of the key's version, as the service says it
 * when it wraps: a new version of the key is the new KEK with the next wrapping. */
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/units.h"
#include "controlplane/keys/bearer.h"
#include "controlplane/keys/remote.h"

#define VAULT_KIND "keyvault:"
#define VAULT_API "?api-version=7.4"
#define VAULT_ALGORITHM "RSA-OAEP-256"

struct keyring_vault {
    char url[CP_REMOTE_URL_MAX + 1];    /* the key, with its version where the setting has one */
    char prefix[CP_REMOTE_URL_MAX + 2]; /* "https://VAULT/keys/NAME/": every version begins with it */
    const char *service;
    struct cp_keyring_access a;
    struct cp_bearer *bearer;
};

static char *vault_bearer(struct keyring_vault *v, bool fresh)
{
    char err[TB_AZURE_ERR_MAX], *header = cp_bearer_header(v->bearer, fresh, err);

    if (*err)
        tb_warn("No token of this machine's managed identity for Key Vault: %s", err);
    return header;
}

/* One call; a token that is refused is fetched anew, once. value is base64url, in and out. */
static int vault_call(struct keyring_vault *v, const char *key_url, const char *verb, const char *value,
                      cJSON **ret)
{
    const char *const pairs[] = {"alg", VAULT_ALGORITHM, "value", value, NULL};
    char url[CP_KEK_ID_MAX + 64];
    long status = 0;
    int r = -EACCES;

    snprintf(url, sizeof(url), "%s/%s" VAULT_API, key_url, verb);
    for (int try = 0; try < 2; try++) {
        _cleanup_secret_ char *bearer = vault_bearer(v, try > 0);

        if (!bearer)
            return -EAGAIN;
        r = cp_remote_post(url, bearer, &v->a.tls, pairs, ret, &status);
        if (status != 401)
            break;
    }
    if (status == 403)
        tb_warn("Give the machine's identity the role 'Key Vault Crypto Service Encryption User' on %s",
                v->prefix);
    return r;
}

static int vault_wrap_dek(void *me, const struct tb_key *dek, char kek_id[static CP_KEK_ID_MAX + 1],
                          uint8_t out[static CP_REMOTE_DEK_MAX], size_t *ret_len)
{
    struct keyring_vault *v = me;
    const char *kid = NULL, *value = NULL;
    char text[64], why[TB_JSON_ERR_MAX];
    cJSON *o = NULL;
    int r;

    cp_remote_encode(dek->b, sizeof(dek->b), true, text);
    r = vault_call(v, v->url, "wrapkey", text, &o);
    tb_erase(text, sizeof(text));
    if (r == 0 &&
        (tb_json_get_string(o, "kid", &kid, why) < 0 || tb_json_get_string(o, "value", &value, why) < 0 ||
         strncmp(kid, v->prefix, strlen(v->prefix)) != 0 ||
         strlen(VAULT_KIND) + strlen(kid) > CP_KEK_ID_MAX ||
         cp_remote_decode(value, out, CP_REMOTE_DEK_MAX, ret_len) < 0))
        r = tb_warn_errno(-EIO, "Key Vault's answer to wrapkey names another key, or none");
    if (r == 0)
        sprintf(kek_id, VAULT_KIND "%s", kid);
    cp_remote_forget(o);
    return r;
}

static int vault_unwrap_dek(void *me, const char *kek_id, const uint8_t *in, size_t len, struct tb_key *ret)
{
    struct keyring_vault *v = me;
    const char *kid = kek_id + strlen(VAULT_KIND), *value = NULL;
    char text[2 * CP_WRAPPED_MAX], why[TB_JSON_ERR_MAX];
    cJSON *o = NULL;
    size_t n = 0;
    int r;

    if (strncmp(kek_id, VAULT_KIND, strlen(VAULT_KIND)) != 0 ||
        strncmp(kid, v->prefix, strlen(v->prefix)) != 0)
        return -ENOKEY;
    if (len == 0)
        return -EBADMSG;
    cp_remote_encode(in, len, true, text);
    r = vault_call(v, kid, "unwrapkey", text, &o);
    if (r == 0 && (tb_json_get_string(o, "value", &value, why) < 0 ||
                   cp_remote_decode(value, ret->b, sizeof(ret->b), &n) < 0 || n != sizeof(ret->b)))
        r = -EBADMSG;
    cp_remote_forget(o);
    return r;
}

static const struct cp_remote_dek vault_dek = {.wrap = vault_wrap_dek, .unwrap = vault_unwrap_dek};

static int vault_wrap(void *me, const char *asset_id, const struct tb_key *key, struct cp_wrapped *ret)
{
    return cp_remote_wrap(&vault_dek, me, asset_id, key, ret);
}

static int vault_unwrap(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret)
{
    return cp_remote_unwrap(&vault_dek, me, asset_id, w, ret);
}

static void vault_close(void *me)
{
    struct keyring_vault *v = me;

    cp_bearer_free(v->bearer);
    free(v);
}

static const struct cp_keyring_ops vault_ops = {
    .wrap = vault_wrap, .unwrap = vault_unwrap, .close = vault_close};

int cp_keyring_open_keyvault(const char *url, const struct cp_keyring_access *a, struct cp_keyring **ret,
                             char err[static CP_KEYRING_ERR_MAX])
{
    const char *path = cp_remote_url_path(url, a->tls.allow_http, err), *version;
    struct keyring_vault *v;
    int r;

    if (!path)
        return -EINVAL;
    version = strncmp(path, "keys/", 5) == 0 ? strchr(path + 5, '/') : NULL;
    if (strncmp(path, "keys/", 5) != 0 || !path[5] || (version && strchr(version + 1, '/'))) {
        snprintf(err, CP_KEYRING_ERR_MAX,
                 "'%.100s' is not the identifier of a key: https://VAULT.vault.azure.net/keys/NAME", url);
        return -EINVAL;
    }
    v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    v->a = *a;
    v->a.tls.allow_http = strncmp(url, "http://", 7) == 0; /* loopback, as cp_remote_url_path() saw to */
    v->service = strstr(url, ".managedhsm.azure.net/") ? "managedhsm.azure.net" : "vault.azure.net";
    strcpy(v->url, url);
    snprintf(v->prefix, sizeof(v->prefix), "%.*s/", (int)((version ? version : url + strlen(url)) - url),
             url);
    v->bearer = cp_bearer_new(v->service, v->a.client_id);
    r = v->bearer ? cp_keyring_new(&vault_ops, v, ret) : -ENOMEM;
    if (r < 0)
        vault_close(v);
    return r;
}
