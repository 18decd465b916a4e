/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/report.h"

#include <string.h>

#include "common/file_mark.h"
#include "common/json.h"
#include "common/log.h"
#include "common/macros.h"
#include "common/domain_file.h"
#include "common/units.h"
#include "decrypt/supply.h"

#define REPORT_EVERY_US TB_USEC_PER_SEC
#define REPORT_SERVED_US (2 * TB_USEC_PER_SEC) /* when all is verified, and only readers change anything */

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
    r->suspects[0] = cJSON_DetachItemFromObject(doc, "damaged");
    r->suspects[1] = cJSON_DetachItemFromObject(doc, "suspect");
}

bool tb_report_suspects(const struct tb_report *r, int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(r->suspects); i++)
        if (r->suspects[i] && tb_file_mark_matches(r->suspects[i], &st))
            return true;
    return false;
}

static void report_forget_suspects(struct tb_report *r)
{
    for (unsigned i = 0; i < ARRAY_SIZE(r->suspects); i++) {
        cJSON_Delete(r->suspects[i]);
        r->suspects[i] = NULL;
    }
}

/* For the next start, if nobody verifies all of it before. A run that could name no file left a mark of
 * none. */
static void report_add_suspect(const struct tb_report *r, cJSON *doc)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t inode;

    for (unsigned i = 0; i < ARRAY_SIZE(r->suspects); i++)
        if (r->suspects[i] && tb_json_get_uint(r->suspects[i], "inode", TB_JSON_INT_MAX, &inode, err) == 0 &&
            inode > 0) {
            (void)cJSON_AddItemToObject(doc, "suspect", cJSON_Duplicate(r->suspects[i], true));
            return;
        }
}

void tb_report_open(struct tb_report *r, const struct tb_config *c)
{
    int e;

    *r = (struct tb_report){
        .progress = {.verb = "Decrypting"}, .state = "", .started_boottime_us = tb_now_boottime_us()};
    pthread_mutex_init(&r->lock, NULL);
    e = tb_runtime_dir(c->run_dir, "tb-decrypt", &r->dir);
    if (e < 0)
        tb_warn("cannot make a runtime directory under %s: %s; /status will not show progress", c->run_dir,
                strerror(-e));
    else
        report_read_last(r);
}

static void report_add_reading(cJSON *doc, const struct tb_report_reading *g)
{
    tb_json_add_uint(doc, "read_bytes", g->read_bytes);
    tb_json_add_uint(doc, "served_bytes", g->served_bytes);
    tb_json_add_uint(doc, "cached_bytes", g->cached_bytes);
    tb_json_add_uint(doc, "cache_bytes", g->room_bytes);
}

static bool report_is_under_way(const struct tb_report *r)
{
    return strcmp(r->state, "decrypting") == 0 || strcmp(r->state, "serving") == 0;
}

/* -- under the lock ----------------------------------------------------------------------------------- */
static void report_write_now(struct tb_report *r, const char *reason)
{
    _cleanup_json_ cJSON *doc = r->dir ? cJSON_CreateObject() : NULL;
    int e;

    r->last_us = tb_now_monotonic_us();
    r->news = false;
    if (!doc)
        return;
    if (r->supply)
        tb_supply_repairs(r->supply, &r->repairs);
    cJSON_AddStringToObject(doc, "state", r->state);
    tb_json_add_uint(doc, "bytes_done", r->done);
    tb_json_add_uint(doc, "bytes_total", r->total);
    if (report_is_under_way(r))
        tb_json_add_uint(doc, "bytes_per_second", tb_progress_rate(&r->progress));
    if (r->has_reading)
        report_add_reading(doc, &r->reading);
    (void)tb_repairs_add(doc, &r->repairs, true);
    if (reason)
        cJSON_AddStringToObject(doc, "reason", reason);
    if (r->has_finetune)
        cJSON_AddBoolToObject(doc, "allow_finetune", r->allow_finetune);
    if (r->damaged)
        (void)tb_file_mark_add(cJSON_AddObjectToObject(doc, "damaged"), &r->ciphertext);
    report_add_suspect(r, doc);
    if (r->delivered_boottime_us > 0)
        tb_json_add_uint(doc, "delivered_boottime_us", r->delivered_boottime_us);
    (void)tb_state_add_times(doc, r->started_boottime_us);
    e = tb_state_write(r->dir, "progress.json", doc, 0);
    if (e < 0)
        tb_warn("cannot write %s/progress.json: %s", r->dir, strerror(-e));
}

static bool report_is_due(const struct tb_report *r, uint64_t every_us)
{
    return tb_now_monotonic_us() - r->last_us >= every_us;
}

void tb_report_state(struct tb_report *r, const char *state, const char *reason)
{
    pthread_mutex_lock(&r->lock);
    r->state = state;
    if (strcmp(state, "complete") == 0) {
        r->delivered_boottime_us = tb_now_boottime_us();
        report_forget_suspects(r);
    }
    report_write_now(r, reason);
    pthread_mutex_unlock(&r->lock);
}

void tb_report_update(struct tb_report *r, uint64_t done)
{
    pthread_mutex_lock(&r->lock);
    r->done = done;
    r->progress.total = r->total;
    tb_progress_update(&r->progress, done);
    if (report_is_due(r, REPORT_EVERY_US))
        report_write_now(r, NULL);
    pthread_mutex_unlock(&r->lock);
}

/* Other records are fetched once more than the file says. */
static bool report_has_repairs(const struct tb_report *r)
{
    struct tb_repairs now = {0};

    if (r->supply)
        tb_supply_repairs(r->supply, &now);
    return now.waiting != r->repairs.waiting || now.fetched != r->repairs.fetched;
}

void tb_report_look(struct tb_report *r)
{
    bool due;

    pthread_mutex_lock(&r->lock);
    due = report_is_under_way(r) ? report_is_due(r, REPORT_EVERY_US)
                                 : report_is_due(r, REPORT_SERVED_US) && (r->news || report_has_repairs(r));
    if (due)
        report_write_now(r, NULL);
    pthread_mutex_unlock(&r->lock);
}

void tb_report_set_reading(struct tb_report *r, const struct tb_report_reading *now)
{
    pthread_mutex_lock(&r->lock);
    r->news |= !r->has_reading || memcmp(now, &r->reading, sizeof(*now)) != 0;
    r->has_reading = true;
    r->reading = *now;
    pthread_mutex_unlock(&r->lock);
}

void tb_report_close(struct tb_report *r)
{
    free(r->dir);
    r->dir = NULL;
    report_forget_suspects(r);
    pthread_mutex_destroy(&r->lock);
}
