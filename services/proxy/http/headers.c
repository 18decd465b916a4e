/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/headers.h"

#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/macros.h"

/* Octets of a token (RFC 9110, 5.6.2). */
static const bool token_octet[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1,
};

size_t tb_header_token_len(const char *p, size_t n)
{
    size_t i = 0;

    while (i < n && token_octet[(unsigned char)p[i]])
        i++;
    return i;
}

bool tb_header_name_valid(const char *name, size_t n)
{
    return n > 0 && tb_header_token_len(name, n) == n;
}

bool tb_header_value_valid(const char *value, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        uint64_t v = tb_bytes_load(value + i);

        if (tb_bytes_control(v) | tb_bytes_have(v, 0x7f))
            break; /* a tab perhaps */
    }
    for (; i < n; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            return false;
    return true;
}

/* By length, two of each at most, so that most names are told apart by that alone. */
static const struct known_header {
    const char *name;
    enum tb_header_id id;
} known_header[][2] = {
    [2] = {{"TE", TB_HEADER_TE}},
    [4] = {{"Host", TB_HEADER_HOST}, {"Date", TB_HEADER_DATE}},
    [6] = {{"Expect", TB_HEADER_EXPECT}},
    [7] = {{"Upgrade", TB_HEADER_UPGRADE}, {"Trailer", TB_HEADER_TRAILER}},
    [8] = {{"Trailers", TB_HEADER_TRAILER}},
    [10] = {{"Connection", TB_HEADER_CONNECTION}, {"Keep-Alive", TB_HEADER_KEEP_ALIVE}},
    [12] = {{"Content-Type", TB_HEADER_CONTENT_TYPE}, {"X-Request-Id", TB_HEADER_X_REQUEST_ID}},
    [13] = {{"Authorization", TB_HEADER_AUTHORIZATION}},
    [14] = {{"Content-Length", TB_HEADER_CONTENT_LENGTH}},
    [15] = {{"Accept-Encoding", TB_HEADER_ACCEPT_ENCODING}, {"X-Forwarded-For", TB_HEADER_X_FORWARDED_FOR}},
    [16] = {{"Content-Encoding", TB_HEADER_CONTENT_ENCODING}, {"Proxy-Connection", TB_HEADER_PROXY}},
    [17] = {{"Transfer-Encoding", TB_HEADER_TRANSFER_ENCODING},
            {"X-Forwarded-Proto", TB_HEADER_X_FORWARDED_PROTO}},
    [18] = {{"Proxy-Authenticate", TB_HEADER_PROXY}},
    [19] = {{"Proxy-Authorization", TB_HEADER_PROXY}},
    [25] = {{"Proxy-Authentication-Info", TB_HEADER_PROXY}},
};

/* In any case. known has letters and hyphens only, and name is a token: what differs in this one bit alone
 * is a letter. */
static bool header_is(const char *name, const char *known, size_t len)
{
    size_t i = 0;

    for (; i + 8 <= len; i += 8)
        if (((tb_bytes_load(name + i) ^ tb_bytes_load(known + i)) & TB_EACH_BYTE(0xdfULL)) != 0)
            return false;
    while (i < len && ((name[i] ^ known[i]) & 0xdf) == 0)
        i++;
    return i == len;
}

enum tb_header_id tb_header_id(const char *name, size_t len)
{
    if (len < ARRAY_SIZE(known_header))
        for (size_t i = 0; i < 2; i++) {
            const struct known_header *k = &known_header[len][i];

            if (k->name && header_is(name, k->name, len))
                return k->id;
        }
    return TB_HEADER_OTHER;
}

static bool header_separates(char c)
{
    return c == ',' || c == ' ' || c == '\t';
}

bool tb_header_has_token(const char *list, const char *token)
{
    size_t n = strlen(token);

    for (;;) {
        size_t len = 0;

        while (header_separates(*list))
            list++;
        while (list[len] && !header_separates(list[len]))
            len++;
        if (len == 0)
            return false;
        if (len == n && strncasecmp(list, token, n) == 0)
            return true;
        list += len;
    }
}

bool tb_header_is_hop_by_hop(enum tb_header_id id)
{
    return id > TB_HEADER_OTHER && id < _TB_HEADER_HOP_MAX;
}

bool tb_request_id_valid(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return n > 0 && n <= TB_REQUEST_ID_MAX && s[n] == '\0';
}
