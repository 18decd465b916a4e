/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/report.h"

#include <fcntl.h>
#include <string.h>

#include "common/json.h"
#include "common/domain_file.h"
#include "common/io.h"
#include "common/log.h"
#include "common/units.h"

#define FILE_EVERY_US (TB_USEC_PER_SEC / 2)

/* Nobody depends on this file for correctness: a failure to write it must not fail a download. */
static void report_write_file(struct report *r, const char *reason)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || !r->dir)
        return;
    cJSON_AddStringToObject(o, "state", r->state);
    if (r->version)
        tb_json_add_uint(o, "asset_version", r->version);
    tb_json_add_uint(o, "bytes_done", r->done);
    tb_json_add_uint(o, "bytes_total", r->total);
    if (r->moving)
        tb_json_add_uint(o, "bytes_per_second", tb_progress_rate(&r->bar));
    if (r->mirror) {
        cJSON_AddStringToObject(o, "mirror", r->mirror);
        tb_json_add_uint(o, "mirror_bytes", r->mirror_bytes);
        tb_json_add_uint(o, "storage_bytes", r->storage_bytes);
    }
    if (reason)
        cJSON_AddStringToObject(o, "reason", reason);
    (void)tb_state_add_times(o, r->started_boottime_us);
    (void)tb_state_write(r->dir, "progress.json", o, 0);
    r->written_us = tb_now_monotonic_us();
}

void report_phase(struct report *r, const char *state, const char *verb, uint64_t done, uint64_t total)
{
    r->state = state;
    r->total = total;
    r->done = done;
    r->moving = total > done;
    r->bar = (struct tb_progress){.verb = verb, .total = total};
    report_write_file(r, NULL);
}

void report_progress(struct report *r, uint64_t done)
{
    r->done = done;
    tb_progress_update(&r->bar, done);
    if (tb_now_monotonic_us() - r->written_us >= FILE_EVERY_US)
        report_write_file(r, NULL);
}

void report_source(struct report *r, const char *mirror, uint64_t mirror_bytes, uint64_t bytes)
{
    if (!r->mirror)
        return;
    r->mirror = mirror;
    r->mirror_bytes = mirror_bytes;
    r->storage_bytes = bytes - MIN(bytes, r->there + mirror_bytes);
}

void report_complete(struct report *r, uint64_t total)
{
    r->state = "complete";
    r->moving = false;
    r->done = r->total = total;
    report_write_file(r, NULL);
}

void report_failed(struct report *r, const char *reason)
{
    r->state = "failed";
    r->moving = false;
    report_write_file(r, reason);
}

void report_rates(const char *path, uint64_t fetched, uint64_t begin_us, uint64_t fetched_us, bool hashed)
{
    char bytes[32], rate[32];
    double s = (double)MAX(fetched_us - begin_us, 1U) / TB_USEC_PER_SEC;

    tb_info("downloaded %s in %.2f s (%s/s), %s %.2f s later: %s",
            tb_bytes_format(fetched, bytes, sizeof(bytes)), s,
            tb_bytes_format((uint64_t)((double)fetched / s), rate, sizeof(rate)),
            hashed ? "verified" : "on the disk",
            (double)(tb_now_monotonic_us() - fetched_us) / TB_USEC_PER_SEC, path);
}

void report_readable(const struct report *r)
{
    _cleanup_free_ char *path = r->dir ? tb_path_join(r->dir, "readable") : NULL;
    _cleanup_close_ int fd = -1;

    if (!path)
        return;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        tb_warn("cannot write %s: %s; tb-runtime.service does not start without it", path, strerror(errno));
}
