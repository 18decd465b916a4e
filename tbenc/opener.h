/* SPDX-License-Identifier: Apache-2.0 */
/* Opening single records, in any order: what reads at offsets is made of this. Not exported. */
#ifndef TBENC_OPENER_H
#define TBENC_OPENER_H

#include "tbenc/internal.h"

/* For one thread. The key is used only by tbenc_opener_init(): afterwards its schedule is in the cipher's
 * context, and the key may be wiped. */
struct tbenc_opener {
    const struct tbenc_manifest *m; /* borrowed, as is the descriptor */
    int fd;
    struct tbenc_header header;
    struct tbenc_gcm gcm;
    uint8_t *piece; /* ciphertext on its way through the cipher */
};

/* Reads the file header of the regular file fd. 0; -EBADMSG: it is not one, or not the manifest's; -errno. */
int tbenc_opener_header(int fd, const struct tbenc_manifest *m, unsigned flags, struct tbenc_header *ret,
                        struct tbenc_error *e);
/* 0, -ENOMEM or -EIO. */
int tbenc_opener_init(struct tbenc_opener *o, const struct tbenc_header *h, const uint8_t *key, int fd,
                      const struct tbenc_manifest *m);
/* The file has another header than was read of it. */
void tbenc_opener_set_header(struct tbenc_opener *o, const struct tbenc_header *h);
/* Wipes the key schedule; accepts a zeroed struct. */
void tbenc_opener_done(struct tbenc_opener *o);

/* Reads, verifies and decrypts one record into pt, which has room for rec->pt_len bytes; tagrec gets its
 * length field and its tag. 0; -EBADMSG: not authentic, or not there in full; -errno. After a failure pt is
 * zeros. */
int tbenc_opener_open(struct tbenc_opener *o, const struct tbenc_record *rec, uint8_t *pt,
                      uint8_t tagrec[TBENC_TAGREC_BYTES], struct tbenc_error *e);

#endif
