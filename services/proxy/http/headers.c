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

bool tb_header_name_valid(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!token_octet[(unsigned char)name[i]])
            return false;
    return n > 0;
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

enum tb_header_id tb_header_id(const char *name, size_t len)
{
    if (len < ARRAY_SIZE(known_header))
        for (size_t i = 0; i < 2; i++) {
            const struct known_header *k = &known_header[len][i];

            if (k->name && ((k->name[0] ^ name[0]) & 0xdf) == 0 && strncasecmp(name, k->name, len) == 0)
                return k->id;
        }
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

bool tb_header_is_hop_by_hop(enum tb_header_id id)
{
    return id > TB_HEADER_OTHER && id < _TB_HEADER_HOP_MAX;
}

bool tb_request_id_valid(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return n > 0 && n <= TB_REQUEST_ID_MAX && s[n] == '\0';
}
