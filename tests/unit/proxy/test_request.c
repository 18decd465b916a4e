/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of requests and their bodies' framing, byte strings against what they mean or why they are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/macros.h"
#include "proxy/http/body.h"
#include "proxy/http/request.h"

static struct tb_request rq;
static char text[128 * 1024];

/* Parses what is in text, arriving in pieces of step bytes. */
static ssize_t parse_pieces(size_t len, size_t step)
{
    struct tb_request_scan scan = {0};

    for (size_t have = MIN(step, len);; have = MIN(have + step, len)) {
        ssize_t r = tb_request_parse(text, have, &scan, &rq);

        if (r != 0 || have == len)
            return r;
    }
}

static ssize_t parse(const char *head)
{
    size_t len = strlen(head);
    ssize_t whole, pieces;

    memcpy(text, head, len);
    pieces = parse_pieces(len, 1);
    memcpy(text, head, len);
    whole = parse_pieces(len, len);
    assert_int_equal(pieces, whole);
    return whole;
}

static void test_a_request(void **unused)
{
    static const char head[] =
        "\r\nPOST /v1/x?y HTTP/1.1\r\nHost: h:80\r\nA:\t b c \t\r\nB:\r\nContent-Length: 5\r\n"
        "authorization: Bearer k\r\nContent-Type: multipart/form-data\r\nExpect: 100-Continue\r\n\r\n";

    assert_int_equal(parse(head), strlen(head));
    assert_string_equal(rq.method, "POST");
    assert_string_equal(rq.target, "/v1/x?y");
    assert_int_equal(rq.minor, 1);
    assert_int_equal(rq.n_fields, 7);
    assert_string_equal(rq.field[1].name, "A");
    assert_string_equal(rq.field[1].value, "b c");
    assert_int_equal(rq.field[1].value_len, 3);
    assert_string_equal(rq.field[2].value, "");
    assert_true(rq.has_length && rq.length == 5 && !rq.chunked);
    assert_true(rq.keep_alive && rq.expect_continue && rq.multipart && !rq.coded && !rq.websocket);
    assert_string_equal(rq.authorization, "Bearer k");
    assert_string_equal(rq.host, "h:80");
    assert_null(tb_request_verify(&rq));
    assert_string_equal(tb_request_find(&rq, "content-type")->value, "multipart/form-data");
    assert_null(tb_request_find(&rq, "C"));
}

static void test_keep_alive(void **unused)
{
    static const struct {
        const char *head;
        bool keep;
    } all[] = {
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", false},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        assert_true(parse(all[i].head) > 0);
        assert_int_equal(rq.keep_alive, all[i].keep);
    }
}

#define HEAD(fields) "GET /x HTTP/1.1\r\nHost: h\r\n" fields "\r\n"

static void test_malformed_heads(void **unused)
{
    static const struct {
        const char *head;
        int status;
    } all[] = {
        {"GET\t/x\tHTTP/1.1\r\n", 400},
        {"GET  /x HTTP/1.1\r\n\r\n", 400},
        {"GET /x  HTTP/1.1\r\n\r\n", 400},
        {"GET /x HTTP/1.1 \r\n\r\n", 400},
        {" GET /x HTTP/1.1\r\n\r\n", 400},
        {"GET /x\r\n\r\n", 400},
        {"GET\r\n\r\n", 400},
        {"G(T /x HTTP/1.1\r\n\r\n", 400},
        {"GET /x\ty HTTP/1.1\r\n\r\n", 400},
        {"GET /x http/1.1\r\n\r\n", 400},
        {"GET /x HTTP/11\r\n\r\n", 400},
        {"GET /x HTTP/1.10\r\n\r\n", 400},
        {"GET /x HTTP/1.2\r\n\r\n", 505},
        {"GET /x HTTP/2.0\r\n\r\n", 505},
        {"PRI * HTTP/2.0\r\n\r\n", 505},
        {"\x16\x03\x01", 400},
        {"\nGET /x HTTP/1.1\r\n\r\n", 400},
        {"GET /x HTTP/1.1\nHost: h\n\n", 400},
        {"GET /x HTTP/1.1\r\nHost: h\n\r\n", 400},
        {"GET /x HTTP/1.1\r\n Host: h\r\n\r\n", 400},
        {"GET /x HTTP/1.1\r\n\r\n", 400},
        {HEAD("A: b\r\n c\r\n"), 400},
        {HEAD("A : b\r\n"), 400},
        {HEAD(": b\r\n"), 400},
        {HEAD("A\r\n"), 400},
        {HEAD("A: b\rc\r\n"), 400},
        {HEAD("A: b\x7f\r\n"), 400},
        {HEAD("A: b\x0b\r\n"), 400},
        {HEAD("A\x80: b\r\n"), 400},
    };

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (parse(all[i].head) != -EBADMSG)
            fail_msg("%s is accepted", all[i].head);
        assert_int_equal(rq.refusal.status, all[i].status);
        assert_non_null(rq.refusal.why);
    }
    memcpy(text, "GET /x HTTP/1.1\r\nHost: h\r\nA: b\0c\r\n\r\n", 36);
    assert_int_equal(parse_pieces(36, 36), -EBADMSG);
    assert_string_equal(rq.target, "/x"); /* known for the record */
}

