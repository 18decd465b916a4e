/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg upload. The ciphertext goes first, as blocks that stay uncommitted until all are there and the file's hash is the one of
 * the manifest; the manifest goes last, so whoever finds it finds a complete asset. An interrupted run is resumed by the
 * same command: the service keeps uncommitted blocks for a week. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "asset.h"
#include "blob_object.h"
#include "blob_upload.h"
#include "cli.h"
#include "config.h"
#include "io.h"
#include "json.h"
#include "notify.h"
#include "tbenc.h"
#include "tbpkg.h"
#include "units.h"

#define CIPHERTEXT_NAME "model.tbenc"
#define MANIFEST_NAME "model.manifest.json"
#define FIRST_TRIES 2 /* a wrong name or address shows on the first request: do not retry it for minutes */

static const char help[] =
    "Usage: tbpkg upload --storage-account ACCOUNT --container NAME --asset-id ID\n"
    "                    --encrypted-file FILE --manifest FILE [OPTION]...\n"
    "Upload an encrypted asset to Azure Blob Storage as NAME/ID/model.tbenc and\n"
    "NAME/ID/model.manifest.json. Run it again to resume; what is there already is not sent again.\n"
    "\n"
    "  -s, --storage-account=ACCOUNT  storage account [$AZURE_STORAGE_ACCOUNT]\n"
    "  -C, --container=NAME           container [$AZURE_STORAGE_CONTAINER]\n"
    "  -a, --asset-id=ID              name of the asset, as in the manifest\n"
    "  -e, --encrypted-file=FILE      the ciphertext\n"
    "  -m, --manifest=FILE            its manifest\n"
    "  -f, --force                    replace another file under this asset id\n"
    "      --verify                   hash the whole file before the first byte is sent; without it\n"
    "                                 the hash is taken on the way and checked before the commit\n"
    "      --endpoint=URL             blob endpoint instead of https://ACCOUNT.blob.core.windows.net:\n"
    "                                 a private endpoint, or an emulator (http://127.0.0.1:10000/ACCOUNT)\n"
    "      --ca-file=FILE             trust the certificate authorities in FILE (PEM) [$TB_CA_FILE]\n"
    "      --insecure-http            allow a plain http:// endpoint that is not loopback\n"
    "      --block-bytes=SIZE         size of a block, 64K to 256M [8M]\n"
    "      --concurrency=N            blocks sent at once, 1 to 64 [16]\n"
    "      --retries=N                further attempts for each request, 0 to 20 [8]\n"
    "      --timeout=SECONDS          give a transfer up that moves nothing for so long [60]\n"
    "  -v, --verbose                  say which credential is used\n"
    "      --json                     print a summary as JSON\n"
    "  -q, --quiet                    no progress, no summary\n"
    "  -h, --help                     show this help\n"
    "      --version                  show the version\n"
    "\n"
    "Credentials, the first that is there:\n"
    "      --connection-string-file=FILE, --account-key-file=FILE, --sas-file=FILE\n"
    "      AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN,\n"
    "      AZURE_ACCESS_TOKEN; a service principal in AZURE_TENANT_ID, AZURE_CLIENT_ID and\n"
    "      AZURE_CLIENT_SECRET; the managed identity of the machine; 'az login'.\n"
    "The identity needs the role Storage Blob Data Contributor, a SAS sp=rcw on the container.\n";

enum {
    OPT_VERIFY = CLI_OPT_OWN,
    OPT_ENDPOINT,
    OPT_CA_FILE,
    OPT_INSECURE,
    OPT_BLOCK,
    OPT_CONCURRENCY,
    OPT_RETRIES,
    OPT_TIMEOUT,
    OPT_CONNECTION_STRING,
    OPT_ACCOUNT_KEY,
    OPT_SAS
};

