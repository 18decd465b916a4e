/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures in the format of minisign: Ed25519 over the BLAKE2b-512 of a message ("ED"), and over that
 * signature with the trusted comment. Checked here, made by provider/asset/sign_key.c.
 *
 * The older form, "Ed" over the message itself, is refused: whoever signs today makes the other one, and
 * what is not accepted needs no thought. The algorithm is no part of what is signed, so that accepting both
 * would let a signature of one form be shown as one of the other. */
#ifndef TB_MINISIGN_H
#define TB_MINISIGN_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_MINISIGN_ID_BYTES 8
#define TB_MINISIGN_ID_HEX (2 * TB_MINISIGN_ID_BYTES)
#define TB_MINISIGN_PUBLIC_BYTES 32
#define TB_MINISIGN_SIG_BYTES 64
#define TB_MINISIGN_KEY_BYTES (2 + TB_MINISIGN_ID_BYTES + TB_MINISIGN_PUBLIC_BYTES) /* in the base64 */
#define TB_MINISIGN_KEY_CHARS 56
#define TB_MINISIGN_KEYS_MAX 16
#define TB_MINISIGN_KEYS_FILE_MAX 65536
#define TB_MINISIGN_COMMENT_MAX                                                                              \
    1024                          /* of either comment; minisign's own limit of the trusted one is higher */
#define TB_MINISIGN_TEXT_MAX 4096 /* of a whole signature */
#define TB_MINISIGN_ERR_MAX 256

struct tb_minisign_key {
    uint8_t id[TB_MINISIGN_ID_BYTES];
    uint8_t public[TB_MINISIGN_PUBLIC_BYTES];
};
struct tb_minisign_keys {
    struct tb_minisign_key v[TB_MINISIGN_KEYS_MAX];
    size_t n;
};
struct tb_minisign_sig {
    uint8_t key_id[TB_MINISIGN_ID_BYTES];
    uint8_t sig[TB_MINISIGN_SIG_BYTES];
    uint8_t global[TB_MINISIGN_SIG_BYTES];
    const char *comment; /* the trusted one, in the text that was parsed; not terminated */
    size_t comment_len;
};

/* As minisign prints it: the number that the id is, little-endian, in upper case. */
void tb_minisign_id_format(const uint8_t id[static TB_MINISIGN_ID_BYTES],
                           char out[static TB_MINISIGN_ID_HEX + 1]);

/* Public keys, at least one: base64, a line each or with commas or blanks between; lines that begin with
 * "untrusted comment:" or '#' are skipped, line ends may be CRLF. -EBADMSG and a reason when anything else
 * is in the text, or a key is none that can be trusted (small order, not canonical). Whether a key is one of
 * a pair is not known. */
int tb_minisign_keys_parse(const char *buf, size_t len, struct tb_minisign_keys *ret,
                           char err[static TB_MINISIGN_ERR_MAX]);
/* The four lines of a signature. ret borrows from buf. -EBADMSG. */
int tb_minisign_sig_parse(const char *buf, size_t len, struct tb_minisign_sig *ret,
                          char err[static TB_MINISIGN_ERR_MAX]);
/* 0: one of the keys signed this message and this comment; which one in *ret, which may be NULL. -ENOKEY:
 * signed by another key; -EBADMSG: not authentic; -EIO: the crypto library refused. */
int tb_minisign_verify(const struct tb_minisign_keys *keys, const struct tb_minisign_sig *sig,
                       const void *msg, size_t len, const struct tb_minisign_key **ret,
                       char err[static TB_MINISIGN_ERR_MAX]);

#define TB_BLAKE2B_BYTES 64
int tb_minisign_hash(const void *msg, size_t len, uint8_t out[static TB_BLAKE2B_BYTES]);

#endif
