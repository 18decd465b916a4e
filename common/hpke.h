/* SPDX-License-Identifier: Apache-2.0 */
/* One message sealed to a P-256 key: HPKE (RFC 9180) in mode base, DHKEM(P-256, HKDF-SHA256), HKDF-SHA256,
 * AES-256-GCM, of a context that is used once and without associated data. Whoever has the secret key does
 * the Diffie-Hellman itself, so that it may stay in a TPM. */
#ifndef TB_HPKE_H
#define TB_HPKE_H

#include <stddef.h>
#include <stdint.h>

#define TB_P256_POINT_BYTES 65 /* 0x04, x, y */
#define TB_P256_COORDINATE_BYTES 32
#define TB_HPKE_TAG_BYTES 16
#define TB_HPKE_INFO_MAX 512 /* of info, and of a plaintext */

/* pk is checked to be a point of the curve. ct gets n + TB_HPKE_TAG_BYTES bytes. 0; -EINVAL: no such point,
 * or something too long; -EIO. */
int tb_hpke_seal(const uint8_t pk[static TB_P256_POINT_BYTES], const void *info, size_t info_len,
                 const uint8_t *pt, size_t n, uint8_t ret_enc[static TB_P256_POINT_BYTES], uint8_t *ct);

/* z: x coordinate of sk * enc. pt gets ct_len - TB_HPKE_TAG_BYTES bytes. 0; -EBADMSG: it was not sealed to pk
 * for this info, or was changed (pt is then wiped); -EINVAL, -EIO. */
int tb_hpke_open(const uint8_t z[static TB_P256_COORDINATE_BYTES],
                 const uint8_t enc[static TB_P256_POINT_BYTES], const uint8_t pk[static TB_P256_POINT_BYTES],
                 const void *info, size_t info_len, const uint8_t *ct, size_t ct_len, uint8_t *pt);

#endif
