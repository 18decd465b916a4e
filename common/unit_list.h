/* SPDX-License-Identifier: Apache-2.0 */
/* The units of TrustBridge as PID 1 knows them: supervisory truth, which no dead writer leaves behind. Any
 * user may ask; it needs a system bus, and root does without. */
#ifndef TB_UNIT_LIST_H
#define TB_UNIT_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_UNIT_LIST_MAX 48
#define TB_UNIT_TEXT_MAX 320

struct tb_unit {
    char name[64];
    char load[16], active[16], sub[24]; /* systemd's words; result, code and so on are of services only */
    char job[16]; /* what systemd is about to do with it: "start", "stop"; "": nothing */
    char result[32];
    int exit_code;      /* of the last run of its main process; -1: none, or it was killed */
    unsigned killed_by; /* signal, 0: none */
    uint32_t restarts;
    uint64_t since_realtime_us;  /* of the present state; 0: unknown */
    char text[TB_UNIT_TEXT_MAX]; /* STATUS= of the service */
    char said[TB_UNIT_TEXT_MAX]; /* what it last logged that has sense; "" where nobody looked */
    char listen[64];             /* the first stream address of a socket */
};

struct tb_unit_list {
    struct tb_unit unit[TB_UNIT_LIST_MAX]; /* by name */
    size_t n;
};

/* 0; or a negative errno when systemd does not answer, with what it had said until then. */
int tb_unit_list_read(struct tb_unit_list *ret);
/* The unit of that name, or NULL. */
const struct tb_unit *tb_unit_list_find(const struct tb_unit_list *l, const char *name);
/* The runtime was stopped, and killed as that took longer than TimeoutStopSec=: for systemd it has failed. It
 * has no other time-out. */
bool tb_unit_stopped_slowly(const struct tb_unit *u);
/* It is up, or on its way there without having failed. */
bool tb_unit_runs(const struct tb_unit *u);

#endif
