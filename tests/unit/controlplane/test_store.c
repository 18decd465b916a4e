/* SPDX-License-Identifier: Apache-2.0 */
/* The store. With TBCP_DATABASE=postgresql://... these same tests run on that database, whose tables they drop:
 * tests/integration/test_controlplane_store.py. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "common/chain.h"
#include "common/io.h"
#include "controlplane/store/datadir.h"
#include "controlplane/store/usage.h"

#define NOW 1767873600000000ULL
#define DAY (86400 * 1000000ULL)

struct fixture {
    char dir[32];
    struct cp_place place;
    struct cp_store *store;
};

static void drop_tables(const char *url)
{
    struct cp_sql *c;
    char err[TB_DB_ERR_MAX];

    if (cp_sql_open(url, &c, err) < 0)
        fail_msg("%s", err);
    assert_int_equal(cp_sql_script(c, "DROP SCHEMA public CASCADE; CREATE SCHEMA public"), 0);
    cp_sql_close(c);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    const char *url = getenv("TBCP_DATABASE");
    char err[CP_ERR_MAX];

    strcpy(f->dir, "/tmp/cp-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(cp_data_place(f->dir, url, &f->place, err), 0);
    if (url)
        drop_tables(url);
    f->place.seed = true;
    if (cp_data_open_store(&f->place, &f->store, err) < 0)
        fail_msg("%s", err);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", f->dir);

    f->store = cp_store_close(f->store);
    assert_int_equal(system(cmd), 0);
    free(f);
    return 0;
}

/* -- what runs in a transaction, each as one --------------------------------------------------- */
struct step {
    const struct cp_contract *contract;
    struct cp_asset *asset;
    const char *id;
    bool replace;
    struct cp_put_how how;
    enum cp_put put;
    uint64_t n, now;
    const struct cp_usage_report *report;
    unsigned flags;
};

static int do_put_contract(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_put_contract(s, t->contract, t->replace);
}

static int put_contract(struct fixture *f, struct cp_contract c, bool replace)
{
    struct step t = {.contract = &c, .replace = replace};

    return cp_store_transact(f->store, do_put_contract, &t);
}

static int do_put_asset(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_put_asset(s, t->asset, &t->how, &t->put, &t->n);
}

static enum cp_put put_asset(struct fixture *f, struct cp_asset *a)
{
    struct step t = {.asset = a, .how.replace = true};

    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), 0);
    return t.put;
}

static int do_restore(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_restore_asset(s, t->id, &t->n);
}

static int restore_asset(struct fixture *f, const char *id)
{
    struct step t = {.id = id};

    return cp_store_transact(f->store, do_restore, &t);
}

static int do_take_slot(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_take_slot(s, t->contract, t->id, "", t->now);
}

static int take_slot(struct fixture *f, const char *contract, const char *hw, uint64_t max_hw, uint64_t now)
{
    struct cp_contract c = {.lease_seconds = 3600, .slot_ttl_s = 86400, .max_hw = max_hw};
    struct step t = {.contract = &c, .id = hw, .now = now};

    strcpy(c.contract_id, contract);
    return cp_store_transact(f->store, do_take_slot, &t);
}

/* -- contracts and assets ----------------------------------------------------------------------- */
static void test_new_database_is_seeded_and_private(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c;
    struct stat st;

    if (!cp_sql_is_url(f->place.where)) {
        assert_int_equal(stat(f->place.where, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), 0);
    assert_true(c.active);
    assert_int_equal(c.mode, CP_MODE_OPEN);
    assert_string_equal(c.asset_id, "*");
    assert_int_equal(cp_store_get_contract(f->store, "contract-deny", NOW, &c), 0);
    assert_false(c.active);
    assert_string_equal(c.reason, "contract_invalid");
    assert_int_equal(cp_store_get_contract(f->store, "contract-none", NOW, &c), -ENOENT);
    assert_int_equal(cp_store_check(f->store), 0);
}

/* Who names a database of their own wants no contract that lets everybody have everything. */
static void test_a_database_of_business_has_no_contracts(void **state)
{
    struct fixture *f = *state;
    const char *url = getenv("TBCP_DATABASE");
    _cleanup_free_ char *path = tb_strf("sqlite:%s/mine.db", f->dir);
    struct cp_contract c;
    char err[CP_ERR_MAX];

    f->store = cp_store_close(f->store);
    if (url)
        drop_tables(url);
    assert_int_equal(cp_data_place(f->dir, url ? url : path, &f->place, err), 0);
    assert_int_equal(cp_data_open_store(&f->place, &f->store, err), 0);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), -ENOENT);
}

