/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/api.h"

#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/log.h"
#include "common/units.h"

/* Larger than any answer, so that cJSON never reallocates a buffer with a key in it. */
#define ANSWER_MAX (16 * 1024)

enum route { ROUTE_REGISTER, ROUTE_AUTHORIZE, ROUTE_HEALTH_V1, ROUTE_HEALTH };

static const struct {
    const char *path;
    enum route route;
    bool post;
} routes[] = {
    {"/api/v1/assets/register", ROUTE_REGISTER, true},
    {"/api/v1/license/authorize", ROUTE_AUTHORIZE, true},
    {"/api/v1/health", ROUTE_HEALTH_V1, false},
    {"/health", ROUTE_HEALTH, false},
};

void cp_reply_clear(struct cp_reply *r)
{
    tb_erase_string(r->body);
    *r = (struct cp_reply){0};
}

/* members: name, value, ... up to a NULL name; a NULL value leaves its member out. */
static void api_answer_members(struct cp_reply *ret, unsigned status, const char *const *members)
{
    _cleanup_secret_json_ cJSON *j = cJSON_CreateObject();
    bool ok = j;

    for (; ok && members[0]; members += 2)
        ok = !members[1] || cJSON_AddStringToObject(j, members[0], members[1]);
    *ret = (struct cp_reply){.status = status, .body = ok ? cJSON_PrintBuffered(j, ANSWER_MAX, 0) : NULL};
}
#define answer(ret, status, ...) api_answer_members(ret, status, (const char *const[]){__VA_ARGS__, NULL})

static void api_answer_health(struct cp_reply *ret, const char *word)
{
    answer(ret, 200, "status", word);
}

void cp_api_too_large(struct cp_reply *ret)
{
    answer(ret, 413, "error", "payload_too_large", "message", "the body is larger than 64 KiB");
}

static void api_deny(struct cp_reply *ret, unsigned status, const char *reason, const char *message)
{
    answer(ret, status, "status", "denied", "reason", reason, "message", message);
}

/* A failure of ours. Clients retry a 5xx. */
static void api_answer_store_failure(const struct cp_api *api, const char *doing, int r, struct cp_reply *ret)
{
    tb_error("%s: error of the database: %s", doing,
             r == -EBUSY ? "held by another process" : cp_store_error(api->store));
    if (r == -EBUSY) {
        answer(ret, 503, "error", "busy", "reason", "busy", "message", "the database is busy; try again");
        ret->retry = true;
    } else {
        answer(ret, 500, "error", "internal_error", "reason", "internal_error", "message",
               "internal error; see the log of the control plane");
    }
}

static bool api_token_matches(const struct cp_api *api, const char *authorization)
{
    _cleanup_key_ struct tb_key given = {0};
    const char *s = authorization;

    if (!s || strncasecmp(s, "Bearer ", 7) != 0)
        return false;
    for (s += 7; *s == ' '; s++)
        ;
    if (tb_hex_decode(s, strlen(s), given.b, sizeof(given.b)) < 0)
        return false;
    return tb_mem_equal(given.b, api->token->b, sizeof(given.b));
}

