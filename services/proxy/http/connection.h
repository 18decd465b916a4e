/* SPDX-License-Identifier: Apache-2.0 */
/* One connection of a client: HTTP/1.1 over TCP or TLS, from accept to close. Reads a head, hands it to
 * the handler, hands over the body as it arrives, sends the answer as the handler gives it, and goes on
 * with the next request. Nothing is buffered beyond a block each way: a handler that takes less of a body
 * is called again when it says so, an answer that the client does not take is held back.
 *
 *      HANDSHAKE -> HEAD -> REQUEST -> HEAD -> ... -> LINGER -> closed
 *
 * In REQUEST the body and the answer go on side by side; it ends when both are complete. A request that
 * cannot be read to its end is answered, and the rest of what the client sends is read and dropped for a
 * moment (LINGER), so that it sees the answer and no reset.
 *
 * A client may close its side behind its request and wait (RFC 9112, 9.6), or be gone: both look alike until
 * something is sent, which the socket of one that is gone answers with a reset. So it is served, and while
 * there is nothing to send it is asked, by an interim answer (100 Continue) or by what the handler can add
 * to its own. */
#ifndef TB_PROXY_HTTP_CONNECTION_H
#define TB_PROXY_HTTP_CONNECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/buf.h"
#include "proxy/http/body.h"
#include "proxy/http/loop.h"
#include "proxy/http/port.h"
#include "proxy/http/reply.h"
#include "proxy/http/request.h"
#include "proxy/http/response.h"
#include "proxy/http/transport.h"

#define TB_CLIENT_HEAD_US                                                                                    \
    15000000ULL /* for a head, from the connection's or the request line's beginning to its end */
#define TB_CLIENT_KEPT_US 75000000ULL /* for the next request line on a kept connection, trickled or not */
#define TB_CLIENT_RATE 500            /* bytes a second of body or answer; fewer is slow */
#define TB_CLIENT_SLOW_US 30000000ULL /* how long it may be slow; time at rate takes it back */
/* One that has closed its side is asked whether it is there after a second of silence, and again after as
 * long as it has lasted, up to a minute: clients do not read any number of interim answers. Where that cannot
 * be asked it is gone after so much silence. */
#define TB_CLIENT_ASK_US 1000000ULL
#define TB_CLIENT_ASK_MAX_US 60000000ULL
#define TB_CLIENT_SILENT_US 5000000ULL
#define TB_CLIENT_ADDRESS_MAX 64

struct tb_connection;

/* How a request ended. */
enum tb_end {
    TB_END_COMPLETE, /* the client's socket took all of the answer */
    TB_END_GONE,     /* the client closed or reset the connection */
    TB_END_SLOW,     /* the client did not take its answer */
    TB_END_ABORTED,  /* tb_connection_abort() */
    TB_END_STOPPED,  /* tb_listener_stop() */
};

/* What requests are given to. Called on the loop's thread, never from within a tb_connection_ function.
 * `request` is what begin() gave. */
struct tb_handler {
    /* A head; rq is valid during the call only. When rq->refusal.status is set the request cannot be read
     * on: it is to be answered, and the connection closes after it. NULL: the connection is closed at
     * once, without an answer. */
    void *(*begin)(void *arg, struct tb_connection *c, const struct tb_request *rq);
    /* Asked before the head at p is looked at, as far as it is here: true when it shall wait. It is asked
     * again after each look, and at tb_listener_release(). A client that goes away meanwhile begins its
     * request with rq->gone. NULL: none waits. */
    bool (*hold)(void *arg, const char *p, size_t n);
    /* Bytes of the body. Returns how many were taken; when fewer than n, tb_connection_resume() asks for
     * the next call. */
    size_t (*body)(void *request, const char *p, size_t n);
    void (*body_end)(void *request);
    /* The rest of the body will never come: it is malformed, or too slow. To be answered unless that has
     * begun; the connection closes. */
    void (*refuse)(void *request, const struct tb_refusal *why);
    /* The client has taken enough of the answer: go on with it. */
    void (*writable)(void *request);
    /* The answer has begun and is silent: send something in it that means nothing, so that a client that is
     * gone is noticed. False: nothing can be. */
    bool (*ask)(void *request);
    /* It is over. Frees the request. */
    void (*end)(void *request, enum tb_end how);
};

/* The head of an answer. */
struct tb_answer_head {
    int status;
    const struct tb_buf *fields; /* "Name: value\r\n" each; none of framing or Connection */
    enum tb_framing framing;     /* of what will be written: NONE, LENGTH, or CHUNKED for an unknown length */
    uint64_t length;             /* LENGTH; and what is announced when bodiless */
    bool announce;               /* NONE: Content-Length is sent all the same (HEAD, 304) */
    bool has_date;               /* fields has Date */
    bool close;                  /* nothing follows on this connection */
};

/* Begins the answer to the current request; it leaves with the first bytes of its body, or by
 * tb_connection_flush(). */
