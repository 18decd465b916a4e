/* SPDX-License-Identifier: Apache-2.0 */
/* The maker's word that an image may open the state which his earlier ones left on a machine's disk: the
 * registers of its boot, signed. common/tpm_approval.h is what becomes of it there. */
#ifndef TBPKG_IMAGE_APPROVE_H
#define TBPKG_IMAGE_APPROVE_H

#include "common/json.h"
#include "provider/image/measure.h"

#define APPROVE_ERR_MAX 200
#define APPROVE_KEY_MAX 16384

/* pem: the private key. The same key and image give the same document. -EINVAL: it is none, -EIO: it does not
 * sign; and why in err. */
int approve_image(const struct measured *m, const char *pem, size_t len, cJSON **ret,
                  char err[static APPROVE_ERR_MAX]);

#endif
