/* SPDX-License-Identifier: Apache-2.0 */
/* contracts, and the codes by which their machines enrol */
#include <openssl/sha.h>
#include <string.h>

#include "common/hex.h"
#include "common/units.h"
#include "controlplane/admin/call.h"
#include "controlplane/attest/policy.h"
#include "controlplane/identity/authority.h"
#include "controlplane/identity/code.h"

#define CODE_LIFE_US (7ULL * 86400 * TB_USEC_PER_SEC)
#define CONTRACT_HW_MAX 1000000

/* -- reading ----------------------------------------------------------------------------------- */
static int contract_row(const struct cp_contract *k, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_contract(o, k, l->c->now_us, false);
        snprintf(l->last, sizeof(l->last), "%s", k->contract_id);
    }
    return r;
}

int cp_admin_contract_list(struct cp_store *s, struct cp_call *c)
{
    static const char *const states[] = {"active", "expired", "revoked", "denied", NULL};
    struct cp_contract_page page = {.after = cp_query_text(c, "after"),
                                    .asset_id = cp_query_text(c, "asset_id")};
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after", "asset_id", "state");

    if (r == 0)
        r = cp_query_word(c, "state", states, &page.state);
    if (r == 0)
        r = cp_listing_begin(c, "contracts", &l);
    if (r < 0)
        return r;
    page.limit = l.limit + 1;
    return cp_listing_end(&l, cp_store_page_contracts(s, c->now_us, &page, contract_row, &l));
}

static int contract_find(struct cp_store *s, struct cp_call *c, const char *id, struct cp_contract *ret)
{
    int r = tb_id_valid(id) ? cp_store_get_contract(s, id, c->now_us, ret) : -ENOENT;

    return r == -ENOENT ? cp_refuse_unknown(c, "contract", id) : r;
}

/* It rises with each change. */
static void contract_etag(const struct cp_contract *k, char out[static 32])
{
    snprintf(out, 32, "\"%llx\"", (unsigned long long)k->updated_us);
}

static int contract_answer(struct cp_call *c, unsigned status, const struct cp_contract *k)
{
    cJSON *o = cp_say(c, status);

    if (status == 201)
        o = cJSON_AddObjectToObject(o, "contract");
    cp_show_contract(o, k, c->now_us, true);
    contract_etag(k, c->etag);
    return o ? 0 : -ENOMEM;
}

int cp_admin_contract_show(struct cp_store *s, struct cp_call *c)
{
    struct cp_contract k;
    int r = cp_query_check(c, (const char *const[]){NULL});

    if (r == 0)
        r = contract_find(s, c, c->arg[0], &k);
    return r < 0 ? r : contract_answer(c, 200, &k);
}

/* -- changing ---------------------------------------------------------------------------------- */

/* For the log of changes: the CAs by their hash. */
static cJSON *contract_facts(const struct cp_call *c, const struct cp_contract *k)
{
    uint8_t sum[SHA256_DIGEST_LENGTH];
    char hex[CP_SHA256_HEX + 1];
    cJSON *o = cJSON_CreateObject();

    cp_show_contract(o, k, c->now_us, false);
    cJSON_DeleteItemFromObjectCaseSensitive(o, "machines"); /* what was changed, not what happens to be */
    if (*k->client_ca) {
        SHA256((const uint8_t *)k->client_ca, strlen(k->client_ca), sum);
        tb_hex_encode(sum, sizeof(sum), hex);
        cJSON_AddStringToObject(o, "client_ca_sha256", hex);
    }
    return o;
}

/* Keeps what k was changed to, with its line in the chain. */
static int contract_keep(struct cp_store *s, struct cp_call *c, const char *action,
                         const struct cp_contract *was, struct cp_contract *k)
{
    int r;

    k->updated_us = was ? MAX(c->now_us, was->updated_us + 1) : c->now_us;
    r = cp_store_put_contract(s, k, was != NULL);
    return r < 0 ? r
                 : cp_note(s, c, action, k->contract_id, was ? contract_facts(c, was) : NULL,
                           contract_facts(c, k));
}

