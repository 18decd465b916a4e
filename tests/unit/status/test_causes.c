/* SPDX-License-Identifier: Apache-2.0 */
/* What comes together: what is told first, and what is left out as its consequence; and the line that a
 * monitoring system gets. Each condition alone is in test_causes_*.c. */
#include "causes_testing.h"

static void nothing(void)
{
}

static const struct row rows[] = {
    {{nothing}, TB_STATUS_OK, TB_STATUS_READY, 0, NULL, NULL},
    /* the cause that keeps requests out first, then in the order of what explains more */
    {{client_expires, low_var, full_run},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     3,
     "the disk of /run is full",
     NULL},
    {{unreachable_long, runtime_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     2,
     "control plane does not answer",
     NULL},
    {{suspended, full_run}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 2, "refuses this contract", NULL},
    {{low_var, socket_down, clock_off},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     3,
     "tb-proxy.socket has failed",
     NULL},
    {{full_var, audit_down, runtime_dies}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 2, "is full", NULL},
    {{clock_off_a_little, runtime_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     2,
     "TB_RUNTIME_HEALTH",
     NULL},
    {{full_ciphertext, socket_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     2,
     "tb-proxy.socket has failed",
     NULL},
    {{downloading, unreachable}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "does not answer", NULL},
};

static void test_each_row(void **unused)
{
    check_rows(rows, ARRAY_SIZE(rows));
}

static void test_the_line(void **unused)
{
    static struct tb_conclusion c;
    enum tb_status_level level;
    _cleanup_free_ char *line = NULL;

    well();
    tb_status_conclude(&s, &c);
    line = tb_status_check(&s, &c, &level);
    assert_string_equal(
        line,
        "TRUSTBRIDGE OK: Ready, 7 requests, may serve for 1 d 0 h | requests=7c lease=3600s "
        "grace=86400s;3600:;1: "
        "control_plane_failures=0;0 clock=0s;-30:30 ledger_age=30s;900 "
        "free_audit=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_journal=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_state=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_run=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_ciphertext=53687091200B;1073741824:;65536:;0;107374182400 "
        "cert_server=6912000s;1209600:;1: cert_client=6912000s;1209600:;1: cert_ca=6912000s;1209600:;1:");
    free(TAKE_PTR(line));
    unreachable();
    strcpy(s.facts.contact.reason, "a | b");
    tb_status_conclude(&s, &c);
    line = tb_status_check(&s, &c, &level);
    assert_int_equal(level, TB_STATUS_WARNING);
    assert_non_null(
        strstr(line, "TRUSTBRIDGE WARNING: Ready, the control plane does not answer: a / b -> check "));
    assert_ptr_equal(strchr(line, '|'), strrchr(line, '|')); /* the figures' own */
    assert_null(strchr(line, '\n'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_row),
        cmocka_unit_test(test_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
