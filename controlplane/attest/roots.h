/* SPDX-License-Identifier: Apache-2.0 */
/* Who may certify the attestation key of a TPM: Microsoft for Azure's machines, and a CA of the provider's
 * own. */
#ifndef CP_ATTEST_ROOTS_H
#define CP_ATTEST_ROOTS_H

#include <openssl/x509.h>
#include <stddef.h>
#include <stdint.h>

#include "controlplane/store/datadir.h"

struct cp_attest_roots;

/* own_pem: of the provider's own, NULL: none. Its self-signed certificates are roots, the others
 * intermediates. -EINVAL with a reason. */
int cp_attest_roots_new(const char *own_pem, struct cp_attest_roots **ret, char err[static CP_ERR_MAX]);
void cp_attest_roots_free(struct cp_attest_roots *r);

enum cp_attest_root { CP_ATTEST_AZURE = 1, CP_ATTEST_OWN = 2 };
/* The key of a certificate that chains to one of these roots (bits), is valid at now_s and is for an
 * attestation key; owned by the caller. NULL: why, a word or two for people. */
EVP_PKEY *cp_attest_roots_verify(const struct cp_attest_roots *r, unsigned roots, const uint8_t *der,
                                 size_t len, uint64_t now_s, const char **ret_why);

/* The first end of Microsoft's certificates that are built in, as a time; a test warns in time. */
int64_t cp_attest_roots_end(void);

#endif
