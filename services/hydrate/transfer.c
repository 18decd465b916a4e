/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/transfer.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "common/io.h"
#include "common/text.h"
#include "hydrate/mirror.h"

/* Error bodies are not read beyond this; aborting costs the connection, so small ones are let through. */
#define ERROR_BODY_MAX (64 * 1024)

static void transfer_fail(struct transfer *t, enum transfer_fault f, const char *fmt, ...) _printf_(3, 4);
static void transfer_fail(struct transfer *t, enum transfer_fault f, const char *fmt, ...)
{
    va_list ap;

    t->fault = f;
    va_start(ap, fmt);
    vsnprintf(t->why, sizeof(t->why), fmt, ap);
    va_end(ap);
}

static void transfer_judge_partial(struct transfer *t)
{
    uint64_t first = t->start + t->got, last = t->end - 1;

    if (!t->has_range) {
        transfer_fail(t, TRANSFER_PROTOCOL,
                      *t->range_text ? "206 with Content-Range %s" : "206 without Content-Range%s",
                      t->range_text);
    } else if (t->range.total != t->size) {
        transfer_fail(t, TRANSFER_SIZE, "%" PRIu64, t->range.total);
    } else if (t->range.first != first || t->range.last != last) {
        transfer_fail(t, TRANSFER_PROTOCOL,
                      "asked for bytes %" PRIu64 "-%" PRIu64 ", got %" PRIu64 "-%" PRIu64, first, last,
                      t->range.first, t->range.last);
    } else {
        t->accepted = true;
    }
}

/* A whole body is what was asked for only when the range is the whole file. */
static void transfer_judge_whole(struct transfer *t)
{
    if (t->start != 0 || t->got != 0 || t->end != t->size)
        transfer_fail(t, TRANSFER_PROTOCOL, "200 with a whole body to a request for a range");
    else if (t->has_length && t->length != t->size)
        transfer_fail(t, TRANSFER_SIZE, "%" PRIu64, t->length);
    else
        t->accepted = true;
}

/* At the end of the headers. */
static void transfer_judge(struct transfer *t)
{
    if (t->status != 200 && t->status != 206)
        return;
    if (*t->etag && *t->response_etag && strcmp(t->etag, t->response_etag) != 0)
        transfer_fail(t, TRANSFER_CHANGED, "the entity tag changed");
    else if (t->status == 206)
        transfer_judge_partial(t);
    else
        transfer_judge_whole(t);
}

static void transfer_reset_response(struct transfer *t)
{
    t->status = 0;
    t->accepted = t->has_range = t->has_length = false;
    t->length = t->discarded = 0;
    t->response_etag[0] = t->error_code[0] = t->range_text[0] = t->redirect[0] = '\0';
    t->retry_after_ms = -1;
}

/* The service's own word for the error; only a plain token may reach the log. */
static void transfer_take_error_code(struct transfer *t, const char *v)
{
    size_t n = 0;

    while (n < TRANSFER_CODE_MAX - 1 && isalnum((unsigned char)v[n]))
        n++;
    memcpy(t->error_code, v, n);
    t->error_code[n] = '\0';
}

static void transfer_take_header(struct transfer *t, const char *line)
{
    const char *v;

    if ((v = tb_http_field(line, "content-range"))) {
        t->has_range = content_range_parse(v, strlen(v), &t->range) == 0;
        snprintf(t->range_text, sizeof(t->range_text), "%s", v);
        tb_text_plain(t->range_text);
    } else if ((v = tb_http_field(line, "content-length"))) {
        t->has_length = header_uint_parse(v, strlen(v), &t->length) == 0;
    } else if ((v = tb_http_field(line, "etag"))) {
        if (etag_parse(v, strlen(v), t->response_etag) < 0)
            t->response_etag[0] = '\0';
    } else if ((v = tb_http_field(line, "x-ms-error-code"))) {
        transfer_take_error_code(t, v);
    } else if ((v = tb_http_field(line, "retry-after"))) {
        t->retry_after_ms = tb_http_retry_after_ms(v);
    } else if ((v = tb_http_field(line, "location"))) {
        tb_http_origin(v, t->redirect, sizeof(t->redirect));
    }
}

static size_t transfer_on_header(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    size_t len = size * n;
    char line[TB_HTTP_LINE_MAX];

    if (!tb_http_line(data, len, line))
        return len;
    if (strncasecmp(line, "HTTP/", 5) == 0) {
        const char *space = strchr(line, ' ');

        transfer_reset_response(t);
        if (space)
            t->status = strtol(space, NULL, 10);
    } else if (*line == '\0') {
        transfer_judge(t);
    } else {
        transfer_take_header(t, line);
    }
    return t->fault == TRANSFER_OK ? len : 0;
}

static bool transfer_write(struct transfer *t, const void *data, size_t len)
{
    int r = tb_pwrite_full(t->fd, data, len, t->start + t->got);

    if (r == 0) {
        t->got += len;
        return true;
    }
    transfer_fail(t, TRANSFER_IO, "%s", strerror(-r));
    t->io_error = r;
    return false;
}

static bool transfer_flush(struct transfer *t)
{
    size_t n = t->gathered;

    t->gathered = 0;
    return n == 0 || transfer_write(t, t->gather, n);
}

