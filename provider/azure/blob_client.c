/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/blob_client.h"

#include <string.h>
#include <strings.h>

#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define ERROR_BODY_MAX (64 * 1024)

/* -- one exchange ------------------------------------------------------------------------------ */

static void client_headers_free(struct curl_slist **list)
{
    for (struct curl_slist *h = *list; h; h = h->next)
        if (strncasecmp(h->data, "Authorization:", 14) == 0)
            tb_erase(h->data, strlen(h->data));
    curl_slist_free_all(*list);
    *list = NULL;
}

static int client_header_add(struct curl_slist **list, const char *name, const char *value)
{
    _cleanup_erase_string_ char *line = tb_strf("%s: %s", name, value);
    struct curl_slist *more = line ? curl_slist_append(*list, line) : NULL;

    if (!more)
        return -ENOMEM;
    *list = more;
    return 0;
}

static int client_authorize(const struct blob_client *c, const struct blob_request *rq,
                            struct curl_slist **list)
{
    _cleanup_erase_string_ char *value = NULL;
    char date[TB_HTTP_DATE_MAX];
    int r;

    if (!c->auth || c->auth->kind == AZURE_AUTH_SAS || c->auth->kind == AZURE_AUTH_NONE)
        return 0;
    if (c->auth->kind == AZURE_AUTH_BEARER) {
        value = tb_strf("Bearer %s", c->auth->bearer);
        return value ? client_header_add(list, "Authorization", value) : -ENOMEM;
    }
    tb_http_date_format(tb_now_realtime_us(), date);
    r = blob_authorization(c->service, rq, date, c->auth->key, c->auth->key_len, &value);
    if (r == 0)
        r = client_header_add(list, "x-ms-date", date);
    if (r == 0)
        r = client_header_add(list, "Authorization", value);
    return r;
}

static int client_build_headers(const struct blob_client *c, const struct blob_request *rq,
                                struct curl_slist **list)
{
    int r = client_header_add(list, "x-ms-version", BLOB_API_VERSION);

    for (const struct blob_pair *h = rq->headers; r == 0 && h->name; h++)
        r = client_header_add(list, h->name, h->value);
    if (r == 0)
        r = client_authorize(c, rq, list);
    /* No waiting for 100-continue; and no form type for a body that has none. An empty value removes the
     * header. */
    if (r == 0 && rq->body) {
        struct curl_slist *more = curl_slist_append(*list, "Expect:");

        if (!more)
            return -ENOMEM;
        *list = more;
    }
    return r;
}

static size_t client_on_body(char *data, size_t one, size_t n, void *ctx)
{
    struct blob_exchange *x = ctx;

    return tb_buf_append(&x->body, data, n) < 0 ? 0 : n;
}

static int client_set_options(const struct blob_client *c, const struct blob_request *rq,
                              struct blob_exchange *x)
{
    CURLcode e = CURLE_OK;

    if (tb_http_easy_init(x->curl, c->tls) < 0)
        return -ENOMEM;
#define SET(option, value) (e = e != CURLE_OK ? e : curl_easy_setopt(x->curl, option, value))
    SET(CURLOPT_URL, x->url);
    SET(CURLOPT_HTTPHEADER, x->headers);
    SET(CURLOPT_ERRORBUFFER, x->errbuf);
    SET(CURLOPT_WRITEFUNCTION, client_on_body);
    SET(CURLOPT_WRITEDATA, (void *)x);
    SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
    SET(CURLOPT_LOW_SPEED_TIME, (long)c->stall_s);
    SET(CURLOPT_UPLOAD_BUFFERSIZE, 512L * 1024);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    if (strcmp(rq->method, "HEAD") == 0)
        SET(CURLOPT_NOBODY, 1L);
    if (rq->body) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)rq->body_len);
        SET(CURLOPT_POSTFIELDS, rq->body);
    }
    if (rq->body || strcmp(rq->method, "DELETE") == 0)
        SET(CURLOPT_CUSTOMREQUEST, rq->method);
