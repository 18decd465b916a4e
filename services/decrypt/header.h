/* SPDX-License-Identifier: Apache-2.0 */
/* The header of a .tbenc goes into the authentication of each record (section FILE HEADER), and has no tag of
 * its own. So one flipped bit of it makes all records look bad. Which of the two it is, a record or the
 * header, is told here, and the header alone is fetched once more. */
#ifndef TB_DECRYPT_HEADER_H
#define TB_DECRYPT_HEADER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "decrypt/ciphertext.h"
#include "tbenc/opener.h"

struct tb_file_header { /* of one ciphertext, for all its threads */
    const struct tbenc_manifest *m;
    const struct tb_ciphertext *c; /* both borrowed */
    atomic_bool proved;            /* with the good one a record was authentic */
    atomic_bool doubted;           /* a record was bad, and there was no other to try */
    pthread_mutex_t lock;          /* guards what follows */
    struct tbenc_header good;      /* that one */
};

void tb_header_init(struct tb_file_header *h, const struct tbenc_manifest *m, const struct tb_ciphertext *c);
void tb_header_done(struct tb_file_header *h);

/* A record was authentic with this header. */
void tb_header_prove(struct tb_file_header *h, const struct tbenc_header *with);

/* Record bad is not authentic by o, which belongs to the calling thread. true: the record is worth another
 * look: o has another header now, or that is fetched, for which this waits a moment. scratch: room for a
 * record; it is left erased. */
bool tb_header_suspect(struct tb_file_header *h, struct tbenc_opener *o, const struct tbenc_record *bad,
                       uint8_t *scratch);

/* As a record, for who fetches it once more: bytes 0 to TBENC_HEADER_BYTES - 1. */
struct tbenc_record tb_header_record(const struct tbenc_manifest *m);

#endif