static void test_assets_are_replaced_whole(void **state)
{
    struct fixture *f = *state;
    struct cp_asset a = {.asset_id = "a",
                         .ciphertext_url = "https://s/c/1",
                         .manifest_url = "https://s/m/1",
                         .chunk_bytes = 1024,
                         .plaintext_bytes = 9007199254740991ULL,
                         .wrapped = {.kek_id = "kek", .b = {1, 0, 3, 0xff}, .len = 4},
                         .key_id = "k1",
                         .registered_us = 10,
                         .updated_us = 10},
                    b;

    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &b), -ENOENT);
    assert_int_equal(put_asset(f, &a), CP_PUT_NEW);
    strcpy(a.ciphertext_url, "https://s/c/2");
    a.registered_us = a.updated_us = 20;
    assert_int_equal(put_asset(f, &a), CP_PUT_SAME);
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &b), 0);
    assert_string_equal(b.ciphertext_url, "https://s/c/2");
    assert_int_equal(b.plaintext_bytes, 9007199254740991ULL);
    assert_string_equal(b.wrapped.kek_id, "kek");
    assert_int_equal(b.wrapped.len, 4);
    assert_memory_equal(b.wrapped.b, a.wrapped.b, 4);
    assert_int_equal(b.version, 1);
    assert_true(b.current);
    assert_int_equal(b.registered_us, 10);
    assert_int_equal(b.updated_us, 20);
}

/* The only copy of a key may be that of a registration which another one replaced. */
static void test_superseded_registrations_come_back(void **state)
{
    struct fixture *f = *state;
    static const char keys[] = "ABC", back[] = "BACBAC";
    struct cp_asset a = {.asset_id = "s", .chunk_bytes = 1024}, b;

    assert_int_equal(restore_asset(f, "s"), -ENOENT);
    for (size_t i = 0; keys[i]; i++) {
        memset(a.wrapped.b, keys[i], a.wrapped.len = 60);
        snprintf(a.key_id, sizeof(a.key_id), "key-%c", keys[i]);
        a.updated_us = i;
        assert_int_equal(put_asset(f, &a), i ? CP_PUT_REPLACED : CP_PUT_NEW);
    }
    for (size_t i = 0; back[i]; i++) {
        assert_int_equal(restore_asset(f, "s"), 0);
        assert_int_equal(cp_store_get_asset(f->store, "s", 0, &b), 0);
        assert_int_equal(b.wrapped.b[0], back[i]);
    }
    assert_int_equal(restore_asset(f, "other"), -ENOENT);
    strcpy(a.key_id,
           "key-A"); /* registered once more: its version is current again, and there is no fourth */
    assert_int_equal(put_asset(f, &a), CP_PUT_REPLACED);
    assert_int_equal(a.version, 1);
    assert_int_equal(cp_store_get_asset(f->store, "s", 4, &b), -ENOENT);
    assert_int_equal(cp_store_get_asset(f->store, "s", 2, &b), 0);
    assert_false(b.current);
}

/* A version that is kept beside the current one hurts nobody, and is promoted when its time has come. */
static void test_versions_beside_the_current_one(void **state)
{
    struct fixture *f = *state;
    struct cp_asset a = {.asset_id = "a", .key_id = "k1", .wrapped.len = 60, .updated_us = NOW}, b;
    struct cp_contract c = {.contract_id = "c", .asset_id = "a", .active = true, .lease_seconds = 5};
    struct step t = {.asset = &a, .how.beside = true};
    uint64_t followers;

    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), 0);
    assert_int_equal(t.put, CP_PUT_NEW); /* the first one is current, whatever was asked */
    assert_int_equal(put_contract(f, c, false), 0);
    assert_int_equal(cp_store_count_followers(f->store, "a", NOW, &followers), 0);
    assert_int_equal(followers, 1);
    strcpy(a.key_id, "k2");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), 0);
        assert_int_equal(t.put, CP_PUT_BESIDE);
        assert_int_equal(a.version, 2);
    }
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &b), 0);
    assert_string_equal(b.key_id, "k1");
    assert_int_equal(cp_store_promote_asset(f->store, "a", 3), -ENOENT);
    assert_int_equal(cp_store_promote_asset(f->store, "b", 1), -ENOENT);
    assert_int_equal(cp_store_promote_asset(f->store, "a", 2), 0);
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &b), 0);
    assert_string_equal(b.key_id, "k2");
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), 0);
    assert_int_equal(t.put, CP_PUT_SAME);
}

