/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/hydrate.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "hydrate/download.h"
#include "hydrate/overlay.h"
#include "common/io.h"
#include "common/log.h"
#include "hydrate/repair.h"
#include "hydrate/report.h"
#include "common/secret.h"
#include "common/signals.h"
#include "hydrate/source.h"
#include "common/domain_file.h"
#include "hydrate/target.h"
#include "common/units.h"
#include "hydrate/verified.h"
#include "hydrate/versions.h"

struct hydrate {
    const struct tb_config *cfg; /* with the place of the version as its target_dir */
    struct tb_config here;
    struct versions versions;
    struct tb_http_tls tls;
    int signal_fd;
    struct hydrate_source source;
    struct manifest manifest;
    char *final_path, *manifest_path;
    uint64_t size;
    struct report report;
    struct repair repair;
    bool place_failed; /* what the attempt ended with is of the place, and another may do better */
    bool header_seen;
    enum repair_cause fault; /* of HYDRATE_DAMAGED */
    bool worthless;          /* what was downloaded cannot become the file */
    struct partial *partial; /* while downloading, borrowed */
    bool is_base;            /* what an overlay stands on, not what is delivered */
    struct tb_outcome *o;
};

static const char *hydrate_program(const struct hydrate *h)
{
    return h->versions.next ? "tb-next" : "tb-hydrate";
}

/* What is of one ciphertext. */
static void hydrate_clear_file(struct hydrate *h)
{
    source_clear(&h->source);
    manifest_clear(&h->manifest);
    free(h->final_path);
    free(h->manifest_path);
    repair_clear(&h->repair);
}

static void hydrate_clear(struct hydrate *h)
{
    hydrate_clear_file(h);
    free(h->report.dir);
    versions_clear(&h->versions);
}

/* Waits for the digest while showing progress. 0 with *ret_good: it is the manifest's. HYDRATE_DAMAGED:
 * the disk does not give the file back. */
static int hydrate_wait_digest(struct hydrate *h, struct hasher *hasher, const char *path, bool *ret_good)
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

/* Takes a file as complete: writes record, manifest and final name, in the order hydrate.h gives. */
static int hydrate_publish(struct hydrate *h, const char *path)
{
    struct stat st;
    int r;

    if (stat(path, &st) < 0)
        return hydrate_outcome_io(h->o, -errno, "cannot look at", path);
    r = verified_write(h->final_path, &st, h->manifest.m->sha256_ciphertext);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot record the verification of", path);
    r = tb_write_file_atomic(h->manifest_path, h->manifest.text, h->manifest.len, 0640);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot write", h->manifest_path);
    if (strcmp(path, h->final_path) != 0)
        r = target_make_way(h->final_path);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot make way for", h->final_path);
    if (strcmp(path, h->final_path) != 0 && rename(path, h->final_path) < 0)
        return hydrate_outcome_io(h->o, -errno, "cannot give its final name to", path);
    r = tb_fsync_parent(h->final_path);
    if (r == 0)
        r = partial_finish(h->final_path);
    return r < 0 ? hydrate_outcome_io(h->o, r, "cannot finish", h->final_path) : 0;
}

/* Hashes a file of the right size that nobody vouches for, or that somebody doubts: then as the disk has
 * it, not the page cache. 0 with *ret_good. */
static int hydrate_rehash(struct hydrate *h, const char *path, bool doubted, bool *ret_good)
{
    _cleanup_close_ int fd = -1;
    _cleanup_hasher_ struct hasher *hasher = NULL;
    int r;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && tb_errno_is_disk(-errno))
        return 0;
    if (fd < 0)
        return hydrate_outcome_io(h->o, -errno, "cannot open", path);
    tb_info("%s is there but %s: hashing it", path, doubted ? "was found damaged" : "not known as verified");
    if (doubted)
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    report_phase(&h->report, "verifying", "Verifying", h->size);
    r = hasher_start(fd, h->size, &hasher);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot hash", path);
    hasher_advance(hasher, h->size);
    r = hydrate_wait_digest(h, hasher, path, ret_good);
    if (r != HYDRATE_DAMAGED)
        return r;
    h->o->code = 0;
    return 0;
}

