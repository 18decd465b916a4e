/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg register: tells the control plane where an asset lies and with which key it opens. The key is in
 * secret memory from the file to the socket: the request body is built there, the key last, as the API's
 * first client sends it. */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "provider/asset/asset.h"
#include "provider/azure/blob.h"
#include "common/config.h"
#include "common/hex.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "tbenc/tbenc.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"
#include "common/units.h"
#include "provider/cli/key_arg.h"

#define API_PATH "/api/v1/assets/register"
#define TRIES 3
#define TOKEN_MAX (16 * 1024)

struct register_job {
    struct cli cli;
    const char *endpoint, *asset_id, *manifest_path, *blob_url, *account, *container, *token_file, *cert,
        *cert_key, *ca_file;
    bool insecure;
    struct cli_key_arg key_arg;

    struct tbenc_manifest *manifest;
    uint8_t manifest_sha256[32];
    char *base;          /* URL of the container */
    char *url;           /* of the API */
    char *authorization; /* secret: header line, or NULL */
    char *body;          /* secret */
    size_t body_len;
    char key_hex[TB_KEY_HEX_CHARS + 1];
};

static void register_job_clear(struct register_job *j)
{
    cli_key_arg_clear(&j->key_arg);
    j->manifest = tbenc_manifest_free(j->manifest);
    tb_freep(&j->base);
    tb_freep(&j->url);
    tb_secret_free(j->authorization);
    tb_secret_free(j->body);
    tb_erase(j->key_hex, sizeof(j->key_hex));
}

/* -- command line ------------------------------------------------------------------------------ */

#define TB_OPTION_TARGET struct register_job
static const struct tb_option register_options[] = {
    ROW_EDC_ENDPOINT(endpoint),
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, asset_id, "name of the asset, as in the manifest"),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, manifest_path, "the asset's manifest"),
    CLI_KEY_ROWS(key_arg),
    TB_OPTION(0, "blob-url", "URL", TB_OPTION_STRING, blob_url,
              "URL of the container; the asset lies at URL/ID/model.tbenc"),
    TB_OPTION('s', "storage-account", "ACCOUNT", TB_OPTION_STRING, account,
              "the same as --blob-url=https://ACCOUNT.blob.core.windows.net/NAME",
              .setting = "azure.storage_account"),
    ROW_CONTAINER(container),
    ROW_TOKEN_FILE(token_file),
    ROWS_CLIENT_CERT(cert, cert_key),
    ROW_CA_FILE(ca_file),
    ROW_INSECURE_HTTP(insecure),
    CLI_COMMON_ROWS,
};

/* https; http to a loopback address only when asked for. */
static int register_check_url(const struct register_job *j, const char *what, const char *url)
{
    char err[BLOB_ERR_MAX];

    if (blob_base_url_check(what, url, false, err) < 0)
        return cli_usage(&j->cli, "%s", err);
    if (strncasecmp(url, "http://", 7) == 0 && !j->insecure)
        return cli_usage(&j->cli,
                         "%s must be https:// (--insecure-http allows http:// to a loopback address)", what);
    return CLI_OK;
}

static int register_check_place(struct register_job *j)
{
    const struct cli *c = &j->cli;

    if (j->blob_url) {
        size_t n = strlen(j->blob_url);

        if (j->account && cli_given(c, "storage-account"))
            return cli_usage(c, "--blob-url and --storage-account exclude each other");
        if (register_check_url(j, "--blob-url", j->blob_url) != CLI_OK)
            return CLI_USAGE;
        while (n > 0 && j->blob_url[n - 1] == '/')
            n--;
        j->base = tb_strf("%.*s", (int)n, j->blob_url);
    } else {
        if (!j->account)
            return cli_usage(c, "--blob-url or --storage-account (or AZURE_STORAGE_ACCOUNT) is missing");
        if (!blob_account_valid(j->account))
            return cli_usage(c, "--storage-account: 3 to 24 of a-z and 0-9, not '%s'", j->account);
        if (!blob_container_valid(j->container))
            return cli_usage(c, "--container: 3 to 63 of a-z, 0-9 and single '-' inside, not '%s'",
                             j->container);
        j->base = tb_strf("https://%s.blob.core.windows.net/%s", j->account, j->container);
    }
    return j->base ? CLI_OK : tbpkg_fail_errno("tbpkg register", -ENOMEM);
}

