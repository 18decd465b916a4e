/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/recent.h"

#include <string.h>

#include "common/macros.h"
#include "common/units.h"

struct recent_name {
    const char *text;
    size_t len;
};
#define NAME(s)                                                                                              \
    {                                                                                                        \
        s, sizeof(s) - 1                                                                                     \
    }

static const char *recent_known(const char *s, size_t len, const struct recent_name *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (name[i].len == len && memcmp(s, name[i].text, len) == 0)
            return name[i].text;
    return NULL;
}

static const char *recent_method(const char *method)
{
    static const struct recent_name name[] = {NAME("GET"),   NAME("HEAD"),   NAME("POST"),   NAME("PUT"),
                                              NAME("PATCH"), NAME("DELETE"), NAME("OPTIONS")};
    const char *k = recent_known(method, strlen(method), name, ARRAY_SIZE(name));

    return k ? k : "?";
}

static const char *recent_path(const char *path, size_t len)
{
    static const struct recent_name name[] = {
        NAME("/v1/chat/completions"),
        NAME("/v1/completions"),
        NAME("/v1/embeddings"),
        NAME("/v1/models"),
        NAME("/v1/responses"),
        NAME("/v1/rerank"),
        NAME("/v1/audio/transcriptions"),
        NAME("/v1/images/generations"),
    };
    const char *k = recent_known(path, len, name, ARRAY_SIZE(name));

    return k ? k : len >= 4 && memcmp(path, "/v1/", 4) == 0 ? "/v1/..." : "other path";
}

void tb_recent_add(struct tb_recent *r, const char *method, const char *path, size_t path_len,
                   uint64_t realtime_us, int status, uint64_t latency_us)
{
    r->request[r->n_requests++ % TB_RECENT_REQUESTS] = (struct tb_recent_request){
        .realtime_us = realtime_us,
        .method = recent_method(method),
        .path = recent_path(path, path_len),
        .status = status,
        .latency_us = latency_us,
    };
}

const struct tb_recent_request *tb_recent_get(const struct tb_recent *r, size_t i)
{
    if (i >= TB_RECENT_REQUESTS || i >= r->n_requests)
        return NULL;
    return &r->request[(r->n_requests - 1 - i) % TB_RECENT_REQUESTS];
}

void tb_recent_tick(struct tb_recent *r, uint64_t now_us, const struct tb_recent_totals *now)
{
    if (r->n_seconds == 0)
        r->second_us = now_us;
    else if (now_us - r->second_us < TB_USEC_PER_SEC)
        return;
    else if (now_us - r->second_us < 2 * TB_USEC_PER_SEC)
        r->second_us += TB_USEC_PER_SEC;
    else
        r->second_us = now_us;
    r->at[r->n_seconds++ % ARRAY_SIZE(r->at)] = *now;
}

/* The look that was taken i seconds before the last one. */
static const struct tb_recent_totals *recent_look(const struct tb_recent *r, uint64_t i)
{
    return &r->at[(r->n_seconds - 1 - i) % ARRAY_SIZE(r->at)];
}

size_t tb_recent_sum(const struct tb_recent *r, struct tb_recent_totals *ret)
{
    size_t seconds = r->n_seconds > 0 ? (size_t)MIN(r->n_seconds - 1, (uint64_t)TB_RECENT_SECONDS) : 0;

    *ret = (struct tb_recent_totals){0};
    if (seconds > 0) {
        const struct tb_recent_totals *from = recent_look(r, seconds), *to = recent_look(r, 0);

        *ret = (struct tb_recent_totals){.requests = to->requests - from->requests,
                                         .bytes_out = to->bytes_out - from->bytes_out,
                                         .tokens = to->tokens - from->tokens};
    }
    return seconds;
}

void tb_recent_each(const struct tb_recent *r, uint64_t out[static TB_RECENT_SECONDS])
{
    for (uint64_t i = 0; i < TB_RECENT_SECONDS; i++)
        out[TB_RECENT_SECONDS - 1 - i] =
            i + 1 < r->n_seconds ? recent_look(r, i)->requests - recent_look(r, i + 1)->requests : 0;
}
