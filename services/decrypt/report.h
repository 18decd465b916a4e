/* SPDX-License-Identifier: Apache-2.0 */
/* RUN/tb-decrypt/progress.json and STATUS=: docs/contracts.md, "Directories and files". What follows open and
 * comes before close may be called from any thread. */
#ifndef TB_DECRYPT_REPORT_H
#define TB_DECRYPT_REPORT_H

#include <cjson/cJSON.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/config.h"
#include "common/notify.h"
#include "common/repairs.h"

struct tb_supply;

/* What became of a model that is read while it is delivered. */
struct tb_report_reading {
    uint64_t read_bytes, served_bytes, cached_bytes, room_bytes; /* as in struct tb_cache_state */
};

struct tb_report {
    char *dir;      /* owned; NULL: the directory cannot be had, and only the log tells */
    uint64_t total; /* bytes; set before there are threads, and not after that */
    uint64_t done, last_us, started_boottime_us;
    const char *state;        /* as it was last told; a constant */
    struct tb_supply *supply; /* of the records that are fetched once more; borrowed; NULL: not open */
    bool has_reading, news;   /* news: it is not what was written */
    struct tb_report_reading reading;
    struct tb_repairs repairs;      /* as last written */
    pthread_mutex_t lock;           /* guards what this module changes */
    uint64_t delivered_boottime_us; /* of the last whole delivery in this boot, 0: none */
    bool serving;                   /* a view, while it is not complete */
    bool has_finetune;              /* a signed manifest says whether: */
    bool allow_finetune;
    bool damaged;           /* the ciphertext is at fault, */
    struct stat ciphertext; /* this file */
    cJSON *suspects[2];     /* what earlier runs found so, and nobody has verified since; owned; NULL: none */
    struct tb_progress progress;
};

/* Logs, and goes on without the file, when the directory cannot be made. */
void tb_report_open(struct tb_report *r, const struct tb_config *c);
/* Did an earlier run find this very file damaged? */
bool tb_report_suspects(const struct tb_report *r, int fd);
/* From the progress callback; writes the file once a second. */
void tb_report_update(struct tb_report *r, uint64_t done);
/* Now and then, also while nothing comes: what is told has changed, or is not to look old. */
void tb_report_look(struct tb_report *r);
/* Told by the next look. */
void tb_report_set_reading(struct tb_report *r, const struct tb_report_reading *now);
/* state is "decrypting", "serving", "complete", "ended" or "failed", reason NULL but for the last. When the
 * ciphertext is at fault the file says which: tb-hydrate looks at it again. */
void tb_report_state(struct tb_report *r, const char *state, const char *reason);
void tb_report_close(struct tb_report *r);

#endif