static bool api_refuse_unauthenticated(const struct cp_api *api, const struct cp_request *rq,
                                       enum route route, struct cp_reply *ret)
{
    if (route == ROUTE_REGISTER && !api_token_matches(api, rq->authorization)) {
        tb_warn("register: refused from %s: %s", rq->peer,
                rq->authorization ? "wrong bearer token" : "no bearer token");
        answer(ret, 401, "error", "unauthorized", "message",
               "send Authorization: Bearer with the provider token of this control plane");
        ret->challenge = true;
        return true;
    }
    if (route != ROUTE_AUTHORIZE || rq->client_auth == CP_CLIENT_NOT_ASKED ||
        rq->client_auth == CP_CLIENT_VERIFIED)
        return false;
    tb_warn("authorize: refused from %s: client certificate %s", rq->peer,
            rq->client_auth == CP_CLIENT_NO_CERT ? "missing" : "not trusted");
    if (rq->client_auth == CP_CLIENT_NO_CERT)
        api_deny(ret, 401, "client_certificate_required",
                 "this control plane requires a TLS client certificate");
    else
        api_deny(ret, 403, "client_certificate_untrusted",
                 "the TLS client certificate is not one of its CA, or expired");
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
        answer(
            ret, 404, "error", "not_found", "message",
            "no such path; there are /api/v1/license/authorize, /api/v1/assets/register and /api/v1/health");
        return true;
    }
    if (routes[i].post)
        ok = strcmp(rq->method, "POST") == 0;
    else
        ok = strcmp(rq->method, "GET") == 0 || strcmp(rq->method, "HEAD") == 0;
    if (!ok) {
        answer(ret, 405, "error", "method_not_allowed", "message",
               routes[i].post ? "use POST here" : "use GET here");
        ret->allow = routes[i].post ? "POST" : "GET, HEAD";
        return true;
    }
    return api_refuse_unauthenticated(api, rq, routes[i].route, ret);
}

/* -- register ---------------------------------------------------------------------------------- */
static void api_warn_unsigned(const struct cp_api *api, const struct cp_asset *a)
{
    struct cp_blob blob;

    if (api->sas.account && cp_blob_parse(a->ciphertext_url, api->sas.account, &blob) < 0)
        tb_warn("register: %s is not a blob of storage account %s: its URLs will be handed out without a SAS",
                a->asset_id, api->sas.account);
}

/* Another key, or the key of other contents, takes the place of the one that is registered: that one is
 * kept. */
static bool api_supersedes(const struct cp_api *api, const struct cp_asset *a, const struct tb_key *key)
{
    _cleanup_key_ struct tb_key old_key = {0};
    struct cp_asset old;

    if (cp_store_get_asset(api->store, a->asset_id, &old) < 0)
        return false;
    return strcmp(old.sha256_ciphertext, a->sha256_ciphertext) != 0 ||
           cp_key_unwrap(api->master, a->asset_id, old.wrapped_key, &old_key) < 0 ||
           !tb_mem_equal(old_key.b, key->b, sizeof(key->b));
}

static void api_answer_register(struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    _cleanup_key_ struct tb_key key = {0};
    char err[TB_JSON_ERR_MAX];
    struct cp_asset a;
    bool replaced, supersedes;
    int r;

    r = cp_register_parse(rq->body, rq->body_len, &a, &key, err);
    if (r < 0) {
        tb_warn("register: refused from %s: %s", rq->peer, err);
        answer(ret, 400, "error", "invalid_request", "message", "the registration is not valid", "details",
               err);
        return;
    }
    a.registered_us = a.updated_us = rq->now_us;
    supersedes = api_supersedes(api, &a, &key);
    r = cp_key_wrap(api->master, a.asset_id, &key, a.wrapped_key);
    if (r == 0)
        r = cp_store_put_asset(api->store, &a, supersedes, &replaced);
    if (r < 0) {
        api_answer_store_failure(api, "register", r, ret);
        return;
    }
    api_warn_unsigned(api, &a);
    if (supersedes)
        tb_warn(
            "register: the key or the contents of %s are others now; `asset restore %s` brings the earlier "
            "registration back",
            a.asset_id, a.asset_id);
    tb_info("register: %s %s from %s", a.asset_id, replaced ? "replaced" : "registered", rq->peer);
    answer(ret, replaced ? 200 : 201, "status", "registered", "asset_id", a.asset_id, "message",
           replaced ? "the earlier registration was replaced" : "the asset is registered");
}

/* -- authorize --------------------------------------------------------------------------------- */
/* What a verdict is made of. reason NULL: authorized. */
struct cp_verdict {
    const char *reason;
    struct cp_contract contract;
    struct cp_asset asset;
};

