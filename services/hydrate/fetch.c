/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/secret.h"
#include "common/serving.h"
#include "common/units.h"
#include "hydrate/download.h"
#include "hydrate/job.h"
#include "hydrate/target.h"
#include "hydrate/threads.h"
#include "hydrate/verified.h"

int hydrate_wait_digest(struct hydrate *h, struct hasher *hasher, const char *path, bool *ret_good)
{
    struct pollfd p[] = {{.fd = hasher_fd(hasher), .events = POLLIN}, {.fd = h->signal_fd, .events = POLLIN}};
    uint8_t digest[SHA256_BYTES];
    int r;

    for (;;) {
        r = poll(p, ARRAY_SIZE(p), 500);
        report_progress(&h->report, hasher_done(hasher));
        if (r > 0 && p[0].revents)
            break;
        if (r > 0 && p[1].revents)
            return tb_outcome_set(h->o, HYDRATE_STOPPED, "stopped by a signal while verifying %s", path);
    }
    r = hasher_result(hasher, digest);
    if (r < 0)
        hydrate_outcome_io(h->o, r, "cannot read", path);
    if (r < 0 && tb_errno_is_disk(r))
        h->o->code = HYDRATE_DAMAGED;
    if (r < 0)
        return h->o->code;
    *ret_good = tb_mem_equal(digest, h->manifest.m->sha256_ciphertext, sizeof(digest));
    return 0;
}

/* With tags_sha256 the records' tags take the place of the hash: tb-decrypt verifies each byte by them, and
 * the sequence in the end. A version that is to wait beside the one that serves is hashed all the same: it
 * costs nobody time, and it is better known before the switch. So is what came before and was bad: it is to
 * be known whether the source is at fault, before anybody reads it; and an overlay with what it stands on. */
static bool fetch_hashes(const struct hydrate *h)
{
    return !h->manifest.m->has_tags_sha256 || h->manifest.m->base || h->is_base || h->versions.next ||
           h->repair.tries > 0;
}

/* The model may be decrypted behind the download: what comes can be verified by itself, the delivery can wait
 * for it, and the place is where readers look. */
static bool fetch_is_followed(const struct hydrate *h)
{
    _cleanup_free_ char *served = tb_serving_dir(h->versions.cfg->target_dir, h->cfg->asset_id);

    return !fetch_hashes(h) && h->cfg->delivery != TB_DELIVERY_FIFO && partial_has_map(h->partial) &&
           served && strcmp(served, h->cfg->target_dir) == 0;
}

static bool fetch_has_manifest(const struct hydrate *h)
{
    _cleanup_free_ char *text = NULL;
    struct stat st;
    size_t len;

    return lstat(h->manifest_path, &st) == 0 && S_ISREG(st.st_mode) &&
           target_restore_access(h->manifest_path, &st) == 0 &&
           tb_read_file(h->manifest_path, h->manifest.len, &text, &len) == 0 && len == h->manifest.len &&
           memcmp(text, h->manifest.text, len) == 0;
}

/* A disk that is full, or may only be read, does not keep a complete model from being used. */
static int fetch_write_manifest(struct hydrate *h)
{
    int r;

    if (fetch_has_manifest(h))
        return 0;
    versions_end_former(h->cfg->target_dir, h->manifest.m);
    r = tb_write_file_atomic(h->manifest_path, h->manifest.text, h->manifest.len, 0640);
    return r < 0 ? hydrate_outcome_io(h->o, r, "cannot write", h->manifest_path) : 0;
}

/* Readers find the file by the manifest, and what came of it by the map. */
static int fetch_announce(struct hydrate *h)
{
    int r = fetch_write_manifest(h);

    if (r != 0)
        return r;
    report_readable(&h->report);
    tb_notify_ready("Downloading %s, which can be read as it comes", h->final_path);
    return 0;
}

