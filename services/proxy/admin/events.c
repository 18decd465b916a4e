/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/events.h"

#include <string.h>

#include "proxy/admin/mhd_response.h"
#include "proxy/admin/page.h"
#include "proxy/server.h"
#include "common/units.h"

#define BLOCK 2048 /* of the connection's pool */

struct tb_event_viewer {
    struct tb_events *events;
    struct MHD_Connection *conn;
    struct tb_buf out; /* an event that is being sent */
    size_t at;
    uint64_t version; /* of it */
    bool suspended;
};

static int events_make(struct tb_server *s)
{
    struct tb_buf *b = &s->events.event;

    tb_buf_clear(b);
    tb_buf_puts(b, "data: ");
    tb_page_json(s, b);
    return tb_buf_puts(b, "\n\n");
}

static ssize_t events_read(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct tb_event_viewer *c = cls;
    size_t n;

    if (c->at == c->out.len && c->events->stopping)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (c->at == c->out.len && c->version != c->events->version) {
        c->out.len = c->at = 0;
        if (tb_buf_append(&c->out, c->events->event.data, c->events->event.len) < 0)
            return MHD_CONTENT_READER_END_WITH_ERROR;
        c->version = c->events->version;
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

static void events_free_viewer(void *cls)
{
    struct tb_event_viewer *c = cls;

    for (size_t i = 0; i < TB_EVENTS_VIEWERS_MAX; i++)
        if (c->events->client[i] == c)
            c->events->client[i] = NULL;
    tb_buf_free(&c->out);
    free(c);
}

struct MHD_Response *tb_events_response(struct tb_server *s, struct MHD_Connection *conn)
{
    struct tb_event_viewer *c = NULL;
    struct MHD_Response *rs;
    size_t i = 0;

    while (i < TB_EVENTS_VIEWERS_MAX && s->events.client[i])
        i++;
    if (i < TB_EVENTS_VIEWERS_MAX && !s->events.stopping)
        c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->events = &s->events;
    c->conn = conn;
    s->events.client[i] = c;
    s->events.made_us = 0; /* nobody may have looked for long: the first event is of now */
    rs = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, events_read, c, events_free_viewer);
    if (!rs) {
        events_free_viewer(c);
        return NULL;
    }
    tb_events_tick(s, tb_now_monotonic_us());
    MHD_add_response_header(rs, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(rs, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(rs, "X-Accel-Buffering", "no");
    MHD_add_response_header(rs, "X-Content-Type-Options", "nosniff");
    return rs;
}

static void events_wake(struct tb_events *e)
{
    for (size_t i = 0; i < TB_EVENTS_VIEWERS_MAX; i++)
        if (e->client[i] && e->client[i]->suspended) {
            e->client[i]->suspended = false;
            MHD_resume_connection(e->client[i]->conn);
        }
}

static bool events_has_viewers(const struct tb_events *e)
{
    for (size_t i = 0; i < TB_EVENTS_VIEWERS_MAX; i++)
        if (e->client[i])
            return true;
    return false;
}

void tb_events_tick(struct tb_server *s, uint64_t now_us)
{
    struct tb_events *e = &s->events;
    const struct tb_verdict *v = &s->monitor.verdict;

    if (s->draining)
        return tb_events_stop(s);
    if (!events_has_viewers(e) || (now_us - e->made_us < TB_USEC_PER_SEC && v->state == e->made_for.state &&
                                   strcmp(v->reason, e->made_for.reason) == 0))
        return;
    e->made_us = now_us;
    e->made_for = *v;
    if (events_make(s) < 0)
        return;
    e->version++;
    events_wake(e);
}

void tb_events_stop(struct tb_server *s)
{
    s->events.stopping = true;
    events_wake(&s->events);
}

void tb_events_done(struct tb_events *e)
{
    tb_buf_free(&e->event);
}
