/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "decrypt/guard.h"
#include "common/notify.h"

#define PING_MS 20

/* What systemd would hear. */
struct listener {
    int fd, pipe[2], client[2];
    struct tb_guard guard;
};

/* tb-decrypt ends itself here; the thread that returns instead is joined. */
static void last_resort(void *ctx)
{
    (void)ctx;
}

static int setup(void **state)
{
    static struct listener l;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char name[sizeof(a.sun_path)], us[16], pid[16];

    snprintf(name, sizeof(name), "@tb-test-guard-%d", (int)getpid());
    memcpy(a.sun_path, name, sizeof(name));
    a.sun_path[0] = '\0';
    l.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (l.fd < 0 || bind(l.fd, (struct sockaddr *)&a,
                         (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))) < 0)
        return -1;
    snprintf(us, sizeof(us), "%d", 2 * PING_MS * 1000);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (setenv("NOTIFY_SOCKET", name, 1) < 0 || setenv("WATCHDOG_USEC", us, 1) < 0 ||
        setenv("WATCHDOG_PID", pid, 1) < 0)
        return -1;
    if (pipe2(l.pipe, O_CLOEXEC | O_NONBLOCK) < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, l.client) < 0)
        return -1;
    l.guard = (struct tb_guard){.sock = l.client[0], .signal_fd = -1, .fifo = -1, .last_resort = last_resort};
    *state = &l;
    return 0;
}

static int teardown(void **state)
{
    struct listener *l = *state;

    close(l->fd);
    close(l->pipe[0]);
    close(l->pipe[1]);
    close(l->client[0]);
    close(l->client[1]);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    return 0;
}

static bool pinged(struct listener *l, int timeout_ms)
{
    struct pollfd p = {.fd = l->fd, .events = POLLIN};
    char text[64] = "";

    if (poll(&p, 1, timeout_ms) != 1)
        return false;
    assert_true(recv(l->fd, text, sizeof(text) - 1, 0) > 0);
    assert_string_equal(text, "WATCHDOG=1");
    return true;
}

static void fill(int fd)
{
    static const char page[4096];

    while (write(fd, page, sizeof(page)) > 0)
        ;
    assert_int_equal(errno, EAGAIN);
}

static void test_a_reader_that_does_not_read_is_no_hang(void **state)
{
    struct listener *l = *state;

    l->guard.fifo = l->pipe[1];
    fill(l->pipe[1]);
    assert_int_equal(tb_guard_start(&l->guard), 0);
    for (int i = 0; i < 3; i++)
        assert_true(pinged(l, 10000));
    tb_guard_stop(&l->guard);
}

static void test_room_in_the_fifo_and_no_progress_is_one(void **state)
{
    struct listener *l = *state;

    l->guard.fifo = l->pipe[1];
    assert_int_equal(tb_guard_start(&l->guard), 0);
    assert_false(pinged(l, 10 * PING_MS));
    tb_guard_stop(&l->guard);
}

static void test_files_are_fed_by_progress_only(void **state)
{
    struct listener *l = *state;

    assert_int_equal(tb_guard_start(&l->guard), 0);
    assert_false(pinged(l, 10 * PING_MS));
    tb_guard_stop(&l->guard);
}

static void test_a_client_that_goes_is_noticed_all_the_same(void **state)
{
    struct listener *l = *state;

    l->guard.fifo = l->pipe[1];
    fill(l->pipe[1]);
    assert_int_equal(tb_guard_start(&l->guard), 0);
    assert_true(pinged(l, 10000));
    shutdown(l->client[1], SHUT_RDWR);
    for (int i = 0; i < 10000 && tb_guard_cancelled(&l->guard) == TB_GUARD_NONE; i++)
        usleep(1000);
    assert_int_equal(tb_guard_cancelled(&l->guard), TB_GUARD_CLIENT);
    tb_guard_stop(&l->guard);
}

/* Whatever of the two the thread is woken by: the reader of a FIFO dies with its parent, and that ends the decryption. */
static void test_a_client_that_goes_as_the_end_comes_is_its_cause(void **state)
{
    struct listener *l = *state;

    assert_int_equal(tb_guard_start(&l->guard), 0);
    close(l->client[1]);
    tb_guard_stop(&l->guard);
    assert_int_equal(tb_guard_cancelled(&l->guard), TB_GUARD_CLIENT);
    l->client[1] = -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_reader_that_does_not_read_is_no_hang, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room_in_the_fifo_and_no_progress_is_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_are_fed_by_progress_only, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_goes_is_noticed_all_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_goes_as_the_end_comes_is_its_cause, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