static void test_live_contracts_keep_their_key(void **state)
{
    struct fixture *f = *state;
    struct cp_asset a = {.asset_id = "a", .key_id = "k1", .wrapped.len = 60, .updated_us = NOW}, b;
    struct cp_contract c = {.contract_id = "c", .asset_id = "a", .active = true, .lease_seconds = 5};
    struct step t = {.asset = &a};

    assert_int_equal(put_asset(f, &a), CP_PUT_NEW);
    assert_int_equal(put_contract(f, c, false), 0);
    strcpy(a.key_id, "k2");
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), -EADDRINUSE);
    assert_int_equal(t.n, 1);
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &b), 0);
    assert_string_equal(b.key_id, "k1");
    c.expires_us = NOW; /* it ended */
    assert_int_equal(put_contract(f, c, true), 0);
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), 0);
    assert_int_equal(t.put, CP_PUT_REPLACED);
    c.expires_us = 0;
    c.version = 1; /* one that names the old version goes on with it */
    assert_int_equal(put_contract(f, c, true), 0);
    strcpy(a.key_id, "k3");
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), 0);
    assert_int_equal(cp_store_get_asset(f->store, "a", 1, &b), 0);
    assert_string_equal(b.key_id, "k1");
}

static void test_contracts_are_not_replaced_by_accident(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c = {.contract_id = "contract-allow",
                            .asset_id = "x",
                            .mode = CP_MODE_CERTIFICATE,
                            .active = true,
                            .lease_seconds = 5};

    assert_int_equal(put_contract(f, c, false), -EEXIST);
    assert_int_equal(put_contract(f, c, true), 0);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), 0);
    assert_string_equal(c.asset_id, "x");
    assert_int_equal(c.mode, CP_MODE_CERTIFICATE);
}

static int put_and_fail(struct cp_store *s, void *ctx)
{
    struct cp_contract c = {.contract_id = "new", .asset_id = "x", .active = true, .lease_seconds = 5};

    assert_int_equal(cp_store_put_contract(s, &c, false), 0);
    return -ECANCELED;
}

static void test_rollback_undoes(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c;

    assert_int_equal(cp_store_transact(f->store, put_and_fail, NULL), -ECANCELED);
    assert_int_equal(cp_store_get_contract(f->store, "new", NOW, &c), -ENOENT);
}

/* -- machines ----------------------------------------------------------------------------------- */
static int do_forget(struct cp_store *s, void *ctx)
{
    return cp_store_forget_machines(s, "contract-allow", ((struct step *)ctx)->id);
}

