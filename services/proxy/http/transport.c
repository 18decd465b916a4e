/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/transport.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <sys/socket.h>

#include "common/macros.h"
#include "proxy/http/socket.h"

#define RECORD (16 * 1024) /* bytes of a TLS record */
#define TLS_HANDSHAKE 0x16 /* type of its first one */

enum tb_client_hello tb_transport_hello(struct tb_transport *t)
{
    char c;
    ssize_t n = recv(t->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        t->can_read = errno == EINTR;
        return TB_HELLO_WAIT;
    }
    if (n <= 0)
        return TB_HELLO_NONE;
    return c == TLS_HANDSHAKE ? TB_HELLO_TLS : TB_HELLO_PLAIN;
}

/* OpenSSL does not say how much the socket gave: a read that got less than it asked for has emptied it. */
static long tls_note_read(BIO *bio, int op, const char *p, size_t len, int argi, long argl, int r,
                          size_t *processed)
{
    struct tb_transport *t = (struct tb_transport *)BIO_get_callback_arg(bio);

    if (op == (BIO_CB_READ | BIO_CB_RETURN))
        t->drained = r <= 0 || *processed < len;
    return r;
}

/* What SSL_get_error() reads must be of the call before it. Looking is cheaper than clearing. */
static void tls_forget_errors(void)
{
    if (ERR_peek_error() != 0)
        ERR_clear_error();
}

int tb_transport_start_tls(struct tb_transport *t, SSL_CTX *context)
{
    t->ssl = SSL_new(context);
    if (!t->ssl || SSL_set_fd(t->ssl, t->fd) != 1)
        return -ENOMEM;
    BIO_set_callback_arg(SSL_get_rbio(t->ssl), (char *)t);
    BIO_set_callback_ex(SSL_get_rbio(t->ssl), tls_note_read);
    SSL_set_accept_state(t->ssl);
    return 0;
}

/* What OpenSSL waits for, as flags. */
static int tls_result(struct tb_transport *t, int r)
{
    switch (SSL_get_error(t->ssl, r)) {
    case SSL_ERROR_WANT_READ:
        t->can_read = false;
        return -EAGAIN;
    case SSL_ERROR_WANT_WRITE:
        t->can_write = false;
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        return -ECONNRESET;
    }
}

int tb_transport_handshake(struct tb_transport *t)
{
    int r;

    tls_forget_errors();
    r = SSL_do_handshake(t->ssl);
    if (r == 1)
        return 1;
    return tls_result(t, r) == -EAGAIN ? 0 : -ECONNABORTED;
}

bool tb_transport_handshake_is_costly(const struct tb_transport *t)
{
    EVP_PKEY *key = NULL;

    /* The first bytes of a ClientHello, or one that is answered by HelloRetryRequest, have none yet. */
    if (!t->ssl || SSL_get_peer_tmp_key(t->ssl, &key) != 1)
        return true;
    EVP_PKEY_free(key);
    return false;
}

static ssize_t tls_recv(struct tb_transport *t, char *buf, size_t n)
{
    size_t got;
    int r;

    tls_forget_errors();
    r = SSL_read_ex(t->ssl, buf, n, &got);
    if (r != 1)
        return tls_result(t, r);
    if (t->drained && !t->hung_up && !SSL_has_pending(t->ssl))
        t->can_read = false;
    return (ssize_t)got;
}

ssize_t tb_transport_recv(struct tb_transport *t, char *buf, size_t n)
{
    ssize_t got;

    if (!t->can_read)
        return -EAGAIN;
    if (t->ssl)
        return tls_recv(t, buf, n);
    do
        got = tb_socket_recv(t->fd, buf, n, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno != EAGAIN)
        return -ECONNRESET;
    /* Less than asked for: there is no more, and what comes next is announced again. The end is announced
     * together with the last bytes. */
    if (got < 0 || ((size_t)got < n && !t->hung_up))
        t->can_read = false;
    return got < 0 ? -EAGAIN : got;
}

/* Small pieces go into one record. */
static ssize_t tls_send(struct tb_transport *t, const struct iovec *iov, int n)
{
    static char record[RECORD];
    const char *p = iov[0].iov_base;
    size_t len = iov[0].iov_len, sent;
    int r;

    if (n > 1 && len < RECORD) {
        len = 0;
        for (int i = 0; i < n && len < RECORD; i++) {
            size_t take = MIN(iov[i].iov_len, RECORD - len);

            memcpy(record + len, iov[i].iov_base, take);
            len += take;
        }
        p = record;
    }
    tls_forget_errors();
    r = SSL_write_ex(t->ssl, p, len, &sent);
    if (r == 1)
        return (ssize_t)sent;
    r = tls_result(t, r);
    return r == 0 ? -ECONNRESET : r;
}

ssize_t tb_transport_send(struct tb_transport *t, const struct iovec *iov, int n)
{
    struct msghdr m = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
    size_t all = 0;
    ssize_t sent;

    if (!t->can_write)
        return -EAGAIN;
    if (t->ssl)
        return tls_send(t, iov, n);
    do
        sent = n == 1 ? tb_socket_send(t->fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
                      : sendmsg(t->fd, &m, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    for (int i = 0; i < n; i++)
        all += iov[i].iov_len;
    if (sent >= 0) {
        t->can_write = (size_t)sent == all; /* a full socket says when it is not */
        return sent;
    }
    if (errno != EAGAIN)
        return -ECONNRESET;
    t->can_write = false;
    return -EAGAIN;
}

void tb_transport_shut(struct tb_transport *t)
{
    if (t->ssl) {
        tls_forget_errors();
        (void)SSL_shutdown(t->ssl);
    }
    (void)shutdown(t->fd, SHUT_WR);
}

void tb_transport_close(struct tb_transport *t)
{
    SSL_free(t->ssl);
    t->ssl = NULL;
    t->fd = tb_close(t->fd);
}