/* 0 when v is the verdict, else a failure of the store. */
static int api_judge(struct cp_api *api, const struct cp_authorize *q, uint64_t now_us, struct cp_verdict *v)
{
    int r;

    r = cp_store_get_contract(api->store, q->contract_id, &v->contract);
    if (r == -ENOENT) {
        v->reason = "contract_invalid";
        return 0;
    }
    if (r < 0)
        return r;
    if (!v->contract.active)
        v->reason = *v->contract.reason ? v->contract.reason : "contract_inactive";
    else if (v->contract.expires_us && v->contract.expires_us <= now_us)
        v->reason = "contract_expired";
    else if (strcmp(v->contract.asset_id, CP_ANY_ASSET) != 0 &&
             strcmp(v->contract.asset_id, q->asset_id) != 0)
        v->reason = "asset_mismatch";
    if (v->reason)
        return 0;
    r = cp_store_get_asset(api->store, q->asset_id, &v->asset);
    if (r == -ENOENT) {
        v->reason = "asset_unknown";
        return 0;
    }
    if (r < 0)
        return r;
    r = cp_store_bind_hw(api->store, q->contract_id, q->hw_id, v->contract.max_hw, now_us);
    if (r == -EDQUOT) {
        v->reason = "hw_limit_reached";
        return 0;
    }
    return r;
}

static int api_note(struct cp_api *api, const struct cp_request *rq, const struct cp_authorize *q,
                    const char *reason)
{
    struct cp_log_entry e = {.at_us = rq->now_us, .authorized = !reason};

    snprintf(e.contract_id, sizeof(e.contract_id), "%s", q->contract_id);
    snprintf(e.asset_id, sizeof(e.asset_id), "%s", q->asset_id);
    snprintf(e.hw_id, sizeof(e.hw_id), "%s", q->hw_id);
    snprintf(e.peer, sizeof(e.peer), "%s", rq->peer);
    snprintf(e.client_name, sizeof(e.client_name), "%s", rq->client_name ? rq->client_name : "");
    snprintf(e.reason, sizeof(e.reason), "%s", reason ? reason : "");
    tb_info("authorize: %s for %s by machine %.8s at %s: %s%s", q->contract_id, q->asset_id, q->hw_id,
            rq->peer, reason ? "denied, " : "authorized", e.reason);
    return cp_store_add_log(api->store, &e);
}

/* Verdict, binding of the machine and log entry stand or fall together: a key never leaves without its
 * entry. */
static int api_decide(struct cp_api *api, const struct cp_request *rq, const struct cp_authorize *q,
                      struct cp_verdict *v)
{
    int r;

    r = cp_store_begin(api->store);
    if (r < 0)
        return r;
    r = api_judge(api, q, rq->now_us, v);
    if (r == 0)
        r = api_note(api, rq, q, v->reason);
    if (r < 0) {
        cp_store_rollback(api->store);
        return r;
    }
    return cp_store_commit(api->store);
}

static void api_misconfigured(struct cp_reply *ret)
{
    answer(ret, 500, "error", "server_configuration_error", "reason", "server_configuration_error", "message",
           "the control plane is not set up for this asset; see its log");
}

static void api_release(const struct cp_api *api, const struct cp_verdict *v, uint64_t now_us,
                        struct cp_reply *ret)
{
    char sas[CP_SAS_URL_MAX], manifest[CP_SAS_URL_MAX], hex[TB_KEY_HEX_CHARS + 1], expires[TB_RFC3339_MAX];
    uint64_t end_us = v->contract.expires_us ? v->contract.expires_us : UINT64_MAX;
    _cleanup_key_ struct tb_key key = {0};
    int r;

