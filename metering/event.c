/* SPDX-License-Identifier: Apache-2.0 */
#include "metering/event.h"

#include <stdio.h>

#include "common/hex.h"
#include "common/macros.h"
#include "common/secret.h"

int64_t tb_metering_hour(uint64_t realtime_us)
{
    return (int64_t)(realtime_us / TB_USEC_PER_HOUR);
}

int64_t tb_metering_stale_hour(uint64_t realtime_us)
{
    return realtime_us < TB_METERING_LATEST_US ? -1 : tb_metering_hour(realtime_us - TB_METERING_LATEST_US);
}

int64_t tb_metering_current_hour(uint64_t realtime_us, uint64_t grace_us)
{
    return realtime_us < grace_us ? 0 : tb_metering_hour(realtime_us - grace_us);
}

uint64_t tb_metering_age_us(int64_t since, uint64_t realtime_us)
{
    uint64_t end = (uint64_t)(since + 1) * TB_USEC_PER_HOUR;

    return since >= 0 && realtime_us > end ? realtime_us - end : 0;
}

const char *tb_metering_hour_text(int64_t hour, char out[static TB_RFC3339_MAX])
{
    return tb_rfc3339_format((uint64_t)hour * TB_USEC_PER_HOUR, 0, out);
}

void tb_metering_request_id(char out[static TB_METERING_REQUEST_ID_MAX])
{
    uint8_t b[16] = {0};
    char hex[33];

    (void)tb_random(b, sizeof(b));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    tb_hex_encode(b, sizeof(b), hex);
    snprintf(out, TB_METERING_REQUEST_ID_MAX, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
             hex + 20);
}

/* -- verdicts -------------------------------------------------------------------------------------------- */

static void decide_accepted(const struct tb_metering_event *e, const struct tb_metering_verdict *v,
                            struct tb_metering_change *c)
{
    c->state = "ACCEPTED";
    c->doubt = false;
    c->quantity = MIN(e->quantity, v->accepted);
    c->accepted = v->accepted;
    c->reason = v->reason;
    c->rest = MAX(e->quantity - v->accepted, 0);
    c->not_ended = !v->duplicate;
}

static void decide_expired(const struct tb_metering_event *e, struct tb_metering_change *c)
{
    static const char doubt[] =
        "too old to be sent again, and an earlier request with it had no answer: see whether the "
        "marketplace has it";

    c->state = e->doubt ? "PARKED" : "";
    c->reason = e->doubt ? doubt : NULL;
    c->rest = e->doubt ? 0 : e->quantity;
}

void tb_metering_decide(const struct tb_metering_event *e, const struct tb_metering_verdict *v,
                        struct tb_metering_change *ret)
{
    *ret = (struct tb_metering_change){.doubt = e->doubt, .quantity = e->quantity, .accepted = -1};
    switch (v->outcome) {
    case TB_METERING_UNKNOWN:
        break;
    case TB_METERING_UNSENT:
        ret->state = e->parked ? "PARKED" : e->doubt ? "SENT" : "FROZEN";
        break;
    case TB_METERING_ACCEPTED:
        decide_accepted(e, v, ret);
        break;
    case TB_METERING_EXPIRED:
        decide_expired(e, ret);
        break;
    case TB_METERING_ENDED:
    case TB_METERING_REFUSED:
        ret->state = "PARKED";
        ret->reason = v->reason;
        ret->ended = v->outcome == TB_METERING_ENDED;
        break;
    }
}
