/* SPDX-License-Identifier: Apache-2.0 */
/* The directory that --data names:
 *   controlplane.db    0600  store.h, unless another database is named
 *   provider.token     0600  64 hex digits: the bearer token of POST /api/v1/assets/register
 *   master.key         0600  64 hex digits: wraps the assets' keys. Lost with it: every registered key
 *   ca.crt ca.key server.crt server.key client-NAME.crt client-NAME.key    pki.h; keys 0600
 * Whatever is missing is made. */
#ifndef CP_DATADIR_H
#define CP_DATADIR_H

#include "common/secret.h"
#include "controlplane/store/store.h"

#define CP_DB_FILE "controlplane.db"
#define CP_TOKEN_FILE "provider.token"
#define CP_MASTER_FILE "master.key"

/* Makes the directory (0755: the CA certificate in it is public) when missing. The database is the one in
 * it, which gets the contracts of development when it is new; or, when given, `database`, a path or
 * postgresql:// URL, which gets none. -errno with a reason for people in err. */
#define CP_ERR_MAX 512
struct cp_place {
    char where[1024]; /* for cp_store_open() */
    bool seed;
};
int cp_data_place(const char *dir, const char *database, struct cp_place *ret, char err[static CP_ERR_MAX]);
int cp_data_open_store(const struct cp_place *p, struct cp_store **ret, char err[static CP_ERR_MAX]);

/* Reads dir/name, 64 hex digits; makes it of random ones, 0600, when it does not exist. Two processes may
 * race: both get the same. -EPERM when others than the owner may read it. */
int cp_data_secret(const char *dir, const char *name, struct tb_key *ret, char err[static CP_ERR_MAX]);

#endif
