/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg upload. The ciphertext goes first, as blocks that stay uncommitted until all are there and the file's
 * hash is the one of the manifest; the manifest goes last, so whoever finds it finds a complete asset. An
 * interrupted run is resumed by the same command: the service keeps uncommitted blocks for a week. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/azure/blob_object.h"
#include "provider/azure/blob_upload.h"
#include "common/config.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/notify.h"
#include "tbenc/tbenc.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"
#include "common/units.h"
#include "provider/cli/interrupt.h"

#define CIPHERTEXT_NAME "model.tbenc"
#define MANIFEST_NAME "model.manifest.json"
#define FIRST_TRIES 2 /* a wrong name or address shows on the first request: do not retry it for minutes */

struct upload_job {
    struct cli cli;
    const char *account, *container, *asset_id, *file, *manifest_path, *endpoint, *ca_file;
    bool force, verify, insecure, verbose;
    uint64_t block_bytes, concurrency, retries, timeout;
    struct azure_auth_options credentials;

    struct tbenc_manifest *manifest;
    char *manifest_text;
    int fd;
    struct blob_object ct, mf;
    struct azure_auth auth;
    struct blob_service service;
    struct tb_http_tls tls;
    struct blob_client client;
    struct tb_progress progress;
};

static void upload_job_clear(struct upload_job *j)
{
    j->manifest = tbenc_manifest_free(j->manifest);
    tb_freep(&j->manifest_text);
    j->fd = tb_close(j->fd);
    tb_freep(&j->ct.path);
    tb_freep(&j->mf.path);
    azure_auth_clear(&j->auth);
    blob_service_clear(&j->service);
}

/* -- command line ------------------------------------------------------------------------------ */

#define TB_OPTION_TARGET struct upload_job
static const struct tb_option upload_options[] = {
    ROW_STORAGE_ACCOUNT(account),
    ROW_CONTAINER(container),
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, asset_id, "name of the asset, as in the manifest"),
    TB_OPTION('e', "encrypted-file", "FILE", TB_OPTION_STRING, file, "the ciphertext"),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, manifest_path, "its manifest"),
    TB_OPTION('f', "force", NULL, TB_OPTION_FLAG, force, "replace another file under this asset id"),
    TB_OPTION(0, "verify", NULL, TB_OPTION_FLAG, verify,
              "hash the whole file before the first byte is sent; without it the hash is taken on the way "
              "and checked before the commit"),
    ROW_BLOB_ENDPOINT(endpoint),
    ROW_CA_FILE(ca_file),
    TB_OPTION(0, "insecure-http", NULL, TB_OPTION_FLAG, insecure,
              "allow a plain http:// endpoint that is not loopback"),
    TB_OPTION(0, "block-bytes", "SIZE", TB_OPTION_SIZE, block_bytes, "size of a block, 64K to 256M [8M]",
              .min = BLOB_BLOCK_BYTES_MIN, .max = BLOB_BLOCK_BYTES_MAX),
    TB_OPTION(0, "concurrency", "N", TB_OPTION_UINT, concurrency, "blocks sent at once, 1 to 64 [16]",
              .min = 1, .max = BLOB_CONCURRENCY_MAX),
    TB_OPTION(0, "retries", "N", TB_OPTION_UINT, retries, "further attempts for each request, 0 to 20 [8]",
              .max = 20),
    TB_OPTION(0, "timeout", "SECONDS", TB_OPTION_UINT, timeout,
              "give a transfer up that moves nothing for so long [60]", .min = 1, .max = 3600),
    TB_OPTION('v', "verbose", NULL, TB_OPTION_FLAG, verbose, "say which credential is used"),
    ROWS_CREDENTIAL_FILES(credentials.connection_string_file, credentials.account_key_file,
                          credentials.sas_file),
    CLI_COMMON_ROWS,
};

