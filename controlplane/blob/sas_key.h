/* SPDX-License-Identifier: Apache-2.0 */
/* The key that signs a SAS, as Azure writes it. */
#ifndef CP_SAS_KEY_H
#define CP_SAS_KEY_H

#include <stddef.h>
#include <stdint.h>

#define CP_SAS_KEY_MAX 128 /* decoded storage account key; Azure's have 64 bytes */

/* Decodes the base64 of a storage account key, white space at the end allowed. -EINVAL. Wipe and free with
 * tb_secret_free(). */
int cp_sas_key_decode(const char *text, size_t len, uint8_t **ret, size_t *ret_len);

#endif
