/* SPDX-License-Identifier: Apache-2.0 */
/* The proof that a key opens an asset, before it is kept: a wrong one would show itself at the customer's
 * next restart. The manifest is fetched and compared with what is registered, then header and first record
 * of the ciphertext, by range, and opened with libtbenc. Mechanism: AES-GCM's tag. It would be proved wrong
 * by a registration that is accepted and whose first chunk tb-decrypt refuses. */
#ifndef CP_PROOF_H
#define CP_PROOF_H

#include "common/http.h"
#include "common/secret.h"
#include "tbenc/tbenc.h"

#define CP_PROOF_ERR_MAX 640

/* What a registration claims. URLs as they are to be fetched: signed. */
struct cp_claim {
    const char *ciphertext_url, *manifest_url;
    uint64_t chunk_bytes, plaintext_bytes;
    const char *sha256_ciphertext, *manifest_sha256; /* lower-case hex; the latter may be "" */
    const struct tb_key *key;
    /* NULL, or where the base goes that the manifest names, when it is an overlay's; else version 0 */
    struct cp_proof_base {
        uint64_t version;
        char manifest_sha256[65], sha256_ciphertext[65];
    } * ret_base;
};

enum cp_proof {
    CP_PROOF_GOOD,
    CP_PROOF_WRONG_KEY,      /* the blob is the manifest's, and the key does not open it */
    CP_PROOF_WRONG_BLOB,     /* what lies there is not what the manifest describes */
    CP_PROOF_WRONG_MANIFEST, /* the manifest there is not the one of the registration */
    CP_PROOF_MISSING,        /* nothing there that may be read */
    CP_PROOF_UNAVAILABLE,    /* the storage does not answer now */
};

/* The reason, which names neither a query nor a key, in err. */
enum cp_proof cp_proof_check(const struct cp_claim *c, const struct tb_http_tls *tls,
                             char err[static CP_PROOF_ERR_MAX]);

#endif