int hydrate_publish(struct hydrate *h, const char *path, const char *etag)
{
    struct stat st;
    int r;

    if (stat(path, &st) < 0)
        return hydrate_outcome_io(h->o, -errno, "cannot look at", path);
    r = verified_write(h->final_path, &st, h->manifest.m->sha256_ciphertext, etag);
    if (r < 0 && strcmp(path, h->final_path) == 0) {
        tb_warn("cannot record the verification of %s: %s; the next start verifies it once more", path,
                strerror(-r));
        r = 0;
    }
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot record the verification of", path);
    r = fetch_write_manifest(h);
    if (r != 0)
        return r;
    if (strcmp(path, h->final_path) != 0)
        r = target_make_way(h->final_path);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot make way for", h->final_path);
    if (strcmp(path, h->final_path) != 0 && rename(path, h->final_path) < 0)
        return hydrate_outcome_io(h->o, -errno, "cannot give its final name to", path);
    if (strcmp(path, h->final_path) != 0)
        r = tb_fsync_parent(h->final_path);
    if (r == 0)
        r = partial_finish(h->final_path);
    if (r == 0)
        versions_sweep_former(h->cfg->target_dir, h->manifest.m);
    return r < 0 ? hydrate_outcome_io(h->o, r, "cannot finish", h->final_path) : 0;
}

/* The header comes with the first range: a blob that is no .tbenc of this manifest is refused before the
 * rest is fetched. */
static int fetch_check_header(struct hydrate *h, bool begun)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    struct tbenc_error e = {0};
    struct tbenc_header header;

    if (h->header_seen || !begun)
        return 0;
    h->header_seen = true;
    if (partial_identity(h->partial)->chunk < sizeof(buf) ||
        tb_pread_full(partial_fd(h->partial), buf, sizeof(buf), 0) != (ssize_t)sizeof(buf))
        return 0; /* the hash decides */
    h->worthless = true;
    if (tbenc_header_parse(buf, sizeof(buf), 0, &header, &e) < 0)
        return tb_outcome_set(h->o, TB_EXIT_DATAERR, "the blob is not what its manifest says: %s", e.message);
    if (header.chunk_bytes != h->manifest.m->chunk_bytes)
        return tb_outcome_set(
            h->o, TB_EXIT_DATAERR,
            "the blob is not what its manifest says: chunk_bytes %u in its header, %u in the manifest",
            header.chunk_bytes, h->manifest.m->chunk_bytes);
    h->worthless = false;
    return 0;
}

static int fetch_progress(void *ctx, const struct download_progress *p)
{
    struct hydrate *h = ctx;

    report_source(&h->report, p->mirror, p->mirror_bytes, p->bytes);
    report_progress(&h->report, p->bytes);
    return fetch_check_header(h, p->begun);
}

static int fetch_sync(struct hydrate *h)
{
    int r = partial_sync(h->partial);

    if (r < 0)
        hydrate_outcome_io(h->o, r, "cannot sync", partial_path(h->partial));
    if (r < 0 && tb_errno_is_disk(r))
        h->o->code = HYDRATE_DAMAGED;
    return r < 0 ? h->o->code : 0;
}

/* The whole file is there: its hash decides, or the tags will. */
static int fetch_verify(struct hydrate *h, struct hasher *hasher)
{
    bool good = false;
    int r;

    if (!hasher)
        return fetch_sync(h);
    report_phase(&h->report, "verifying", "Verifying", 0, h->size);
    r = hydrate_wait_digest(h, hasher, partial_path(h->partial), &good);
    if (r != 0)
        return r;
    h->fault = good ? REPAIR_DISK : REPAIR_SOURCE;
    if (!good)
        return tb_outcome_set(h->o, HYDRATE_DAMAGED, "the SHA-256 of what came is not the manifest's");
    return fetch_sync(h);
}

/* A copy that was bad is fetched again without the mirror: so a poisoned one costs a download, and is no
 * permanent stop. */
static const char *fetch_mirror(const struct hydrate *h)
{
    if (h->cfg->blob_mirror && h->repair.tries > 0)
        tb_info("the storage alone gives %s: what came before was bad, and a mirror may be why",
                h->final_path);
    return h->repair.tries > 0 ? NULL : h->cfg->blob_mirror;
}

void hydrate_set_width(const struct hydrate *h, struct download *d)
{
    unsigned cpus = threads_cpus();

    d->connections = h->cfg->download_concurrency;
    if (d->connections == 0)
        d->connections = threads_connections_for(cpus);
    d->request_bytes = h->cfg->download_chunk_bytes;
    d->threads = h->cfg->download_threads;
    if (d->threads == 0)
        d->threads = threads_for(cpus, threads_link_mbit("/sys/class/net"), d->connections);
    d->threads = MIN(d->threads, d->connections);
}

