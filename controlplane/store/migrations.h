/* SPDX-License-Identifier: Apache-2.0 */
/* The tables, by numbered migrations. */
#ifndef CP_MIGRATIONS_H
#define CP_MIGRATIONS_H

#include "controlplane/store/sql.h"

/* Applies what is missing, in one transaction, while no other process does. *ret_new: there was nothing.
 * -EPROTONOSUPPORT: the database was made by a later version. Words in err, which may stay "". */
int cp_migrate(struct cp_sql *c, bool *ret_new, char err[static TB_DB_ERR_MAX]);

#endif
