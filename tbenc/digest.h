/* SPDX-License-Identifier: Apache-2.0 */
/* The hashes of an asset: sha256_ciphertext, tags_sha256 and one for each file of the table. */
#ifndef TBENC_DIGEST_H
#define TBENC_DIGEST_H

#include "tbenc/engine.h"

/* One SHA-256. All return 0, -ENOMEM or -EIO. */
struct tbenc_sha256 {
    EVP_MD_CTX *ctx;
};
int tbenc_sha256_init(struct tbenc_sha256 *h);
int tbenc_sha256_update(struct tbenc_sha256 *h, const void *buf, size_t n);
int tbenc_sha256_final(struct tbenc_sha256 *h, uint8_t out[TBENC_SHA256_BYTES]);
void tbenc_sha256_done(struct tbenc_sha256 *h);

/* The plaintext of each file in turn, fed with batches in order. out has n_files entries; empty files get
 * theirs too. */
struct tbenc_filehash {
    struct tbenc_sha256 h;
    size_t file; /* being hashed */
    size_t n_files;
    uint8_t (*out)[TBENC_SHA256_BYTES];
};
int tbenc_filehash_init(struct tbenc_filehash *f, size_t n_files);
int tbenc_filehash_batch(struct tbenc_filehash *f, const struct tbenc_batch *b);
int tbenc_filehash_final(struct tbenc_filehash *f);
void tbenc_filehash_done(struct tbenc_filehash *f);

#endif
