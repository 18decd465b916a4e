/* SPDX-License-Identifier: Apache-2.0 */
/* User delegation keys of a storage account: what signs a SAS in the name of the machine's managed identity,
 * so that nobody needs the account's key. One is fetched (Get User Delegation Key) when the last has not long
 * to go; any thread. */
#ifndef CP_DELEGATION_H
#define CP_DELEGATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/http.h"

#define CP_DELEGATION_ERR_MAX 400
#define CP_DELEGATION_VERSION "2020-12-06" /* x-ms-version; and of the SAS, see sas.h */
#define CP_DELEGATION_KEY_MAX 64
#define CP_DELEGATION_LIFE_US_MAX (7 * 86400 * 1000000ULL) /* Azure's limit */

/* All texts go into the SAS as they came. key is secret. */
struct cp_delegation_key {
    char oid[40], tid[40], start[40], expiry[40], service[8], version[16];
    uint8_t key[CP_DELEGATION_KEY_MAX];
    size_t key_len;
    uint64_t expiry_us;
};

struct cp_delegation;

/* endpoint: "https://ACCOUNT.blob.core.windows.net", or an emulator's with the account as its path; no slash
 * at the end. lifetime_us: of the SASs that will be signed. tls and client_id outlive it. -EINVAL,
 * -ENOMEM. */
int cp_delegation_new(const char *endpoint, const char *client_id, const struct tb_http_tls *tls,
                      uint64_t lifetime_us, struct cp_delegation **ret,
                      char err[static CP_DELEGATION_ERR_MAX]);
struct cp_delegation *cp_delegation_free(struct cp_delegation *d);

/* Fetches a key when there is none that lasts for a SAS. It takes its time: not in a transaction. 0: there is
 * a key; -EAGAIN: there is none, the log says why. */
int cp_delegation_renew(struct cp_delegation *d, uint64_t now_us);
/* The key that is there. ret_skew_us: what the storage's clock is ahead of this one by, to be added to the
 * times of a SAS. -EAGAIN. */
int cp_delegation_get(struct cp_delegation *d, uint64_t now_us, struct cp_delegation_key *ret,
                      int64_t *ret_skew_us);

/* The answer's body, which is wiped. -EBADMSG. No I/O. */
int cp_delegation_parse(char *body, size_t len, struct cp_delegation_key *ret);

#endif
