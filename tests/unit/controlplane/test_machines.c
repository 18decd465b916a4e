/* SPDX-License-Identifier: Apache-2.0 */
/* Machines in the store: slots of a contract, which versions a machine may hold, many machines at once. */
#include "store_testing.h"
#include <pthread.h>

#define DAY (86400 * 1000000ULL)

struct step {
    const struct cp_contract *contract;
    const char *id;
    uint64_t now;
};

static int do_take_slot(struct cp_store *s, void *ctx)
{
    struct step *t = ctx;

    return cp_store_take_slot(s, t->contract, t->id, "", t->now);
}

static int take_slot(struct store_fixture *f, const char *contract, const char *hw, uint64_t max_hw,
                     uint64_t now)
{
    struct cp_contract c = {.lease_seconds = 3600, .slot_ttl_s = 86400, .max_hw = max_hw};
    struct step t = {.contract = &c, .id = hw, .now = now};

    strcpy(c.contract_id, contract);
    return cp_store_transact(f->store, do_take_slot, &t);
}

static int do_forget(struct cp_store *s, void *ctx)
{
    return cp_store_forget_machines(s, "contract-allow", ((struct step *)ctx)->id);
}

static void test_machines_are_counted(void **state)
{
    struct store_fixture *f = *state;
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

/* An autoscaled set never ends: a machine that is gone makes room, one that renews keeps its place. */
static void test_slots_come_free(void **state)
{
    struct store_fixture *f = *state;
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

/* -- what machines hold -------------------------------------------------------------------------- */
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

static bool may_hold(struct store_fixture *f, uint64_t current, uint64_t held)
{
    struct hold h = {.current = current, .held = held};

    assert_int_equal(cp_store_transact(f->store, do_hold, &h), 0);
    return h.allowed;
}

static void test_a_machine_may_hold_what_it_was_given(void **state)
{
    struct store_fixture *f = *state;

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

/* -- many at once -------------------------------------------------------------------------------- */
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
    struct store_fixture f = {.store = NULL};
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
    struct store_fixture *f = *state;
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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)
    const struct CMUnitTest tests[] = {
        T(test_machines_are_counted),
        T(test_a_machine_may_hold_what_it_was_given),
        T(test_slots_come_free),
        T(test_racing_machines_take_no_slot_too_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
