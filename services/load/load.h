/* SPDX-License-Identifier: Apache-2.0 */
/* What one start of tb-load knows, and how it fails: every step returns 0 or the exit code it leads to, and has then put a
 * sentence for people (object, reason, remedy) into reason. */
#ifndef TB_LOAD_LOAD_H
#define TB_LOAD_LOAD_H

#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>

#include "common/config.h"
#include "common/exit.h"
#include "common/macros.h"
#include "tbenc/tbenc.h"

#define TB_LOAD_REASON_MAX 600

struct tb_load {
    const struct tb_config *config;
    struct tbenc_manifest *manifest; /* owned */
    uint8_t manifest_sha256[TBENC_SHA256_BYTES];
    char **command;       /* TB_RUNTIME_EXEC as words; NULL: none; owned */
    char *run_dir;        /* RUN/tb-runtime; NULL: cannot be had; owned */
    int signal_fd;        /* SIGTERM, SIGINT, SIGCHLD; owned */
    int stopped_by;       /* the SIGTERM or SIGINT that ended the work, 0: none */
    struct rlimit nofile; /* as it was at the start: the runtime gets it back */
    char reason[TB_LOAD_REASON_MAX];
};

/* Stores the reason and returns status. */
int tb_fail(struct tb_load *l, enum tb_exit status, const char *fmt, ...) _printf_(3, 4);

/* Checks, before anything is made, removed or mounted there, that nobody else can interfere where plaintext, FIFO and ready signal
 * will be. 74, 78. */
int tb_load_check_paths(struct tb_load *l);
/* Reads TB_RUNTIME_EXEC, the manifest and the size of the ciphertext. 66, 74, 76, 78. */
int tb_load_prepare(struct tb_load *l);
void tb_load_clear(struct tb_load *l);

/* RUN/tb-runtime/delivery.json; state "waiting", "delivering", "delivered" or "failed". */
void tb_load_state(const struct tb_load *l, const char *state);

/* The ready signal of the first TrustBridge. 0 or 74. Removing one that is not there is fine. */
int tb_ready_write(struct tb_load *l);
void tb_ready_remove(const struct tb_load *l);

/* Mode dir: fills the directory and becomes the runtime; returns only when that failed. */
int tb_load_dir(struct tb_load *l);
/* Mode fifo: feeds the runtime and stays until it ends. Returns its exit code or that of the failure. */
int tb_load_fifo(struct tb_load *l);

/* Takes a pending signal from signal_fd. Returns SIGTERM or SIGINT (also kept in stopped_by), SIGCHLD, or 0. */
int tb_load_signal(struct tb_load *l);

#endif
