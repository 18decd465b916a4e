/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/pull.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/io.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/publish/state.h"

/* Fetching, opening and dealing out each have a thread; who seals reads what they make. Each reads from a
 * pipe that the one before writes: who ends closes both of its own, and so all end. */

static void part_clear(struct pull_part *t)
{
    tb_freep(&t->ciphertext_url);
    tb_freep(&t->manifest_url);
    tb_freep(&t->text);
    t->manifest = tbenc_manifest_free(t->manifest);
}

static void pull_close(struct pull *p)
{
    for (size_t i = 0; p->inputs && i < p->origin.n; i++)
        p->inputs[i].fd = tb_close(p->inputs[i].fd);
    for (unsigned i = 0; i < p->n_threads; i++)
        (void)pthread_join(p->threads[i], NULL);
    p->n_threads = 0;
    for (size_t i = 0; p->write_fds && i < p->origin.n; i++)
        p->write_fds[i] = tb_close(p->write_fds[i]);
    for (unsigned i = 0; i < 2; i++) {
        p->sealed[i] = tb_close(p->sealed[i]);
        p->opened[i] = tb_close(p->opened[i]);
    }
}

void pull_clear(struct pull *p)
{
    pull_close(p);
    blob_exchange_clear(&p->connection);
    tb_key_erase(&p->key);
    part_clear(&p->own);
    part_clear(&p->base);
    p->tree = tbenc_manifest_free(p->tree);
    free(p->inputs);
    free(p->write_fds);
    p->inputs = NULL;
    p->write_fds = NULL;
}

/* -- what lies there --------------------------------------------------------------------------- */

static int pull_path_of(const struct pull *p, const char *url, const char **ret)
{
    size_t n = strlen(p->from->service.url);

    if (strncmp(url, p->from->service.url, n) != 0 || url[n] != '/')
        return tbpkg_failf(url, "does not lie in %s, which --storage-account and --endpoint name",
                           p->from->service.url);
    *ret = url + n + 1;
    return CLI_OK;
}

static int part_fetch_manifest(struct pull *p, struct pull_part *t, const char **ret_path)
{
    struct tbenc_signature sig;
    struct tbenc_error e;
    int rc = pull_path_of(p, t->manifest_url, ret_path);

    if (rc == CLI_OK)
        rc = pull_path_of(p, t->ciphertext_url, &t->path);
    if (rc == CLI_OK)
        rc = store_fetch(p->from, *ret_path, TBENC_MANIFEST_MAX, &t->text, &t->text_len);
    if (rc == CLI_OK && store_sha256(t->text, t->text_len, t->text_sha256) < 0)
        rc = tbpkg_fail_errno(*ret_path, -EIO);
    if (rc == CLI_OK && *t->manifest_sha256 && strcmp(t->text_sha256, t->manifest_sha256) != 0)
        rc = tbpkg_fail(*ret_path, "is not the manifest that was registered: its SHA-256 is another",
                        "put the registered one back, and find out who replaced it");
    t->is_signed = rc == CLI_OK && tbenc_signature_look(t->text, t->text_len, &sig, &e) == 0 && sig.present;
    return rc;
}

static int pull_read_own(struct pull *p)
{
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    const char *path = NULL;
    int rc = part_fetch_manifest(p, &p->own, &path), r;

    if (rc != CLI_OK)
        return rc;
    r = tbenc_manifest_parse_signed(p->own.text, p->own.text_len, TBENC_OVERLAY, p->trusted, &p->own.manifest,
                                    &e);
    if (r == -ENOKEY)
        return tbpkg_fail(path, e.message, "check --provider-key");
    if (r < 0)
        return asset_fail(path, r, &e);
    if (strcmp(p->own.manifest->asset_id, p->asset_id) != 0)
        return tbpkg_failf(path, "is of asset '%s', not '%s'", p->own.manifest->asset_id, p->asset_id);
    if (!p->own.manifest->base == !!p->base.manifest_url)
        return tbpkg_fail(path, "is not what the control plane says of it: an overlay, or none",
                          "find out who replaced it");
    rc = cli_key_arg_read(p->cli, p->key_arg, &p->key);
    return rc == CLI_OK ? asset_key_check(p->own.manifest, &p->key, cli_key_arg_name(p->key_arg)) : rc;
}

