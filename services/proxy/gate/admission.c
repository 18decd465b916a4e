/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/admission.h"

#include <string.h>

#include "proxy/gate/routes.h"

#define RETRY_AFTER_S 5

static bool admit_method_known(const char *method)
{
    static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};

    for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
        if (method[0] == methods[i][0] && strcmp(method, methods[i]) == 0)
            return true;
    return false;
}

/* Malformed and ambiguous requests, whatever the state of the service. */
static bool admit_refuse_malformed(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    const char *why = tb_request_verify(rq->head);

    if (why) {
        tb_http_error_set(&ret->error, TB_HTTP_BAD_REQUEST,
                          rq->head->websocket ? "websocket_not_supported" : "bad_request", "%s", why);
        ret->must_close = true;
        return true;
    }
    if (rq->bad_target->status)
        tb_http_error_set(&ret->error, rq->bad_target->status,
                          rq->bad_target->status == TB_HTTP_NOT_FOUND ? "not_found" : "bad_path", "%s",
                          rq->bad_target->why);
    else if (rq->form == TB_TARGET_ASTERISK)
        tb_http_error_set(&ret->error, TB_HTTP_BAD_REQUEST, "bad_path", "the request target must be a path");
    else if (rq->head->other_expectation)
        tb_http_error_set(&ret->error, TB_HTTP_EXPECTATION_FAILED, "expectation_failed",
                          "only Expect: 100-continue is understood");
    else if (!admit_method_known(rq->method))
        tb_http_error_set(&ret->error, TB_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed",
                          "this method is not offered here");
    return ret->error.status != 0;
}

bool tb_admit_suspended(const struct tb_verdict *v, bool lease_over, struct tb_http_error *ret)
{
    const char *reason = v->state == TB_STATE_SUSPENDED ? v->reason : "lease_expired";

    if (v->state != TB_STATE_SUSPENDED && !lease_over)
        return false;
    tb_http_error_set(ret, TB_HTTP_FORBIDDEN, reason, "this service is suspended: %s", reason);
    return true;
}

static bool admit_refuse_unrecorded(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    if (rq->audit == TB_ADMIT)
        return false;
    tb_http_error_set(&ret->error, TB_HTTP_SERVICE_UNAVAILABLE, "audit_unavailable",
                      "the audit record of this request could not be kept; nothing was processed");
    ret->error.retry_after_s = 1;
    return true;
}

/* A browser asks whether a page may send a request; it cannot send the key with that. Whether the service
 * is ready, and the key valid, the page is told by the answer to the request itself. */
static bool admit_preflight(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    enum tb_cors_verdict v = tb_cors_judge(rq->cors_policy, rq->cors, rq->method);

    ret->preflight = v == TB_CORS_PREFLIGHT;
    if (v == TB_CORS_REFUSE)
        tb_http_error_set(&ret->error, TB_HTTP_FORBIDDEN, "origin_not_allowed",
                          "pages of this origin may not use the API (TB_CORS_ORIGINS)");
    return v != TB_CORS_PASS;
}

static bool admit_refuse_lockdown(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    const struct tb_verdict *v = rq->verdict;

    if (!tb_admit_suspended(v, rq->lease_over, &ret->error) && v->state != TB_STATE_READY) {
        tb_http_error_set(&ret->error, TB_HTTP_SERVICE_UNAVAILABLE, "not_ready", "not ready: %s%s%s",
                          tb_state_name(v->state), v->reason[0] ? ", " : "", v->reason);
        ret->error.retry_after_s = RETRY_AFTER_S;
    }
    return ret->error.status != 0;
}

static const struct tb_api_key *admit_find_key(const struct tb_api_keys *keys, const struct tb_credentials *c)
{
    return c->key && !c->conflict ? tb_api_keys_find(keys, c->key, c->key_len) : NULL;
}

bool tb_admit_identified(const struct tb_api_keys *keys, const struct tb_credentials *c)
{
    return !keys || admit_find_key(keys, c);
}

static bool admit_refuse_key(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    const struct tb_credentials *c = rq->credentials;

    if (!rq->keys)
        return false;
    if (c->conflict) {
        tb_http_error_set(&ret->error, TB_HTTP_BAD_REQUEST, "conflicting_api_keys",
                          "the request has two different API keys; give one, as Authorization: Bearer, "
                          "x-api-key or api-key");
        return true;
    }
    ret->key = admit_find_key(rq->keys, c);
    if (!ret->key)
        tb_http_error_set(&ret->error, TB_HTTP_UNAUTHORIZED, "invalid_api_key",
                          "give a valid API key as Authorization: Bearer, x-api-key or api-key");
    return !ret->key;
}

static bool admit_refuse_route(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    switch (tb_route_look_up(rq->route_cache, rq->routes, rq->path, rq->path_len)) {
    case TB_ROUTE_ALLOWED:
        return false;
    case TB_ROUTE_ADMIN:
        tb_http_error_set(&ret->error, TB_HTTP_NOT_FOUND, "not_found",
                          "this path administers the runtime and is not offered here; TB_ROUTES opens it by "
                          "its exact path only");
        return true;
    default:
        tb_http_error_set(&ret->error, TB_HTTP_NOT_FOUND, "not_found",
                          "this path is not offered here (TB_ROUTES)");
        return true;
    }
}

/* Training needs the word of the provider, verified. Who lists the path of an adapter by itself in TB_ROUTES
 * has decided, unless the provider forbids it. */
static bool admit_refuse_tuning(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    enum tb_tuning tuning;

    if (rq->finetune == TB_FINETUNE_ALLOWED)
        return false;
    tuning = tb_route_tuning(rq->route_cache, rq->path, rq->path_len);
    if (tuning == TB_TUNING_NONE || (tuning == TB_TUNING_ADAPTS && rq->finetune != TB_FINETUNE_FORBIDDEN))
        return false;
    tb_http_error_set(
        &ret->error, TB_HTTP_FORBIDDEN, "finetuning_not_allowed", "%s",
        rq->finetune == TB_FINETUNE_FORBIDDEN
            ? "the provider does not allow this model to be fine-tuned (its signed manifest)"
            : "fine-tuning needs the provider's permission in a signed manifest, and this machine "
              "verifies none (TB_PROVIDER_KEY)");
    return true;
}

void tb_admit(const struct tb_admit_request *rq, struct tb_admit_result *ret)
{
    *ret = (struct tb_admit_result){0};
    if (admit_refuse_malformed(rq, ret) || admit_refuse_unrecorded(rq, ret) || admit_preflight(rq, ret) ||
        admit_refuse_lockdown(rq, ret) || admit_refuse_key(rq, ret) || admit_refuse_route(rq, ret) ||
        admit_refuse_tuning(rq, ret))
        return;
    if (rq->head->has_length && rq->head->length > rq->max_body)
        tb_http_error_set(&ret->error, TB_HTTP_CONTENT_TOO_LARGE, "body_too_large",
                          "the body exceeds %llu bytes", (unsigned long long)rq->max_body);
}
