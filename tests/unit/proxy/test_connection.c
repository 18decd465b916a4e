/* SPDX-License-Identifier: Apache-2.0 */
/* What depends on time at a client's connection: its clock is the test's. What is sent when is in tests/integration/test_proxy_*.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/ssl.h>

#include "common/units.h"
#include "proxy/http/connection.h"

#define NOW (1000 * TB_USEC_PER_SEC)

static struct tb_loop loop;
static struct tb_port port;
static struct tb_connection *connection;
static int client = -1;
static unsigned ended;
static enum tb_end last_end;
static unsigned begun;
static bool begun_gone, holding;

static void *begin(void *arg, struct tb_connection *c, const struct tb_request *rq)
{
    begun++;
    begun_gone = rq->gone;
    return c;
}

static bool hold(void *arg, const char *p, size_t n)
{
    return holding;
}

static size_t body(void *request, const char *p, size_t n)
{
    return n;
}

static void nothing(void *request)
{
}

static void refuse(void *request, const struct tb_refusal *why)
{
}

static bool ask_never(void *request)
{
    return false;
}

static void end(void *request, enum tb_end how)
{
    ended++;
    last_end = how;
}

static void told(struct tb_port *p)
{
}

static void closed(struct tb_port *p, struct tb_connection *c)
{
    connection = NULL;
}

static const struct tb_handler handler = {begin, hold, body, nothing, refuse, nothing, ask_never, end};

static int setup(void **state)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0 ||
        tb_loop_init(&loop) < 0)
        return -1;
    port = (struct tb_port){.loop = &loop, .handler = &handler, .busy = told, .closed = closed};
    ended = begun = 0;
    holding = false;
    client = pair[1];
    connection = tb_connection_new(&port, pair[0], "192.0.2.1");
    return connection ? 0 : -1;
}

static int teardown(void **state)
{
    if (connection)
        tb_connection_close(connection, TB_END_STOPPED);
    tb_port_clear(&port);
    tb_loop_done(&loop);
    return close(client);
}

/* --- handshakes: SSL_do_handshake() of a client, its bytes given to ours in pieces ------------------------ */

static SSL_CTX *server_context(const char *groups)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();

    X509_set_pubkey(cert, key);
    X509_gmtime_adj(X509_getm_notBefore(cert), 0);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_certificate(ctx, cert), 1);
    assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
    assert_int_equal(SSL_CTX_set1_groups_list(ctx, groups), 1);
    X509_free(cert);
    EVP_PKEY_free(key);
    return ctx;
}

/* The next flight of the client, after ours. */
static size_t client_flight(SSL *ssl, char *buf, size_t size)
{
    char got[8192];
    ssize_t n;
    int len;

    while ((n = recv(client, got, sizeof(got), 0)) > 0)
        assert_int_equal(BIO_write(SSL_get_rbio(ssl), got, (int)n), n);
    (void)SSL_do_handshake(ssl);
    len = BIO_read(SSL_get_wbio(ssl), buf, (int)size);
    return len > 0 ? (size_t)len : 0;
}

/* True when ours leaves what came to its task, so that others who are ready come first. */
static bool waits_its_turn(const char *p, size_t n)
{
    bool waits;

    assert_int_equal(send(client, p, n, 0), n);
    connection->src.fn(&connection->src, EPOLLIN);
    waits = connection->task.queued;
    for (int i = 0; i < 3; i++)
        assert_int_equal(tb_loop_once(&loop, 0), 0);
    assert_non_null(connection);
    return waits;
}

static void shake_hands(const char *groups, unsigned costly_flights)
{
    struct tb_tls tls = {.context = server_context(groups)};
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    char flight[8192];
    size_t n;

    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl);
    assert_int_equal(SSL_set1_groups_list(ssl, "X25519:P-256"), 1);
    port.tls = &tls;
    connection->state = TB_CONNECTION_HANDSHAKE;
    for (unsigned i = 0; i < costly_flights; i++) {
        n = client_flight(ssl, flight, sizeof(flight));
        assert_true(n > 100);
        assert_true(waits_its_turn(flight, 1));
        assert_true(waits_its_turn(flight + 1, 99));
        assert_true(waits_its_turn(flight + 100, n - 100));
        assert_int_equal(connection->state, TB_CONNECTION_HANDSHAKE);
    }
    n = client_flight(ssl, flight, sizeof(flight));
    assert_false(waits_its_turn(flight, n));
    assert_int_equal(connection->state, TB_CONNECTION_HEAD);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    SSL_CTX_free(tls.context);
}

static void test_a_client_hello_in_pieces_waits_its_turn(void **state)
{
    shake_hands("X25519:P-256", 1);
}

/* The server takes no key of X25519, asks for another one, and agrees on that. */
static void test_a_second_client_hello_waits_its_turn(void **state)
{
    shake_hands("P-256", 2);
}

