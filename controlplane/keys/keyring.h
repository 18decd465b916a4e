/* SPDX-License-Identifier: Apache-2.0 */
/* The keyring: asset keys at rest, wrapped by a key-encryption key (KEK) that has an id. One interface; a
 * provider for each kind of custody. A keyring is opened once and used by all threads. The id of the asset is
 * bound in: what was wrapped for one asset does not open for another.
 *
 * Errors: -EBADMSG not wrapped by this KEK, or for another asset, or changed; -ENOKEY no such KEK; -EAGAIN
 * the key service does not answer now; -ENOMEM; else -EIO. */
#ifndef CP_KEYRING_H
#define CP_KEYRING_H

#include <stdbool.h>

#include "common/secret.h"

#define CP_KEK_ID_MAX 200  /* "file:0123456789abcdef", or the URL of a key's version */
#define CP_WRAPPED_MAX 640 /* RSA-4096 makes 512 bytes */

struct cp_wrapped {
    char kek_id[CP_KEK_ID_MAX + 1]; /* "": written before keys had ids, by the file's key */
    uint8_t b[CP_WRAPPED_MAX];
    size_t len;
};

struct cp_keyring;

/* A provider's calls. me: what its opening made. */
struct cp_keyring_ops {
    int (*wrap)(void *me, const char *asset_id, const struct tb_key *key, struct cp_wrapped *ret);
    int (*unwrap)(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret);
    int (*check)(void *me);  /* 0 when both would work now; for /health */
    void (*close)(void *me); /* NULL: nothing to do */
};
/* 0 or -ENOMEM; then the provider still has me. */
int cp_keyring_new(const struct cp_keyring_ops *ops, void *me, struct cp_keyring **ret);
/* The provider of development: AES-256-GCM under a master key, which the keyring copies. */
int cp_keyring_open_file(const struct tb_key *master, struct cp_keyring **ret);
struct cp_keyring *cp_keyring_close(struct cp_keyring *k);
static inline void cp_keyring_closep(struct cp_keyring **k)
{
    *k = cp_keyring_close(*k);
}
#define _cleanup_keyring_ _cleanup_(cp_keyring_closep)

/* Under the KEK that is current. */
int cp_keyring_wrap(struct cp_keyring *k, const char *asset_id, const struct tb_key *key,
                    struct cp_wrapped *ret);
/* ret is written on success only. */
int cp_keyring_unwrap(struct cp_keyring *k, const char *asset_id, const struct cp_wrapped *w,
                      struct tb_key *ret);
int cp_keyring_check(struct cp_keyring *k);

#endif
