/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/report.h"

#include <string.h>

#include "common/file_mark.h"
#include "common/json.h"
#include "common/log.h"
#include "common/domain_file.h"
#include "common/units.h"

/* What the file of an earlier run says of it: that file is replaced. */
static void report_read_last(struct tb_report *r)
{
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    uint64_t us = 0;

    if (tb_state_read_at(r->dir, "progress.json", &doc) < 0)
        return;
    (void)tb_json_get_uint(doc, "delivered_boottime_us", TB_JSON_INT_MAX, &us, err);
    r->delivered_boottime_us = us <= tb_now_boottime_us() ? us : 0; /* of another boot */
    r->damaged_before = cJSON_DetachItemFromObject(doc, "damaged");
}

bool tb_report_suspects(const struct tb_report *r, int fd)
{
    struct stat st;

    return r->damaged_before && fstat(fd, &st) == 0 && tb_file_mark_matches(r->damaged_before, &st);
}

void tb_report_open(struct tb_report *r, const struct tb_config *c)
{
    int e;

    *r = (struct tb_report){.progress = {.verb = "Decrypting"}, .started_boottime_us = tb_now_boottime_us()};
    e = tb_runtime_dir(c->run_dir, "tb-decrypt", &r->dir);
    if (e < 0)
        tb_warn("cannot make a runtime directory under %s: %s; /status will not show progress", c->run_dir,
                strerror(-e));
    else
        report_read_last(r);
}

void tb_report_state(struct tb_report *r, const char *state, const char *reason)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    int e;

    if (strcmp(state, "complete") == 0)
        r->delivered_boottime_us = tb_now_boottime_us();
    if (!r->dir || !doc)
        return;
    cJSON_AddStringToObject(doc, "state", state);
    tb_json_add_uint(doc, "bytes_done", r->done);
    tb_json_add_uint(doc, "bytes_total", r->total);
    if (reason)
        cJSON_AddStringToObject(doc, "reason", reason);
    if (r->has_finetune)
        cJSON_AddBoolToObject(doc, "allow_finetune", r->allow_finetune);
    if (r->damaged)
        (void)tb_file_mark_add(cJSON_AddObjectToObject(doc, "damaged"), &r->ciphertext);
    if (r->delivered_boottime_us > 0)
        tb_json_add_uint(doc, "delivered_boottime_us", r->delivered_boottime_us);
    (void)tb_state_add_times(doc, r->started_boottime_us);
    e = tb_state_write(r->dir, "progress.json", doc, 0);
    if (e < 0)
        tb_warn("cannot write %s/progress.json: %s", r->dir, strerror(-e));
}

void tb_report_update(struct tb_report *r, uint64_t done, uint64_t total)
{
    uint64_t now = tb_now_monotonic_us();

    r->done = done;
    r->total = total;
    r->progress.total = total;
    tb_progress_update(&r->progress, done);
    if (now - r->last_us < TB_USEC_PER_SEC)
        return;
    r->last_us = now;
    tb_report_state(r, r->serving ? "serving" : "decrypting", NULL);
}

void tb_report_close(struct tb_report *r)
{
    free(r->dir);
    r->dir = NULL;
    cJSON_Delete(r->damaged_before);
    r->damaged_before = NULL;
}