static int contract_apply_ca(struct cp_call *c, struct cp_contract *k)
{
    const cJSON *m = tb_json_member(c->body, "client_ca");

    if (m && cJSON_IsNull(m))
        k->client_ca[0] = '\0';
    else if (m && (!cJSON_IsString(m) || strlen(m->valuestring) > CP_CLIENT_CA_MAX ||
                   cp_ca_count(m->valuestring) == 0))
        return cp_refuse_body(c, "client_ca is not certificates of CAs in PEM, of at most %d bytes",
                              CP_CLIENT_CA_MAX);
    else if (m)
        strcpy(k->client_ca, m->valuestring);
    return *k->client_ca && k->mode != CP_MODE_CERTIFICATE
               ? cp_refuse_body(c, "client_ca is for the mode certificate; take it away with null")
               : 0;
}

/* An image that nobody registered would refuse every machine: a name was misspelt. */
static int contract_check_images(struct cp_store *s, struct cp_call *c, const struct cp_attest_policy *p)
{
    const char *unknown;
    int r = cp_policy_check_images(s, p, &unknown);

    return r == -ENOENT ? cp_refuse(c, 422, "image_unknown",
                                    "no image %s is registered and valid; register it first", unknown)
                        : r;
}

static int contract_apply_attest(struct cp_store *s, struct cp_call *c, struct cp_contract *k)
{
    const cJSON *m = tb_json_member(c->body, "attest");
    struct cp_attest_policy policy;
    char err[TB_JSON_ERR_MAX];

    if (!m)
        return 0;
    k->attest[0] = '\0';
    if (cJSON_IsNull(m))
        return 0;
    if (!cJSON_PrintPreallocated((cJSON *)m, k->attest, (int)sizeof(k->attest) - 8, false))
        return cp_refuse_body(c, "attest is longer than a policy may be");
    if (cp_policy_parse(k->attest, &policy, err) < 0)
        return cp_refuse_body(c, "%s", err);
    if (policy.level == CP_LEVEL_NONE)
        k->attest[0] = '\0';
    return contract_check_images(s, c, &policy);
}

/* A contract for an asset that is not there would refuse every machine: a name was misspelt. */
static int contract_check_ref(struct cp_store *s, struct cp_call *c, const struct cp_contract *k)
{
    struct cp_asset a;
    int r;

    if (strcmp(k->asset_id, CP_ANY_ASSET) == 0)
        return k->version ? cp_refuse_body(c, "version is of one asset, and asset_id is every asset") : 0;
    r = cp_store_get_asset(s, k->asset_id, k->version, &a);
    if (r != -ENOENT)
        return r;
    if (k->version)
        return cp_refuse(c, 422, "asset_unknown",
                         "there is no asset %s with a version %llu; register it first", k->asset_id,
                         (unsigned long long)k->version);
    return cp_refuse(c, 422, "asset_unknown", "there is no asset %s; register it first", k->asset_id);
}

/* What the body says of a contract that is new, or was. */
static int contract_apply(struct cp_store *s, struct cp_call *c, struct cp_contract *k)
{
    int r = cp_body_id(c, "asset_id", &cp_asset_ref_id, *k->asset_id ? k->asset_id : NULL, k->asset_id,
                       sizeof(k->asset_id));

    if (r == 0)
        r = cp_body_uint(c, c->body, "version", 1, TB_JSON_INT_MAX, true, &k->version);
    if (r == 0)
        r = cp_body_mode(c, &k->mode);
    if (r == 0)
        r = cp_body_time(c, c->body, "expires_at", true, &k->expires_us);
    if (r == 0)
        r = cp_body_uint(c, c->body, "lease_seconds", 1, CP_LEASE_SECONDS_MAX, false, &k->lease_seconds);
    if (r == 0)
        r = cp_body_uint(c, c->body, "max_hw", 1, CONTRACT_HW_MAX, true, &k->max_hw);
    if (r == 0)
        r = cp_body_uint(c, c->body, "slot_ttl_seconds", 1, CP_LEASE_SECONDS_MAX, false, &k->slot_ttl_s);
    if (r == 0)
        r = contract_apply_ca(c, k);
    if (r == 0)
        r = contract_apply_attest(s, c, k);
    return r == 0 ? contract_check_ref(s, c, k) : r;
}

