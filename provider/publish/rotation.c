/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/rotation.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/cli/interrupt.h"

#define FETCH_BYTES (16U << 20)

/* Fetching, opening and dealing out each have a thread; sealing has the upload's. Each reads from a pipe that
 * the one before writes: who ends closes both of its own, and so all end. */
struct pipeline {
    struct rotation *r;
    const char *path; /* of the ciphertext, at the service */
    char etag[128];
    int sealed[2], opened[2]; /* ciphertext, plaintext */
    struct tbenc_input *inputs;
    int *write_fds; /* of inputs */
    size_t n;
    pthread_t threads[3];
    unsigned n_threads;
    /* each its thread's, until that is joined */
    int fetch_rc, open_r, seal_r;
    struct tbenc_error open_error, seal_error;
    struct blob_feed *feed;
};

void rotation_clear(struct rotation *r)
{
    tb_key_erase(&r->old_key);
    tb_key_erase(&r->new_key);
    r->old = tbenc_manifest_free(r->old);
    r->result = tbenc_manifest_free(r->result);
    key_out_clear(&r->key);
    signer_clear(&r->signer);
    tb_freep(&r->made_manifest);
}

/* -- the old version --------------------------------------------------------------------------- */

static int rotation_path_of(const struct rotation *r, const char *url, const char **ret)
{
    size_t n = strlen(r->from->service.url);

    if (strncmp(url, r->from->service.url, n) != 0 || url[n] != '/')
        return tbpkg_failf(url, "does not lie in %s, which --storage-account and --endpoint name",
                           r->from->service.url);
    *ret = url + n + 1;
    return CLI_OK;
}

static int rotation_read_old(struct rotation *r)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    const char *path = NULL;
    size_t len = 0;
    int rc = rotation_path_of(r, r->manifest_url, &path), p;

    if (rc == CLI_OK)
        rc = store_fetch(r->from, path, TBENC_MANIFEST_MAX, &text, &len);
    if (rc != CLI_OK)
        return rc;
    p = tbenc_manifest_parse(text, len, 0, &r->old, &e);
    if (p < 0)
        return asset_fail(path, p, &e);
    if (strcmp(r->old->asset_id, r->asset_id) != 0)
        return tbpkg_failf(path, "is of asset '%s', not '%s'", r->old->asset_id, r->asset_id);
    rc = cli_key_arg_read(r->cli, r->key_arg, &r->old_key);
    return rc == CLI_OK ? asset_key_check(r->old, &r->old_key, cli_key_arg_name(r->key_arg)) : rc;
}

/* -- the threads ------------------------------------------------------------------------------- */

static int fetch_range(struct pipeline *p, uint64_t off, uint64_t n)
{
    char range[64];
    const struct blob_request rq = {
        .method = "GET", .path = p->path, .headers = {{"If-Match", p->etag}, {"x-ms-range", range}}};
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    struct blob_fault fault;
    int r;

    snprintf(range, sizeof(range), "bytes=%" PRIu64 "-%" PRIu64, off, off + n - 1);
    r = blob_call(&p->r->from->client, &rq, FETCH_BYTES, &reply, err);
    if (r == 0 && reply.status == 206 && reply.len == n)
        return tb_write_full(p->sealed[1], reply.body, reply.len) < 0 ? CLI_INTERRUPTED : CLI_OK;
    if (r == 0 && reply.status == 412)
        return tbpkg_fail(p->path, "was replaced while it was read", "run the command again");
    if (r == 0 && reply.status == 206)
        return tbpkg_fail(p->path, "the service sent another range than was asked for", NULL);
    blob_explain(&p->r->from->client, r, &reply, err, &fault);
    return tbpkg_fail(p->path, fault.reason, fault.remedy[0] ? fault.remedy : NULL);
}

static void *fetch_thread(void *ctx)
{
    struct pipeline *p = ctx;
    uint64_t size = tbenc_manifest_ciphertext_bytes(p->r->old);

    for (uint64_t off = 0; p->fetch_rc == CLI_OK && off < size; off += FETCH_BYTES)
        p->fetch_rc = fetch_range(p, off, MIN(size - off, (uint64_t)FETCH_BYTES));
    p->sealed[1] = tb_close(p->sealed[1]);
    return NULL;
}

static void *open_thread(void *ctx)
{
    struct pipeline *p = ctx;
    const struct tbenc_open_params q = {
        .manifest = p->r->old, .key = p->r->old_key.b, .flags = TBENC_CHECK_SHA256 | TBENC_COPY_TO_PIPE};

    p->open_r = tbenc_open_stream(&q, p->sealed[0], p->opened[1], &p->open_error);
    p->sealed[0] = tb_close(p->sealed[0]);
    p->opened[1] = tb_close(p->opened[1]);
    return NULL;
}

