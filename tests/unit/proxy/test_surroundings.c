/* SPDX-License-Identifier: Apache-2.0 */
/* A look at the disks that does not come back while the process ends. The disks are the test's: statvfs() below. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/statvfs.h>

#include <cmocka.h>

#include "common/units.h"
#include "proxy/admin/surroundings.h"

static pthread_t tester;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool hangs, held; /* looks of other threads are to hang; one does */
static uint64_t blocks_free;
static char root[] = "/", file[] = "/audit.jsonl";

int statvfs(const char *restrict path, struct statvfs *restrict ret)
{
    pthread_mutex_lock(&lock);
    while (hangs && !pthread_equal(pthread_self(), tester)) {
        held = true;
        pthread_cond_broadcast(&changed);
        pthread_cond_wait(&changed, &lock);
    }
    *ret = (struct statvfs){.f_frsize = 4096, .f_blocks = 1 << 20, .f_bfree = blocks_free};
    ret->f_bavail = ret->f_bfree;
    pthread_mutex_unlock(&lock);
    return 0;
}

static void test_a_look_that_hangs_at_the_end(void **state)
{
    struct tb_config config = {.state_dir = root, .run_dir = root, .target_dir = root, .audit_file = file};
    struct tb_surroundings s = {.config = &config};
    const struct tb_audit_config audit = {.contract_id = "c", .asset_id = "a", .queue = 1};
    char why[TB_AUDIT_TROUBLE_MAX];

    tester = pthread_self();
    hangs = true;
    blocks_free = 1 << 19;
    assert_int_equal(tb_audit_open(&audit, &s.audit), 0);
    assert_int_equal(tb_surroundings_start(&s), 0);
    pthread_mutex_lock(&lock);
    while (!held)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    tb_surroundings_ask_stop(&s);
    assert_true(s.stop_us > 0);
    assert_false(tb_surroundings_stop(&s)); /* given up */
    pthread_mutex_lock(&lock);
    hangs = false;
    blocks_free = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    assert_int_equal(pthread_join(s.thread, NULL), 0);
    assert_true(tb_place_is_full(&s.seen.places[TB_PLACE_AUDIT])); /* it did look */
    assert_false(tb_audit_trouble(s.audit, why));                  /* and left the audit alone */
    assert_int_equal(tb_audit_close(s.audit, 1000), 0);
}

static void test_between_looks_it_ends_at_once(void **state)
{
    struct tb_config config = {.state_dir = root, .run_dir = root, .target_dir = root};
    struct tb_surroundings s = {.config = &config};
    const struct tb_audit_config audit = {.contract_id = "c", .asset_id = "a", .queue = 1};

    tester = pthread_self();
    blocks_free = 1 << 19;
    assert_int_equal(tb_audit_open(&audit, &s.audit), 0);
    assert_int_equal(tb_surroundings_start(&s), 0);
    assert_true(tb_surroundings_stop(&s));
    assert_true(tb_surroundings_stop(&s));
    assert_int_equal(tb_audit_close(s.audit, 1000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_look_that_hangs_at_the_end),
        cmocka_unit_test(test_between_looks_it_ends_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
