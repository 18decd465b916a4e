/* SPDX-License-Identifier: Apache-2.0 */
/* A KEK in the transit engine of OpenBao or HashiCorp Vault. The id is the key's URL and the version that
 * the service's ciphertext names: a rotated key is the new KEK with the next wrapping. The token's file is
 * read again when the service refused the token: an agent renews it there. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "controlplane/keys/remote.h"

#define TRANSIT_KIND "transit:"
#define TRANSIT_TOKEN_MAX 4096
#define TRANSIT_PREFIX "vault:v"

struct keyring_transit {
    char url[CP_REMOTE_URL_MAX + 1]; /* as in the setting */
    char encrypt[CP_REMOTE_URL_MAX + 16], decrypt[CP_REMOTE_URL_MAX + 16];
    struct cp_keyring_access a;
    pthread_mutex_t lock;
    char *header; /* "X-Vault-Token: ..."; secret memory */
};

/* A copy of the header, heap, secret; NULL: no token, which the log says. */
static char *transit_header(struct keyring_transit *t, bool fresh)
{
    _cleanup_erase_string_ char *text = NULL;
    char *copy = NULL;
    int r = 0;

    pthread_mutex_lock(&t->lock);
    if (fresh || !t->header) {
        r = tb_read_file(t->a.token_file, TRANSIT_TOKEN_MAX, &text, NULL);
        if (r == 0)
            text[strcspn(text, "\r\n")] = '\0';
        if (r == 0 &&
            (!*text || text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                         "._-")]))
            r = -EINVAL;
        if (r < 0) {
            tb_warn_errno(r, "Token of the transit engine, %s", t->a.token_file);
        } else {
            tb_secret_free(t->header);
            t->header = tb_secret_alloc(strlen(text) + 32);
            if (t->header)
                sprintf(t->header, "X-Vault-Token: %s", text);
        }
    }
    if (t->header) {
        copy = tb_secret_alloc(strlen(t->header) + 1);
        if (copy)
            strcpy(copy, t->header);
    }
    pthread_mutex_unlock(&t->lock);
    return copy;
}

/* One call; the string member `want` of the answer's `data` in *ret_text, which lives in *ret. */
static int transit_call(struct keyring_transit *t, const char *url, const char *name, const char *value,
                        const char *want, cJSON **ret, const char **ret_text)
{
    const char *const pairs[] = {name, value, NULL};
    char why[TB_JSON_ERR_MAX];
    long status = 0;
    int r = -EACCES;

    for (int try = 0; try < 2; try++) {
        _cleanup_secret_ char *header = transit_header(t, try > 0);

        if (!header)
            return -EACCES;
        r = cp_remote_post(url, header, &t->a.tls, pairs, ret, &status);
        if (status != 403)
            break;
    }
    if (r == 0 && tb_json_get_string(tb_json_member(*ret, "data"), want, ret_text, why) < 0)
        r = tb_warn_errno(-EIO, "The transit engine's answer has no %s", want);
    return r;
}

static int transit_wrap_dek(void *me, const struct tb_key *dek, char kek_id[static CP_KEK_ID_MAX + 1],
                            uint8_t out[static CP_REMOTE_DEK_MAX], size_t *ret_len)
{
    struct keyring_transit *t = me;
    const char *sealed = NULL, *version;
    char text[64];
    cJSON *o = NULL;
    size_t digits;
    int r;

    cp_remote_encode(dek->b, sizeof(dek->b), false, text);
    r = transit_call(t, t->encrypt, "plaintext", text, "ciphertext", &o, &sealed);
    tb_erase(text, sizeof(text));
    if (r == 0) {
        version = sealed + strlen(TRANSIT_PREFIX) - 1;
        digits = strncmp(sealed, TRANSIT_PREFIX, strlen(TRANSIT_PREFIX)) == 0
                     ? strspn(version + 1, "0123456789")
                     : 0;
        if (!digits || digits > 9 || version[1 + digits] != ':' || strlen(sealed) > CP_REMOTE_DEK_MAX ||
            strlen(TRANSIT_KIND) + strlen(t->url) + 2 + digits > CP_KEK_ID_MAX) {
            r = tb_warn_errno(-EIO, "The transit engine's ciphertext is not of the form vault:vN:...");
        } else {
            snprintf(kek_id, CP_KEK_ID_MAX + 1, TRANSIT_KIND "%s#%.*s", t->url, (int)digits + 1, version);
            memcpy(out, sealed, strlen(sealed));
            *ret_len = strlen(sealed);
        }
    }
    cp_remote_forget(o);
    return r;
}

