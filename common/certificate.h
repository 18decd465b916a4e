/* SPDX-License-Identifier: Apache-2.0 */
/* What a PEM file says about the time it is good for: for whoever watches certificates, without using
 * them. */
#ifndef TB_CERTIFICATE_H
#define TB_CERTIFICATE_H

#include <stdbool.h>
#include <stdint.h>

#define TB_CERTIFICATE_PATH_MAX 256
#define TB_CERTIFICATE_ERR_MAX 160

struct tb_certificate {
    char path[TB_CERTIFICATE_PATH_MAX]; /* "": there is none */
    char error[TB_CERTIFICATE_ERR_MAX]; /* why it cannot be used; "" when it can */
    uint64_t from_us, until_us;         /* CLOCK_REALTIME; 0: unknown */
};

/* Reads a chain, leaf first, or authorities, of which any may do. A chain is good for as long as each of its
 * certificates; authorities until the first of those that have not ended does, a bundle of many until the
 * last. 0, or a negative errno with ret->error set, which follows the file's name; ret->path is set
 * always. */
int tb_certificate_read(const char *path, bool authorities, uint64_t now_us, struct tb_certificate *ret);
/* Whether key_path holds a private key that can be used; -EINVAL and error, as above. */
int tb_certificate_key(const char *key_path, char error[static TB_CERTIFICATE_ERR_MAX]);
/* Where the operator has the file: of a credential, its source in /etc/credstore. */
const char *tb_certificate_source(const char *path, char out[static TB_CERTIFICATE_PATH_MAX]);
/* The private key in key_path belongs to the first certificate in cert_path; -EINVAL and error, as above. Of
 * files that cannot be read it says nothing: others do. */
int tb_certificate_match(const char *cert_path, const char *key_path,
                         char error[static TB_CERTIFICATE_ERR_MAX]);

#endif
