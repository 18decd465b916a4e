/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/upstream.h"

#include <assert.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "proxy/http/socket.h"
#include "proxy/http/upstream_pool.h"

#define SMALL_READ (8 * 1024)
#define SPARE_MAX 256
#define SPARE_BYTES (16 * 1024UL)
#define CHUNK_LINE_MAX 20 /* a chunk's size line */
/* Head and body up to here are copied and kept, so that they can be sent again. What is longer goes out as
 * it comes, and once. */
#define REPLAY_MAX (32 * 1024)

struct tb_call {
    struct tb_upstream *u;
    struct tb_call *next; /* of the spare ones */
    struct tb_upstream_conn *conn;
    void (*on_event)(void *arg);
    void *arg;
    bool head_request, reused, replayable, want_write, write_end, write_broken;
    bool touched;  /* bytes of it may have been seen */
    bool owes_end; /* of a chunked body: the runtime had refused it before */
    bool again;    /* the method may be sent twice (RFC 9110, 9.2.2) */
    int failed;
    enum tb_framing body;
    uint64_t left; /* of the announced length */
    uint64_t received;
    /* Head, framing and kept body on the way; out.data[0..sent) is kept while it may have to be sent
     * again. */
    struct tb_buf out;
    size_t sent;
    size_t chunk_left; /* of a chunk whose size has been announced */
    struct tb_buf in;  /* answer bytes not consumed yet */
    size_t in_pos;
    struct tb_buf head; /* what response points into, once that is not `in` any more */
    bool have_response;
    struct tb_body decoder;
    size_t ready;                /* bytes at in_pos that are body, out of their framing */
    size_t skip;                 /* framing that was behind them */
    struct tb_response response; /* last, as it is not cleared */
};

static void call_read_head(struct tb_call *c);
static void call_conn_event(struct tb_source *s, uint32_t events);
static void call_conn_late(struct tb_upstream_conn *k);

/* --- sending -------------------------------------------------------------------------------------------- */

static void call_fail(struct tb_call *c, int error)
{
    c->failed = error;
    if (c->conn)
        tb_conn_close(c->conn);
    c->conn = NULL;
}

