/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate of the public endpoint: TB_TLS_CERT and TB_TLS_KEY, checked when they are read and
 * replaced without touching a connection: each handshake takes what is in force when it begins. The kernel
 * encrypts where it can (kTLS). */
#ifndef TB_PROXY_HTTP_TLS_H
#define TB_PROXY_HTTP_TLS_H

#include <openssl/ssl.h>
#include <stddef.h>

#define TB_TLS_ERR_MAX 300
/* A file: the name of its setting, where it is, what is in it. */
struct tb_tls_file {
    const char *setting, *path, *text;
    size_t len;
};
struct tb_tls {
    SSL_CTX *context; /* in force; NULL before the first */
};

/* Takes a PEM chain, leaf first, and its key. -EINVAL and err, which names the setting, what is wrong and
 * what to do; no secret is in it. On success 0 and warning, "" or what will soon be wrong. */
int tb_tls_use(struct tb_tls *t, const struct tb_tls_file *cert, const struct tb_tls_file *key,
               char err[static TB_TLS_ERR_MAX], char warning[static TB_TLS_ERR_MAX]);
void tb_tls_done(struct tb_tls *t);

#endif
