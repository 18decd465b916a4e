/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/request_usage.h"

#include <string.h>
#include <strings.h>

#include "proxy/background.h"
#include "proxy/request_forward.h"
#include "proxy/request_limits.h"
#include "common/usage.h"

#define PIECE (16 * 1024)
/* Of a request on its way to the runtime: with less than that nobody is woken while more of it is here. */
#define SEND_BYTES (64 * 1024)

/* --- the request ---------------------------------------------------------------------------------------- */

void tb_metering_begin(struct tb_exchange *ex, const struct tb_request *h)
{
    ex->rewrite.api = tb_api_of(ex->target, ex->path_len);
    ex->rewrite.budgeted = ex->account && ex->account->limiter.limits.budget > 0;
    ex->edits = tb_api_is_json(ex->rewrite.api) && strcmp(ex->method, "POST") == 0 && !h->coded &&
                !h->multipart && (h->chunked || (h->has_length && h->length > 0));
    ex->grows = ex->edits && !h->chunked && tb_rewrite_may_change(&ex->rewrite);
}

/* Sends what is ready. False when some is left. */
static bool metering_flush(struct tb_exchange *ex)
{
    struct tb_buf *b = &ex->to_runtime;

    while (ex->to_runtime_pos < b->len) {
        size_t n = tb_call_write(ex->call, b->data + ex->to_runtime_pos, b->len - ex->to_runtime_pos);

        if (n == 0)
            return false;
        ex->to_runtime_pos += n;
    }
    b->len = ex->to_runtime_pos = 0;
    return true;
}

/* Refuses a request that the runtime has not seen the end of, so that it has not begun. */
static void metering_refuse_repeated(struct tb_exchange *ex)
{
    tb_http_error_set(&ex->error, TB_HTTP_BAD_REQUEST, "repeated_member",
                      "the request has %s more than once; send it once", ex->rewrite.repeated);
    tb_forward_cancel(ex);
}

ssize_t tb_metering_upload(struct tb_exchange *ex, const char *p, size_t n)
{
    bool more = tb_connection_body_here(ex->connection) > n;
    size_t done = 0;

    if ((ex->to_runtime_pos > 0 || ex->to_runtime.len >= SEND_BYTES) && !metering_flush(ex))
        return 0;
    while (done < n) { /* a piece is as long as a connection's pool at most */
        size_t used;
        int r = tb_rewrite_feed(&ex->rewrite, p + done, n - done, &ex->to_runtime, &used);

        done += used;
        if (r == -EEXIST)
            metering_refuse_repeated(ex);
        else if (r > 0 && !tb_quota_reserve(ex))
            tb_forward_cancel(ex);
        if (!ex->call)
            return (ssize_t)n;
        if (r > 0)
            r = tb_rewrite_close(&ex->rewrite, ex->cap, &ex->to_runtime);
        if (r < 0)
            return r;
    }
    if (!more || ex->to_runtime.len >= SEND_BYTES)
        (void)metering_flush(ex);
    return (ssize_t)done;
}

bool tb_metering_upload_end(struct tb_exchange *ex)
{
    if (!ex->rewrite.complete && !tb_quota_incomplete(ex)) {
        tb_forward_cancel(ex);
        return true;
    }
    if (!ex->rewrite_ended && tb_rewrite_end(&ex->rewrite, ex->grows, &ex->to_runtime) < 0)
        tb_forward_cancel(ex);
    ex->rewrite_ended = true;
    return !ex->call || metering_flush(ex);
}

bool tb_metering_answered(const struct tb_exchange *ex)
{
    return !ex->call || tb_call_failed(ex->call) || tb_call_response(ex->call);
}

/* --- the answer ----------------------------------------------------------------------------------------- */

static const char *metering_header_of(const struct tb_response *up, enum tb_header_id id)
{
    for (size_t i = 0; i < up->n_headers; i++)
        if (up->header[i].id == id)
            return up->header[i].value;
    return NULL;
}