static void test_machines_are_counted(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c;

    assert_int_equal(take_slot(f, "contract-allow", "h1", 2, NOW), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h2", 2, NOW), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h1", 2, NOW + 1), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h3", 2, NOW + 1), -EDQUOT);
    assert_int_equal(take_slot(f, "other", "h3", 2, NOW + 1), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h3", 0, NOW + 1), 0);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW + 1, &c), 0);
    assert_int_equal(c.hw_used, 3);
    assert_int_equal(cp_store_transact(f->store, do_forget, &(struct step){.id = "h2"}), 1);
    assert_int_equal(cp_store_transact(f->store, do_forget, &(struct step){0}), 2);
    assert_int_equal(take_slot(f, "contract-allow", "h9", 1, NOW + 1), 0);
}

/* -- what machines hold ------------------------------------------------------------------------ */
struct hold {
    uint64_t current, held;
    bool allowed;
};

static int do_hold(struct cp_store *s, void *ctx)
{
    struct hold *h = ctx;
    struct cp_asset a = {.asset_id = "a", .version = h->current};

    return cp_store_hold_versions(s, "contract-allow", "h1", &a, h->held, &h->allowed);
}

static bool may_hold(struct fixture *f, uint64_t current, uint64_t held)
{
    struct hold h = {.current = current, .held = held};

    assert_int_equal(cp_store_transact(f->store, do_hold, &h), 0);
    return h.allowed;
}

static void test_a_machine_may_hold_what_it_was_given(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(take_slot(f, "contract-allow", "h1", 2, NOW), 0);
    assert_false(may_hold(f, 2, 1)); /* never given to it */
    assert_false(may_hold(f, 2, 0));
    assert_false(may_hold(f, 3, 3));
    assert_false(may_hold(f, 4, 2)); /* it has said that it serves 3 */
    assert_true(may_hold(f, 4, 3));
    assert_false(may_hold(f, 5, 0)); /* says nothing, as before the disk is there: nothing is forgotten */
    assert_true(may_hold(f, 5, 3));
    assert_true(may_hold(f, 3, 5)); /* a rollback in the middle */
    assert_false(may_hold(f, 3, 3));
    assert_false(may_hold(f, 3, 5));
    assert_false(may_hold(f, 4, 0));
    assert_int_equal(cp_store_transact(f->store, do_forget, &(struct step){.id = "h1"}), 1);
    assert_false(may_hold(f, 4, 3));
}

/* An autoscaled set never ends: a machine that is gone makes room, one that renews does not lose its place. */
static void test_slots_come_free(void **state)
{
    struct fixture *f = *state;
    struct cp_contract c;

    assert_int_equal(take_slot(f, "contract-allow", "h1", 1, NOW), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h2", 1, NOW + DAY), -EDQUOT); /* lease and ttl: 25 h */
    assert_int_equal(take_slot(f, "contract-allow", "h1", 1, NOW + DAY), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h2", 1, NOW + DAY + 3600 * 1000000ULL), -EDQUOT);
    assert_int_equal(take_slot(f, "contract-allow", "h2", 1, NOW + 3 * DAY), 0);
    assert_int_equal(take_slot(f, "contract-allow", "h1", 1, NOW + 3 * DAY), -EDQUOT);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW + 3 * DAY, &c), 0);
    assert_int_equal(c.hw_used, 1);
}

/* -- many at once ------------------------------------------------------------------------------- */
#define RACERS 4
#define SLOTS 5
#define TRIES 12

struct racer {
    struct cp_place *place;
    int id, taken, turned_away;
};

static void *race(void *arg)
{
    struct racer *r = arg;
    struct fixture f = {.store = NULL};
    char err[CP_ERR_MAX], hw[32];

    if (cp_data_open_store(r->place, &f.store, err) < 0)
        return NULL;
    for (int i = 0; i < TRIES; i++) {
        int got;

        snprintf(hw, sizeof(hw), "r%d-%d", r->id, i);
        got = take_slot(&f, "contract-allow", hw, SLOTS, NOW);
        r->taken += got == 0;
        r->turned_away += got == -EDQUOT;
    }
    cp_store_close(f.store);
    return NULL;
}

static void test_racing_machines_take_no_slot_too_many(void **state)
{
    struct fixture *f = *state;
    struct racer racers[RACERS] = {0};
    pthread_t threads[RACERS];
    int taken = 0, turned_away = 0;

    for (int i = 0; i < RACERS; i++) {
        racers[i] = (struct racer){.place = &f->place, .id = i};
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) {
        pthread_join(threads[i], NULL);
        taken += racers[i].taken;
        turned_away += racers[i].turned_away;
    }
    assert_int_equal(taken, SLOTS);
    assert_int_equal(turned_away, RACERS * TRIES - SLOTS); /* none gave up */
}

/* -- logs --------------------------------------------------------------------------------------- */
static int count_log(const struct cp_log_entry *e, void *ctx)
{
    uint64_t *seen = ctx;

    assert_int_equal(e->at_us, seen[1] + 1); /* oldest first, no gap */
    seen[0]++;
    seen[1]++;
    return 0;
}

static int do_log(struct cp_store *s, void *ctx)
{
    return cp_store_add_log(s, ctx);
}

static void test_log_gives_the_newest(void **state)
{
    struct fixture *f = *state;
    uint64_t seen[2] = {0, 7};

    for (uint64_t i = 1; i <= 10; i++) {
        struct cp_log_entry e = {.at_us = i, .contract_id = "c", .asset_id = "a", .hw_id = "h", .peer = "p"};

        assert_int_equal(cp_store_transact(f->store, do_log, &e), 0);
    }
    assert_int_equal(cp_store_each_log(f->store, 3, count_log, seen), 0);
    assert_int_equal(seen[0], 3);
    assert_int_equal(seen[1], 10);
}

static int do_change(struct cp_store *s, void *ctx)
{
    return cp_change(s, NOW, "cli:me", "contract.add", "c", "state", "a \"b\"", "absent", NULL);
}

static int follow_chain(const char *line, void *ctx)
{
    struct tb_chain_point *p = ctx;
    struct tb_chain_entry e;
    char err[TB_CHAIN_ERR_MAX];

    assert_int_equal(tb_chain_parse(line, strlen(line), &e, err), 0);
    assert_int_equal(e.seq, p->seq + 1);
    assert_true(tb_chain_hash_equal(e.prev, p->hash));
    assert_null(strstr(line, "absent"));
    p->seq = e.seq;
    return tb_chain_hash(line, strlen(line), p->hash);
}

static void test_changes_are_a_chain(void **state)
{
    struct fixture *f = *state;
    struct tb_chain_point p = {0};

    for (int i = 0; i < 3; i++)
        assert_int_equal(cp_store_transact(f->store, do_change, NULL), 0);
    assert_int_equal(cp_store_each_change(f->store, 1, follow_chain, &p), 0);
    assert_int_equal(p.seq, 4); /* the first tells of the two contracts of a new database */
}

/* -- usage -------------------------------------------------------------------------------------- */
static int do_take_usage(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_take_usage(s, t->report, &t->flags);
}

static unsigned report(struct fixture *f, const char *contract, const char *hw, const char *ledger,
                       uint64_t at_us, uint64_t requests)
{
    static struct cp_usage_report u;
    struct step t = {.report = &u};

    u = (struct cp_usage_report){.asset_id = "a", .at_us = at_us, .received_us = NOW, .text = "{}"};
    strcpy(u.contract_id, contract);
    strcpy(u.hw_id, hw);
    strcpy(u.ledger, ledger);
    u.used.n = 1;
    strcpy(u.used.v[0].name, "requests");
    u.used.v[0].total = requests;
    u.n_hours = 1;
    u.hours[0].hour = 5;
    u.hours[0].used = u.used;
    assert_int_equal(cp_store_transact(f->store, do_take_usage, &t), 0);
    return t.flags;
}

struct billed {
    uint64_t requests, flagged;
    int ledgers;
    const char *contract;
};

static int add_billed(const struct cp_usage *u, void *ctx)
{
    struct billed *b = ctx;

    if (b->contract && strcmp(u->contract_id, b->contract) != 0)
        return 0;
    b->ledgers++;
    b->requests += u->used.n ? u->used.v[0].total : 0;
    b->flagged += u->flagged;
    return 0;
}

static struct billed billed(struct fixture *f, const char *contract)
{
    struct billed b = {.contract = contract};

    assert_int_equal(cp_store_each_usage(f->store, add_billed, &b), 0);
    return b;
}

static void test_usage_only_grows(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(report(f, "c", "h", "l1", 10, 1000), 0);
    assert_int_equal(report(f, "c", "h", "l1", 10, 1000), 0); /* the same once more: an answer was lost */
    assert_int_equal(report(f, "c", "h", "l2", 20, 5), 0);    /* reimaged: a new ledger */
    assert_int_equal(billed(f, "c").requests, 1005);
    assert_int_equal(report(f, "c", "h", "l1", 30, 400), CP_USAGE_BACK); /* a disk that was set back */
    assert_int_equal(billed(f, "c").requests, 1005);
    assert_int_equal(report(f, "c", "h", "l1", 40, 1001), 0);
    assert_int_equal(report(f, "c", "h", "l1", 35, 500), CP_USAGE_LATE);
    assert_int_equal(billed(f, "c").requests, 1006);
    assert_int_equal(billed(f, "c").flagged, 2);
    assert_int_equal(billed(f, "c").ledgers, 2);
}

static void test_usage_is_counted_once_wherever_a_ledger_goes(void **state)
{
    struct fixture *f = *state;

    report(f, "c", "h", "l1", 10, 1000);
    assert_int_equal(report(f, "d", "h", "l1", 20, 1010), 0); /* the machine serves another contract now */
    assert_int_equal(billed(f, "c").requests, 1000);
    assert_int_equal(billed(f, "d").requests, 10);
    assert_int_equal(report(f, "c", "h9", "l1", 30, 1100), CP_USAGE_CLONE);
    assert_int_equal(report(f, "c", "h9", "l1", 40, 1150), 0); /* said once */
    assert_int_equal(billed(f, "c").requests, 1000 + 140);
    assert_int_equal(report(f, "c", "h", "", 10, 7), 0); /* from before ledgers had ids */
    assert_int_equal(report(f, "c", "h9", "", 10, 7), 0);
    assert_int_equal(billed(f, "c").requests, 1154);
}

/* -- what is opened ----------------------------------------------------------------------------- */
static void set_schema_version(struct fixture *f)
{
    struct cp_sql *c;
    char err[TB_DB_ERR_MAX];

    f->store = cp_store_close(f->store);
    assert_int_equal(cp_sql_open(f->place.where, &c, err), 0);
    assert_int_equal(cp_sql_run(c, "UPDATE schema_version SET version=99", ""), 1);
    cp_sql_close(c);
}

static void test_database_of_another_version_is_refused(void **state)
{
    struct fixture *f = *state;
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    set_schema_version(f);
    assert_true(cp_data_open_store(&f->place, &s, err) < 0);
    assert_non_null(strstr(err, "later version"));
}

static void test_damaged_database_is_named(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, CP_DB_FILE);
    struct cp_place place;
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    f->store = cp_store_close(f->store);
    assert_int_equal(tb_write_file_atomic(
                         path, "this is no database at all, but long enough to be looked at....", 64, 0600),
                     0);
    assert_int_equal(cp_data_place(f->dir, NULL, &place, err), 0);
    assert_true(cp_data_open_store(&place, &s, err) < 0);
    assert_non_null(strstr(err, path));
}

