/* SPDX-License-Identifier: Apache-2.0 */
/* The two programs, tb-backup and tb-restore: one binary, by the name that it is called by. These log. */
#ifndef TB_BACKUP_BACKUP_H
#define TB_BACKUP_BACKUP_H

#include "backup/places.h"
#include "backup/seal.h"
#include "common/outcome.h"

struct backup_options {
    const char *file, *root, *passphrase_file;
    struct backup_key key;
    bool credentials, quiet;                  /* tb-backup */
    bool check, force, keep_counters, finish; /* tb-restore */
    unsigned only;                            /* BACKUP_ONLY_*; 0: all */
    bool help, version;
};
#define BACKUP_ONLY_SETTINGS 1U
#define BACKUP_ONLY_STATE 2U
#define BACKUP_ONLY_CREDENTIALS 4U

/* Each returns an exit code. */
int backup_save(const struct backup_options *opt, const struct backup_places *p);
int backup_restore(const struct backup_options *opt, const struct backup_places *p);

/* save.c: writes what the machine is now into a file, without credentials. 0 or an exit code. */
int backup_save_set(const struct backup_set *s, const char *file, struct tb_outcome *o);

/* running.c: whether daemons of ours use the state. */
/* By what systemd says of its own chain; a unit that fails again and again counts too. 0 or an exit
 * code. */
int backup_check_stopped(const struct backup_places *p, struct tb_outcome *o);
struct backup_locks {
    int ledger, usage;
};
/* Holds what tb-billing and tb-proxy lock, so that neither can start meanwhile. 0 or an exit code. */
int backup_locks_take(struct backup_locks *l, const struct backup_places *p, struct tb_outcome *o);
void backup_locks_release(struct backup_locks *l);
#define _cleanup_backup_locks_ _cleanup_(backup_locks_release)

/* advice.c: prints what the restored machine needs that no backup can give. another: it is not the machine
 * that was saved. credentials: they were restored. */
void backup_advise(const struct backup_places *p, const struct backup_set *s, bool another, bool credentials);

#endif
