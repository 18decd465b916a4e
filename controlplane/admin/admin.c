/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/admin/admin.h"

#include <string.h>

#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/admin/call.h"
#include "controlplane/api/answer.h"

/* Larger than any answer with a secret in it, so that cJSON never reallocates a buffer that holds one. */
#define ADMIN_ANSWER_ROOM (64 * 1024)
#define IDEMPOTENCY_KEY_MIN 16
#define IDEMPOTENCY_KEY_MAX 100

static cp_call_fn *const admin_calls[_CP_CALL_MAX] = {
    [CP_CALL_WHOAMI] = cp_admin_whoami,
    [CP_CALL_CONTRACT_LIST] = cp_admin_contract_list,
    [CP_CALL_CONTRACT_ADD] = cp_admin_contract_add,
    [CP_CALL_CONTRACT_SHOW] = cp_admin_contract_show,
    [CP_CALL_CONTRACT_EDIT] = cp_admin_contract_edit,
    [CP_CALL_CONTRACT_REVOKE] = cp_admin_contract_revoke,
    [CP_CALL_CONTRACT_ALLOW] = cp_admin_contract_allow,
    [CP_CALL_CODE_CREATE] = cp_admin_code_create,
    [CP_CALL_CODE_LIST] = cp_admin_code_list,
    [CP_CALL_CODE_REVOKE] = cp_admin_code_revoke,
    [CP_CALL_MACHINE_LIST] = cp_admin_machine_list,
    [CP_CALL_MACHINE_REMOVE] = cp_admin_machine_remove,
    [CP_CALL_MACHINE_EXPEL] = cp_admin_machine_expel,
    [CP_CALL_ASSET_LIST] = cp_admin_asset_list,
    [CP_CALL_ASSET_SHOW] = cp_admin_asset_show,
    [CP_CALL_ASSET_DELETE] = cp_admin_asset_delete,
    [CP_CALL_ASSET_PROMOTE] = cp_admin_asset_promote,
    [CP_CALL_VERSION_DELETE] = cp_admin_version_delete,
    [CP_CALL_BILLING_SHOW] = cp_admin_billing_show,
    [CP_CALL_BILLING_SET] = cp_admin_billing_set,
    [CP_CALL_BILLING_END] = cp_admin_billing_end,
    [CP_CALL_CONTRACT_AWAIT] = cp_admin_contract_await,
    [CP_CALL_OFFER_LIST] = cp_admin_offer_list,
    [CP_CALL_OFFER_SHOW] = cp_admin_offer_show,
    [CP_CALL_OFFER_PUT] = cp_admin_offer_put,
    [CP_CALL_OFFER_REMOVE] = cp_admin_offer_remove,
    [CP_CALL_PURCHASE_LIST] = cp_admin_purchase_list,
    [CP_CALL_PURCHASE_SHOW] = cp_admin_purchase_show,
    [CP_CALL_SUBMITTER_SHOW] = cp_admin_submitter_show,
    [CP_CALL_EVENT_LIST] = cp_admin_event_list,
    [CP_CALL_EVENT_RESOLVE] = cp_admin_event_resolve,
    [CP_CALL_KEK_LIST] = cp_admin_kek_list,
    [CP_CALL_KEK_REWRAP] = cp_admin_kek_rewrap,
    [CP_CALL_IMAGE_LIST] = cp_admin_image_list,
    [CP_CALL_IMAGE_REGISTER] = cp_admin_image_register,
    [CP_CALL_IMAGE_REVOKE] = cp_admin_image_revoke,
    [CP_CALL_USAGE] = cp_admin_usage,
    [CP_CALL_TOKEN_LIST] = cp_admin_token_list,
    [CP_CALL_TOKEN_CREATE] = cp_admin_token_create,
    [CP_CALL_TOKEN_REVOKE] = cp_admin_token_revoke,
    [CP_CALL_LOG_LIST] = cp_admin_log_list,
    [CP_CALL_CHANGE_LIST] = cp_admin_change_list,
    [CP_CALL_CHANGE_EXPORT] = cp_admin_change_export,
};

