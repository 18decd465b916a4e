/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/background.h"

#include <string.h>

#include "common/units.h"
#include "proxy/exchange.h"

struct background_entry {
    char id[TB_JSON_SCAN_VALUE + 1]; /* "": free */
    struct tb_usage_request request;
    struct tb_in_flight_slot *slot;
    struct tb_key_account *account; /* who asked for it; NULL without keys */
    struct tb_reservation reservation;
    bool reserved;
    uint64_t since_us;
};

struct tb_background {
    struct background_entry entry[TB_BACKGROUND_MAX];
};

static struct background_entry *background_find(struct tb_background *b, const char *id, size_t len)
{
    for (size_t i = 0; b && len > 0 && i < TB_BACKGROUND_MAX; i++)
        if (strncmp(b->entry[i].id, id, len) == 0 && b->entry[i].id[len] == '\0')
            return &b->entry[i];
    return NULL;
}

/* What it may have cost: all that is reserved for it, or what is likely. */
static void background_estimate(const struct tb_usage_request *rq, const struct tb_reservation *held,
                                struct tb_tokens *ret)
{
    uint64_t prompt = rq->prompt_likely;
    uint64_t likely = rq->max_tokens > 0 ? rq->max_tokens : TB_COST_LIKELY_COMPLETION;

    *ret = (struct tb_tokens){.prompt = prompt, .completion = likely, .known = true, .estimated = true};
    if (held->budget > prompt)
        ret->completion = held->budget - prompt;
    ret->ours = ret->prompt + ret->completion;
}

/* The response waits no longer; it cost so much. */
static void background_end(struct tb_server *s, struct background_entry *e, uint64_t tokens)
{
    if (e->slot)
        tb_in_flight_give_back(s->answers, e->slot);
    if (e->reserved)
        tb_limit_settle(&e->account->limiter, tb_now_monotonic_us(), &e->reservation, tokens);
    *e = (struct background_entry){0};
}

/* Nobody will learn what it cost: it is counted as estimated. */
static void background_give_up(struct tb_server *s, struct background_entry *e)
{
    struct tb_key_account *account = e->account;
    struct tb_tokens t;

    background_estimate(&e->request, &e->reservation, &t);
    background_end(s, e, t.prompt + t.completion);
    tb_tokens_book(s->usage, &t);
    if (account)
        tb_key_add_tokens(account, &t);
}

/* Makes room: the one that has waited longest waits no more. */
static struct background_entry *background_evict(struct tb_server *s)
{
    struct background_entry *oldest = &s->background->entry[0];

    for (size_t i = 1; i < TB_BACKGROUND_MAX; i++)
        if (s->background->entry[i].since_us < oldest->since_us)
            oldest = &s->background->entry[i];
    background_give_up(s, oldest);
    return oldest;
}

void tb_background_estimate(const struct tb_exchange *ex, struct tb_tokens *ret)
{
    background_estimate(&ex->parser.request, &ex->reservation, ret);
}

bool tb_background_defer(struct tb_exchange *ex)
{
    struct tb_server *s = ex->server;
    struct background_entry *e;

    if (!s->background)
        s->background = calloc(1, sizeof(*s->background));
    if (!s->background || ex->parser.id[0] == '\0' || ex->parser.id_cut)
        return false;
    e = background_find(s->background, ex->parser.id, strlen(ex->parser.id));
    for (size_t i = 0; !e && i < TB_BACKGROUND_MAX; i++)
        if (s->background->entry[i].id[0] == '\0')
            e = &s->background->entry[i];
    if (!e)
        e = background_evict(s);
    else if (e->id[0])
        return false; /* an id comes twice: each is counted by itself */
    *e = (struct background_entry){
        .request = ex->parser.request,
        .slot = ex->slot,
        .account = ex->account,
        .reservation = ex->reservation,
        .reserved = ex->reserved,
        .since_us = tb_now_monotonic_us(),
    };
    memcpy(e->id, ex->parser.id, sizeof(e->id));
    ex->reserved = false;
    ex->slot = NULL;
    return true;
}

/* The one that the path of a request names, with this behind its id. */
static struct background_entry *background_named(const struct tb_exchange *ex, const char *behind)
{
    static const char place[] = "/responses/";
    size_t len = ex->path_len, n = strlen(behind);
    const char *path = ex->target, *id = NULL;

    if (len < n || memcmp(path + len - n, behind, n) != 0)
        return NULL;
    len -= n;
    for (const char *p = path; (p = strstr(p, place)) && p < path + len; p++)
        id = p + sizeof(place) - 1;
    return id && id < path + len ? background_find(ex->server->background, id, len - (size_t)(id - path))
                                 : NULL;
}

bool tb_background_claim(struct tb_exchange *ex, int status)
{
    bool ok = status / 100 == 2, gone = status == TB_HTTP_NOT_FOUND;
    bool removed = strcmp(ex->method, "DELETE") == 0 && (ok || gone);
    struct background_entry *e = NULL;

    if (removed || strcmp(ex->method, "GET") == 0)
        e = background_named(ex, "");
    else if (strcmp(ex->method, "POST") == 0)
        e = background_named(ex, "/cancel");
    if (!e || (!ok && !gone))
        return false;
    if (gone || removed) { /* the runtime has forgotten it */
        if (e->account == ex->account)
            background_give_up(ex->server, e);
        return false;
    }
    ex->rewrite.api = TB_API_RESPONSE;
    ex->parser.request = e->request;
    memcpy(ex->parser.id, e->id, sizeof(ex->parser.id));
    return true;
}

void tb_background_settle(struct tb_exchange *ex, uint64_t tokens)
{
    struct background_entry *e =
        background_find(ex->server->background, ex->parser.id, strlen(ex->parser.id));

    if (!e)
        return;
    ex->payer = e->account;
    background_end(ex->server, e, tokens);
}

void tb_background_free(struct tb_background *b)
{
    free(b);
}