static int register_check_options(void *job)
{
    struct register_job *j = job;
    const struct cli *c = &j->cli;
    size_t n;

    if (!j->endpoint)
        return cli_usage(c, "--edc-endpoint is missing");
    if (register_check_url(j, "--edc-endpoint", j->endpoint) != CLI_OK)
        return CLI_USAGE;
    if (cli_check_asset_id(c, j->asset_id) != CLI_OK)
        return CLI_USAGE;
    if (!j->manifest_path)
        return cli_usage(c, "--manifest is missing");
    if (!cli_key_arg_given(&j->key_arg))
        return cli_usage(c, "no key: give --key-file or set TBPKG_KEY_FILE");
    if (!j->cert != !j->cert_key)
        return cli_usage(c, "--client-cert and --client-key belong together");
    n = strlen(j->endpoint);
    while (j->endpoint[n - 1] == '/')
        n--;
    j->url = tb_strf("%.*s" API_PATH, (int)n, j->endpoint);
    if (!j->url)
        return tbpkg_fail_errno("tbpkg register", -ENOMEM);
    return register_check_place(j);
}

/* -- what is sent ------------------------------------------------------------------------------ */

static int register_read_manifest(struct register_job *j)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_error e = {.message = ""};
    unsigned n = sizeof(j->manifest_sha256);
    size_t len = 0;
    int r;

    r = tb_read_file(j->manifest_path, TBENC_MANIFEST_MAX, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(j->manifest_path, r);
    r = tbenc_manifest_parse(text, len, 0, &j->manifest, &e);
    if (r < 0)
        return asset_fail(j->manifest_path, r, &e);
    if (strcmp(j->manifest->asset_id, j->asset_id) != 0)
        return tbpkg_failf(j->manifest_path,
                           "belongs to asset '%s', not '%s'; check --asset-id and --manifest",
                           j->manifest->asset_id, j->asset_id);
    if (EVP_Digest(text, len, j->manifest_sha256, &n, EVP_sha256(), NULL) != 1)
        return tbpkg_fail_errno(j->manifest_path, -EIO);
    return CLI_OK;
}

/* A key with a passphrase is refused here: libcurl's own words do not name the file. */
static int register_check_client_key(const struct register_job *j)
{
    char err[TB_HTTP_ERR_MAX];

    if (j->cert_key && tb_http_key_check(j->cert_key, err) < 0)
        return tbpkg_fail(j->cert_key, err, NULL);
    return CLI_OK;
}

static void register_add_hex(cJSON *o, const char *name, const uint8_t sha256[32])
{
    char hex[65];

    tb_hex_encode(sha256, 32, hex);
    cJSON_AddStringToObject(o, name, hex);
}

static char *register_document_without_key(const struct register_job *j)
{
    const struct tbenc_manifest *m = j->manifest;
    _cleanup_free_ char *ct = tb_strf("%s/%s/model.tbenc", j->base, j->asset_id);
    _cleanup_free_ char *mf = tb_strf("%s/%s/model.manifest.json", j->base, j->asset_id);
    _cleanup_json_ cJSON *d = cJSON_CreateObject();
    cJSON *o;

    if (!ct || !mf)
        return NULL;
    cJSON_AddStringToObject(d, "asset_id", j->asset_id);
    o = cJSON_AddObjectToObject(d, "blob_urls");
    cJSON_AddStringToObject(o, "ciphertext", ct);
    cJSON_AddStringToObject(o, "manifest", mf);
    o = cJSON_AddObjectToObject(d, "metadata");
    cJSON_AddStringToObject(o, "format", "tbenc/v1");
    cJSON_AddStringToObject(o, "algo", "aes-256-gcm-chunked");
    tb_json_add_uint(o, "chunk_bytes", m->chunk_bytes);
    tb_json_add_uint(o, "plaintext_bytes", m->plaintext_bytes);
    register_add_hex(o, "sha256_ciphertext", m->sha256_ciphertext);
    register_add_hex(o, "manifest_sha256", j->manifest_sha256);
    if (m->has_tags_sha256)
        register_add_hex(o, "tags_sha256", m->tags_sha256);
    return cJSON_PrintUnformatted(d);
}

