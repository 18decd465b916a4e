/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on the decrypt socket: docs/contracts.md, "Delivery". */
#ifndef TB_DELIVER_H
#define TB_DELIVER_H

#include <stdint.h>

#define TB_DELIVER_REQUEST_MAGIC "TBOPEN01"
#define TB_DELIVER_REPLY_MAGIC "TBDONE01"
#define TB_DELIVER_MESSAGE_MAX 480

enum tb_deliver_mode { TB_DELIVER_FIFO = 1, TB_DELIVER_DIR = 2 };

struct tb_deliver_request {
    char magic[8];
    uint32_t mode;
    uint32_t n_fds; /* all of them, this message's included */
    uint8_t manifest_sha256[32];
};

struct tb_deliver_reply {
    char magic[8];
    uint32_t status; /* enum tb_exit */
    uint32_t reserved;
    uint64_t bytes;
    char message[TB_DELIVER_MESSAGE_MAX]; /* NUL-terminated */
};

#endif