#undef SET
    return e == CURLE_OK ? 0 : -ENOMEM;
}

int blob_exchange_prepare(const struct blob_client *c, const struct blob_request *rq, size_t max_body,
                          struct blob_exchange *x)
{
    const char *sas = c->auth && c->auth->kind == AZURE_AUTH_SAS ? c->auth->sas : NULL;
    int r;

    if (!x->curl)
        x->curl = curl_easy_init();
    if (!x->curl)
        return -ENOMEM;
    curl_easy_reset(x->curl);
    client_headers_free(&x->headers);
    tb_erase_stringp(&x->url);
    tb_buf_clear(&x->body);
    x->body.max = MAX(max_body, (size_t)ERROR_BODY_MAX);
    x->errbuf[0] = '\0';
    r = client_build_headers(c, rq, &x->headers);
    if (r == 0)
        r = blob_request_url(c->service, rq, sas, &x->url);
    if (r == 0)
        r = client_set_options(c, rq, x);
    return r;
}

/* -- the answer -------------------------------------------------------------------------------- */

static void client_copy_header(CURL *curl, const char *name, char *out, size_t out_len)
{
    struct curl_header *h;
    size_t n = 0;

    if (curl_easy_header(curl, name, 0, CURLH_HEADER, -1, &h) != CURLHE_OK || strlen(h->value) >= out_len) {
        out[0] = '\0';
        return;
    }
    for (const char *p = h->value; *p; p++)
        out[n++] = *p >= ' ' && *p < 0x7f ? *p : '?';
    out[n] = '\0';
}

int blob_exchange_finish(struct blob_exchange *x, CURLcode code, struct blob_reply *ret,
                         char err[static TB_HTTP_ERR_MAX])
{
    struct blob_reply r = {.retry_after_ms = -1, .content_length = -1};
    char text[128];
    curl_off_t n = -1;

    if (code != CURLE_OK)
        return tb_http_error(code, x->url, x->errbuf, err);
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &r.status);
    curl_easy_getinfo(x->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &n);
    r.content_length = n;
    client_copy_header(x->curl, "x-ms-error-code", r.code, sizeof(r.code));
    client_copy_header(x->curl, "x-ms-request-id", r.request_id, sizeof(r.request_id));
    client_copy_header(x->curl, "ETag", r.etag, sizeof(r.etag));
    client_copy_header(x->curl, "Content-MD5", r.content_md5, sizeof(r.content_md5));
    client_copy_header(x->curl, "x-ms-meta-sha256", r.sha256, sizeof(r.sha256));
    client_copy_header(x->curl, "Retry-After", text, sizeof(text));
    if (text[0])
        r.retry_after_ms = tb_http_retry_after_ms(text);
    if (r.status >= 300 && x->body.len > 0)
        (void)blob_xml_error(x->body.data, x->body.len, r.code, r.message);
    *ret = r;
    return 0;
}

void blob_exchange_clear(struct blob_exchange *x)
{
    if (x->curl)
        curl_easy_cleanup(x->curl);
    client_headers_free(&x->headers);
    tb_erase_stringp(&x->url);
    tb_buf_free(&x->body);
    *x = (struct blob_exchange){0};
}

void blob_reply_clear(struct blob_reply *r)
{
    free(r->body);
    *r = (struct blob_reply){0};
}

/* Damaged on the way: worth another try. Emulators call it InvalidOperation. */
static bool client_md5_refused(const struct blob_reply *reply)
{
    return reply->status == 400 &&
           (strcmp(reply->code, "Md5Mismatch") == 0 || strcmp(reply->code, "InvalidOperation") == 0);
}

bool blob_retryable(int r, const struct blob_reply *reply)
{
    if (r < 0)
        return r == -ETIMEDOUT || r == -ECONNREFUSED || r == -EPROTO;
    return tb_http_status_retryable(reply->status) || client_md5_refused(reply);
}

/* -- a blocking call --------------------------------------------------------------------------- */

