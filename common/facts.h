/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the domain files of docs/contracts.md into the facts that the state is derived from
 * (service_state.h). Shared by those who show the state: tb-proxy and tb-status. */
#ifndef TB_FACTS_H
#define TB_FACTS_H

#include "common/service_state.h"
#include "common/unit_list.h"

/* Fills everything but runtime_healthy and audit_trouble, which no file has and which stay as they are. What
 * is absent or cannot be understood reads as absent; of the latter the last is named in ret->broken. run_dir:
 * TB_RUN_DIR. */
void tb_facts_read(const char *run_dir, struct tb_facts *ret);
/* Of these files, one that was removed: systemd has had its program up for a while, which writes it before
 * that. The units as they were after the files were read. A constant, or NULL. */
const char *tb_facts_lost(const struct tb_facts *f, const struct tb_unit *units, size_t n,
                          uint64_t realtime_us);

#endif
