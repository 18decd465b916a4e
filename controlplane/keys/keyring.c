/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/keyring.h"

struct cp_keyring {
    const struct cp_keyring_ops *ops;
    void *me;
};

int cp_keyring_new(const struct cp_keyring_ops *ops, void *me, struct cp_keyring **ret)
{
    struct cp_keyring *k = calloc(1, sizeof(*k));

    if (!k)
        return -ENOMEM;
    *k = (struct cp_keyring){.ops = ops, .me = me};
    *ret = k;
    return 0;
}

struct cp_keyring *cp_keyring_close(struct cp_keyring *k)
{
    if (k && k->ops->close)
        k->ops->close(k->me);
    free(k);
    return NULL;
}

int cp_keyring_wrap(struct cp_keyring *k, const char *asset_id, const struct tb_key *key,
                    struct cp_wrapped *ret)
{
    return k->ops->wrap(k->me, asset_id, key, ret);
}

int cp_keyring_unwrap(struct cp_keyring *k, const char *asset_id, const struct cp_wrapped *w,
                      struct tb_key *ret)
{
    return k->ops->unwrap(k->me, asset_id, w, ret);
}

int cp_keyring_check(struct cp_keyring *k)
{
    return k->ops->check(k->me);
}
