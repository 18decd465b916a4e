/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of libtbenc share: byte order, errors, the record cipher and positions of records. Nothing
 * here is exported; tbenc.h is the public contract. */
#ifndef TBENC_INTERNAL_H
#define TBENC_INTERNAL_H

#include <openssl/evp.h>

#include "common/id.h"
#include "common/macros.h"
#include "tbenc/tbenc.h"

#define TBENC_AAD_BYTES 31
#define TBENC_IV_BYTES 12
#define TBENC_LEN_BYTES 4 /* the length field that starts a record */
/* What tags_sha256 is made of, for each record: its length field and its tag. */
#define TBENC_TAGREC_BYTES (TBENC_LEN_BYTES + TBENC_TAG_BYTES)

static inline void tbenc_put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static inline void tbenc_put64(uint8_t *p, uint64_t v)
{
    tbenc_put32(p, (uint32_t)(v >> 32));
    tbenc_put32(p + 4, (uint32_t)v);
}

static inline uint32_t tbenc_get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Records of n plaintext bytes: ceil(n / chunk_bytes), without overflow. */
static inline uint64_t tbenc_chunks_of(uint64_t n, uint32_t chunk_bytes)
{
    return n / chunk_bytes + (n % chunk_bytes != 0);
}

/* -- errors ---------------------------------------------------------------------------------------------- */
/* Fills e (which may be NULL) and returns rc, so that a failure is one statement. */
int tbenc_fail(struct tbenc_error *e, int rc, const char *fmt, ...) _printf_(3, 4);
/* The same with e->chunk set and the message starting "chunk N: ". */
int tbenc_fail_chunk(struct tbenc_error *e, int rc, uint64_t chunk, const char *fmt, ...) _printf_(4, 5);

/* -- names (names.c) ------------------------------------------------------------------------------------- */
bool tbenc_filename_valid(const char *s);

/* -- layout (layout.c) ----------------------------------------------------------------------------------- */
/* Checks order, uniqueness, chunk numbers and the sum of a table, and that plaintext_bytes is in range. */
int tbenc_layout_check(const struct tbenc_manifest *m, struct tbenc_error *e);
/* From one record to the next, without a search. r must not be the last. */
void tbenc_layout_next(const struct tbenc_manifest *m, struct tbenc_record *r);

/* -- overlays (overlay.c) -------------------------------------------------------------------------------- */
#define TBENC_FORMAT_OVERLAY "tbenc/v1-overlay"
/* What an overlay takes from its base, as far as that can be judged without it; no overlay: 0. */
int tbenc_overlay_check(const struct tbenc_manifest *m, struct tbenc_error *e);
/* The key of the records of m's own ciphertext, from the key of the asset. tb_erase() it. 0 or -EIO. */
int tbenc_record_key(const struct tbenc_base *base, const uint8_t key[TBENC_KEY_BYTES],
                     uint8_t ret[TBENC_KEY_BYTES]);

/* -- copies (manifest_copy.c) ---------------------------------------------------------------------------- */
int tbenc_file_copy(const struct tbenc_file *f, struct tbenc_file *ret);
int tbenc_base_copy(const struct tbenc_base *b, struct tbenc_base **ret);
struct tbenc_base *tbenc_base_free(struct tbenc_base *b);

/* -- record cipher (gcm.c; section RECORDS) -------------------------------------------------------------- */
/* One AES-256-GCM context with its key schedule, for one thread. */
struct tbenc_gcm {
    EVP_CIPHER_CTX *ctx;
    uint8_t aad[TBENC_AAD_BYTES];
    uint8_t iv[TBENC_IV_BYTES];
};
/* 0, -ENOMEM or -EIO (the crypto library refused). tbenc_gcm_done() wipes the key schedule; it accepts a
 * zeroed struct. */
int tbenc_gcm_init(struct tbenc_gcm *g, const struct tbenc_header *h, const uint8_t *key, bool encrypt);
/* Of the header only; the key schedule stays. */
void tbenc_gcm_set_header(struct tbenc_gcm *g, const struct tbenc_header *h);
void tbenc_gcm_done(struct tbenc_gcm *g);
/* rec: TBENC_RECORD_OVERHEAD + n bytes: length, ciphertext, tag. 0 or -EIO. */
int tbenc_gcm_seal(struct tbenc_gcm *g, uint64_t index, const uint8_t *pt, uint32_t n, uint8_t *rec);
/* The same record back, in steps so that a large one can be read in pieces: start, any number of updates,
 * finish. What update wrote is void unless finish returns 0; -EBADMSG: not authentic. */
int tbenc_gcm_open_start(struct tbenc_gcm *g, uint64_t index, uint32_t n);
int tbenc_gcm_open_update(struct tbenc_gcm *g, const uint8_t *ct, uint32_t n, uint8_t *pt);
int tbenc_gcm_open_finish(struct tbenc_gcm *g, const uint8_t tag[TBENC_TAG_BYTES]);
/* One whole record. The caller has checked its length field. */
int tbenc_gcm_open(struct tbenc_gcm *g, uint64_t index, const uint8_t *rec, uint32_t n, uint8_t *pt);

#endif
