/* SPDX-License-Identifier: Apache-2.0 */
/* A change of many files that happens whole or not at all. Each new file is written beside its place and
 * synced; then the plan, a list of them, gets its name in STATE/tb-restore, and that is the instant at
 * which the restore happens. What follows, one rename for each file, can be interrupted and done again;
 * until it is done no program of ours starts (common/restore_pending.h). What would prove it wrong: a kill
 * at any instant after which the programs run on files of both kinds. */
#ifndef TB_BACKUP_PLAN_H
#define TB_BACKUP_PLAN_H

#include <cjson/cJSON.h>

#include "backup/places.h"
#include "common/outcome.h"

struct backup_plan {
    cJSON *doc;
    bool decided; /* from here on its files are not to be removed */
};
int backup_plan_init(struct backup_plan *p);
/* Removes the files that were prepared for a plan that was not decided. */
void backup_plan_clear(struct backup_plan *p);
#define _cleanup_backup_plan_ _cleanup_(backup_plan_clear)

struct backup_owner {
    uid_t uid;
    gid_t gid;
};
/* Prepares path to become these bytes; its directory exists. -errno. */
int backup_plan_put(struct backup_plan *p, const char *path, const char *data, size_t len, mode_t mode,
                    struct backup_owner owner);
/* path will be gone, before any file gets its place. */
int backup_plan_remove(struct backup_plan *p, const char *path);
/* Decides it. -errno: nothing was changed. */
int backup_plan_decide(struct backup_plan *p, const struct backup_places *places);

/* No restore was interrupted after it was decided. */
bool backup_plan_is_none(const struct backup_places *places);

/* Carries out what was decided, if anything was: *ret_done. 0 or an exit code. */
int backup_plan_finish(const struct backup_places *places, bool *ret_done, struct tb_outcome *o);

#endif
