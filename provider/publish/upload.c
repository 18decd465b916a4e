/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/secret.h"
#include "provider/asset/asset.h"

#define CIPHERTEXT_NAME "model.tbenc"
#define MANIFEST_NAME "model.manifest.json"
#define FIRST_TRIES 2 /* a wrong name or address shows on the first request: do not retry it for minutes */

void asset_upload_clear(struct asset_upload *a)
{
    a->manifest = tbenc_manifest_free(a->manifest);
    tb_freep(&a->manifest_text);
    a->fd = tb_close(a->fd);
    tb_freep(&a->ct.path);
    tb_freep(&a->mf.path);
    azure_auth_clear(&a->auth);
    blob_service_clear(&a->service);
}

/* -- the asset on this machine ----------------------------------------------------------------- */

static int upload_sha256_hex(const void *buf, size_t len, char out[static BLOB_SHA256_HEX + 1])
{
    uint8_t digest[32];
    unsigned n = sizeof(digest);

    if (EVP_Digest(buf, len, digest, &n, EVP_sha256(), NULL) != 1)
        return -EIO;
    tb_hex_encode(digest, sizeof(digest), out);
    return 0;
}

static int upload_read_manifest(struct asset_upload *a)
{
    struct tbenc_error e = {.message = ""};
    size_t len = 0;
    int r;

    r = tb_read_file(a->manifest_path, TBENC_MANIFEST_MAX, &a->manifest_text, &len);
    if (r < 0)
        return tbpkg_fail_errno(a->manifest_path, r);
    r = tbenc_manifest_parse(a->manifest_text, len, 0, &a->manifest, &e);
    if (r < 0)
        return asset_fail(a->manifest_path, r, &e);
    if (strcmp(a->manifest->asset_id, a->asset_id) != 0)
        return tbpkg_failf(a->manifest_path,
                           "belongs to asset '%s', not '%s'; check --asset-id and --manifest",
                           a->manifest->asset_id, a->asset_id);
    r = upload_sha256_hex(a->manifest_text, len, a->mf.sha256);
    if (r < 0)
        return tbpkg_fail_errno(a->manifest_path, r);
    a->mf.size = len;
    tb_hex_encode(a->manifest->sha256_ciphertext, 32, a->ct.sha256);
    a->ct.size = tbenc_manifest_ciphertext_bytes(a->manifest);
    return CLI_OK;
}

static int upload_verify_whole(struct asset_upload *a)
{
    const struct tbenc_open_params p = {.manifest = a->manifest};
    struct tbenc_error e = {.message = ""};
    int r = tbenc_verify(&p, a->fd, &e);

    return r < 0 ? asset_fail(a->file, r, &e) : CLI_OK;
}

static int upload_open_ciphertext(struct asset_upload *a)
{
    uint8_t head[TBENC_HEADER_BYTES];
    struct tbenc_error e = {.message = ""};
    struct tbenc_header h;
    struct stat st;
    ssize_t n;
    int r;

    a->fd = open(a->file, O_RDONLY | O_CLOEXEC);
    if (a->fd < 0 || fstat(a->fd, &st) < 0)
        return tbpkg_fail_errno(a->file, -errno);
    if (!S_ISREG(st.st_mode))
        return tbpkg_fail(a->file, "is not a regular file", NULL);
    if ((uint64_t)st.st_size != a->ct.size)
        return tbpkg_failf(a->file,
                           "has %" PRIu64 " bytes, its manifest says %" PRIu64
                           "; encrypt again, or name the manifest that belongs to it",
                           (uint64_t)st.st_size, a->ct.size);
    n = tb_pread_full(a->fd, head, sizeof(head), 0);
    if (n < 0)
        return tbpkg_fail_errno(a->file, (int)n);
    r = tbenc_header_parse(head, (size_t)n, 0, &h, &e);
    if (r < 0)
        return asset_fail(a->file, r, &e);
    if (h.chunk_bytes != a->manifest->chunk_bytes)
        return tbpkg_failf(a->file, "has records of %u bytes, its manifest says %u", h.chunk_bytes,
                           a->manifest->chunk_bytes);
    return a->verify ? upload_verify_whole(a) : CLI_OK;
}

/* -- the service ------------------------------------------------------------------------------- */

static int upload_connect_service(struct asset_upload *a)
{
    char err[MAX(TB_AZURE_ERR_MAX, BLOB_ERR_MAX)];

    a->tls = (struct tb_http_tls){.ca_file = a->ca_file};
    a->credentials.tls = &a->tls;
    if (azure_auth_find(&a->credentials, &a->auth, err) < 0)
        return tbpkg_fail("Azure credentials", err, NULL);
    if (a->verbose)
        tbpkg_note(a->cli->quiet, "Using the credential of %s.", a->auth.source);
    if (!a->account)
        a->account = a->auth.account;
    if (!a->account)
        return cli_usage(a->cli, "--storage-account is missing");
    if (a->auth.account && strcmp(a->auth.account, a->account) != 0)
        return tbpkg_failf("Azure credentials", "%s belongs to storage account %s, not %s", a->auth.source,
                           a->auth.account, a->account);
    if (blob_service_init(a->account, a->endpoint ? a->endpoint : a->auth.endpoint, a->insecure, &a->service,
                          err) < 0)
        return tbpkg_fail("storage account", err, NULL);
    a->tls.allow_http = strncasecmp(a->service.url, "http://", 7) == 0;
    a->client = (struct blob_client){.service = &a->service,
                                     .auth = &a->auth,
                                     .tls = &a->tls,
                                     .container = a->container,
                                     .retries = (unsigned)MIN(a->retries, (uint64_t)FIRST_TRIES),
                                     .stall_s = (unsigned)a->timeout};
    a->ct.path = tb_strf("%s/%s/" CIPHERTEXT_NAME, a->container, a->asset_id);
    a->mf.path = tb_strf("%s/%s/" MANIFEST_NAME, a->container, a->asset_id);
    return a->ct.path && a->mf.path ? CLI_OK : tbpkg_fail_errno("tbpkg upload", -ENOMEM);
}