static int pull_read_base(struct pull *p)
{
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    const char *path = NULL;
    int rc = part_fetch_manifest(p, &p->base, &path), r;

    if (rc != CLI_OK)
        return rc;
    r = tbenc_base_parse(p->own.manifest, p->base.text, p->base.text_len, &p->base.manifest, &e);
    return r < 0 ? asset_fail(path, r, &e) : CLI_OK;
}

static int part_look(struct pull *p, struct pull_part *t)
{
    struct blob_object o = {.path = (char *)t->path};
    int rc = blob_object_look(&p->from->client, &o, -1);

    if (rc == CLI_OK && o.there == BLOB_ABSENT)
        rc = tbpkg_fail(t->path, "is not there", "restore it, or publish the model again");
    snprintf(t->etag, sizeof(t->etag), "%s", o.etag);
    return rc;
}

/* What is read, so exactly that it need not be read again. */
static int pull_name_state(struct pull *p)
{
    const struct pull_part *const parts[] = {&p->own, &p->base};
    _cleanup_inputs_ struct inputs in;

    inputs_start(&in);
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        inputs_word(&in, parts[i]->ciphertext_url);
        inputs_word(&in, parts[i]->etag);
        inputs_word(&in, parts[i]->text_sha256);
    }
    return inputs_end(&in, p->state);
}

/* -- the threads ------------------------------------------------------------------------------- */

static void *fetch_thread(void *ctx)
{
    struct pull *p = ctx;
    uint64_t size = tbenc_manifest_ciphertext_bytes(p->own.manifest);

    for (uint64_t off = 0; p->fetch_rc == CLI_OK && off < size; off += PULL_RANGE_BYTES) {
        _cleanup_blob_reply_ struct blob_reply reply = {0};

        p->fetch_rc = pull_range(p, &p->own, off, MIN(size - off, (uint64_t)PULL_RANGE_BYTES), &reply);
        if (p->fetch_rc == CLI_OK && tb_write_full(p->sealed[1], reply.body, reply.len) < 0)
            p->fetch_rc = CLI_INTERRUPTED;
    }
    p->sealed[1] = tb_close(p->sealed[1]);
    return NULL;
}

static void *open_thread(void *ctx)
{
    struct pull *p = ctx;
    const struct tbenc_open_params q = {
        .manifest = p->own.manifest, .key = p->key.b, .flags = TBENC_CHECK_SHA256 | TBENC_COPY_TO_PIPE};

    p->open_r = tbenc_open_stream(&q, p->sealed[0], p->opened[1], &p->open_error);
    p->sealed[0] = tb_close(p->sealed[0]);
    p->opened[1] = tb_close(p->opened[1]);
    return NULL;
}