/* A password stands in the URL. */
static void test_a_bad_url_is_not_quoted(void **state)
{
    struct cp_place place = {.where = "postgresql://me:s3cret@[oops/db"};
    struct cp_store *s = NULL;
    char err[CP_ERR_MAX] = "";

    assert_int_equal(cp_data_open_store(&place, &s, err), -EINVAL);
    assert_null(strstr(err, "s3cret"));
    strcpy(place.where, "postgresql://me:s3cret@127.0.0.1:1/db");
    assert_int_equal(cp_data_open_store(&place, &s, err), -ENOTCONN);
    assert_null(strstr(err, "s3cret"));
}

static const char before_numbers[] =
    "CREATE TABLE assets(asset_id TEXT PRIMARY KEY, ciphertext_url TEXT NOT NULL, manifest_url TEXT NOT NULL,"
    " chunk_bytes INTEGER NOT NULL, plaintext_bytes INTEGER NOT NULL, sha256_ciphertext TEXT NOT NULL,"
    " manifest_sha256 TEXT NOT NULL, wrapped_key BLOB NOT NULL, registered_us INTEGER NOT NULL,"
    " updated_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE contracts(contract_id TEXT PRIMARY KEY, asset_id TEXT NOT NULL, active INTEGER NOT NULL,"
    " reason TEXT NOT NULL, expires_us INTEGER NOT NULL, lease_seconds INTEGER NOT NULL,"
    " max_hw INTEGER NOT NULL, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT, WITHOUT "
    "ROWID;"
    "CREATE TABLE machines(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, contract_id TEXT NOT "
    "NULL,"
    " asset_id TEXT NOT NULL, hw_id TEXT NOT NULL, peer TEXT NOT NULL, client_name TEXT NOT NULL,"
    " authorized INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;"
    "CREATE TABLE usage(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, asset_id TEXT NOT NULL,"
    " at_us INTEGER NOT NULL, report TEXT NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE superseded(id INTEGER PRIMARY KEY, asset_id TEXT NOT NULL, ciphertext_url TEXT NOT NULL,"
    " manifest_url TEXT NOT NULL, chunk_bytes INTEGER NOT NULL, plaintext_bytes INTEGER NOT NULL,"
    " sha256_ciphertext TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, wrapped_key BLOB NOT NULL,"
    " registered_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT;"
    "INSERT INTO assets VALUES('a','https://s/c/3','https://s/m/3',1024,5,'h3','',x'03',1,3);"
    "INSERT INTO superseded VALUES(7,'a','https://s/c/1','https://s/m/1',1024,5,'h1','',x'01',1,1);"
    "INSERT INTO superseded VALUES(9,'a','https://s/c/2','https://s/m/2',1024,5,'h2','',x'02',1,2);"
    "INSERT INTO contracts VALUES('mine','a',1,'',0,60,3,1,1);"
    "INSERT INTO machines VALUES('mine','h',1767873600000000,1767873600000000);"
    "INSERT INTO log(at_us, contract_id, asset_id, hw_id, peer, client_name, authorized, reason)"
    " VALUES(1,'mine','a','h','p','',1,'');"
    "INSERT INTO usage VALUES('mine','h','a',5,'{\"used\":{\"requests\":12}}');"
    "INSERT INTO usage VALUES('mine','more','a',5,"
    "'{\"used\":{\"requests\":99999999999999999999,\"errors\":-3,\"x\":\"y\"}}');"
    "INSERT INTO usage VALUES('mine','none','a',5,'not JSON'),('mine','odd','a',5,'{\"used\":7}');"
    "PRAGMA user_version=1";