static int upload_refuse_other(struct asset_upload *a, const struct blob_object *o)
{
    if (o->there != BLOB_OTHER || a->force)
        return CLI_OK;
    return tbpkg_fail(o->path, "another file is stored there, and its consumers would fail",
                      "upload under a new asset id, or replace it with --force");
}

/* -- the two uploads --------------------------------------------------------------------------- */

static void upload_on_progress(void *ctx, uint64_t done)
{
    struct asset_upload *a = ctx;

    (void)cli_progress(&a->progress, done, a->ct.size);
}

static int upload_commit(struct asset_upload *a, const struct blob_upload_result *up)
{
    _cleanup_free_ char *list = NULL;
    struct blob_request rq = {
        .query = {{"comp", "blocklist"}},
        .headers = {{"Content-Type", "application/xml"},
                    {"x-ms-blob-content-type", "application/octet-stream"}},
    };
    int r = blob_block_list_format(up->ids, up->n_blocks, &list, &rq.body_len);

    if (r < 0)
        return tbpkg_fail_errno(a->ct.path, r);
    rq.body = list;
    return blob_object_create(&a->client, &a->ct, a->fd, &rq);
}

static int upload_send_ciphertext(struct asset_upload *a)
{
    _cleanup_upload_result_ struct blob_upload_result up = {0};
    _cleanup_staged_set_ struct blob_staged_set staged = {0};
    struct blob_upload u = {
        .client = &a->client,
        .path = a->ct.path,
        .fd = a->fd,
        .size = a->ct.size,
        .block_bytes = blob_block_bytes_for(a->ct.size, (uint32_t)a->block_bytes),
        .concurrency = (unsigned)a->concurrency,
        .staged = &staged,
        .progress = upload_on_progress,
        .ctx = a,
    };
    struct blob_fault fault;
    int rc, r;

    if (u.block_bytes == 0)
        return tbpkg_fail(a->file, "is larger than 50000 blocks of 256 MiB", NULL);
    rc = blob_object_staged(&a->client, &a->ct, &staged);
    if (rc != CLI_OK)
        return rc;
    a->progress = cli_progress_start(a->cli->quiet, "Uploading", u.size);
    r = blob_upload_blocks(&u, &up, &fault);
    if (r < 0)
        return tbpkg_fail(r == -EBADMSG ? a->file : a->ct.path, fault.reason,
                          fault.remedy[0] ? fault.remedy : NULL);
    cli_progress_finish(&a->progress, u.size);
    if (memcmp(up.sha256, a->manifest->sha256_ciphertext, sizeof(up.sha256)) != 0)
        return tbpkg_fail(a->file, "its SHA-256 is not the one of its manifest; nothing was committed",
                          "encrypt again, or name the manifest that belongs to it");
    rc = upload_commit(a, &up);
    a->ct.sent = up.bytes_sent;
    a->ct.resumed = up.bytes_resumed;
    return rc;
}

static int upload_send_manifest(struct asset_upload *a)
{
    uint8_t md5[BLOB_MD5_BYTES];
    char md5_base64[BLOB_MD5_BASE64 + 1];
    struct blob_request rq = {
        .headers = {{"Content-Type", "application/json"},
                    {"Content-MD5", md5_base64},
                    {"x-ms-blob-type", "BlockBlob"}},
        .body = a->manifest_text,
        .body_len = (size_t)a->mf.size,
    };
    int r = blob_md5(a->manifest_text, (size_t)a->mf.size, md5);

    if (r < 0)
        return tbpkg_fail_errno(a->mf.path, r);
    blob_base64(md5, sizeof(md5), md5_base64);
    a->mf.sent = a->mf.size;
    return blob_object_create(&a->client, &a->mf, -1, &rq);
}

static int upload_send(struct asset_upload *a)
{
    int rc = blob_object_look(&a->client, &a->ct, a->fd);

    if (rc == CLI_OK)
        rc = blob_object_look(&a->client, &a->mf, -1);
    if (rc == CLI_OK)
        rc = upload_refuse_other(a, &a->ct);
    if (rc == CLI_OK)
        rc = upload_refuse_other(a, &a->mf);
    a->client.retries = (unsigned)a->retries;
    if (rc == CLI_OK && a->ct.there != BLOB_SAME)
        rc = upload_send_ciphertext(a);
    if (rc == CLI_OK && a->mf.there != BLOB_SAME)
        rc = upload_send_manifest(a);
    return rc;
}

int asset_upload(struct asset_upload *a)
{
    int rc = upload_read_manifest(a);

    if (rc == CLI_OK)
        rc = upload_open_ciphertext(a);
    if (rc == CLI_OK)
        rc = upload_connect_service(a);
    return rc == CLI_OK ? upload_send(a) : rc;
}
