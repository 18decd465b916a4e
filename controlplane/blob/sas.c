/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/blob/sas.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/percent.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/blob/delegation.h"

#define SAS_IP_MAX 96
#define SIGNATURE_BYTES 32
#define SIGNATURE_BASE64 (4 * ((SIGNATURE_BYTES + 2) / 3) + 1)

bool cp_sas_account_valid(const char *account)
{
    size_t n = strspn(account, "abcdefghijklmnopqrstuvwxyz0123456789");

    return n >= 3 && n <= 24 && account[n] == '\0';
}

static const char *sas_after_scheme(const char *url, bool *ret_https)
{
    if (strncasecmp(url, "https://", 8) == 0) {
        *ret_https = true;
        return url + 8;
    }
    if (strncasecmp(url, "http://", 7) == 0) {
        *ret_https = false;
        return url + 7;
    }
    return NULL;
}

static bool sas_percent_encoding_valid(const char *s)
{
    for (; *s; s++)
        if (*s == '%' && (!isxdigit((unsigned char)s[1]) || !isxdigit((unsigned char)s[2])))
            return false;
    return true;
}

const char *cp_blob_url_fault(const char *url)
{
    const char *authority, *path;
    bool https;

    if (strlen(url) > CP_URL_MAX)
        return "is longer than 2048 characters";
    for (const char *s = url; *s; s++)
        if (*s <= ' ' || *s >= 0x7f || strchr("\"<>\\^`{|}", *s))
            return "has a character that a URL cannot have; percent-encode it";
    authority = sas_after_scheme(url, &https);
    if (!authority)
        return "is not an http:// or https:// URL";
    if (strpbrk(authority, "?#"))
        return "has a query or fragment; register the bare blob URL, the control plane signs it itself";
    path = strchr(authority, '/');
    if (!path || path == authority)
        return path ? "has no host" : "has no path; expected SERVER/CONTAINER/BLOB";
    if (memchr(authority, '@', (size_t)(path - authority)))
        return "has a user name or password";
    if (path[1] == '\0')
        return "has no path; expected SERVER/CONTAINER/BLOB";
    return sas_percent_encoding_valid(path) ? NULL : "has a % that is not followed by two hex digits";
}

/* Percent-decodes s[0..n) into out. An encoded NUL or slash in a container's name, or a line break, would let
 * one URL sign for another: control characters are refused. */
static int sas_decode(const char *s, size_t n, char *out, size_t out_len)
{
    size_t o = 0;

    for (size_t i = 0; i < n; i++) {
        int c = (unsigned char)s[i];

        if (c == '%') {
            if (i + 2 >= n)
                return -EINVAL;
            c = tb_hex_digit(s[i + 1]) << 4 | tb_hex_digit(s[i + 2]);
            i += 2;
        }
        if (c < ' ' || c == 0x7f || o + 1 >= out_len)
            return -EINVAL;
        out[o++] = (char)c;
    }
    out[o] = '\0';
    return o > 0 ? 0 : -EINVAL;
}

/* Takes the account from host or first path segment; *path is moved to "CONTAINER/BLOB". */
static bool sas_account_matches(const char *account, const char *host, size_t host_len, const char **path)
{
    size_t n = strlen(account);

    if (host_len > n + 6 && strncasecmp(host, account, n) == 0 && strncasecmp(host + n, ".blob.", 6) == 0)
        return true;
    if (strncmp(*path, account, n) == 0 && (*path)[n] == '/') {
        *path += n + 1;
        return true;
    }
    return false;
}

int cp_blob_parse(const char *url, const char *account, struct cp_blob *ret)
{
    struct cp_blob b = {0};
    const char *host, *path, *slash;
    size_t host_len;
    int r;

    if (cp_blob_url_fault(url) || strlen(account) >= sizeof(b.account))
        return -EINVAL;
    host = sas_after_scheme(url, &b.https);
    path = strchr(host, '/');
    host_len = (size_t)(path - host);
    path++;
    if (!sas_account_matches(account, host, host_len, &path))
        return -ENXIO;
    slash = strchr(path, '/');
    if (!slash)
        return -EINVAL;
    r = sas_decode(path, (size_t)(slash - path), b.container, sizeof(b.container));
    if (r < 0 || strchr(b.container, '/'))
        return -EINVAL;
    r = sas_decode(slash + 1, strlen(slash + 1), b.blob, sizeof(b.blob));
    if (r < 0)
        return r;
    strcpy(b.account, account);
    *ret = b;
    return 0;
}

static int sas_sign(const uint8_t *key, size_t key_len, const char *text, int len,
                    char out[static SIGNATURE_BASE64])
{
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    if (!HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)text, (size_t)len, mac, &n) ||
        n != SIGNATURE_BYTES)
        return -EIO;
    EVP_EncodeBlock((unsigned char *)out, mac, SIGNATURE_BYTES);
    return 0;
}

/* Of a query's value. out has three bytes for each of in, and one. */
static void sas_percent_encode(const char *in, char *out)
{
    *out = '\0';
    for (; *in; in++)
        out += tb_percent_encode_char(*in, "", out);
}

/* -ENXIO: of none of the accounts. */
static int sas_find_account(const struct cp_sas *s, const char *url, const struct cp_sas_account **ret,
                            struct cp_blob *ret_blob)
{
    int r = -ENXIO;