void tb_connection_answer(struct tb_connection *c, const struct tb_answer_head *h);
void tb_connection_flush(struct tb_connection *c);
/* Body bytes; all are taken. False: what is held back now is enough, wait for writable(). */
bool tb_connection_write(struct tb_connection *c, const void *p, size_t n);
/* False: the client has not taken what was written before. */
bool tb_connection_has_room(const struct tb_connection *c);
/* The answer is complete. A body that is shorter than announced aborts the connection. */
void tb_connection_write_end(struct tb_connection *c);
/* Ends an answer that cannot be completed: the connection closes, so that the client sees it. */
void tb_connection_abort(struct tb_connection *c);
/* All of that for an answer that is here as a whole. close: as in the head. */
void tb_connection_reply(struct tb_connection *c, const struct tb_reply *r, bool head_request, bool close);
/* Each byte of this request's body costs more than receiving it: fewer of them in one turn of the loop. */
void tb_connection_set_costly(struct tb_connection *c);
/* There is more to write than one turn of the loop should take: writable() is called at the next. */
void tb_connection_yield(struct tb_connection *c);
/* How many bytes of the body are here, those included that body() is called with: it is called for the rest
 * of them without waiting for the client. */
size_t tb_connection_body_here(const struct tb_connection *c);
/* body() will take more. */
void tb_connection_resume(struct tb_connection *c);
/* The client waits for 100 Continue, and shall send its body. */
void tb_connection_continue(struct tb_connection *c);

const char *tb_connection_address(const struct tb_connection *c); /* of the client, as text; "unix" */
bool tb_connection_is_tls(const struct tb_connection *c);

/* --- for connection_answer.c and listener.c ------------------------------------------------------------ */

enum tb_connection_state {
    TB_CONNECTION_HANDSHAKE,
    TB_CONNECTION_HEAD,
    TB_CONNECTION_REQUEST,
    TB_CONNECTION_LINGER,
    TB_CONNECTION_CLOSED,
};

struct tb_connection {
    struct tb_source src;
    struct tb_task task; /* connection_run() is due */
    struct tb_port *port;
    enum tb_connection_state state;
    struct tb_transport io;
    bool plain_http; /* on a TLS port: each request is refused */
    bool kept;       /* not its first request */
    bool held;       /* its next request is here, and shall wait */
    bool waited;     /* it did */
    void *request;
    /* What was read: [start, data) is body that the handler has not taken yet, [raw, len) is not looked at
     * yet. */
    char *in;
    size_t in_size, start, data, raw, len;
    struct tb_request_scan scan;
    struct tb_request_body body;
    size_t turn; /* bytes that may still be handled before others have theirs */
    bool costly;
    bool keep_alive, minor0, body_ended, body_blocked, body_large;
    /* The answer. */
    bool answering, answer_ended, want_room;
    bool close;           /* after this answer */
    bool deaf;            /* nothing more of this request is read */
    bool aborted, broken; /* the answer cannot be completed; the socket takes nothing any more */
    enum tb_framing framing;
    uint64_t left; /* of an announced length */
    struct tb_buf out;
    size_t out_pos;
    /* How fast the client is. */
    uint64_t since_us;              /* of what is waited for: handshake, head, end of lingering */
    uint64_t line_us;               /* the request line was complete; 0: not yet */
    uint64_t slow_us;               /* how long it has been slow */
    uint64_t bytes_in, bytes_out;   /* of this request */
    uint64_t looked_in, looked_out; /* at the last look */
    /* It has closed its side: since when nothing was sent (0: it has not), and when it is asked next. */
    uint64_t silent_us, silent_out, ask_us;
    size_t lingered; /* bytes dropped */
    char address[TB_CLIENT_ADDRESS_MAX];
    struct tb_address_count *counted;
    LIST_ENTRY(tb_connection) entry;
};

/* Goes on with it when the events at hand have been handled. */
void tb_connection_later(struct tb_connection *c);
/* Nothing of the answer is held back. */
bool tb_connection_out_is_empty(const struct tb_connection *c);
/* Sends of it what the socket takes; c->broken when it takes nothing any more. */
void tb_connection_send_held(struct tb_connection *c);
/* connection_hold.c: its next request shall wait; the look at one that does. */
bool tb_connection_shall_wait(struct tb_connection *c);
void tb_connection_look_held(struct tb_connection *c, uint64_t now);
/* Sends something that means nothing. False: there is nothing of that kind here. */
bool tb_connection_ask(struct tb_connection *c);

/* fd: accepted and non-blocking. NULL: no memory, and fd is closed. */
struct tb_connection *tb_connection_new(struct tb_port *p, int fd, const char *address);
/* Ends it at once, and its request as told. */
void tb_connection_close(struct tb_connection *c, enum tb_end how);
/* Looks once a second whether the client is too slow. */
void tb_connection_look(struct tb_connection *c, uint64_t now_us, uint64_t elapsed_us);
/* True when nothing is waited for but the next request. */
bool tb_connection_is_idle(const struct tb_connection *c);

#endif