static int upload_check_options(void *job)
{
    struct upload_job *j = job;
    const struct cli *c = &j->cli;

    if (!blob_container_valid(j->container))
        return cli_usage(c, "--container: 3 to 63 of a-z, 0-9 and single '-' inside, not '%s'", j->container);
    if (cli_check_asset_id(c, j->asset_id) != CLI_OK)
        return CLI_USAGE;
    if (!j->file || !j->manifest_path)
        return cli_usage(c, "%s is missing", j->file ? "--manifest" : "--encrypted-file");
    return CLI_OK;
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

static int upload_read_manifest(struct upload_job *j)
{
    struct tbenc_error e = {.message = ""};
    size_t len = 0;
    int r;

    r = tb_read_file(j->manifest_path, TBENC_MANIFEST_MAX, &j->manifest_text, &len);
    if (r < 0)
        return tbpkg_fail_errno(j->manifest_path, r);
    r = tbenc_manifest_parse(j->manifest_text, len, 0, &j->manifest, &e);
    if (r < 0)
        return asset_fail(j->manifest_path, r, &e);
    if (strcmp(j->manifest->asset_id, j->asset_id) != 0)
        return tbpkg_failf(j->manifest_path,
                           "belongs to asset '%s', not '%s'; check --asset-id and --manifest",
                           j->manifest->asset_id, j->asset_id);
    r = upload_sha256_hex(j->manifest_text, len, j->mf.sha256);
    if (r < 0)
        return tbpkg_fail_errno(j->manifest_path, r);
    j->mf.size = len;
    tb_hex_encode(j->manifest->sha256_ciphertext, 32, j->ct.sha256);
    j->ct.size = tbenc_manifest_ciphertext_bytes(j->manifest);
    return CLI_OK;
}

static int upload_verify_whole(struct upload_job *j)
{
    const struct tbenc_open_params p = {.manifest = j->manifest};
    struct tbenc_error e = {.message = ""};
    int r = tbenc_verify(&p, j->fd, &e);

    return r < 0 ? asset_fail(j->file, r, &e) : CLI_OK;
}

static int upload_open_ciphertext(struct upload_job *j)
{
    uint8_t head[TBENC_HEADER_BYTES];
    struct tbenc_error e = {.message = ""};
    struct tbenc_header h;
    struct stat st;
    ssize_t n;
    int r;

    j->fd = open(j->file, O_RDONLY | O_CLOEXEC);
    if (j->fd < 0 || fstat(j->fd, &st) < 0)
        return tbpkg_fail_errno(j->file, -errno);
    if (!S_ISREG(st.st_mode))
        return tbpkg_fail(j->file, "is not a regular file", NULL);
    if ((uint64_t)st.st_size != j->ct.size)
        return tbpkg_failf(j->file,
                           "has %" PRIu64 " bytes, its manifest says %" PRIu64
                           "; encrypt again, or name the manifest that belongs to it",
                           (uint64_t)st.st_size, j->ct.size);
    n = tb_pread_full(j->fd, head, sizeof(head), 0);
    if (n < 0)
        return tbpkg_fail_errno(j->file, (int)n);
    r = tbenc_header_parse(head, (size_t)n, 0, &h, &e);
    if (r < 0)
        return asset_fail(j->file, r, &e);
    if (h.chunk_bytes != j->manifest->chunk_bytes)
        return tbpkg_failf(j->file, "has records of %u bytes, its manifest says %u", h.chunk_bytes,
                           j->manifest->chunk_bytes);
    return j->verify ? upload_verify_whole(j) : CLI_OK;
}

/* -- the service ------------------------------------------------------------------------------- */

static int upload_connect_service(struct upload_job *j)
{
    char err[MAX(AZURE_ERR_MAX, BLOB_ERR_MAX)];

    j->tls = (struct tb_http_tls){.ca_file = j->ca_file};
    j->credentials.tls = &j->tls;
    if (azure_auth_find(&j->credentials, &j->auth, err) < 0)
        return tbpkg_fail("Azure credentials", err, NULL);
    if (j->verbose)
        tbpkg_note(j->cli.quiet, "Using the credential of %s.", j->auth.source);
    if (!j->account)
        j->account = j->auth.account;
    if (!j->account)
        return cli_usage(&j->cli, "--storage-account is missing");
    if (j->auth.account && strcmp(j->auth.account, j->account) != 0)
        return tbpkg_failf("Azure credentials", "%s belongs to storage account %s, not %s", j->auth.source,
                           j->auth.account, j->account);
    if (blob_service_init(j->account, j->endpoint ? j->endpoint : j->auth.endpoint, j->insecure, &j->service,
                          err) < 0)
        return tbpkg_fail("storage account", err, NULL);
    j->tls.allow_http = strncasecmp(j->service.url, "http://", 7) == 0;
    j->client = (struct blob_client){.service = &j->service,
                                     .auth = &j->auth,
                                     .tls = &j->tls,
                                     .container = j->container,
                                     .retries = (unsigned)MIN(j->retries, (uint64_t)FIRST_TRIES),
                                     .stall_s = (unsigned)j->timeout};
    j->ct.path = tb_strf("%s/%s/" CIPHERTEXT_NAME, j->container, j->asset_id);
    j->mf.path = tb_strf("%s/%s/" MANIFEST_NAME, j->container, j->asset_id);
    return j->ct.path && j->mf.path ? CLI_OK : tbpkg_fail_errno("tbpkg upload", -ENOMEM);
}

static int upload_refuse_other(struct upload_job *j, const struct blob_object *o)
{
    if (o->there != BLOB_OTHER || j->force)
        return CLI_OK;
    return tbpkg_fail(o->path, "another file is stored there, and its consumers would fail",
                      "upload under a new asset id, or replace it with --force");
}

/* -- the two uploads --------------------------------------------------------------------------- */

static void upload_on_progress(void *ctx, uint64_t done)
{
    struct upload_job *j = ctx;

    (void)cli_progress(&j->progress, done, j->ct.size);
}

static int upload_commit(struct upload_job *j, const struct blob_upload_result *up)
{
    _cleanup_free_ char *list = NULL;
    struct blob_request rq = {
        .query = {{"comp", "blocklist"}},
        .headers = {{"Content-Type", "application/xml"},
                    {"x-ms-blob-content-type", "application/octet-stream"}},
    };
    int r = blob_block_list_format(up->ids, up->n_blocks, &list, &rq.body_len);

    if (r < 0)
        return tbpkg_fail_errno(j->ct.path, r);
    rq.body = list;
    return blob_object_create(&j->client, &j->ct, j->fd, &rq);
}

static int upload_send_ciphertext(struct upload_job *j)
{
    _cleanup_upload_result_ struct blob_upload_result up = {0};
    _cleanup_staged_set_ struct blob_staged_set staged = {0};
    struct blob_upload u = {
        .client = &j->client,
        .path = j->ct.path,
        .fd = j->fd,
        .size = j->ct.size,
        .block_bytes = blob_block_bytes_for(j->ct.size, (uint32_t)j->block_bytes),
        .concurrency = (unsigned)j->concurrency,
        .staged = &staged,
        .progress = upload_on_progress,
        .ctx = j,
    };
    struct blob_fault fault;
    int rc, r;

    if (u.block_bytes == 0)
        return tbpkg_fail(j->file, "is larger than 50000 blocks of 256 MiB", NULL);
    rc = blob_object_staged(&j->client, &j->ct, &staged);
    if (rc != CLI_OK)
        return rc;
    j->progress = cli_progress_start(j->cli.quiet, "Uploading", u.size);
    r = blob_upload_blocks(&u, &up, &fault);
    if (r < 0)
        return tbpkg_fail(r == -EBADMSG ? j->file : j->ct.path, fault.reason,
                          fault.remedy[0] ? fault.remedy : NULL);
    cli_progress_finish(&j->progress, u.size);
    if (memcmp(up.sha256, j->manifest->sha256_ciphertext, sizeof(up.sha256)) != 0)
        return tbpkg_fail(j->file, "its SHA-256 is not the one of its manifest; nothing was committed",
                          "encrypt again, or name the manifest that belongs to it");
    rc = upload_commit(j, &up);
    j->ct.sent = up.bytes_sent;
    j->ct.resumed = up.bytes_resumed;
    return rc;
}

static int upload_send_manifest(struct upload_job *j)
{
    uint8_t md5[BLOB_MD5_BYTES];
    char md5_base64[BLOB_MD5_BASE64 + 1];
    struct blob_request rq = {
        .headers = {{"Content-Type", "application/json"},
                    {"Content-MD5", md5_base64},
                    {"x-ms-blob-type", "BlockBlob"}},
        .body = j->manifest_text,
        .body_len = (size_t)j->mf.size,
    };
    int r = blob_md5(j->manifest_text, (size_t)j->mf.size, md5);

    if (r < 0)
        return tbpkg_fail_errno(j->mf.path, r);
    blob_base64(md5, sizeof(md5), md5_base64);
    j->mf.sent = j->mf.size;
    return blob_object_create(&j->client, &j->mf, -1, &rq);
}

static int upload(struct upload_job *j)
{
    int rc = blob_object_look(&j->client, &j->ct, j->fd);

    if (rc == CLI_OK)
        rc = blob_object_look(&j->client, &j->mf, -1);
    if (rc == CLI_OK)
        rc = upload_refuse_other(j, &j->ct);
    if (rc == CLI_OK)
        rc = upload_refuse_other(j, &j->mf);
    j->client.retries = (unsigned)j->retries;
    if (rc == CLI_OK && j->ct.there != BLOB_SAME)
        rc = upload_send_ciphertext(j);
    if (rc == CLI_OK && j->mf.there != BLOB_SAME)
        rc = upload_send_manifest(j);
    return rc;
}

/* -- summary ----------------------------------------------------------------------------------- */

static cJSON *upload_object_json(const struct upload_job *j, const struct blob_object *o)
{
    _cleanup_free_ char *url = tb_strf("%s/%s", j->service.url, o->path);
    cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "url", url ? url : "");
    tb_json_add_uint(d, "bytes", o->size);
    cJSON_AddStringToObject(d, "sha256", o->sha256);
    tb_json_add_uint(d, "bytes_sent", o->sent);
    tb_json_add_uint(d, "bytes_resumed", o->resumed);
    return d;
}

