/* SPDX-License-Identifier: Apache-2.0 */
/* The fields that may hold an API key: lines "Name: value". A key that is found is part of a value, without blanks at its ends; it does
 * not depend on the order of the fields; two that differ are a conflict. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/macros.h"
#include "proxy/gate/credentials.h"

#define FIELDS_MAX 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct field {
    char *name, *value; /* value: of its own size, without a NUL, so that reading too far is seen */
    size_t len;
};

static size_t split(const char *text, size_t size, struct field *ret)
{
    size_t n = 0;

    for (const char *line = text, *end = text + size; line < end && n < FIELDS_MAX;) {
        const char *nl = memchr(line, '\n', (size_t)(end - line)), *stop = nl ? nl : end;
        const char *colon = memchr(line, ':', (size_t)(stop - line));

        if (colon) {
            ret[n].len = (size_t)(stop - colon - 1);
            ret[n].name = strndup(line, (size_t)(colon - line));
            ret[n].value = malloc(ret[n].len ? ret[n].len : 1);
            memcpy(ret[n].value, colon + 1, ret[n].len);
            n++;
        }
        line = stop + 1;
    }
    return n;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static void check_key(const struct tb_credentials *c, const struct field *f, size_t n)
{
    bool inside = false;

    for (size_t i = 0; c->key && i < n; i++)
        inside |= c->key >= f[i].value && c->key + c->key_len <= f[i].value + f[i].len;
    if (c->key && (!inside || c->key_len == 0 || is_blank(c->key[0]) || is_blank(c->key[c->key_len - 1])))
        abort();
    if (c->conflict && !c->key)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_credentials forth = {0}, back = {0};
    struct field f[FIELDS_MAX];
    size_t n = split((const char *)data, size, f);

    for (size_t i = 0; i < n; i++)
        if (tb_credentials_field(&forth, f[i].name, f[i].value, f[i].len) !=
            (strcasecmp(f[i].name, "Authorization") == 0 || strcasecmp(f[i].name, "x-api-key") == 0 ||
             strcasecmp(f[i].name, "api-key") == 0))
            abort();
    for (size_t i = n; i > 0; i--)
        (void)tb_credentials_field(&back, f[i - 1].name, f[i - 1].value, f[i - 1].len);
    check_key(&forth, f, n);
    check_key(&back, f, n);
    if (forth.conflict != back.conflict || !forth.key != !back.key)
        abort();
    if (forth.key && !forth.conflict &&
        (forth.key_len != back.key_len || memcmp(forth.key, back.key, forth.key_len) != 0))
        abort();
    for (size_t i = 0; i < n; i++) {
        free(f[i].name);
        free(f[i].value);
    }
    return 0;
}
