/* SPDX-License-Identifier: Apache-2.0 */
/* Who we are to Azure Storage. The most explicit credential wins:
 *   1. --connection-string-file, --account-key-file, --sas-file
 *   2. $AZURE_STORAGE_CONNECTION_STRING, $AZURE_STORAGE_KEY, $AZURE_STORAGE_SAS_TOKEN, $AZURE_ACCESS_TOKEN
 *   3. $AZURE_TENANT_ID + $AZURE_CLIENT_ID + $AZURE_CLIENT_SECRET (service principal)
 *   4. managed identity of this machine
 *   5. the Azure CLI
 * Secrets live in tb_secret_alloc memory; variables that held one are wiped from the environment. */
#ifndef TBPKG_AZURE_AUTH_H
#define TBPKG_AZURE_AUTH_H

#include "provider/azure/token.h"

#define AZURE_AUTH_NONE_FOUND "no credential found"
#define AZURE_AUTH_WAYS                                                                                      \
    "give --connection-string-file, --account-key-file or --sas-file; or set "                               \
    "AZURE_STORAGE_CONNECTION_STRING, "                                                                      \
    "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_ACCESS_TOKEN, or AZURE_TENANT_ID with "               \
    "AZURE_CLIENT_ID and "                                                                                   \
    "AZURE_CLIENT_SECRET; or run on a machine with a managed identity; or log in with 'az login'"

enum azure_auth_kind { AZURE_AUTH_NONE, AZURE_AUTH_KEY, AZURE_AUTH_SAS, AZURE_AUTH_BEARER };

struct azure_auth_options {
    const char *connection_string_file, *account_key_file, *sas_file; /* NULL: not given */
    const struct tb_http_tls *tls; /* for the service principal's authority */
};

struct azure_auth {
    enum azure_auth_kind kind;
    uint8_t *key; /* KEY */
    size_t key_len;
    char *sas;                /* SAS: query without '?' */
    char *bearer;             /* BEARER */
    uint64_t renew_at_us;     /* BEARER: CLOCK_BOOTTIME after which a new one is due; 0: never */
    char *account, *endpoint; /* from a connection string, else NULL */
    char source[96];          /* "the environment variable AZURE_STORAGE_KEY" */
    /* private */
    enum { AZURE_RENEW_NEVER, AZURE_RENEW_PRINCIPAL, AZURE_RENEW_IDENTITY, AZURE_RENEW_CLI } renew;
    const struct tb_http_tls *tls;
    char *client_secret;
};

/* 0; -ENOENT when there is no credential at all (AZURE_AUTH_WAYS lists what there is); -EINVAL, -EACCES ...
 * when the most explicit one is unusable: a less explicit one is not tried instead. */
int azure_auth_find(const struct azure_auth_options *o, struct azure_auth *ret,
                    char err[static TB_AZURE_ERR_MAX]);
void azure_auth_clear(struct azure_auth *a);
#define _cleanup_azure_auth_ _cleanup_(azure_auth_clear)

/* Bearer tokens live about an hour, an upload may take longer. Fetches a new one; -ENOTSUP for other
 * kinds. */
int azure_auth_renew(struct azure_auth *a, char err[static TB_AZURE_ERR_MAX]);
bool azure_auth_renew_due(const struct azure_auth *a);

/* A copy in secret memory of a variable that holds a secret, also after it was wiped where /proc/PID/environ
 * and children would see it, which the first call does. NULL when it was unset or empty. name is static. */
char *azure_auth_take_env(const char *name);

/* "AccountName=..;AccountKey=..;EndpointSuffix=.." (or SharedAccessSignature=, BlobEndpoint=) into a.
 * -EINVAL. */
int azure_connection_string(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX]);
/* A SAS with or without '?', or the URL that ends in one. -EINVAL. */
int azure_sas(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX]);
/* Whether a SAS, by what it says itself, can be used now to read and create blobs in a container: it has an
 * end, permissions, and a kind of resource. 0; or -EACCES and a reason, which has no secret of it. */
int azure_sas_judge(const char *sas, uint64_t now_us, char err[static TB_AZURE_ERR_MAX]);
/* Base64 of an account key. -EINVAL. */
int azure_account_key(const char *text, struct azure_auth *a, char err[static TB_AZURE_ERR_MAX]);

#endif
