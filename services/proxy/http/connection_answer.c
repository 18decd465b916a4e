/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's answers: what the handler gives, in its framing, to a socket that takes as much as it
 * will. */
#include <assert.h>
#include <string.h>

#include "proxy/http/connection.h"
#include "proxy/http/status.h"

#define SMALL_PIECE 2048
#define OUT_HELD (64 * 1024) /* of an answer, for a client that does not take it */

void tb_connection_later(struct tb_connection *c)
{
    tb_loop_defer(c->port->loop, &c->task);
}

static bool connection_out_is_short(const struct tb_connection *c)
{
    return c->out_pos == 0 && c->out.len <= SMALL_PIECE;
}

bool tb_connection_out_is_empty(const struct tb_connection *c)
{
    return c->out_pos == c->out.len;
}

/* Sends what is held back, then p[0..n) and its end, as far as the socket takes them. Returns how many
 * bytes of p and end; the connection is aborted when it is broken. */
static size_t connection_send(struct tb_connection *c, const void *p, size_t n, const char *end,
                              size_t end_len)
{
    size_t held = c->out.len - c->out_pos, done = 0;

    while (held + n + end_len > done) {
        struct iovec iov[3];
        int k = 0;
        ssize_t r;

        if (done < held)
            iov[k++] = (struct iovec){c->out.data + c->out_pos + done, held - done};
        if (done < held + n && n > 0)
            iov[k++] = (struct iovec){(char *)p + (done > held ? done - held : 0),
                                      n - (done > held ? done - held : 0)};
        if (end_len > 0)
            iov[k++] = (struct iovec){(char *)end + (done > held + n ? done - held - n : 0),
                                      end_len - (done > held + n ? done - held - n : 0)};
        r = tb_transport_send(&c->io, iov, k);
        if (r < 0) {
            if (r != -EAGAIN)
                c->broken = true;
            break;
        }
        done += (size_t)r;
    }
    if (done < held) {
        c->out_pos += done;
        return 0;
    }
    c->out.len = c->out_pos = 0;
    return done - held;
}

/* What the socket did not take is held back. */
void tb_connection_send_held(struct tb_connection *c)
{
    (void)connection_send(c, NULL, 0, NULL, 0);
}

static void connection_hold(struct tb_connection *c, const char *p, size_t n)
{
    if (c->out_pos > 0) {
        tb_buf_consume(&c->out, c->out_pos);
        c->out_pos = 0;
    }
    if (n > 0 && tb_buf_append(&c->out, p, n) < 0)
        tb_connection_abort(c);
}

void tb_connection_flush(struct tb_connection *c)
{
    if (!tb_connection_out_is_empty(c))
        tb_connection_send_held(c);
    if (c->broken)
        tb_connection_later(c);
}

bool tb_connection_has_room(const struct tb_connection *c)
{
    return c->out.len - c->out_pos < OUT_HELD;
}

static void connection_put_status(struct tb_buf *b, int status)
{
    const char *reason = tb_http_reason(status);
    char line[13] = "HTTP/1.1 000 ";

    line[9] = (char)('0' + status / 100 % 10);
    line[10] = (char)('0' + status / 10 % 10);
    line[11] = (char)('0' + status % 10);
    (void)tb_buf_append(b, line, sizeof(line));
    (void)tb_buf_puts(b, reason);
    (void)tb_buf_append(b, "\r\n", 2);
}

/* What the body's end is told by, and what follows. */
static void connection_put_framing(struct tb_connection *c, const struct tb_answer_head *h)
{
    struct tb_buf *b = &c->out;

    if (c->framing == TB_FRAMING_CHUNKED)
        (void)tb_buf_puts(b, "Transfer-Encoding: chunked\r\n");
    else if (c->framing == TB_FRAMING_LENGTH || h->announce) {
        (void)tb_buf_puts(b, "Content-Length: ");
        (void)tb_buf_uint(b, h->length);
        (void)tb_buf_append(b, "\r\n", 2);
    }
    if (c->close)
        (void)tb_buf_puts(b, "Connection: close\r\n");
    else if (c->minor0)
        (void)tb_buf_puts(b, "Connection: keep-alive\r\n");
}

