/* SPDX-License-Identifier: Apache-2.0 */
#include "common/provider_key.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/file_check.h"
#include "common/io.h"

#define SETTING "TB_PROVIDER_KEY"

const char *tb_provider_key_rule(const char *value)
{
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_keys keys;

    if (*value == '/' || tb_minisign_keys_parse(value, strlen(value), &keys, err) == 0)
        return NULL;
    return TB_PROVIDER_KEY_WORDS;
}

int tb_provider_key_load(const char *value, struct tb_minisign_keys *ret,
                         char err[static TB_MINISIGN_ERR_MAX])
{
    _cleanup_free_ char *text = NULL;
    char why[TB_MINISIGN_ERR_MAX];
    size_t len;
    int r;

    ret->n = 0;
    if (!value)
        return 0;
    if (*value != '/')
        return tb_minisign_keys_parse(value, strlen(value), ret, err);
    r = tb_read_file(value, TB_MINISIGN_KEYS_FILE_MAX, &text, &len);
    if (r < 0)
        snprintf(err, TB_MINISIGN_ERR_MAX, "%.120s: %s", value, strerror(-r));
    else if ((r = tb_minisign_keys_parse(text, len, ret, why)) < 0)
        snprintf(err, TB_MINISIGN_ERR_MAX, "%.80s: %.160s", value, why);
    return r;
}

bool tb_provider_key_pinned(const char *image)
{
    return access(image, F_OK) == 0 || errno != ENOENT;
}

static bool provider_key_all_in(const struct tb_minisign_keys *some, const struct tb_minisign_keys *all)
{
    for (size_t i = 0; i < some->n; i++) {
        size_t j = 0;

        while (j < all->n && memcmp(&some->v[i], &all->v[j], sizeof(some->v[i])) != 0)
            j++;
        if (j == all->n)
            return false;
    }
    return true;
}

bool tb_provider_key_contradicts(const char *image, const char *value)
{
    struct tb_minisign_keys pinned, set;
    char err[TB_MINISIGN_ERR_MAX];

    if (!value || tb_provider_key_load(image, &pinned, err) < 0 || tb_provider_key_load(value, &set, err) < 0)
        return false;
    return !provider_key_all_in(&set, &pinned) || !provider_key_all_in(&pinned, &set);
}

void tb_provider_key_check(const char *value, const char *user, struct tb_findings *f)
{
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_keys keys;

    if (!value || (*value == '/' && !tb_file_check_open(SETTING, value, user, f)))
        return;
    if (tb_provider_key_load(value, &keys, err) < 0)
        tb_findings_add(f, TB_FINDING_ERROR, 0, SETTING, "%s; give what tbpkg keygen made of the public key",
                        err);
}
