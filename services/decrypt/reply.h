/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-decrypt answers its client: docs/contracts.md, "Delivery", step 3. */
#ifndef TB_DECRYPT_REPLY_H
#define TB_DECRYPT_REPLY_H

#include <stdint.h>

#include "common/outcome.h"

/* Sends code and reason of the outcome, and the number of bytes delivered. A client that has gone is not an
 * error: the exit code says what happened. */
void decrypt_reply_send(int sock, const struct tb_outcome *o, uint64_t bytes);

/* Modes view and s3: the files can be read now. bucket: mode s3, in the bucket of that name; else "". */
void decrypt_reply_serving(int sock, const char *bucket);

#endif
