/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/events.h"

#include <string.h>

#include "proxy/admin/mhd_response.h"
#include "proxy/admin/page.h"
#include "proxy/server.h"
#include "common/units.h"

#define BLOCK 2048 /* of the connection's pool */

struct tb_live_client {
    struct tb_live *live;
    struct MHD_Connection *conn;
    struct tb_buf out; /* an event that is being sent */
    size_t at;
    uint64_t version; /* of it */
    bool suspended;
};

static int make_event(struct tb_server *s)
{
    struct tb_buf *b = &s->live.event;
    int r;

    b->len = 0;
    r = tb_buf_puts(b, "data: ");
    if (r >= 0)
        r = tb_page_json(s, b);
    return r < 0 ? r : tb_buf_puts(b, "\n\n");
}

static ssize_t read_event(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct tb_live_client *c = cls;
    size_t n;

    if (c->at == c->out.len && c->live->stopping)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (c->at == c->out.len && c->version != c->live->version) {
        c->out.len = c->at = 0;
        if (tb_buf_append(&c->out, c->live->event.data, c->live->event.len) < 0)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        c->version = c->live->version;
    }
    n = MIN(c->out.len - c->at, max);
    if (n == 0) {
        c->suspended = true;
        MHD_suspend_connection(c->conn);
        return 0;
    }
    memcpy(buf, c->out.data + c->at, n);
    c->at += n;
    return (ssize_t)n;
}

static void client_free(void *cls)
{
    struct tb_live_client *c = cls;

    for (size_t i = 0; i < TB_LIVE_MAX; i++)
        if (c->live->client[i] == c)
            c->live->client[i] = NULL;
    tb_buf_free(&c->out);
    free(c);
}

struct MHD_Response *tb_live_response(struct tb_server *s, struct MHD_Connection *conn)
{
    struct tb_live_client *c = NULL;
    struct MHD_Response *rs;
    size_t i = 0;

    while (i < TB_LIVE_MAX && s->live.client[i])
        i++;
    if (i < TB_LIVE_MAX && !s->live.stopping)
        c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->live = &s->live;
    c->conn = conn;
    s->live.client[i] = c;
    s->live.made_us = 0; /* nobody may have looked for long: the first event is of now */
    rs = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_event, c, client_free);
    if (!rs) {
        client_free(c);
        return NULL;
    }
    tb_live_tick(s, tb_now_monotonic_us());
    MHD_add_response_header(rs, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(rs, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(rs, "X-Accel-Buffering", "no");
    MHD_add_response_header(rs, "X-Content-Type-Options", "nosniff");
    return rs;
}

static void wake_all(struct tb_live *l)
{
    for (size_t i = 0; i < TB_LIVE_MAX; i++)
        if (l->client[i] && l->client[i]->suspended) {
            l->client[i]->suspended = false;
            MHD_resume_connection(l->client[i]->conn);
        }
}

static bool anybody(const struct tb_live *l)
{
    for (size_t i = 0; i < TB_LIVE_MAX; i++)
        if (l->client[i])
            return true;
    return false;
}

void tb_live_tick(struct tb_server *s, uint64_t now_us)
{
    struct tb_live *l = &s->live;
    const struct tb_verdict *v = &s->monitor.verdict;

    if (s->draining)
        return tb_live_stop(s);
    if (!anybody(l) || (now_us - l->made_us < TB_USEC_PER_SEC && v->state == l->made_for.state &&
                        strcmp(v->reason, l->made_for.reason) == 0))
        return;
    l->made_us = now_us;
    l->made_for = *v;
    if (make_event(s) < 0)
        return;
    l->version++;
    wake_all(l);
}

void tb_live_stop(struct tb_server *s)
{
    s->live.stopping = true;
    wake_all(&s->live);
}

void tb_live_done(struct tb_live *l)
{
    tb_buf_free(&l->event);
}
