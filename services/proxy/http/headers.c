/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/headers.h"

#include <string.h>
#include <strings.h>

#include "common/units.h"

/* Octets of a token (RFC 9110, 5.6.2). */
static const bool token_octet[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};

bool tb_header_name_valid(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!token_octet[(unsigned char)name[i]])
            return false;
    return n > 0;
}

bool tb_header_value_valid(const char *value, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            return false;
    return true;
}

enum tb_header_id tb_header_id(const char *name, size_t len)
{
    static const struct {
        unsigned char len;
        enum tb_header_id id;
        const char *name;
    } all[] = {
        {2, TB_HEADER_TE, "TE"},
        {4, TB_HEADER_HOST, "Host"},
        {4, TB_HEADER_DATE, "Date"},
        {6, TB_HEADER_EXPECT, "Expect"},
        {7, TB_HEADER_UPGRADE, "Upgrade"},
        {7, TB_HEADER_TRAILER, "Trailer"},
        {8, TB_HEADER_TRAILER, "Trailers"},
        {10, TB_HEADER_CONNECTION, "Connection"},
        {10, TB_HEADER_KEEP_ALIVE, "Keep-Alive"},
        {12, TB_HEADER_CONTENT_TYPE, "Content-Type"},
        {12, TB_HEADER_X_REQUEST_ID, "X-Request-Id"},
        {13, TB_HEADER_AUTHORIZATION, "Authorization"},
        {14, TB_HEADER_CONTENT_LENGTH, "Content-Length"},
        {15, TB_HEADER_ACCEPT_ENCODING, "Accept-Encoding"},
        {15, TB_HEADER_X_FORWARDED_FOR, "X-Forwarded-For"},
        {16, TB_HEADER_CONTENT_ENCODING, "Content-Encoding"},
        {16, TB_HEADER_PROXY, "Proxy-Connection"},
        {17, TB_HEADER_TRANSFER_ENCODING, "Transfer-Encoding"},
        {17, TB_HEADER_X_FORWARDED_PROTO, "X-Forwarded-Proto"},
        {18, TB_HEADER_PROXY, "Proxy-Authenticate"},
        {19, TB_HEADER_PROXY, "Proxy-Authorization"},
        {25, TB_HEADER_PROXY, "Proxy-Authentication-Info"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(all) && all[i].len <= len; i++)
        if (all[i].len == len && strncasecmp(name, all[i].name, len) == 0)
            return all[i].id;
    return TB_HEADER_OTHER;
}

bool tb_header_has_token(const char *list, const char *token)
{
    size_t n = strlen(token);

    for (;;) {
        size_t len;

        list += strspn(list, ", \t");
        len = strcspn(list, ", \t");
        if (len == 0)
            return false;
        if (len == n && strncasecmp(list, token, n) == 0)
            return true;
        list += len;
    }
}

bool tb_header_is_hop_by_hop(const char *name)
{
    static const char *const names[] = {
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Trailers",
        "Transfer-Encoding",
        "Upgrade",
        "Proxy-Authentication-Info",
    };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcasecmp(name, names[i]) == 0)
            return true;
    return false;
}

void tb_request_connection(struct tb_request_head *h, const char *value)
{
    size_t used = strlen(h->connection), n = strlen(value);

    if (used + n + 2 > sizeof(h->connection)) {
        h->bad = true;
        return;
    }
    if (used > 0)
        h->connection[used++] = ',';
    memcpy(h->connection + used, value, n + 1);
}

/* libmicrohttpd 0.9.75 glues a folded line to the field's name: "Content-Length:\r\n 3" arrives as "Content-Length3" without a
 * value, and what a server in front of us took for the body would be the next request here. */
static bool is_folded_framing(const char *name)
{
    static const char *const names[] = {"Content-Length", "Transfer-Encoding"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        size_t n = strlen(names[i]);

        if (strncasecmp(name, names[i], n) == 0 && name[n] != '\0')
            return true;
    }
    return false;
}

/* Notes fields that decide framing, identity and routing. True when the field is ours to write, not to copy. */
static bool note_field(struct tb_request_head *h, const char *name, const char *value)
{
    if (strcasecmp(name, "Content-Length") == 0) {
        h->n_lengths++;
        h->has_length = tb_uint_parse(value, 0, INT64_MAX, &h->length) >= 0;
        h->bad |= !h->has_length;
        return true;
    }
    if (strcasecmp(name, "Transfer-Encoding") == 0) {
        h->n_codings++;
        if (strcasecmp(value, "chunked") == 0)
            h->chunked = true;
        else
            h->other_coding = true;
    }
    if (strcasecmp(name, "Upgrade") == 0)
        h->websocket |= tb_header_has_token(value, "websocket");
    if (strcasecmp(name, "Host") == 0)
        h->n_hosts++;
    if (strcasecmp(name, "Expect") == 0) {
        h->expect = true;
        return true; /* libmicrohttpd says 100 Continue itself */
    }
    if (strcasecmp(name, "Content-Encoding") == 0)
        h->coded = strcasecmp(value, "identity") != 0;
    if (strcasecmp(name, "Content-Type") == 0)
        h->multipart = strncasecmp(value, "multipart/", 10) == 0;
    if (strcasecmp(name, "Accept-Encoding") == 0)
        return true; /* a compressed answer could not be metered, and the runtime is on this machine */
    if (strcasecmp(name, "X-Forwarded-For") == 0) {
        h->forwarded_for = value;
        return true;
    }
    if (strcasecmp(name, "X-Request-Id") == 0) {
        h->request_id = value;
        return true;
    }
    return strcasecmp(name, "X-Forwarded-Proto") == 0 || tb_header_is_hop_by_hop(name);
}

int tb_request_field(struct tb_request_head *h, const char *name, size_t name_len, const char *value,
                     size_t value_len)
{
    int r;

    /* A name or value with a NUL, a space before the colon, a bare CR: another parser may read it differently. */
    if (!tb_header_name_valid(name, name_len) || !tb_header_value_valid(value, value_len) ||
        is_folded_framing(name)) {
        h->bad = true;
        return 0;
    }
    if (note_field(h, name, value) || tb_header_has_token(h->connection, name))
        return 0;
    r = tb_buf_append(&h->lines, name, name_len);
    if (r >= 0)
        r = tb_buf_append(&h->lines, ": ", 2);
    if (r >= 0)
        r = tb_buf_append(&h->lines, value, value_len);
    if (r >= 0)
        r = tb_buf_append(&h->lines, "\r\n", 2);
    return r;
}

const char *tb_request_check(const struct tb_request_head *h)
{
    if (h->bad)
        return "a header field is malformed";
    if (h->n_lengths > 1)
        return "Content-Length is given twice";
    if (h->n_hosts > 1)
        return "Host is given twice";
    if (h->n_codings > 1 || h->other_coding)
        return "only Transfer-Encoding: chunked is understood";
    if (h->chunked && h->n_lengths > 0)
        return "Content-Length and Transfer-Encoding exclude each other";
    if (h->websocket)
        return "WebSocket is not offered here";
    return NULL;
}

void tb_request_head_clear(struct tb_request_head *h)
{
    tb_buf_free(&h->lines);
}

bool tb_request_id_valid(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return n > 0 && n <= TB_REQUEST_ID_MAX && s[n] == '\0';
}
