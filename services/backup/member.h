/* SPDX-License-Identifier: Apache-2.0 */
/* What a backup consists of: named pieces of bytes in memory. A name says where its bytes belong, and
 * there are no others than those that backup_name_kind() knows; so no name of an archive is ever used as a
 * path. */
#ifndef TB_BACKUP_MEMBER_H
#define TB_BACKUP_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/macros.h"
#include "common/units.h"

#define BACKUP_MEMBERS_MAX 256
#define BACKUP_LEDGER_MAX (1ULL << 30)  /* bytes of the ledger */
#define BACKUP_MEMBER_MAX (64ULL << 20) /* bytes of any other member */
#define BACKUP_NAME_MAX 96

#define BACKUP_SETTINGS "settings/trustbridge.env"
#define BACKUP_SEALED "credentials.cms"
#define BACKUP_LEDGER "state/tb-billing/ledger.db"
#define BACKUP_USAGE "state/tb-proxy/usage"
#define BACKUP_KEYS "state/tb-proxy/keys"
#define BACKUP_FLIGHT "state/tb-proxy/flight"
#define BACKUP_HEAD "state/tb-proxy/audit-head"
#define BACKUP_SUSPENDED "state/tb-authorize/suspended"

enum backup_kind {
    BACKUP_KIND_NONE, /* not a name of a backup */
    BACKUP_KIND_SETTINGS,
    BACKUP_KIND_STATE,     /* state/PROGRAM/FILE */
    BACKUP_KIND_SEALED,    /* the encrypted part */
    BACKUP_KIND_CREDSTORE, /* in the encrypted part: credstore/FILE or credstore.encrypted/FILE */
    BACKUP_KIND_ETC,       /* etc/FILE: beside trustbridge.env */
    BACKUP_KIND_DROP_IN,   /* units/UNIT.d/FILE.conf */
};
/* What a name stands for. sealed: whether it is one of the encrypted part. */
enum backup_kind backup_name_kind(const char *name, bool sealed);
/* The programs whose state directories are saved, and the mode of each. NULL-terminated names. */
extern const struct backup_program {
    const char *name;
    mode_t mode;
} backup_programs[];

struct backup_member {
    char name[BACKUP_NAME_MAX];
    mode_t mode;
    char *data;
    size_t len;
};

struct backup_set {
    struct backup_member v[BACKUP_MEMBERS_MAX];
    size_t n;
    char created[TB_RFC3339_MAX], version[32], machine[33];
    bool secret; /* bytes are wiped before they are given back */
};
void backup_set_free(struct backup_set *s);
static inline void backup_set_freep(struct backup_set **s)
{
    backup_set_free(*s);
    *s = NULL;
}
#define _cleanup_backup_set_ _cleanup_(backup_set_freep)

/* Takes data, from malloc(), over in any case. -ENOSPC: too many; -ENOMEM when data is NULL and len is not
 * 0. */
int backup_set_add(struct backup_set *s, const char *name, mode_t mode, char *data, size_t len);
/* NULL: it has none. */
const struct backup_member *backup_set_find(const struct backup_set *s, const char *name);

#endif
