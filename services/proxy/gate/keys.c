/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/keys.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/hex.h"
#include "common/macros.h"
#include "common/secret.h"
#include "common/units.h"

static int key_parse_name(const char *line, size_t len, struct tb_api_key *ret)
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
static int key_parse_limit(const char *word, size_t len, struct tb_limits *l)
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

static bool key_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* What is wrong with the line and what to do, or NULL. */
static const char *key_parse_line(const char *line, size_t len, struct tb_api_key *ret,
                                  uint8_t sha256[static 32])
{
    const char *colon = memchr(line, ':', len);
    size_t at = colon ? (size_t)(colon - line) + 1 : 0, end;

    *ret = (struct tb_api_key){0};
    if (!colon || key_parse_name(line, at - 1, ret) < 0)
        return "is not name:sha256; a name has 1 to 64 of A-Z a-z 0-9 . _ -";
    for (end = at; end < len && !key_is_blank(line[end]);)
        end++;
    if (tb_hex_decode(line + at, end - at, sha256, 32) < 0)
        return "is not name:sha256 with 64 hex digits; make them with: printf %s KEY | sha256sum";
    while (end < len) {
        for (at = end; at < len && key_is_blank(line[at]);)
            at++;
        for (end = at; end < len && !key_is_blank(line[end]);)
            end++;
        if (key_parse_limit(line + at, end - at, &ret->limits) < 0)
            return "has an invalid limit; give rpm=, tpm=, concurrent= or budget=, each once, with a "
                   "whole number above 0";
    }
    return NULL;
}

/* --- the table ------------------------------------------------------------------------------------------ */

static int keys_compare_hashes(const void *a, const void *b)
{
    const struct tb_api_key_hash *x = a, *y = b;
    int c = memcmp(x->sha256, y->sha256, sizeof(x->sha256));

    return c != 0 ? c : x->index < y->index ? -1 : x->index > y->index;
}

static int keys_compare_names(const void *a, const void *b)
{
    const struct tb_api_key *const *x = a, *const *y = b;
    int c = strcmp((*x)->name, (*y)->name);

    return c != 0 ? c : (*x)->line < (*y)->line ? -1 : 1;
}

/* Two lines of the file; of several such pairs the one whose second line comes first. */
static void keys_note_pair(struct tb_api_key_pair *p, const struct tb_api_key *a, const struct tb_api_key *b)
{
    p->n++;
    if (p->n == 1 || b->line < p->second)
        *p = (struct tb_api_key_pair){.n = p->n, .first = a->line, .second = b->line};
}

/* Keys of one name are one account, and have the same limits. -EINVAL and err; -ENOMEM. */
static int keys_check_names(struct tb_api_keys *keys, char err[static TB_API_KEYS_ERR_MAX])
{
    _cleanup_free_ const struct tb_api_key **by_name = calloc(MAX(keys->n, 1U), sizeof(*by_name));
    struct tb_api_key_pair other_limits = {0};

    if (!by_name)
        return -ENOMEM;
    for (size_t i = 0; i < keys->n; i++)
        by_name[i] = &keys->key[i];
    qsort(by_name, keys->n, sizeof(*by_name), keys_compare_names);
    for (size_t i = 1; i < keys->n; i++) {
        if (strcmp(by_name[i - 1]->name, by_name[i]->name) != 0)
            continue;
        keys_note_pair(&keys->same_name, by_name[i - 1], by_name[i]);
        if (memcmp(&by_name[i - 1]->limits, &by_name[i]->limits, sizeof(struct tb_limits)) != 0)
            keys_note_pair(&other_limits, by_name[i - 1], by_name[i]);
    }
    if (other_limits.n == 0)
        return 0;
    snprintf(err, TB_API_KEYS_ERR_MAX,
             "line %u gives its name other limits than line %u; give all keys of a name the same",
             other_limits.second, other_limits.first);
    return -EINVAL;
}

/* A key is one name's: whose use it is must not depend on the order of lines. Sorted by hash. -EINVAL and
 * err. */
