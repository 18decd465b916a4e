/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/report.h"

#include <string.h>

#include "common/json.h"
#include "common/log.h"
#include "common/domain_file.h"
#include "common/units.h"

void tb_report_open(struct tb_report *r, const struct tb_config *c)
{
    int e;

    *r = (struct tb_report){.progress = {.verb = "Decrypting"}};
    e = tb_runtime_dir(c->run_dir, "tb-decrypt", &r->dir);
    if (e < 0)
        tb_warn("cannot make a runtime directory under %s: %s; /status will not show progress", c->run_dir,
                strerror(-e));
}

void tb_report_state(struct tb_report *r, const char *state, const char *reason)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    int e;

    if (!r->dir || !doc)
        return;
    cJSON_AddStringToObject(doc, "state", state);
    tb_json_add_uint(doc, "bytes_done", r->done);
    tb_json_add_uint(doc, "bytes_total", r->total);
    if (reason)
        cJSON_AddStringToObject(doc, "reason", reason);
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
    tb_report_state(r, "decrypting", NULL);
}

void tb_report_close(struct tb_report *r)
{
    free(r->dir);
    r->dir = NULL;
}
