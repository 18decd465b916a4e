/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/connection.h"

#include <assert.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/units.h"
#include "proxy/http/status.h"

#define OUT_KEPT 4096                   /* a larger buffer is given back when its answer is over */
#define LINGER_US (2 * TB_USEC_PER_SEC) /* for a client to see the last answer */
#define LINGER_MAX (8UL * 1024 * 1024)  /* bytes that it may send meanwhile */

/* Of a body, and of requests on a kept connection, in one turn: then others have theirs. */
#define TURN_BYTES (256 * 1024)
#define TURN_COSTLY (16 * 1024)
#define TURN_REQUEST (32 * 1024) /* what a request counts for, beside its body */

static void connection_task(struct tb_task *t);

/* --- life ----------------------------------------------------------------------------------------------- */

static void connection_event(struct tb_source *s, uint32_t events);

struct tb_connection *tb_connection_new(struct tb_port *p, int fd, const char *address)
{
    struct tb_connection *c = calloc(1, sizeof(*c));

    if (!c) {
        tb_close(fd);
        return NULL;
    }
    c->src.fn = connection_event;
    c->task.fn = connection_task;
    c->port = p;
    c->io = (struct tb_transport){.fd = fd, .can_write = true};
    c->state = p->tls ? TB_CONNECTION_HANDSHAKE : TB_CONNECTION_HEAD;
    c->since_us = c->port->loop->now_us;
    snprintf(c->address, sizeof(c->address), "%s", address);
    if (tb_loop_add(p->loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &c->src) < 0) {
        tb_close(fd);
        free(c);
        return NULL;
    }
    return c;
}

static void connection_release_input(struct tb_connection *c)
{
    tb_port_put_block(c->port, c->in, c->in_size);
    c->in = NULL;
    c->in_size = c->start = c->data = c->raw = c->len = 0;
}

static void connection_end_request(struct tb_connection *c, enum tb_end how)
{
    void *request = c->request;

    c->request = NULL;
    if (request) {
        c->port->n_requests--;
        c->port->handler->end(request, how);
    }
}

void tb_connection_close(struct tb_connection *c, enum tb_end how)
{
    if (c->state == TB_CONNECTION_CLOSED)
        return;
    c->state = TB_CONNECTION_CLOSED;
    tb_transport_close(&c->io);
    tb_loop_cancel(c->port->loop, &c->task);
    connection_end_request(c, how);
    connection_release_input(c);
    tb_buf_free(&c->out);
    c->port->closed(c->port, c);
    tb_loop_free_later(c->port->loop, c);
}

/* --- reading -------------------------------------------------------------------------------------------- */

/* Room for what comes next, in a block that is as large as that asks for. False: no memory. */
static bool connection_make_room(struct tb_connection *c, bool large)
{
    size_t size = large ? TB_BLOCK_LARGE : TB_BLOCK_SMALL;

    if (c->start == c->len)
        c->start = c->data = c->raw = c->len = 0;
    if (c->in && c->len < c->in_size && (c->len > 0 || c->in_size >= size))
        return true;
    if (c->in && c->start > 0) {
        memmove(c->in, c->in + c->start, c->len - c->start);
        c->data -= c->start;
        c->raw -= c->start;
        c->len -= c->start;
        c->start = 0;
        if (c->len < c->in_size)
            return true;
    }
    if (!c->in || c->in_size < size || c->len == c->in_size) {
        char *block = tb_port_get_block(c->port, c->in ? TB_BLOCK_LARGE : size, &size);

        if (!block || size <= c->len) {
            tb_port_put_block(c->port, block, size);
            return false;
        }
        if (c->len > 0)
            memcpy(block, c->in, c->len);
        tb_port_put_block(c->port, c->in, c->in_size);
        c->in = block;
        c->in_size = size;
    }
    return true;
}

/* > 0, 0 at the end, -EAGAIN, -errno. */
static ssize_t connection_fill(struct tb_connection *c, bool large)
{
    ssize_t n;

    if (!c->io.can_read)
        return -EAGAIN;
    if (!connection_make_room(c, large))
        return -ENOMEM;
    n = tb_transport_recv(&c->io, c->in + c->len, c->in_size - c->len);
    if (n > 0)
        c->len += (size_t)n;
    return n;
}