/* What the request says of its answer. */
static void metering_set_request(struct tb_exchange *ex)
{
    const struct tb_rewrite *rw = &ex->rewrite;
    struct tb_request_size size;

    tb_quota_size(ex, &size);
    ex->parser.request = (struct tb_usage_request){
        .api = rw->api,
        .prompts = size.prompts,
        .choices = MAX(rw->choices, 1),
        .max_tokens = ex->cap > 0 ? ex->cap
                      : size.open ? 0
                                  : size.max_tokens,
        .prompt_likely = size.prompt_likely,
        .text = rw->prompt.text,
        .first_text = rw->prompt.first_text,
    };
    if (rw->api == TB_API_AUDIO)
        ex->parser.request.prompt_likely = tb_prompt_sound(ex->bytes_in);
}

/* How the answer is counted, by what it is. False: it has nothing to do with tokens. */
static bool metering_set_parser(struct tb_exchange *ex, const struct tb_response *up)
{
    const char *type = metering_header_of(up, TB_HEADER_CONTENT_TYPE),
               *coding = metering_header_of(up, TB_HEADER_CONTENT_ENCODING);
    bool json = type && strncasecmp(type, "application/json", 16) == 0, coded;

    coded = coding && coding[0] && strcasecmp(coding, "identity") != 0;
    ex->parser.events = up->event_stream;
    /* Captions and plain text of speech, and vectors as bytes, say no usage. */
    if (!json && !up->event_stream) {
        ex->parser.opaque = ex->rewrite.api == TB_API_AUDIO;
        ex->parser.untyped = tb_api_is_json(ex->rewrite.api);
        if (!ex->parser.untyped)
            return ex->parser.opaque;
    }
    if (coded && tb_inflate_knows(coding))
        ex->inflate = tb_inflate_new();
    ex->parser.opaque = coded && !ex->inflate;
    ex->parser.strip = !coded && up->event_stream && ex->rewrite.injected && !ex->rewrite.wants_usage;
    ex->parser.strip_each = ex->parser.strip && ex->rewrite.each_usage;
    return true;
}

void tb_metering_answer(struct tb_exchange *ex, const struct tb_response *up)
{
    ex->claims = tb_background_claim(ex, up->status);
    if (up->status / 100 != 2 || (strcmp(ex->method, "POST") != 0 && !ex->claims) ||
        ex->rewrite.api == TB_API_FREE || !metering_set_parser(ex, up))
        return;
    ex->metered = true;
    if (ex->claims)
        return;
    metering_set_request(ex);
    ex->slot = tb_in_flight_take(ex->server->answers, ex->account ? ex->account->place + 1 : 0);
}

static void metering_feed_decoded(void *arg, const char *p, size_t n)
{
    tb_usage_parser_feed(arg, p, n);
}

/* Looks at bytes that go to the client as they are. */
static void metering_look(struct tb_exchange *ex, const char *p, size_t n)
{
    if (!ex->inflate)
        tb_usage_parser_feed(&ex->parser, p, n);
    else if (!tb_inflate_feed(ex->inflate, p, n, metering_feed_decoded, &ex->parser))
        ex->parser.opaque = true; /* not what it said it was */
}

/* The runtime broke off in mid-stream: said as an event too, since client libraries read events and not the
 * way a connection ends. */
static ssize_t metering_report_broken(struct tb_exchange *ex)
{
    static const char event[] =
        "\n\ndata: {\"error\":{\"message\":\"the runtime broke off\",\"type\":\"server_error\","
        "\"code\":\"upstream_aborted\"}}\n\n";

    ex->cut = ex->answer_read = true;
    (void)tb_usage_parser_cut(&ex->parser, &ex->to_client);
    return tb_buf_append(&ex->to_client, event, sizeof(event) - 1);
}

static ssize_t metering_deliver(struct tb_exchange *ex, char *buf, size_t n)
{
    struct tb_buf *b = &ex->to_client;

    n = MIN(n, b->len - ex->to_client_pos);
    memcpy(buf, b->data + ex->to_client_pos, n);
    ex->to_client_pos += n;
    if (ex->to_client_pos == b->len)
        b->len = ex->to_client_pos = 0;
    return (ssize_t)n;
}

/* What was read is about to be delivered. */
static void metering_note(struct tb_exchange *ex)
{
    struct tb_tokens t;

    if (!ex->slot)
        return;
    if (ex->rewrite.background && !tb_usage_parser_told(&ex->parser))
        tb_background_estimate(ex, &t);
    else
        tb_usage_parser_result(&ex->parser, false, &t);
    tb_in_flight_note(ex->slot, &t);
}

