/* SPDX-License-Identifier: Apache-2.0 */
/* A connection of the endpoint, by itself: nobody keeps its worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "decrypt/endpoint.h"

#define PUT "PUT /b/k HTTP/1.1\r\nHost: h\r\n\r\n"

static int waiting(int fd)
{
    int n = 0;

    assert_int_equal(ioctl(fd, FIONREAD, &n), 0);
    return n;
}

/* What is behind a refused request is taken a piece at a time, so that others have their turn, and the deadline its
 * own: a client that sends on and on would else be listened to for ever, by who is to end as well. */
static void test_what_follows_a_refusal_is_taken_in_pieces(void **state)
{
    static struct tb_endpoint e;
    static const char more[100 * 1024];
    struct endpoint_worker *w = &e.workers[0];
    int p[2], before;

    *w = (struct endpoint_worker){.e = &e, .epoll_fd = epoll_create1(0)};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
    endpoint_conn_add(w, p[0]);
    assert_int_equal(write(p[1], PUT, strlen(PUT)), strlen(PUT));
    endpoint_conn_step(w, w->conns, EPOLLIN);
    assert_int_equal(write(p[1], more, sizeof(more)), sizeof(more));
    before = waiting(p[0]);
    endpoint_conn_step(w, w->conns, EPOLLIN);
    assert_in_range(waiting(p[0]), 1, before - 1);
    for (int i = 0; i < 100 && waiting(p[0]) > 0; i++)
        endpoint_conn_step(w, w->conns, EPOLLIN);
    assert_int_equal(waiting(p[0]), 0);
    assert_non_null(w->conns);
    assert_int_equal(close(p[1]), 0);
    endpoint_conn_step(w, w->conns, EPOLLIN);
    assert_null(w->conns);
    assert_int_equal(close(w->epoll_fd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_follows_a_refusal_is_taken_in_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