/* --- the head ------------------------------------------------------------------------------------------- */

static void connection_start_request(struct tb_connection *c, struct tb_request *rq)
{
    static const struct tb_refusal plain = {TB_HTTP_BAD_REQUEST, "plain_http",
                                            "this port speaks TLS: use https"};

    if (c->plain_http)
        rq->refusal = plain;
    rq->gone = c->waited && (c->io.reset || c->broken);
    c->waited = false;
    c->state = TB_CONNECTION_REQUEST;
    c->scan = (struct tb_request_scan){0};
    c->line_us = c->slow_us = c->bytes_in = c->bytes_out = c->looked_in = c->looked_out = 0;
    c->silent_us = c->silent_out = c->ask_us = 0;
    c->keep_alive = rq->keep_alive;
    c->minor0 = rq->minor == 0;
    c->start = c->data = c->raw;
    c->body_ended = c->body_blocked = c->answering = c->answer_ended = c->want_room = c->close = c->deaf =
        false;
    c->body_large = rq->length > TB_BLOCK_SMALL;
    c->costly = false;
    c->turn -= MIN(c->turn, (size_t)TURN_REQUEST);
    if (rq->refusal.status || tb_request_verify(rq))
        c->close = c->deaf = true; /* nobody can tell what follows */
    else
        tb_request_body_init(&c->body, rq);
    if (c->port->n_requests++ == 0)
        c->port->busy(c->port);
    c->request = c->port->handler->begin(c->port->arg, c, rq);
    if (!c->request) {
        c->port->n_requests--;
        tb_connection_close(c, TB_END_ABORTED);
    }
}

/* A head that will not be complete. */
static void connection_refuse_head(struct tb_connection *c, int status, const char *code, const char *why)
{
    struct tb_request *rq = &c->port->request;

    tb_request_parse_line(c->in + c->raw, c->len - c->raw, rq);
    rq->refusal = (struct tb_refusal){status, code, why};
    connection_start_request(c, rq);
}

/* More than the empty lines that some clients send behind a body. */
static bool connection_head_has_begun(const struct tb_connection *c)
{
    for (size_t i = c->raw; i < c->len; i++)
        if (c->in[i] != '\r' && c->in[i] != '\n')
            return true;
    return false;
}

static void connection_head_cut(struct tb_connection *c)
{
    if (connection_head_has_begun(c))
        connection_refuse_head(c, TB_HTTP_BAD_REQUEST, "malformed_request",
                               "the head of the request is not complete");
    else
        tb_connection_close(c, TB_END_GONE);
}

/* True when the state has changed. */
static bool connection_read_head(struct tb_connection *c)
{
    for (;;) {
        struct tb_request *rq = &c->port->request;
        ssize_t n = 0;

        if (tb_connection_shall_wait(c))
            return false;
        if (c->len > c->raw)
            n = tb_request_parse(c->in + c->raw, c->len - c->raw, &c->scan, rq);
        if (n != 0) {
            c->raw += n > 0 ? (size_t)n : 0;
            connection_start_request(c, rq);
            return true;
        }
        if (c->scan.line_seen && c->line_us == 0)
            c->line_us = c->port->loop->now_us;
        c->start = c->data = c->raw;
        n = connection_fill(c, false);
        if (n > 0)
            continue;
        if (n != -EAGAIN) {
            connection_head_cut(c);
            return true;
        }
        if (c->len == c->raw)
            connection_release_input(c);
        return false;
    }
}

/* --- the body ------------------------------------------------------------------------------------------- */

/* The rest of the body will not come. When the answer did not wait for it, the answer stands. */
static void connection_refuse_body(struct tb_connection *c, const struct tb_refusal *why)
{
    c->close = c->deaf = true;
    if (!c->answer_ended)
        c->port->handler->refuse(c->request, why);
}

