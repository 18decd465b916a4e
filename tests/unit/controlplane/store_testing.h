/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of the control plane's store share: a new store, in a folder of its own. With
 * TBCP_DATABASE=postgresql://... it is that database, whose tables are dropped first:
 * tests/integration/test_controlplane_store.py. */
#ifndef STORE_TESTING_H
#define STORE_TESTING_H

/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "common/io.h"
#include "controlplane/store/datadir.h"
#include "controlplane/store/usage.h"

#define NOW 1767873600000000ULL

struct store_fixture {
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

/* With the contracts that a new store is given. */
static _unused_ void store_fixture_open(struct store_fixture *f)
{
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
}

static _unused_ void store_fixture_close(struct store_fixture *f)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", f->dir);

    f->store = cp_store_close(f->store);
    assert_int_equal(system(cmd), 0);
}

static _unused_ int store_setup(void **state)
{
    struct store_fixture *f = calloc(1, sizeof(*f));

    store_fixture_open(f);
    *state = f;
    return 0;
}

static _unused_ int store_teardown(void **state)
{
    store_fixture_close(*state);
    free(*state);
    return 0;
}

/* -- what was used, of one contract or of all -------------------------------------------------- */
struct billed {
    uint64_t requests, flagged;
    int ledgers;
    const char *contract;
};

static _unused_ int add_billed(const struct cp_usage *u, void *ctx)
{
    struct billed *b = ctx;

    if (b->contract && strcmp(u->contract_id, b->contract) != 0)
        return 0;
    b->ledgers++;
    b->requests += u->used.n ? u->used.v[0].total : 0;
    b->flagged += u->flagged;
    return 0;
}

static _unused_ struct billed billed(struct store_fixture *f, const char *contract)
{
    struct billed b = {.contract = contract};

    assert_int_equal(cp_store_each_usage(f->store, add_billed, &b), 0);
    return b;
}

#endif
