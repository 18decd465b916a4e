/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/headers.h"

#include <string.h>
#include <strings.h>

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

bool tb_header_is_hop_by_hop(enum tb_header_id id)
{
    return id > TB_HEADER_OTHER && id < _TB_HEADER_HOP_MAX;
}

bool tb_request_id_valid(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return n > 0 && n <= TB_REQUEST_ID_MAX && s[n] == '\0';
}