static int register_build_body(struct register_job *j)
{
    _cleanup_free_ char *text = register_document_without_key(j);
    _cleanup_key_ struct tb_key key;
    size_t room;
    int rc;

    if (!text)
        return tbpkg_fail_errno("tbpkg register", -ENOMEM);
    rc = cli_key_arg_read(&j->cli, &j->key_arg, &key);
    if (rc != CLI_OK)
        return rc;
    room = strlen(text) + TB_KEY_HEX_CHARS + 64;
    j->body = tb_secret_alloc(room);
    if (!j->body)
        return tbpkg_fail_errno("tbpkg register", -ENOMEM);
    tb_hex_encode(key.b, TB_KEY_BYTES, j->key_hex);
    /* The document ends in '}': the key takes its place. */
    j->body_len = (size_t)snprintf(j->body, room, "%.*s,\"decryption_key_hex\":\"%s\"}",
                                   (int)strlen(text) - 1, text, j->key_hex);
    return CLI_OK;
}

static int register_read_token(struct register_job *j)
{
    static const char prefix[] = "Authorization: Bearer ";
    _cleanup_erase_string_ char *text = NULL;
    size_t len = 0;
    int r;

    if (!j->token_file)
        return CLI_OK;
    r = tb_read_file(j->token_file, TOKEN_MAX, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(j->token_file, r);
    while (len > 0 && strchr(" \t\r\n", text[len - 1]))
        text[--len] = '\0';
    if (len == 0 || strlen(text) != len)
        return tbpkg_fail(j->token_file, "holds no bearer token", NULL);
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] >= 0x7f)
            return tbpkg_fail(j->token_file, "holds more than one bearer token",
                              "it must be one line without white space");
    j->authorization = tb_secret_alloc(sizeof(prefix) + len);
    if (!j->authorization)
        return tbpkg_fail_errno(j->token_file, -ENOMEM);
    memcpy(j->authorization, prefix, sizeof(prefix) - 1);
    memcpy(j->authorization + sizeof(prefix) - 1, text, len);
    return CLI_OK;
}

/* -- the exchange ------------------------------------------------------------------------------ */

/* A server may repeat the request in its answer: the key does not reach the terminal that way either. */
static void register_mask_key(const struct register_job *j, char *text)
{
    for (char *p = text; (p = strcasestr(p, j->key_hex)); p += TB_KEY_HEX_CHARS)
        memset(p, '*', TB_KEY_HEX_CHARS);
}

static int register_post(struct register_job *j, struct tb_http_response *ret,
                         char err[static TB_HTTP_ERR_MAX])
{
    const char *const headers[] = {"Content-Type: application/json",
                                   "Expect:", j->authorization ? j->authorization : NULL, NULL};
    const struct tb_http_tls tls = {
        .ca_file = j->ca_file, .client_cert = j->cert, .client_key = j->cert_key, .allow_http = j->insecure};
    const struct tb_http_request rq = {.method = "POST",
                                       .url = j->url,
                                       .headers = headers,
                                       .body = j->body,
                                       .body_len = j->body_len,
                                       .tls = &tls};
    struct tb_backoff backoff = {.base_ms = 2000, .cap_ms = 30000};

    for (;;) {
        char why[TB_HTTP_ERR_MAX];
        uint64_t ms;
        int r = tb_http_do(&rq, ret, err);
        bool again = r < 0 ? r == -ETIMEDOUT || r == -ECONNREFUSED || r == -EPROTO
                           : ret->status == 429 || ret->status >= 500;

        if (!again || backoff.attempt + 1 >= TRIES)
            return r;
        if (r == 0)
            snprintf(why, sizeof(why), "status %ld", ret->status);
        ms = tb_backoff_next_ms(&backoff, r == 0 ? ret->retry_after_ms : -1);
        tbpkg_note(j->cli.quiet, "Control plane: %s; trying again in %" PRIu64 " s.", r < 0 ? err : why,
                   (ms + 999) / 1000);
        if (r == 0)
            tb_http_response_clear(ret);
        tb_sleep_ms(ms);
    }
}

