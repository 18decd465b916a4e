/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/preflight.h"

#include <inttypes.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/units.h"

#define PROBE_NAME "tbpkg-write-check" /* a blob that is never made */

void preflight_clear(struct preflight *p)
{
    store_clear(&p->store);
    remote_clear(&p->remote);
    checklist_clear(&p->list);
}

/* -- storage ----------------------------------------------------------------------------------- */

/* What lies under the asset's name; of no asset: whether the container can be asked at all. */
static int preflight_look(struct preflight *p)
{
    struct asset_store *s = &p->store;
    struct blob_object probe = {.path = tb_strf("%s/" PROBE_NAME, s->container)};
    int rc = probe.path ? CLI_OK : tbpkg_fail_errno("Blob storage", -ENOMEM);

    if (rc == CLI_OK)
        rc = blob_object_look(&s->client, p->asset_id ? &s->ct : &probe, -1);
    if (rc == CLI_OK)
        rc = blob_object_may_write(&s->client, probe.path);
    tb_freep(&probe.path);
    return rc;
}

static void preflight_asset(struct preflight *p)
{
    struct finding *k = checklist_begin(&p->list, "asset id");
    const struct asset_store *s = &p->store;

    if (s->ct.there == BLOB_ABSENT)
        checklist_end(k, CLI_OK, CHECK_OK, "%s is free", s->ct.path);
    else if (p->fresh && s->ct.there == BLOB_OTHER && !s->overwrite)
        checklist_end(k, CLI_OK, CHECK_OK, "%s is another version: this one will lie beside it", s->ct.path);
    else
        checklist_end(k, CLI_OK, CHECK_OK, "%s is there", s->ct.path);
}

void preflight_storage(struct preflight *p)
{
    struct asset_store *s = &p->store;
    struct finding *k;
    int rc;

    s->cli = p->cli;
    s->asset_id = p->asset_id ? p->asset_id : "";
    k = checklist_begin(&p->list, "credential");
    rc = checklist_end(k, store_connect(s), CHECK_OK, "%s", s->auth.source);
    if (rc != CLI_OK) {
        checklist_note(&p->list, "container", CHECK_UNKNOWN, "cannot be asked without a credential");
        return;
    }
    k = checklist_begin(&p->list, "container");
    rc = checklist_end(k, preflight_look(p), CHECK_OK, "%s/%s can be read and written", s->service.url,
                       s->container);
    if (rc == CLI_OK && p->asset_id)
        preflight_asset(p);
}

/* -- control plane ----------------------------------------------------------------------------- */

static int preflight_ask(const struct preflight *p, const char *path, struct tb_http_response *ret)
{
    const struct remote_call call = {.path = path};

    return remote_exchange(&p->remote, &call, ret);
}

static int preflight_health(struct preflight *p)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    char reason[400], text[320];
    int rc = preflight_ask(p, "/api/v1/health", &rs);

    if (rc != CLI_OK || rs.status == 200)
        return rc;
    remote_describe(&rs, text, sizeof(text));
    snprintf(reason, sizeof(reason), "answered %ld to /api/v1/health%s", rs.status, text);
    return tb_http_status_retryable(rs.status)
               ? tbpkg_fail_as(CLI_UNAVAILABLE, p->remote.base, reason,
                               "tell its operator; run the command again later")
               : tbpkg_fail_as(
                     CLI_NOT_FOUND, p->remote.base, reason,
                     "check --edc-endpoint: it is the base URL of a control plane, without /api/v1");
}

static bool preflight_has_scope(const cJSON *who, const char *scope)
{
    const cJSON *i;

    cJSON_ArrayForEach (i, tb_json_member(who, "scopes"))
        if (cJSON_IsString(i) && strcmp(i->valuestring, scope) == 0)
            return true;
    return false;
}

static int preflight_scope_missing(const struct preflight *p, const char *scope, const char *for_what)
{
    char reason[700], remedy[300];

    snprintf(reason, sizeof(reason), "the token in %s may not %s: it has not the scope %s",
             p->remote.token_from ? p->remote.token_from : "(none)", for_what, scope);
    snprintf(remedy, sizeof(remedy),
             "an owner makes one by tbpkg token add NAME --scope publisher%s, and tbpkg login keeps it",
             strcmp(scope, "replace") == 0 ? " --scope replace" : "");
    return tbpkg_fail_as(CLI_DENIED, p->remote.base, reason, remedy);
}

/* "publisher, replace; ends 2026-12-24T00:00:00Z" */
static void preflight_describe_token(const cJSON *who, char *out, size_t size)
{
    const char *end = cJSON_GetStringValue(tb_json_member(who, "expires_at"));
    size_t n = 0;
    const cJSON *i;

    out[0] = '\0';
    cJSON_ArrayForEach (i, tb_json_member(who, "scopes"))
        if (cJSON_IsString(i) && n < size)
            n += (size_t)snprintf(out + n, size - n, "%s%.20s", n > 0 ? ", " : "", i->valuestring);
    if (end && n < size)
        snprintf(out + n, size - n, "; ends %.30s", end);
}

static int preflight_judge_token(const struct preflight *p, const cJSON *who, enum check_state *state)
{
    const char *end = cJSON_GetStringValue(tb_json_member(who, "expires_at"));
    uint64_t end_us;

    if (!preflight_has_scope(who, "owner") && !preflight_has_scope(who, "publisher"))
        return preflight_scope_missing(p, "publisher", "register an asset");
    if (p->replace && !preflight_has_scope(who, "owner") && !preflight_has_scope(who, "replace"))
        return preflight_scope_missing(p, "replace", "replace what live contracts use");
    if (end && tb_rfc3339_parse(end, &end_us) == 0 &&
        end_us < tb_now_realtime_us() + (p->seconds + 600) * TB_USEC_PER_SEC)
        *state = CHECK_WARNING;
    return CLI_OK;
}

