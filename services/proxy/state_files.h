/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a running proxy writes by their mapping, and others read by their name: counters, usage
 * by key, requests in flight, the head of the audit chain, and the file of audit records. Removed or replaced
 * while it runs they would be written on, unseen, and lost with the process: they are looked at now and then
 * and put back as they are in memory. */
#ifndef TB_PROXY_STATE_FILES_H
#define TB_PROXY_STATE_FILES_H

#include <stdint.h>

#include "common/macros.h"
#include "common/lease_state.h"

struct tb_server;

#define TB_STATE_FILES_US 5000000ULL /* how often */

struct tb_state_files {
    uint64_t put_back;           /* how often one was */
    char trouble[TB_REASON_MAX]; /* what cannot be put back, and why; "": nothing */
    /* private */
    uint64_t own, looked_us;
};

/* From the loop, every second or so. */
void tb_state_files_tick(struct tb_server *s, const char *state_dir, uint64_t now_us);

#endif
