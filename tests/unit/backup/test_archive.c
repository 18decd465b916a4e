/* SPDX-License-Identifier: Apache-2.0 */
/* Names of members, and the container: what is written is read, and every byte of it matters. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backup/archive.h"

static void test_a_name_is_one_of_few(void **state)
{
    static const struct {
        const char *name;
        enum backup_kind plain, sealed;
    } names[] = {
        {"settings/trustbridge.env", BACKUP_KIND_SETTINGS, BACKUP_KIND_NONE},
        {"settings/other.env", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"state/tb-proxy/usage", BACKUP_KIND_STATE, BACKUP_KIND_NONE},
        {"state/tb-authorize/suspended", BACKUP_KIND_STATE, BACKUP_KIND_NONE},
        {"state/tb-proxy/", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"state/tb-proxy/..", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"state/tb-proxy/../x", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"state/tb-proxy/a b", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"state/tb-proxyx/usage", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"state/tb-hydrate/x", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"/etc/passwd", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"credentials.cms", BACKUP_KIND_SEALED, BACKUP_KIND_NONE},
        {"credstore/trustbridge.tls-key", BACKUP_KIND_NONE, BACKUP_KIND_CREDSTORE},
        {"credstore.encrypted/trustbridge.tls-key", BACKUP_KIND_NONE, BACKUP_KIND_CREDSTORE},
        {"credstore/ssh-key", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"etc/ca.pem", BACKUP_KIND_NONE, BACKUP_KIND_ETC},
        {"etc/trustbridge.env", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"etc/../shadow", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"units/tb-runtime.service.d/gpu.conf", BACKUP_KIND_NONE, BACKUP_KIND_DROP_IN},
        {"units/trustbridge.target.d/a.conf", BACKUP_KIND_NONE, BACKUP_KIND_DROP_IN},
        {"units/ssh.service.d/a.conf", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"units/tb-runtime.service.d/a/b.conf", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
        {"units/tb-../../x.d/a.conf", BACKUP_KIND_NONE, BACKUP_KIND_NONE},
    };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        assert_int_equal(backup_name_kind(names[i].name, false), names[i].plain);
        assert_int_equal(backup_name_kind(names[i].name, true), names[i].sealed);
    }
}

static struct backup_set *make_set(void)
{
    struct backup_set *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    strcpy(s->created, "2026-01-08T12:00:00Z");
    strcpy(s->version, "1");
    assert_int_equal(backup_set_add(s, "settings/trustbridge.env", 0640, strdup("TB_X=1\n"), 7), 0);
    assert_int_equal(backup_set_add(s, "state/tb-proxy/empty", 0600, NULL, 0), 0);
    assert_int_equal(backup_set_add(s, "state/tb-proxy/usage", 04777, calloc(1, 4096), 4096), 0);
    return s;
}

static void test_what_is_written_is_read(void **state)
{
    _cleanup_backup_set_ struct backup_set *s = make_set(), *back = NULL;
    _cleanup_buf_ struct tb_buf b = {0};
    char err[BACKUP_ERR_MAX];

    assert_int_equal(backup_archive_write(s, &b), 0);
    assert_int_equal(backup_archive_read(b.data, b.len, false, &back, err), 0);
    assert_int_equal(back->n, 3);
    for (size_t i = 0; i < back->n; i++) {
        assert_string_equal(back->v[i].name, s->v[i].name);
        assert_int_equal(back->v[i].len, s->v[i].len);
        assert_int_equal(back->v[i].mode & ~0755U, 0);
        assert_int_equal(back->v[i].mode, s->v[i].mode);
    }
    assert_string_equal(back->created, s->created);
    assert_non_null(backup_set_find(back, "state/tb-proxy/empty"));
    assert_null(backup_set_find(back, "state/tb-proxy/flight"));
}

/* Of every cut and every changed byte either it is refused, or the same comes out. */
static void test_every_byte_matters(void **state)
{
    _cleanup_backup_set_ struct backup_set *s = make_set();
    _cleanup_buf_ struct tb_buf b = {0};
    char err[BACKUP_ERR_MAX];
    size_t taken = 0;

    assert_int_equal(backup_archive_write(s, &b), 0);
    for (size_t n = 0; n < b.len; n++) {
        struct backup_set *back = NULL;

        assert_int_equal(backup_archive_read(b.data, n, false, &back, err), -EBADMSG);
    }
    for (size_t at = 0; at < b.len; at++) {
        _cleanup_backup_set_ struct backup_set *back = NULL;

        b.data[at] ^= 0x21;
        if (backup_archive_read(b.data, b.len, false, &back, err) == 0) {
            taken++; /* what fills a member's last block stands for nothing */
            assert_int_equal(back->n, s->n);
            for (size_t i = 0; i < s->n; i++) {
                assert_string_equal(back->v[i].name, s->v[i].name);
                assert_int_equal(back->v[i].mode, s->v[i].mode);
                assert_int_equal(back->v[i].len, s->v[i].len);
                assert_true(s->v[i].len == 0 || memcmp(back->v[i].data, s->v[i].data, s->v[i].len) == 0);
            }
        }
        b.data[at] ^= 0x21;
    }
    assert_true(taken < 3 * 512);
}

static void test_a_set_has_its_limits(void **state)
{
    _cleanup_backup_set_ struct backup_set *s = calloc(1, sizeof(*s));

    assert_int_equal(backup_set_add(s, "state/tb-proxy/x", 0600, NULL, 1), -ENOMEM);
    for (size_t i = 0; i < BACKUP_MEMBERS_MAX; i++)
        assert_int_equal(backup_set_add(s, "state/tb-proxy/x", 0600, strdup("x"), 1), 0);
    assert_int_equal(backup_set_add(s, "state/tb-proxy/x", 0600, strdup("x"), 1), -ENOSPC);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_name_is_one_of_few),
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_every_byte_matters),
        cmocka_unit_test(test_a_set_has_its_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
