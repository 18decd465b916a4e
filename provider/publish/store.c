/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/store.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "common/base64.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "tbenc/tbenc.h"

#define CIPHERTEXT_NAME "model.tbenc"
#define MANIFEST_NAME "model.manifest.json"
#define FOLDER_MAX 500
#define FIRST_TRIES 2 /* a wrong name or address shows on the first request: do not retry it for minutes */

static char *store_name(const char *base, const char *asset_id, const char *place, const char *name)
{
    return tb_strf("%s/%s%s%s/%s", base, asset_id, *place ? "/" : "", place, name);
}

char *store_ciphertext_name(const char *base, const char *asset_id, const char *place)
{
    return store_name(base, asset_id, place, CIPHERTEXT_NAME);
}

char *store_manifest_name(const char *base, const char *asset_id, const char *place)
{
    return store_name(base, asset_id, place, MANIFEST_NAME);
}

void store_place_of(const struct tbenc_manifest *m, char out[static ASSET_KEY_ID_HEX + 1])
{
    if (m->base || !*asset_key_id_wanted(m, out)) /* the key of an overlay is that of others, too */
        tb_hex_encode(m->sha256_ciphertext, ASSET_KEY_ID_HEX / 2, out);
}

/* place "": the first one. */
static int store_put(struct asset_store *s, const char *place)
{
    tb_freep(&s->ct.path);
    tb_freep(&s->mf.path);
    s->aside = *place;
    s->ct.path = store_ciphertext_name(s->container, s->asset_id, place);
    s->mf.path = store_manifest_name(s->container, s->asset_id, place);
    return s->ct.path && s->mf.path ? CLI_OK : tbpkg_fail_errno("Blob storage", -ENOMEM);
}

void store_clear(struct asset_store *s)
{
    tb_freep(&s->ct.path);
    tb_freep(&s->mf.path);
    azure_auth_clear(&s->auth);
    blob_service_clear(&s->service);
}