static int transit_unwrap_dek(void *me, const char *kek_id, const uint8_t *in, size_t len, struct tb_key *ret)
{
    struct keyring_transit *t = me;
    size_t kind = strlen(TRANSIT_KIND), n = strlen(t->url);
    char sealed[CP_REMOTE_DEK_MAX + 1] = "";
    const char *plain = NULL;
    cJSON *o = NULL;
    int r;

    if (strncmp(kek_id, TRANSIT_KIND, kind) != 0 || strncmp(kek_id + kind, t->url, n) != 0 ||
        kek_id[kind + n] != '#')
        return -ENOKEY;
    for (size_t i = 0; i < len; i++)
        if (in[i] < '+' || in[i] > 'z' || in[i] == '\\')
            return -EBADMSG;
    if (len < strlen(TRANSIT_PREFIX) || len >= sizeof(sealed) ||
        memcmp(in, TRANSIT_PREFIX, strlen(TRANSIT_PREFIX)) != 0)
        return -EBADMSG;
    memcpy(sealed, in, len);
    r = transit_call(t, t->decrypt, "ciphertext", sealed, "plaintext", &o, &plain);
    if (r == 0 && (cp_remote_decode(plain, ret->b, sizeof(ret->b), &n) < 0 || n != sizeof(ret->b)))
        r = -EBADMSG;
    cp_remote_forget(o);
    return r;
}

static const struct cp_remote_dek transit_dek = {.wrap = transit_wrap_dek, .unwrap = transit_unwrap_dek};

static int transit_wrap(void *me, const char *asset_id, const struct tb_key *key, struct cp_wrapped *ret)
{
    return cp_remote_wrap(&transit_dek, me, asset_id, key, ret);
}

static int transit_unwrap(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret)
{
    return cp_remote_unwrap(&transit_dek, me, asset_id, w, ret);
}

static void transit_close(void *me)
{
    struct keyring_transit *t = me;

    tb_secret_free(t->header);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct cp_keyring_ops transit_ops = {
    .wrap = transit_wrap, .unwrap = transit_unwrap, .close = transit_close};

int cp_keyring_open_transit(const char *url, const struct cp_keyring_access *a, struct cp_keyring **ret,
                            char err[static CP_KEYRING_ERR_MAX])
{
    const char *path = cp_remote_url_path(url, a->tls.allow_http, err), *name;
    struct keyring_transit *t;
    int host, mount, r;

    if (!path)
        return -EINVAL;
    if (!a->token_file) {
        snprintf(err, CP_KEYRING_ERR_MAX, "transit needs a token; name its file by TBCP_KEK_TOKEN_FILE");
        return -EINVAL;
    }
    t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    pthread_mutex_init(&t->lock, NULL);
    t->a = *a;
    t->a.tls.allow_http = strncmp(url, "http://", 7) == 0;
    strcpy(t->url, url);
    name = strrchr(url, '/') + 1;
    host = (int)(path - url);
    mount = (int)(name - path);
    snprintf(t->encrypt, sizeof(t->encrypt), "%.*sv1/%.*sencrypt/%s", host, url, mount, path, name);
    snprintf(t->decrypt, sizeof(t->decrypt), "%.*sv1/%.*sdecrypt/%s", host, url, mount, path, name);
    r = cp_keyring_new(&transit_ops, t, ret);
    if (r < 0)
        transit_close(t);
    return r;
}