static void test_a_database_from_before_numbers_is_taken_over(void **state)
{
    struct fixture *f = *state;
    _cleanup_free_ char *path = tb_path_join(f->dir, "old.db");
    struct cp_place place = {0};
    struct cp_contract c;
    struct cp_asset a;
    uint64_t seen[2] = {0, 0};
    char err[TB_DB_ERR_MAX];
    struct cp_sql *old;

    f->store = cp_store_close(f->store);
    assert_int_equal(cp_sql_open(path, &old, err), 0);
    assert_int_equal(cp_sql_script(old, before_numbers), 0);
    cp_sql_close(old);
    snprintf(place.where, sizeof(place.where), "%s", path);
    if (cp_store_open(path, true, &f->store, err) < 0)
        fail_msg("%s", err);
    for (uint8_t v = 1; v <= 3; v++) {
        assert_int_equal(cp_store_get_asset(f->store, "a", v, &a), 0);
        assert_int_equal(a.wrapped.b[0], v);
        assert_int_equal(a.current, v == 3);
    }
    assert_int_equal(cp_store_get_contract(f->store, "mine", NOW, &c), 0);
    assert_int_equal(c.max_hw, 3);
    assert_int_equal(c.hw_used, 1);
    assert_int_equal(cp_store_get_contract(f->store, "contract-allow", NOW, &c), -ENOENT); /* not added */
    assert_int_equal(cp_store_each_log(f->store, 9, count_log, seen), 0);
    assert_int_equal(seen[0], 1);
    assert_int_equal(billed(f, "mine").requests, 12);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_new_database_is_seeded_and_private),
        T(test_a_database_of_business_has_no_contracts),
        T(test_assets_are_replaced_whole),
        T(test_versions_beside_the_current_one),
        T(test_superseded_registrations_come_back),
        T(test_live_contracts_keep_their_key),
        T(test_contracts_are_not_replaced_by_accident),
        T(test_rollback_undoes),
        T(test_machines_are_counted),
        T(test_a_machine_may_hold_what_it_was_given),
        T(test_slots_come_free),
        T(test_racing_machines_take_no_slot_too_many),
        T(test_log_gives_the_newest),
        T(test_changes_are_a_chain),
        T(test_usage_only_grows),
        T(test_usage_is_counted_once_wherever_a_ledger_goes),
        T(test_database_of_another_version_is_refused),
        T(test_damaged_database_is_named),
        cmocka_unit_test(test_a_bad_url_is_not_quoted),
        T(test_a_database_from_before_numbers_is_taken_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
