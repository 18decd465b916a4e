/* SPDX-License-Identifier: Apache-2.0 */
/* How often a model that proved bad was fetched again since it was last delivered whole. Three times, then
 * a person must look: a damaged source or a dying disk must not cause traffic without end, over restarts
 * and reboots either.
 *
 * STATE/tb-hydrate/repair.json holds the count. A delivery ends it: tb-decrypt leaves in its file when the
 * last one was, and the next start or stop of tb-hydrate in the same boot looks there. Whole files are
 * fetched again; when records are, their own tries go beside this count (docs/contracts.md). */
#ifndef TB_HYDRATE_REPAIR_H
#define TB_HYDRATE_REPAIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/config.h"
#include "common/outcome.h"
#include "hydrate/hasher.h"

#define REPAIR_TRIES 3
#define REPAIR_REASON_MAX 120

enum repair_cause {
    REPAIR_SOURCE, /* what was fetched has not the hash of its manifest */
    REPAIR_DISK,   /* it was right once, and is not any more */
    REPAIR_KEY,    /* it has the hash of its manifest, and cannot be decrypted */
    _REPAIR_CAUSE_MAX,
};

struct repair {
    const char *program; /* whose directory that is, and whose unit is to be started again */
    char *dir;           /* of repair.json; NULL: it cannot be had, and the count is this process's */
    const char *target;  /* TB_TARGET_DIR, borrowed */
    char sha256[2 * SHA256_BYTES + 1];
    unsigned tries;
    bool refused;                   /* no more: a person must look first */
    enum repair_cause cause;        /* of the last try */
    char reason[REPAIR_REASON_MAX]; /* of the last try */
    uint64_t noted_us;              /* the failed decryption that was seen to last; 0: none */
};

/* What is known of this ciphertext in this directory; a record of another one is nothing. */
void repair_load(struct repair *r, const struct tb_config *cfg, const char *program,
                 const uint8_t sha256[static SHA256_BYTES]);
void repair_clear(struct repair *r);
/* Ends the count if the model was delivered since the last try. */
void repair_settle(const char *state_dir, const char *run_dir);

/* tb-decrypt says that this very file is at fault, in a run that repair_count() has not been told of.
 * *ret_us is its name for that. */
bool repair_noted(const struct repair *r, const char *run_dir, const struct stat *st, uint64_t *ret_us,
                  char ret_reason[static REPAIR_REASON_MAX]);
/* There may be no other try. */
bool repair_exhausted(const struct repair *r);
/* One more try, on the disk before it begins; logged. path: the ciphertext. noted_us: 0 or of
 * repair_noted(). */
void repair_count(struct repair *r, const char *path, enum repair_cause cause, const char *reason,
                  uint64_t noted_us);
/* Instead of another one, now and at each start from now on: TB_EXIT_DATAERR, with what happened and the
 * cure. */
int repair_refuse(struct repair *r, const char *path, struct tb_outcome *o);

#endif
