/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a client's connection: a non-blocking socket, plain or with TLS on it. Edge-triggered:
 * can_read and can_write hold until a call says -EAGAIN, and the loop sets them again. */
#ifndef TB_PROXY_HTTP_TRANSPORT_H
#define TB_PROXY_HTTP_TRANSPORT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

struct tb_transport {
    int fd;   /* -1: closed */
    SSL *ssl; /* NULL: plain */
    bool can_read, can_write;
    bool drained; /* TLS: the last read of the socket emptied it */
    bool hung_up; /* the other side has closed, or will send no more; what it sent before can still be read */
    bool reset;   /* ... and takes nothing any more */
};

enum tb_client_hello { TB_HELLO_WAIT, TB_HELLO_TLS, TB_HELLO_PLAIN, TB_HELLO_NONE };
/* What a client on a TLS port begins with: a handshake, a request of plain HTTP, or nothing at all. Reads
 * nothing. */
enum tb_client_hello tb_transport_hello(struct tb_transport *t);
/* Begins TLS. 0 or -ENOMEM. */
int tb_transport_start_tls(struct tb_transport *t, SSL_CTX *context);
/* 1 when the handshake is done, 0 to be called again, -ECONNABORTED. */
int tb_transport_handshake(struct tb_transport *t);
/* False when the keys are agreed on: what is left of the handshake is cheap. */
bool tb_transport_handshake_is_costly(const struct tb_transport *t);
/* > 0, 0 at the end, -EAGAIN, -ECONNRESET for every other failure. */
ssize_t tb_transport_recv(struct tb_transport *t, char *buf, size_t n);
/* Sends what the socket takes. > 0, -EAGAIN, -ECONNRESET. After -EAGAIN the next call begins with the same
 * bytes. */
ssize_t tb_transport_send(struct tb_transport *t, const struct iovec *iov, int n);
/* Says that nothing more will be sent; what comes can still be read. */
void tb_transport_shut(struct tb_transport *t);
void tb_transport_close(struct tb_transport *t);

#endif