/* The file that is there proved bad, and only a person or another copy helps. Nothing is fetched when the
 * tries are used up. Its space is given back first: there may not be enough for two. */
static int hydrate_discard(struct hydrate *h, enum repair_cause cause, const char *why, uint64_t noted_us)
{
    int r;

    r = versions_forsake(&h->versions, why, h->o);
    if (r != 0)
        return r;
    if (repair_exhausted(&h->repair))
        return repair_refuse(&h->repair, h->final_path, h->o);
    repair_count(&h->repair, h->final_path, cause, why, noted_us);
    r = target_make_way(h->final_path);
    if (r == 0 && unlink(h->final_path) < 0 && errno != ENOENT)
        r = -errno;
    return r < 0 ? hydrate_outcome_io(h->o, r, "cannot remove the damaged", h->final_path) : 0;
}

/* tb-decrypt found the file at fault. Its hash decides whether it is: if it is right, another copy would
 * be the same. */
static int hydrate_doubt(struct hydrate *h, const char *why, uint64_t noted_us, bool *ret_good)
{
    int r = hydrate_rehash(h, h->final_path, true, ret_good);

    if (r != 0 || !*ret_good)
        return r != 0 ? r : hydrate_discard(h, REPAIR_DISK, why, noted_us);
    if (repair_exhausted(&h->repair))
        return repair_refuse(&h->repair, h->final_path, h->o);
    repair_count(&h->repair, h->final_path, REPAIR_KEY, why, noted_us);
    return 0;
}

/* The file under its final name, if it may be used as it is. 0 with *ret_good. */
static int hydrate_look(struct hydrate *h, bool *ret_good)
{
    const uint8_t *sha = h->manifest.m->sha256_ciphertext;
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, h->final_path);
    char why[REPAIR_REASON_MAX] = "it has not the size, mtime and content any more that were verified";
    struct stat st;
    uint64_t noted_us;
    int r = 0;

    if (!part)
        return hydrate_outcome_io(h->o, -ENOMEM, "cannot look for", h->final_path);
    if (lstat(h->final_path, &st) < 0)
        return 0;
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size == h->size) {
        if (target_restore_access(h->final_path, &st) < 0)
            snprintf(why, sizeof(why), "tb-decrypt may not read it: its owner, group or mode was changed");
        else if (repair_noted(&h->repair, h->cfg->run_dir, &st, &noted_us, why))
            return hydrate_doubt(h, why, noted_us, ret_good);
        else if (verified_matches(h->final_path, &st, sha))
            *ret_good = true;
        else if (lstat(part, &(struct stat){0}) < 0) /* beside a .part it was found to be another version */
            r = hydrate_rehash(h, h->final_path, false, ret_good);
    }
    if (r != 0 || *ret_good || !verified_before(h->final_path, sha))
        return r;
    return hydrate_discard(h, REPAIR_DISK, why, 0);
}

/* Looks for a file that needs no download: the final one, or a .part whose hash was right when a crash
 * came before its rename. 0 with *ret_found. */
static int hydrate_find_complete(struct hydrate *h, bool *ret_found)
{
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, h->final_path);
    const uint8_t *sha = h->manifest.m->sha256_ciphertext;
    struct stat st;
    int r;

    *ret_found = false;
    if (!part)
        return hydrate_outcome_io(h->o, -ENOMEM, "cannot look for", h->final_path);
    r = hydrate_look(h, ret_found);
    if (r != 0 || *ret_found)
        return r != 0 ? r : hydrate_publish(h, h->final_path);
    if (lstat(part, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == h->size &&
        verified_matches(h->final_path, &st, sha)) {
        *ret_found = true;
        return hydrate_publish(h, part);
    }
    return 0;
}

/* The header comes with the first range: a blob that is no .tbenc of this manifest is refused before the
 * rest is fetched. */
static int hydrate_check_header(struct hydrate *h)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    struct tbenc_error e = {0};
    struct tbenc_header header;

    if (h->header_seen || !ranges_has(partial_ranges(h->partial), 0))
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

static int hydrate_progress(void *ctx, uint64_t bytes)
{
    struct hydrate *h = ctx;

    report_progress(&h->report, bytes);
    return hydrate_check_header(h);
}

