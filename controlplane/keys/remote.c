/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/remote.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/azure_token.h"
#include "common/json.h"
#include "common/log.h"

#define REMOTE_TIMEOUT_MS 10000
#define REMOTE_CONNECT_MS 3000
#define REMOTE_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/[]"

int cp_remote_wrap(const struct cp_remote_dek *d, void *me, const char *asset_id, const struct tb_key *key,
                   struct cp_wrapped *ret)
{
    _cleanup_key_ struct tb_key dek;
    struct cp_wrapped w = {0};
    int r = tb_random(dek.b, sizeof(dek.b));

    if (r == 0)
        r = cp_key_wrap(&dek, asset_id, key, w.b);
    if (r == 0)
        r = d->wrap(me, &dek, w.kek_id, w.b + CP_WRAPPED_KEY_BYTES, &w.len);
    if (r < 0)
        return r;
    w.len += CP_WRAPPED_KEY_BYTES;
    *ret = w;
    return 0;
}

int cp_remote_unwrap(const struct cp_remote_dek *d, void *me, const char *asset_id,
                     const struct cp_wrapped *w, struct tb_key *ret)
{
    size_t n = w->len > CP_WRAPPED_KEY_BYTES ? w->len - CP_WRAPPED_KEY_BYTES : 0;
    _cleanup_key_ struct tb_key dek;
    int r = d->unwrap(me, w->kek_id, w->b + CP_WRAPPED_KEY_BYTES, n, &dek);

    return r < 0 ? r : cp_key_unwrap(&dek, asset_id, w->b, ret);
}

static bool remote_is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "[::1]", 5) == 0 ||
           (strncmp(host, "localhost", 9) == 0 && (host[9] == ':' || host[9] == '/'));
}

const char *cp_remote_url_path(const char *url, bool allow_http, char err[static CP_KEYRING_ERR_MAX])
{
    bool https = strncmp(url, "https://", 8) == 0, http = strncmp(url, "http://", 7) == 0;
    const char *host = url + (https ? 8 : 7), *path;
    const char *why = NULL;

    if (!https && !http)
        why = "is not an https:// URL";
    else if (http && !allow_http && !remote_is_loopback(host))
        why = "is plain http://; key services are asked over https:// only";
    else if (url[strspn(url, REMOTE_CHARS)] || strlen(url) > CP_REMOTE_URL_MAX)
        why = "has a character that has no place there (user, query, space), or is too long";
    path = why ? NULL : strchr(host, '/');
    if (!why &&
        (!path || path == host || path[1] == '/' || !strchr(path + 1, '/') || url[strlen(url) - 1] == '/'))
        why = "does not name a key; see tb-controlplane(8) for its form";
    if (!why)
        return path + 1;
    snprintf(err, CP_KEYRING_ERR_MAX, "'%.100s' %s", url, why);
    return NULL;
}

void cp_remote_encode(const uint8_t *in, size_t n, bool url, char *out)
{
    EVP_EncodeBlock((unsigned char *)out, in, (int)n);
    if (!url)
        return;
    for (char *p = out; *p; p++)
        if (*p == '=')
            *p = '\0';
        else
            *p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
}

int cp_remote_decode(const char *text, uint8_t *out, size_t room, size_t *ret_len)
{
    uint8_t buf[CP_WRAPPED_MAX + 8];
    char in[4 * (CP_WRAPPED_MAX / 3) + 8];
    size_t n = strcspn(text, "="), padded = (n + 3) / 4 * 4;
    int k;

    if (n == 0 || n % 4 == 1 || padded >= sizeof(in) || text[n + strspn(text + n, "=")])
        return -EBADMSG;
    for (size_t i = 0; i < padded; i++)
        in[i] = i >= n ? '=' : text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i];
    k = EVP_DecodeBlock(buf, (unsigned char *)in, (int)padded);
    n = k < 0 ? 0 : (size_t)k - (padded - n);
    if (n > 0 && n <= room) {
        memcpy(out, buf, n);
        *ret_len = n;
    }
    tb_erase(buf, sizeof(buf));
    tb_erase(in, sizeof(in));
    return n > 0 && n <= room ? 0 : -EBADMSG;
}

void cp_remote_forget(cJSON *o)
{
    for (cJSON *m = o; m; m = m->next) {
        if (m->valuestring)
            tb_erase(m->valuestring, strlen(m->valuestring));
        for (cJSON *c = m->child; c; c = c->next) {
            if (c->valuestring)
                tb_erase(c->valuestring, strlen(c->valuestring));
            for (cJSON *d = c->child; d; d = d->next)
                if (d->valuestring)
                    tb_erase(d->valuestring, strlen(d->valuestring));
        }
    }
    cJSON_Delete(o);
}

/* The body; heap, secret. The values are base64 and names: no character needs a way out. */
static char *remote_body(const char *const *pairs)
{
    size_t n = 3;
    char *body, *p;

    for (const char *const *s = pairs; *s; s++)
        n += strlen(*s) + 4;
    body = p = tb_secret_alloc(n);
    if (!body)
        return NULL;
    *p++ = '{';
    for (const char *const *s = pairs; *s; s += 2)
        p += sprintf(p, "%s\"%s\":\"%s\"", s == pairs ? "" : ",", s[0], s[1]);
    strcpy(p, "}");
    return body;
}

static int remote_errno(long status)
{
    if (status == 401 || status == 403)
        return -EACCES;
    if (status == 404)
        return -ENOKEY;
    if (status == 400 || status == 422)
        return -EBADMSG;
    return tb_http_status_retryable(status) ? -EAGAIN : -EIO;
}

int cp_remote_post(const char *url, const char *header, const struct tb_http_tls *tls,
                   const char *const *pairs, cJSON **ret, long *ret_status)
{
    const char *const headers[] = {"Content-Type: application/json", header, NULL};
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_secret_ char *body = remote_body(pairs);
    char why[TB_HTTP_ERR_MAX];
    int r;

    *ret_status = 0;
    if (!body)
        return -ENOMEM;
    r = tb_http_do(&(struct tb_http_request){.method = "POST",
                                             .url = url,
                                             .headers = headers,
                                             .body = body,
                                             .body_len = strlen(body),
                                             .timeout_ms = REMOTE_TIMEOUT_MS,
                                             .connect_timeout_ms = REMOTE_CONNECT_MS,
                                             .tls = tls},
                   &rs, why);
    if (r < 0) {
        tb_warn("The service of the key-encryption keys does not answer: %s", why);
        return r == -ENOMEM ? r : -EAGAIN;
    }
    *ret_status = rs.status;
    if (rs.status != 200) {
        tb_azure_refusal(&rs, why, sizeof(why));
        tb_warn("The service of the key-encryption keys says %s (%.*s)", why, (int)strcspn(url, "?"), url);
        return remote_errno(rs.status);
    }
    if (tb_json_parse(rs.body, rs.len, TB_HTTP_RESPONSE_MAX, ret, why) < 0) {
        tb_warn("The service of the key-encryption keys answers no JSON (%.*s)", (int)strcspn(url, "?"), url);
        return -EIO;
    }
    return 0;
}