static int keys_check_hashes(struct tb_api_keys *keys, char err[static TB_API_KEYS_ERR_MAX])
{
    struct tb_api_key_pair two_names = {0};

    for (size_t i = 1; i < keys->n; i++) {
        const struct tb_api_key *a = &keys->key[keys->hash[i - 1].index],
                                *b = &keys->key[keys->hash[i].index];

        if (memcmp(keys->hash[i - 1].sha256, keys->hash[i].sha256, sizeof(keys->hash->sha256)) != 0)
            continue;
        if (strcmp(a->name, b->name) != 0)
            keys_note_pair(&two_names, a, b);
        else
            keys_note_pair(&keys->same_key, a, b);
    }
    if (two_names.n == 0)
        return 0;
    snprintf(err, TB_API_KEYS_ERR_MAX,
             "line %u and line %u give one key two names; remove one of them, or give each name its own key",
             two_names.first, two_names.second);
    return -EINVAL;
}

static size_t keys_trim(const char *line, size_t len)
{
    while (len > 0 && (key_is_blank(line[len - 1]) || line[len - 1] == '\r'))
        len--;
    return len;
}

/* Room for all lines of the text, up to the limit. */
static int keys_reserve(struct tb_api_keys *keys, const char *text, size_t len)
{
    size_t lines = 1;

    for (const char *p = text; (p = memchr(p, '\n', (size_t)(text + len - p))); p++)
        lines++;
    lines = MIN(lines, (size_t)TB_API_KEYS_MAX);
    keys->key = calloc(lines, sizeof(*keys->key));
    keys->hash = calloc(lines, sizeof(*keys->hash));
    return keys->key && keys->hash ? 0 : -ENOMEM;
}

static int keys_add_line(struct tb_api_keys *keys, const char *line, size_t len, unsigned line_no,
                         char err[static TB_API_KEYS_ERR_MAX])
{
    const char *why;

    if (keys->n == TB_API_KEYS_MAX) {
        snprintf(err, TB_API_KEYS_ERR_MAX, "more than %d keys", TB_API_KEYS_MAX);
        return -E2BIG;
    }
    why = key_parse_line(line, len, &keys->key[keys->n], keys->hash[keys->n].sha256);
    if (why) {
        snprintf(err, TB_API_KEYS_ERR_MAX, "line %u %s", line_no, why);
        return -EINVAL;
    }
    keys->key[keys->n].line = line_no;
    keys->hash[keys->n].index = (uint32_t)keys->n;
    keys->n++;
    return 0;
}

int tb_api_keys_parse(const char *text, size_t len, struct tb_api_keys *ret,
                      char err[static TB_API_KEYS_ERR_MAX])
{
    _cleanup_(tb_api_keys_clear) struct tb_api_keys keys = {0};
    const char *end = text + len;
    unsigned line_no = 0;
    int r = keys_reserve(&keys, text, len);

    for (const char *line = text; r >= 0 && line < end;) {
        const char *nl = memchr(line, '\n', (size_t)(end - line));
        size_t n = keys_trim(line, (size_t)((nl ? nl : end) - line));

        line_no++;
        if (n > 0 && *line != '#')
            r = keys_add_line(&keys, line, n, line_no, err);
        line = nl ? nl + 1 : end;
    }
    if (r < 0)
        return r;
    qsort(keys.hash, keys.n, sizeof(*keys.hash), keys_compare_hashes);
    r = keys_check_hashes(&keys, err);
    if (r >= 0)
        r = keys_check_names(&keys, err);
    if (r < 0)
        return r;
    *ret = keys;
    keys = (struct tb_api_keys){0};
    return 0;
}

void tb_api_keys_clear(struct tb_api_keys *k)
{
    free(k->key);
    free(k->hash);
    *k = (struct tb_api_keys){0};
}

/* --- lookup --------------------------------------------------------------------------------------------- */

static EVP_MD *keys_sha256;

static void keys_fetch_sha256(void)
{
    keys_sha256 = EVP_MD_fetch(NULL, "SHA256", NULL); /* once: looking it up costs more than hashing a key */
}

const struct tb_api_key *tb_api_keys_find(const struct tb_api_keys *k, const char *text, size_t len)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    size_t from = 0, to = k->n; /* the wanted hash is before `to`, and not before `from` */
    uint8_t sha[32];

    pthread_once(&once, keys_fetch_sha256);
    if (!keys_sha256 || EVP_Digest(text, len, sha, NULL, keys_sha256, NULL) != 1)
        return NULL;
    while (from < to) { /* the first hash above */
        size_t mid = from + (to - from) / 2;

        if (memcmp(k->hash[mid].sha256, sha, sizeof(sha)) <= 0)
            from = mid + 1;
        else
            to = mid;
    }
    if (from == 0 || !tb_mem_equal(k->hash[from - 1].sha256, sha, sizeof(sha)))
        return NULL;
    return &k->key[k->hash[from - 1].index];
}
