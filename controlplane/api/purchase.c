/* SPDX-License-Identifier: Apache-2.0 */
/* POST .../purchases/resource: a notification of a managed application. It is kept and answered at once; what
 * follows of it is settled by controlplane/purchase. */
#include "common/log.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/metrics.h"
#include "controlplane/purchase/notice.h"

struct purchase_notice {
    struct cp_notice n;
    uint64_t now_us;
    bool is_new;
};

static int purchase_keep(struct cp_store *s, void *ctx)
{
    struct purchase_notice *p = ctx;

    return cp_store_take_notice(s, &p->n, p->now_us, &p->is_new);
}

/* Azure sends again what is answered with 429 or 5xx, for ten hours, and nothing else. */
void cp_answer_purchase(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                        struct cp_reply *ret)
{
    struct purchase_notice p = {.now_us = rq->now_us};
    char err[TB_JSON_ERR_MAX];
    int r = cp_notice_parse(rq->body, rq->body_len, rq->now_us, &p.n, err);

    if (r < 0) {
        cp_metric_add(CP_METRIC_NOTICE_REFUSED);
        tb_warn("purchase: a notification from %s is refused: %s", rq->peer, err);
        cp_answer(ret, 400, "error", "invalid_request", "message", err);
        return;
    }
    r = cp_store_transact(s, purchase_keep, &p);
    if (r < 0) {
        cp_answer_store_failure(s, "purchase", r, ret);
        return;
    }
    cp_metric_add(CP_METRIC_NOTICE_KEPT);
    tb_info("purchase: %s: %s%s%s%s", p.n.application_id, p.n.event, p.is_new ? "" : " (again)",
            *p.n.detail ? ": " : "", p.n.detail);
    cp_purchases_nudge(api->purchases);
    cp_answer(ret, 200, "status", "accepted");
}
