/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/hydrate.h"

#include <string.h>
#include <sys/stat.h>

#include "common/domain_file.h"
#include "common/io.h"
#include "common/log.h"
#include "common/signals.h"
#include "common/units.h"
#include "hydrate/job.h"
#include "hydrate/overlay.h"
#include "hydrate/target.h"
#include "hydrate/verified.h"

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

/* Fetches the manifest and derives names and size from it. */
static int hydrate_find_manifest(struct hydrate *h)
{
    int r;

    if (manifest_keep(&h->source, h->cfg->asset_id, h->manifest_path, &h->manifest))
        return 0;
    if (!h->source.n_places)
        return overlay_no_source(h->cfg->target_dir, h->o);
    report_phase(&h->report, "manifest", "Fetching the manifest", 0, 0);
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
        return h->versions.next ? 0 : hydrate_mend(h);
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
        if (!repair_exhausted(&h->repair))
            continue;
        (void)partial_remove(h->final_path); /* with the map: nothing comes in its place */
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
    h.report.mirror = cfg->blob_mirror ? "used" : NULL;
    r = tb_runtime_dir(cfg->run_dir, hydrate_program(&h), &h.report.dir);
    if (r < 0)
        tb_warn("no progress.json: cannot make %s's directory in %s: %s", hydrate_program(&h), cfg->run_dir,
                strerror(-r));
    if (cfg->client_key_path && tb_http_key_check(cfg->client_key_path, err) < 0)
        r = tb_outcome_set(o, TB_EXIT_CONFIG, "TB_CLIENT_KEY_PATH %s: %s", cfg->client_key_path, err);
    else
        r = hydrate_locked(&h);
    if (r == HYDRATE_NOTHING) {
        report_phase(&h.report, "idle", "Idle", 0, 0);
        tb_info("%s", o->reason);
        tb_notify_ready("%s", o->reason);
        return o->code = 0;
    }
    if (r != 0) {
        report_failed(&h.report, o->reason);
        return r;
    }
    report_complete(&h.report, h.size);
    report_readable(&h.report);
    tb_notify_ready("Complete: %s, %s", h.final_path, tb_bytes_format(h.size, text, sizeof(text)));
    return 0;
}
