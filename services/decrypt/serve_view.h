/* SPDX-License-Identifier: Apache-2.0 */
/* Mode view: one mount served from its first request until it, or the permission to read, is gone. */
#ifndef TB_DECRYPT_SERVE_VIEW_H
#define TB_DECRYPT_SERVE_VIEW_H

#include <stdbool.h>
#include <stdint.h>

#include "common/outcome.h"
#include "common/secret.h"
#include "decrypt/asset.h"
#include "decrypt/report.h"

struct decrypt_view {
    const struct tb_config *config;
    int sock, signal_fd, fuse_fd; /* borrowed: the client, SIGTERM and SIGINT, the mount */
    struct tb_asset *asset;
    struct tb_key **key; /* freed as soon as the ciphers are made */
    struct tb_report *report;
    struct tb_outcome *outcome;
};

/* 0: the readers have gone, or need it no more; or an exit code, with the outcome set: then nothing can be
 * read any more. Threads may be left that wait for the kernel, so the process has to end. */
int decrypt_view_serve(struct decrypt_view *d);

#endif
