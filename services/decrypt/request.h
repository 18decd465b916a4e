/* SPDX-License-Identifier: Apache-2.0 */
/* The request a client puts on the decrypt socket, checked before anything is done with it:
 * docs/contracts.md, "Delivery", step 1. No I/O. */
#ifndef TB_DECRYPT_REQUEST_H
#define TB_DECRYPT_REQUEST_H

#include <stddef.h>

#include "common/deliver.h"

#define DECRYPT_REQUEST_ERR_MAX 200

/* Checks the first message: its exact size, magic and mode, the number of descriptors it announces (1 in
 * modes fifo, view and s3, 1..TBENC_FILES_MAX in mode dir), and that the n_here that came with it are not
 * more than that, nor none. 0, or -EBADMSG with a reason in err. */
int decrypt_request_parse(const void *buf, size_t len, size_t n_here, struct tb_deliver_request *ret,
                          char err[static DECRYPT_REQUEST_ERR_MAX]);

#endif
