/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of kept connections, with a runtime played in the same thread: what happens when is up to the test, as it is not where two
 * processes meet. The exchanges themselves are in tests/integration/test_proxy_*.py. */
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proxy/http/upstream.h"

#define ANSWER "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"

static struct tb_loop loop;
static struct tb_upstream *upstream;
static int listener;

static int setup(void **state)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(in);
    char url[64];

    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&in, len) < 0 || listen(listener, 8) < 0 ||
        getsockname(listener, (struct sockaddr *)&in, &len) < 0)
        return -1;
    snprintf(url, sizeof(url), "http://127.0.0.1:%d", ntohs(in.sin_port));
    return tb_loop_init(&loop) < 0 ? -1 : tb_upstream_new(&loop, url, &upstream);
}

static int teardown(void **state)
{
    tb_upstream_free(upstream);
    tb_loop_done(&loop);
    return close(listener);
}

static void count(void *arg)
{
    (*(int *)arg)++;
}

static struct tb_call *post(int *events)
{
    static const struct tb_buf none;
    struct tb_call_request rq = {.method = "POST",
                                 .target = "/",
                                 .lines = &none,
                                 .body = TB_FRAMING_LENGTH,
                                 .length = 3,
                                 .on_event = count,
                                 .arg = events};
    struct tb_call *c;

    assert_int_equal(tb_call_start(upstream, &rq, &c), 0);
    assert_int_equal(tb_call_write(c, "abc", 3), 3);
    tb_call_write_end(c);
    return c;
}

/* The runtime's end of a connection that was made meanwhile, or -1. */
static int accepted(void)
{
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static void take_request(int runtime)
{
    char rq[256];
    size_t len = 0;

    while (len < 3 || memcmp(rq + len - 3, "abc", 3) != 0) {
        ssize_t n = recv(runtime, rq + len, sizeof(rq) - len, 0);

        assert_true(n > 0);
        len += (size_t)n;
    }
    assert_memory_equal(rq, "POST / HTTP/1.1\r\n", 17);
}

static void take_answer(struct tb_call *c)
{
    char body[16];

    for (int i = 0; !tb_call_response(c) || !tb_call_whole(c); i++) {
        assert_true(i < 100);
        assert_int_equal(tb_loop_once(&loop, 1000), 0);
        assert_int_equal(tb_call_failed(c), 0);
    }
    assert_int_equal(tb_call_response(c)->status, 200);
    assert_int_equal(tb_call_read(c, body, sizeof(body)), 4);
    assert_int_equal(tb_call_read(c, body, sizeof(body)), 0);
    tb_call_free(c);
}

/* A whole exchange on `runtime`, or, when that is -1, on a new connection. Returns the connection. */
static int exchange(int runtime)
{
    int events = 0;
    struct tb_call *c = post(&events);

    if (runtime < 0) {
        assert_int_equal(tb_loop_once(&loop, 1000), 0);
        runtime = accepted();
        assert_true(runtime >= 0);
    }
    assert_true(accepted() < 0);
    take_request(runtime);
    assert_int_equal(send(runtime, ANSWER, strlen(ANSWER), 0), strlen(ANSWER));
    take_answer(c);
    assert_true(events > 0);
    return runtime;
}

static void check_nothing_is_kept(void)
{
    int runtime[3];

    for (int i = 0; i < 3; i++) /* each still open when the next request goes out */
        runtime[i] = exchange(-1);
    for (int i = 0; i < 3; i++)
        close(runtime[i]);
}

static void test_a_connection_is_kept(void **state)
{
    int runtime = exchange(-1);

    for (int i = 0; i < 3; i++)
        exchange(runtime);
    close(runtime);
}

/* The loop has not seen the end yet: a request comes first. */
static void test_an_end_is_looked_for_before_a_request_goes_out(void **state)
{
    close(exchange(-1));
    check_nothing_is_kept();
}

static void test_an_end_is_seen_while_nothing_is_asked(void **state)
{
    close(exchange(-1));
    assert_int_equal(tb_loop_once(&loop, 1000), 0);
    check_nothing_is_kept();
}

static void test_an_end_that_comes_with_the_answer(void **state)
{
    int events = 0, runtime;
    char end;
    struct tb_call *c = post(&events);

    assert_int_equal(tb_loop_once(&loop, 1000), 0);
    runtime = accepted();
    take_request(runtime);
    assert_int_equal(send(runtime, ANSWER, strlen(ANSWER), 0), strlen(ANSWER));
    assert_int_equal(shutdown(runtime, SHUT_WR), 0);
    take_answer(c);
    assert_int_equal(recv(runtime, &end, 1, MSG_DONTWAIT), 0); /* closed here too, at once */
    close(runtime);
    check_nothing_is_kept();
}

/* A runtime that says so is no reason to do without connections afterwards. */
static void test_an_end_that_was_announced(void **state)
{
    static const char last[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ndone";
    int events = 0, runtime;
    struct tb_call *c = post(&events);

    assert_int_equal(tb_loop_once(&loop, 1000), 0);
    runtime = accepted();
    take_request(runtime);
    assert_int_equal(send(runtime, last, strlen(last), 0), strlen(last));
    close(runtime);
    take_answer(c);
    test_a_connection_is_kept(state);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    static const struct CMUnitTest tests[] = {
        T(test_a_connection_is_kept),
        T(test_an_end_is_looked_for_before_a_request_goes_out),
        T(test_an_end_is_seen_while_nothing_is_asked),
        T(test_an_end_that_comes_with_the_answer),
        T(test_an_end_that_was_announced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
