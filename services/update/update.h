/* SPDX-License-Identifier: Apache-2.0 */
/* tb-update: watches what the control plane wants served, has it downloaded beside what serves, switches when
 * the operator's settings say so, and goes back when that fails. It holds no secret and no network; what it
 * does it asks of systemd. docs/versions.md. */
#ifndef TB_UPDATE_UPDATE_H
#define TB_UPDATE_UPDATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/config.h"
#include "common/update_state.h"
#include "update/decide.h"

#define UPDATE_ASKED "asked" /* in RUN/tb-update: "switch" or "retry", of an operator */

/* -- look.c: what is there */
struct update_failure {
    uint64_t version;
    char reason[TB_REASON_MAX];
};
/* Fills f from files and from systemd; the members that are tb-update's own stay. */
void update_look(const struct tb_config *c, bool ask_systemd, struct update_facts *f);
/* What systemd alone knows of the runtime. *ret_ending: it ends, and is to start again. */
void update_look_at_units(struct update_facts *f, bool *ret_ending);
/* The version that the runtime has, or is about to have; 0: there is none, or it does not say. */
uint64_t update_version_begun(const char *run_dir);
/* STATE/tb-update/ordered.json: tb-update switch was said, and is not done. */
bool update_order_read(const char *state_dir, const char *asset_id);
int update_order_write(const char *state_dir, const char *asset_id, bool ordered);
/* STATE/tb-update/failed.json; a version 0 removes it. */
void update_failure_read(const char *state_dir, const char *asset_id, struct update_failure *ret);
int update_failure_write(const char *state_dir, const char *asset_id, const struct update_failure *w);
/* Why the runtime or its decryption failed last, for people; "" when nobody says. */
void update_explain_runtime(const char *run_dir, char out[static TB_REASON_MAX]);
/* The same of the download; "" when it has not failed. */
void update_explain_download(const char *run_dir, char out[static TB_REASON_MAX]);

/* -- act.c: what is asked of systemd */
/* systemctl VERB UNIT, to its end, but for what starts the runtime; its exit status, or -errno. */
int update_systemctl(const char *verb, const char *unit);
/* Begins it. Its process, or -errno. */
pid_t update_systemctl_begin(const char *verb, const char *unit);
/* Has tb-switch do this. 0 or an exit code. */
int update_wish(const char *run_dir, const char *action, uint64_t version);

/* -- daemon.c */
int update_run(const struct tb_config *c);

/* -- command.c: tb-update status, switch, retry */
int update_command(const char *run_dir, const char *verb, bool no_wait);

#endif