/* -- codes ------------------------------------------------------------------------------------- */

/* A code of the terms, in o; and in the store. */
static int code_make(struct cp_store *s, struct cp_call *c, const char *contract_id, const cJSON *terms,
                     cJSON *o)
{
    struct cp_code k = {.uses_left = 1, .created_us = c->now_us, .expires_us = c->now_us + CODE_LIFE_US};
    char text[CP_CODE_CHARS + 1];
    cJSON *facts;
    int r = cp_body_check(c, terms, (const char *const[]){"uses", "expires_at", NULL});

    if (r == 0)
        r = cp_body_uint(c, terms, "uses", 1, CONTRACT_HW_MAX, false, &k.uses_left);
    if (r == 0)
        r = cp_body_time(c, terms, "expires_at", false, &k.expires_us);
    if (r == 0 && k.expires_us <= c->now_us)
        r = cp_refuse_body(c, "expires_at of the code is over");
    if (r < 0)
        return r;
    strcpy(k.contract_id, contract_id);
    r = cp_code_make(text);
    if (r == 0)
        r = cp_code_hash(text, k.code_sha256);
    if (r == 0)
        r = cp_store_put_code(s, &k);
    cJSON_AddStringToObject(o, "code", text);
    cp_show_code(o, &k);
    tb_erase(text, sizeof(text));
    if (r < 0)
        return r;
    facts = cJSON_CreateObject();
    cp_show_code(facts, &k);
    return cp_note(s, c, "contract.code", contract_id, NULL, facts);
}

int cp_admin_contract_add(struct cp_store *s, struct cp_call *c)
{
    struct cp_contract k = {.mode = CP_MODE_ENROLLED,
                            .active = true,
                            .lease_seconds = CP_LEASE_SECONDS_DEFAULT,
                            .slot_ttl_s = CP_SLOT_TTL_DEFAULT,
                            .created_us = c->now_us};
    const cJSON *terms = tb_json_member(c->body, "code");
    int r = cp_body_only(c, "contract_id", "asset_id", "version", "mode", "expires_at", "lease_seconds",
                         "max_hw", "slot_ttl_seconds", "client_ca", "attest", "code");

    if (r == 0)
        r = cp_body_id(c, "contract_id", &cp_plain_id, NULL, k.contract_id, sizeof(k.contract_id));
    if (r == 0)
        r = contract_apply(s, c, &k);
    if (r == 0 && terms && (!cJSON_IsObject(terms) || k.mode != CP_MODE_ENROLLED))
        r = cp_refuse_body(c, "code is an object, of a contract of the mode enrolled");
    if (r == 0)
        r = contract_keep(s, c, "contract.add", NULL, &k);
    if (r == -EEXIST)
        return cp_refuse(c, 409, "contract_exists",
                         "there is a contract %s already; edit it, or take another name", k.contract_id);
    if (r == 0)
        r = contract_answer(c, 201, &k);
    if (r == 0 && k.mode == CP_MODE_ENROLLED)
        r = code_make(s, c, k.contract_id, terms, cJSON_AddObjectToObject(c->answer, "enrolment"));
    return r;
}

/* If-Match: what the caller read is what is here. */
static int contract_check_match(struct cp_call *c, const struct cp_contract *k)
{
    const char *want = c->rq->if_match;
    char etag[32];

    contract_etag(k, etag);
    if (!want || strcmp(want, "*") == 0 || strcmp(want, etag) == 0)
        return 0;
    return cp_refuse(c, 412, "contract_changed", "somebody else changed contract %s meanwhile; read it again",
                     k->contract_id);
}

