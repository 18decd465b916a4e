/* SPDX-License-Identifier: Apache-2.0 */
/* Where the ciphertext of a delivery comes from: the file, which may still come down while it is read, and
 * whose bad records tb-hydrate can fetch once more. Every delivery, in whatever mode, reads its records
 * through one of these. docs/contracts.md, "The map" and "Wishes".
 *
 * All functions but open and close may be called from any thread. */
#ifndef TB_DECRYPT_SUPPLY_H
#define TB_DECRYPT_SUPPLY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/outcome.h"
#include "common/range_map.h"
#include "common/repairs.h"
#include "common/want.h"
#include "decrypt/ciphertext.h"
#include "tbenc/tbenc.h"

#define TB_SUPPLY_WANT_BYTES (8 * 1024 * 1024) /* of a wish */
#define TB_SUPPLY_TRIES 3                      /* to have a record once more, and one for each beside it, */
#define TB_SUPPLY_MEND_US 30000000ULL          /* and so long since it was first found bad */
#define TB_SUPPLY_CALL_US 27000000ULL     /* until a tb-hydrate is at work on it; its URLs may take 20 s */
#define TB_SUPPLY_SLICE_MS 200            /* one wait: who waits longer looks whether it still should */
#define TB_SUPPLY_UNWATCHED_US 5000000ULL /* longer between two looks: nobody waited meanwhile */

struct tb_supply_wish {
    struct tb_want_range r;
    char instance[TB_RANGE_MAP_INSTANCE + 1]; /* of the map that r.seen is of; "": there was none */
    unsigned tries;                           /* to have it once more */
    uint64_t since_us, asked_us;              /* first found bad; asked for this time */
    uint64_t looked_us;                       /* whether it came */
    bool done;                                /* it came, or is not waited for any more; kept for its tries */
    bool came;                                /* once more */
    size_t file;                              /* of the manifest's table, where the record is of it */
};

struct tb_supply {
    const struct tbenc_manifest *manifest; /* borrowed; NULL: not open */
    int fd;
    char *path, *live_path, *name; /* name: for people */
    struct tb_range_map *map;      /* NULL: it was all there when it was opened */
    bool brought;                  /* by a tb-hydrate, which can be asked to mend it */
    const char *run_dir;           /* of tb-decrypt, borrowed; NULL: nothing can be wished for */
    uint32_t waited;               /* changes of the map that tb_supply_wait() has told of */
    atomic_uint waiting;           /* threads that wait here: that is no hang */
    atomic_uint mending;           /* records that are waited for until they come once more */
    atomic_uint refetched;         /* records that did */
    pthread_mutex_t lock;          /* guards what follows */
    struct tb_supply_wish wishes[TB_WANT_MAX];
    size_t n_wishes;
    struct tb_want want; /* as it was last written */
    uint64_t written_us;
    bool wish_failed;
    bool forsaken; /* a wish was not taken up by anybody: no other is waited for until somebody is there */
};

/* From now on wishes are written in dir, borrowed. What is there is of a tb-decrypt that has gone. */
void tb_supply_wish_in(struct tb_supply *s, const char *dir);
/* Nobody waits any more, and nothing is wished for from now on. */
void tb_supply_withdraw(struct tb_supply *s);
/* Finds and opens the ciphertext of the manifest in dir. 0 or an exit code: 66 it is not there; 74; 75
 * tb-hydrate has begun another download; 76 it is not what the manifest says. */
int tb_supply_open(struct tb_supply *s, const char *dir, const struct tbenc_manifest *m,
                   struct tb_outcome *o);
void tb_supply_close(struct tb_supply *s);

/* Bytes [off, off + len) are there, and none of them is being fetched once more. */
bool tb_supply_has(struct tb_supply *s, uint64_t off, uint64_t len);
/* Somebody waits for these and no others: what is missing of them is fetched next. */
void tb_supply_want(struct tb_supply *s, uint64_t off, uint64_t len);
/* Until something came since the last call, or timeout_ms passed, or for no reason. For one thread. */
void tb_supply_wait(struct tb_supply *s, unsigned timeout_ms);
/* Waits for bytes for TB_SUPPLY_SLICE_MS at most. 0; -EAGAIN not yet; -ESTALE: this download will not become
 * the file. */
int tb_supply_await(struct tb_supply *s, uint64_t off, uint64_t len);
/* A record cannot be used as it is there: not authentic, or the disk does not give it back (error, negative
 * errno). true: it is fetched once more, and tb_supply_has() says false until it came. false: there is nobody
 * who could, or it was tried often enough. */
bool tb_supply_damaged(struct tb_supply *s, const struct tbenc_record *rec, int error);
/* This download will not become the file, and what is missing does not come. */
bool tb_supply_lost(const struct tb_supply *s);
/* The same for the cache. s is borrowed. */
struct tb_ciphertext tb_supply_ciphertext(struct tb_supply *s);
/* The record that is being fetched once more, the first of them; false: none is. For people. */
bool tb_supply_mending(struct tb_supply *s, uint64_t *ret_record);
/* All of them, for people. */
void tb_supply_repairs(struct tb_supply *s, struct tb_repairs *ret);

#endif