static void preflight_token(struct preflight *p)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_json_ cJSON *who = NULL;
    struct finding *k = checklist_begin(&p->list, "token");
    enum check_state state = CHECK_OK;
    const char *from, *name;
    char why[TB_JSON_ERR_MAX], what[200];
    int rc = remote_find_token(&p->remote);

    if (rc == CLI_OK && !p->remote.authorization && !p->remote.cert)
        rc = remote_no_token(&p->remote);
    if (rc == CLI_OK)
        rc = preflight_ask(p, REMOTE_ADMIN "whoami", &rs);
    from = p->remote.token_from ? p->remote.token_from : "no file";
    if (rc == CLI_OK && rs.status == 404) {
        checklist_end(k, CLI_OK, CHECK_UNKNOWN, "of %s; this control plane does not say what it may do",
                      from);
        return;
    }
    if (rc == CLI_OK && rs.status != 200)
        rc = remote_refused(&p->remote, &(struct remote_object){0}, &rs);
    if (rc == CLI_OK && tb_json_parse(rs.body, rs.len, TB_HTTP_RESPONSE_MAX, &who, why) < 0)
        rc = tbpkg_fail(p->remote.base, "did not say in JSON whose the token is",
                        "check --edc-endpoint: is it a control plane?");
    if (rc == CLI_OK)
        rc = preflight_judge_token(p, who, &state);
    name = cJSON_GetStringValue(tb_json_member(who, "name"));
    preflight_describe_token(who, what, sizeof(what));
    checklist_end(k, rc, state, "%s of %s (%s)%s", name ? name : "?", from, what,
                  state == CHECK_WARNING ? ", perhaps before the asset can be registered" : "");
}

static bool preflight_is_registered(const struct preflight *p, const cJSON *asset)
{
    const cJSON *v;

    cJSON_ArrayForEach (v, tb_json_member(asset, "versions")) {
        const char *sha = cJSON_GetStringValue(tb_json_member(v, "sha256_ciphertext"));

        if (*p->sha256 && sha && strcmp(sha, p->sha256) == 0)
            return true;
    }
    return false;
}

/* What the control plane would say to another key or other contents under this id. */
static void preflight_judge_asset(struct preflight *p, struct finding *k, const cJSON *asset)
{
    char why[TB_JSON_ERR_MAX], reason[200];
    uint64_t live = 0, version = 0;

    (void)tb_json_get_uint(asset, "live_contracts", TB_JSON_INT_MAX, &live, why);
    (void)tb_json_get_uint(asset, "current_version", TB_JSON_INT_MAX, &version, why);
    if (preflight_is_registered(p, asset)) {
        checklist_end(k, CLI_OK, CHECK_OK, "%s is registered, with this ciphertext", p->asset_id);
        return;
    }
    if (live == 0 || p->replace) {
        checklist_end(k, CLI_OK, CHECK_OK, "%s has version %" PRIu64 ", and gets the next one", p->asset_id,
                      version);
        return;
    }
    snprintf(reason, sizeof(reason),
             "%" PRIu64 " live contract%s this asset, and its key and contents would be others", live,
             live == 1 ? " uses" : "s use");
    checklist_end(k,
                  tbpkg_fail_as(CLI_REFUSED, p->asset_id, reason,
                                "--replace if that is meant; tbpkg register --no-promote keeps a new version "
                                "beside this one; another model takes a new asset id"),
                  CHECK_OK, "-");
}

static void preflight_registration(struct preflight *p)
{
    _cleanup_free_ char *asset = remote_path("assets", p->asset_id),
                        *path = asset ? tb_strf(REMOTE_ADMIN "%s", asset) : NULL;
    _cleanup_http_response_ struct tb_http_response rs = {0};
    _cleanup_json_ cJSON *doc = NULL;
    struct finding *k = checklist_begin(&p->list, "registration");
    char why[TB_JSON_ERR_MAX];
    int rc = path ? preflight_ask(p, path, &rs) : tbpkg_fail_errno(p->asset_id, -ENOMEM);

    if (rc == CLI_OK && rs.status == 200 &&
        tb_json_parse(rs.body, rs.len, TB_HTTP_RESPONSE_MAX, &doc, why) == 0)
        preflight_judge_asset(p, k, doc);
    else if (rc == CLI_OK && rs.status == 404)
        checklist_end(k, CLI_OK, CHECK_OK, "%s is new to it", p->asset_id);
    else
        checklist_end(k, rc, CHECK_UNKNOWN, "the control plane answered %ld when asked for %s", rs.status,
                      p->asset_id);
}

void preflight_control_plane(struct preflight *p)
{
    struct finding *k = checklist_begin(&p->list, "control plane");
    int rc;

    p->remote.cli = p->cli;
    rc = remote_open(&p->remote, false);
    if (rc == CLI_OK)
        rc = preflight_health(p);
    rc = checklist_end(k, rc, CHECK_OK, "%s", p->remote.base);
    if (rc != CLI_OK) {
        checklist_note(&p->list, "token", CHECK_UNKNOWN, "the control plane cannot be asked");
        return;
    }
    preflight_token(p);
    if (p->asset_id && p->list.v[p->list.n - 1].state <= CHECK_WARNING)
        preflight_registration(p);
}