/* --- clients that have closed their side ---------------------------------------------------------------- */

static void say(const char *text, bool close)
{
    assert_int_equal(send(client, text, strlen(text), 0), strlen(text));
    assert_true(!close || shutdown(client, SHUT_WR) == 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(tb_loop_once(&loop, 0), 0);
    assert_non_null(connection);
}

static void say_and_close(const char *text)
{
    say(text, true);
    assert_true(connection->silent_us > 0);
}

/* Looks once a second from..to, both included, and returns how often the client was asked. */
static unsigned asked(uint64_t begun_us, unsigned from, unsigned to)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    unsigned n = 0;

    for (unsigned s = from; s <= to && connection; s++) {
        char got[sizeof(interim)];
        ssize_t len;

        tb_connection_look(connection, begun_us + s * TB_USEC_PER_SEC, TB_USEC_PER_SEC);
        assert_int_equal(tb_loop_once(&loop, 0), 0);
        while ((len = recv(client, got, sizeof(got) - 1, 0)) > 0) {
            assert_int_equal(len, sizeof(interim) - 1);
            assert_memory_equal(got, interim, sizeof(interim) - 1);
            n++;
        }
    }
    return n;
}

/* Some clients read five interim answers and no more, and each look is a second. */
static void test_half_closed_is_asked_seldom(void **state)
{
    uint64_t since;

    say_and_close("GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\n");
    since = connection->silent_us;
    assert_int_equal(asked(since, 0, 0), 0);
    assert_int_equal(asked(since, 1, 1), 1);
    assert_int_equal(asked(since, 2, 31), 4); /* 2, 4, 8, 16 */
    assert_int_equal(asked(since, 32, 63), 1);
    assert_int_equal(asked(since, 64, 663), 10);
    assert_non_null(connection);
    assert_int_equal(ended, 0);
}

static void test_half_closed_of_http10_is_given_up(void **state)
{
    say_and_close("GET /v1/a HTTP/1.0\r\n\r\n");
    assert_int_equal(asked(connection->silent_us, 0, 10), 0);
    assert_null(connection);
    assert_int_equal(ended, 1);
    assert_int_equal(last_end, TB_END_GONE);
}

/* --- clients whose request waits ------------------------------------------------------------------------ */

static void say_and_wait(const char *text, bool close)
{
    holding = true;
    say(text, close);
    assert_true(connection->held);
    assert_int_equal(begun, 0);
}

/* It is there: it waits as long as the request shall, and is served then. */
static void test_held_and_half_closed_is_asked_and_served(void **state)
{
    say_and_wait("GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\n", true);
    assert_int_equal(asked(NOW, 0, 0), 0);
    assert_int_equal(asked(NOW, 1, 62), 6); /* 1, 2, 4, ... */
    assert_int_equal(begun, 0);
    holding = false;
    assert_int_equal(asked(NOW, 63, 63), 0);
    assert_int_equal(begun, 1);
    assert_false(begun_gone);
    assert_non_null(connection);
}

/* It takes nothing any more, which shows when it is asked. */
static void test_held_and_gone_is_told_so(void **state)
{
    say_and_wait("POST /v1/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", true);
    assert_int_equal(shutdown(client, SHUT_RDWR), 0);
    assert_int_equal(asked(NOW, 0, 3), 0);
    assert_int_equal(begun, 1);
    assert_true(begun_gone);
}

static void test_held_and_gone_in_the_middle_of_its_head(void **state)
{
    say_and_wait("GET /v1/a HTTP/1.1\r\nHost:", false);
    assert_int_equal(shutdown(client, SHUT_RDWR), 0);
    assert_int_equal(asked(NOW, 0, 3), 0);
    assert_int_equal(begun, 1);
    assert_true(begun_gone);
}

/* Who knows no interim answers cannot be asked. */
static void test_held_and_half_closed_of_http10_is_given_up(void **state)
{
    say_and_wait("GET /v1/a HTTP/1.0\r\n\r\n", true);
    assert_int_equal(asked(NOW, 0, 5), 0);
    assert_int_equal(begun, 0);
    assert_int_equal(asked(NOW, 6, 7), 0);
    assert_int_equal(begun, 1);
    assert_true(begun_gone);
}

static void test_held_and_open_waits_unasked(void **state)
{
    say_and_wait("GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\n", false);
    assert_int_equal(asked(NOW, 0, 300), 0);
    assert_int_equal(begun, 0);
    assert_non_null(connection);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_client_hello_in_pieces_waits_its_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_second_client_hello_waits_its_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_closed_is_asked_seldom, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_closed_of_http10_is_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_and_half_closed_is_asked_and_served, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_and_gone_is_told_so, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_and_gone_in_the_middle_of_its_head, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_and_half_closed_of_http10_is_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_held_and_open_waits_unasked, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
