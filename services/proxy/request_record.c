/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/request_record.h"

#include <string.h>

#include "common/hex.h"
#include "common/units.h"

/* The status that stands in the record, and why when it is not simply what the runtime or we answered. */
static int record_final_status(const struct tb_exchange *ex, enum tb_end how, const char **ret_error)
{
    *ret_error = ex->error.code;
    if (ex->cut) {
        *ret_error = "upstream_aborted";
        return TB_HTTP_BAD_GATEWAY;
    }
    if (how == TB_END_COMPLETE)
        return ex->status;
    if (how == TB_END_SLOW) {
        *ret_error = "client_timeout";
        return ex->replied ? TB_HTTP_CLIENT_CLOSED : TB_HTTP_REQUEST_TIMEOUT;
    }
    if (how == TB_END_STOPPED) {
        *ret_error = "proxy_stopped";
        return TB_HTTP_SERVICE_UNAVAILABLE;
    }
    if (ex->error.status)
        return ex->error.status;
    *ret_error = "client_closed";
    return TB_HTTP_CLIENT_CLOSED;
}

/* --- the digest: its contexts are kept, as making one costs more than a short body ---------------------- */

static bool record_make_fresh_digest(struct tb_digests *d)
{
    if (d->fresh)
        return true;
    d->fresh = EVP_MD_CTX_new();
    if (d->fresh && EVP_DigestInit_ex(d->fresh, EVP_sha256(), NULL) == 1)
        return true;
    EVP_MD_CTX_free(d->fresh);
    d->fresh = NULL;
    return false;
}

bool tb_record_begin_digest(struct tb_exchange *ex)
{
    struct tb_digests *d = &ex->server->digests;

    ex->sha = d->n > 0 ? d->spare[--d->n] : EVP_MD_CTX_new();
    return ex->sha && record_make_fresh_digest(d) && EVP_MD_CTX_copy_ex(ex->sha, d->fresh) == 1;
}

void tb_record_finish_digest(struct tb_exchange *ex)
{
    struct tb_digests *d = &ex->server->digests;
    uint8_t md[32];
    unsigned len;

    if (!ex->sha)
        return;
    if (EVP_DigestFinal_ex(ex->sha, md, &len) == 1)
        tb_hex_encode(md, sizeof(md), ex->sha256);
    if (d->n < ARRAY_SIZE(d->spare))
        d->spare[d->n++] = ex->sha;
    else
        EVP_MD_CTX_free(ex->sha);
    ex->sha = NULL;
}

void tb_record_free_digests(struct tb_server *s)
{
    while (s->digests.n > 0)
        EVP_MD_CTX_free(s->digests.spare[--s->digests.n]);
    EVP_MD_CTX_free(s->digests.fresh);
}

/* --- the record ----------------------------------------------------------------------------------------- */

/* Into to[size], which is empty. */
static void record_copy(char *to, size_t size, const char *text)
{
    memcpy(to, text, MIN(strlen(text), size - 1));
}

static void record_submit(struct tb_exchange *ex, int status, const char *error, uint64_t latency_us,
                          const struct tb_tokens *tokens)
{
    struct tb_audit_record *r = tb_audit_record_new(ex->server->audit);

    if (!r)
        abort(); /* no memory for a record that must exist: start afresh */
    r->start_realtime_us = ex->start_realtime_us;
    r->req_complete = ex->upload_ended;
    r->unidentified = !ex->key_name[0] && !ex->forwarded;
    r->status = status;
    r->latency_ms = latency_us / 1000;
    r->bytes_in = ex->bytes_in;
    r->bytes_out = ex->bytes_out;
    r->has_tokens = tokens->known;
    r->estimated = tokens->estimated;
    r->prompt_tokens = tokens->prompt;
    r->completion_tokens = tokens->completion;
    r->cached_tokens = tokens->cached;
    memcpy(r->method, ex->method, sizeof(r->method));
    memcpy(r->req_sha256, ex->sha256, sizeof(r->req_sha256));
    memcpy(r->request_id, ex->request_id, sizeof(r->request_id));
    record_copy(r->client, sizeof(r->client), tb_connection_address(ex->connection));
    memcpy(r->key_name, ex->key_name, sizeof(r->key_name));
    record_copy(r->error, sizeof(r->error), error);
    tb_audit_record_set_path(r, ex->target, ex->path_len);
    tb_audit_submit(ex->server->audit, r);
}

void tb_record_end(struct tb_exchange *ex, enum tb_end how, const struct tb_tokens *tokens)
{
    struct tb_server *s = ex->server;
    uint64_t now = tb_now_monotonic_us();
    const char *error;
    int status = record_final_status(ex, how, &error);

    s->last_done_us = now;
    tb_record_finish_digest(ex);
    if (ex->health)
        return;
    s->metrics.in_flight--;
    s->asked -= ex->forwarded;
    tb_metrics_observe(&s->metrics, status, now - ex->start_us);
    tb_recent_add(&s->recent, ex->method, ex->target, ex->path_len,
                  ex->start_realtime_us + (now - ex->start_us), status, now - ex->start_us);
    record_submit(ex, status, error, now - ex->start_us, tokens);
}
