/* SPDX-License-Identifier: Apache-2.0 */
/* One exchange with the runtime: a non-blocking HTTP/1.1 client over TCP loopback or a unix socket, with a
 * pool of kept connections. Nothing is buffered beyond TB_UPSTREAM_BUFFER each way: tb_call_write() takes
 * what the socket takes and tb_call_peek() reads it only when asked, so back-pressure reaches both ends.
 * The wire is exact: a body that is longer or shorter than announced fails the call and closes the
 * connection, and a connection is kept only when the runtime has had the whole request and we have had the
 * whole answer. */
#ifndef TB_PROXY_HTTP_UPSTREAM_H
#define TB_PROXY_HTTP_UPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "proxy/http/loop.h"
#include "proxy/http/response.h"

#define TB_UPSTREAM_BUFFER (64 * 1024)
#define TB_UPSTREAM_CONNECT_US 5000000ULL
/* Shorter than the runtimes' own limit (llama-server 5 s), so that it is rarely us who lose the race of a
 * request against their close. */
#define TB_UPSTREAM_IDLE_US 4000000ULL
#define TB_UPSTREAM_IDLE_MAX 256

struct tb_upstream;
struct tb_call;

/* url: http://127.0.0.1:8081[/prefix] or unix:/path. -EINVAL when it is neither. */
int tb_upstream_new(struct tb_loop *loop, const char *url, struct tb_upstream **ret);
void tb_upstream_free(struct tb_upstream *u);
const char *tb_upstream_host(const struct tb_upstream *u); /* for a Host header */

/* Calls fn when the runtime closes a connection that no exchange uses. */
void tb_upstream_on_close(struct tb_upstream *u, void (*fn)(void *arg), void *arg);

struct tb_call_request {
    const char *method;
    const char *target;         /* path and query */
    const struct tb_buf *lines; /* header fields, "Name: value\r\n" each, no framing and no Connection */
    enum tb_framing body;       /* TB_FRAMING_NONE, _LENGTH or _CHUNKED */
    uint64_t length;
    /* Called when something changed for the caller: room to write, head or failure there, body bytes
     * readable. Never from within a tb_call_ function. It may free the call. */
    void (*on_event)(void *arg);
    void *arg;
};

/* Starts the exchange; a failure to connect shows in tb_call_failed(). 0 or -ENOMEM. */
int tb_call_start(struct tb_upstream *u, const struct tb_call_request *rq, struct tb_call **ret);
/* Body bytes: how many of n were taken; fewer: wait for on_event and give the rest. Once the runtime has
 * refused or failed everything is taken and dropped. */
size_t tb_call_write(struct tb_call *c, const void *p, size_t n);
void tb_call_write_end(struct tb_call *c);
/* 0 while all is well; else -ECONNREFUSED (cannot connect), -ETIMEDOUT (connect), -ECONNRESET (closed
 * without an answer), -EBADMSG (not HTTP), -EMSGSIZE (the body is not as long as announced), -ENOMEM. */
int tb_call_failed(const struct tb_call *c);
/* The answer's head; NULL until it is there. Valid until tb_call_free(). */
const struct tb_response *tb_call_response(const struct tb_call *c);
/* True when the whole body, of known length, has arrived: it can be read without waiting. */
bool tb_call_whole(const struct tb_call *c);
/* Body bytes where they lie: > 0, 0 at the end, -EAGAIN: wait for on_event, -ECONNABORTED: the runtime
 * broke off, -EBADMSG. Valid until the next tb_call_ function. */
ssize_t tb_call_peek(struct tb_call *c, const char **ret);
/* Takes n of them. */
void tb_call_consume(struct tb_call *c, size_t n);
/* Both, with a copy. */
ssize_t tb_call_read(struct tb_call *c, char *buf, size_t n);
/* Ends the exchange. A connection whose answer was not read to its end is closed: that is how the runtime
 * learns that nobody wants the rest. */
void tb_call_free(struct tb_call *c);

#endif