/* The stream is the files' concatenation; each has a pipe of its own, as sealing looks for its end. */
static void *deal_thread(void *ctx)
{
    struct pipeline *p = ctx;
    size_t room = 1 << 20;
    uint8_t *buf = tb_secret_alloc(room);
    bool ok = buf;

    for (size_t i = 0; i < p->n; i++) {
        for (uint64_t left = p->inputs[i].bytes; ok && left > 0;) {
            ssize_t n = read(p->opened[0], buf, (size_t)MIN(left, (uint64_t)room));

            ok = (n > 0 && tb_write_full(p->write_fds[i], buf, (size_t)n) == 0) || (n < 0 && errno == EINTR);
            left -= n > 0 ? (uint64_t)n : 0;
        }
        p->write_fds[i] = tb_close(p->write_fds[i]);
    }
    p->opened[0] = tb_close(p->opened[0]);
    tb_secret_free(buf);
    return NULL;
}

static int pipeline_on_ciphertext(void *ctx, const void *buf, size_t n)
{
    return blob_feed_write(((struct pipeline *)ctx)->feed, buf, n);
}

static int pipeline_seal(void *ctx, struct blob_feed *feed)
{
    struct pipeline *p = ctx;
    const struct tbenc_seal_params q = {
        .key = p->r->new_key.b,
        .chunk_bytes = p->r->old->chunk_bytes,
        .asset_id = p->r->asset_id,
        .weights_filename = ASSET_DEFAULT_NAME,
        .allow_finetune = p->r->old->allow_finetune,
        .write = pipeline_on_ciphertext,
        .write_ctx = p,
    };

    p->feed = feed;
    p->seal_r = tbenc_seal(&q, p->inputs, p->n, p->r->old->files != NULL, -1, &p->r->result, &p->seal_error);
    for (size_t i = 0; i < p->n; i++) /* whoever still writes sees that nobody reads */
        p->inputs[i].fd = tb_close(p->inputs[i].fd);
    return p->seal_r;
}

/* -- making and ending them -------------------------------------------------------------------- */

static void pipeline_clear(struct pipeline *p)
{
    for (size_t i = 0; p->inputs && i < p->n; i++)
        p->inputs[i].fd = tb_close(p->inputs[i].fd);
    for (unsigned i = 0; i < p->n_threads; i++)
        (void)pthread_join(p->threads[i], NULL);
    for (size_t i = 0; p->write_fds && i < p->n; i++)
        p->write_fds[i] = tb_close(p->write_fds[i]);
    for (unsigned i = 0; i < 2; i++) {
        p->sealed[i] = tb_close(p->sealed[i]);
        p->opened[i] = tb_close(p->opened[i]);
    }
    free(p->inputs);
    free(p->write_fds);
}

static int pipeline_make_inputs(struct pipeline *p)
{
    const struct tbenc_manifest *m = p->r->old;
    size_t n = m->files ? m->n_files : 1;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    p->inputs = calloc(n, sizeof(*p->inputs));
    p->write_fds = calloc(n, sizeof(*p->write_fds));
    if (!p->inputs || !p->write_fds)
        return -ENOMEM;
    for (; p->n < n; p->n++) {
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
            return -errno;
        p->inputs[p->n] = (struct tbenc_input){.fd = fds[0],
                                               .path = m->files ? m->files[p->n].path : NULL,
                                               .mode = m->files ? m->files[p->n].mode : 0,
                                               .bytes = m->files ? m->files[p->n].bytes : m->plaintext_bytes};
        p->write_fds[p->n] = fds[1];
    }
    return pipe2(p->sealed, O_CLOEXEC) < 0 || pipe2(p->opened, O_CLOEXEC) < 0 ? -errno : 0;
}

static int pipeline_start(struct pipeline *p)
{
    void *(*const run[])(void *) = {fetch_thread, open_thread, deal_thread};
    int r = pipeline_make_inputs(p);

    for (unsigned i = 0; r == 0 && i < ARRAY_SIZE(run); i++) {
        r = -pthread_create(&p->threads[i], NULL, run[i], p);
        p->n_threads += r == 0;
    }
    if (r == 0)
        return CLI_OK;
    if (p->n_threads < 2) /* who started must not wait for who did not */
        p->sealed[0] = tb_close(p->sealed[0]);
    if (p->n_threads < 3)
        p->opened[0] = tb_close(p->opened[0]);
    return tbpkg_fail_errno(p->path, r);
}

/* The one that is at fault: the others ended because it did. */
static int pipeline_judge(struct pipeline *p, int sent, const struct blob_fault *fault)
{
    if (p->fetch_rc != CLI_OK && p->fetch_rc != CLI_INTERRUPTED)
        return p->fetch_rc;
    if (p->open_r < 0 && p->open_r != -EPIPE)
        return asset_fail(p->path, p->open_r, &p->open_error);
    if (p->seal_r < 0 && p->seal_r != -ECANCELED)
        return asset_fail(p->path, p->seal_r, &p->seal_error);
    if (sent < 0)
        return tbpkg_fail(p->r->to->ct.path, fault->reason, fault->remedy[0] ? fault->remedy : NULL);
    return p->open_r < 0 ? asset_fail(p->path, p->open_r, &p->open_error) : CLI_OK;
}

/* -- the new version --------------------------------------------------------------------------- */