ssize_t tb_metering_read(struct tb_exchange *ex, char *buf, size_t n)
{
    char piece[PIECE];

    while (ex->to_client.len == 0 && !ex->answer_read) {
        ssize_t got =
            tb_call_read(ex->call, ex->parser.strip ? piece : buf, ex->parser.strip ? sizeof(piece) : n);
        int r = 0;

        if ((got == -ECONNABORTED || got == -EBADMSG) && ex->parser.events) {
            got = metering_report_broken(ex);
            if (got >= 0)
                continue;
        }
        if (got < 0)
            return got;
        ex->answer_read = got == 0;
        if (!ex->parser.strip) {
            metering_look(ex, buf, (size_t)got);
            if (got == 0)
                (void)tb_usage_parser_end(&ex->parser, NULL);
            metering_note(ex);
            return got;
        }
        r = got > 0 ? tb_usage_parser_filter(&ex->parser, piece, (size_t)got, &ex->to_client)
                    : tb_usage_parser_end(&ex->parser, &ex->to_client);
        if (r < 0)
            return r;
        metering_note(ex);
    }
    if (ex->to_client.len > 0)
        return metering_deliver(ex, buf, n);
    return ex->cut ? -ECONNABORTED : 0;
}

bool tb_metering_may_comment(const struct tb_exchange *ex)
{
    const struct tb_usage_parser *m = &ex->parser;

    return ex->metered && m->events && !ex->inflate && !m->opaque && ex->to_client.len == 0 &&
           tb_usage_parser_at_line(m);
}

/* --- the sum -------------------------------------------------------------------------------------------- */

/* A response that is written in the background is counted when its usage comes, by whichever request that
 * is. */
static bool metering_counts_now(struct tb_exchange *ex)
{
    if (ex->claims)
        return tb_usage_parser_told(&ex->parser);
    return !ex->rewrite.background || tb_usage_parser_told(&ex->parser) || !tb_background_defer(ex);
}

/* What is written in the background and can never be told from others: its id, which the client may
 * choose, is not there, too long or not the only one of its kind, or the client did not wait for the
 * answer. */
static bool metering_loses_background(const struct tb_exchange *ex)
{
    bool unanswered =
        ex->forwarded && ex->upload_ended && ex->rewrite.complete && !ex->replied && !ex->error.status;

    return ex->rewrite.background && !ex->claims &&
           (ex->metered ? !tb_usage_parser_told(&ex->parser) : unanswered);
}

/* What the next requests may rely on: what a template adds, and what a response would bring as context. */
static void metering_learn(struct tb_exchange *ex, const struct tb_tokens *t)
{
    struct tb_server *s = ex->server;
    struct tb_request_size size;

    if (t->known && !t->estimated && ex->edits && ex->rewrite.complete && ex->rewrite.prompt.media == 0) {
        tb_quota_size(ex, &size);
        tb_cost_learn(&size, t->prompt, &s->runtime_limits);
    }
    if (ex->rewrite.api != TB_API_RESPONSE || !ex->parser.id[0] || ex->parser.id_cut)
        return;
    if (!s->response_sizes)
        s->response_sizes = calloc(1, sizeof(*s->response_sizes));
    if (s->response_sizes)
        tb_response_sizes_note(s->response_sizes, ex->parser.id,
                               t->known && !t->estimated ? t->prompt + t->completion : UINT64_MAX);
}

void tb_metering_end(struct tb_exchange *ex, bool delivered, struct tb_tokens *ret)
{
    *ret = (struct tb_tokens){0};
    if (ex->metered ? metering_counts_now(ex) : metering_loses_background(ex)) {
        if (!ex->metered)
            metering_set_request(ex);
        if (metering_loses_background(ex))
            tb_background_estimate(ex, ret);
        else
            tb_usage_parser_result(&ex->parser, delivered && !ex->cut, ret);
        metering_learn(ex, ret);
        if (ex->claims)
            tb_background_settle(ex, ret->prompt + ret->completion);
        if (ex->slot)
            tb_in_flight_give_back(ex->server->answers, ex->slot);
        ex->slot = NULL;
        tb_tokens_book(ex->server->usage, ret);
    }
    tb_usage_parser_clear(&ex->parser);
    tb_inflate_free(ex->inflate);
    ex->inflate = NULL;
    tb_buf_free(&ex->to_runtime);
    tb_buf_free(&ex->to_client);
}
