/* SPDX-License-Identifier: Apache-2.0 */
/* TB_BLOB_MIRROR: a cache that the consumer runs near its machines, asked for ranges of the blob in place of
 * the storage. It is not trusted. The storage itself says what the blob is (manifest, first range, size,
 * entity tag) and gives each record that comes once more; what the mirror gives is held to that, and verified
 * by tags or hash as ever. A range that it does not give, whatever the reason, comes from the storage at
 * once, and the mirror is left alone for a while; one that gave bytes that are not the model's, for good.
 *
 * It sees the path, and what of the query TB_BLOB_MIRROR_SAS lets it see: the signature of that one blob,
 * to read. No client certificate, and nothing of the manifest's URL. */
#ifndef TB_HYDRATE_MIRROR_H
#define TB_HYDRATE_MIRROR_H

#include <stdbool.h>
#include <stdint.h>

#include "common/backoff.h"
#include "common/macros.h"

#define MIRROR_CONNECT_MS 3000
/* Slower than this for so long: the storage does better. */
#define MIRROR_SLOW_BYTES (64 * 1024)
#define MIRROR_SLOW_SEC 5
#define MIRROR_REST_BASE_MS 2000
#define MIRROR_REST_CAP_MS 60000

struct mirror {
    char *url;       /* secret memory: of the blob there; NULL: there is no mirror */
    char where[160]; /* the same without its query */
    uint8_t *gave;   /* bitmap of the ranges that came from it, or a part of them */
    uint64_t n_ranges;
    uint64_t bytes; /* that came from it with the ranges it gave to their end */
    unsigned asked; /* requests on their way */
    bool distrusted;
    struct tb_backoff rest; /* since it failed; attempt 0: it works */
    uint64_t rest_until_us;
};

/* base: scheme, host and maybe a path; NULL: no mirror. blob_url: at the storage. 0 or -ENOMEM. */
int mirror_init(struct mirror *m, const char *base, bool shows_query, const char *blob_url,
                uint64_t n_ranges);
void mirror_clear(struct mirror *m);
#define _cleanup_mirror_ _cleanup_(mirror_clear)

/* It may be asked for a range now. While it has failed, one request at a time tries it. */
bool mirror_may_ask(const struct mirror *m, uint64_t now_us);
void mirror_ask(struct mirror *m);
/* A range came, so many bytes of it from here. */
void mirror_gave(struct mirror *m, uint64_t range, uint64_t bytes);
/* How a request ended: all came; or it did not, which is logged. kept: what came of this range until it broke
 * off is a part of it all the same. */
void mirror_answer(struct mirror *m);
void mirror_fail(struct mirror *m, uint64_t range, bool kept, const char *why, uint64_t now_us);
/* A reader found a record in ranges [first, last] bad. */
void mirror_doubt(struct mirror *m, uint64_t first, uint64_t last);
/* "used", "fails" (it rests after a failure), "distrusted", "left_out" (this download does not ask it). */
const char *mirror_state(const struct mirror *m);

#endif