static void connection_give_body(struct tb_connection *c)
{
    /* All that was read, though it may be a little more than the turn has left: the runtime is not woken for
     * the rest by itself. Bytes that cost more are counted exactly. */
    size_t offered = c->costly ? MIN(c->data - c->start, c->turn) : c->data - c->start;
    size_t n = c->port->handler->body(c->request, c->in + c->start, offered);

    assert(n <= offered);
    c->start += n;
    c->bytes_in += n;
    c->turn -= MIN(n, c->turn);
    c->body_blocked = n < offered;
}

static bool connection_wants_body(const struct tb_connection *c)
{
    return !c->body_ended && !c->body_blocked && !c->deaf && !c->aborted;
}

/* Hands over what is there, reads more, and so on. False when the connection is closed. */
static bool connection_read_body(struct tb_connection *c)
{
    while (connection_wants_body(c) && c->turn > 0) {
        const char *why;
        size_t used, made;
        ssize_t n;

        if (c->start < c->data) {
            connection_give_body(c);
        } else if (c->body.done) {
            c->body_ended = true;
            if (c->raw == c->len)
                connection_release_input(c);
            c->port->handler->body_end(c->request);
        } else if (c->raw < c->len) {
            if (tb_request_body_decode(&c->body, c->in + c->raw, c->len - c->raw, &used, &made, &why) < 0) {
                struct tb_refusal r = {TB_HTTP_BAD_REQUEST, "malformed_request", why};

                connection_refuse_body(c, &r);
                return true;
            }
            c->start = c->raw;
            c->data = c->raw + made;
            c->raw += used;
        } else {
            n = connection_fill(c, c->body_large || c->bytes_in > TB_BLOCK_LARGE);
            if (n == -EAGAIN) {
                connection_release_input(c);
                return true;
            }
            if (n <= 0 && c->answer_ended) {
                c->close = c->deaf = true; /* it did not wait for the body, and stands */
            } else if (n <= 0) {
                tb_connection_close(c, TB_END_GONE);
                return false;
            }
        }
    }
    if (connection_wants_body(c))
        tb_connection_later(c);
    return true;
}

void tb_connection_set_costly(struct tb_connection *c)
{
    c->costly = true;
    c->turn = MIN(c->turn, (size_t)TURN_COSTLY);
}

/* --- going on ------------------------------------------------------------------------------------------- */

/* Closes, or reads on for a moment when the client may still be sending: closing then would reset what it
 * has not read yet. */
static void connection_leave(struct tb_connection *c)
{
    bool all_read = c->body_ended && c->raw == c->len && !c->io.can_read;

    if (all_read) {
        if (c->io.ssl)
            tb_transport_shut(&c->io);
        return tb_connection_close(c, TB_END_COMPLETE);
    }
    tb_transport_shut(&c->io);
    c->state = TB_CONNECTION_LINGER;
    c->since_us = c->port->loop->now_us;
    c->lingered = 0;
}

static void connection_finish(struct tb_connection *c)
{
    connection_end_request(c, TB_END_COMPLETE);
    if (c->out.cap > OUT_KEPT)
        tb_buf_free(&c->out);
    if (c->close)
        return connection_leave(c);
    c->start = c->data = c->raw;
    if (c->raw == c->len)
        connection_release_input(c);
    c->state = TB_CONNECTION_HEAD;
    c->kept = true;
    c->since_us = c->port->loop->now_us;
}

/* True when the state has changed. */
static bool connection_serve(struct tb_connection *c)
{
    bool answered;

    if (!tb_connection_out_is_empty(c))
        tb_connection_send_held(c);
    if (c->want_room && tb_connection_has_room(c) && !c->broken && !c->aborted) {
        c->want_room = false;
        c->port->handler->writable(c->request);
    }
    if (!connection_read_body(c))
        return true;
    if (c->aborted || c->broken) {
        tb_connection_close(c, c->aborted ? TB_END_ABORTED : TB_END_GONE);
        return true;
    }
    answered = c->answer_ended && tb_connection_out_is_empty(c);
    if (answered && (c->body_ended || c->deaf)) {
        connection_finish(c);
        return true;
    }
    if (c->io.reset && (c->body_ended || c->body_blocked) && !c->answer_ended) {
        tb_connection_close(c, TB_END_GONE); /* nobody waits for it any more */
        return true;
    }
    if (c->io.hung_up && c->silent_us == 0)
        c->silent_us = tb_now_monotonic_us();
    return false;
}

