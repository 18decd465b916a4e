/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/runtime_limits.h"

#include <string.h>

#include "common/log.h"

static const char *const pages[] = {"/v1/models", "/props"};

static void runtime_limits_look(struct tb_limits_fetch *f, const char *p, size_t n)
{
    static const char *const places[] = {"data..max_model_len", "data..meta.n_ctx",
                                         "default_generation_settings.n_ctx"};

    while (n > 0) {
        enum tb_json_token t;
        size_t used = tb_json_scan(&f->scan, p, n, &t);
        uint64_t v;

        p += used;
        n -= used;
        for (size_t i = 0; t == TB_JSON_DONE && i < ARRAY_SIZE(places); i++)
            if (tb_json_at(&f->scan, places[i]) && tb_json_scan_uint(&f->scan, &v) && v < TB_COST_MAX)
                f->limits->context = MAX(f->limits->context, v); /* of several models the largest */
    }
}

static void runtime_limits_event(void *arg);

static bool runtime_limits_page(struct tb_limits_fetch *f)
{
    _cleanup_buf_ struct tb_buf lines = {0};
    struct tb_call_request rq = {.method = "GET",
                                 .target = pages[f->stage],
                                 .lines = &lines,
                                 .on_event = runtime_limits_event,
                                 .arg = f};

    f->scan = (struct tb_json_scan){0};
    if (tb_buf_printf(&lines, "Host: %s\r\nUser-Agent: tb-proxy\r\n", tb_upstream_host(f->upstream)) < 0 ||
        tb_call_start(f->upstream, &rq, &f->call) < 0)
        return false;
    tb_call_write_end(f->call);
    return true;
}

/* The page has come to its end or failed: the next one, or that is all. */
static void runtime_limits_next(struct tb_limits_fetch *f)
{
    tb_call_free(f->call);
    f->call = NULL;
    if (f->limits->context == 0 && ++f->stage < ARRAY_SIZE(pages) && runtime_limits_page(f))
        return;
    f->done = true;
    if (f->limits->context > 0)
        tb_info("the runtime's context has %llu tokens", (unsigned long long)f->limits->context);
    else
        tb_info("the runtime does not say how large its context is; TB_DEFAULT_MAX_TOKENS stands for it");
    f->finished(f->finished_arg);
}

static void runtime_limits_event(void *arg)
{
    struct tb_limits_fetch *f = arg;
    const struct tb_response *rs = tb_call_response(f->call);
    char piece[4096];
    ssize_t n;

    if (!rs && !tb_call_failed(f->call))
        return;
    while (rs && (n = tb_call_read(f->call, piece, sizeof(piece))) > 0)
        if (rs->status == 200)
            runtime_limits_look(f, piece, (size_t)n);
    if (!rs || n != -EAGAIN)
        runtime_limits_next(f);
}

bool tb_limits_fetch_start(struct tb_limits_fetch *f)
{
    if (f->done || f->call || !f->wanted(f->wanted_arg))
        return false;
    f->stage = 0;
    f->limits->context = 0;
    return runtime_limits_page(f);
}

void tb_limits_fetch_reset(struct tb_limits_fetch *f)
{
    tb_call_free(f->call);
    f->call = NULL;
    f->done = false;
    if (!f->limits)
        return;                                               /* never begun */
    f->limits->template_least = f->limits->template_most = 0; /* it may come back with another model */
}
