/* SPDX-License-Identifier: Apache-2.0 */
/* The provider's signing key, in minisign's files: made, locked by a passphrase (scrypt), read, used. No I/O.
 * What is public of it: common/minisign.h. */
#ifndef TBPKG_ASSET_SIGN_KEY_H
#define TBPKG_ASSET_SIGN_KEY_H

#include <stdbool.h>

#include "common/minisign.h"

#define SIGN_SECRET_BYTES 64 /* seed, public key */
#define SIGN_SALT_BYTES 32
#define SIGN_CHECKSUM_BYTES 32
#define SIGN_LOCKED_BYTES (TB_MINISIGN_ID_BYTES + SIGN_SECRET_BYTES + SIGN_CHECKSUM_BYTES)
#define SIGN_FILE_MAX 4096

/* Secret memory (tb_secret_alloc). */
struct sign_key {
    uint8_t id[TB_MINISIGN_ID_BYTES];
    uint8_t secret[SIGN_SECRET_BYTES];
};

/* What is in a secret key's file. Secret when it is not locked. */
struct sign_file {
    bool locked;
    uint8_t salt[SIGN_SALT_BYTES];
    uint64_t opslimit, memlimit; /* of libsodium's scrypt: operations, bytes */
    uint8_t body[SIGN_LOCKED_BYTES];
};

/* As strong as minisign makes it; takes a GiB and some seconds. */
#define SIGN_OPSLIMIT 33554432
#define SIGN_MEMLIMIT 1073741824

/* All: 0; -EBADMSG with a reason in err for what is no such file, -EACCES for a wrong passphrase, -ENOMEM,
 * -EIO of the crypto library. */
int sign_file_parse(const char *buf, size_t len, struct sign_file *ret, char err[static TB_MINISIGN_ERR_MAX]);
/* passphrase: NULL when it is not locked. */
int sign_file_open(const struct sign_file *f, const char *passphrase, struct sign_key *ret,
                   char err[static TB_MINISIGN_ERR_MAX]);
/* passphrase NULL: not locked. *ret: secret memory, with a line end. */
int sign_key_format(const struct sign_key *k, const char *passphrase, uint64_t opslimit, uint64_t memlimit,
                    char **ret, char err[static TB_MINISIGN_ERR_MAX]);
int sign_key_make(struct sign_key *ret);
void sign_key_public(const struct sign_key *k, struct tb_minisign_key *ret);
/* The base64 that a machine gets as TB_PROVIDER_KEY. */
void sign_public_format(const struct tb_minisign_key *k, char out[static TB_MINISIGN_KEY_CHARS + 1]);

/* The four lines of a signature. comment: the trusted one, shorter than TB_MINISIGN_COMMENT_MAX. Heap. */
int sign_message(const struct sign_key *k, const void *msg, size_t len, const char *comment, char **ret);

#endif
