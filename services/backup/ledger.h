/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger as bytes. */
#ifndef TB_BACKUP_LEDGER_H
#define TB_BACKUP_LEDGER_H

#include "backup/member.h"
#include "common/db.h"

/* A whole copy of the database at path, by SQLite's backup API: of one instant, whoever writes to it.
 * -ENOENT; -EBADMSG: damaged; -EFBIG: over BACKUP_LEDGER_MAX; else as common/db.h. */
int backup_ledger_copy(const char *path, char **ret, size_t *ret_len, char err[static TB_DB_ERR_MAX]);

/* Opens a copy in memory, as schema `schema` ("main", or a new one) of the connection, and checks it:
 * damaged, or of a newer program, is -EBADMSG. */
int backup_ledger_attach(sqlite3 *db, const char *schema, const struct backup_member *m,
                         char err[static TB_DB_ERR_MAX]);

#endif
