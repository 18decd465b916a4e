/* SPDX-License-Identifier: Apache-2.0 */
/* Messages on the decrypt socket: docs/contracts.md, "Delivery". */
#ifndef TB_DELIVER_H
#define TB_DELIVER_H

#include <stdint.h>

#define TB_DELIVER_REQUEST_MAGIC "TBOPEN01"
#define TB_DELIVER_REPLY_MAGIC "TBDONE01"
#define TB_DELIVER_SERVING_MAGIC "TBSERV01" /* modes view and s3: the files can be read, from now on */
#define TB_DELIVER_MESSAGE_MAX 480

enum tb_deliver_mode { TB_DELIVER_FIFO = 1, TB_DELIVER_DIR = 2, TB_DELIVER_VIEW = 3, TB_DELIVER_S3 = 4 };

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
    char message[TB_DELIVER_MESSAGE_MAX]; /* NUL-terminated; of TBSERV01 in mode s3 the bucket */
};

/* "fifo", "dir", "view", "s3"; "?" for another. */
const char *tb_deliver_mode_name(uint32_t mode);

/* The name of an asset of one file as the runtime sees it: "model.gguf.tbenc" without its suffix, which is
 * cut off in place. Returns name. */
char *tb_deliver_name(char *name);

#endif
