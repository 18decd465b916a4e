/* SPDX-License-Identifier: Apache-2.0 */
/* RUN/tb-update/update.json: what tb-update is about, for those who serve (tb-proxy) and those who look. */
#ifndef TB_UPDATE_STATE_H
#define TB_UPDATE_STATE_H

#include <stdint.h>

#include "common/io.h"
#include "common/lease_state.h"

#define TB_UPDATE_NAME "update.json"
#define TB_UPDATE_FILE "tb-update/" TB_UPDATE_NAME

enum tb_update_phase {
    TB_UPDATE_NONE,        /* what the control plane wants is what is served */
    TB_UPDATE_DOWNLOADING, /* beside what is served; RUN/tb-next/progress.json says how far */
    TB_UPDATE_READY,       /* and waits for its moment */
    TB_UPDATE_DRAINING,    /* requests that are being served are waited for, new ones wait */
    TB_UPDATE_SWITCHING,   /* the old runtime has stopped, the new one is not well yet */
    TB_UPDATE_FAILED,      /* the new version did not serve; not again until told */
    _TB_UPDATE_PHASE_MAX,
};

struct tb_update {
    enum tb_update_phase phase;
    uint64_t serving, next; /* versions; 0: none */
    char reason[TB_REASON_MAX];
    uint64_t switch_at_real_us;  /* when a window opens; 0: not by the clock */
    char when[24];               /* manual, restart, window */
    uint64_t hold_until_boot_us; /* so long a request may wait for the new runtime; 0: none waits */
};

const char *tb_update_phase_name(enum tb_update_phase p);
/* dir: RUN/tb-update. 0 or -errno. */
int tb_update_write(const char *dir, const struct tb_update *u);
/* The sentence for people about the next version; percent: of its download, -1 when that is not known. ""
 * when there is none. */
void tb_update_describe(const struct tb_update *u, int percent, char out[static TB_REASON_MAX + 96]);
/* run_dir: RUN. -ENOENT: there is none. What makes no sense in it reads as absent. */
int tb_update_read(const char *run_dir, struct tb_update *ret);

#endif