/* Sends what is left of out, then p[0..n). Returns how many bytes of p went out. */
static size_t call_send(struct tb_call *c, const void *p, size_t n)
{
    size_t done = 0;

    while (c->conn && c->conn->connected && c->conn->can_write && (c->sent < c->out.len || done < n)) {
        struct iovec iov[2];
        struct msghdr m = {.msg_iov = iov};
        size_t held = c->out.len - c->sent;
        ssize_t r;

        if (held > 0)
            iov[m.msg_iovlen++] = (struct iovec){c->out.data + c->sent, held};
        if (done < n)
            iov[m.msg_iovlen++] = (struct iovec){(char *)p + done, n - done};
        r = m.msg_iovlen == 1 ? tb_socket_send(c->conn->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                              : sendmsg(c->conn->fd, &m, MSG_NOSIGNAL);
        if (r >= 0) {
            c->sent += MIN((size_t)r, held);
            /* Not all of it: the socket is full, and says when it is not. */
            c->conn->can_write = (size_t)r == held + (n - done);
            done += (size_t)r - MIN((size_t)r, held);
            c->touched = true;
        } else if (errno == EAGAIN) {
            c->conn->can_write = false;
        } else if (errno != EINTR) {
            /* The runtime stopped reading; it may have answered before it did. */
            c->write_broken = true;
            c->sent = c->out.len;
            c->conn->can_read = true;
            return n;
        }
    }
    return done;
}

static void call_flush(struct tb_call *c)
{
    (void)call_send(c, NULL, 0);
}

/* An error that came before the end of the request body: the runtime does not want the rest. */
static bool refused_early(const struct tb_call *c)
{
    return c->have_response && c->response.status >= 400;
}

/* Drops what was sent of out, which can then not be sent again. */
static void call_give_up_replay(struct tb_call *c)
{
    c->replayable = false;
    tb_buf_consume(&c->out, c->sent);
    c->sent = 0;
}

/* A short body: all of it is kept beside the head. */
static size_t call_write_kept(struct tb_call *c, const void *p, size_t n)
{
    if (c->body == TB_FRAMING_CHUNKED)
        (void)tb_body_put_chunk_size(&c->out, n);
    (void)tb_buf_append(&c->out, p, n);
    if (c->body == TB_FRAMING_CHUNKED)
        (void)tb_buf_append(&c->out, "\r\n", 2);
    if (tb_buf_error(&c->out) < 0)
        call_fail(c, tb_buf_error(&c->out));
    else
        call_flush(c);
    return n;
}

/* A longer one goes out from where it lies. */
static size_t call_write_through(struct tb_call *c, const void *p, size_t n)
{
    size_t sent;

    if (c->replayable)
        call_give_up_replay(c);
    if (c->body != TB_FRAMING_CHUNKED)
        return call_send(c, p, n);
    if (c->chunk_left == 0) {
        if (c->sent < c->out.len)
            call_flush(c);
        if (c->sent < c->out.len)
            return 0;
        call_give_up_replay(c);
        c->chunk_left = n;
        if (tb_body_put_chunk_size(&c->out, n) < 0) {
            call_fail(c, -ENOMEM);
            return n;
        }
    }
    sent = call_send(c, p, MIN(n, c->chunk_left));
    c->chunk_left -= sent;
    if (sent > 0 && c->chunk_left == 0)
        (void)tb_buf_append(&c->out, "\r\n", 2); /* leaves with what follows */
    return sent;
}

size_t tb_call_write(struct tb_call *c, const void *p, size_t n)
{
    size_t taken = 0;

    assert(!c->write_end);
    if (n == 0 || c->failed || c->write_broken || refused_early(c))
        return n;
    if (c->body != TB_FRAMING_CHUNKED && n > c->left) {
        call_fail(c, -EMSGSIZE); /* the rest would be the runtime's next request */
        return n;
    }
    if (c->replayable && c->out.len + n + CHUNK_LINE_MAX <= REPLAY_MAX)
        taken = call_write_kept(c, p, n);
    else
        /* A chunk that was announced may end before p does: as long as the runtime takes it, another
         * follows. */
        for (size_t sent = 1; sent > 0 && taken < n && !c->failed && !c->write_broken; taken += sent)
            sent = call_write_through(c, (const char *)p + taken, n - taken);
    if (c->write_broken)
        taken = n;
    if (c->body != TB_FRAMING_CHUNKED && !c->failed)
        c->left -= taken;
    c->want_write = taken < n;
    return taken;
}

void tb_call_write_end(struct tb_call *c)
{
    if (c->write_end)
        return;
    c->write_end = true;
    c->owes_end = c->body == TB_FRAMING_CHUNKED;
    if (c->failed || c->write_broken || refused_early(c))
        return;
    if (c->left > 0 || c->chunk_left > 0)
        return call_fail(c, -EMSGSIZE);
    if (c->body == TB_FRAMING_CHUNKED && tb_buf_puts(&c->out, "0\r\n\r\n") < 0)
        return call_fail(c, -ENOMEM);
    c->owes_end = false;
    call_flush(c);
    if (c->write_broken && !c->have_response)
        call_read_head(c);
}

/* --- receiving ------------------------------------------------------------------------------------------ */

/* How much to read at once. Heads, short answers and events need little room, and hundreds of streams
 * stand side by side for long. */
static size_t fill_size(const struct tb_call *c)
{
    return c->have_response && !c->response.event_stream ? TB_UPSTREAM_BUFFER / 2 : SMALL_READ;
}

/* Reads once into c->in. > 0, 0 at end of stream, -EAGAIN, other -errno. */
static ssize_t call_fill(struct tb_call *c)
{
    size_t size = fill_size(c);
    ssize_t n;

    if (!c->conn || !c->conn->can_read)
        return -EAGAIN;
    if (c->have_response && !c->head.data) { /* its strings stay where they are */
        c->head = c->in;
        c->in = (struct tb_buf){0};
        (void)tb_buf_append(&c->in, c->head.data + c->in_pos, c->head.len - c->in_pos);
        c->in_pos = 0;
    }
    if (c->in_pos > 0) {
        tb_buf_consume(&c->in, c->in_pos);
        c->in_pos = 0;
    }
    if (tb_buf_reserve(&c->in, size) < 0)
        return -ENOMEM;
    do
        n = tb_socket_recv(c->conn->fd, c->in.data + c->in.len, size, 0);
    while (n < 0 && errno == EINTR);
    /* Less than asked for: there is no more, and what comes next is announced. The end is announced with
     * the last bytes. */
    if (n < 0 ? errno == EAGAIN : (size_t)n < size && !c->conn->ended)
        c->conn->can_read = false;
    if (n < 0)
        return -errno;
    c->in.len += (size_t)n;
    c->received += (uint64_t)n;
    return n;
}

/* The runtime closed a kept connection just as we used it: send the request again, once. Not when it may
 * have been read and must not be done twice. */
static bool call_replay(struct tb_call *c)
{
    if (!c->reused || !c->replayable || c->received > 0 || (c->touched && !c->again))
        return false;
    tb_conn_close(c->conn);
    c->conn = NULL;
    c->reused = c->write_broken = false;
    c->sent = 0;
    if (tb_conn_open(c->u, call_conn_event, call_conn_late, &c->conn) < 0)
        return false;
    c->conn->call = c;
    call_flush(c);
    return true;
}

/* Takes interim answers and then the final head out of c->in. 1 when it is there, 0 to go on reading,
 * -errno. */
static int take_head(struct tb_call *c)
{
    for (;;) {
        ssize_t n = tb_response_parse(c->in.data, c->in.len, c->head_request, &c->response);

        if (n <= 0)
            return (int)n;
        if (c->response.status == 101)
            return -EBADMSG;
        if (c->response.status >= 200) {
            c->in_pos = (size_t)n; /* the body's first bytes stay behind it until more is read */
            return 1;
        }
        tb_buf_consume(&c->in, (size_t)n);
    }
}

static void call_read_head(struct tb_call *c)
{
    while (!c->have_response && c->conn && c->conn->can_read) {
        ssize_t n = call_fill(c);
        int r;

        if (n == -EAGAIN)
            return;
        if (n <= 0) {
            if (!call_replay(c))
                call_fail(c, n == -ENOMEM ? -ENOMEM : -ECONNRESET);
            continue;
        }
        r = take_head(c);
        if (r < 0)
            return call_fail(c, r == -ENOMEM ? r : -EBADMSG);
        if (r > 0) {
            c->have_response = true;
            tb_body_init(&c->decoder, c->response.framing, c->response.length);
        }
    }
}

bool tb_call_whole(const struct tb_call *c)
{
    return c->have_response && c->decoder.framing == TB_FRAMING_LENGTH &&
           c->in.len - c->in_pos - c->ready - c->skip >= c->decoder.left;
}

/* No more will come: what that means. */
static ssize_t call_read_end(struct tb_call *c, ssize_t got)
{
    if (got == 0 && c->decoder.framing == TB_FRAMING_CLOSE) {
        c->decoder.done = true;
        return 0;
    }
    return -ECONNABORTED;
}

ssize_t tb_call_peek(struct tb_call *c, const char **ret)
{
    for (;;) {
        char *p = c->in.data + c->in_pos;
        size_t used, made;
        ssize_t got;

        if (c->ready > 0) {
            *ret = p;
            return (ssize_t)c->ready;
        }
        if (tb_body_decode(&c->decoder, p, c->in.len - c->in_pos, p, c->in.len - c->in_pos, &used, &made) < 0)
            return -EBADMSG;
        c->ready = made;
        c->skip = used - made;
        if (made > 0)
            continue;
        c->in_pos += used;
        if (c->decoder.done)
            return 0;
        got = call_fill(c);
        if (got == -EAGAIN && c->conn)
            return -EAGAIN;
        if (got <= 0)
            return call_read_end(c, got);
    }
}

void tb_call_consume(struct tb_call *c, size_t n)
{
    assert(n <= c->ready);
    c->ready -= n;
    c->in_pos += n;
    if (c->ready == 0) {
        c->in_pos += c->skip;
        c->skip = 0;
    }
}

ssize_t tb_call_read(struct tb_call *c, char *buf, size_t n)
{
    const char *p;
    ssize_t have = tb_call_peek(c, &p);

    if (have <= 0)
        return have;
    have = (ssize_t)MIN((size_t)have, n);
    memcpy(buf, p, (size_t)have);
    tb_call_consume(c, (size_t)have);
    return have;
}

/* --- events --------------------------------------------------------------------------------------------- */

static void conn_connected(struct tb_upstream_conn *k)
{
    socklen_t len = sizeof(int);
    int error = 0;

    if (getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        error = errno;
    if (error) {
        call_fail(k->call, error == ETIMEDOUT ? -ETIMEDOUT : -ECONNREFUSED);
        return;
    }
    tb_conn_connected(k);
}

static void call_advance(struct tb_call *c)
{
    bool was_full = c->want_write;

    /* Closed while the request's body was still waited for: nothing of it is lost. */
    if (c->conn && c->conn->ended && !c->touched)
        (void)call_replay(c);
    call_flush(c);
    if (!c->have_response)
        call_read_head(c);
    if (was_full && (c->sent == c->out.len || c->have_response || c->failed))
        c->want_write = false;
    c->on_event(c->arg);
}

static void call_conn_event(struct tb_source *s, uint32_t events)
{
    struct tb_upstream_conn *k = container_of(s, struct tb_upstream_conn, src);
    struct tb_call *c = k->call;

    if (k->fd < 0)
        return; /* closed earlier in this batch */
    if (!c) {
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            tb_conn_ended_idle(k);
        return;
    }
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        k->ended = true;
    if (!k->connected && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        conn_connected(k);
    if (c->conn == k) {
        if (events & EPOLLOUT)
            k->can_write = true;
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            k->can_read = true;
    }
    call_advance(c);
}

static void call_conn_late(struct tb_upstream_conn *k)
{
    struct tb_call *c = k->call;

    call_fail(c, -ETIMEDOUT);
    c->on_event(c->arg);
}

/* --- calls ---------------------------------------------------------------------------------------------- */

static int write_head(struct tb_call *c, const struct tb_call_request *rq)
{
    struct tb_buf *o = &c->out;
    int r = tb_buf_reserve(o, rq->lines->len + strlen(rq->target) + 512);

    if (r < 0)
        return r;
    (void)tb_buf_puts(o, rq->method);
    (void)tb_buf_puts(o, " ");
    (void)tb_buf_puts(o, c->u->at.prefix);
    (void)tb_buf_puts(o, rq->target);
    (void)tb_buf_puts(o, " HTTP/1.1\r\n");
    (void)tb_buf_append(o, rq->lines->data, rq->lines->len);
    if (rq->body == TB_FRAMING_LENGTH) {
        (void)tb_buf_puts(o, "Content-Length: ");
        (void)tb_buf_uint(o, rq->length);
        (void)tb_buf_puts(o, "\r\n");
    } else if (rq->body == TB_FRAMING_CHUNKED)
        (void)tb_buf_puts(o, "Transfer-Encoding: chunked\r\n");
    return tb_buf_puts(o, "\r\n");
}

static bool may_repeat(const char *method)
{
    static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"};

    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (method[0] == methods[i][0] && strcmp(method, methods[i]) == 0)
            return true;
    return false;
}

/* A call with nothing in it; its buffers may have memory already. */
static struct tb_call *call_new(struct tb_upstream *u)
{
    struct tb_call *c = u->spare;
    struct tb_buf out = {0}, in = {0};

    if (c) {
        u->spare = c->next;
        u->n_spare--;
        out = c->out;
        in = c->in;
    } else {
        c = malloc(sizeof(*c));
        if (!c)
            return NULL;
    }
    memset(c, 0, offsetof(struct tb_call, response));
    c->out = out;
    c->in = in;
    return c;
}

static void call_release(struct tb_call *c)
{
    struct tb_upstream *u = c->u;

    tb_buf_free(&c->head);
    if (u->n_spare < SPARE_MAX && c->out.cap <= SPARE_BYTES && c->in.cap <= SPARE_BYTES) {
        tb_buf_clear(&c->out);
        tb_buf_clear(&c->in);
        c->next = u->spare;
        u->spare = c;
        u->n_spare++;
        return;
    }
    tb_buf_free(&c->out);
    tb_buf_free(&c->in);
    free(c);
}

static void call_free_spare(struct tb_upstream *u)
{
    while (u->spare) {
        struct tb_call *next = u->spare->next;

        tb_buf_free(&u->spare->out);
        tb_buf_free(&u->spare->in);
        free(u->spare);
        u->spare = next;
    }
}

int tb_call_start(struct tb_upstream *u, const struct tb_call_request *rq, struct tb_call **ret)
{
    struct tb_call *c = call_new(u);
    int r;

    if (!c)
        return -ENOMEM;
    c->u = u;
    c->on_event = rq->on_event;
    c->arg = rq->arg;
    c->body = rq->body;
    c->left = rq->body == TB_FRAMING_LENGTH ? rq->length : 0;
    c->head_request = strcmp(rq->method, "HEAD") == 0;
    c->again = may_repeat(rq->method);
    c->replayable = true;
    r = write_head(c, rq);
    if (r < 0) {
        tb_call_free(c);
        return r;
    }
    c->conn = tb_conn_from_pool(u);
    c->reused = c->conn != NULL;
    if (!c->conn) {
        r = tb_conn_open(u, call_conn_event, call_conn_late, &c->conn);
        if (r < 0)
            c->failed = r == -ENOMEM ? r : -ECONNREFUSED;
    }
    if (c->conn)
        c->conn->call = c;
    if (rq->body == TB_FRAMING_NONE) /* else the head leaves with the first of the body */
        call_flush(c);
    *ret = c;
    return 0;
}

int tb_call_failed(const struct tb_call *c)
{
    return c->failed;
}

const struct tb_response *tb_call_response(const struct tb_call *c)
{
    return c->have_response ? &c->response : NULL;
}

void tb_call_free(struct tb_call *c)
{
    if (!c)
        return;
    if (c->conn) {
        /* The runtime has had all of the request, and we have had all of the answer. */
        bool clean = c->have_response && c->decoder.done && c->response.keep_alive && c->write_end &&
                     !c->failed && !c->write_broken && c->left == 0 && c->chunk_left == 0 && !c->owes_end &&
                     c->sent == c->out.len && c->in_pos == c->in.len;

        if (clean)
            tb_conn_to_pool(c->conn);
        else
            tb_conn_close(c->conn);
    }
    call_release(c);
}

void tb_upstream_free(struct tb_upstream *u)
{
    if (!u)
        return;
    while (u->idle)
        tb_conn_close(u->idle);
    tb_timer_stop(u->loop, &u->look);
    call_free_spare(u);
    free(u);
}
