/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/macros.h"
#include "common/outcome.h"
#include "common/signals.h"

static void test_signals_are_read_instead_of_delivered(void **state)
{
    _cleanup_close_ int fd = tb_signals_open((const int[]){SIGHUP, 0});

    assert_true(fd >= 0);
    assert_int_equal(tb_signals_next(fd), 0);
    assert_int_equal(raise(SIGHUP), 0);
    assert_int_equal(raise(SIGTERM), 0);
    assert_int_equal(tb_signals_next(fd), SIGHUP);
    assert_int_equal(tb_signals_next(fd), SIGTERM);
    assert_int_equal(tb_signals_next(fd), 0);
}

static void test_the_parent_sees_the_signal(void **state)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        (void)tb_signals_open(NULL);
        tb_signals_die(SIGTERM);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
}

static void test_an_outcome_cuts_what_is_too_long(void **state)
{
    struct tb_outcome o = {0};
    char text[TB_OUTCOME_REASON_MAX + 10];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(tb_outcome_set(&o, TB_EXIT_IOERR, "%s", text), TB_EXIT_IOERR);
    assert_int_equal(o.code, TB_EXIT_IOERR);
    assert_int_equal(strlen(o.reason), TB_OUTCOME_REASON_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signals_are_read_instead_of_delivered),
        cmocka_unit_test(test_the_parent_sees_the_signal),
        cmocka_unit_test(test_an_outcome_cuts_what_is_too_long),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