    for (size_t i = 0; r == -ENXIO && i < s->n_accounts; i++) {
        *ret = &s->accounts[i];
        r = cp_blob_parse(url, s->accounts[i].name, ret_blob);
    }
    return r;
}

int cp_sas_prepare(const struct cp_sas *s, const char *url, uint64_t now_us)
{
    const struct cp_sas_account *a;
    struct cp_blob b;

    if (sas_find_account(s, url, &a, &b) < 0 || !a->delegation)
        return 0;
    return cp_delegation_renew(a->delegation, now_us);
}

/* One SAS on its way. */
struct sas {
    struct cp_blob blob;
    char st[TB_RFC3339_MAX], se[TB_RFC3339_MAX];
    const char *ip, *spr;
    char sig[SIGNATURE_BASE64];
};

/* Permissions, start, expiry, resource, identifier, ip, protocol, version, resource type, snapshot,
 * encryption scope, then the five response header overrides. */
static int sas_sign_by_account(struct sas *q, const struct cp_sas_account *a)
{
    char text[2048];
    int n = snprintf(text, sizeof(text),
                     "r\n%s\n%s\n/blob/%s/%s/%s\n\n%s\n%s\n" CP_SAS_VERSION "\nb\n\n\n\n\n\n\n", q->st, q->se,
                     q->blob.account, q->blob.container, q->blob.blob, q->ip, q->spr);

    return n < 0 || (size_t)n >= sizeof(text) ? -EINVAL : sas_sign(a->key, a->key_len, text, n, q->sig);
}

/* The same, with what the key says of itself instead of the identifier, and behind that authorized and
 * unauthorized object id and correlation id. */
static int sas_sign_by_delegation(struct sas *q, const struct cp_delegation_key *k)
{
    char text[2048];
    int n = snprintf(text, sizeof(text),
                     "r\n%s\n%s\n/blob/%s/%s/%s\n%s\n%s\n%s\n%s\n%s\n%s\n\n\n\n%s\n%s\n" CP_SAS_VERSION
                     "\nb\n\n\n\n\n\n\n",
                     q->st, q->se, q->blob.account, q->blob.container, q->blob.blob, k->oid, k->tid, k->start,
                     k->expiry, k->service, k->version, q->ip, q->spr);

    return n < 0 || (size_t)n >= sizeof(text) ? -EINVAL : sas_sign(k->key, k->key_len, text, n, q->sig);
}

static int sas_write(const struct sas *q, const char *url, const struct cp_delegation_key *k,
                     char out[static CP_SAS_URL_MAX])
{
    char sig_q[3 * SIGNATURE_BASE64], ip_q[3 * SAS_IP_MAX], start_q[3 * sizeof(k->start)],
        expiry_q[3 * sizeof(k->expiry)], of_key[1024] = "";
    int n;

    if (k) {
        sas_percent_encode(k->start, start_q);
        sas_percent_encode(k->expiry, expiry_q);
        snprintf(of_key, sizeof(of_key), "&skoid=%s&sktid=%s&skt=%s&ske=%s&sks=%s&skv=%s", k->oid, k->tid,
                 start_q, expiry_q, k->service, k->version);
    }
    sas_percent_encode(q->sig, sig_q);
    sas_percent_encode(q->ip, ip_q);
    n = snprintf(out, CP_SAS_URL_MAX, "%s?sv=" CP_SAS_VERSION "&sr=b&sp=r&st=%s&se=%s%s&spr=%s%s%s&sig=%s",
                 url, q->st, q->se, of_key, q->blob.https ? "https" : "https%2Chttp", *q->ip ? "&sip=" : "",
                 ip_q, sig_q);
    return n > 0 && n < CP_SAS_URL_MAX ? 0 : -EINVAL;
}

int cp_sas_url(const struct cp_sas *s, const char *url, uint64_t now_us, uint64_t end_us,
               char out[static CP_SAS_URL_MAX])
{
    struct sas q = {.ip = s->ip ? s->ip : ""};
    struct cp_delegation_key k = {.expiry_us = UINT64_MAX};
    const struct cp_sas_account *a;
    int64_t skew_us = 0;
    int r = sas_find_account(s, url, &a, &q.blob);

    if (r == -ENXIO) {
        snprintf(out, CP_SAS_URL_MAX, "%s", url);
        return 1;
    }
    if (r == 0 && strlen(q.ip) >= SAS_IP_MAX)
        r = -EINVAL;
    if (r == 0 && a->delegation)
        r = cp_delegation_get(a->delegation, now_us, &k, &skew_us);
    if (r < 0)
        return r;
    /* the contract's end is by this clock, the storage's times by the storage's */
    end_us = end_us == UINT64_MAX ? end_us : end_us + (uint64_t)skew_us;
    now_us += (uint64_t)skew_us;
    tb_rfc3339_format(now_us - MIN(now_us, (uint64_t)CP_SAS_START_SKEW_US), 0, q.st);
    tb_rfc3339_format(MIN(MIN(now_us + s->lifetime_us, end_us), k.expiry_us), 0, q.se);
    q.spr = q.blob.https ? "https" : "https,http";
    r = a->delegation ? sas_sign_by_delegation(&q, &k) : sas_sign_by_account(&q, a);
    if (r == 0)
        r = sas_write(&q, url, a->delegation ? &k : NULL, out);
    tb_erase(&k, sizeof(k));
    return r;
}
