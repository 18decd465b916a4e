/* SPDX-License-Identifier: Apache-2.0 */
/* A certificate authority for development: one CA in the data directory, a server certificate for the names
 * of this machine, client certificates on demand. ECDSA P-256. All reasons are for people. */
#ifndef CP_PKI_H
#define CP_PKI_H

#include <stddef.h>

#include "controlplane/store/datadir.h"

#define CP_CA_CERT "ca.crt"
#define CP_CA_KEY "ca.key"
#define CP_SERVER_CERT "server.crt"
#define CP_SERVER_KEY "server.key"
#define CP_CA_DAYS 3650
#define CP_LEAF_DAYS 397
#define CP_RENEW_DAYS 7 /* a server certificate with less left is replaced */

/* Makes the CA when dir has none, and a server certificate unless the one there is of that CA, lasts, and is
 * good for "localhost", 127.0.0.1, ::1 and all of names (DNS names or addresses). 0 or -errno. */
int cp_pki_server(const char *dir, const char *const *names, size_t n_names, char err[static CP_ERR_MAX]);

/* Makes the CA when dir has none. 0 or -errno. */
int cp_pki_ca(const char *dir, char err[static CP_ERR_MAX]);

/* Makes the CA when missing, and DIR/client-NAME.crt and .key, replacing earlier ones. name is also the
 * common name. -EINVAL unless it is like an asset id. */
int cp_pki_client(const char *dir, const char *name, char err[static CP_ERR_MAX]);

#endif