/* -- which call it is -------------------------------------------------------------------------- */
bool cp_admin_path(const char *path)
{
    size_t n = strlen(CP_ADMIN);

    return strncmp(path, CP_ADMIN, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Whether the path is of this kind; what stands for its {}, when c is given. */
static bool admin_match(const char *pattern, const char *path, struct cp_call *c)
{
    size_t arg = 0;

    while (*pattern && *path) {
        size_t n = strcspn(path, "/");

        if (strncmp(pattern, "{}", 2) != 0) {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        if (n == 0 || n >= sizeof(c->arg[0]))
            return false;
        if (c)
            snprintf(c->arg[arg], sizeof(c->arg[arg]), "%.*s", (int)n, path);
        arg++;
        pattern += 2;
        path += n;
    }
    return !*pattern && !*path;
}

static bool admin_method_fits(const char *wanted, const char *method)
{
    return strcmp(wanted, method) == 0 || (strcmp(wanted, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* A path without {} is found before one with: /machines/remove is no machine. */
static bool admin_find(const struct cp_request *rq, enum cp_call_name *ret, bool *ret_path)
{
    *ret_path = false;
    for (int i = 0; i < _CP_CALL_MAX; i++) {
        if (!admin_calls[i] || !admin_match(cp_calls[i].path, rq->path, NULL))
            continue;
        *ret_path = true;
        if (admin_method_fits(cp_calls[i].method, rq->method)) {
            *ret = (enum cp_call_name)i;
            return true;
        }
    }
    return false;
}

static void admin_say_allowed(const struct cp_request *rq,
                              char out[static sizeof(((struct cp_reply *)0)->allow)])
{
    static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
    size_t n = 0, room = sizeof(((struct cp_reply *)0)->allow);

    out[0] = '\0';
    for (size_t m = 0; m < ARRAY_SIZE(methods); m++)
        for (int i = 0; i < _CP_CALL_MAX; i++)
            if (admin_calls[i] && strcmp(cp_calls[i].method, methods[m]) == 0 &&
                admin_match(cp_calls[i].path, rq->path, NULL)) {
                n += (size_t)snprintf(out + n, room - n, "%s%s%s", n ? ", " : "", methods[m],
                                      m == 0 ? ", HEAD" : "");
                break;
            }
}

static bool admin_key_valid(const char *key)
{
    size_t n = strlen(key);

    for (const char *s = key; *s; s++)
        if (*s <= ' ' || *s >= 0x7f)
            return false;
    return n >= IDEMPOTENCY_KEY_MIN && n <= IDEMPOTENCY_KEY_MAX;
}

bool cp_admin_refuse(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret)
{
    enum cp_call_name call;
    bool path;

    if (cp_answer_stranger(api, rq, ret))
        return true;
    if (!admin_find(rq, &call, &path)) {
        if (!path) {
            cp_answer(ret, 404, "error", "not_found", "message",
                      "no such path; docs/controlplane.openapi.yaml names those that there are");
            return true;
        }
        cp_answer(ret, 405, "error", "method_not_allowed", "message", "this path has another method");
        admin_say_allowed(rq, ret->allow);
        return true;
    }
    if (rq->idempotency_key && !admin_key_valid(rq->idempotency_key)) {
        cp_answer(ret, 400, "error", "invalid_request", "message",
                  "Idempotency-Key is not 16 to 100 printable characters; take a random UUID");
        return true;
    }
    return false;
}

/* -- the transaction --------------------------------------------------------------------------- */
static bool admin_changes(const struct cp_call *c)
{
    return cp_calls[c->name].method[0] != 'G';
}

static void admin_wipe(cJSON *j)
{
    for (cJSON *m = j ? j->child : NULL; m; m = m->next)
        admin_wipe(m);
    if (j && cJSON_IsString(j) && j->valuestring)
        tb_erase(j->valuestring, strlen(j->valuestring));
}

static void admin_forget_answer(struct cp_call *c)
{
    admin_wipe(c->answer);
    tb_json_freep(&c->answer);
    tb_buf_free(&c->text);
    c->content_type = NULL;
    c->etag[0] = '\0';
    c->refused = c->scope_missing = c->replayed = false;
    c->why[0] = '\0';
    c->status = 0;
}

static char *admin_print(const struct cp_call *c)
{
    return c->answer ? cJSON_PrintBuffered(c->answer, ADMIN_ANSWER_ROOM, 0) : NULL;
}

static int admin_replay(struct cp_store *s, struct cp_call *c)
{
    int r = cp_replay(s, c);

    return r != -EEXIST ? r
                        : cp_refuse(c, 422, "idempotency_key_reused",
                                    "this Idempotency-Key was for another request; take a new one for each");
}

static int admin_do(struct cp_store *s, void *ctx)
{
    struct cp_call *c = ctx;
    bool keyed = admin_changes(c) && c->rq->idempotency_key;
    _cleanup_erase_string_ char *body = NULL;
    int r;

    admin_forget_answer(c);
    r = admin_changes(c) ? 0 : cp_store_only_read(s);
    if (r == 0)
        r = cp_caller_recheck(s, &c->who, c->now_us, c->why);
    if (r == 0 && keyed)
        r = admin_replay(s, c);
    if (r != 0)
        return r;
    r = admin_calls[c->name](s, c);
    if (r < 0 || !keyed)
        return r;
    body = admin_print(c);
    return body ? cp_keep(s, c, body) : -ENOMEM;
}

/* -- the answer -------------------------------------------------------------------------------- */
/* No database must judge that, and no answer say it again. */
static bool admin_is_text(const cJSON *j)
{
    const cJSON *m;

    if (cJSON_IsString(j) && !cp_is_text(j->valuestring))
        return false;
    cJSON_ArrayForEach (m, j) {
        if (!admin_is_text(m))
            return false;
    }
    return true;
}

static bool admin_read_body(struct cp_call *c, struct cp_reply *ret)
{
    char err[TB_JSON_ERR_MAX] = "the body is not a JSON object";
    int r = 0;

    if (c->rq->body_len > 0 && admin_changes(c))
        r = tb_json_parse(c->rq->body, c->rq->body_len, CP_BODY_MAX, &c->body, err);
    else
        c->body = cJSON_CreateObject();
    if (r == 0 && cJSON_IsObject(c->body) && admin_is_text(c->body))
        return true;
    if (r == 0 && cJSON_IsObject(c->body))
        snprintf(err, sizeof(err), "the body has text that is not UTF-8");
    for (char *e = err; *e; e++) /* it may quote a member's name */
        if (*e < ' ' || *e >= 0x7f)
            *e = '?';
    cp_answer(ret, 400, "error", "invalid_request", "message", err);
    return false;
}

static void admin_hand_over(struct cp_call *c, struct cp_reply *ret)
{
    *ret = (struct cp_reply){.status = c->status,
                             .content_type = c->content_type,
                             .replayed = c->replayed,
                             .retry_s = c->status == 503 ? 1 : 0};
    snprintf(ret->etag, sizeof(ret->etag), "%s", c->etag);
    if (!c->content_type) {
        ret->body = admin_print(c);
        return;
    }
    if (tb_buf_append(&c->text, "", 1) == 0) {
        ret->body = c->text.data;
        c->text = (struct tb_buf){0};
    }
}

/* What was done or refused; reading is at the level debug. The path has names and nothing secret. */
static void admin_log(const struct cp_call *c)
{
    const char *operation = cp_calls[c->name].operation;
    char actor[CP_ACTOR_MAX + 20], call[60], peer[100], status[30], path[CP_LOG_PATH_MAX];
    const char *const fields[] = {actor, call, peer, status, NULL};

    snprintf(actor, sizeof(actor), "TB_ACTOR=%s", c->who.actor);
    snprintf(call, sizeof(call), "TB_OPERATION=%s", operation);
    snprintf(peer, sizeof(peer), "TB_PEER=%s", c->rq->peer);
    snprintf(status, sizeof(status), "TB_STATUS=%u", c->status);
    tb_log_full(c->refused || admin_changes(c) ? TB_LOG_INFO : TB_LOG_DEBUG, NULL, fields,
                "admin: %s by %s from %s: %s %s: %u%s", operation, c->who.actor, c->rq->peer, c->rq->method,
                cp_log_path(c->rq, path), c->status, c->replayed ? ", said again" : "");
}

static void admin_answer(struct cp_store *s, struct cp_call *c, struct cp_reply *ret)
{
    int r = c->name == CP_CALL_KEK_LIST || c->name == CP_CALL_KEK_REWRAP ? cp_kek_prepare(s, c) : 0;

    if (r == 0)
        r = cp_store_transact(s, admin_do, c);
    if (r >= 0 || (r == -ECANCELED && c->refused)) {
        admin_log(c);
        admin_hand_over(c, ret);
    } else if (r == -ECANCELED && c->scope_missing) {
        cp_answer_scope(&c->who, c->wanted, "changing what live contracts use", ret);
    } else if (*c->why) {
        cp_answer_caller(c->api, s, c->rq, r, c->why, ret);
    } else {
        cp_answer_store_failure(s, cp_calls[c->name].operation, r, ret);
    }
}

void cp_admin_answer(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     struct cp_reply *ret)
{
    struct cp_call c = {.api = api, .rq = rq, .now_us = rq->now_us};
    bool path;

    if (cp_admin_refuse(api, rq, ret) || !admin_find(rq, &c.name, &path))
        return;
    admin_match(cp_calls[c.name].path, rq->path, &c);
    if (cp_authenticate(api, s, rq, c.name, &c.who, ret) && admin_read_body(&c, ret))
        admin_answer(s, &c, ret);
    admin_forget_answer(&c);
    cp_kek_release(&c);
    admin_wipe(c.body);
    cJSON_Delete(c.body);
}
