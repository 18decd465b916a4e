/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/serve.h"

#include <inttypes.h>
#include <string.h>

#include "decrypt/asset.h"
#include "common/io.h"
#include "decrypt/guard.h"
#include "common/log.h"
#include "decrypt/keymem.h"
#include "decrypt/outputs.h"
#include "decrypt/pour.h"
#include "decrypt/report.h"
#include "common/secret.h"
#include "common/serving.h"
#include "common/units.h"
#include "decrypt/reply.h"
#include "decrypt/serve_reads.h"

#define REQUEST_TIMEOUT_US (10 * TB_USEC_PER_SEC)

/* Everything one delivery owns. */
struct delivery {
    const struct tb_config *config;
    int sock;
    struct tb_deliver_request request;
    struct tb_outputs out;
    struct tb_asset asset;
    struct tb_key *key; /* secret memory; wiped when it is freed */
    struct tb_weights *weights;
    struct tb_outcome outcome;
    uint64_t delivered; /* bytes */
    bool is_looked_at;  /* the asset, by threads that end with the process */
    bool is_told;       /* that it failed */
    struct tb_report report;
    struct tb_guard guard;
};

static void delivery_clearp(struct delivery **p)
{
    struct delivery *d = *p;

    tb_secret_freep(&d->key);
    if (d->is_looked_at)
        tb_supply_withdraw(&d->asset.supply);
    else
        tb_asset_clear(&d->asset);
    tb_outputs_clear(&d->out);
    tb_report_close(&d->report);
}

static int delivery_stopped(struct delivery *d, enum tb_guard_cause cause)
{
    return tb_outcome_set(&d->outcome, TB_EXIT_TEMPFAIL,
                          cause == TB_GUARD_SIGNAL ? "stopped before the end"
                                                   : "the client went away before the end");
}

/* Who acts on it is told first, once: neither that file nor that socket lets anybody wait, as a journal may.
 */
static void delivery_failed(void *ctx)
{
    struct delivery *d = ctx;

    if (d->is_told)
        return;
    d->is_told = true;
    tb_report_state(&d->report, "failed", d->outcome.reason);
    decrypt_reply_send(d->sock, &d->outcome, d->delivered);
}

/* The decryption is blocked in a write and cannot be asked to stop: the process ends, and the key with it. */
static void delivery_abort(void *ctx)
{
    struct delivery *d = ctx;

    tb_key_erase(d->key);
    tb_outputs_truncate(&d->out);
    (void)delivery_stopped(d, tb_guard_cancelled(&d->guard));
    delivery_failed(d);
    tb_outcome_log(&d->outcome);
    _exit(d->outcome.code);
}

static bool delivery_is_stopped(void *ctx)
{
    struct delivery *d = ctx;

    return tb_guard_cancelled(&d->guard) != TB_GUARD_NONE;
}

static bool delivery_progress(void *ctx, uint64_t done)
{
    struct delivery *d = ctx;

    tb_report_update(&d->report, done);
    return delivery_is_stopped(d);
}

static int delivery_explain(struct delivery *d, const struct weights_layer *at_fault, int r,
                            const struct tbenc_error *e)
{
    bool base = at_fault == &d->weights->layers[1];
    const char *why = e->message[0] ? e->message : strerror(-r),
               *place = base ? TB_SERVING_BASE_NAME "/" : "";
    const char *file = (base ? d->asset.base : d->asset.manifest)->weights_filename;

    if (tb_guard_cancelled(&d->guard) != TB_GUARD_NONE)
        return delivery_stopped(d, tb_guard_cancelled(&d->guard));
    /* What a retry does not change, but another copy may. */
    if (r == -EBADMSG || r == -EFBIG || tb_errno_is_disk(r))
        d->report.damaged =
            fstat(base ? d->asset.base_supply.fd : d->asset.supply.fd, &d->report.ciphertext) == 0;
    if (tb_errno_is_disk(r))
        return tb_outcome_set(&d->outcome, TB_EXIT_DATAERR, "%s%s: the disk does not give it back: %s", place,
                              file, why);
    switch (r) {
    case -ESTALE:
        return tb_outcome_set(&d->outcome, TB_EXIT_TEMPFAIL,
                              "the download of %s was begun anew while it was decrypted; start again",
                              d->asset.manifest->weights_filename);
    case -EBADMSG:
    case -EINVAL:
    case -EFBIG:
        return tb_outcome_set(&d->outcome, TB_EXIT_DATAERR, "%s%s: %s", place, file, why);
    case -EPIPE:
        return tb_outcome_set(&d->outcome, TB_EXIT_TEMPFAIL,
                              "the reader closed the FIFO after %" PRIu64 " of %" PRIu64 " bytes",
                              d->report.done, d->asset.tree->plaintext_bytes);
    case -ENOSPC:
        return tb_outcome_set(&d->outcome, TB_EXIT_IOERR, "the memory file system is full: %s", why);
    default:
        return tb_outcome_set(&d->outcome, TB_EXIT_IOERR, "%s", why);
    }
}

static bool delivery_waits(void *ctx)
{
    struct delivery *d = ctx;

    return atomic_load(&d->asset.supply.waiting) + atomic_load(&d->asset.base_supply.waiting) > 0;
}

static void delivery_look(void *ctx)
{
    struct delivery *d = ctx;

    tb_report_look(&d->report);
}