static const struct option options[] = {
    {"storage-account", required_argument, NULL, 's'},
    {"container", required_argument, NULL, 'C'},
    {"asset-id", required_argument, NULL, 'a'},
    {"encrypted-file", required_argument, NULL, 'e'},
    {"manifest", required_argument, NULL, 'm'},
    {"force", no_argument, NULL, 'f'},
    {"verbose", no_argument, NULL, 'v'},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"endpoint", required_argument, NULL, OPT_ENDPOINT},
    {"ca-file", required_argument, NULL, OPT_CA_FILE},
    {"insecure-http", no_argument, NULL, OPT_INSECURE},
    {"block-bytes", required_argument, NULL, OPT_BLOCK},
    {"concurrency", required_argument, NULL, OPT_CONCURRENCY},
    {"retries", required_argument, NULL, OPT_RETRIES},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"connection-string-file", required_argument, NULL, OPT_CONNECTION_STRING},
    {"account-key-file", required_argument, NULL, OPT_ACCOUNT_KEY},
    {"sas-file", required_argument, NULL, OPT_SAS},
    CLI_COMMON_LONG,
};

struct job {
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

static void job_clear(struct job *j)
{
    j->manifest = tbenc_manifest_free(j->manifest);
    tb_freep(&j->manifest_text);
    j->fd = tb_close(j->fd);
    tb_freep(&j->ct.path);
    tb_freep(&j->mf.path);
    azure_auth_clear(&j->auth);
    blob_service_clear(&j->service);
}

/* -- command line -------------------------------------------------------------------------------------------------- */

static int set_number(struct job *j, int o)
{
    switch (o) {
    case OPT_BLOCK:
        if (cli_parse_size(optarg, &j->block_bytes) < 0 || j->block_bytes < BLOB_BLOCK_BYTES_MIN ||
            j->block_bytes > BLOB_BLOCK_BYTES_MAX)
            return cli_usage(&j->cli, "--block-bytes: a size from 64K to 256M, not '%s'", optarg);
        return CLI_OK;
    case OPT_CONCURRENCY:
        if (tb_uint_parse(optarg, 1, BLOB_CONCURRENCY_MAX, &j->concurrency) < 0)
            return cli_usage(&j->cli, "--concurrency: a number from 1 to %d, not '%s'", BLOB_CONCURRENCY_MAX,
                             optarg);
        return CLI_OK;
    case OPT_RETRIES:
        if (tb_uint_parse(optarg, 0, 20, &j->retries) < 0)
            return cli_usage(&j->cli, "--retries: a number from 0 to 20, not '%s'", optarg);
        return CLI_OK;
    default:
        if (tb_uint_parse(optarg, 1, 3600, &j->timeout) < 0)
            return cli_usage(&j->cli, "--timeout: seconds from 1 to 3600, not '%s'", optarg);
        return CLI_OK;
    }
}

static int set_option(struct job *j, int o)
{
    const struct {
        int o;
        const char **to;
    } strings[] = {
        {'s', &j->account},
        {'C', &j->container},
        {'a', &j->asset_id},
        {'e', &j->file},
        {'m', &j->manifest_path},
        {OPT_ENDPOINT, &j->endpoint},
        {OPT_CA_FILE, &j->ca_file},
        {OPT_CONNECTION_STRING, &j->credentials.connection_string_file},
        {OPT_ACCOUNT_KEY, &j->credentials.account_key_file},
        {OPT_SAS, &j->credentials.sas_file},
    };
    const struct {
        int o;
        bool *to;
    } flags[] = {
        {'f', &j->force}, {'v', &j->verbose}, {OPT_VERIFY, &j->verify}, {OPT_INSECURE, &j->insecure}};

    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        if (strings[i].o == o) {
            *strings[i].to = optarg;
            return CLI_OK;
        }
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
        if (flags[i].o == o) {
            *flags[i].to = true;
            return CLI_OK;
        }
    return set_number(j, o);
}

static const char *env_default(const char *value, const char *name)
{
    const char *e = getenv(name);

    return value ? value : e && *e ? e : NULL;
}

static int check_options(struct job *j)
{
    const struct cli *c = &j->cli;

    j->account = env_default(j->account, "AZURE_STORAGE_ACCOUNT");
    j->container = env_default(j->container, "AZURE_STORAGE_CONTAINER");
    j->ca_file = env_default(j->ca_file, "TB_CA_FILE");
    if (!j->container)
        return cli_usage(c, "--container is missing");
    if (!blob_container_valid(j->container))
        return cli_usage(c, "--container: 3 to 63 of a-z, 0-9 and single '-' inside, not '%s'", j->container);
    if (!j->asset_id)
        return cli_usage(c, "--asset-id is missing");
    if (!tb_id_valid(j->asset_id))
        return cli_usage(c, "--asset-id: 1 to 100 letters, digits, '_' and '-', not '%s'", j->asset_id);
    if (!j->file || !j->manifest_path)
        return cli_usage(c, "%s is missing", j->file ? "--manifest" : "--encrypted-file");
    return CLI_OK;
}

static int parse(struct job *j, int argc, char **argv)
{
    int o, rc;

    while ((o = cli_getopt(&j->cli, argc, argv, "s:C:a:e:m:fv" CLI_COMMON_SHORT, options)) != CLI_END) {
        if (o == CLI_STOP)
            return CLI_STOP;
        rc = set_option(j, o);
        if (rc != CLI_OK) {
            j->cli.rc = rc;
            return CLI_STOP;
        }
    }
    j->cli.rc = optind < argc ? cli_usage(&j->cli, "'%s' is too much", argv[optind]) : check_options(j);
    return j->cli.rc == CLI_OK ? CLI_OK : CLI_STOP;
}

/* -- the asset on this machine ------------------------------------------------------------------------------------- */

static int sha256_hex(const void *buf, size_t len, char out[static BLOB_SHA256_HEX + 1])
{
    uint8_t digest[32];
    unsigned n = sizeof(digest);

    if (EVP_Digest(buf, len, digest, &n, EVP_sha256(), NULL) != 1)
        return -EIO;
    tb_hex_encode(digest, sizeof(digest), out);
    return 0;
}

static int read_manifest(struct job *j)
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
        return tbpkg_failf(j->manifest_path, "is of asset '%s', not '%s'; check --asset-id and --manifest",
                           j->manifest->asset_id, j->asset_id);
    r = sha256_hex(j->manifest_text, len, j->mf.sha256);
    if (r < 0)
        return tbpkg_fail_errno(j->manifest_path, r);
    j->mf.size = len;
    tb_hex_encode(j->manifest->sha256_ciphertext, 32, j->ct.sha256);
    j->ct.size = tbenc_manifest_ciphertext_bytes(j->manifest);
    return CLI_OK;
}