static int upload_print_summary(struct upload_job *j)
{
    _cleanup_json_ cJSON *d = NULL;

    if (j->ct.sent + j->ct.resumed + j->mf.sent == 0)
        tbpkg_note(j->cli.quiet, "Everything is there already; nothing was sent.");
    else if (j->ct.resumed > 0)
        tbpkg_note(j->cli.quiet, "Resumed: %" PRIu64 " bytes were there already.", j->ct.resumed);
    if (!j->cli.json) {
        printf("%s/%s\n%s/%s\n", j->service.url, j->ct.path, j->service.url, j->mf.path);
        tbpkg_note(j->cli.quiet, "Next: tbpkg register --asset-id %s --manifest %s --blob-url %s/%s ...",
                   j->asset_id, j->manifest_path, j->service.url, j->container);
        return cli_flush_stdout();
    }
    d = cJSON_CreateObject();
    cJSON_AddStringToObject(d, "asset_id", j->asset_id);
    cJSON_AddItemToObject(d, "ciphertext", upload_object_json(j, &j->ct));
    cJSON_AddItemToObject(d, "manifest", upload_object_json(j, &j->mf));
    return cli_print_json(d);
}

static int upload_main(int argc, char **argv)
{
    _cleanup_(upload_job_clear) struct upload_job j = {.cli = {.command = &tbpkg_upload},
                                                       .fd = -1,
                                                       .container = "models",
                                                       .block_bytes = BLOB_BLOCK_BYTES_DEFAULT,
                                                       .concurrency = 16,
                                                       .retries = 8,
                                                       .timeout = 60};
    int rc;

    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, upload_check_options) != CLI_OK)
        return j.cli.rc;
    tb_secret_init();
    cli_interrupt_note("Interrupted; run the same command again to resume.");
    rc = upload_read_manifest(&j);
    if (rc == CLI_OK)
        rc = upload_open_ciphertext(&j);
    if (rc == CLI_OK)
        rc = upload_connect_service(&j);
    if (rc == CLI_OK)
        rc = upload(&j);
    if (rc == CLI_OK)
        rc = upload_print_summary(&j);
    return rc;
}

const struct tbpkg_command tbpkg_upload = {
    .name = "upload",
    .summary = "put an encrypted asset into Azure Blob storage",
    .synopsis = "--storage-account ACCOUNT --asset-id ID --encrypted-file FILE --manifest FILE\n"
                "                    [OPTION]...",
    .about =
        "Upload an encrypted asset to Azure Blob Storage as NAME/ID/model.tbenc and\n"
        "NAME/ID/model.manifest.json. Run it again to resume; what is there already is not sent again.\n",
    .options = upload_options,
    .tail = "Credentials, the first that is there: the files above;\n"
            "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN,\n"
            "AZURE_ACCESS_TOKEN; a service principal in AZURE_TENANT_ID, AZURE_CLIENT_ID and\n"
            "AZURE_CLIENT_SECRET; the managed identity of the machine; 'az login'.\n"
            "The identity needs the role Storage Blob Data Contributor, a SAS sp=rcw on the container.\n",
    .run = upload_main,
};
