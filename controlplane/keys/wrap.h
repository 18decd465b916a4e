/* SPDX-License-Identifier: Apache-2.0 */
/* Asset keys at rest: AES-256-GCM under the master key, bound to their asset by the additional data, so that
 * a row copied to another asset does not open. Layout: nonce(12) | ciphertext(32) | tag(16). */
#ifndef CP_WRAP_H
#define CP_WRAP_H

#include "common/secret.h"

#define CP_WRAP_NONCE_BYTES 12
#define CP_WRAP_TAG_BYTES 16
#define CP_WRAPPED_KEY_BYTES (CP_WRAP_NONCE_BYTES + TB_KEY_BYTES + CP_WRAP_TAG_BYTES)

/* A fresh random nonce each time. 0 or -errno. */
int cp_key_wrap(const struct tb_key *master, const char *asset_id, const struct tb_key *key,
                uint8_t out[static CP_WRAPPED_KEY_BYTES]);
/* -EBADMSG: another master key, another asset, or changed bytes. ret is written on success only. */
int cp_key_unwrap(const struct tb_key *master, const char *asset_id,
                  const uint8_t in[static CP_WRAPPED_KEY_BYTES], struct tb_key *ret);

#endif
