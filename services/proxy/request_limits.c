/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/request_limits.h"

#include <string.h>

#include "common/units.h"

static const struct tb_limits *quota_limits(const struct tb_exchange *ex)
{
    static const struct tb_limits none;

    return ex->account ? &ex->account->limiter.limits : &none;
}

static bool quota_limits_tokens(const struct tb_exchange *ex)
{
    return quota_limits(ex)->tpm || quota_limits(ex)->budget;
}

static bool quota_refuse(struct tb_exchange *ex, const struct tb_limit_refusal *r)
{
    const struct tb_limits *l = quota_limits(ex);
    const char *code =
        r->limit == TB_LIMIT_BUDGET && r->retry_us == 0 ? "insufficient_quota" : "rate_limit_exceeded";
    const char *what = "requests per min (RPM)";
    uint64_t limit = l->rpm;

    if (r->limit == TB_LIMIT_TOKENS) {
        what = "tokens per min (TPM)";
        limit = l->tpm;
    } else if (r->limit == TB_LIMIT_CONCURRENT) {
        what = "requests at once";
        limit = l->concurrent;
    } else if (r->limit == TB_LIMIT_BUDGET) {
        what = "its token budget";
        limit = l->budget;
    }
    ex->no_retry = r->retry_us == 0;
    tb_http_error_set(&ex->error, TB_HTTP_TOO_MANY_REQUESTS, code, "key %s is at its limit of %s: %llu; %s",
                      ex->key_name, what, (unsigned long long)limit,
                      ex->no_retry ? "this request does not fit, ask for fewer tokens" : "try again later");
    if (!ex->no_retry)
        ex->error.retry_after_s = (unsigned)((r->retry_us + TB_USEC_PER_SEC - 1) / TB_USEC_PER_SEC);
    return false;
}

/* Asking for fewer tokens would not help. */
static void quota_explain_elsewhere(struct tb_exchange *ex)
{
    tb_http_error_set(
        &ex->error, TB_HTTP_TOO_MANY_REQUESTS, "insufficient_quota",
        "key %s: the budget has less left than the runtime's whole context, which a request may "
        "need whose prompt is not all in it (previous_response_id, conversation, chat_template)",
        ex->key_name);
}

bool tb_quota_has_budgets(void *server)
{
    const struct tb_server *s = server;
    const struct tb_api_keys *k = s->keys ? tb_key_store_keys(s->keys) : NULL;

    for (size_t i = 0; k && i < k->n; i++)
        if (k->key[i].limits.budget > 0)
            return true;
    return false;
}

static bool quota_reserve(struct tb_exchange *ex, const struct tb_request_size *size)
{
    struct tb_limiter *l = &ex->account->limiter;
    uint64_t spent = tb_key_spent(ex->account);
    struct tb_limit_refusal refusal;
    struct tb_limit_need need;
    struct tb_cost cost;

    if (l->limits.budget && ex->server->runtime_limits.context == 0)
        /* the key may be newer than the last look */
        (void)tb_limits_fetch_start(&ex->server->monitor.limits);
    tb_cost_of(size, &ex->server->runtime_limits,
               l->limits.budget ? tb_limit_budget_free(l, spent) : UINT64_MAX, &cost);
    need = (struct tb_limit_need){
        .rate = cost.likely, .budget = cost.most, .slack = cost.slack, .asked = cost.asked};
    if (!tb_limit_reserve(l, tb_now_monotonic_us(), spent, &need, &ex->reservation, &refusal)) {
        (void)quota_refuse(ex, &refusal);
        if (refusal.limit == TB_LIMIT_BUDGET && ex->no_retry && size->prompt_most == UINT64_MAX)
            quota_explain_elsewhere(ex);
        return false;
    }
    ex->reserved = true;
    ex->cap = cost.cap;
    return true;
}

/* A body that is not looked into. Of an API that is not known it may ask for anything, and no limit can be
 * set. */
static bool quota_reserve_unseen(struct tb_exchange *ex, const struct tb_request *h)
{
    bool sound = ex->rewrite.api == TB_API_AUDIO;
    struct tb_request_size size = {
        .prompts = 1,
        .prompt_likely = sound ? tb_prompt_sound(h->length) : h->length / TB_PROMPT_TOKEN_BYTES,
        .prompt_most = h->chunked ? UINT64_MAX
                       : sound    ? tb_prompt_sound(h->length) * TB_PROMPT_MEDIA_MOST + TB_PROMPT_TEMPLATE
                                  : h->length,
        .completions = 1,
        .open = true,
    };

    return ex->rewrite.api == TB_API_FREE || !(h->chunked || h->length > 0) || quota_reserve(ex, &size);
}

