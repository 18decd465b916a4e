/* SPDX-License-Identifier: Apache-2.0 */
/* asset promote, asset restore. */
#include "common/units.h"
#include "controlplane/cmd/cmd.h"

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_asset_promote_options[] = {
    TB_OPTION(0, "version", "N", TB_OPTION_UINT, version,
              "the version (required); `asset list` has the current one", .min = 1, .max = INT64_MAX),
    CP_COMMON_ROWS,
};

static int asset_note(struct cp_store *s, const struct cp_options *o, const char *action, uint64_t version)
{
    char actor[64], text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)version);
    return cp_change(s, tb_now_realtime_us(), cp_actor(actor), action, o->operand, "version", text);
}

static int asset_promote(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    int r = cp_store_promote_asset(s, o->operand, o->version);

    return r < 0 ? r : asset_note(s, o, "asset.promote", o->version);
}

int cp_run_asset_promote(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r;

    if (!o->version)
        return cp_fail(o, TB_EXIT_USAGE, "--version N is missing");
    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, asset_promote, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT,
                       "there is no asset %s with a version %llu; `asset list` names the assets", o->operand,
                       (unsigned long long)o->version);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

static int asset_bring_back(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    uint64_t version;
    int r = cp_store_restore_asset(s, o->operand, &version);

    return r < 0 ? r : asset_note(s, o, "asset.restore", version);
}

int cp_run_asset_restore(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, asset_bring_back, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "no registration of %s was replaced by one with another key",
                       o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}
