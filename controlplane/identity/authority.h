/* SPDX-License-Identifier: Apache-2.0 */
/* Who a machine is: the certificate that it shows, and the authority that gives machines theirs. A machine
 * makes its key itself; the authority signs a request (PKCS #10) of which it takes nothing but the public
 * key. */
#ifndef CP_AUTHORITY_H
#define CP_AUTHORITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define CP_PEER_CERTS_MAX 4
#define CP_PEER_DER_MAX 4096
#define CP_CERTIFICATE_MAX 8192 /* a chain in PEM, as it is handed out */
#define CP_IDENTITY_NAME_MAX 64 /* X.509's for a common name */
#define CP_IDENTITY_KEY_HEX 64  /* SHA-256 of the SubjectPublicKeyInfo */
#define CP_AUTHORITY_ERR_MAX 256

/* The chain that a client showed, its own certificate first. */
struct cp_peer {
    size_t n;
    struct {
        uint8_t der[CP_PEER_DER_MAX];
        size_t len;
    } cert[CP_PEER_CERTS_MAX];
};

struct cp_identity {
    char name[CP_IDENTITY_NAME_MAX + 1]; /* the common name; what is not printable ASCII is '?' */
    char key_sha256[CP_IDENTITY_KEY_HEX + 1];
    uint64_t end_us; /* when the first certificate of what led to the CA ends, the CA's own among them */
};

/* Whether the peer's certificate is for clients and leads to one of the CAs in ca_pem. The caller has seen
 * the TLS handshake, which proved that the peer has its key. expired_ok: an end that is past is no
 * obstacle. 0; -ENOENT no certificate; -EKEYEXPIRED not valid at now_us; -EKEYREJECTED anything else;
 * -ENOMEM. */
int cp_peer_verify(const struct cp_peer *p, const char *ca_pem, bool expired_ok, uint64_t now_us,
                   struct cp_identity *ret);
/* The name of the enrolled machine that has this key. */
void cp_machine_name(const char *key_sha256, char out[static CP_IDENTITY_NAME_MAX + 1]);
/* Whether its own certificate's end is at most `seconds` past at now_us. */
bool cp_peer_ended_within(const struct cp_peer *p, uint64_t now_us, uint64_t seconds);
/* How many CA certificates the PEM text has; 0: it is none. */
size_t cp_ca_count(const char *pem);

struct cp_authority;
/* A CA's certificate and key (PEM files). 0, or -errno with a reason in err that names the file. */
int cp_authority_open(const char *cert_path, const char *key_path, struct cp_authority **ret,
                      char err[static CP_AUTHORITY_ERR_MAX]);
struct cp_authority *cp_authority_close(struct cp_authority *a);
static inline void cp_authority_closep(struct cp_authority **a)
{
    *a = cp_authority_close(*a);
}
/* Its certificate, for cp_peer_verify(). */
const char *cp_authority_pem(const struct cp_authority *a);

/* The public key of a request whose signature shows that the machine has the private one. 0; -EINVAL with a
 * reason: not a request, a key that is too weak, a signature that is wrong. */
int cp_request_key(const char *csr_pem, size_t len, char key_sha256[static CP_IDENTITY_KEY_HEX + 1],
                   char err[static CP_AUTHORITY_ERR_MAX]);
/* A client certificate for the request's key under this name, good from a little before now_us for
 * `seconds`. *ret: PEM, heap. */
int cp_authority_issue(const struct cp_authority *a, const char *csr_pem, size_t len, const char *name,
                       uint64_t now_us, uint64_t seconds, char **ret, char err[static CP_AUTHORITY_ERR_MAX]);

#endif