int store_check_folder(const struct cli *c, const char *folder)
{
    if ((tbenc_path_valid(folder) && strlen(folder) <= FOLDER_MAX &&
         strspn(folder, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-@/") ==
             strlen(folder)))
        return CLI_OK;
    return cli_usage(c, "FOLDER: names of letters, digits, '.', '_', '-' and '@' with '/' between, not '%s'",
                     folder);
}

int store_check_options(const struct cli *c, const struct asset_store *s)
{
    if (!blob_container_valid(s->container))
        return cli_usage(c, "--container: 3 to 63 of a-z, 0-9 and single '-' inside, not '%s'", s->container);
    return CLI_OK;
}

int store_sha256(const void *buf, size_t len, char out[static BLOB_SHA256_HEX + 1])
{
    uint8_t digest[32];
    unsigned n = sizeof(digest);

    if (EVP_Digest(buf, len, digest, &n, EVP_sha256(), NULL) != 1)
        return -EIO;
    tb_hex_encode(digest, sizeof(digest), out);
    return 0;
}

int store_connect(struct asset_store *s)
{
    char err[MAX(TB_AZURE_ERR_MAX, BLOB_ERR_MAX)];
    int r;

    s->tls = (struct tb_http_tls){.ca_file = s->ca_file};
    s->credentials.tls = &s->tls;
    r = azure_auth_find(&s->credentials, &s->auth, err);
    if (r < 0)
        return tbpkg_fail_as(r == -ENOENT || r == -EACCES ? CLI_DENIED
                             : blob_retryable(r, NULL)    ? CLI_UNAVAILABLE
                                                          : CLI_FAILED,
                             "Azure credentials", err, r == -ENOENT ? AZURE_AUTH_WAYS : NULL);
    if (s->auth.kind == AZURE_AUTH_SAS && azure_sas_judge(s->auth.sas, tb_now_realtime_us(), err) < 0)
        return tbpkg_fail_as(
            CLI_DENIED, s->auth.source, err,
            "make another for the container, with sp=rcw: az storage container generate-sas");
    if (s->verbose)
        tbpkg_note(s->cli->quiet, "Using the credential of %s.", s->auth.source);
    if (!s->account)
        s->account = s->auth.account;
    if (!s->account)
        return cli_usage(s->cli, "--storage-account is missing");
    if (s->auth.account && strcmp(s->auth.account, s->account) != 0)
        return tbpkg_failf("Azure credentials", "%s belongs to storage account %s, not %s", s->auth.source,
                           s->auth.account, s->account);
    if (blob_service_init(s->account, s->endpoint ? s->endpoint : s->auth.endpoint, s->insecure, &s->service,
                          err) < 0)
        return tbpkg_fail("storage account", err, NULL);
    s->tls.allow_http = strncasecmp(s->service.url, "http://", 7) == 0;
    s->client = (struct blob_client){.service = &s->service,
                                     .auth = &s->auth,
                                     .tls = &s->tls,
                                     .container = s->container,
                                     .retries = (unsigned)MIN(s->retries, (uint64_t)FIRST_TRIES),
                                     .stall_s = (unsigned)s->timeout};
    return store_put(s, "");
}

#define STORE_OTHER_PLACE "encrypt the new version under a key of its own, or use another --container"

static int store_refuse_other(const struct asset_store *s, const struct blob_object *o)
{
    const char *name;

    if (o->there != BLOB_OTHER || s->overwrite)
        return CLI_OK;
    name = cli_json_is_captured() ? "publish" : s->cli->command->name; /* publish has no such option */
    return tbpkg_fail_as(CLI_REFUSED, o->path, "another file is stored there, and its consumers would fail",
                         strcmp(name, "upload") == 0    ? STORE_OTHER_PLACE ", or replace it with --force"
                         : strcmp(name, "encrypt") == 0 ? STORE_OTHER_PLACE ", or replace it with --overwrite"
                                                        : STORE_OTHER_PLACE);
}

static int store_look_here(struct asset_store *s, int fd)
{
    int rc = blob_object_look(&s->client, &s->ct, fd);

    return rc == CLI_OK ? blob_object_look(&s->client, &s->mf, -1) : rc;
}

/* Another version has this place. Of a manifest whose text is not known yet nobody can say whose it is. */
static bool store_is_taken(const struct asset_store *s)
{
    return s->ct.there == BLOB_OTHER ||
           (s->ct.there == BLOB_ABSENT && s->mf.size > 0 && s->mf.there == BLOB_OTHER);
}

static void store_found(struct blob_object *o, const struct blob_object *found)
{
    o->there = found->there;
    memcpy(o->etag, found->etag, sizeof(o->etag));
}

/* Where this version lies, or shall: aside, when it lies there already or the first place is taken. */
static int store_find_place(struct asset_store *s, int fd)
{
    struct blob_object ct, mf; /* what is under the first names; the paths are not theirs */
    bool taken;
    int rc = store_look_here(s, fd);

    ct = s->ct;
    mf = s->mf;
    if (rc != CLI_OK || s->overwrite || s->aside || !*s->place || s->ct.there == BLOB_SAME)
        return rc;
    taken = store_is_taken(s);
    rc = store_put(s, s->place);
    if (rc == CLI_OK)
        rc = store_look_here(s, fd);
    if (rc != CLI_OK || taken || s->ct.there == BLOB_SAME)
        return rc;
    store_found(&s->ct, &ct);
    store_found(&s->mf, &mf);
    return store_put(s, "");
}

int store_look(struct asset_store *s, int fd)
{
    int rc = store_find_place(s, fd);

    if (rc == CLI_OK && s->may_move && !s->aside && !s->overwrite && store_is_taken(s))
        s->mf.there = BLOB_ABSENT; /* it moves */
    else if (rc == CLI_OK)
        rc = store_refuse_other(s, &s->ct);
    if (rc == CLI_OK && s->mf.size > 0 && !s->signed_anew) /* else it is not known yet what it should be */
        rc = store_refuse_other(s, &s->mf);
    s->client.retries = (unsigned)s->retries;
    return rc;
}

int store_move_aside(struct asset_store *s, const char *place)
{
    s->ct.there = s->mf.there = BLOB_ABSENT;
    s->ct.etag[0] = s->mf.etag[0] = '\0';
    snprintf(s->place, sizeof(s->place), "%s", place);
    return store_put(s, place);
}

int store_follow_aside(struct asset_store *s, const char *url, const char *place)
{
    _cleanup_free_ char *base = tb_strf("%s/%s", s->service.url, s->container);
    _cleanup_free_ char *aside = base ? store_ciphertext_name(base, s->asset_id, place) : NULL;

    if (!aside)
        return tbpkg_fail_errno("Blob storage", -ENOMEM);
    return strcmp(url, aside) == 0 ? store_move_aside(s, place) : CLI_OK;
}

static void store_on_progress(void *ctx, uint64_t done, uint64_t there, unsigned attempt)
{
    struct asset_store *s = ctx;

    s->progress.there = there;
    s->progress.attempt = attempt;
    (void)cli_progress(&s->progress, done, s->ct.size);
}

int store_send_blocks(struct asset_store *s, struct blob_upload *u, struct blob_upload_result *ret,
                      struct blob_fault *fault)
{
    int r;

    u->client = &s->client;
    u->path = s->ct.path;
    u->size = s->ct.size;
    u->concurrency = (unsigned)s->concurrency;
    u->bandwidth = s->bandwidth;
    u->progress = store_on_progress;
    u->progress_ctx = s;
    s->progress = cli_progress_start(s->cli->quiet, "Uploading", u->size);
    r = blob_upload_blocks(u, ret, fault);
    if (r < 0)
        return r;
    cli_progress_finish(&s->progress, u->size);
    s->ct.sent = ret->bytes_sent;
    s->ct.resumed = ret->bytes_resumed;
    return 0;
}

int store_commit(struct asset_store *s, char (*ids)[BLOB_ID_CHARS + 1], size_t n, int fd)
{
    _cleanup_free_ char *list = NULL;
    struct blob_request rq = {
        .query = {{"comp", "blocklist"}},
        .headers = {{"Content-Type", "application/xml"},
                    {"x-ms-blob-content-type", "application/octet-stream"}},
    };
    int r = blob_block_list_format(ids, n, &list, &rq.body_len);

    if (r < 0)
        return tbpkg_fail_errno(s->ct.path, r);
    rq.body = list;
    return blob_object_create(&s->client, &s->ct, fd, &rq);
}

int store_send_manifest(struct asset_store *s, const char *text)
{
    uint8_t md5[BLOB_MD5_BYTES];
    char md5_base64[BLOB_MD5_BASE64 + 1];
    struct blob_request rq = {
        .headers = {{"Content-Type", "application/json"},
                    {"Content-MD5", md5_base64},
                    {"x-ms-blob-type", "BlockBlob"}},
        .body = text,
        .body_len = (size_t)s->mf.size,
    };
    int r = blob_md5(text, (size_t)s->mf.size, md5);

    if (r < 0)
        return tbpkg_fail_errno(s->mf.path, r);
    tb_base64_encode(md5, sizeof(md5), md5_base64);
    s->mf.sent = s->mf.size;
    return blob_object_create(&s->client, &s->mf, -1, &rq);
}

int store_fetch(const struct asset_store *s, const char *path, size_t max, char **ret, size_t *ret_len)
{
    const struct blob_request rq = {.method = "GET", .path = path};
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    struct blob_fault fault;
    int r = blob_call(&s->client, &rq, max, &reply, err);

    if (r < 0 || reply.status != 200) {
        blob_explain(&s->client, r, &reply, err, &fault);
        return tbpkg_fail(path, fault.reason, fault.remedy[0] ? fault.remedy : NULL);
    }
    *ret = TAKE_PTR(reply.body);
    *ret_len = reply.len;
    return CLI_OK;
}

cJSON *store_report(const struct asset_store *s, const struct blob_object *o)
{
    _cleanup_free_ char *url = tb_strf("%s/%s", s->service.url, o->path);
    cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "url", url ? url : "");
    tb_json_add_uint(d, "bytes", o->size);
    cJSON_AddStringToObject(d, "sha256", o->sha256);
    tb_json_add_uint(d, "bytes_sent", o->sent);
    tb_json_add_uint(d, "bytes_resumed", o->resumed);
    return d;
}
