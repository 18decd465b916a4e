/* SPDX-License-Identifier: Apache-2.0 */
/* SAS of Azure Blob Storage: a URL that lets its holder read one blob for a short time. A service SAS, by the
 * account's key, or a user delegation SAS, by a key that the managed identity gets. Layout of signed version
 * 2020-12-06 (the oldest that Azure's current services and Azurite treat alike), resource "b", permission
 * "r". */
#ifndef CP_SAS_H
#define CP_SAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define CP_URL_MAX 2048     /* registered blob URL, characters */
#define CP_SAS_URL_MAX 3072 /* the same with its query */
#define CP_SAS_VERSION "2020-12-06"
#define CP_SAS_START_SKEW_US 300000000 /* st lies this far back, for blob servers whose clock is behind */

struct cp_delegation;

struct cp_sas_account {
    const char *name;
    const uint8_t *key; /* decoded; secret memory of the caller */
    size_t key_len;
    struct cp_delegation *delegation; /* instead of a key, or NULL */
};

/* Where URLs may be signed, and for how long. URLs of no such account are handed out as they were
 * registered. */
struct cp_sas {
    const struct cp_sas_account *accounts;
    size_t n_accounts;
    uint64_t lifetime_us;
    const char *ip; /* sip: an address or "first-last", NULL: any */
};

/* A blob URL taken apart. container and blob are percent-decoded, as the signature wants them. */
struct cp_blob {
    bool https;
    char account[64], container[64], blob[1025];
};

/* ^[a-z0-9]{3,24}$, Azure's grammar. */
bool cp_sas_account_valid(const char *account);

/* Why url may not stand as a registered blob URL: not http(s), no host, user info, query, fragment, a
 * character that has no place in a URL, too long. NULL when it may. The reason never quotes the URL. */
const char *cp_blob_url_fault(const char *url);

/* Splits url when it is a blob of that account: "https://ACCOUNT.blob.SUFFIX/CONTAINER/BLOB", or the
 * emulators' path style "http://HOST:PORT/ACCOUNT/CONTAINER/BLOB". -ENXIO when it is not; -EINVAL when it is
 * no blob URL at all. */
int cp_blob_parse(const char *url, const char *account, struct cp_blob *ret);

/* What cp_sas_url() will need for url, fetched. It takes its time: not in a transaction. 0; -EAGAIN: the
 * storage, or the identity, does not answer. */
int cp_sas_prepare(const struct cp_sas *s, const char *url, uint64_t now_us);

/* Writes url, signed when an account owns it, to out. end_us: the SAS does not outlive this (UINT64_MAX: no
 * such end). 0; 1 when the URL is of another server and was copied as it is; -EAGAIN there is no key now, see
 * cp_sas_prepare(); -errno. */
int cp_sas_url(const struct cp_sas *s, const char *url, uint64_t now_us, uint64_t end_us,
               char out[static CP_SAS_URL_MAX]);

#endif
