/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/admission.h"

#include <string.h>

#include "proxy/gate/routes.h"

#define RETRY_AFTER_S 5

static bool method_known(const char *method)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (strcmp(method, methods[i]) == 0)
            return true;
    return false;
}

/* Malformed and ambiguous requests, whatever the state of the service. */
static bool refuse_malformed(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    const char *why = tb_request_check(rq->head);

    if (why) {
        tb_http_error_set(&ret->error, MHD_HTTP_BAD_REQUEST,
                          rq->head->websocket ? "websocket_not_supported" : "bad_request", "%s", why);
        ret->must_close = true;
        return true;
    }
    why = tb_target_check(rq->target, &ret->path_len);
    if (why)
        tb_http_error_set(&ret->error, MHD_HTTP_BAD_REQUEST, "bad_path", "%s", why);
    else if (!method_known(rq->method))
        tb_http_error_set(&ret->error, MHD_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed",
                          "this method is not offered here");
    return ret->error.status != 0;
}

bool tb_admit_suspended(const struct tb_verdict *v, bool lease_over, struct tb_http_error *ret)
{
    const char *reason = v->state == TB_STATE_SUSPENDED ? v->reason : "lease_expired";

    if (v->state != TB_STATE_SUSPENDED && !lease_over)
        return false;
    tb_http_error_set(ret, MHD_HTTP_FORBIDDEN, reason, "this service is suspended: %s", reason);
    return true;
}

static bool refuse_lockdown(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    const struct tb_verdict *v = rq->verdict;

    if (rq->audit != TB_ADMIT) {
        tb_http_error_set(&ret->error, MHD_HTTP_SERVICE_UNAVAILABLE, "audit_unavailable",
                          "the audit record of this request could not be kept; nothing was processed");
        ret->error.retry_after_s = 1;
    } else if (!tb_admit_suspended(v, rq->lease_over, &ret->error) && v->state != TB_STATE_READY) {
        tb_http_error_set(&ret->error, MHD_HTTP_SERVICE_UNAVAILABLE, "not_ready", "not ready: %s%s%s",
                          tb_state_name(v->state), v->reason[0] ? ", " : "", v->reason);
        ret->error.retry_after_s = RETRY_AFTER_S;
    }
    return ret->error.status != 0;
}

void tb_admit(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    *ret = (struct tb_admit_result){0};
    if (refuse_malformed(rq, ret) || refuse_lockdown(rq, ret))
        return;
    if (rq->keys) {
        ret->key = tb_api_keys_find(rq->keys, rq->head->authorization);
        if (!ret->key) {
            tb_http_error_set(&ret->error, MHD_HTTP_UNAUTHORIZED, "invalid_api_key",
                              "give a valid API key as Authorization: Bearer");
            return;
        }
    }
    if (!tb_route_allowed(rq->routes, rq->target, ret->path_len))
        tb_http_error_set(&ret->error, MHD_HTTP_NOT_FOUND, "not_found",
                          "this path is not offered here (TB_ROUTES)");
    else if (rq->head->has_length && rq->head->length > rq->max_body)
        tb_http_error_set(&ret->error, MHD_HTTP_CONTENT_TOO_LARGE, "body_too_large",
                          "the body exceeds %llu bytes", (unsigned long long)rq->max_body);
}
