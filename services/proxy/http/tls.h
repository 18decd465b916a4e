/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate of the public endpoint: TB_TLS_CERT and TB_TLS_KEY, checked when they are read and replaced without touching a
 * connection: each handshake takes what is in force then. */
#ifndef TB_PROXY_HTTP_TLS_H
#define TB_PROXY_HTTP_TLS_H

#include <gnutls/abstract.h>
#include <stddef.h>

#define TB_TLS_ERR_MAX 300
/* A file: the name of its setting, where it is, what is in it. */
struct tb_tls_file {
    const char *setting, *path, *text;
    size_t len;
};

/* Takes a PEM chain, leaf first, and its key. -EINVAL and err, which names the setting, what is wrong and what to do; no secret is in
 * it. On success 0 and warning, "" or what will soon be wrong. */
int tb_tls_use(const struct tb_tls_file *cert, const struct tb_tls_file *key, char err[static TB_TLS_ERR_MAX],
               char warning[static TB_TLS_ERR_MAX]);
/* For MHD_OPTION_HTTPS_CERT_CALLBACK2. */
int tb_tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **certs,
                    unsigned *certs_length, gnutls_ocsp_data_st **ocsp, unsigned *ocsp_length,
                    gnutls_privkey_t *privkey, unsigned *flags);
void tb_tls_done(void);

#endif