static int verify_whole(struct job *j)
{
    const struct tbenc_open_params p = {.manifest = j->manifest};
    struct tbenc_error e = {.message = ""};
    int r = tbenc_verify(&p, j->fd, &e);

    return r < 0 ? asset_fail(j->file, r, &e) : CLI_OK;
}

static int open_ciphertext(struct job *j)
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
        return tbpkg_fail(j->file, "is no regular file", NULL);
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
    return j->verify ? verify_whole(j) : CLI_OK;
}

/* -- the service --------------------------------------------------------------------------------------------------- */

static int connect_service(struct job *j)
{
    char err[MAX(AZURE_ERR_MAX, BLOB_ERR_MAX)];

    j->tls = (struct tb_http_tls){.ca_file = j->ca_file};
    j->credentials.tls = &j->tls;
    if (azure_auth_find(&j->credentials, &j->auth, err) < 0)
        return tbpkg_fail("Azure credentials", err, NULL);
    if (j->verbose)
        tbpkg_note(&j->cli, "Using the credential of %s.", j->auth.source);
    if (!j->account)
        j->account = j->auth.account;
    if (!j->account)
        return cli_usage(&j->cli, "--storage-account is missing");
    if (j->auth.account && strcmp(j->auth.account, j->account) != 0)
        return tbpkg_failf("Azure credentials", "%s is of storage account %s, not %s", j->auth.source,
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

static int refuse_other(struct job *j, const struct blob_object *o)
{
    if (o->there != BLOB_OTHER || j->force)
        return CLI_OK;
    return tbpkg_fail(o->path, "another file is stored there; consumers of it would fail",
                      "upload under a new asset id, or replace it with --force");
}

/* -- the two uploads ----------------------------------------------------------------------------------------------- */

static void on_progress(void *ctx, uint64_t done)
{
    struct job *j = ctx;

    (void)cli_progress(&j->progress, done, j->ct.size);
}

static int commit(struct job *j, const struct blob_upload_result *up)
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

static int send_ciphertext(struct job *j)
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
        .progress = on_progress,
        .ctx = j,
    };
    struct blob_fault fault;
    int rc, r;

    if (u.block_bytes == 0)
        return tbpkg_fail(j->file, "is larger than 50000 blocks of 256 MiB", NULL);
    rc = blob_object_staged(&j->client, &j->ct, &staged);
    if (rc != CLI_OK)
        return rc;
    j->progress = cli_progress_start(&j->cli, "Uploading", u.size);
    r = blob_upload_blocks(&u, &up, &fault);
    if (r < 0)
        return tbpkg_fail(r == -EBADMSG ? j->file : j->ct.path, fault.reason,
                          fault.remedy[0] ? fault.remedy : NULL);
    cli_progress_finish(&j->progress, u.size);
    if (memcmp(up.sha256, j->manifest->sha256_ciphertext, sizeof(up.sha256)) != 0)
        return tbpkg_fail(j->file, "its SHA-256 is not the one of its manifest; nothing was committed",
                          "encrypt again, or name the manifest that belongs to it");
    rc = commit(j, &up);
    j->ct.sent = up.bytes_sent;
    j->ct.resumed = up.bytes_resumed;
    return rc;
}

