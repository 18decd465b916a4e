/* SPDX-License-Identifier: Apache-2.0 */
/* kek create, check, list, rewrap; and the keyring of every command that needs one. */
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "controlplane/cmd/cmd.h"

#define KEK_PROGRESS_US (2 * TB_USEC_PER_SEC)

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_kek_options[] = {CP_KEK_ROWS, CP_COMMON_ROWS};

static int kek_exit(int r)
{
    if (r == -EINVAL)
        return TB_EXIT_USAGE;
    if (r == -EAGAIN)
        return TB_EXIT_TEMPFAIL;
    return r == -ENOMEM || r == -EIO ? TB_EXIT_IOERR : TB_EXIT_CONFIG;
}

static int kek_fail(const struct cp_options *o, int r, const char *kek, const char *err)
{
    return cp_fail(o, kek_exit(r), "%.*s: %s", (int)strcspn(kek, "?"), kek, *err ? err : strerror(-r));
}

/* DIR/master.key. make: when it is missing. *ret stays NULL when it is missing. */
static int kek_open_master(const struct cp_options *o, bool make, struct cp_keyring **ret)
{
    _cleanup_free_ char *path = tb_path_join(o->data, CP_MASTER_FILE);
    _cleanup_key_ struct tb_key master;
    char err[CP_ERR_MAX] = "out of memory";
    int r;

    if (!path)
        return cp_fail(o, TB_EXIT_IOERR, "out of memory");
    if (!make && access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    r = cp_data_secret(o->data, CP_MASTER_FILE, &master, err);
    if (r == 0)
        r = cp_keyring_open_file(&master, ret);
    return r < 0 ? cp_fail(o, TB_EXIT_CONFIG, "%s", err) : 0;
}

static int kek_join(const struct cp_options *o, struct cp_keyring *k, struct cp_keyring *older)
{
    if (!older || cp_keyring_join(k, older) == 0)
        return 0;
    cp_keyring_close(older);
    return cp_fail(o, TB_EXIT_USAGE, "too many --kek-old");
}

static int kek_join_old(const struct cp_options *o, const struct cp_keyring_access *a, struct cp_keyring *k)
{
    struct cp_keyring *old;
    char err[CP_KEYRING_ERR_MAX];
    int r;

    for (size_t i = 0; i < o->keks_old.n; i++) {
        old = NULL;
        *err = '\0';
        r = cp_keyring_open(o->keks_old.v[i], a, &old, err);
        if (r < 0)
            return kek_fail(o, r, o->keks_old.v[i], err);
        r = kek_join(o, k, old);
        if (r != 0)
            return r;
    }
    old = NULL;
    r = o->kek ? kek_open_master(o, false, &old) : 0;
    return r != 0 ? r : kek_join(o, k, old);
}

int cp_open_keyring(const struct cp_options *o, struct cp_keyring **ret)
{
    const struct cp_keyring_access a = {
        .tls.ca_file = o->kek_ca_file, .client_id = o->kek_client_id, .token_file = o->kek_token_file};
    _cleanup_keyring_ struct cp_keyring *k = NULL;
    char err[CP_KEYRING_ERR_MAX] = "";
    int r;

    if (o->kek) {
        r = cp_keyring_open(o->kek, &a, &k, err);
        if (r < 0)
            return kek_fail(o, r, o->kek, err);
    } else {
        r = kek_open_master(o, true, &k);
        if (r != 0)
            return r;
    }
    r = kek_join_old(o, &a, k);
    if (r != 0)
        return r;
    *ret = TAKE_PTR(k);
    return 0;
}

int cp_run_kek_create(const struct cp_options *o)
{
    char id[CP_KEK_ID_MAX + 1], err[CP_KEYRING_ERR_MAX];
    int r;

    if (!o->kek || strncmp(o->kek, "pkcs11:", 7) != 0)
        return cp_fail(
            o, TB_EXIT_USAGE,
            "--kek pkcs11:... is missing; in Key Vault and in a transit engine keys are made by their tools");
    r = cp_kek_create_pkcs11(o->kek, id, err);
    if (r < 0)
        return kek_fail(o, r, o->kek, err);
    puts(id);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

int cp_run_kek_check(const struct cp_options *o)
{
    _cleanup_keyring_ struct cp_keyring *k = NULL;
    char id[CP_KEK_ID_MAX + 1];
    int r = cp_open_keyring(o, &k);

    if (r != 0)
        return r;
    r = cp_keyring_check(k, id);
    if (r < 0)
        return cp_fail(o, kek_exit(r), "the key-encryption key does not wrap and unwrap: %s", strerror(-r));
    puts(id);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

static int kek_show(const char *kek_id, uint64_t versions, void *ctx)
{
    cJSON *array = ctx, *row;

    if (!array) {
        printf("%7llu %s\n", (unsigned long long)versions,
               *kek_id ? kek_id : "file: (written before keys had ids)");
        return 0;
    }
    row = cJSON_CreateObject();
    if (!row || !cJSON_AddItemToArray(array, row))
        return -ENOMEM;
    cJSON_AddStringToObject(row, "kek_id", kek_id);
    tb_json_add_uint(row, "versions", versions);
    return 0;
}

int cp_run_kek_list(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_json_ cJSON *array = o->json ? cJSON_CreateArray() : NULL;
    _cleanup_free_ char *text = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    if (!o->json)
        printf("%7s %s\n", "KEYS", "UNDER");
    r = cp_store_each_kek(s, kek_show, array);
    if (r < 0)
        return cp_fail_store(o, s, r);
    if (o->json) {
        text = cJSON_Print(array);
        if (!text)
            return cp_fail(o, TB_EXIT_IOERR, "out of memory");
        puts(text);
    }
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

/* -- rewrap ------------------------------------------------------------------------------------ */

struct rewrap {
    struct cp_asset from;
    struct cp_wrapped to;
};

static int kek_rewrap_store(struct cp_store *s, void *ctx)
{
    const struct rewrap *w = ctx;
    char actor[64], version[24];
    int r = cp_store_rewrap_asset(s, &w->from, &w->to);

    snprintf(version, sizeof(version), "%llu", (unsigned long long)w->from.version);
    return r < 0 ? r
                 : cp_change(s, tb_now_realtime_us(), cp_actor(actor), "asset.rewrap", w->from.asset_id,
                             "version", version, "from", w->from.wrapped.kek_id, "to", w->to.kek_id);
}

static int kek_rewrap_one(const struct cp_options *o, struct cp_store *s, struct cp_keyring *k,
                          struct rewrap *w)
{
    _cleanup_key_ struct tb_key key;
    int r = cp_keyring_unwrap(k, w->from.asset_id, &w->from.wrapped, &key);

    if (r == -ENOKEY)
        return cp_fail(o, TB_EXIT_CONFIG,
                       "asset %s version %llu is under %s, which is neither --kek nor a --kek-old",
                       w->from.asset_id, (unsigned long long)w->from.version, w->from.wrapped.kek_id);
    if (r == 0)
        r = cp_keyring_wrap(k, w->from.asset_id, &key, &w->to);
    if (r < 0)
        return cp_fail(o, kek_exit(r), "asset %s version %llu: the key does not open: %s", w->from.asset_id,
                       (unsigned long long)w->from.version, strerror(-r));
    r = cp_store_transact(s, kek_rewrap_store, w);
    /* -ESTALE: somebody else wrapped it anew meanwhile; it comes again if that was under another KEK */
    return r < 0 && r != -ESTALE ? cp_fail_store(o, s, r) : 0;
}

/* One pass over all that is not under kek_id. */
static int kek_rewrap_pass(const struct cp_options *o, struct cp_store *s, struct cp_keyring *k,
                           const char *kek_id, uint64_t *done)
{
    uint64_t told_us = tb_now_monotonic_us();
    struct cp_asset after = {0};
    struct rewrap w;
    int r;

    while ((r = cp_store_next_other_kek(s, kek_id, &after, &w.from)) == 0) {
        after = w.from;
        r = kek_rewrap_one(o, s, k, &w);
        if (r != 0)
            return r;
        ++*done;
        if (tb_now_monotonic_us() - told_us >= KEK_PROGRESS_US) {
            fprintf(stderr, "%llu keys wrapped anew, at asset %s\n", (unsigned long long)*done,
                    after.asset_id);
            told_us = tb_now_monotonic_us();
        }
    }
    return r == -ENOENT ? 0 : cp_fail_store(o, s, r);
}

int cp_run_kek_rewrap(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_keyring_ struct cp_keyring *k = NULL;
    char id[CP_KEK_ID_MAX + 1];
    uint64_t done = 0, before;
    int r = cp_open_keyring(o, &k);

    if (r == 0)
        r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_keyring_check(k, id);
    if (r < 0)
        return cp_fail(o, kek_exit(r), "the new key-encryption key does not wrap and unwrap: %s",
                       strerror(-r));
    do { /* until a pass finds none: what a server with the old setting wrapped meanwhile comes too */
        before = done;
        r = kek_rewrap_pass(o, s, k, id, &done);
    } while (r == 0 && done > before);
    if (r != 0)
        return r;
    printf("%llu keys wrapped anew; every key is under %s\n", (unsigned long long)done, id);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}
