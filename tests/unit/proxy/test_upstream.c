/* SPDX-License-Identifier: Apache-2.0 */
/* The pool of kept connections, with a runtime played in the same thread: what happens when is up to the test, as it is not where two
 * processes meet. The exchanges themselves are in tests/integration/test_proxy_*.py. */
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
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

/* The next request goes out on a connection of its own and is answered. */
static void check_nothing_is_owed(void)
{
    close(exchange(-1));
}

/* --- the wire is exact ------------------------------------------------------------------------------------------- */

static struct tb_call *start(enum tb_framing framing, uint64_t length, int *events)
{
    static const struct tb_buf none;
    struct tb_call_request rq = {.method = "POST",
                                 .target = "/",
                                 .lines = &none,
                                 .body = framing,
                                 .length = length,
                                 .on_event = count,
                                 .arg = events};
    struct tb_call *c;

    assert_int_equal(tb_call_start(upstream, &rq, &c), 0);
    assert_int_equal(tb_loop_once(&loop, 1000), 0); /* connected */
    return c;
}

/* Everything the runtime gets before its connection ends. */
static size_t take_all(int runtime, char *buf, size_t size)
{
    size_t len = 0;
    ssize_t n;

    while (len < size && (n = recv(runtime, buf + len, size - len, 0)) > 0)
        len += (size_t)n;
    return len;
}

static void test_a_body_longer_than_announced_fails(void **state)
{
    char got[1024];
    int events = 0, runtime;
    struct tb_call *c = start(TB_FRAMING_LENGTH, 5, &events);

    runtime = accepted();
    assert_int_equal(tb_call_write(c, "abc", 3), 3);
    assert_int_equal(tb_call_write(c, "defGET", 6), 6);
    assert_int_equal(tb_call_failed(c), -EMSGSIZE);
    tb_call_write_end(c);
    tb_call_free(c);
    got[take_all(runtime, got, sizeof(got) - 1)] = '\0';
    assert_null(strstr(got, "d")); /* nothing of what is too much */
    close(runtime);
    check_nothing_is_owed();
}

static void test_a_body_shorter_than_announced_fails(void **state)
{
    char got[1024];
    int events = 0, runtime;
    struct tb_call *c = start(TB_FRAMING_LENGTH, 5, &events);

    runtime = accepted();
    assert_int_equal(tb_call_write(c, "abc", 3), 3);
    tb_call_write_end(c);
    assert_int_equal(tb_call_failed(c), -EMSGSIZE);
    tb_call_free(c);
    assert_true(take_all(runtime, got, sizeof(got)) > 0); /* to the end: the connection is closed */
    close(runtime);
    check_nothing_is_owed();
}

/* An error before the body is complete, as every uvicorn gives for a path that it does not have. */
static void test_a_connection_that_is_owed_a_body_is_not_kept(void **state)
{
    static const char refusal[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone";
    char body[16], end;
    int events = 0, runtime;
    struct tb_call *c = start(TB_FRAMING_LENGTH, 4010, &events);

    runtime = accepted();
    assert_int_equal(tb_call_write(c, "0123456789", 10), 10);
    assert_int_equal(send(runtime, refusal, strlen(refusal), 0), strlen(refusal));
    while (!tb_call_response(c))
        assert_int_equal(tb_loop_once(&loop, 1000), 0);
    assert_int_equal(tb_call_response(c)->status, 404);
    assert_int_equal(tb_call_read(c, body, sizeof(body)), 4);
    assert_int_equal(tb_call_read(c, body, sizeof(body)), 0);
    assert_int_equal(tb_call_write(c, "rest", 4), 4); /* dropped */
    tb_call_write_end(c);
    tb_call_free(c);
    while (recv(runtime, &end, 1, 0) > 0)
        ;
    close(runtime);
    check_nothing_is_owed();
}

/* The same of a chunked body, whose end comes while the refusal is on its way: the runtime would take the next
 * request for a chunk. */
static void test_a_connection_that_is_owed_the_last_chunk_is_not_kept(void **state)
{
    static const char refusal[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\n";
    char body[16], end;
    int events = 0, runtime;
    struct tb_call *c = start(TB_FRAMING_CHUNKED, 0, &events);

    runtime = accepted();
    assert_int_equal(tb_call_write(c, "0123456789", 10), 10);
    assert_int_equal(send(runtime, refusal, strlen(refusal), 0), strlen(refusal));
    while (!tb_call_response(c))
        assert_int_equal(tb_loop_once(&loop, 1000), 0);
    assert_int_equal(tb_call_write(c, "rest", 4), 4); /* dropped */
    tb_call_write_end(c);
    assert_int_equal(send(runtime, "gone", 4, 0), 4);
    while (tb_call_read(c, body, sizeof(body)) != 0)
        assert_int_equal(tb_loop_once(&loop, 1000), 0);
    tb_call_free(c);
    while (recv(runtime, &end, 1, 0) > 0)
        ;
    close(runtime);
    check_nothing_is_owed();
}

/* Long enough not to be kept for a second sending, in pieces that the socket does not take at once. */
static void check_long_body(enum tb_framing framing)
{
    static char piece[100 * 1000], got[4 * 1000 * 1000];
    size_t sent = 0, len = 0, total = 20 * sizeof(piece), body = 0;
    int events = 0, runtime;
    struct tb_call *c = start(framing, total, &events);
    char *p;

    memset(piece, 'x', sizeof(piece));
    runtime = accepted();
    while (sent < total) {
        size_t n = tb_call_write(c, piece, MIN(sizeof(piece), total - sent));
        ssize_t r = recv(runtime, got + len, sizeof(got) - len, MSG_DONTWAIT);

        sent += n;
        len += r > 0 ? (size_t)r : 0;
        assert_int_equal(tb_loop_once(&loop, 0), 0);
    }
    tb_call_write_end(c);
    for (int i = 0; i < 1000 && (framing == TB_FRAMING_CHUNKED ? memcmp(got + len - 5, "0\r\n\r\n", 5) != 0
                                                               : body < total);
         i++) {
        ssize_t r = recv(runtime, got + len, sizeof(got) - len, MSG_DONTWAIT);

        len += r > 0 ? (size_t)r : 0;
        assert_int_equal(tb_loop_once(&loop, 1), 0);
        body = len - (size_t)((char *)memmem(got, len, "\r\n\r\n", 4) + 4 - got);
    }
    p = (char *)memmem(got, len, "\r\n\r\n", 4) + 4;
    body = 0;
    while (framing == TB_FRAMING_CHUNKED && p < got + len) {
        size_t n = strtoul(p, &p, 16);

        assert_memory_equal(p, "\r\n", 2);
        p += 2 + n + 2;
        body += n;
    }
    if (framing == TB_FRAMING_LENGTH)
        body = (size_t)(got + len - p);
    assert_int_equal(body, total);
    assert_int_equal(tb_call_failed(c), 0);
    tb_call_free(c);
    close(runtime);
}

static void test_long_bodies(void **state)
{
    check_long_body(TB_FRAMING_LENGTH);
    check_long_body(TB_FRAMING_CHUNKED);
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
        T(test_a_body_longer_than_announced_fails),
        T(test_a_body_shorter_than_announced_fails),
        T(test_a_connection_that_is_owed_a_body_is_not_kept),
        T(test_a_connection_that_is_owed_the_last_chunk_is_not_kept),
        T(test_long_bodies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