void tb_connection_answer(struct tb_connection *c, const struct tb_answer_head *h)
{
    assert(c->state == TB_CONNECTION_REQUEST && !c->answering);
    c->answering = true;
    c->framing = h->framing;
    c->left = h->framing == TB_FRAMING_LENGTH ? h->length : 0;
    if (c->framing == TB_FRAMING_CHUNKED && c->minor0)
        c->framing = TB_FRAMING_CLOSE;
    c->deaf |= h->close;
    c->close |= !c->keep_alive || h->close || c->framing == TB_FRAMING_CLOSE || c->port->draining;
    connection_hold(c, NULL, 0);
    connection_put_status(&c->out, h->status);
    if (!h->has_date)
        (void)tb_buf_puts(&c->out, tb_port_date(c->port));
    (void)tb_buf_append(&c->out, h->fields->data, h->fields->len);
    connection_put_framing(c, h);
    if (tb_buf_append(&c->out, "\r\n", 2) < 0 || tb_buf_error(h->fields) < 0)
        tb_connection_abort(c);
}

static void connection_send_or_hold(struct tb_connection *c, const char *p, size_t n, const char *end,
                                    size_t end_len)
{
    size_t sent;

    if (n <= SMALL_PIECE && connection_out_is_short(c)) { /* one piece is sent faster than three */
        connection_hold(c, p, n);
        connection_hold(c, end, end_len);
        tb_connection_send_held(c);
        return;
    }
    sent = connection_send(c, p, n, end, end_len);
    if (sent == n + end_len || c->broken)
        return;
    connection_hold(c, p + MIN(sent, n), n - MIN(sent, n));
    connection_hold(c, end + (sent > n ? sent - n : 0), end_len - (sent > n ? sent - n : 0));
}

bool tb_connection_write(struct tb_connection *c, const void *p, size_t n)
{
    const char *end = "";
    size_t end_len = 0;

    assert(c->answering && !c->answer_ended);
    if (n == 0 || c->framing == TB_FRAMING_NONE || c->aborted || c->broken)
        return true;
    if (c->framing == TB_FRAMING_LENGTH) {
        if (n > c->left) {
            tb_connection_abort(c);
            return true;
        }
        c->left -= n;
    }
    if (c->framing == TB_FRAMING_CHUNKED) {
        (void)tb_body_put_chunk_size(&c->out, n);
        end = "\r\n";
        end_len = 2;
    }
    c->bytes_out += n;
    connection_send_or_hold(c, p, n, end, end_len);
    if (c->broken)
        tb_connection_later(c);
    c->want_room = !tb_connection_has_room(c);
    return !c->want_room;
}

void tb_connection_write_end(struct tb_connection *c)
{
    assert(c->answering);
    if (c->answer_ended)
        return;
    c->answer_ended = true;
    if (c->framing == TB_FRAMING_LENGTH && c->left > 0)
        return tb_connection_abort(c);
    if (c->framing == TB_FRAMING_CHUNKED && tb_buf_append(&c->out, "0\r\n\r\n", 5) < 0)
        return tb_connection_abort(c);
    tb_connection_flush(c);
    tb_connection_later(c);
}

void tb_connection_abort(struct tb_connection *c)
{
    c->aborted = true;
    tb_connection_later(c);
}

void tb_connection_reply(struct tb_connection *c, const struct tb_reply *r, bool head_request, bool close)
{
    struct tb_answer_head h = {
        .status = r->status,
        .fields = &r->fields,
        .framing = head_request ? TB_FRAMING_NONE : TB_FRAMING_LENGTH,
        .length = r->body.len,
        .announce = true,
        .close = close,
    };

    if (r->status == TB_HTTP_NO_CONTENT) {
        h.framing = TB_FRAMING_NONE;
        h.announce = false;
    }
    tb_connection_answer(c, &h);
    if (tb_reply_error(r) < 0)
        return tb_connection_abort(c);
    (void)tb_connection_write(c, r->body.data, r->body.len);
    tb_connection_write_end(c);
}

void tb_connection_yield(struct tb_connection *c)
{
    tb_connection_flush(c);
    c->want_room = true;
    tb_connection_later(c);
}

void tb_connection_resume(struct tb_connection *c)
{
    if (!c->body_blocked)
        return;
    c->body_blocked = false;
    tb_connection_later(c);
}

void tb_connection_continue(struct tb_connection *c)
{
    /* One that has begun to send it is not waiting. */
    if (c->answering || c->raw < c->len)
        return;
    connection_hold(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    tb_connection_flush(c);
}

bool tb_connection_ask(struct tb_connection *c)
{
    if (c->answering)
        return (c->framing == TB_FRAMING_CHUNKED || c->framing == TB_FRAMING_CLOSE) &&
               c->port->handler->ask(c->request);
    if (c->minor0)
        return false; /* it knows no interim answers */
    connection_hold(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    tb_connection_flush(c);
    return true;
}

const char *tb_connection_address(const struct tb_connection *c)
{
    return c->address;
}

bool tb_connection_is_tls(const struct tb_connection *c)
{
    return c->io.ssl != NULL;
}
