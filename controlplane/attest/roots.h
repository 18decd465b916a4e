/* SPDX-License-Identifier: Apache-2.0 */
/* Who may certify the attestation key of a TPM: Microsoft for Azure's machines, and a CA of the provider's
 * own; and a processor's key for reports: AMD. */
#ifndef CP_ATTEST_ROOTS_H
#define CP_ATTEST_ROOTS_H

#include <openssl/x509.h>
#include <stddef.h>
#include <stdint.h>

#include "controlplane/store/datadir.h"

struct cp_attest_roots;

/* Microsoft's and AMD's, which are built in. -ENOMEM; with a reason. */
int cp_attest_roots_new(struct cp_attest_roots **ret, char err[static CP_ERR_MAX]);
/* Those of the provider's own, and further ones for processors. Of what the text has, self-signed
 * certificates are roots, the others intermediates; at least one root. -EINVAL with a reason. */
int cp_attest_roots_add_own(struct cp_attest_roots *r, const char *pem, char err[static CP_ERR_MAX]);
int cp_attest_roots_add_amd(struct cp_attest_roots *r, const char *pem, char err[static CP_ERR_MAX]);
void cp_attest_roots_free(struct cp_attest_roots *r);

enum cp_attest_root { CP_ATTEST_AZURE = 1, CP_ATTEST_OWN = 2 };
/* The key of a certificate that chains to one of these roots (bits), is valid at now_s and is for an
 * attestation key; owned by the caller. NULL: why, a word or two for people. */
EVP_PKEY *cp_attest_roots_verify(const struct cp_attest_roots *r, unsigned roots, const uint8_t *der,
                                 size_t len, uint64_t now_s, const char **ret_why);

/* A processor's certificate (VCEK) that chains to AMD's and is valid at now_s; owned by the caller. NULL:
 * why. */
X509 *cp_attest_roots_vcek(const struct cp_attest_roots *r, const uint8_t *der, size_t len, uint64_t now_s,
                           const char **ret_why);

/* The first end of Microsoft's certificates that are built in, as a time; a test warns in time. */
int64_t cp_attest_roots_end(void);

#endif