    r = cp_key_unwrap(api->master, v->asset.asset_id, v->asset.wrapped_key, &key);
    if (r < 0) {
        tb_error("authorize: the key of %s does not open with this master.key; restore the file or register "
                 "the asset again",
                 v->asset.asset_id);
        api_misconfigured(ret);
        return;
    }
    r = cp_sas_url(&api->sas, v->asset.ciphertext_url, now_us, end_us, sas);
    if (r >= 0)
        r = cp_sas_url(&api->sas, v->asset.manifest_url, now_us, end_us, manifest);
    if (r < 0) {
        tb_error(
            "authorize: cannot sign the URLs of %s (expected .../CONTAINER/BLOB); register the asset again",
            v->asset.asset_id);
        api_misconfigured(ret);
        return;
    }
    tb_hex_encode(key.b, sizeof(key.b), hex);
    tb_rfc3339_format(MIN(now_us + v->contract.lease_seconds * TB_USEC_PER_SEC, end_us), 0, expires);
    answer(ret, 200, "status", "authorized", "sas_url", sas, "manifest_url", manifest, "decryption_key_hex",
           hex, "expires_at", expires, "manifest_sha256",
           *v->asset.manifest_sha256 ? v->asset.manifest_sha256 : NULL);
    tb_erase(hex, sizeof(hex));
    tb_erase(sas, sizeof(sas));
    tb_erase(manifest, sizeof(manifest));
}

/* When a report says that it was made; 0 when it does not. */
static uint64_t api_report_time(const char *report)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *at;
    uint64_t us = 0;

    if (tb_json_parse(report, strlen(report), TB_REPORT_MAX, &o, err) == 0 &&
        tb_json_get_string(o, "at", &at, err) == 0)
        (void)tb_rfc3339_parse(at, &us);
    return us;
}

/* A report is kept when it was signed by who has the asset's key. It changes no verdict. */
static void api_take_usage(struct cp_api *api, const struct cp_authorize *q, const struct cp_asset *a)
{
    _cleanup_key_ struct tb_key key = {0};
    char mac[TB_REPORT_MAC_HEX + 1];
    struct cp_usage u = {.at_us = api_report_time(q->usage_report)};

    if (*q->usage_report == '\0' || cp_key_unwrap(api->master, a->asset_id, a->wrapped_key, &key) < 0)
        return;
    if (tb_report_mac(&key, q->usage_report, strlen(q->usage_report), mac) < 0 ||
        !tb_mem_equal(mac, q->usage_hmac, TB_REPORT_MAC_HEX) || u.at_us == 0) {
        tb_warn("authorize: the usage report of machine %.8s for %s is not signed with the key of %s, or has "
                "no time; ignored",
                q->hw_id, q->contract_id, q->asset_id);
        return;
    }
    snprintf(u.contract_id, sizeof(u.contract_id), "%s", q->contract_id);
    snprintf(u.asset_id, sizeof(u.asset_id), "%s", q->asset_id);
    snprintf(u.hw_id, sizeof(u.hw_id), "%s", q->hw_id);
    snprintf(u.report, sizeof(u.report), "%s", q->usage_report);
    if (cp_store_put_usage(api->store, &u) < 0)
        tb_error("authorize: a usage report is lost, the next one comes with the next renewal: %s",
                 cp_store_error(api->store));
}

static void api_answer_authorize(struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    struct cp_verdict v = {0};
    struct cp_authorize q;
    char err[TB_JSON_ERR_MAX];
    int r;

    r = cp_authorize_parse(rq->body, rq->body_len, &q, err);
    if (r < 0) {
        tb_warn("authorize: refused from %s: %s", rq->peer, err);
        answer(ret, 400, "status", "denied", "reason", "invalid_request", "error", "invalid_request",
               "message", err);
        return;
    }
    r = api_decide(api, rq, &q, &v);
    if (r < 0)
        api_answer_store_failure(api, "authorize", r, ret);
    else if (v.reason)
        api_deny(ret, 200, v.reason, NULL);
    else
        api_release(api, &v, rq->now_us, ret);
    if (r == 0 && !v.reason)
        api_take_usage(api, &q, &v.asset);
}

void cp_api_answer(struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    size_t i;

    if (cp_api_refuse(api, rq, ret) || !api_find_route(rq->path, &i))
        return;
    switch (routes[i].route) {
    case ROUTE_REGISTER:
        api_answer_register(api, rq, ret);
        break;
    case ROUTE_AUTHORIZE:
        api_answer_authorize(api, rq, ret);
        break;
    case ROUTE_HEALTH_V1:
        api_answer_health(ret, "ok");
        break;
    case ROUTE_HEALTH:
        api_answer_health(ret, "healthy");
        break;
    }
}
