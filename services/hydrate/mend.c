/* SPDX-License-Identifier: Apache-2.0 */
/* Records of a complete file that tb-decrypt found bad: fetched once more, alone. */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "common/events.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/units.h"
#include "hydrate/content_range.h"
#include "hydrate/download.h"
#include "hydrate/job.h"
#include "hydrate/verified.h"
#include "hydrate/wishes.h"
#include "tbenc/internal.h"

#define MEND_EXTEND_US (120 * TB_USEC_PER_SEC)
#define MEND_WISH_US (60 * TB_USEC_PER_SEC)
#define MEND_COMPARE_MS 5000
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

/* Bytes of the blob that the place has now: 1 when they are those of the file, 0 when not, or a negative
 * errno. Nothing is written. etag: of the answer, "" when it has none that is strong. */
static int mend_compare(const struct hydrate *h, int fd, uint64_t off, size_t n, char etag[static ETAG_MAX])
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    char range[64], err[TB_HTTP_ERR_MAX];
    const char *headers[] = {range, "x-ms-version: 2024-11-04", NULL};
    struct tb_http_request rq = {.url = h->source.sas_url,
                                 .headers = headers,
                                 .max_response = n,
                                 .timeout_ms = MEND_COMPARE_MS,
                                 .tls = &h->tls};
    uint8_t have[TBENC_HEADER_BYTES];
    int r;

    if (n > sizeof(have) || tb_pread_full(fd, have, n, off) != (ssize_t)n)
        return -EIO;
    snprintf(range, sizeof(range), "Range: bytes=%" PRIu64 "-%" PRIu64, off, off + n - 1);
    r = tb_http_do(&rq, &rs, err);
    if (r < 0)
        return r;
    if (rs.status != 206 || rs.len != n)
        return -EPROTO;
    if (!rs.etag || etag_parse(rs.etag, strlen(rs.etag), etag) < 0)
        *etag = '\0';
    return memcmp(rs.body, have, n) == 0;
}

/* Is the blob that took the place of the one of before the same encryption? Of another one nothing is right
 * for this file, and records that are sound would be lost to it: what tb-decrypt cannot read need not be bad,
 * where the key is wrong. The header has a nonce of its own, and each record a tag: where one of them is
 * equal, it is the same, and what differs has rotted here. */
static bool mend_is_same(const struct hydrate *h, int fd, char etag[static ETAG_MAX])
{
    const struct tbenc_manifest *m = h->manifest.m;
    uint64_t n = tbenc_manifest_records(m), of[] = {0, n / 2, n - 1};
    struct tbenc_record rec;
    int r = mend_compare(h, fd, 0, TBENC_HEADER_BYTES, etag);

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(of); i++)
        r = tbenc_manifest_record(m, of[i], &rec) < 0
                ? -EINVAL
                : mend_compare(h, fd, rec.ct_off + TBENC_LEN_BYTES + rec.pt_len, TBENC_TAG_BYTES, etag);
    return r > 0;
}

/* Goes on with the blob that is there now, if that is of use. */
static int mend_by_other_blob(struct hydrate *h, const struct download *d)
{
    char etag[ETAG_MAX] = "", where[256];

    tb_url_redact(h->source.sas_url, where, sizeof(where));
    tb_warn("%s was replaced since the download: what it has now is looked at", where);
    if (!mend_is_same(h, partial_fd(d->partial), etag))
        return tb_outcome_set(
            h->o, TB_EXIT_DATAERR,
            "%s is not the encryption that it was, or does not come: nothing is taken from it", where);
    h->o->code = 0;
    partial_set_etag(d->partial, etag);
    return download_run(d, h->o);
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
    if (r == HYDRATE_CHANGED && h->source.n_places == 1)
        r = mend_by_other_blob(h, &d);
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
