/* SPDX-License-Identifier: Apache-2.0 */
/* The keyring: asset keys at rest, wrapped by a key-encryption key (KEK) that has an id. One interface; a
 * provider for each kind of custody. A keyring is opened once and used by all threads. The id of the asset is
 * bound in: what was wrapped for one asset does not open for another.
 *
 * Where a KEK is kept is written as one of
 *   file:PATH                                     32 random bytes in hex; for development
 *   pkcs11:token=T;object=NAME?module-path=M&pin-source=FILE
 *                                                 RFC 7512: an AES-256 key of a token, never extractable
 *   keyvault:https://VAULT.vault.azure.net/keys/NAME   an RSA key of Azure Key Vault or Managed HSM
 *   transit:https://HOST:8200/MOUNT/NAME          a key of the transit engine of OpenBao or Vault
 *
 * Errors: -EBADMSG not wrapped by this KEK, or for another asset, or changed; -ENOKEY no such KEK; -EAGAIN
 * the key service does not answer now; -EACCES it refuses us; -ENOMEM; else -EIO. Why is in the log. */
#ifndef CP_KEYRING_H
#define CP_KEYRING_H

#include <stdbool.h>

#include "common/http.h"
#include "common/secret.h"

#define CP_KEK_ID_MAX 200  /* "file:0123456789abcdef", or the URL of a key's version */
#define CP_WRAPPED_MAX 640 /* RSA-4096 makes 512 bytes */
#define CP_KEYRING_ERR_MAX 512

struct cp_wrapped {
    char kek_id[CP_KEK_ID_MAX + 1]; /* "": written before keys had ids, by the file's key */
    uint8_t b[CP_WRAPPED_MAX];
    size_t len;
};

struct cp_keyring;

/* A provider's calls. me: what its opening made. They come from any number of threads at once. */
struct cp_keyring_ops {
    int (*wrap)(void *me, const char *asset_id, const struct tb_key *key, struct cp_wrapped *ret);
    /* -ENOKEY: w's KEK is none of this provider's */
    int (*unwrap)(void *me, const char *asset_id, const struct cp_wrapped *w, struct tb_key *ret);
    void (*close)(void *me); /* NULL: nothing to do */
};
/* 0 or -ENOMEM; then the provider still has me. */
int cp_keyring_new(const struct cp_keyring_ops *ops, void *me, struct cp_keyring **ret);

/* How a key service over HTTPS is spoken to. Strings are the caller's and outlive the keyring. */
struct cp_keyring_access {
    struct tb_http_tls tls; /* http:// is for loopback alone, unless allow_http */
    const char *client_id;  /* keyvault: a user-assigned identity; NULL: the system's */
    const char *token_file; /* transit: read again when it was refused */
};
/* Opens what text names: 0, or a negative errno with a reason in err that names the object and the remedy.
 * Key services over HTTPS are not asked before they are needed. */
int cp_keyring_open(const char *text, const struct cp_keyring_access *a, struct cp_keyring **ret,
                    char err[static CP_KEYRING_ERR_MAX]);
/* Puts an older keyring's providers behind k's: they unwrap what their KEKs wrapped, and wrap nothing any
 * more. older is k's then. 0 or -E2BIG. */
int cp_keyring_join(struct cp_keyring *k, struct cp_keyring *older);

/* AES-256-GCM under a master key, which the keyring copies. */
int cp_keyring_open_file(const struct tb_key *master, struct cp_keyring **ret);
int cp_keyring_open_pkcs11(const char *uri, struct cp_keyring **ret, char err[static CP_KEYRING_ERR_MAX]);
int cp_keyring_open_keyvault(const char *url, const struct cp_keyring_access *a, struct cp_keyring **ret,
                             char err[static CP_KEYRING_ERR_MAX]);
int cp_keyring_open_transit(const char *url, const struct cp_keyring_access *a, struct cp_keyring **ret,
                            char err[static CP_KEYRING_ERR_MAX]);
struct cp_keyring *cp_keyring_close(struct cp_keyring *k);
static inline void cp_keyring_closep(struct cp_keyring **k)
{
    *k = cp_keyring_close(*k);
}
#define _cleanup_keyring_ _cleanup_(cp_keyring_closep)

/* Makes a KEK where uri (pkcs11:) says: AES-256, sensitive, not extractable, with an id of its own. id, not
 * NULL, is what the URI of the new key says of it: "id=%12%34...". */
int cp_kek_create_pkcs11(const char *uri, char id[static CP_KEK_ID_MAX + 1],
                         char err[static CP_KEYRING_ERR_MAX]);

/* At most so many threads use it at a time. One more waits a moment for a place, as long as those inside come
 * out; while none does it is -EAGAIN at once. So a key service that hangs does not hold up all of a server.
 * 0: no limit. Before there are threads. */
void cp_keyring_limit(struct cp_keyring *k, unsigned most);

/* Under the KEK that is current. */
int cp_keyring_wrap(struct cp_keyring *k, const char *asset_id, const struct tb_key *key,
                    struct cp_wrapped *ret);
/* ret is written on success only. */
int cp_keyring_unwrap(struct cp_keyring *k, const char *asset_id, const struct cp_wrapped *w,
                      struct tb_key *ret);
/* Wraps and unwraps a key that nobody uses: 0 when both work. The answer of the last CP_KEYRING_CHECK_S is
 * given again. kek_id, not NULL: the KEK that is current. */
#define CP_KEYRING_CHECK_S 10
int cp_keyring_check(struct cp_keyring *k, char kek_id[CP_KEK_ID_MAX + 1]);

#endif
