/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/credentials.h"

#include <string.h>
#include <strings.h>

static void credentials_add(struct tb_credentials *c, const char *key, size_t len)
{
    while (len > 0 && (*key == ' ' || *key == '\t')) {
        key++;
        len--;
    }
    while (len > 0 && (key[len - 1] == ' ' || key[len - 1] == '\t'))
        len--;
    if (len == 0)
        return;
    if (!c->key) {
        c->key = key;
        c->key_len = len;
    } else if (len != c->key_len || memcmp(key, c->key, len) != 0) {
        c->conflict = true;
    }
}

bool tb_credentials_field(struct tb_credentials *c, const char *name, const char *value, size_t value_len)
{
    if ((*name | 0x20) != 'a' && (*name | 0x20) != 'x')
        return false; /* most fields */
    if (strcasecmp(name, "Authorization") == 0) {
        if (value_len > 6 && strncasecmp(value, "Bearer", 6) == 0 && (value[6] == ' ' || value[6] == '\t'))
            credentials_add(c, value + 6, value_len - 6);
        return true;
    }
    if (strcasecmp(name, "x-api-key") == 0 || strcasecmp(name, "api-key") == 0) {
        credentials_add(c, value, value_len);
        return true;
    }
    return false;
}