/* Downloads into the partial file, and verifies it. */
static int fetch_run(struct hydrate *h)
{
    _cleanup_hasher_ struct hasher *hasher = NULL;
    _cleanup_mirror_ struct mirror mirror = {0};
    struct download d = {.url = h->source.sas_url,
                         .tls = &h->tls,
                         .partial = h->partial,
                         .run_dir = fetch_hashes(h) ? NULL : h->cfg->run_dir,
                         .stop_fd = h->signal_fd,
                         .progress = fetch_progress,
                         .ctx = h};
    uint64_t begin_us = tb_now_monotonic_us(), fetched_us, there = partial_ranges(h->partial)->bytes;
    char text[32];
    int r;

    if (there > 0)
        tb_info("resuming: %s of %s are there", tb_bytes_format(there, text, sizeof(text)),
                partial_path(h->partial));
    /* The tag is of one place, and what is there may be of another: the hash decides of them together. */
    if (h->source.n_places > 1)
        partial_set_etag(h->partial, "");
    report_phase(&h->report, "downloading", "Downloading", there, h->size);
    h->report.there = there;
    /* What was there before may have rotted, and tells nothing of the blob. */
    h->header_seen = ranges_has(partial_ranges(h->partial), 0);
    if (fetch_is_followed(h) && fetch_announce(h) != 0)
        return h->o->code;
    r = fetch_hashes(h) ? hasher_start(partial_fd(h->partial), h->size, &hasher) : 0;
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot hash", partial_path(h->partial));
    if (mirror_init(&mirror, fetch_mirror(h), h->cfg->blob_mirror_sas, h->source.sas_url,
                    partial_ranges(h->partial)->n) < 0)
        return hydrate_outcome_io(h->o, -ENOMEM, "cannot mirror", h->final_path);
    d.n_others = source_others(&h->source, d.others);
    d.mirror = &mirror;
    d.hasher = hasher;
    hydrate_set_width(h, &d);
    r = download_run(&d, h->o);
    report_source(&h->report, mirror_state(&mirror), mirror.bytes, partial_ranges(h->partial)->bytes);
    if (r == 0)
        r = fetch_check_header(h, true);
    h->place_failed =
        r == TB_EXIT_TEMPFAIL || r == TB_EXIT_NOINPUT || r == TB_EXIT_DATAERR || r == TB_EXIT_CONFIG ||
        (r == HYDRATE_CHANGED && h->source.n_places > 1); /* the next one is not being uploaded */
    if (r != 0)
        return r;
    fetched_us = tb_now_monotonic_us();
    r = fetch_verify(h, hasher);
    if (r == 0)
        report_rates(h->final_path, h->size - there, begin_us, fetched_us, fetch_hashes(h));
    if (r == 0 && mirror.url)
        tb_info("%s of these came from the mirror %s", tb_bytes_format(mirror.bytes, text, sizeof(text)),
                mirror.where);
    return r;
}

int hydrate_download(struct hydrate *h)
{
    _cleanup_partial_ struct partial *partial = NULL;
    struct partial_identity want = {
        .size = h->size, .chunk = MIN(h->cfg->download_chunk_bytes, (uint64_t)PARTIAL_RANGE_BYTES)};
    int r;

    memcpy(want.sha256, h->manifest.m->sha256_ciphertext, sizeof(want.sha256));
    h->header_seen = h->worthless = false;
    h->fault = REPAIR_DISK;
    r = partial_open(h->final_path, &want, &partial);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot prepare the download of", h->final_path);
    h->partial = partial;
    r = fetch_run(h);
    h->partial = NULL;
    if (r == 0) {
        _cleanup_free_ char *path = strdup(partial_path(partial));
        char etag[ETAG_MAX] = "";

        if (h->source.n_places == 1)
            memcpy(etag, partial_identity(partial)->etag, sizeof(etag));
        partial = partial_close(partial);
        return path ? hydrate_publish(h, path, etag)
                    : hydrate_outcome_io(h->o, -ENOMEM, "cannot publish", h->final_path);
    }
    /* Of several places the hash decides, or the tags, and what the others gave may be good. */
    if (h->worthless || (r == HYDRATE_CHANGED && h->source.n_places == 1) || r == HYDRATE_DAMAGED) {
        partial = partial_close(partial);
        if ((h->worthless ? partial_remove(h->final_path) : partial_abandon(h->final_path)) < 0)
            tb_warn("cannot remove what is left of the download of %s", h->final_path);
    }
    return r;
}
