/* SPDX-License-Identifier: Apache-2.0 */
/* The encrypted part: CMS (RFC 5652, RFC 5083) by OpenSSL, AES-256-GCM, for the holder of a certificate's
 * key or of a passphrase. `openssl cms -decrypt -inform DER` opens it too. */
#ifndef TB_BACKUP_SEAL_H
#define TB_BACKUP_SEAL_H

#include <stddef.h>

#include "backup/archive.h"

struct backup_key {
    const char *certificate; /* PEM: to seal for; NULL */
    const char *key;         /* PEM: to open with, and its certificate unless the file has it; NULL */
    const char *passphrase;  /* NULL */
};

/* -EINVAL: the certificate cannot be used; -ENOMEM; -errno of reading it. Reason in err. */
int backup_seal(const char *plain, size_t len, const struct backup_key *key, char **ret, size_t *ret_len,
                char err[static BACKUP_ERR_MAX]);
/* -EKEYREJECTED: not for this key or passphrase, or changed; -EBADMSG: not CMS. */
int backup_unseal(const char *sealed, size_t len, const struct backup_key *key, char **ret, size_t *ret_len,
                  char err[static BACKUP_ERR_MAX]);

#endif
