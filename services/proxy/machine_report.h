/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-verify saw of this machine goes into the audit chain: a record of its own for each report, with
 * all of it. */
#ifndef TB_PROXY_MACHINE_REPORT_H
#define TB_PROXY_MACHINE_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct tb_server;

struct tb_machine_report {
    /* private */
    struct stat seen; /* the file as it was looked at; st_ino 0: never */
    char sha256[65];  /* of what is recorded; "": nothing */
};

/* From the loop, every second or so. */
void tb_machine_report_tick(struct tb_server *s);

#endif
