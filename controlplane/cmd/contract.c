/* SPDX-License-Identifier: Apache-2.0 */
/* contract add, allow, deny, revoke, shorten, unbind; asset restore. Each change is one transaction beside
 * the running server, which reads contracts afresh for each request. */
#include <string.h>

#include "controlplane/cmd/cmd.h"
#include "common/units.h"

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_contract_add_options[] = {
    TB_OPTION(0, "asset", "ID", TB_OPTION_STRING, asset,
              "the asset the contract is for; \"*\" is every asset (required)"),
    CP_END_ROWS,
    CP_LEASE_ROW,
    TB_OPTION(0, "max-hw", "N", TB_OPTION_UINT, max_hw, "at most N different machines (default: any number)",
              .min = 1, .max = 1000000),
    TB_OPTION(0, "replace", NULL, TB_OPTION_FLAG, replace, "change the contract if it exists"),
    CP_COMMON_ROWS,
};
const struct tb_option cp_contract_deny_options[] = {
    TB_OPTION(0, "reason", "WORD", TB_OPTION_STRING, reason,
              "what the consumer is told (default contract_inactive)"),
    CP_COMMON_ROWS,
};
const struct tb_option cp_contract_shorten_options[] = {CP_END_ROWS, CP_LEASE_ROW, CP_COMMON_ROWS};

int cp_run_contract_add(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    uint64_t now = tb_now_realtime_us();
    struct cp_contract c = {.active = true,
                            .expires_us = o->expires_us,
                            .lease_seconds = o->lease_seconds ? o->lease_seconds : CP_LEASE_SECONDS_DEFAULT,
                            .max_hw = o->max_hw,
                            .created_us = now,
                            .updated_us = now};
    int r;

    if (!o->asset)
        return cp_fail(o, TB_EXIT_USAGE, "--asset ID is missing; \"*\" is every asset");
    if (strcmp(o->asset, CP_ANY_ASSET) != 0 && !tb_id_valid(o->asset))
        return cp_fail(o, TB_EXIT_USAGE,
                       "--asset \"%s\" does not match ^[A-Za-z0-9_-]{1,100}$ and is not \"*\"", o->asset);
    strcpy(c.contract_id, o->operand);
    strcpy(c.asset_id, o->asset);
    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_put_contract(s, &c, o->replace);
    if (r == -EEXIST)
        return cp_fail(o, TB_EXIT_USAGE, "contract %s exists; --replace changes it", o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

/* Reads, changes and writes one contract in a transaction. change returns -1 to go on, else an exit code. */
static int contract_edit(const struct cp_options *o,
                         int (*change)(const struct cp_options *o, struct cp_contract *c))
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct cp_contract c;
    int r, code;

    code = cp_open(o, &s);
    if (code != 0)
        return code;
    r = cp_store_begin(s);
    if (r < 0)
        return cp_fail_store(o, s, r);
    r = cp_store_get_contract(s, o->operand, &c);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no contract %s; `contract list` names them", o->operand);
    if (r < 0)
        return cp_fail_store(o, s, r);
    code = change(o, &c);
    if (code >= 0)
        return code;
    c.updated_us = tb_now_realtime_us();
    r = cp_store_put_contract(s, &c, true);
    if (r == 0)
        r = cp_store_commit(s);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

static void contract_refuse(struct cp_contract *c, const char *reason)
{
    c->active = false;
    snprintf(c->reason, sizeof(c->reason), "%s", reason);
}

static int contract_change_allow(const struct cp_options *o, struct cp_contract *c)
{
    c->active = true;
    c->reason[0] = '\0';
    return -1;
}

static int contract_change_deny(const struct cp_options *o, struct cp_contract *c)
{
    contract_refuse(c, o->reason ? o->reason : "contract_inactive");
    return -1;
}

static int contract_change_revoke(const struct cp_options *o, struct cp_contract *c)
{
    contract_refuse(c, "contract_revoked");
    return -1;
}

static int contract_change_shorten(const struct cp_options *o, struct cp_contract *c)
{
    if (o->lease_seconds > c->lease_seconds)
        return cp_fail(o, TB_EXIT_USAGE,
                       "the leases of %s last %llu s already; `contract add --replace` can make them longer",
                       o->operand, (unsigned long long)c->lease_seconds);
    if (o->expires_us && c->expires_us && o->expires_us > c->expires_us)
        return cp_fail(o, TB_EXIT_USAGE,
                       "contract %s ends before that already; `contract add --replace` can make it longer",
                       o->operand);
    if (o->lease_seconds)
        c->lease_seconds = o->lease_seconds;
    if (o->expires_us)
        c->expires_us = o->expires_us;
    return -1;
}

int cp_run_contract_allow(const struct cp_options *o)
{
    return contract_edit(o, contract_change_allow);
}

int cp_run_contract_deny(const struct cp_options *o)
{
    if (o->reason && !tb_id_valid(o->reason))
        return cp_fail(o, TB_EXIT_USAGE, "--reason is one word of letters, digits, _ and -");
    return contract_edit(o, contract_change_deny);
}

int cp_run_contract_revoke(const struct cp_options *o)
{
    return contract_edit(o, contract_change_revoke);
}

int cp_run_contract_shorten(const struct cp_options *o)
{
    if (!o->lease_seconds && !o->expires_us)
        return cp_fail(o, TB_EXIT_USAGE, "give --lease-seconds, --expires or --expires-in");
    return contract_edit(o, contract_change_shorten);
}

int cp_run_contract_unbind(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r;

    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_unbind_hw(s, o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

int cp_run_asset_restore(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_restore_asset(s, o->operand);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "no registration of %s was replaced by one with another key",
                       o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}
