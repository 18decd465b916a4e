/* SPDX-License-Identifier: Apache-2.0 */
/* A request that waits before its head is looked at. A client may wait too, or be gone: one that has closed
 * its side is asked, as during an answer. Who is gone is told to the handler as that, and is served
 * nothing. */
#include <string.h>

#include "common/units.h"
#include "proxy/http/connection.h"

/* Who asks for HTTP/1.0 knows no interim answers. */
static bool held_is_minor0(const struct tb_connection *c)
{
    const char *p = c->in + c->raw, *end;
    size_t n = c->len - c->raw;

    while (n > 0 && (*p == '\r' || *p == '\n'))
        p++, n--;
    end = memchr(p, '\n', n);
    n = end ? (size_t)(end - p) : n;
    n -= n > 0 && p[n - 1] == '\r';
    return n < 8 || memcmp(p + n - 8, "HTTP/1.1", 8) != 0;
}

bool tb_connection_shall_wait(struct tb_connection *c)
{
    bool (*hold)(void *, const char *, size_t) = c->port->handler->hold;

    c->held = hold && c->len > c->raw && !c->io.reset && !c->broken && !c->plain_http && !c->port->draining &&
              hold(c->port->arg, c->in + c->raw, c->len - c->raw);
    if (c->held && !c->waited) {
        c->waited = true;
        c->answering = c->answer_ended = false;
        c->minor0 = held_is_minor0(c);
        c->silent_us = 0;
    }
    return c->held;
}

void tb_connection_look_held(struct tb_connection *c, uint64_t now)
{
    if (c->io.hung_up && c->silent_us == 0) {
        c->silent_us = now;
        c->ask_us = now + TB_CLIENT_ASK_US;
    } else if (c->silent_us > 0 && now >= c->ask_us) {
        if (tb_connection_ask(c))
            c->ask_us = now + MIN(now - c->silent_us, TB_CLIENT_ASK_MAX_US);
        else if (now - c->silent_us > TB_CLIENT_SILENT_US)
            c->io.reset = true;
    }
    tb_connection_later(c);
}