static int rotation_put_key(struct rotation *r)
{
    int rc;

    if (tb_random(&r->new_key, sizeof(r->new_key)) < 0)
        return tbpkg_fail_errno("random key", -EIO);
    rc = key_out_prepare(&r->key, r->key_out, NULL, r->asset_id, &r->new_key);
    if (rc == CLI_OK)
        rc = key_out_create(&r->key);
    if (rc == CLI_OK)
        rc = key_out_write(&r->key, &r->new_key);
    if (rc == CLI_OK) {
        cli_signals_block();
        rc = key_out_commit(&r->key);
        cli_temp_forget_all();
        cli_signals_unblock();
    }
    return rc;
}

static int rotation_name_place(struct rotation *r)
{
    struct asset_store *s = r->to;

    r->made_manifest =
        r->manifest_path ? strdup(r->manifest_path) : tb_strf("%s-%s.manifest.json", r->asset_id, r->key.id);
    tb_freep(&s->ct.path);
    tb_freep(&s->mf.path);
    s->ct.path = store_ciphertext_name(s->container, s->asset_id, r->key.id);
    s->mf.path = store_manifest_name(s->container, s->asset_id, r->key.id);
    s->ct.size = tbenc_manifest_ciphertext_bytes(r->old);
    snprintf(s->ct.sha256, sizeof(s->ct.sha256), "not known yet");
    return r->made_manifest && s->ct.path && s->mf.path ? store_look(s, -1)
                                                        : tbpkg_fail_errno(r->asset_id, -ENOMEM);
}

/* Everything was verified: the blocks become a blob, and then the manifest. */
static int rotation_commit(struct rotation *r, struct blob_upload_result *up)
{
    struct asset_store *s = r->to;
    char *text = NULL;
    size_t len = 0;
    int e = tbenc_manifest_format(r->result, &text, &len), rc;

    if (e < 0)
        return tbpkg_fail_errno(r->made_manifest, e);
    rc = signer_sign(&r->signer, r->asset_id, r->made_manifest, &text, &len);
    tb_hex_encode(r->result->sha256_ciphertext, 32, s->ct.sha256);
    s->mf.size = len;
    if (rc == CLI_OK && store_sha256(text, len, s->mf.sha256) < 0)
        rc = tbpkg_fail_errno(r->made_manifest, -EIO);
    if (rc == CLI_OK) {
        e = tb_write_file_atomic(r->made_manifest, text, len, 0644);
        rc = e < 0 ? tbpkg_fail_errno(r->made_manifest, e) : CLI_OK;
    }
    if (rc == CLI_OK)
        rc = store_commit(s, up->ids, up->n_blocks, -1);
    if (rc == CLI_OK)
        rc = store_send_manifest(s, text);
    if (rc == CLI_OK)
        rc = signer_put_detached(&r->signer, r->asset_id, r->made_manifest, text, len);
    free(text);
    return rc;
}

static int rotation_stream(struct rotation *r, struct pipeline *p, struct blob_upload_result *up)
{
    struct blob_staged_set none = {0};
    struct blob_upload u = {
        .block_bytes = blob_block_bytes_for(r->to->ct.size, (uint32_t)r->to->block_bytes),
        .session = r->key.id,
        .staged = &none,
        .feed = pipeline_seal,
        .feed_ctx = p,
    };
    struct blob_fault fault = {.reason = ""};
    int sent, rc = pipeline_start(p);

    if (rc != CLI_OK)
        return rc;
    sent = store_send_blocks(r->to, &u, up, &fault);
    for (size_t i = 0; i < p->n; i++)
        p->inputs[i].fd = tb_close(p->inputs[i].fd);
    for (unsigned i = 0; i < p->n_threads; i++)
        (void)pthread_join(p->threads[i], NULL);
    p->n_threads = 0;
    return pipeline_judge(p, sent, &fault);
}

int rotation_run(struct rotation *r)
{
    _cleanup_upload_result_ struct blob_upload_result up = {0};
    _cleanup_(pipeline_clear) struct pipeline p = {
        .r = r, .sealed = {-1, -1}, .opened = {-1, -1}, .seal_error = {.chunk = TBENC_NO_CHUNK}};
    struct blob_object old = {0};
    int rc = signer_open(&r->signer, &r->sign);

    if (rc == CLI_OK)
        rc = rotation_read_old(r);
    if (rc == CLI_OK)
        rc = rotation_path_of(r, r->ciphertext_url, &p.path);
    if (rc != CLI_OK)
        return rc;
    old.path = (char *)p.path;
    rc = blob_object_look(&r->from->client, &old, -1);
    if (rc == CLI_OK && old.there == BLOB_ABSENT)
        rc = tbpkg_fail(p.path, "is not there", "restore it, or publish the model again");
    snprintf(p.etag, sizeof(p.etag), "%s", old.etag);
    if (rc == CLI_OK)
        rc = rotation_put_key(r);
    if (rc == CLI_OK)
        rc = rotation_name_place(r);
    if (rc == CLI_OK)
        rc = rotation_stream(r, &p, &up);
    if (rc == CLI_OK)
        rc = rotation_commit(r, &up);
    return rc == CLI_OK ? cli_key_hold(&r->new_key) : rc;
}