/* "message: details" of an error answer, whichever are there. */
static void register_describe(const struct tb_http_response *rs, char *out, size_t out_len)
{
    _cleanup_json_ cJSON *d = NULL;
    const char *message = NULL, *details = NULL;
    char why[TB_JSON_ERR_MAX];

    out[0] = '\0';
    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &d, why) < 0)
        return;
    if (tb_json_get_string(d, "message", &message, why) < 0)
        (void)tb_json_get_string(d, "reason", &message, why);
    (void)tb_json_get_string(d, "details", &details, why);
    snprintf(out, out_len, "%s%.300s%s%.300s", message || details ? ": " : "", message ? message : "",
             message && details ? ": " : "", details ? details : "");
}

static int register_refused(struct register_job *j, const struct tb_http_response *rs)
{
    char text[640], reason[700];
    const char *remedy = NULL;

    register_describe(rs, text, sizeof(text));
    snprintf(reason, sizeof(reason), "answered %ld%s", rs->status, text);
    if (rs->status == 401)
        remedy = j->authorization ? "the bearer token is not valid (any more): get a new one for --token-file"
                                  : "it requires a bearer token: give --token-file or set TB_EDC_TOKEN_FILE";
    else if (rs->status == 403)
        remedy = "the token or client certificate is not allowed to register this asset: ask the control "
                 "plane's operator";
    else if (rs->status == 404 || (rs->status >= 300 && rs->status < 400))
        remedy = "check --edc-endpoint: it is the base URL, without " API_PATH;
    else if (rs->status == 409)
        remedy = "the asset is registered with other contents: use a new asset id";
    else if (rs->status == 429 || rs->status >= 500)
        remedy = "run the command again later";
    return tbpkg_fail(j->url, reason, remedy);
}

static int register_print_answer(struct register_job *j, const struct tb_http_response *rs)
{
    _cleanup_json_ cJSON *d = NULL;
    char why[TB_JSON_ERR_MAX];

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &d, why) < 0)
        return tbpkg_failf(j->url, "answered %ld, but not with JSON (%s); is --edc-endpoint a control plane?",
                           rs->status, why);
    return cli_print_json(d);
}

static int register_exchange(struct register_job *j)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    char err[TB_HTTP_ERR_MAX];
    int r = register_post(j, &rs, err);

    if (r == -EKEYREJECTED)
        return tbpkg_fail("control plane", err,
                          "name a private certificate authority with --ca-file or TB_CA_FILE");
    if (r < 0)
        return tbpkg_fail("control plane", err, "check --edc-endpoint and the network");
    register_mask_key(j, rs.body);
    return rs.status == 200 || rs.status == 201 ? register_print_answer(j, &rs) : register_refused(j, &rs);
}

static int register_main(int argc, char **argv)
{
    _cleanup_(register_job_clear) struct register_job j = {.cli = {.command = &tbpkg_register},
                                                           .container = "models"};
    int rc;

    tb_secret_init();
    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, register_check_options) != CLI_OK)
        return j.cli.rc;
    rc = register_read_manifest(&j);
    if (rc == CLI_OK)
        rc = register_check_client_key(&j);
    if (rc == CLI_OK)
        rc = register_read_token(&j);
    if (rc == CLI_OK)
        rc = register_build_body(&j);
    if (rc == CLI_OK)
        rc = register_exchange(&j);
    return rc;
}

const struct tbpkg_command tbpkg_register = {
    .name = "register",
    .summary = "tell the control plane about an asset and its key",
    .synopsis =
        "--edc-endpoint URL --asset-id ID --manifest FILE --key-file FILE\n"
        "                      (--blob-url URL | --storage-account ACCOUNT --container NAME) [OPTION]...",
    .about = "Register an uploaded asset and its decryption key with the control plane. Prints its answer,\n"
             "which is JSON with and without --json.\n",
    .options = register_options,
    .run = register_main,
};
