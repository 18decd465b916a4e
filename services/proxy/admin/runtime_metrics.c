/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/runtime_metrics.h"

#include <string.h>

#include "proxy/admin/mhd_response.h"
#include "proxy/server.h"
#include "common/units.h"

#define TIMEOUT_US (5 * TB_USEC_PER_SEC)
#define BODY_MAX (4 * 1024 * 1024UL)

struct tb_runtime_fetch {
    struct tb_server *server;
    struct MHD_Connection *conn;
    struct tb_call *call; /* NULL: over */
    struct tb_buf body;
    uint64_t started_us;
    bool suspended;
    struct tb_http_error error; /* status 0: none */
};

static void runtime_metrics_end(struct tb_runtime_fetch *f)
{
    tb_call_free(f->call);
    f->call = NULL;
    if (f->suspended) {
        f->suspended = false;
        MHD_resume_connection(f->conn);
    }
}

static void runtime_metrics_fail(struct tb_runtime_fetch *f, int status, const char *code, const char *why)
{
    tb_http_error_set(&f->error, status, code, "no metrics of the runtime: %s", why);
    runtime_metrics_end(f);
}

static void runtime_metrics_event(void *arg)
{
    struct tb_runtime_fetch *f = arg;
    const struct tb_response *rs;
    char text[128];
    ssize_t n = -ENOMEM;

    if (tb_call_failed(f->call))
        return runtime_metrics_fail(f, MHD_HTTP_BAD_GATEWAY, "upstream_unreachable", "it does not answer");
    rs = tb_call_response(f->call);
    if (!rs)
        return;
    if (rs->status != MHD_HTTP_OK) {
        snprintf(text, sizeof(text), "it answers %d to GET /metrics; llama-server offers them with --metrics",
                 rs->status);
        return runtime_metrics_fail(f, MHD_HTTP_BAD_GATEWAY, "upstream_error", text);
    }
    while (tb_buf_reserve(&f->body, 4096) == 0 &&
           (n = tb_call_read(f->call, f->body.data + f->body.len, 4096)) > 0) {
        f->body.len += (size_t)n;
        if (f->body.len > BODY_MAX)
            return runtime_metrics_fail(f, MHD_HTTP_BAD_GATEWAY, "upstream_error", "response too large");
    }
    if (n == 0)
        runtime_metrics_end(f);
    else if (n != -EAGAIN)
        runtime_metrics_fail(f, MHD_HTTP_BAD_GATEWAY, "upstream_error", "it broke off");
}

struct tb_runtime_fetch *tb_runtime_fetch_start(struct tb_server *s, struct MHD_Connection *c)
{
    _cleanup_buf_ struct tb_buf lines = {0};
    struct tb_call_request rq = {
        .method = "GET", .target = "/metrics", .lines = &lines, .on_event = runtime_metrics_event};
    struct tb_runtime_fetch *f = NULL;
    size_t i = 0;

    while (i < TB_RUNTIME_METRICS_MAX && s->fetch[i])
        i++;
    if (i < TB_RUNTIME_METRICS_MAX)
        f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    *f = (struct tb_runtime_fetch){.server = s, .conn = c, .started_us = tb_now_monotonic_us()};
    s->fetch[i] = f;
    rq.arg = f;
    if (tb_buf_printf(&lines, "Host: %s\r\nUser-Agent: tb-proxy\r\n", tb_upstream_host(s->upstream)) < 0 ||
        tb_call_start(s->upstream, &rq, &f->call) < 0) {
        tb_runtime_fetch_free(f);
        return NULL;
    }
    tb_call_write_end(f->call);
    f->suspended = true;
    MHD_suspend_connection(c);
    if (tb_call_failed(f->call))
        runtime_metrics_event(f);
    return f;
}

enum MHD_Result tb_runtime_fetch_answer(struct tb_runtime_fetch *f)
{
    struct MHD_Response *rs = f->error.status ? tb_mhd_error(&f->error)
                                              : tb_mhd_text(f->body.data ? f->body.data : "", f->body.len,
                                                            "text/plain; version=0.0.4; charset=utf-8");
    enum MHD_Result r;

    if (!rs)
        return MHD_NO;
    r = MHD_queue_response(f->conn, f->error.status ? (unsigned)f->error.status : MHD_HTTP_OK, rs);
    MHD_destroy_response(rs);
    return r;
}

void tb_runtime_fetch_free(struct tb_runtime_fetch *f)
{
    for (size_t i = 0; i < TB_RUNTIME_METRICS_MAX; i++)
        if (f->server->fetch[i] == f)
            f->server->fetch[i] = NULL;
    tb_call_free(f->call);
    tb_buf_free(&f->body);
    free(f);
}

void tb_runtime_fetch_tick(struct tb_server *s, uint64_t now_us)
{
    for (size_t i = 0; i < TB_RUNTIME_METRICS_MAX; i++)
        if (s->fetch[i] && s->fetch[i]->call &&
            (s->draining || now_us - s->fetch[i]->started_us > TIMEOUT_US))
            runtime_metrics_fail(s->fetch[i], MHD_HTTP_GATEWAY_TIMEOUT, "upstream_timeout",
                                 "it does not answer in time");
}