int blob_call_on(struct blob_exchange *x, const struct blob_client *c, const struct blob_request *rq,
                 size_t max_body, struct blob_reply *ret, char err[static TB_HTTP_ERR_MAX])
{
    struct tb_backoff backoff = BLOB_BACKOFF_INIT;
    struct blob_reply reply = {0};
    char renew_err[TB_AZURE_ERR_MAX];
    bool renewed = false;
    int r;

    for (;;) {
        if (c->auth && azure_auth_renew_due(c->auth))
            (void)azure_auth_renew(c->auth, renew_err);
        r = blob_exchange_prepare(c, rq, max_body, x);
        if (r < 0) {
            snprintf(err, TB_HTTP_ERR_MAX, "out of memory");
            return r;
        }
        r = blob_exchange_finish(x, curl_easy_perform(x->curl), &reply, err);
        if (r == 0 && reply.status == 401 && !renewed && c->auth &&
            azure_auth_renew(c->auth, renew_err) == 0) {
            renewed = true;
            continue;
        }
        if (!blob_retryable(r, &reply) || backoff.attempt >= c->retries)
            break;
        tb_sleep_ms(tb_backoff_next_ms(&backoff, r == 0 ? reply.retry_after_ms : -1));
    }
    if (r < 0)
        return r;
    reply.body = TAKE_PTR(x->body.data);
    reply.len = x->body.len;
    x->body = (struct tb_buf){0};
    *ret = reply;
    return 0;
}

int blob_call(const struct blob_client *c, const struct blob_request *rq, size_t max_body,
              struct blob_reply *ret, char err[static TB_HTTP_ERR_MAX])
{
    _cleanup_(blob_exchange_clear) struct blob_exchange x = {0};

    return blob_call_on(&x, c, rq, max_body, ret, err);
}

/* -- explanations ------------------------------------------------------------------------------ */

#define DATA_ROLE "'Storage Blob Data Contributor'"

/* How each kind of credential is refused, and what to do about it. */
static void client_explain_forbidden(const struct blob_client *c, const struct blob_reply *reply,
                                     struct blob_fault *f)
{
    enum azure_auth_kind kind = c->auth ? c->auth->kind : AZURE_AUTH_NONE;

    snprintf(f->reason, sizeof(f->reason), "the service refuses %s (%ld %s)",
             c->auth ? c->auth->source : "anonymous access", reply->status,
             reply->code[0] ? reply->code : "Forbidden");
    if (strcmp(reply->code, "KeyBasedAuthenticationNotPermitted") == 0)
        snprintf(
            f->remedy, sizeof(f->remedy),
            "storage account %s does not allow account keys%s: remove that credential, run 'az login', and "
            "give the identity the role " DATA_ROLE " on the account",
            c->service->account, kind == AZURE_AUTH_SAS ? " nor what they sign" : "");
    else if (kind == AZURE_AUTH_KEY)
        snprintf(
            f->remedy, sizeof(f->remedy),
            "check that the account key belongs to %s and that this machine's clock is right; a firewall of "
            "the account answers the same",
            c->service->account);
    else if (kind == AZURE_AUTH_SAS)
        snprintf(
            f->remedy, sizeof(f->remedy),
            "the SAS must be unexpired, for container %s, with permissions read, create and write (sp=rcw)",
            c->container);
    else if (kind == AZURE_AUTH_BEARER)
        snprintf(f->remedy, sizeof(f->remedy),
                 "the identity needs the role " DATA_ROLE ": az role assignment create --role " DATA_ROLE
                 " --assignee ID --scope SCOPE; a firewall of the account answers the same");
    else
        snprintf(f->remedy, sizeof(f->remedy), "give a credential");
}

static void client_explain_status(const struct blob_client *c, const struct blob_reply *reply,
                                  struct blob_fault *f)
{
    const char *code = reply->code;

