/* SPDX-License-Identifier: Apache-2.0 */
#include "common/outcome.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/events.h"
#include "common/log.h"

int tb_outcome_set(struct tb_outcome *o, int code, const char *fmt, ...)
{
    va_list ap;

    o->code = code;
    va_start(ap, fmt);
    vsnprintf(o->reason, sizeof(o->reason), fmt, ap);
    va_end(ap);
    return code;
}

static const char *outcome_event(int code)
{
    switch (code) {
    case TB_EXIT_NOINPUT:
        return TB_EVENT_ENDED_NOINPUT;
    case TB_EXIT_IOERR:
        return TB_EVENT_ENDED_IOERR;
    case TB_EXIT_TEMPFAIL:
        return TB_EVENT_ENDED_TEMPFAIL;
    case TB_EXIT_DATAERR:
        return TB_EVENT_ENDED_DATAERR;
    case TB_EXIT_NOPERM:
        return TB_EVENT_ENDED_NOPERM;
    case TB_EXIT_CONFIG:
        return TB_EVENT_ENDED_CONFIG;
    default:
        return NULL;
    }
}

void tb_outcome_log(const struct tb_outcome *o)
{
    tb_log_full(TB_LOG_ERR, outcome_event(o->code), NULL, "%s", o->reason);
}
