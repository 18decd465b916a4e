/* SPDX-License-Identifier: Apache-2.0 */
/* Contracts and assets in the store: what is replaced, what is kept, and whom that would hurt. */
#include "store_testing.h"

struct step {
    const struct cp_contract *contract;
    struct cp_asset *asset;
    const char *id;
    bool replace;
    struct cp_put_how how;
    enum cp_put put;
    uint64_t n;
};

static int do_put_contract(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_put_contract(s, t->contract, t->replace);
}

static int put_contract(struct store_fixture *f, struct cp_contract c, bool replace)
{
    struct step t = {.contract = &c, .replace = replace};

    return cp_store_transact(f->store, do_put_contract, &t);
}

static int do_put_asset(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_put_asset(s, t->asset, &t->how, &t->put, &t->n);
}

static enum cp_put put_asset(struct store_fixture *f, struct cp_asset *a)
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

static int restore_asset(struct store_fixture *f, const char *id)
{
    struct step t = {.id = id};

    return cp_store_transact(f->store, do_restore, &t);
}

static void test_assets_are_replaced_whole(void **state)
{
    struct store_fixture *f = *state;
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
    struct store_fixture *f = *state;
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

/* A new store has a live contract for every asset. */
static void end_contract_allow(struct store_fixture *f)
{
    struct cp_contract c = {.contract_id = "contract-allow", .asset_id = CP_ANY_ASSET, .lease_seconds = 5};

    assert_int_equal(put_contract(f, c, true), 0);
}

/* A version that is kept beside the current one hurts nobody, and is promoted when its time has come. */
static void test_versions_beside_the_current_one(void **state)
{
    struct store_fixture *f = *state;
    struct cp_asset a = {.asset_id = "a", .key_id = "k1", .wrapped.len = 60, .updated_us = NOW}, b;
    struct cp_contract c = {.contract_id = "c", .asset_id = "a", .active = true, .lease_seconds = 5};
    struct step t = {.asset = &a, .how.beside = true};
    uint64_t followers;

    end_contract_allow(f);
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
    struct store_fixture *f = *state;
    struct cp_asset a = {.asset_id = "a", .key_id = "k1", .wrapped.len = 60, .updated_us = NOW}, b;
    struct cp_contract c = {.contract_id = "c", .asset_id = "a", .active = true, .lease_seconds = 5};
    struct step t = {.asset = &a};

    end_contract_allow(f);
    assert_int_equal(put_asset(f, &a), CP_PUT_NEW);
    assert_int_equal(put_contract(f, c, false), 0);
    strcpy(a.key_id, "k2");
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), -EADDRINUSE);
    assert_int_equal(t.n, 1);
    strcpy(c.asset_id, CP_ANY_ASSET); /* a contract for every asset names this one */
    assert_int_equal(put_contract(f, c, true), 0);
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), -EADDRINUSE);
    assert_int_equal(cp_store_delete_asset(f->store, "a", 0, NOW), -EADDRINUSE);
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

struct based {
    struct cp_asset *asset;
    struct cp_base base;
    uint64_t version;
    uint64_t found;
};

static int do_check_base(struct cp_store *s, void *ctx)
{
    struct based *b = ctx;

    return cp_store_check_base(s, b->asset, &b->base);
}

static int do_delete(struct cp_store *s, void *ctx)
{
    struct based *b = ctx;

    return cp_store_delete_asset(s, b->asset->asset_id, b->version, 5);
}

/* Version 1, and version 2 that stands on it. */
static void test_a_base_stays_while_something_stands_on_it(void **state)
{
    struct store_fixture *f = *state;
    struct cp_asset base = {.asset_id = "a",
                            .sha256_ciphertext = "s1",
                            .manifest_sha256 = "m1",
                            .wrapped = {.b = {1}, .len = 1},
                            .key_id = "k1",
                            .updated_us = 10},
                    over = base, got;
    struct based b = {.asset = &over, .base = {1, "m1", "s1"}, .version = 1};
    struct step t = {.asset = &base};

    end_contract_allow(f);
    assert_int_equal(cp_store_transact(f->store, do_check_base, &b), -ENOENT);
    assert_int_equal(put_asset(f, &base), CP_PUT_NEW);
    assert_int_equal(cp_store_transact(f->store, do_check_base, &b), 0);
    strcpy(b.base.manifest_sha256, "m0");
    assert_int_equal(cp_store_transact(f->store, do_check_base, &b), -EBADMSG);
    b.base = (struct cp_base){1, "m1", "s0"};
    assert_int_equal(cp_store_transact(f->store, do_check_base, &b), -EBADMSG);
    b.base = (struct cp_base){1, "m1", "s1"};
    strcpy(over.key_id, "k2");
    assert_int_equal(cp_store_transact(f->store, do_check_base, &b), -EBADMSG);
    strcpy(over.key_id, "k1");
    strcpy(over.sha256_ciphertext, "s2");
    strcpy(over.manifest_sha256, "m2");
    over.base_version = 1;
    assert_int_equal(put_asset(f, &over), CP_PUT_REPLACED);
    assert_int_equal(cp_store_get_asset(f->store, "a", 0, &got), 0);
    assert_int_equal(got.version, 2);
    assert_int_equal(got.base_version, 1);
    b.base = (struct cp_base){2, "m2", "s2"}; /* on which none can stand */
    assert_int_equal(cp_store_transact(f->store, do_check_base, &b), -EBADMSG);
    assert_int_equal(cp_store_find_overlay(f->store, "a", 1, &b.found), 0);
    assert_int_equal(b.found, 2);
    assert_int_equal(cp_store_transact(f->store, do_delete, &b), -ENOTEMPTY);
    strcpy(base.manifest_sha256, "m1b");
    assert_int_equal(cp_store_transact(f->store, do_put_asset, &t), -ENOTEMPTY);
    strcpy(base.manifest_sha256, "m1");
    strcpy(base.ciphertext_url, "https://elsewhere");
    assert_int_equal(put_asset(f, &base), CP_PUT_REPLACED); /* current again, from another place */
    b.version = 2;
    assert_int_equal(cp_store_transact(f->store, do_delete, &b), 0);
    strcpy(base.manifest_sha256, "m1b");
    assert_int_equal(put_asset(f, &base), CP_PUT_SAME);
}

static void test_contracts_are_not_replaced_by_accident(void **state)
{
    struct store_fixture *f = *state;
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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
    const struct CMUnitTest tests[] = {
        T(test_assets_are_replaced_whole),
        T(test_versions_beside_the_current_one),
        T(test_superseded_registrations_come_back),
        T(test_live_contracts_keep_their_key),
        T(test_a_base_stays_while_something_stands_on_it),
        T(test_contracts_are_not_replaced_by_accident),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
