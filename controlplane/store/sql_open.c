/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the two backends a name means. */
#include <string.h>

#include "controlplane/store/sql_backend.h"

bool cp_sql_is_url(const char *where)
{
    return strncmp(where, "postgresql://", 13) == 0 || strncmp(where, "postgres://", 11) == 0;
}

int cp_sql_open(const char *where, struct cp_sql **ret, char err[static TB_DB_ERR_MAX])
{
    err[0] = '\0';
    return cp_sql_is_url(where) ? cp_sql_open_postgresql(where, ret, err)
                                : cp_sql_open_sqlite(where, ret, err);
}
