/* SPDX-License-Identifier: Apache-2.0 */
/* What the control plane remembers, in one SQLite database (WAL): assets with their wrapped keys, contracts,
 * machines bound to contracts, and who asked for what. The server and the command line use it at the same
 * time from different processes. One handle is used by one thread. Times are microseconds since the epoch.
 *
 * All functions return 0 or a negative errno of common/db.h: -EBUSY another process held the database for
 * longer than CP_STORE_BUSY_MS, -EEXIST, ...; or -ENOENT no such object. cp_store_error() then has SQLite's
 * words. */
#ifndef CP_STORE_H
#define CP_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/db.h"
#include "common/usage_report.h"
#include "controlplane/blob/sas.h"
#include "controlplane/keys/wrap.h"

#define CP_STORE_BUSY_MS 5000
#define CP_STORE_LOG_MAX 100000 /* authorisations remembered; older ones are dropped */
#define CP_SHA256_HEX 64
#define CP_HW_ID_MAX 200
#define CP_REASON_MAX 100
#define CP_ANY_ASSET "*"
#define CP_LEASE_SECONDS_DEFAULT 3600
#define CP_LEASE_SECONDS_MAX (366 * 86400)

struct cp_asset {
    char asset_id[TB_ID_MAX + 1];
    char ciphertext_url[CP_URL_MAX + 1], manifest_url[CP_URL_MAX + 1];
    uint64_t chunk_bytes, plaintext_bytes;
    char sha256_ciphertext[CP_SHA256_HEX + 1];
    char manifest_sha256[CP_SHA256_HEX + 1]; /* "" when the provider did not say */
    uint8_t wrapped_key[CP_WRAPPED_KEY_BYTES];
    uint64_t registered_us, updated_us;
};

struct cp_contract {
    char contract_id[TB_ID_MAX + 1];
    char asset_id[TB_ID_MAX + 1]; /* CP_ANY_ASSET: every asset */
    bool active;
    char reason[CP_REASON_MAX + 1]; /* why it is not active; "" when it is */
    uint64_t expires_us;            /* 0: never */
    uint64_t lease_seconds;
    uint64_t max_hw; /* machines that may use it; 0: any number */
    uint64_t hw_used;
    uint64_t created_us, updated_us;
};

struct cp_log_entry {
    uint64_t at_us;
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    char peer[64];         /* address of the client */
    char client_name[101]; /* common name of its certificate, "" without one */
    bool authorized;
    char reason[CP_REASON_MAX + 1];
};

/* The newest usage report of a machine. */
struct cp_usage {
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    uint64_t at_us; /* by the machine's clock */
    char report[TB_REPORT_MAX + 1];
};

struct cp_store;

/* Opens path, made 0600 with the two contracts of the specification (see cp_store_seed()) when it does not
 * exist. A reason for people in err. */
int cp_store_open(const char *path, struct cp_store **ret, char err[static TB_DB_ERR_MAX]);
struct cp_store *cp_store_close(struct cp_store *s);
static inline void cp_store_closep(struct cp_store **s)
{
    *s = cp_store_close(*s);
}
#define _cleanup_store_ _cleanup_(cp_store_closep)
/* Text of this handle's last failure. */
const char *cp_store_error(const struct cp_store *s);

/* A group of calls that takes effect whole or not at all. Takes the write lock at once. */
int cp_store_begin(struct cp_store *s);
int cp_store_commit(struct cp_store *s);
void cp_store_rollback(struct cp_store *s);

/* (Re)makes contract-allow (any asset) and contract-deny (refused, contract_invalid). */
int cp_store_seed(struct cp_store *s, uint64_t now_us);

/* Inserts or replaces in one step; registered_us of an existing row is kept. supersede: the existing row is
 * kept for cp_store_restore_asset(), because its key or contents are others. */
int cp_store_put_asset(struct cp_store *s, const struct cp_asset *a, bool supersede, bool *ret_replaced);
/* Brings back the last registration that was superseded; called again, the one before it, and so on around.
 * -ENOENT when there is none. */
int cp_store_restore_asset(struct cp_store *s, const char *asset_id);
int cp_store_get_asset(struct cp_store *s, const char *asset_id, struct cp_asset *ret);

/* -EEXIST when the id is taken and replace is false. hw_used is ignored. */
int cp_store_put_contract(struct cp_store *s, const struct cp_contract *c, bool replace);
int cp_store_get_contract(struct cp_store *s, const char *contract_id, struct cp_contract *ret);

/* Notes that hw_id uses the contract. -EDQUOT when that would be more than max_hw (0: no limit) different
 * ones. */
int cp_store_bind_hw(struct cp_store *s, const char *contract_id, const char *hw_id, uint64_t max_hw,
                     uint64_t now_us);
/* Forgets the machines of a contract. */
int cp_store_unbind_hw(struct cp_store *s, const char *contract_id);

int cp_store_add_log(struct cp_store *s, const struct cp_log_entry *e);

/* Keeps the report unless a newer one of this machine is there. */
int cp_store_put_usage(struct cp_store *s, const struct cp_usage *u);

/* Calls fn for each, sorted by id (the log: newest `limit`, oldest first). fn returns nonzero to stop with
 * that value. */
int cp_store_each_asset(struct cp_store *s, int (*fn)(const struct cp_asset *, void *), void *ctx);
int cp_store_each_contract(struct cp_store *s, int (*fn)(const struct cp_contract *, void *), void *ctx);
int cp_store_each_log(struct cp_store *s, uint64_t limit, int (*fn)(const struct cp_log_entry *, void *),
                      void *ctx);
int cp_store_each_usage(struct cp_store *s, int (*fn)(const struct cp_usage *, void *), void *ctx);

#endif
