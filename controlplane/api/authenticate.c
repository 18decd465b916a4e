/* SPDX-License-Identifier: Apache-2.0 */
/* Bearer tokens: whose it is, and whether it is good for the call. Who tries tokens is slowed as who tries
 * contracts is. */
#include <string.h>

#include "common/log.h"
#include "common/text.h"
#include "common/units.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/metrics.h"

static void authenticate_count_guess(const struct cp_api *api, const struct cp_request *rq)
{
    (void)cp_limits_take(api->limits, CP_LIMIT_GUESS, rq->peer, tb_now_monotonic_us());
    cp_metric_add(CP_METRIC_GUESS_TOKEN);
}

const char *cp_log_path(const struct cp_request *rq, char out[static CP_LOG_PATH_MAX])
{
    snprintf(out, CP_LOG_PATH_MAX, "%s", rq->path);
    return tb_text_plain(out);
}

static void authenticate_refuse(const struct cp_api *api, const struct cp_request *rq, const char *why,
                                struct cp_reply *ret)
{
    char message[CP_JWT_ERR_MAX + 100], path[CP_LOG_PATH_MAX];

    tb_warn("%s: refused from %s: %s", cp_log_path(rq, path), rq->peer, why);
    authenticate_count_guess(api, rq);
    snprintf(message, sizeof(message), "%s; send Authorization: Bearer with a token of this control plane",
             why);
    cp_answer(ret, 401, "error", "unauthorized", "message", message);
    ret->challenge = true;
}

bool cp_answer_stranger(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    if (cp_caller_plausible(&api->access, rq->authorization))
        return false;
    authenticate_refuse(
        api, rq, cp_bearer(rq->authorization) ? "wrong bearer token" : "there is no bearer token", ret);
    return true;
}

void cp_answer_caller(const struct cp_api *api, const struct cp_store *s, const struct cp_request *rq, int r,
                      const char *why, struct cp_reply *ret)
{
    char path[CP_LOG_PATH_MAX];

    if (r == -EACCES || r == -EKEYEXPIRED) {
        authenticate_refuse(api, rq, why, ret);
    } else if (r == -EAGAIN) {
        tb_error("%s: %s", cp_log_path(rq, path), why);
        cp_answer_later(ret, "identity_provider_unavailable",
                        "the identity provider does not answer; try again");
    } else {
        cp_answer_store_failure(s, "tokens", r, ret);
    }
}

void cp_answer_scope(const struct cp_caller *c, unsigned scopes, const char *what, struct cp_reply *ret)
{
    char has[CP_SCOPES_TEXT_MAX], wants[CP_SCOPES_TEXT_MAX], message[400];

    snprintf(message, sizeof(message), "%s has the scopes: %s; %s needs one of: %s", c->actor,
             c->scopes ? cp_scopes_text(c->scopes, has) : "none", what, cp_scopes_text(scopes, wants));
    tb_warn("refused: %s", message);
    cp_answer(ret, 403, "error", "scope_missing", "message", message, "details", wants);
}

bool cp_authenticate(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     enum cp_call_name call, struct cp_caller *ret_caller, struct cp_reply *ret)
{
    char why[CP_JWT_ERR_MAX] = "";
    int r = cp_caller_identify(&api->access, s, rq->authorization, rq->now_us, ret_caller, why);

    if (r < 0) {
        cp_answer_caller(api, s, rq, r, why, ret);
        return false;
    }
    if (!(ret_caller->scopes & cp_calls[call].scopes)) {
        cp_answer_scope(ret_caller, cp_calls[call].scopes, cp_calls[call].operation, ret);
        return false;
    }
    if (ret_caller->kind == CP_CALLER_TOKEN && rq->now_us > ret_caller->last_used_us + CP_TOKEN_TOUCH_US)
        (void)cp_store_touch_token(s, ret_caller->actor + strlen("token:"), rq->now_us);
    return true;
}
