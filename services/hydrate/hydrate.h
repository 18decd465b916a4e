/* SPDX-License-Identifier: Apache-2.0 */
/* From credentials to a verified ciphertext under its final name. docs/contracts.md, "Directories and files".
 *
 * A crash at any instant is repaired by the next start, because names are taken in this order: data
 * complete and hashed under .part; .verified.json (it names the inode); model.manifest.json; the data's
 * final name; then .part.json goes. */
#ifndef TB_HYDRATE_HYDRATE_H
#define TB_HYDRATE_HYDRATE_H

#include <signal.h>

#include "common/config.h"
#include "hydrate/verdict.h"

/* Runs to completion. signals are blocked and readable from signal_fd: they stop a
 * download, which saves first. Logs progress, writes
 * progress.json, announces READY=1. Returns 0 or the code of *v (VERDICT_STOPPED for a signal). */
int hydrate_run(const struct tb_config *cfg, const sigset_t *signals, int signal_fd, struct verdict *v);

#endif