/* Whoever waits for bytes can have them now, or there will be no more. */
static bool transfer_is_due(const struct transfer *t)
{
    uint64_t written = t->start + t->got, came = written + t->gathered;

    return t->gathered == TRANSFER_GATHER_BYTES || came == t->end || came / t->unit != written / t->unit;
}

static bool transfer_take(struct transfer *t, const char *data, size_t len)
{
    bool good = true;

    for (size_t n; good && len > 0; data += n, len -= n) {
        if (t->gathered == 0 && len >= TRANSFER_GATHER_BYTES)
            return transfer_write(t, data, len);
        n = MIN(len, TRANSFER_GATHER_BYTES - t->gathered);
        memcpy(t->gather + t->gathered, data, n);
        t->gathered += n;
        good = !transfer_is_due(t) || transfer_flush(t);
    }
    return good;
}

void transfer_settle(struct transfer *t)
{
    if (t->fault == TRANSFER_OK)
        (void)transfer_flush(t);
    t->gathered = 0;
}

static size_t transfer_on_body(char *data, size_t size, size_t n, void *arg)
{
    struct transfer *t = arg;
    size_t len = size * n;

    if (!t->accepted) {
        t->discarded += len;
        return t->discarded > ERROR_BODY_MAX ? 0 : len;
    }
    if (len > t->end - t->start - t->got - t->gathered) {
        transfer_fail(t, TRANSFER_PROTOCOL, "the body is longer than the range asked for");
        return 0;
    }
    return transfer_take(t, data, len) ? len : 0;
}

int transfer_init(struct transfer *t, const struct tb_http_tls *tls)
{
    CURLcode e = CURLE_OK;

    t->tls = tls;
    t->easy = curl_easy_init();
    t->gather = malloc(TRANSFER_GATHER_BYTES);
    if (!t->easy || !t->gather || tb_http_easy_init(t->easy, tls) < 0)
        return -ENOMEM;
#define SET(option, value) (e = e != CURLE_OK ? e : curl_easy_setopt(t->easy, option, value))
    /* one connection per slot: with HTTP/2 all ranges would share one and its flow control */
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_ERRORBUFFER, t->errbuf);
    SET(CURLOPT_HEADERFUNCTION, transfer_on_header);
    SET(CURLOPT_HEADERDATA, t);
    SET(CURLOPT_WRITEFUNCTION, transfer_on_body);
    SET(CURLOPT_WRITEDATA, t);
    SET(CURLOPT_PRIVATE, t);
#undef SET
    return e == CURLE_OK ? 0 : -ENOMEM;
}

void transfer_clear(struct transfer *t)
{
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    free(t->gather);
    t->easy = NULL;
    t->headers = NULL;
    t->gather = NULL;
}

static int transfer_append_header(struct transfer *t, const char *line)
{
    struct curl_slist *grown = curl_slist_append(t->headers, line);

    if (!grown)
        return -ENOMEM;
    t->headers = grown;
    return 0;
}

/* A mirror is given up sooner than the storage, which is there in its place, and is shown no certificate. */
static int transfer_set_peer(struct transfer *t)
{
    long slow_bytes = t->mirror ? (long)MIRROR_SLOW_BYTES : 1L;
    long stall_sec = t->awaited ? (long)TRANSFER_AWAITED_STALL_SEC : (long)TRANSFER_STALL_SEC;
    long slow_sec = t->mirror ? (long)MIRROR_SLOW_SEC : stall_sec;
    long storage_ms = t->awaited ? (long)TRANSFER_AWAITED_CONNECT_MS : (long)TRANSFER_CONNECT_MS;
    long connect_ms = t->mirror ? (long)MIRROR_CONNECT_MS : storage_ms;

    if (curl_easy_setopt(t->easy, CURLOPT_URL, t->url) != CURLE_OK ||
        curl_easy_setopt(t->easy, CURLOPT_LOW_SPEED_LIMIT, slow_bytes) != CURLE_OK ||
        curl_easy_setopt(t->easy, CURLOPT_LOW_SPEED_TIME, slow_sec) != CURLE_OK ||
        curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms) != CURLE_OK)
        return -ENOMEM;
    return tb_http_easy_identity(t->easy, t->tls, !t->mirror);
}

int transfer_begin(struct transfer *t)
{
    char range[64], if_match[ETAG_MAX + 16];

    assert(t->start + t->got < t->end && t->end <= t->size && t->unit > 0 && t->gathered == 0);
    transfer_reset_response(t);
    t->fault = TRANSFER_OK;
    t->io_error = 0;
    t->errbuf[0] = t->why[0] = '\0';
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    /* fixed: the first version whose ranges, SAS and ETags are as this program expects them; others ignore
     * it */
    if (transfer_append_header(t, "x-ms-version: 2024-11-04") < 0)
        return -ENOMEM;
    snprintf(if_match, sizeof(if_match), "If-Match: %s", t->etag);
    if (*t->etag && !t->mirror && transfer_append_header(t, if_match) < 0)
        return -ENOMEM;
    snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, t->start + t->got, t->end - 1);
    if (transfer_set_peer(t) < 0 || curl_easy_setopt(t->easy, CURLOPT_RANGE, range) != CURLE_OK ||
        curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers) != CURLE_OK)
        return -ENOMEM;
    return 0;
}

bool transfer_complete(const struct transfer *t)
{
    return t->accepted && t->fault == TRANSFER_OK && t->got == t->end - t->start;
}
