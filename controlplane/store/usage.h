/* SPDX-License-Identifier: Apache-2.0 */
/* What machines report of their use. A machine's ledger (tb-billing) has a random id; a report has the
 * all-time totals of its ledger, and those of its last hours. Kept for each contract, machine and ledger; a
 * total is only ever raised. What a ledger had counted under another contract, or on the machine that it was
 * copied from, is the `base` of its totals and not counted again. docs/contracts.md, "Usage reports". */
#ifndef CP_USAGE_H
#define CP_USAGE_H

#include "controlplane/store/store.h"

#define CP_LEDGER_ID_MAX 64
#define CP_COUNTERS_MAX 16
#define CP_COUNTER_NAME_MAX 31
#define CP_REPORT_HOURS_MAX 30
#define CP_FLAGGED_MAX 200 /* reports kept for a person, of each ledger; the oldest go */

struct cp_usage_values {
    size_t n;
    struct {
        char name[CP_COUNTER_NAME_MAX + 1];
        uint64_t total;
    } v[CP_COUNTERS_MAX];
};

struct cp_usage_report {
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    char ledger[CP_LEDGER_ID_MAX + 1]; /* "": a report from before ledgers had ids */
    uint64_t at_us;                    /* when it was made, by the machine's clock */
    uint64_t received_us;
    struct cp_usage_values used;
    /* of which the machine made metering events by itself; self_billing: it goes on doing so */
    struct cp_usage_values self_billed;
    bool self_billing;
    size_t n_hours;
    struct {
        int64_t hour; /* from the epoch */
        struct cp_usage_values used;
    } hours[CP_REPORT_HOURS_MAX];
    char text[TB_REPORT_MAX + 1];
};

/* Why a person should look at a report. */
enum cp_usage_flags {
    CP_USAGE_BACK =
        1 << 0, /* a total is lower than one that was reported before, or the audit chain is shorter
                             * or another: a disk that was set back */
    CP_USAGE_LATE = 1 << 1,     /* older than one that is here */
    CP_USAGE_CLONE = 1 << 2,    /* another machine has this ledger, too */
    CP_USAGE_STRANGER = 1 << 3, /* from none of the contract's machines: not counted */
};

/* Counts it, and keeps it when it has a flag. In a transaction. */
int cp_store_take_usage(struct cp_store *s, const struct cp_usage_report *u, unsigned *ret_flags);
/* The one machine of the contract that reported this ledger; "": none, or several did. */
int cp_store_ledger_machine(struct cp_store *s, const char *contract_id, const char *ledger,
                            char ret[static CP_HW_ID_MAX + 1]);
/* Keeps one of a stranger, without counting it: whoever has the asset's key can sign for any contract. Few
 * are kept of each contract, as anybody may send them. In a transaction. */
int cp_store_keep_stranger(struct cp_store *s, const struct cp_usage_report *u);
/* Whether that machine was counted before: it may be one that was removed since. */
int cp_store_has_usage(struct cp_store *s, const char *contract_id, const char *hw_id, bool *ret);

/* A ledger, with what is to be billed for it. */
struct cp_usage {
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    char ledger[CP_LEDGER_ID_MAX + 1];
    uint64_t first_us, last_us, at_us;
    struct cp_usage_values used;
    uint64_t flagged;               /* reports that were kept for a person */
    char last_flags[64];            /* of the newest of them: "back", "late clone"; "stranger" has no hw_id */
    char report[TB_REPORT_MAX + 1]; /* the newest */
};
/* What was used, added up; a row for each counter of each group. */
enum cp_usage_by { CP_USAGE_BY_CONTRACT, CP_USAGE_BY_MACHINE, CP_USAGE_BY_KEY };
struct cp_usage_query {
    enum cp_usage_by by;
    const char *contract_id; /* "": all */
    bool all_time;           /* whatever was ever counted; else the hours from_hour to to_hour - 1 */
    int64_t from_hour, to_hour;
};
struct cp_usage_sum {
    char contract_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1], asset_id[TB_ID_MAX + 1];
    char counter[CP_COUNTER_NAME_MAX + 1];
    uint64_t used;
};
int cp_store_each_usage_sum(struct cp_store *s, const struct cp_usage_query *q,
                            int (*fn)(const struct cp_usage_sum *, void *), void *ctx);

int cp_store_each_usage(struct cp_store *s, int (*fn)(const struct cp_usage *, void *), void *ctx);

#endif
