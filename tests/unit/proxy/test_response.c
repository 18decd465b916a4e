/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/http/response.h"

static ssize_t parse(const char *text, bool head, struct tb_response *rs)
{
    static char buf[4096];

    strcpy(buf, text);
    return tb_response_parse(buf, strlen(text), head, rs);
}

static void test_framing(void **unused)
{
    static const struct {
        const char *text;
        bool head;
        enum tb_framing framing;
        bool keep_alive;
    } good[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, TB_FRAMING_LENGTH, true},
        {"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", false, TB_FRAMING_LENGTH, true},
        {"HTTP/1.1 200 OK\nContent-Length: 5\n\n", false, TB_FRAMING_LENGTH, true},
        {"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", false, TB_FRAMING_CHUNKED, true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\n\r\n", false, TB_FRAMING_LENGTH,
         false},
        {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, TB_FRAMING_LENGTH, false},
        {"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", false, TB_FRAMING_LENGTH,
         true},
        {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n", false,
         TB_FRAMING_CHUNKED, false},
        {"HTTP/1.1 200 OK\r\n\r\n", false, TB_FRAMING_CLOSE, false},
        {"HTTP/1.1 204 No Content\r\n\r\n", false, TB_FRAMING_NONE, true},
        {"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, TB_FRAMING_NONE, true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, TB_FRAMING_NONE, true},
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct tb_response rs;

        assert_int_equal(parse(good[i].text, good[i].head, &rs), strlen(good[i].text));
        assert_int_equal(rs.framing, good[i].framing);
        assert_int_equal(rs.keep_alive, good[i].keep_alive);
    }
}

static void test_refused(void **unused)
{
    static const char *const bad[] = {
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "hello\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct tb_response rs;

        assert_int_equal(parse(bad[i], false, &rs), -EBADMSG);
    }
}

static void test_partial_and_hop_by_hop(void **unused)
{
    const char *text = "HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: X-Hop\r\nX-Hop: 2\r\nKeep-Alive: 3\r\n"
                       "Content-Type: text/event-stream; charset=utf-8\r\nContent-Length: 0\r\n\r\nbody";
    struct tb_response rs;
    char buf[512];

    for (size_t n = 0; n < strlen(text) - 4; n++) {
        memcpy(buf, text, n);
        assert_int_equal(tb_response_parse(buf, n, false, &rs), 0);
        assert_memory_equal(buf, text, n); /* untouched until complete */
    }
    assert_int_equal(parse(text, false, &rs), strlen(text) - 4);
    assert_int_equal(rs.n_headers, 2);
    assert_string_equal(rs.header[0].name, "X-A");
    assert_string_equal(rs.header[1].name, "Content-Type");
    assert_true(rs.event_stream);
}

/* Decodes in pieces of every size; the result must not depend on it. */
static int decode(const char *in, size_t step, size_t room, char *out, size_t *ret_made, bool *ret_done)
{
    struct tb_body b;
    size_t len = strlen(in), at = 0, made = 0;

    tb_body_init(&b, TB_FRAMING_CHUNKED, 0);
    while (!b.done && at < len) {
        size_t used, n;
        int r = tb_body_decode(&b, in + at, step < len - at ? step : len - at, out + made, room, &used, &n);

        if (r < 0)
            return r;
        at += used;
        made += n;
    }
    *ret_made = made;
    *ret_done = b.done;
    return 0;
}

static void test_chunks(void **unused)
{
    const char *text = "5\r\nhello\r\n6;ext=\"x\"\r\n world\r\n0\r\nTrailer: x\r\n\r\n";
    char out[64];
    size_t made;
    bool done;

    for (size_t step = 1; step < strlen(text); step++)
        for (size_t room = 1; room < 12; room++) {
            assert_int_equal(decode(text, step, room, out, &made, &done), 0);
            assert_true(done);
            assert_int_equal(made, 11);
            assert_memory_equal(out, "hello world", 11);
        }
    assert_int_equal(decode("5\r\nhel", 64, 64, out, &made, &done), 0);
    assert_false(done);
    assert_int_equal(decode("5\r\nhelloX\r\n", 64, 64, out, &made, &done), -EBADMSG);
    assert_int_equal(decode("\r\n", 64, 64, out, &made, &done), -EBADMSG);
    assert_int_equal(decode("g\r\n", 64, 64, out, &made, &done), -EBADMSG);
    assert_int_equal(decode("-5\r\nhello\r\n", 64, 64, out, &made, &done), -EBADMSG);
    assert_int_equal(decode("1111111111111111\r\n", 64, 64, out, &made, &done), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framing),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_partial_and_hop_by_hop),
        cmocka_unit_test(test_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
