/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <cmocka.h>

#include "common/fdpass.h"

#define FIRST 3 /* SD_LISTEN_FDS_START */

/* n descriptors from FIRST on, as systemd passes them. names NULL: LISTEN_FDNAMES is not set. */
static void inherit(int n, const char *names)
{
    char text[16];

    for (int i = 0; i < n; i++)
        assert_int_equal(dup2(STDERR_FILENO, FIRST + i), FIRST + i);
    snprintf(text, sizeof(text), "%d", n);
    setenv("LISTEN_FDS", text, 1);
    snprintf(text, sizeof(text), "%d", (int)getpid());
    setenv("LISTEN_PID", text, 1);
    if (names)
        setenv("LISTEN_FDNAMES", names, 1);
    else
        unsetenv("LISTEN_FDNAMES");
}

static void test_listeners_are_found_by_name(void **state)
{
    unsetenv("LISTEN_FDS");
    assert_int_equal(tb_listen_fd("keys"), -ENOENT);
    inherit(1, "keys");
    assert_int_equal(tb_listen_fd("keys"), FIRST);
    assert_int_equal(tb_listen_fd("decrypt"), -ENOENT); /* the only one, and of another name */
    inherit(2, "http:health");
    assert_int_equal(tb_listen_fd("http"), FIRST);
    assert_int_equal(tb_listen_fd("health"), FIRST + 1);
    assert_int_equal(tb_listen_fd("keys"), -ENOENT);
}

static void test_one_without_a_name_serves_any(void **state)
{
    inherit(1, NULL);
    assert_int_equal(tb_listen_fd("keys"), FIRST);
    inherit(1, "unknown");
    assert_int_equal(tb_listen_fd("keys"), FIRST);
    inherit(2, NULL);
    assert_int_equal(tb_listen_fd("keys"), -ENOENT); /* which of the two? */
    inherit(2, "unknown:keys");
    assert_int_equal(tb_listen_fd("keys"), FIRST + 1);
}

static void test_descriptors_that_do_not_fit_are_closed(void **state)
{
    int pair[2], fds[3] = {STDERR_FILENO, STDERR_FILENO, STDERR_FILENO}, got[3], before;
    size_t n = 2;
    char byte;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    before = dup(STDERR_FILENO);
    close(before);
    assert_int_equal(tb_fd_send(pair[0], "x", 1, fds, 3), 0);
    assert_int_equal(tb_fd_recv(pair[1], &byte, 1, got, &n), -EMSGSIZE);
    assert_int_equal(dup(STDERR_FILENO), before); /* the lowest free number is the same */
    close(before);
    n = 3;
    assert_int_equal(tb_fd_send(pair[0], "xy", 2, fds, 1), 0);
    assert_int_equal(tb_fd_recv(pair[1], &byte, 1, got, &n), -EMSGSIZE);
    n = 3;
    assert_int_equal(tb_fd_send(pair[0], "x", 1, fds, 3), 0);
    assert_int_equal(tb_fd_recv(pair[1], &byte, 1, got, &n), 1);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++) {
        assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
        close(got[i]);
    }
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptors_that_do_not_fit_are_closed),
        cmocka_unit_test(test_listeners_are_found_by_name),
        cmocka_unit_test(test_one_without_a_name_serves_any),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