static int send_manifest(struct job *j)
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

static int upload(struct job *j)
{
    int rc = blob_object_look(&j->client, &j->ct, j->fd);

    if (rc == CLI_OK)
        rc = blob_object_look(&j->client, &j->mf, -1);
    if (rc == CLI_OK)
        rc = refuse_other(j, &j->ct);
    if (rc == CLI_OK)
        rc = refuse_other(j, &j->mf);
    j->client.retries = (unsigned)j->retries;
    if (rc == CLI_OK && j->ct.there != BLOB_SAME)
        rc = send_ciphertext(j);
    if (rc == CLI_OK && j->mf.there != BLOB_SAME)
        rc = send_manifest(j);
    return rc;
}

/* -- summary ------------------------------------------------------------------------------------------------------- */

static cJSON *object_json(const struct job *j, const struct blob_object *o)
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

static int print_summary(struct job *j)
{
    _cleanup_json_ cJSON *d = NULL;

    if (j->ct.sent + j->ct.resumed + j->mf.sent == 0)
        tbpkg_note(&j->cli, "Everything is there already; nothing was sent.");
    else if (j->ct.resumed > 0)
        tbpkg_note(&j->cli, "Resumed: %" PRIu64 " bytes were there already.", j->ct.resumed);
    if (!j->cli.json) {
        printf("%s/%s\n%s/%s\n", j->service.url, j->ct.path, j->service.url, j->mf.path);
        tbpkg_note(&j->cli, "Next: tbpkg register --asset-id %s --manifest %s --blob-url %s/%s ...",
                   j->asset_id, j->manifest_path, j->service.url, j->container);
        return cli_flush_stdout();
    }
    d = cJSON_CreateObject();
    cJSON_AddStringToObject(d, "asset_id", j->asset_id);
    cJSON_AddItemToObject(d, "ciphertext", object_json(j, &j->ct));
    cJSON_AddItemToObject(d, "manifest", object_json(j, &j->mf));
    return cli_print_json(d);
}

int tbpkg_upload_main(int argc, char **argv)
{
    _cleanup_(job_clear) struct job j = {.cli = {.command = "upload", .help = help},
                                         .fd = -1,
                                         .block_bytes = BLOB_BLOCK_BYTES_DEFAULT,
                                         .concurrency = 16,
                                         .retries = 8,
                                         .timeout = 60};
    int rc;

    if (parse(&j, argc, argv) == CLI_STOP)
        return j.cli.rc;
    tb_secret_init();
    cli_interrupt_note("Interrupted; run the same command again to resume.");
    rc = read_manifest(&j);
    if (rc == CLI_OK)
        rc = open_ciphertext(&j);
    if (rc == CLI_OK)
        rc = connect_service(&j);
    if (rc == CLI_OK)
        rc = upload(&j);
    if (rc == CLI_OK)
        rc = print_summary(&j);
    return rc;
}