static void test_ambiguous_heads(void **unused)
{
    static const char *const bad[] = {
        HEAD("Content-Length: 3\r\nContent-Length: 3\r\n"),
        HEAD("Content-Length: 3, 3\r\n"),
        HEAD("Content-Length: +3\r\n"),
        HEAD("Content-Length: 0x3\r\n"),
        HEAD("Content-Length: -3\r\n"),
        HEAD("Content-Length:\r\n"),
        HEAD("Content-Length: 99999999999999999999\r\n"),
        HEAD("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
        HEAD("Transfer-Encoding: gzip, chunked\r\n"),
        HEAD("Transfer-Encoding: identity\r\n"),
        HEAD("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        HEAD("Host: h\r\n"),
        HEAD("Upgrade: websocket\r\n"),
        "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: u@h\r\n\r\n",
        "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_true(parse(bad[i]) > 0);
        if (!tb_request_verify(&rq))
            fail_msg("%s is accepted", bad[i]);
    }
    assert_true(parse(HEAD("Transfer-Encoding: Chunked\r\n")) > 0);
    assert_null(tb_request_verify(&rq));
    assert_true(rq.chunked);
}

/* A head with a line of n bytes at the request line's place, or as a field. */
static int limit_status(const char *start, size_t n, const char *end)
{
    size_t len = strlen(start);

    memcpy(text, start, len);
    memset(text + len, 'a', n);
    memcpy(text + len + n, end, strlen(end));
    return parse_pieces(len + n + strlen(end), 1500) > 0 ? 200 : rq.refusal.status;
}

static void test_limits(void **unused)
{
    static const char get[] = "GET /", field[] = "GET / HTTP/1.1\r\nHost: h\r\nCookie: ";

    assert_int_equal(limit_status(get, 16000, " HTTP/1.1\r\nHost: h\r\n\r\n"), 200);
    assert_int_equal(limit_status(get, 17000, " HTTP/1.1\r\nHost: h\r\n\r\n"), 414);
    assert_int_equal(limit_status(get, 100000, " HTTP/1.1\r\nHost: h\r\n\r\n"), 414);
    assert_int_equal(limit_status(field, 65000, "\r\n\r\n"), 200);
    assert_int_equal(limit_status(field, 66000, "\r\n\r\n"), 431);
    assert_int_equal(limit_status(field, 100000, "\r\n\r\n"), 431);
    strcpy(text, "GET / HTTP/1.1\r\nHost: h\r\n");
    for (int i = 0; i < 300; i++)
        strcat(text, "A: b\r\n");
    strcat(text, "\r\n");
    assert_int_equal(parse_pieces(strlen(text), 100), -EBADMSG);
    assert_int_equal(rq.refusal.status, 431);
}

/* --- bodies ------------------------------------------------------------------------------------------------------ */

/* What the framed bytes in `raw` are, arriving in pieces. NULL when they are refused. *ret_used: where the body ended. */
static const char *decode(const char *raw, size_t step, size_t *ret_used, bool *ret_done)
{
    static char out[512];
    struct tb_request_body b;
    size_t len = strlen(raw), at = 0, n = 0;

    tb_request_body_init(&b, &(struct tb_request){.chunked = true});
    while (!b.done && at < len) {
        char piece[512];
        const char *why = NULL;
        size_t size = MIN(step, len - at), used, made;

        memcpy(piece, raw + at, size);
        if (tb_request_body_decode(&b, piece, size, &used, &made, &why) < 0) {
            assert_non_null(why);
            return NULL;
        }
        memcpy(out + n, piece, made);
        n += made;
        at += used;
    }
    out[n] = '\0';
    *ret_used = at;
    *ret_done = b.done;
    return out;
}

static void test_chunked_bodies(void **unused)
{
    static const char raw[] =
        "5\r\nhello\r\n00006;a=\"b\" ;c\r\n world\r\nA\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\nGET";

    for (size_t step = 1; step < sizeof(raw); step++) {
        size_t used;
        bool done;

        assert_string_equal(decode(raw, step, &used, &done), "hello world0123456789");
        assert_true(done);
        assert_int_equal(used, sizeof(raw) - 4);
    }
}

static void test_bad_chunks(void **unused)
{
    static const char *const bad[] = {
        "zz\r\n",           "\r\n",
        ";a\r\n",           "0x5\r\nhello",
        "5 \r\nhello\r\n",  " 5\r\nhello",
        "5\nhello\r\n",     "5\r\nhello\n",
        "5\r\nhello5",      "5\r\nhellox\r\n",
        "5;a\nhello",       "5;a\x01\r\nhello",
        "5\rhello",         "-5\r\nhello",
        "+5\r\nhello",      "ffffffffffffffff\r\n",
        "0\r\n\n",          "0\r\nX y: z\r\n\r\n",
        "0\r\n: z\r\n\r\n", "0\r\nX: y\n",
        "0\r\nX: \x01",     "0\r\n X: y\r\n\r\n",
        "0\r\nX\r\n\r\n",   "0\r\rX",
        "5\r\nhello\r\r",
    };

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        for (size_t step = 1; step < 40; step++) {
            size_t used;
            bool done;

            if (decode(bad[i], step, &used, &done))
                fail_msg("%s is accepted", bad[i]);
        }
}

static void test_extensions_are_bounded(void **unused)
{
    struct tb_request_body b;
    char piece[32];
    int r = 0;

    tb_request_body_init(&b, &(struct tb_request){.chunked = true});
    for (int i = 0; i < 10000 && r == 0; i++) {
        const char *why;
        size_t used, made;

        memcpy(piece, "1;aaaaaaaaaa\r\nx\r\n", 17);
        r = tb_request_body_decode(&b, piece, 17, &used, &made, &why);
        assert_true(i < 1700);
    }
    assert_int_equal(r, -EBADMSG);
}

static void test_counted_bodies(void **unused)
{
    struct tb_request_body b;
    char piece[] = "hello world";
    const char *why;
    size_t used, made;

    tb_request_body_init(&b, &(struct tb_request){.has_length = true, .length = 0});
    assert_true(b.done);
    tb_request_body_init(&b, &(struct tb_request){0});
    assert_true(b.done);
    tb_request_body_init(&b, &(struct tb_request){.has_length = true, .length = 8});
    assert_int_equal(tb_request_body_decode(&b, piece, 5, &used, &made, &why), 0);
    assert_true(used == 5 && made == 5 && !b.done);
    assert_int_equal(tb_request_body_decode(&b, piece, 11, &used, &made, &why), 0);
    assert_true(used == 3 && made == 3 && b.done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request),       cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_malformed_heads), cmocka_unit_test(test_ambiguous_heads),
        cmocka_unit_test(test_limits),          cmocka_unit_test(test_chunked_bodies),
        cmocka_unit_test(test_bad_chunks),      cmocka_unit_test(test_extensions_are_bounded),
        cmocka_unit_test(test_counted_bodies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
