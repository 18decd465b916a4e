/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a restore would lose something: what a machine has that a backup has not. Functions of two
 * sets. */
#ifndef TB_BACKUP_COMPARE_H
#define TB_BACKUP_COMPARE_H

#include "backup/member.h"
#include "common/usage.h"

#define BACKUP_NEWER_MAX 600

struct backup_counters {
    bool present;
    struct tb_usage_snapshot usage;
};
/* The usage counters of a set. */
void backup_counters_of(const struct backup_set *s, struct backup_counters *ret);
/* Number of the last audit record; 0: none. */
uint64_t backup_audit_seq(const struct backup_set *s);

struct backup_newer {
    bool ledger;                 /* the ledger here has what that of the backup has not */
    bool counters;               /* more is counted here */
    bool audit;                  /* more audit records were written here */
    char text[BACKUP_NEWER_MAX]; /* which, and by how much: parts of a sentence; "" when nothing is */
};
/* 0; -EBADMSG: a ledger that is damaged or of a newer program, reason in err. */
int backup_compare(const struct backup_set *here, const struct backup_set *there, struct backup_newer *ret,
                   char err[static 256]);
/* The counters here go on with the backup's ledger: of the same file, and none behind what it has booked.
 * 0; -ESTALE and the reason in err. */
int backup_counters_fit(const struct backup_set *here, const struct backup_set *there, char err[static 256]);

#endif
