/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/keys.h"

#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/macros.h"
#include "common/secret.h"
#include "common/units.h"

static int parse_name(const char *line, size_t len, struct tb_api_key *ret)
{
    if (len == 0 || len > TB_API_KEY_NAME_MAX)
        return -EINVAL;
    memcpy(ret->name, line, len);
    ret->name[len] = '\0';
    return strspn(ret->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == len
               ? 0
               : -EINVAL;
}

/* One word "rpm=60". */
static int parse_limit(const char *word, size_t len, struct tb_limits *l)
{
    const struct {
        const char *name;
        uint64_t *value;
    } known[] = {
        {"rpm=", &l->rpm}, {"tpm=", &l->tpm}, {"concurrent=", &l->concurrent}, {"budget=", &l->budget}};

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        size_t n = strlen(known[i].name);
        char number[24];

        if (len <= n || len - n >= sizeof(number) || memcmp(word, known[i].name, n) != 0)
            continue;
        memcpy(number, word + n, len - n);
        number[len - n] = '\0';
        return *known[i].value == 0 ? tb_uint_parse(number, 1, TB_LIMIT_MAX, known[i].value) : -EINVAL;
    }
    return -EINVAL;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* What is wrong with the line and what to do, or NULL. */
static const char *parse_line(const char *line, size_t len, struct tb_api_key *ret)
{
    const char *colon = memchr(line, ':', len);
    size_t at = colon ? (size_t)(colon - line) + 1 : 0, end;

    *ret = (struct tb_api_key){0};
    if (!colon || parse_name(line, at - 1, ret) < 0)
        return "is not name:sha256; a name has 1 to 64 of A-Z a-z 0-9 . _ -";
    for (end = at; end < len && !blank(line[end]);)
        end++;
    if (tb_hex_decode(line + at, end - at, ret->sha256, sizeof(ret->sha256)) < 0)
        return "is not name:sha256 with 64 hex digits; make them with: printf %s KEY | sha256sum";
    while (end < len) {
        for (at = end; at < len && blank(line[at]);)
            at++;
        for (end = at; end < len && !blank(line[end]);)
            end++;
        if (parse_limit(line + at, end - at, &ret->limits) < 0)
            return "has a limit that is none; give rpm=, tpm=, concurrent= or budget=, each once, with a "
                   "whole number above 0";
    }
    return NULL;
}

/* Keys of one name are one account. */
static bool limits_agree(const struct tb_api_keys *keys, const struct tb_api_key *k)
{
    for (size_t i = 0; i < keys->n; i++)
        if (strcmp(keys->key[i].name, k->name) == 0)
            return memcmp(&keys->key[i].limits, &k->limits, sizeof(k->limits)) == 0;
    return true;
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
        const char *why;

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
            why = parse_line(line, n, &k[keys.n]);
            if (!why && !limits_agree(&keys, &k[keys.n]))
                why = "gives its name other limits than a line before; give all keys of a name the same";
            if (why) {
                snprintf(err, TB_API_KEYS_ERR_MAX, "line %u %s", line_no, why);
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
