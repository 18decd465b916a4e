/* SPDX-License-Identifier: Apache-2.0 */
/* The server's side of a connection, fed through a socket pair: what a client sends, in pieces, and a handler that answers in one of several
 * ways, takes bodies in parts, or breaks off. Each request that begins must end once; what the client gets must be whole answers. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/macros.h"
#include "proxy/http/connection.h"
#include "proxy/http/listener.h"
#include "proxy/http/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tb_loop loop;
static struct tb_listener listener;
static unsigned begun, ended;
static uint8_t way; /* how the handler behaves */

struct request {
    struct tb_connection *c;
    bool replied, body_ended, head_request;
    unsigned calls;
};

static void reply(struct request *r, int status, bool close)
{
    struct tb_reply answer = {0};

    r->replied = true;
    tb_reply_text(&answer, status, "text", 4, "text/plain");
    tb_connection_reply(r->c, &answer, r->head_request, close);
    tb_reply_clear(&answer);
}

static void *fuzz_begin(void *arg, struct tb_connection *c, const struct tb_request *rq)
{
    struct request *r = calloc(1, sizeof(*r));

    for (size_t i = 0; i < rq->n_fields; i++)
        if (strlen(rq->field[i].name) != rq->field[i].name_len ||
            strlen(rq->field[i].value) != rq->field[i].value_len)
            abort();
    begun++;
    r->c = c;
    r->head_request = strcmp(rq->method, "HEAD") == 0;
    if (rq->refusal.status)
        reply(r, rq->refusal.status, true);
    else if (tb_request_verify(rq))
        reply(r, TB_HTTP_BAD_REQUEST, true);
    else if (way & 1)
        reply(r, TB_HTTP_OK, way & 2);
    else if (rq->expect_continue)
        tb_connection_continue(c);
    return r;
}

static size_t fuzz_body(void *request, const char *p, size_t n)
{
    struct request *r = request;
    volatile char last = n > 0 ? p[n - 1] : 0;

    (void)last;
    if (n == 0)
        abort();
    if (way & 4 && !r->replied && r->calls++ == 1)
        reply(r, TB_HTTP_CONTENT_TOO_LARGE, false);
    if (way & 8)
        tb_connection_abort(r->c);
    return way & 16 ? n / 2 : n;
}

/* An answer in pieces, of a length that is announced or not. */
static void stream(struct request *r)
{
    struct tb_buf fields = {0};
    struct tb_answer_head h = {.status = 200,
                               .fields = &fields,
                               .framing = way & 32 ? TB_FRAMING_CHUNKED : TB_FRAMING_LENGTH,
                               .length = 11};

    r->replied = true;
    if (r->head_request) {
        h.framing = TB_FRAMING_NONE;
        h.announce = true;
    }
    tb_connection_answer(r->c, &h);
    tb_connection_flush(r->c);
    (void)tb_connection_write(r->c, "hello ", 6);
    (void)tb_connection_write(r->c, "world", 5);
    tb_connection_write_end(r->c);
}

static void fuzz_body_end(void *request)
{
    struct request *r = request;

    if (r->body_ended)
        abort();
    r->body_ended = true;
    if (!r->replied)
        stream(r);
}

static void fuzz_refuse(void *request, const struct tb_refusal *why)
{
    struct request *r = request;

    if (r->replied)
        tb_connection_abort(r->c);
    else
        reply(r, why->status, true);
}

static void fuzz_writable(void *request)
{
}

static bool fuzz_ask(void *request)
{
    return false;
}

static void fuzz_end(void *request, enum tb_end how)
{
    ended++;
    free(request);
}

static const struct tb_handler handler = {fuzz_begin,  NULL,          fuzz_body, fuzz_body_end,
                                          fuzz_refuse, fuzz_writable, fuzz_ask,  fuzz_end};

static struct tb_connection *connect_pair(int *ret_client)
{
    struct tb_connection *c;
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        abort();
    c = tb_connection_new(&listener.port, pair[0], "192.0.2.1");
    assert(c);
    LIST_INSERT_HEAD(&listener.connections, c, entry);
    listener.n++;
    *ret_client = pair[1];
    return c;
}

static void turn(int client, char *out, size_t *len, size_t max)
{
    ssize_t n;

    /* A handler that took a part of a body is asked again. */
    if (!LIST_EMPTY(&listener.connections))
        tb_connection_resume(LIST_FIRST(&listener.connections));
    if (tb_loop_once(&loop, 0) < 0)
        abort();
    while (*len < max && (n = recv(client, out + *len, max - *len, 0)) > 0)
        *len += (size_t)n;
}

/* Whole answers and nothing between them, up to one that was broken off. */
static void check_answers(const char *out, size_t len)
{
    if (len > 0 && (len < 9 || memcmp(out, "HTTP/1.1 ", 9) != 0))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char out[256 * 1024];
    static int listening[2] = {-1, -1};
    size_t step, len = 0;
    int client;

    if (size < 3)
        return 0;
    way = data[0];
    step = 1 + data[1] * 4U;
    data += 2;
    size -= 2;
    if (tb_loop_init(&loop) < 0 || (listening[0] < 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, listening) < 0))
        abort();
    listener = (struct tb_listener){.port = {.loop = &loop, .handler = &handler}, .max = 10};
    if (tb_listener_start(&listener, dup(listening[0])) < 0)
        abort();
    begun = ended = 0;
    (void)connect_pair(&client);
    for (size_t at = 0; at < size; at += step) {
        if (send(client, data + at, MIN(step, size - at), MSG_NOSIGNAL) < 0)
            break;
        turn(client, out, &len, sizeof(out));
    }
    for (int i = 0; i < 4; i++)
        turn(client, out, &len, sizeof(out));
    if (way & 64)
        shutdown(client, SHUT_WR);
    turn(client, out, &len, sizeof(out));
    close(client);
    for (int i = 0; i < 2; i++)
        if (tb_loop_once(&loop, 0) < 0)
            abort();
    close(listener.fd);
    tb_listener_stop(&listener);
    tb_loop_done(&loop);
    if (begun != ended || listener.n != 0)
        abort();
    check_answers(out, len);
    return 0;
}
