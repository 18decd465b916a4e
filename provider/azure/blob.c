/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/blob.h"

#include <ctype.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "common/base64.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/percent.h"
#include "common/secret.h"
#include "common/units.h"

/* -- names and URLs ---------------------------------------------------------------------------- */

static bool blob_is_lower_alnum(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool blob_account_valid(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (!blob_is_lower_alnum(s[i]))
            return false;
    return n >= 3 && n <= 24;
}

bool blob_container_valid(const char *s)
{
    size_t n = strlen(s);

    if (n < 3 || n > 63 || s[0] == '-' || s[n - 1] == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!blob_is_lower_alnum(s[i]) && (s[i] != '-' || s[i + 1] == '-'))
            return false;
    return true;
}

/* The authority of an http(s) URL: [*ret, *ret + *ret_len). Returns what follows it, or NULL when url is no
 * such URL. */
static const char *blob_url_authority(const char *url, const char **ret, size_t *ret_len)
{
    size_t scheme = strncasecmp(url, "https://", 8) == 0 ? 8 : strncasecmp(url, "http://", 7) == 0 ? 7 : 0;

    if (scheme == 0)
        return NULL;
    *ret = url + scheme;
    *ret_len = strcspn(*ret, "/?#\\");
    return *ret_len > 0 ? *ret + *ret_len : NULL;
}

/* Copies the host without port; brackets of an IPv6 address stay. */
static bool blob_url_host(const char *url, char *out, size_t out_len)
{
    const char *a, *end;
    size_t n;

    if (!blob_url_authority(url, &a, &n) || memchr(a, '@', n))
        return false;
    end = a[0] == '[' ? memchr(a, ']', n) : memchr(a, ':', n);
    if (a[0] == '[' && !end)
        return false;
    if (end)
        n = (size_t)(end - a) + (a[0] == '[');
    if (n == 0 || n >= out_len)
        return false;
    memcpy(out, a, n);
    out[n] = '\0';
    return true;
}

static bool blob_host_is_ipv4(const char *host)
{
    unsigned v[4];
    int n = 0;

    if (sscanf(host, "%3u.%3u.%3u.%3u%n", &v[0], &v[1], &v[2], &v[3], &n) != 4 || host[n] != '\0')
        return false;
    return v[0] < 256 && v[1] < 256 && v[2] < 256 && v[3] < 256;
}

bool blob_url_is_loopback(const char *url)
{
    char host[256];

    if (!blob_url_host(url, host, sizeof(host)))
        return false;
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (blob_host_is_ipv4(host) && strncmp(host, "127.", 4) == 0);
}

static int blob_refuse(char *err, const char *fmt, ...) _printf_(2, 3);
static int blob_refuse(char *err, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, BLOB_ERR_MAX, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

int blob_base_url_check(const char *what, const char *url, bool allow_http, char err[static BLOB_ERR_MAX])
{
    char host[256];

    for (const char *p = url; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
            return blob_refuse(err, "%s has a space, control or non-ASCII character in its URL", what);
    if (strchr(url, '?') || strchr(url, '#'))
        return blob_refuse(
            err, "%s must have no query or fragment: it is a base URL, and a SAS does not belong there",
            what);
    if (strchr(url, '@'))
        return blob_refuse(err, "%s must have no user name or password in it", what);
    if (!blob_url_host(url, host, sizeof(host)))
        return blob_refuse(err, "%s is not an https:// URL with a host", what);
    if (strncasecmp(url, "http://", 7) == 0 && !allow_http && !blob_url_is_loopback(url))
        return blob_refuse(err, "%s is plain http:// to %s; use https://", what, host);
    return 0;
}

int blob_service_init(const char *account, const char *endpoint, bool allow_http, struct blob_service *ret,
                      char err[static BLOB_ERR_MAX])
{
    _cleanup_free_ char *url = NULL, *name = NULL;
    char host[256];
    size_t n;
    int r;

    if (!blob_account_valid(account))
        return blob_refuse(err, "'%.40s' is not a storage account name (3 to 24 of a-z and 0-9)", account);
    if (endpoint) {
        r = blob_base_url_check("the blob endpoint", endpoint, allow_http, err);
        if (r < 0)
            return r;
        n = strlen(endpoint);
        while (endpoint[n - 1] == '/')
            n--;
        if (!blob_url_host(endpoint, host, sizeof(host)))
            return blob_refuse(err, "the blob endpoint has no host");
        if (!memchr(strstr(endpoint, "://") + 3, '/', n - (size_t)(strstr(endpoint, "://") + 3 - endpoint)) &&
            (blob_host_is_ipv4(host) || host[0] == '[' || strcasecmp(host, "localhost") == 0))
            url = tb_strf("%.*s/%s", (int)n, endpoint, account);
        else
            url = tb_strf("%.*s", (int)n, endpoint);
    } else {
        url = tb_strf("https://%s.blob.core.windows.net", account);
    }
    name = strdup(account);
    if (!url || !name)
        return blob_refuse(err, "out of memory"), -ENOMEM;
    *ret = (struct blob_service){.account = TAKE_PTR(name), .url = TAKE_PTR(url)};
    return 0;
}

void blob_service_clear(struct blob_service *s)
{
    tb_freep(&s->account);
    tb_freep(&s->url);
}

static void blob_put_encoded(FILE *f, const char *s, const char *keep)
{
    char out[TB_PERCENT_CHAR_MAX];

    for (; *s; s++) {
        tb_percent_encode_char(*s, keep, out);
        fputs(out, f);
    }
}

/* Closes a memory stream; -ENOMEM when it could not hold everything. */
static int blob_stream_done(FILE *f, char **text, char **ret)
{
    int bad = ferror(f);

    if (fclose(f) != 0 || bad) {
        tb_freep(text);
        return -ENOMEM;
    }
    *ret = *text;
    return 0;
}

int blob_request_url(const struct blob_service *s, const struct blob_request *rq, const char *sas, char **ret)
{
    char *text = NULL, sep = '?';
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return -ENOMEM;
    fprintf(f, "%s/", s->url);
    blob_put_encoded(f, rq->path, "/");
    for (const struct blob_pair *q = rq->query; q->name; q++) {
        fprintf(f, "%c%s=", sep, q->name);
        blob_put_encoded(f, q->value, "");
        sep = '&';
    }
    if (sas)
        fprintf(f, "%c%s", sep, sas);
    return blob_stream_done(f, &text, ret);
}

/* -- Shared Key -------------------------------------------------------------------------------- */

static int blob_compare_pairs(const void *a, const void *b)
{
    return strcasecmp(((const struct blob_pair *)a)->name, ((const struct blob_pair *)b)->name);
}

static const char *blob_header(const struct blob_request *rq, const char *name)
{
    for (const struct blob_pair *h = rq->headers; h->name; h++)
        if (strcasecmp(h->name, name) == 0)
            return h->value;
    return "";
}

static void blob_put_lower(FILE *f, const char *s)
{
    for (; *s; s++)
        fputc(tolower((unsigned char)*s), f);
}

static void blob_put_canonical_headers(FILE *f, const struct blob_request *rq, const char *date)
{
    struct blob_pair h[BLOB_HEADERS_MAX + 2];
    size_t n = 0;

    h[n++] = (struct blob_pair){"x-ms-date", date};
    h[n++] = (struct blob_pair){"x-ms-version", BLOB_API_VERSION};
    for (const struct blob_pair *p = rq->headers; p->name; p++)
        if (strncasecmp(p->name, "x-ms-", 5) == 0)
            h[n++] = *p;
    qsort(h, n, sizeof(h[0]), blob_compare_pairs);
    for (size_t i = 0; i < n; i++) {
        blob_put_lower(f, h[i].name);
        fprintf(f, ":%s\n", h[i].value);
    }
}

static void blob_put_canonical_resource(FILE *f, const struct blob_service *s, const struct blob_request *rq)
{
    struct blob_pair q[BLOB_QUERY_MAX] = {{NULL, NULL}};
    const char *authority, *path;
    size_t n = 0, len;

    path = blob_url_authority(s->url, &authority, &len);
    fprintf(f, "/%s%s/", s->account, path ? path : "");
    blob_put_encoded(f, rq->path, "/");
    for (; rq->query[n].name; n++)
        q[n] = rq->query[n];
    qsort(q, n, sizeof(q[0]), blob_compare_pairs);
    for (size_t i = 0; i < n; i++) {
        fputc('\n', f);
        blob_put_lower(f, q[i].name);
        fprintf(f, ":%s", q[i].value);
    }
}

int blob_string_to_sign(const struct blob_service *s, const struct blob_request *rq, const char *date,
                        char **ret)
{
    static const char *const signed_headers[] = {"Content-MD5",         "Content-Type", "Date",
                                                 "If-Modified-Since",   "If-Match",     "If-None-Match",
                                                 "If-Unmodified-Since", "Range"};
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return -ENOMEM;
    fprintf(f, "%s\n%s\n%s\n", rq->method, blob_header(rq, "Content-Encoding"),
            blob_header(rq, "Content-Language"));
    if (rq->body_len > 0)
        fprintf(f, "%zu", rq->body_len);
    fputc('\n', f);
    for (size_t i = 0; i < ARRAY_SIZE(signed_headers); i++)
        fprintf(f, "%s\n", blob_header(rq, signed_headers[i]));
    blob_put_canonical_headers(f, rq, date);
    blob_put_canonical_resource(f, s, rq);
    return blob_stream_done(f, &text, ret);
}

int blob_authorization(const struct blob_service *s, const struct blob_request *rq, const char *date,
                       const uint8_t *key, size_t key_len, char **ret)
{
    _cleanup_free_ char *text = NULL;
    unsigned char mac[32];
    char base64[45];
    unsigned n = sizeof(mac);
    int r;

    r = blob_string_to_sign(s, rq, date, &text);
    if (r < 0)
        return r;
    if (!HMAC(EVP_sha256(), key, (int)key_len, (const unsigned char *)text, strlen(text), mac, &n))
        return -EIO;
    tb_base64_encode(mac, sizeof(mac), base64);
    *ret = tb_strf("SharedKey %s:%s", s->account, base64);
    return *ret ? 0 : -ENOMEM;
}

/* -- encodings and blocks ---------------------------------------------------------------------- */

int blob_md5(const void *buf, size_t len, uint8_t out[static BLOB_MD5_BYTES])
{
    unsigned n = BLOB_MD5_BYTES;

    return EVP_Digest(buf, len, out, &n, EVP_md5(), NULL) == 1 ? 0 : -EIO;
}

#define BLOB_ID_TEXT (3 * BLOB_ID_CHARS / 4) /* what the base64 of an id holds */

void blob_block_id(size_t index, const char *session, const uint8_t md5[static BLOB_MD5_BYTES],
                   char out[static BLOB_ID_CHARS + 1])
{
    char hex[2 * BLOB_MD5_BYTES + 1], base64[BLOB_MD5_BASE64 + 1], text[BLOB_ID_TEXT + 1];

    tb_hex_encode(md5, BLOB_MD5_BYTES, hex);
    tb_base64_encode(md5, BLOB_MD5_BYTES, base64);
    if (session)
        snprintf(text, sizeof(text), "tb2-%05u-%.9s-%.22s", (unsigned)(index % 100000), session, base64);
    else
        snprintf(text, sizeof(text), "tb1-%05u-%s", (unsigned)(index % 100000), hex);
    tb_base64_encode(text, strlen(text), out);
}

bool blob_block_id_parse(const char *id, const char *session, size_t *ret_index)
{
    uint8_t text[BLOB_ID_TEXT + 1];
    ssize_t n = strlen(id) == BLOB_ID_CHARS ? tb_base64_decode(id, BLOB_ID_CHARS, text) : -1;
    uint64_t index;
    char digits[6];

    if (n != BLOB_ID_TEXT || memcmp(text, "tb2-", 4) != 0 || text[9] != '-' || text[19] != '-' ||
        memcmp(text + 10, session, BLOB_SESSION_CHARS) != 0)
        return false;
    memcpy(digits, text + 4, 5);
    digits[5] = '\0';
    if (tb_uint_parse(digits, 0, 99999, &index) < 0)
        return false;
    *ret_index = (size_t)index;
    return true;
}

uint32_t blob_block_bytes_for(uint64_t size, uint32_t wanted)
{
    uint64_t least = (size + BLOB_BLOCKS_MAX - 1) / BLOB_BLOCKS_MAX;

    if (least <= wanted)
        return wanted;
    least = (least + (1U << 20) - 1) >> 20 << 20;
    return least <= BLOB_BLOCK_BYTES_MAX ? (uint32_t)least : 0;
}

int blob_block_list_format(char (*ids)[BLOB_ID_CHARS + 1], size_t n, char **ret, size_t *ret_len)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    int r;

    if (!f)
        return -ENOMEM;
    fputs("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList>", f);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "<Uncommitted>%s</Uncommitted>", ids[i]);
    fputs("</BlockList>", f);
    r = blob_stream_done(f, &text, ret);
    if (r == 0)
        *ret_len = len;
    return r;
}