/* The stream is the files' concatenation; each has a pipe of its own, as sealing looks for its end. */
static void *deal_thread(void *ctx)
{
    struct pull *p = ctx;
    size_t room = 1 << 20;
    uint8_t *buf = tb_secret_alloc(room);
    bool ok = buf;

    for (size_t i = 0; i < p->origin.n; i++) {
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

static int pull_make_pipes(struct pull *p)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    for (size_t i = 0; i < p->origin.n; i++) {
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
            return -errno;
        p->inputs[i].fd = fds[0];
        p->write_fds[i] = fds[1];
    }
    return pipe2(p->sealed, O_CLOEXEC) < 0 || pipe2(p->opened, O_CLOEXEC) < 0 ? -errno : 0;
}

static int pull_start(void *ctx)
{
    struct pull *p = ctx;
    void *(*const one[])(void *) = {fetch_thread, open_thread, deal_thread};
    void *(*const overlay[])(void *) = {pull_overlay_thread};
    bool two = p->base.manifest;
    int r = pull_make_pipes(p);

    p->fetch_rc = p->open_r = 0;
    p->opened_part = &p->own;
    p->open_error = (struct tbenc_error){.chunk = TBENC_NO_CHUNK};
    for (unsigned i = 0; r == 0 && i < (two ? ARRAY_SIZE(overlay) : ARRAY_SIZE(one)); i++) {
        r = -pthread_create(&p->threads[i], NULL, two ? overlay[i] : one[i], p);
        p->n_threads += r == 0;
    }
    p->start_r = r;
    if (r == 0)
        return 0;
    if (p->n_threads < 2) /* who started must not wait for who did not */
        p->sealed[0] = tb_close(p->sealed[0]);
    if (p->n_threads < 3)
        p->opened[0] = tb_close(p->opened[0]);
    return -ECANCELED;
}

/* The one that is at fault: the others ended because it did. */
static int pull_end(void *ctx)
{
    struct pull *p = ctx;

    pull_close(p);
    if (p->start_r < 0)
        return tbpkg_fail_errno(p->own.path, p->start_r);
    if (p->fetch_rc != CLI_OK && p->fetch_rc != CLI_INTERRUPTED)
        return p->fetch_rc;
    if (p->open_r < 0 && p->open_r != -EPIPE)
        return asset_fail(p->opened_part->path, p->open_r, &p->open_error);
    return CLI_OK;
}

static int pull_check(void *ctx, const struct tbenc_manifest *result)
{
    const struct pull *p = ctx;

    if (p->fetch_rc != CLI_OK || p->open_r < 0)
        return tbpkg_fail(p->own.path, "was not read to its end", "run the command again");
    for (size_t i = 0; i < result->n_files; i++)
        if (memcmp(result->files[i].sha256, p->tree->files[i].sha256, TBENC_SHA256_BYTES) != 0)
            return tbpkg_failf(p->own.path, "%s is not what its manifest says: nothing was stored",
                               result->files[i].path);
    return CLI_OK;
}

/* -- the whole --------------------------------------------------------------------------------- */

static int pull_make_inputs(struct pull *p)
{
    const struct tbenc_manifest *m = p->tree;
    size_t n = m->files ? m->n_files : 1;

    p->inputs = calloc(n, sizeof(*p->inputs));
    p->write_fds = calloc(n, sizeof(*p->write_fds));
    if (!p->inputs || !p->write_fds)
        return tbpkg_fail_errno(p->own.path, -ENOMEM);
    for (size_t i = 0; i < n; i++) {
        p->inputs[i] = (struct tbenc_input){.fd = -1,
                                            .path = m->files ? m->files[i].path : NULL,
                                            .mode = m->files ? m->files[i].mode : 0,
                                            .bytes = m->files ? m->files[i].bytes : m->plaintext_bytes};
        p->write_fds[i] = -1;
    }
    p->origin = (struct stream_origin){.name = p->own.ciphertext_url,
                                       .state = p->state,
                                       .inputs = p->inputs,
                                       .n = n,
                                       .is_dir = m->files,
                                       .start = pull_start,
                                       .end = pull_end,
                                       .check = pull_check,
                                       .ctx = p};
    return CLI_OK;
}

int pull_open(struct pull *p)
{
    int rc = pull_read_own(p);

    if (rc == CLI_OK && p->base.manifest_url)
        rc = pull_read_base(p);
    if (rc == CLI_OK && tbenc_manifest_tree(p->own.manifest, &p->tree) < 0)
        rc = tbpkg_fail_errno(p->own.path, -ENOMEM);
    if (rc == CLI_OK)
        rc = part_look(p, &p->own);
    if (rc == CLI_OK && p->base.manifest)
        rc = part_look(p, &p->base);
    if (rc == CLI_OK)
        rc = pull_name_state(p);
    return rc == CLI_OK ? pull_make_inputs(p) : rc;
}
