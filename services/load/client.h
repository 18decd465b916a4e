/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of the decrypt socket: docs/contracts.md, "Delivery". */
#ifndef TB_LOAD_CLIENT_H
#define TB_LOAD_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/deliver.h"
#include "load/load.h"

/* Connects to RUN/tb-decrypt.sock and sends the request with all descriptors. 0, or an exit code: 75 when
 * nobody listens (yet). The descriptors stay the caller's. */
int tb_client_request(struct tb_load *l, enum tb_deliver_mode mode, const int *fds, size_t n_fds,
                      int *ret_sock);

/* Takes the answer, once the socket is readable. 0 delivered whole; else the code tb-decrypt answered with
 * its message as the reason; 75 when it ended without an answer. */
int tb_client_reply(struct tb_load *l, int sock);
/* Modes view and s3: takes the word that the files can be read, and in mode s3 the name of the
 * bucket (else ""). 0, or a code as above. */
int tb_client_serving(struct tb_load *l, int sock, char ret_bucket[static TB_DELIVER_MESSAGE_MAX]);
/* tb-decrypt has gone, and said nothing more. */
bool tb_client_is_left(int sock);

#endif