static bool connection_shake_hands(struct tb_connection *c)
{
    int r = 1;

    if (!c->io.ssl) {
        enum tb_client_hello hello = c->io.can_read ? tb_transport_hello(&c->io) : TB_HELLO_WAIT;

        if (hello == TB_HELLO_WAIT)
            return false;
        c->plain_http = hello == TB_HELLO_PLAIN;
        if (hello == TB_HELLO_NONE ||
            (hello == TB_HELLO_TLS && tb_transport_start_tls(&c->io, c->port->tls->context) < 0))
            r = -ECONNABORTED;
    }
    if (r > 0 && c->io.ssl)
        r = tb_transport_handshake(&c->io);
    if (r < 0)
        tb_connection_close(c, TB_END_GONE);
    else if (r > 0)
        c->state = TB_CONNECTION_HEAD;
    return r != 0;
}

static void connection_linger(struct tb_connection *c)
{
    ssize_t n;

    do {
        c->start = c->data = c->raw = c->len = 0;
        n = connection_fill(c, false);
        c->lingered += n > 0 ? (size_t)n : 0;
    } while (n > 0 && c->lingered < LINGER_MAX);
    if (n != -EAGAIN)
        tb_connection_close(c, TB_END_COMPLETE);
    else
        connection_release_input(c);
}

static void connection_run(struct tb_connection *c)
{
    bool changed = true;

    c->turn = c->costly ? TURN_COSTLY : TURN_BYTES;
    while (changed) {
        if (c->turn == 0 && c->state == TB_CONNECTION_HEAD)
            return tb_connection_later(c); /* requests without a pause, too, leave room for others */
        switch (c->state) {
        case TB_CONNECTION_HANDSHAKE:
            changed = connection_shake_hands(c);
            break;
        case TB_CONNECTION_HEAD:
            changed = connection_read_head(c);
            break;
        case TB_CONNECTION_REQUEST:
            changed = connection_serve(c);
            break;
        case TB_CONNECTION_LINGER:
            connection_linger(c);
            changed = false;
            break;
        case TB_CONNECTION_CLOSED:
            return;
        }
    }
}

static void connection_task(struct tb_task *t)
{
    connection_run(container_of(t, struct tb_connection, task));
}

static void connection_event(struct tb_source *s, uint32_t events)
{
    struct tb_connection *c = container_of(s, struct tb_connection, src);

    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->io.hung_up = true;
    if (events & (EPOLLHUP | EPOLLERR))
        c->io.reset = true;
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->io.can_read = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
        c->io.can_write = true;
    /* A body may cost more to look at than all else, and agreeing on keys does: they take their turn among
     * the tasks, and those who only want an answer do not wait for many of them. The end of a handshake is
     * cheap, and has a request behind it. */
    if ((c->state == TB_CONNECTION_REQUEST && !c->body_ended) ||
        (c->state == TB_CONNECTION_HANDSHAKE && tb_transport_handshake_is_costly(&c->io)))
        tb_connection_later(c);
    else
        connection_run(c);
}

/* --- slow clients --------------------------------------------------------------------------------------- */

bool tb_connection_is_idle(const struct tb_connection *c)
{
    return c->state == TB_CONNECTION_HEAD && c->len == c->raw && c->kept;
}

/* Bytes that the client has taken: what still waits in the socket is not taken. */
static uint64_t connection_taken(const struct tb_connection *c)
{
    uint64_t held = c->out.len - c->out_pos;
    int waiting = 0;

    (void)ioctl(c->io.fd, SIOCOUTQ, &waiting);
    held += waiting > 0 ? (uint64_t)waiting : 0;
    return c->bytes_out - MIN(c->bytes_out, held);
}

