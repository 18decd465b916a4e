/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/api.h"

#include <string.h>

#include "common/log.h"
#include "common/units.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/metrics.h"

enum route {
    ROUTE_REGISTER,
    ROUTE_AUTHORIZE,
    ROUTE_ENROL,
    ROUTE_RENEW,
    ROUTE_PURCHASE,
    ROUTE_HEALTH_V1,
    ROUTE_HEALTH
};

static const struct {
    const char *path;
    enum route route;
    bool post;
} routes[] = {
    {"/api/v1/assets/register", ROUTE_REGISTER, true},
    {"/api/v1/license/authorize", ROUTE_AUTHORIZE, true},
    {"/api/v1/machines/enrol", ROUTE_ENROL, true},
    {"/api/v1/machines/renew", ROUTE_RENEW, true},
    /* Azure appends /resource to what the provider entered, whatever its end */
    {"/api/v1/purchases/resource", ROUTE_PURCHASE, true},
    {"/api/v1/purchases//resource", ROUTE_PURCHASE, true},
    {"/api/v1/health", ROUTE_HEALTH_V1, false},
    {"/health", ROUTE_HEALTH, false},
};

/* 404 of a server that takes none: it tells nothing. */
static bool api_refuse_sig(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    if (api->purchases && cp_purchases_sig_is(api->purchases, rq->sig))
        return false;
    if (!api->purchases) {
        cp_answer(ret, 404, "error", "not_found", "message", "this control plane takes no notifications");
        return true;
    }
    tb_warn("purchase: a notification from %s is refused: %s", rq->peer,
            rq->sig ? "its sig is not the one of the purchase sig file" : "it has no sig");
    (void)cp_limits_take(api->limits, CP_LIMIT_GUESS, rq->peer, tb_now_monotonic_us());
    cp_metric_add(CP_METRIC_GUESS_SIG);
    cp_answer(ret, 403, "error", "forbidden", "message", "the parameter sig is not this control plane's");
    return true;
}

static bool api_refuse_unauthenticated(const struct cp_api *api, const struct cp_request *rq,
                                       enum route route, struct cp_reply *ret)
{
    if (route == ROUTE_REGISTER)
        return cp_answer_stranger(api, rq, ret);
    if (route == ROUTE_PURCHASE)
        return api_refuse_sig(api, rq, ret);
    /* One of another CA may be what the contract wants: authorize.c says so. */
    if (route != ROUTE_AUTHORIZE || rq->client_auth != CP_CLIENT_NO_CERT)
        return false;
    tb_warn("authorize: refused from %s: client certificate missing", rq->peer);
    cp_answer(ret, 401, "status", "denied", "reason", "client_certificate_required", "message",
              "this control plane requires a TLS client certificate");
    return true;
}

bool cp_api_limit(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    uint64_t now = tb_now_monotonic_us();
    /* A probe is not held up by those who share its address. */
    bool probe = strcmp(rq->path, "/health") == 0 || strcmp(rq->path, "/api/v1/health") == 0;
    unsigned guesses = probe ? 0 : cp_limits_look(api->limits, CP_LIMIT_GUESS, rq->peer, now);
    unsigned asks = cp_limits_take(api->limits, CP_LIMIT_CLIENT, rq->peer, now);
    unsigned wait = MAX(guesses, asks);

    if (wait == 0)
        return false;
    cp_metric_add(guesses ? CP_METRIC_LIMITED_GUESS : CP_METRIC_LIMITED_CLIENT);
    cp_answer_too_often(ret, wait, rq->peer, guesses ? "guesses contracts or tokens" : "asks too often");
    return true;
}

static bool api_find_route(const char *path, size_t *ret)
{
    for (size_t i = 0; i < ARRAY_SIZE(routes); i++)
        if (strcmp(routes[i].path, path) == 0) {
            *ret = i;
            return true;
        }
    return false;
}

bool cp_api_refuse(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    bool ok;
    size_t i;

    if (!api_find_route(rq->path, &i)) {
        cp_answer(
            ret, 404, "error", "not_found", "message",
            "no such path; there are /api/v1/license/authorize, /api/v1/assets/register and /api/v1/health");
        return true;
    }
    if (routes[i].post)
        ok = strcmp(rq->method, "POST") == 0;
    else
        ok = strcmp(rq->method, "GET") == 0 || strcmp(rq->method, "HEAD") == 0;
    if (!ok) {
        cp_answer(ret, 405, "error", "method_not_allowed", "message",
                  routes[i].post ? "use POST here" : "use GET here");
        strcpy(ret->allow, routes[i].post ? "POST" : "GET, HEAD");
        return true;
    }
    return api_refuse_unauthenticated(api, rq, routes[i].route, ret);
}

/* Up is a server that could release a key now. */
static void api_answer_health(const struct cp_api *api, struct cp_store *s, const char *word,
                              struct cp_reply *ret)
{
    int r = cp_store_check(s);

    if (r < 0) {
        cp_answer_store_failure(s, "health", r, ret);
        return;
    }
    if (cp_keyring_check(api->keyring, NULL) < 0)
        cp_answer_key_service(ret);
    else
        cp_answer(ret, 200, "status", word);
}

void cp_api_answer(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                   struct cp_reply *ret)
{
    size_t i;

    if (cp_api_refuse(api, rq, ret) || !api_find_route(rq->path, &i))
        return;
    switch (routes[i].route) {
    case ROUTE_REGISTER:
        cp_answer_register(api, s, rq, ret);
        break;
    case ROUTE_AUTHORIZE:
        cp_answer_authorize(api, s, rq, ret);
        break;
    case ROUTE_ENROL:
        cp_answer_enrol(api, s, rq, ret);
        break;
    case ROUTE_RENEW:
        cp_answer_renew(api, s, rq, ret);
        break;
    case ROUTE_PURCHASE:
        cp_answer_purchase(api, s, rq, ret);
        break;
    case ROUTE_HEALTH_V1:
        api_answer_health(api, s, "ok", ret);
        break;
    case ROUTE_HEALTH:
        api_answer_health(api, s, "healthy", ret);
        break;
    }
}