    if (strcmp(code, "ContainerNotFound") == 0) {
        snprintf(f->reason, sizeof(f->reason), "container '%s' does not exist in storage account %s",
                 c->container, c->service->account);
        snprintf(f->remedy, sizeof(f->remedy),
                 "create it: az storage container create --account-name %s --name %s", c->service->account,
                 c->container);
        return;
    }
    if (reply->status == 401 || reply->status == 403) {
        client_explain_forbidden(c, reply, f);
        return;
    }
    snprintf(f->reason, sizeof(f->reason), "the service answered %ld %s%s%s%s%s%s", reply->status, code,
             reply->message[0] ? ": " : "", reply->message, reply->request_id[0] ? " (request " : "",
             reply->request_id, reply->request_id[0] ? ")" : "");
    if (client_md5_refused(reply))
        snprintf(f->remedy, sizeof(f->remedy),
                 "the data is damaged on its way: check memory, network and proxies");
    else if (strcmp(code, "InvalidBlobOrBlock") == 0 || strcmp(code, "InvalidBlockId") == 0)
        snprintf(f->remedy, sizeof(f->remedy),
                 "another program left uncommitted blocks there: delete the blob, or wait a week until they "
                 "expire");
    else if (strcmp(code, "InvalidBlockList") == 0)
        snprintf(
            f->remedy, sizeof(f->remedy),
            "blocks that were sent are gone, since they are dropped after a week, or another client wrote "
            "the blob: run the same command again, it sends what is missing");
    else if (strcmp(code, "BlockCountExceedsLimit") == 0)
        snprintf(
            f->remedy, sizeof(f->remedy),
            "uploads that were begun anew left too many blocks: store any small blob there and delete it, "
            "which drops them, or wait a week");
    else if (strcmp(code, "ConditionNotMet") == 0)
        snprintf(f->remedy, sizeof(f->remedy), "another client writes the same blob; run the command again");
    else if (strcmp(code, "LeaseIdMissing") == 0)
        snprintf(f->remedy, sizeof(f->remedy),
                 "another client holds a lease on the blob: az storage blob lease break");
    else if (tb_http_status_retryable(reply->status))
        snprintf(f->remedy, sizeof(f->remedy), "the service is busy; run the command again later");
}

static int client_exit_code(int r, const struct blob_reply *reply)
{
    if (r < 0)
        return r == -EHOSTUNREACH || r == -EKEYREJECTED || r == -ETIMEDOUT || r == -ECONNREFUSED ||
                       r == -EPROTO
                   ? CLI_UNAVAILABLE
                   : CLI_FAILED;
    if (reply->status == 401 || reply->status == 403)
        return CLI_DENIED;
    if (reply->status == 404)
        return CLI_NOT_FOUND;
    if (strcmp(reply->code, "ConditionNotMet") == 0 || strcmp(reply->code, "LeaseIdMissing") == 0)
        return CLI_REFUSED;
    return tb_http_status_retryable(reply->status) ? CLI_UNAVAILABLE : CLI_FAILED;
}

void blob_explain(const struct blob_client *c, int r, const struct blob_reply *reply, const char *err,
                  struct blob_fault *ret)
{
    const char *proxy = tb_http_proxy_variable();

    ret->remedy[0] = '\0';
    ret->rc = client_exit_code(r, reply);
    if (r == 0) {
        client_explain_status(c, reply, ret);
        return;
    }
    snprintf(ret->reason, sizeof(ret->reason), "%s", err);
    if (r == -EHOSTUNREACH)
        snprintf(ret->remedy, sizeof(ret->remedy),
                 "check --storage-account, --endpoint and the name service");
    else if (r == -EKEYREJECTED)
        snprintf(ret->remedy, sizeof(ret->remedy),
                 "name a private certificate authority with --ca-file or TB_CA_FILE");
    else if (r == -ETIMEDOUT || r == -ECONNREFUSED || r == -EPROTO)
        snprintf(ret->remedy, sizeof(ret->remedy),
                 "check the network%s%s; the same command continues where this one stopped",
                 proxy ? " and the proxy of " : "", proxy ? proxy : "");
}