/* False while the runtime is waited for, or room at it, or the client is fast enough. */
static bool connection_drags(struct tb_connection *c, uint64_t elapsed_us)
{
    uint64_t since, enough = TB_CLIENT_RATE * elapsed_us / TB_USEC_PER_SEC;

    if (c->answering && !tb_connection_out_is_empty(c)) {
        uint64_t taken = connection_taken(c);

        since = taken - MIN(taken, c->looked_out);
        c->looked_out = taken;
    } else if (!c->body_ended && !c->body_blocked && (!c->answering || c->answer_ended)) {
        since = c->bytes_in - c->looked_in;
        c->looked_in = c->bytes_in;
    } else {
        return false;
    }
    return since < enough;
}

/* A client that has closed its side: whether it still waits. */
static void connection_look_half_closed(struct tb_connection *c, uint64_t now)
{
    uint64_t silent;

    if (!tb_connection_out_is_empty(c) || c->answer_ended)
        return;
    if (c->bytes_out != c->silent_out) { /* what is sent asks as well */
        c->silent_out = c->bytes_out;
        c->silent_us = now;
        c->ask_us = now + TB_CLIENT_ASK_US;
        return;
    }
    silent = now - c->silent_us;
    if (now < MAX(c->ask_us, c->silent_us + TB_CLIENT_ASK_US))
        return;
    if (tb_connection_ask(c)) {
        c->silent_out = c->bytes_out;
        c->ask_us = now + MIN(silent, TB_CLIENT_ASK_MAX_US);
    } else if (silent > TB_CLIENT_SILENT_US) {
        tb_connection_close(c, TB_END_GONE);
    }
}

static void connection_look_request(struct tb_connection *c, uint64_t now, uint64_t elapsed_us)
{
    static const struct tb_refusal slow = {TB_HTTP_REQUEST_TIMEOUT, "client_timeout",
                                           "the body of the request came too slowly"};

    if (c->silent_us > 0) {
        connection_look_half_closed(c, now);
        if (c->state != TB_CONNECTION_REQUEST)
            return;
    }
    if (!connection_drags(c, elapsed_us)) {
        c->slow_us -= MIN(c->slow_us, elapsed_us);
        return;
    }
    c->slow_us += elapsed_us;
    if (c->slow_us <= TB_CLIENT_SLOW_US)
        return;
    if (c->answering && !(c->answer_ended && tb_connection_out_is_empty(c)))
        return tb_connection_close(c, TB_END_SLOW);
    connection_refuse_body(c, &slow);
    tb_connection_later(c);
}

static void connection_look_head(struct tb_connection *c, uint64_t now)
{
    uint64_t limit = c->kept ? TB_CLIENT_KEPT_US : TB_CLIENT_HEAD_US;

    if (c->line_us > 0 ? now - c->line_us > TB_CLIENT_HEAD_US
                       : now - c->since_us > limit && connection_head_has_begun(c)) {
        connection_refuse_head(c, TB_HTTP_REQUEST_TIMEOUT, "client_timeout",
                               "the head of the request came too slowly");
        tb_connection_later(c);
    } else if (c->line_us == 0 && now - c->since_us > limit) {
        tb_connection_close(c, TB_END_SLOW);
    }
}

void tb_connection_look(struct tb_connection *c, uint64_t now_us, uint64_t elapsed_us)
{
    switch (c->state) {
    case TB_CONNECTION_HANDSHAKE:
        if (now_us - c->since_us > TB_CLIENT_HEAD_US)
            tb_connection_close(c, TB_END_SLOW);
        return;
    case TB_CONNECTION_HEAD:
        return c->held ? tb_connection_look_held(c, now_us) : connection_look_head(c, now_us);
    case TB_CONNECTION_REQUEST:
        return connection_look_request(c, now_us, elapsed_us);
    case TB_CONNECTION_LINGER:
        if (now_us - c->since_us > LINGER_US)
            tb_connection_close(c, TB_END_COMPLETE);
        return;
    case TB_CONNECTION_CLOSED:
        return;
    }
}

size_t tb_connection_body_here(const struct tb_connection *c)
{
    return c->data - c->start;
}