bool tb_quota_enter(struct tb_exchange *ex, const struct tb_request *h)
{
    struct tb_limit_refusal refusal;

    if (!ex->account)
        return true;
    if (quota_limits_tokens(ex) && tb_api_is_json(ex->rewrite.api) && (h->coded || h->multipart)) {
        tb_http_error_set(&ex->error, TB_HTTP_UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type",
                          "a key with limits of tokens needs a plain JSON body here");
        return false;
    }
    if (!tb_limit_enter(&ex->account->limiter, tb_now_monotonic_us(), &refusal))
        return quota_refuse(ex, &refusal);
    ex->entered = true;
    /* The others reserve when the body is known. */
    return ex->edits || !quota_limits_tokens(ex) || quota_reserve_unseen(ex, h);
}

void tb_quota_size(const struct tb_exchange *ex, struct tb_request_size *ret)
{
    const struct tb_response_sizes *known = ex->server->response_sizes;
    uint64_t previous = known ? tb_response_sizes_find(known, ex->rewrite.previous) : UINT64_MAX;

    tb_rewrite_size(&ex->rewrite, previous, ret);
}

bool tb_quota_reserve(struct tb_exchange *ex)
{
    struct tb_request_size size;

    if (!quota_limits_tokens(ex))
        return true;
    if (ex->rewrite.unclear) {
        tb_http_error_set(&ex->error, TB_HTTP_BAD_REQUEST, "invalid_member",
                          "this key has limits of tokens: %s must have a plain value here, or be absent",
                          ex->rewrite.unclear);
        return false;
    }
    tb_quota_size(ex, &size);
    return quota_reserve(ex, &size);
}

bool tb_quota_incomplete(struct tb_exchange *ex)
{
    if (!quota_limits_tokens(ex))
        return true;
    tb_http_error_set(&ex->error, TB_HTTP_BAD_REQUEST, "invalid_json",
                      "this key has limits of tokens: the body must be a JSON object in UTF-8");
    return false;
}

void tb_quota_end(struct tb_exchange *ex, const struct tb_tokens *tokens)
{
    struct tb_key_account *a = ex->account;

    if (ex->payer)
        tb_key_add_tokens(ex->payer, tokens);
    if (!a)
        return;
    if (!ex->claims)
        tb_key_add_tokens(a, tokens);
    if (ex->answered)
        tb_key_add_request(a, ex->bytes_in, ex->bytes_out);
    if (ex->reserved)
        tb_limit_settle(&a->limiter, tb_now_monotonic_us(), &ex->reservation,
                        tokens->prompt + tokens->completion);
    if (ex->entered)
        tb_limit_leave(&a->limiter);
}

/* --- what the client is told ---------------------------------------------------------------------------- */

static void quota_put_header(struct tb_buf *out, const char *kind, const char *unit, uint64_t value)
{
    char name[48], text[24];

    snprintf(name, sizeof(name), "x-ratelimit-%s-%s", kind, unit);
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    (void)tb_buf_printf(out, "%s: %s\r\n", name, text);
}

/* As OpenAI writes it: 20ms, 1s, 6m0s. */
static void quota_put_reset(struct tb_buf *out, const char *unit, uint64_t us)
{
    unsigned long long ms = (us + 999) / 1000, s = (ms + 999) / 1000;
    char name[48], text[48];

    snprintf(name, sizeof(name), "x-ratelimit-reset-%s", unit);
    if (ms < 1000)
        snprintf(text, sizeof(text), "%llums", ms);
    else if (s < 60)
        snprintf(text, sizeof(text), "%llus", s);
    else
        snprintf(text, sizeof(text), "%llum%llus", s / 60, s % 60);
    (void)tb_buf_printf(out, "%s: %s\r\n", name, text);
}

void tb_quota_headers(const struct tb_exchange *ex, struct tb_buf *out)
{
    const struct tb_limits *l = quota_limits(ex);
    uint64_t now, reset;

    if (!ex->account)
        return;
    now = tb_now_monotonic_us();
    if (l->rpm) {
        quota_put_header(out, "limit", "requests", l->rpm);
        quota_put_header(out, "remaining", "requests",
                         tb_limit_requests_left(&ex->account->limiter, now, &reset));
        quota_put_reset(out, "requests", reset);
    }
    if (l->tpm) {
        quota_put_header(out, "limit", "tokens", l->tpm);
        quota_put_header(out, "remaining", "tokens",
                         tb_limit_tokens_left(&ex->account->limiter, now, &reset));
        quota_put_reset(out, "tokens", reset);
    }
    if (l->budget) {
        quota_put_header(out, "limit", "budget", l->budget);
        quota_put_header(out, "remaining", "budget",
                         tb_limit_budget_left(&ex->account->limiter, tb_key_spent(ex->account)));
    }
    if (ex->no_retry)
        (void)tb_buf_puts(out, "x-should-retry: false\r\n"); /* OpenAI's clients try a 429 again without it */
}
