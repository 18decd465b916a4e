/* SPDX-License-Identifier: Apache-2.0 */
/* Modes view and s3: reads are answered until who reads, or the permission to read, is gone. */
#ifndef TB_DECRYPT_SERVE_READS_H
#define TB_DECRYPT_SERVE_READS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/outcome.h"
#include "common/secret.h"
#include "decrypt/asset.h"
#include "decrypt/report.h"

struct decrypt_reads {
    const struct tb_config *config;
    uint32_t mode;           /* TB_DELIVER_VIEW or TB_DELIVER_S3 */
    int sock, signal_fd, fd; /* borrowed: the client, SIGTERM and SIGINT, the mount or the listener */
    const uint8_t *manifest_sha256;
    struct tb_asset *asset;
    struct tb_key **key; /* freed as soon as the ciphers are made */
    struct tb_report *report;
    struct tb_outcome *outcome;
    /* Called with the outcome that is not 0, while what was read is yet to be taken back: that may take long,
     * and the client is to end the runtime, and the next start to know, whatever becomes of this process. */
    void (*failed)(void *ctx);
    void *ctx;
    bool threads_left; /* set when it returns: threads wait for the kernel, and may yet look at the asset */
};

/* 0: the readers have gone, or need it no more; or an exit code, with the outcome set: then nothing can be
 * read any more, and the process has to end. */
int decrypt_reads_serve(struct decrypt_reads *d);

#endif
