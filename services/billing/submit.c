/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "billing/billing.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/signals.h"
#include "common/units.h"

bool tb_billing_stopping(struct tb_billing *b)
{
    for (int signo; (signo = tb_signals_next(b->signal_fd)) > 0;) {
        if (signo != SIGHUP) {
            b->stop = true;
            continue;
        }
        /* What somebody has mended is to be tried now. */
        b->schedule.not_before_us = b->schedule.parked_next_us = 0;
    }
    return b->stop;
}

/* A token and a resource id, or a transient error. Nothing is taken out of the ledger before. */
static bool submit_ready(struct tb_billing *b)
{
    char err[TB_HTTP_ERR_MAX];
    int r = tb_azure_find_resource(&b->azure, err);

    tb_notify_watchdog();
    if (r == 0)
        r = tb_azure_authenticate(&b->azure, err);
    tb_notify_watchdog();
    if (r == 0)
        return true;
    tb_billing_report_transient(b, err);
    tb_metering_schedule_postpone(&b->schedule, tb_now_boottime_us(), -1);
    return false;
}

static int submit_batch(struct tb_billing *b, const char *body)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    struct tb_metering_result x = {.retry_after_ms = -1};
    char err[TB_HTTP_ERR_MAX], why[TB_LEDGER_ERR_MAX];
    struct tb_metering_answer answer;
    int r = tb_azure_post(&b->azure, body, b->schedule.batch.request_id, &rs, &x.reached, err);

    x.answered = r == 0;
    x.reason = err;
    x.status = rs.status;
    x.body = rs.body ? rs.body : "";
    x.len = rs.len;
    if (r == 0)
        x.retry_after_ms = rs.retry_after_ms;
    r = tb_metering_schedule_answer(&b->schedule, &x, tb_billing_now(b), tb_now_boottime_us(), &answer, why);
    if (r < 0) {
        tb_error("%s: %s", b->ledger_path, why);
        return r;
    }
    if (answer.token)
        tb_azure_drop_token(&b->azure);
    tb_billing_report_answer(b, &answer);
    return 0;
}

int tb_billing_submit(struct tb_billing *b)
{
    char err[TB_LEDGER_ERR_MAX] = "";
    bool due;
    int r = tb_metering_schedule_due(&b->schedule, tb_billing_now(b), tb_now_boottime_us(), &due, err);

    if (r < 0) {
        tb_error("%s: %s", b->ledger_path, err);
        return r;
    }
    if (!due || !submit_ready(b))
        return 0;
    for (;;) {
        _cleanup_free_ char *body = NULL;

        if (b->give_up_us ? tb_now_boottime_us() > b->give_up_us : tb_billing_stopping(b))
            return 0;
        if (!b->azure.token && !submit_ready(b))
            return 0;
        b->sender.resource = b->azure.resource;
        r = tb_metering_schedule_next(&b->schedule, tb_billing_now(b), tb_now_boottime_us(), &body, err);
        if (r < 0)
            tb_error("%s: %s", b->ledger_path, err);
        if (r < 0 || !body)
            return r;
        r = submit_batch(b, body);
        tb_notify_watchdog();
        if (r < 0)
            return r;
    }
}
