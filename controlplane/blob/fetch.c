/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/blob/fetch.h"

#include <inttypes.h>
#include <string.h>

#include "common/io.h"
#include "common/units.h"

/* A client waits for half a minute. */
#define FETCH_SECONDS_MAX 20L

struct fetch {
    int fd;
    uint64_t wanted, got, size;
    bool failed; /* fd */
};

static size_t fetch_on_header(char *data, size_t size, size_t n, void *ctx)
{
    struct fetch *f = ctx;
    char line[TB_HTTP_LINE_MAX];
    const char *v;

    if (!tb_http_line(data, size * n, line))
        return size * n;
    v = tb_http_field(line, "Content-Range");
    if (v && (v = strchr(v, '/')))
        (void)tb_uint_parse(v + 1, 0, INT64_MAX, &f->size);
    v = tb_http_field(line, "Content-Length");
    if (v && f->size == UINT64_MAX)
        (void)tb_uint_parse(v, 0, INT64_MAX, &f->size);
    return size * n;
}

/* Returning less than came ends the transfer: a server that knows no ranges sends all of it. */
static size_t fetch_on_body(char *data, size_t size, size_t n, void *ctx)
{
    struct fetch *f = ctx;
    size_t take = (size_t)MIN((uint64_t)(size * n), f->wanted - f->got);

    if (tb_write_full(f->fd, data, take) < 0) {
        f->failed = true;
        return 0;
    }
    f->got += take;
    return f->got == f->wanted && take < size * n ? 0 : size * n;
}

static int fetch_judge_status(long status, uint64_t wanted, const char *origin, char *err)
{
    if (status == 200 || status == 206)
        return 0;
    if (status == 416) {
        snprintf(err, TB_HTTP_ERR_MAX, "it has fewer than %" PRIu64 " bytes", wanted);
        return -ERANGE;
    }
    snprintf(err, TB_HTTP_ERR_MAX, "%s answers %ld", origin, status);
    if (status == 429 || status >= 500)
        return -EAGAIN;
    return -ENOENT;
}

static void fetch_clear_curl(CURL **c)
{
    curl_easy_cleanup(*c);
}

int cp_fetch_beginning(const char *url, const struct tb_http_tls *tls, uint64_t n, int fd, uint64_t *ret_size,
                       char err[static TB_HTTP_ERR_MAX])
{
    _cleanup_(fetch_clear_curl) CURL *c = curl_easy_init();
    struct fetch f = {.fd = fd, .wanted = n, .size = UINT64_MAX};
    char range[40], origin[200], words[CURL_ERROR_SIZE] = "";
    long status = 0;
    CURLcode code;
    int r;

    snprintf(err, TB_HTTP_ERR_MAX, "out of memory");
    r = c ? tb_http_easy_init(c, tls) : -ENOMEM;
    if (r < 0)
        return -EAGAIN;
    snprintf(range, sizeof(range), "0-%" PRIu64, n - 1);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_RANGE, range);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, FETCH_SECONDS_MAX);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, words);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, fetch_on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &f);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, fetch_on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &f);
    code = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    *ret_size = f.size;
    if (f.failed) {
        snprintf(err, TB_HTTP_ERR_MAX, "it cannot be kept in memory");
        return -EIO;
    }
    if (code != CURLE_OK && f.got < f.wanted) {
        (void)tb_http_error(code, url, words, err);
        return -EAGAIN;
    }
    r = fetch_judge_status(status, n, tb_http_origin(url, origin, sizeof(origin)), err);
    if (r == 0 && f.got < f.wanted) {
        snprintf(err, TB_HTTP_ERR_MAX, "it has %" PRIu64 " bytes, fewer than %" PRIu64, f.got, n);
        return -ERANGE;
    }
    return r;
}
