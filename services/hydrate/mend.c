/* SPDX-License-Identifier: Apache-2.0 */
/* Records of a complete file that tb-decrypt found bad: fetched once more, alone. */
#include <string.h>
#include <sys/stat.h>

#include "common/events.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/units.h"
#include "hydrate/download.h"
#include "hydrate/job.h"
#include "hydrate/verified.h"
#include "hydrate/wishes.h"

#define MEND_EXTEND_US (120 * TB_USEC_PER_SEC)
#define MEND_WISH_US (60 * TB_USEC_PER_SEC)
#define MEND_LINGER_MS 2000 /* a record may be bad once more, and others too */

/* Many records may take longer than a start is given. */
static int mend_progress(void *ctx, const struct download_progress *p)
{
    struct hydrate *h = ctx;

    (void)p;
    if (tb_now_monotonic_us() - h->extended_us >= TB_USEC_PER_SEC) {
        h->extended_us = tb_now_monotonic_us();
        tb_notify_extend(MEND_EXTEND_US);
    }
    return 0;
}

/* tb-decrypt writes its wishes once more each second while somebody waits: what is older is of one that was
 * killed, and the record may have been mended since. */
static bool mend_is_waited_for(const struct hydrate *h)
{
    _cleanup_free_ char *path = tb_path_join(h->cfg->run_dir, "tb-decrypt/" TB_WANT_NAME);
    struct stat st;
    uint64_t now = tb_now_realtime_us(), then;

    if (!path || stat(path, &st) < 0)
        return false;
    then = (uint64_t)st.st_mtim.tv_sec * TB_USEC_PER_SEC;
    return (now > then ? now - then : then - now) <= MEND_WISH_US;
}

static bool mend_is_wanted(const struct hydrate *h, const struct partial_identity *id)
{
    struct wishes w;
    bool wanted;

    if (!mend_is_waited_for(h))
        return false;
    wishes_init(&w, h->cfg->run_dir);
    (void)wishes_refresh(&w, id);
    wanted = wishes_repairs(&w) > 0;
    wishes_clear(&w);
    return wanted;
}

/* It is the file that was verified, with other bytes in some places: its record is of its new mtime. */
static int mend_vouch(struct hydrate *h, const struct partial *p)
{
    struct stat st;

    if (fsync(partial_fd(p)) < 0 || fstat(partial_fd(p), &st) < 0)
        return -errno;
    return verified_write(h->final_path, &st, h->manifest.m->sha256_ciphertext,
                          h->source.n_places == 1 ? partial_identity(p)->etag : NULL);
}

int hydrate_mend(struct hydrate *h)
{
    _cleanup_partial_ struct partial *p = NULL;
    struct partial_identity id = {.size = h->size,
                                  .chunk = MIN(h->cfg->download_chunk_bytes, (uint64_t)PARTIAL_RANGE_BYTES)};
    struct download d = {.url = h->source.sas_url,
                         .tls = &h->tls,
                         .stop_fd = h->signal_fd,
                         .run_dir = h->cfg->run_dir,
                         .linger_ms = MEND_LINGER_MS,
                         .progress = mend_progress,
                         .ctx = h};
    int r, e, f;

    memcpy(id.sha256, h->manifest.m->sha256_ciphertext, sizeof(id.sha256));
    d.n_others = source_others(&h->source, d.others);
    hydrate_set_width(h, &d);
    if (h->source.n_places == 0 || !mend_is_wanted(h, &id))
        return 0;
    if (h->source.n_places == 1)
        verified_etag(h->final_path, id.sha256, id.etag);
    r = partial_open_complete(h->final_path, &id, &p);
    if (r < 0) { /* for want of room, or as it may only be read: what is good of it is of use all the same */
        tb_warn("cannot mend %s: %s", h->final_path, strerror(-r));
        return 0;
    }
    d.partial = p;
    report_phase(&h->report, "mending", "Mending", h->size, h->size);
    r = download_run(&d, h->o);
    e = mend_vouch(h, p);
    p = partial_close(p);
    f = partial_finish(h->final_path); /* whatever became of it, nobody is to wait for more */
    if (e < 0 || f < 0)
        return hydrate_outcome_io(h->o, e < 0 ? e : f, "cannot mend", h->final_path);
    if (r == HYDRATE_STOPPED)
        return r;
    if (r != 0) /* the reader goes on asking for a while, and says then what it lacks */
        tb_warn("cannot mend %s: %s", h->final_path, h->o->reason);
    return h->o->code = 0;
}
