/* SPDX-License-Identifier: Apache-2.0 */
/* The domain files of tb-authorize: lease.json, the suspended flag and its durable twin.
 * docs/contracts.md. */
#ifndef TB_AUTHORIZE_LEASE_FILES_H
#define TB_AUTHORIZE_LEASE_FILES_H

#include <stdbool.h>

#include "authorize/lease.h"

struct tb_lease_files {
    char *run_dir, *state_dir; /* the program's own ones */
    const char *contract_id, *asset_id;
    bool allowed;                    /* the flag's opposite stands */
    bool flagged;                    /* the flag and its twin stand, as far as we know */
    char flag_reason[TB_REASON_MAX]; /* and say this */
};

/* Finds (makes) the directories; contract_id and asset_id are kept by reference. 0 or -errno. */
int tb_lease_files_init(struct tb_lease_files *f, const char *run_base, const char *state_base,
                        const char *contract_id, const char *asset_id);
void tb_lease_files_clear(struct tb_lease_files *f);

/* Puts back into the lease what an earlier run left. A suspension comes first, whatever shape its files are
 * in; the flag is then written again where it is missing. Else the right to serve, when lease.json is of this
 * boot, contract and asset. */
int tb_lease_files_restore(struct tb_lease_files *f, struct tb_lease *l, const struct tb_clock *now);

/* Makes the files say what the lease says: when suspended the flag first, when resuming the flag last. 0 or
 * the first -errno; call again later then. */
int tb_lease_files_write(struct tb_lease_files *f, const struct tb_lease *l, const struct tb_clock *now);

/* Looks whether the files that were written are still there; true, and said in the log, when somebody removed
 * one: then write again. */
bool tb_lease_files_miss(struct tb_lease_files *f);

/* True when tb-billing knows from the marketplace that the subscription has ended; the reason,
 * printable. */
bool tb_lease_files_subscription_ended(const char *state_base, char ret_reason[static TB_REASON_MAX]);

#endif