int cp_admin_contract_edit(struct cp_store *s, struct cp_call *c)
{
    struct cp_contract was, k;
    int r = cp_body_only(c, "asset_id", "version", "mode", "expires_at", "lease_seconds", "max_hw",
                         "slot_ttl_seconds", "client_ca", "attest");

    if (r == 0 && !c->body->child)
        r = cp_refuse_body(c, "the body changes nothing");
    if (r == 0)
        r = contract_find(s, c, c->arg[0], &was);
    if (r == 0)
        r = contract_check_match(c, &was);
    if (r < 0)
        return r;
    k = was;
    r = contract_apply(s, c, &k);
    if (r == 0)
        r = contract_keep(s, c, "contract.edit", &was, &k);
    return r < 0 ? r : contract_answer(c, 200, &k);
}

static int contract_set_state(struct cp_store *s, struct cp_call *c, const char *action, const char *reason)
{
    struct cp_contract was, k;
    int r = contract_find(s, c, c->arg[0], &was);

    if (r < 0)
        return r;
    k = was;
    k.active = !*reason;
    snprintf(k.reason, sizeof(k.reason), "%s", reason);
    r = contract_keep(s, c, action, &was, &k);
    return r < 0 ? r : contract_answer(c, 200, &k);
}

int cp_admin_contract_revoke(struct cp_store *s, struct cp_call *c)
{
    char reason[CP_REASON_MAX + 1] = "";
    int r = cp_body_only(c, "reason");

    if (r == 0)
        r = cp_body_id(c, "reason", &cp_plain_id, "contract_revoked", reason, sizeof(reason));
    return r < 0 ? r
                 : contract_set_state(
                       s, c, strcmp(reason, "contract_revoked") == 0 ? "contract.revoke" : "contract.deny",
                       reason);
}

int cp_admin_contract_allow(struct cp_store *s, struct cp_call *c)
{
    int r = cp_body_check(c, c->body, (const char *const[]){NULL});

    return r < 0 ? r : contract_set_state(s, c, "contract.allow", "");
}

int cp_admin_code_create(struct cp_store *s, struct cp_call *c)
{
    struct cp_contract k;
    int r = contract_find(s, c, c->arg[0], &k);

    if (r < 0)
        return r;
    if (k.mode != CP_MODE_ENROLLED)
        return cp_refuse(c, 409, "enrolment_not_used", "contract %s is of mode %s: its machines do not enrol",
                         k.contract_id, cp_mode_names[k.mode]);
    return code_make(s, c, k.contract_id, c->body, cp_say(c, 201));
}

static int code_row(const struct cp_code *k, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_code(o, k);
        snprintf(l->last, sizeof(l->last), "%s:%s", k->contract_id, k->code_sha256);
    }
    return r;
}

int cp_admin_code_list(struct cp_store *s, struct cp_call *c)
{
    const char *after = cp_query_text(c, "after"), *colon = strchr(after, ':'), *contract = "";
    struct cp_code from = {0};
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after", "contract_id");

    if (r == 0)
        r = cp_query_contract(c, &contract);
    if (r == 0 && *after &&
        (!colon || (size_t)(colon - after) > TB_ID_MAX || strlen(colon + 1) > CP_SHA256_HEX))
        r = cp_refuse_body(c, "the parameter after is not what a page before had as next");
    if (r == 0)
        r = cp_listing_begin(c, "codes", &l);
    if (r < 0)
        return r;
    if (colon) {
        memcpy(from.contract_id, after, (size_t)(colon - after));
        strcpy(from.code_sha256, colon + 1);
    }
    return cp_listing_end(&l, cp_store_page_codes(s, c->now_us, contract, &from, l.limit + 1, code_row, &l));
}

int cp_admin_code_revoke(struct cp_store *s, struct cp_call *c)
{
    const char *id = c->arg[0];
    struct cp_code k;
    cJSON *before, *o;
    int r = -ENOENT;

    if (strlen(id) == CP_CODE_ID_CHARS && strspn(id, "0123456789abcdef") == CP_CODE_ID_CHARS)
        r = cp_store_end_code(s, id, &k);
    if (r < 0)
        return r == -ENOENT ? cp_refuse_unknown(c, "code", id) : r;
    before = cJSON_CreateObject();
    cp_show_code(before, &k);
    k.uses_left = 0;
    o = cp_say(c, 200);
    cp_show_code(o, &k);
    return o ? cp_note(s, c, "contract.code_end", k.contract_id, before, NULL) : -ENOMEM;
}
