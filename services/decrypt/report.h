/* SPDX-License-Identifier: Apache-2.0 */
/* RUN/tb-decrypt/progress.json and STATUS=: docs/contracts.md, "Directories and files". */
#ifndef TB_DECRYPT_REPORT_H
#define TB_DECRYPT_REPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/config.h"
#include "common/notify.h"

struct tb_report {
    char *dir; /* owned; NULL: the directory cannot be had, and only the log tells */
    uint64_t done, total, last_us, started_boottime_us;
    uint64_t delivered_boottime_us; /* of the last whole delivery in this boot, 0: none */
    bool serving;                   /* a view, while it is not complete */
    bool has_finetune;              /* a signed manifest says whether: */
    bool allow_finetune;
    bool damaged;           /* the ciphertext is at fault, */
    struct stat ciphertext; /* this file */
    cJSON *damaged_before;  /* the file that an earlier run found so; owned; NULL: none */
    struct tb_progress progress;
};

/* Logs, and goes on without the file, when the directory cannot be made. */
void tb_report_open(struct tb_report *r, const struct tb_config *c);
/* Did an earlier run find this very file damaged? */
bool tb_report_suspects(const struct tb_report *r, int fd);
/* From the progress callback; writes the file once a second. */
void tb_report_update(struct tb_report *r, uint64_t done, uint64_t total);
/* state is "decrypting", "serving", "complete", "ended" or "failed", reason NULL but for the last. When the
 * ciphertext is at fault the file says which: tb-hydrate looks at it again. */
void tb_report_state(struct tb_report *r, const char *state, const char *reason);
void tb_report_close(struct tb_report *r);

#endif
