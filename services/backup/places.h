/* SPDX-License-Identifier: Apache-2.0 */
/* Where things are on the machine that is saved or restored: this one, or one whose root is a directory. */
#ifndef TB_BACKUP_PLACES_H
#define TB_BACKUP_PLACES_H

#include "backup/member.h"

struct backup_places {
    bool elsewhere;   /* below --root, or TB_STATE_DIR is set: not the chain that systemd runs here */
    char *root;       /* "" or DIR */
    char *state;      /* /var/lib */
    char *etc;        /* /etc/trustbridge */
    char *own;        /* /var/lib/tb-restore: an interrupted restore, what a restore replaced */
    char machine[33]; /* stands for the machine, without being its id; "" when it has none */
};
/* root: NULL for this machine. -errno. */
int backup_places_init(struct backup_places *p, const char *root);
void backup_places_clear(struct backup_places *p);
#define _cleanup_backup_places_ _cleanup_(backup_places_clear)

/* The path that a member belongs to; heap. NULL on ENOMEM. kind: as backup_name_kind() said. */
char *backup_place_of(const struct backup_places *p, const char *name, enum backup_kind kind);

#endif