/* The whole file is there: its hash decides. */
static int hydrate_verify(struct hydrate *h, struct hasher *hasher)
{
    const char *path = partial_path(h->partial);
    bool good = false;
    int r;

    report_phase(&h->report, "verifying", "Verifying", h->size);
    r = hydrate_wait_digest(h, hasher, path, &good);
    if (r != 0)
        return r;
    h->fault = good ? REPAIR_DISK : REPAIR_SOURCE;
    if (!good)
        return tb_outcome_set(h->o, HYDRATE_DAMAGED, "the SHA-256 of what came is not the manifest's");
    r = partial_sync(h->partial);
    if (r < 0)
        hydrate_outcome_io(h->o, r, "cannot sync", path);
    if (r < 0 && tb_errno_is_disk(r))
        h->o->code = HYDRATE_DAMAGED;
    return r < 0 ? h->o->code : 0;
}

/* Downloads and verifies into the partial file. */
static int hydrate_fetch(struct hydrate *h)
{
    _cleanup_hasher_ struct hasher *hasher = NULL;
    struct download d = {.url = h->source.sas_url,
                         .tls = &h->tls,
                         .concurrency = h->cfg->download_concurrency,
                         .partial = h->partial,
                         .stop_fd = h->signal_fd,
                         .progress = hydrate_progress,
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
    report_phase(&h->report, "downloading", "Downloading", h->size);
    r = hasher_start(partial_fd(h->partial), h->size, &hasher);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot hash", partial_path(h->partial));
    d.hasher = hasher;
    r = download_run(&d, h->o);
    if (r == 0)
        r = hydrate_check_header(h);
    h->place_failed =
        r == TB_EXIT_TEMPFAIL || r == TB_EXIT_NOINPUT || r == TB_EXIT_DATAERR || r == TB_EXIT_CONFIG;
    if (r != 0)
        return r;
    fetched_us = tb_now_monotonic_us();
    r = hydrate_verify(h, hasher);
    if (r == 0)
        report_rates(h->final_path, h->size - there, begin_us, fetched_us);
    return r;
}

/* One download from open to publish. Data that proved wrong or outdated does not stay. */
static int hydrate_download(struct hydrate *h)
{
    _cleanup_partial_ struct partial *partial = NULL;
    struct partial_identity want = {.size = h->size, .chunk = h->cfg->download_chunk_bytes};
    int r;

    memcpy(want.sha256, h->manifest.m->sha256_ciphertext, sizeof(want.sha256));
    h->header_seen = h->worthless = false;
    h->fault = REPAIR_DISK;
    r = partial_open(h->final_path, &want, &partial);
    if (r < 0)
        return hydrate_outcome_io(h->o, r, "cannot prepare the download of", h->final_path);
    h->partial = partial;
    r = hydrate_fetch(h);
    h->partial = NULL;
    if (r == 0) {
        _cleanup_free_ char *path = strdup(partial_path(partial));

        partial = partial_close(partial);
        return path ? hydrate_publish(h, path)
                    : hydrate_outcome_io(h->o, -ENOMEM, "cannot publish", h->final_path);
    }
    if (h->worthless || r == HYDRATE_CHANGED || r == HYDRATE_DAMAGED) {
        partial = partial_close(partial);
        if (partial_remove(h->final_path) < 0)
            tb_warn("cannot remove what is left of the download of %s", h->final_path);
    }
    return r;
}

/* Fetches the manifest and derives names and size from it. */
static int hydrate_find_manifest(struct hydrate *h)
{
    int r;

    if (manifest_keep(&h->source, h->cfg->asset_id, h->manifest_path, &h->manifest))
        return 0;
    if (!h->source.n_places)
        return overlay_no_source(h->cfg->target_dir, h->o);
    report_phase(&h->report, "manifest", "Fetching the manifest", 0);
    /* nothing to save yet: a signal may end the process at once */
    tb_signals_hold(false);
    r = manifest_fetch(&h->source, h->cfg, &h->tls, &h->manifest, h->o);
    tb_signals_hold(true);
    h->place_failed = r != 0;
    return r;
}

static int hydrate_prepare(struct hydrate *h)
{
    const struct tbenc_manifest *m;
    int r;

    manifest_clear(&h->manifest);
    free(h->manifest_path);
    h->manifest_path = tb_path_join(h->cfg->target_dir, TARGET_MANIFEST_NAME);
    if (!h->manifest_path)
        return hydrate_outcome_io(h->o, -ENOMEM, "cannot name", TARGET_MANIFEST_NAME);
    r = hydrate_find_manifest(h);
    if (r != 0)
        return r;
    m = h->manifest.m;
    free(h->final_path);
    h->final_path = tb_path_join(h->cfg->target_dir, m->weights_filename);
    h->size = tbenc_manifest_ciphertext_bytes(m);
    return h->final_path ? 0 : hydrate_outcome_io(h->o, -ENOMEM, "cannot name", m->weights_filename);
}

static int hydrate_check_room(struct hydrate *h)
{
    _cleanup_free_ char *part = tb_strf("%s" PARTIAL_SUFFIX, h->final_path);
    int r = 0;

    if (h->cfg->delivery == TB_DELIVERY_DIR && !h->is_base)
        r = target_check_memory(overlay_plaintext_bytes(h->manifest.m), h->versions.next, h->o);
    if (r == 0)
        r = part ? target_check_disk(h->cfg->target_dir, part, h->size, h->o)
                 : hydrate_outcome_io(h->o, -ENOMEM, "cannot name", h->final_path);
    return r;
}

/* Only looks: what serves was put there and is cared for by tb-hydrate.service. */
static int hydrate_adopt(struct hydrate *h)
{
    struct stat st;

    return versions_adopt(&h->versions,
                          lstat(h->final_path, &st) == 0 && S_ISREG(st.st_mode) &&
                              verified_matches(h->final_path, &st, h->manifest.m->sha256_ciphertext),
                          h->o);
}

static int hydrate_attempts(struct hydrate *h);

/* What this version stands on, if it does, comes first: by the same way, into a place of its own. */
static int hydrate_base(struct hydrate *h)
{
    _cleanup_free_ char *place = NULL;
    struct hydrate_source source = {0};
    struct hydrate b;
    int r = overlay_prepare(h->versions.cfg->target_dir, h->cfg->target_dir, h->manifest.m, &place, &source,
                            h->o);

    if (r != 0 || !place)
        return r;
    b = (struct hydrate){.cfg = &b.here,
                         .here = h->here,
                         .versions = h->versions,
                         .tls = h->tls,
                         .signal_fd = h->signal_fd,
                         .source = source,
                         .report = h->report,
                         .is_base = true,
                         .o = h->o};
    b.here.target_dir = place;
    r = hydrate_attempts(&b);
    if (r == 0)
        r = overlay_check(h->manifest.m, &b.manifest, h->o);
    h->report = b.report;
    hydrate_clear_file(&b);
    return r;
}

static int hydrate_attempt(struct hydrate *h)
{
    bool found;
    int r;

    r = hydrate_prepare(h);
    if (r != 0)
        return r;
    if (h->versions.adopts)
        return hydrate_adopt(h);
    r = h->is_base ? 0 : hydrate_base(h);
    if (r != 0)
        return r;
    target_sweep_halves(h->manifest_path, h->final_path);
    repair_load(&h->repair, h->cfg, hydrate_program(h), h->manifest.m->sha256_ciphertext);
    r = hydrate_find_complete(h, &found);
    if (r != 0)
        return r;
    if (found) {
        tb_info("%s is complete and verified: nothing to download", h->final_path);
        return 0;
    }
    if (h->repair.refused)
        return repair_refuse(&h->repair, h->final_path, h->o);
    if (!h->source.n_places)
        return overlay_no_source(h->cfg->target_dir, h->o);
    r = hydrate_check_room(h);
    return r != 0 ? r : hydrate_download(h);
}

/* From the first place that has it. What is there of the file is kept from one to the next. When none has
 * it, an error that passes counts: fresh URLs may help. */
static int hydrate_from_places(struct hydrate *h)
{
    struct tb_outcome passes = {0};
    char from[200], to[200];
    int r;

    for (unsigned tried = 1;; tried++) {
        h->place_failed = false;
        r = hydrate_attempt(h);
        if (r == 0 || !h->place_failed)
            return r;
        if (r == TB_EXIT_TEMPFAIL && passes.code == 0)
            passes = *h->o;
        tb_http_origin(h->source.sas_url, from, sizeof(from));
        if (tried >= h->source.n_places)
            break;
        source_next(&h->source);
        tb_warn("%s does not give the model: %s; trying %s, place %u of %u", from, h->o->reason,
                tb_http_origin(h->source.sas_url, to, sizeof(to)), h->source.place + 1, h->source.n_places);
        h->o->code = 0;
    }
    if (passes.code != 0 && r != TB_EXIT_TEMPFAIL) {
        tb_warn("%s does not give the model: %s", from, h->o->reason);
        *h->o = passes;
    }
    return h->o->code;
}

/* Until a copy is good, or enough were not: the source, the way here or the disk may have been at fault. */
static int hydrate_attempts(struct hydrate *h)
{
    char why[REPAIR_REASON_MAX];
    int r;

    while ((r = hydrate_from_places(h)) == HYDRATE_DAMAGED) {
        snprintf(why, sizeof(why), "%.*s", REPAIR_REASON_MAX - 1, h->o->reason);
        repair_count(&h->repair, h->final_path, h->fault, why, 0);
        h->o->code = 0;
        if (h->fault == REPAIR_SOURCE)
            source_next(&h->source);
        if (repair_exhausted(&h->repair))
            return repair_refuse(&h->repair, h->final_path, h->o);
    }
    return r;
}

static int hydrate_locked(struct hydrate *h)
{
    _cleanup_close_ int lock = -1;
    int r;

    r = source_load(&h->source, h->cfg, h->o);
    h->versions.version = h->report.version = h->source.version;
    if (r == 0)
        r = versions_begin(&h->versions, h->o);
    if (r != 0)
        return r;
    h->here.target_dir = h->versions.place;
    r = target_lock(h->cfg->target_dir, &lock, h->o);
    if (r != 0)
        return r;
    r = hydrate_attempts(h);
    if (r == HYDRATE_CHANGED) {
        /* a new version was uploaded: its manifest first, then its bytes from zero */
        tb_warn("%s; starting over", h->o->reason);
        h->o->code = 0;
        r = hydrate_attempts(h);
    }
    if (r == HYDRATE_CHANGED)
        return tb_outcome_set(h->o, TB_EXIT_TEMPFAIL, "%s, twice; wait until the upload has ended",
                              h->final_path);
    return r == 0 ? versions_complete(&h->versions, h->o) : r;
}

int hydrate_run(const struct tb_config *cfg, bool next, int signal_fd, struct tb_outcome *o)
{
    _cleanup_(hydrate_clear) struct hydrate h = {.cfg = &h.here,
                                                 .here = *cfg, /* borrowed */
                                                 .versions = {.cfg = cfg, .next = next},
                                                 .signal_fd = signal_fd,
                                                 .o = o,
                                                 .report = {.started_boottime_us = tb_now_boottime_us()},
                                                 .tls = {.ca_file = cfg->ca_file,
                                                         .client_cert = cfg->client_cert_path,
                                                         .client_key = cfg->client_key_path,
                                                         .allow_http = cfg->insecure_http}};
    char text[32], err[TB_HTTP_ERR_MAX];
    int r;

    o->code = 0;
    r = tb_runtime_dir(cfg->run_dir, hydrate_program(&h), &h.report.dir);
    if (r < 0)
        tb_warn("no progress.json: cannot make %s's directory in %s: %s", hydrate_program(&h), cfg->run_dir,
                strerror(-r));
    if (cfg->client_key_path && tb_http_key_check(cfg->client_key_path, err) < 0)
        r = tb_outcome_set(o, TB_EXIT_CONFIG, "TB_CLIENT_KEY_PATH %s: %s", cfg->client_key_path, err);
    else
        r = hydrate_locked(&h);
    if (r == HYDRATE_NOTHING) {
        report_phase(&h.report, "idle", "Idle", 0);
        tb_info("%s", o->reason);
        tb_notify_ready("%s", o->reason);
        return o->code = 0;
    }
    if (r != 0) {
        report_failed(&h.report, o->reason);
        return r;
    }
    report_complete(&h.report, h.size);
    tb_notify_ready("Complete: %s, %s", h.final_path, tb_bytes_format(h.size, text, sizeof(text)));
    return 0;
}