/* By the same cache as reads are served from. */
static int delivery_pour(struct delivery *d, const struct weights_layer **at_fault, struct tbenc_error *e)
{
    struct tb_pour p = {.weights = d->weights,
                        .fds = d->out.fd,
                        .fifo = d->request.mode == TB_DELIVER_FIFO,
                        .progress = delivery_progress,
                        .ctx = d};
    int r = tb_keymem_open() ? tb_asset_await_header(&d->asset, delivery_is_stopped, d) : -errno;

    d->weights->event_fd = -1;
    tb_asset_weights(&d->asset, d->weights);
    if (r == 0)
        r = tb_pour_init(&p, d->key->b, e);
    tb_key_erase(d->key); /* the ciphers have it */
    if (r == 0)
        r = tb_pour_run(&p, at_fault, e);
    tb_weights_revoke(d->weights);
    return r;
}

static int delivery_decrypt(struct delivery *d)
{
    const struct weights_layer *at_fault = &d->weights->layers[0];
    struct tbenc_error e = {0};
    int r;

    d->guard.fifo = d->request.mode == TB_DELIVER_FIFO ? d->out.fd[0] : -1;
    r = tb_guard_start(&d->guard);
    if (r < 0)
        return tb_outcome_set(&d->outcome, TB_EXIT_IOERR, "cannot start a thread: %s", strerror(-r));
    r = delivery_pour(d, &at_fault, &e);
    tb_guard_stop(&d->guard);
    if (r < 0) {
        tb_outputs_truncate(&d->out);
        return delivery_explain(d, at_fault, r, &e);
    }
    d->delivered = d->asset.tree->plaintext_bytes;
    return 0;
}

static bool delivery_is_read(const struct delivery *d)
{
    return d->request.mode == TB_DELIVER_VIEW || d->request.mode == TB_DELIVER_S3;
}

static int delivery_serve_reads(struct delivery *d)
{
    struct decrypt_reads v = {.config = d->config,
                              .mode = d->request.mode,
                              .sock = d->sock,
                              .signal_fd = d->guard.signal_fd,
                              .fd = d->out.fd[0],
                              .manifest_sha256 = d->request.manifest_sha256,
                              .asset = &d->asset,
                              .key = &d->key,
                              .report = &d->report,
                              .outcome = &d->outcome,
                              .failed = delivery_failed,
                              .ctx = d};
    int r;

    d->delivered = d->asset.tree->plaintext_bytes;
    r = decrypt_reads_serve(&v);
    d->is_looked_at = v.threads_left;
    return r;
}

/* The key is fetched last: it is in memory only while it is used. */
static int delivery_run(struct delivery *d)
{
    int r = tb_outputs_receive(d->sock, REQUEST_TIMEOUT_US, &d->request, &d->out, &d->outcome);

    if (r != 0)
        return r;
    r = tb_asset_open(d->config, d->request.manifest_sha256, &d->asset, &d->outcome);
    /* No file that could be named, and yet something for tb-hydrate to look at. */
    d->report.damaged = r == TB_EXIT_NOINPUT || r == TB_EXIT_DATAERR;
    if (r != 0)
        return r;
    if (d->report.dir)
        tb_supply_wish_in(&d->asset.supply, d->report.dir); /* nobody mends the base */
    d->report.supply = &d->asset.supply;
    d->report.total = d->asset.tree->plaintext_bytes;
    d->report.has_finetune = d->config->provider_key; /* then it was verified */
    d->report.allow_finetune = d->asset.manifest->allow_finetune;
    r = tb_outputs_check(&d->out, d->request.mode, d->asset.tree, &d->outcome);
    if (r != 0)
        return r;
    d->key = tb_secret_alloc(sizeof(*d->key));
    if (!d->key)
        return tb_outcome_set(&d->outcome, TB_EXIT_IOERR, "out of memory");
    r = tb_asset_key(d->config, d->key, &d->outcome);
    if (r != 0)
        return r;
    tb_info("decrypting %s for mode %s, %zu descriptor%s", d->asset.manifest->asset_id,
            tb_deliver_mode_name(d->request.mode), d->out.n, d->out.n == 1 ? "" : "s");
    tb_report_state(&d->report, "decrypting", NULL);
    return delivery_is_read(d) ? delivery_serve_reads(d) : delivery_decrypt(d);
}

int tb_serve(const struct tb_config *c, int sock, int signal_fd)
{
    /* There as long as the process, as threads may be that look at it. */
    static struct tb_weights weights;
    static struct delivery d;
    _cleanup_(delivery_clearp) struct delivery *p = &d;
    int r;

    d = (struct delivery){
        .config = c, .sock = sock, .guard = {.sock = sock, .signal_fd = signal_fd}, .weights = &weights};
    d.guard.last_resort = delivery_abort;
    d.guard.waits = delivery_waits;
    d.guard.look = delivery_look;
    d.guard.ctx = &d;
    tb_report_open(&d.report, c);
    r = delivery_run(&d);
    /* The client seals and remounts when it has the answer: nothing may be open for writing then. */
    tb_outputs_clear(&d.out);
    if (r == 0 && delivery_is_read(&d)) {
        tb_notify_status(d.request.mode == TB_DELIVER_S3 ? "The endpoint has ended" : "The view has ended");
        return 0;
    }
    if (r != 0) {
        delivery_failed(&d);
        tb_outcome_log(&d.outcome);
        tb_notify_status("%s", d.outcome.reason);
        if (delivery_is_read(&d)) /* nothing is in memory any more */
            tb_report_state(&d.report, "failed", d.outcome.reason);
        return r;
    }
    d.report.done = d.report.total;
    tb_progress_finish(&d.report.progress, d.report.done);
    tb_notify_status("Delivered");
    tb_report_state(&d.report, "complete", NULL);
    decrypt_reply_send(sock, &d.outcome, d.delivered);
    return 0;
}

void tb_serve_refusal(int sock, int status, const char *message)
{
    struct tb_outcome o;

    (void)tb_outcome_set(&o, status, "%s", message);
    decrypt_reply_send(sock, &o, 0);
}
