/* SPDX-License-Identifier: Apache-2.0 */
/* What one start of tb-load knows, and what all its steps use. Every step returns 0 or the exit code it leads
 * to, and has then set l->outcome. */
#ifndef TB_LOAD_LOAD_H
#define TB_LOAD_LOAD_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "common/config.h"
#include "common/outcome.h"
#include "tbenc/tbenc.h"

#define TB_VIEW_WHY_MAX 160

struct tb_load {
    const struct tb_config *config;
    struct tbenc_manifest *manifest; /* owned */
    uint8_t manifest_sha256[TBENC_SHA256_BYTES];
    enum tb_delivery mode;         /* what TB_DELIVERY comes to on this machine: dir, view, s3 or fifo */
    char no_view[TB_VIEW_WHY_MAX]; /* why it is not view, where it was to be; else "" */
    bool own_users;                /* this process is in a user namespace of its own */
    uint64_t asset_version;        /* 0: not known */
    char **command;                /* TB_RUNTIME_EXEC as words; NULL: none; owned */
    char *run_dir;                 /* RUN/tb-runtime; NULL: cannot be had; owned */
    uint64_t started_boottime_us;
    int signal_fd;        /* SIGTERM, SIGINT, SIGCHLD; owned */
    int stopped_by;       /* the SIGTERM or SIGINT that ended the work, 0: none */
    struct rlimit nofile; /* as it was at the start: the runtime gets it back */
    struct tb_outcome outcome;
};

void tb_load_clear(struct tb_load *l);

/* RUN/tb-runtime/delivery.json; state "waiting", "delivering", "streaming" (a view or an endpoint,
 * read while it is verified), "delivered" or "failed". */
void tb_load_state(const struct tb_load *l, const char *state);

/* The ready signal of the first TrustBridge. 0 or 74. Removing one that is not there is fine. */
int tb_ready_write(struct tb_load *l);
void tb_ready_remove(const struct tb_load *l);

/* Takes a pending signal from signal_fd. Returns SIGTERM or SIGINT (also kept in stopped_by), SIGCHLD, or
 * 0. */
int tb_load_signal(struct tb_load *l);

#endif
