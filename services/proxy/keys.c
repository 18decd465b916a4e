/* SPDX-License-Identifier: Apache-2.0 */
#include "keys.h"

#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

#include "macros.h"
#include "secret.h"

static int parse_line(const char *line, size_t len, struct tb_api_key *ret)
{
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon ? (size_t)(colon - line) : 0;

    if (name_len == 0 || name_len > TB_API_KEY_NAME_MAX)
        return -EINVAL;
    memcpy(ret->name, line, name_len);
    ret->name[name_len] = '\0';
    if (strspn(ret->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != name_len)
        return -EINVAL;
    return tb_hex_decode(colon + 1, len - name_len - 1, ret->sha256, sizeof(ret->sha256));
}

static size_t trimmed(const char *line, size_t len)
{
    while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t' || line[len - 1] == '\r'))
        len--;
    return len;
}

int tb_api_keys_parse(const char *text, size_t len, struct tb_api_keys *ret,
                      char err[static TB_API_KEYS_ERR_MAX])
{
    _cleanup_(tb_api_keys_clear) struct tb_api_keys keys = {0};
    const char *end = text + len;
    unsigned line_no = 0;

    for (const char *line = text; line < end;) {
        const char *nl = memchr(line, '\n', (size_t)(end - line));
        size_t n = trimmed(line, (size_t)((nl ? nl : end) - line));
        struct tb_api_key *k;

        line_no++;
        if (n > 0 && *line != '#') {
            if (keys.n == TB_API_KEYS_MAX) {
                snprintf(err, TB_API_KEYS_ERR_MAX, "more than %d keys", TB_API_KEYS_MAX);
                return -E2BIG;
            }
            k = realloc(keys.key, (keys.n + 1) * sizeof(*k));
            if (!k)
                return -ENOMEM;
            keys.key = k;
            if (parse_line(line, n, &k[keys.n]) < 0) {
                snprintf(err, TB_API_KEYS_ERR_MAX, "line %u is not name:sha256 with 64 hex digits", line_no);
                return -EINVAL;
            }
            keys.n++;
        }
        line = nl ? nl + 1 : end;
    }
    *ret = keys;
    keys = (struct tb_api_keys){0};
    return 0;
}

void tb_api_keys_clear(struct tb_api_keys *k)
{
    free(k->key);
    *k = (struct tb_api_keys){0};
}

const struct tb_api_key *tb_api_keys_find(const struct tb_api_keys *k, const char *authorization)
{
    const struct tb_api_key *found = NULL;
    const char *token;
    uint8_t sha[32];

    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    token = authorization + 7 + strspn(authorization + 7, " ");
    SHA256((const uint8_t *)token, strlen(token), sha);
    for (size_t i = 0; i < k->n; i++)
        if (tb_mem_equal(sha, k->key[i].sha256, sizeof(sha)))
            found = &k->key[i];
    return found;
}
