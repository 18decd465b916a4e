/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the conclusion share: conclude.c, conclude_units.c, conclude_update.c; the questions that
 * all of them ask are in conclude_facts.c. */
#ifndef TB_STATUS_CONCLUDE_H
#define TB_STATUS_CONCLUDE_H

#include "status/status.h"

#define TB_STATUS_EXPLAINED_MAX 16

/* What has been concluded so far: a cause that is told explains what follows from it. */
struct tb_status_work {
    const struct tb_snapshot *s;
    struct tb_conclusion *c;
    const char *explained[TB_STATUS_EXPLAINED_MAX]; /* units */
    size_t n_explained;
    bool clock_wrong, audit_explained;
};

/* What is wrong with this unit need not be told: its cause was. */
void tb_status_explain(struct tb_status_work *w, const char *unit);
bool tb_status_explains(const struct tb_status_work *w, const char *unit);
/* Critical, where requests are refused; else a warning. */
enum tb_status_level tb_status_work_level(const struct tb_status_work *w);
/* It has failed, or is started again and again. */
bool tb_status_unit_failing(const struct tb_unit *u);

/* One version is being replaced by another. */
bool tb_status_is_switching(const struct tb_snapshot *s);
/* And requests wait for that in tb-proxy, instead of being refused: to clients it is as good as Ready. */
bool tb_status_requests_wait(const struct tb_snapshot *s, const struct tb_conclusion *c);
void tb_status_add_update(struct tb_status_work *w);
void tb_status_add_settings(struct tb_status_work *w);
/* What brings the model was stopped by hand: that explains where its work stands. */
void tb_status_add_stopped_model(struct tb_status_work *w);
void tb_status_add_units(struct tb_status_work *w);

#endif
