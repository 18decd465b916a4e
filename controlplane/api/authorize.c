/* SPDX-License-Identifier: Apache-2.0 */
/* POST /api/v1/license/authorize. Verdict, slot, release of the key, usage and log entry are one transaction:
 * a key never leaves without its entry. */
#include <string.h>

#include "common/hex.h"
#include "common/log.h"
#include "common/units.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/attest.h"
#include "controlplane/api/fault.h"
#include "controlplane/api/metrics.h"
#include "controlplane/api/release.h"
#include "controlplane/api/usage_report.h"
#include "controlplane/attest/challenge.h"
#include "controlplane/store/billing.h"

/* A key that will be needed, unwrapped before the transaction: a key service may take its time, and others
 * wait for the lock. */
struct unwrapped {
    struct cp_wrapped wrapped; /* len 0: nothing */
    struct tb_key key;
};

struct decision {
    const struct cp_api *api;
    const struct cp_request *rq;
    struct cp_authorize q;
    struct cp_attest_turn attest;
    struct cp_usage_report *report; /* NULL: none that could be read */
    struct unwrapped unwrapped[2];  /* of the version of the contract, and of the one that is held */
    /* found anew at each try */
    const char *reason; /* NULL: authorized */
    enum cp_fault fault;
    struct cp_contract contract;
    struct cp_identity identity; /* by a certificate; "" without */
    const char *hw_id;           /* the machine's name: its certificate's, its TPM's, else what it claims */
    char tpm_name[CP_ATTEST_NAME_MAX];
    struct cp_release current, held;
    bool has_held; /* the machine serves another version than the contract's, and may have its key again */
    bool report_taken;
    unsigned usage_flags;
    bool billed_here; /* not by its machines */
};

static void decision_clear(struct decision *d)
{
    tb_erase(&d->current, sizeof(d->current));
    tb_erase(&d->held, sizeof(d->held));
    tb_erase(d->unwrapped, sizeof(d->unwrapped));
    tb_freep(&d->report);
    cp_attest_clear(&d->attest);
}

/* Who asks is what its certificate says, whatever it claims. */
static int authorize_identify_by(struct decision *d, const char *ca_pem)
{
    static const struct cp_peer nobody = {0};
    int r = cp_peers_identify(d->api->peers, d->rq->client ? d->rq->client : &nobody, ca_pem, d->rq->now_us,
                              &d->identity);

    if (r == -ENOENT)
        d->reason =
            d->contract.mode == CP_MODE_ENROLLED ? "enrolment_required" : "client_certificate_required";
    else if (r == -EKEYEXPIRED)
        d->reason = "client_certificate_expired";
    else if (r < 0)
        d->reason = "client_certificate_untrusted";
    if (r == -EKEYEXPIRED) /* it is known, all the same */
        (void)cp_peer_verify(d->rq->client, ca_pem, true, d->rq->now_us, &d->identity);
    return r == -ENOMEM ? r : 0;
}

static int authorize_find_machine(struct cp_store *s, struct decision *d)
{
    struct cp_machine m;
    int r = cp_store_get_machine(s, d->contract.contract_id, d->hw_id, &m);

    if (r == -ENOENT || (r == 0 && strcmp(m.identity, d->identity.key_sha256) != 0))
        d->reason = "machine_unknown";
    return r == -ENOENT ? 0 : r;
}

static int authorize_identify(struct cp_store *s, struct decision *d)
{
    const struct cp_contract *c = &d->contract;
    bool enrolled = c->mode == CP_MODE_ENROLLED;
    const char *ca = !enrolled          ? *c->client_ca ? c->client_ca : d->api->client_ca
                     : d->api->machines ? cp_authority_pem(d->api->machines)
                                        : NULL;
    char machine[CP_IDENTITY_NAME_MAX + 1];
    int r;

    if (!ca) {
        d->reason = enrolled ? "enrolment_required" : "client_certificate_required";
        return 0;
    }
    r = authorize_identify_by(d, ca);
    if (r < 0 || !*d->identity.name)
        return r;
    if (!enrolled) {
        /* A CA that is both the server's --client-ca and the one of enrolled machines knows the machines of
         * all customers: the certificate of one is good for the contract that it enrolled for alone. */
        cp_machine_name(d->identity.key_sha256, machine);
        if (strcmp(d->identity.name, machine) == 0) {
            d->reason = "client_certificate_untrusted";
            d->identity = (struct cp_identity){0};
            return 0;
        }
    }
    d->hw_id = d->identity.name;
    return enrolled && !d->reason ? authorize_find_machine(s, d) : 0;
}

/* What the contract alone says, and who asks: of a contract that is refused, too, as log and usage go by the
 * machine's name. 0, or a failure of the store; d->reason. */
static int authorize_judge_contract(struct cp_store *s, struct decision *d)
{
    const struct cp_contract *c = &d->contract;
    const char *refused = NULL;
    int r = cp_store_get_contract(s, d->q.contract_id, 0, &d->contract);

    if (r == -ENOENT) {
        d->reason = "contract_invalid";
        return 0;
    }
    if (r < 0)
        return r;
    if (!c->active)
        refused = *c->reason ? c->reason : "contract_inactive";
    else if (c->expires_us && c->expires_us <= d->rq->now_us)
        refused = "contract_expired";
    else if (strcmp(c->asset_id, CP_ANY_ASSET) != 0 && strcmp(c->asset_id, d->q.asset_id) != 0)
        refused = "asset_mismatch";
    else if (c->mode == CP_MODE_OPEN && d->rq->client_auth == CP_CLIENT_UNTRUSTED)
        refused = "client_certificate_untrusted"; /* --client-ca is for contracts that name no other */
    if (c->mode != CP_MODE_OPEN)
        r = authorize_identify(s, d);
    if (refused)
        d->reason = refused;
    return r;
}

static struct tb_attest_subject authorize_subject(const struct decision *d)
{
    return (struct tb_attest_subject){d->q.contract_id, d->q.asset_id, d->q.hw_id};
}

static int authorize_fail_maa(struct decision *d)
{
    d->fault = CP_FAULT_MAA;
    return -ECANCELED;
}

/* A machine that nothing else names is the one of its TPM, whatever it calls itself. */
static int authorize_judge_tpm(struct cp_store *s, struct decision *d)
{
    const struct tb_attest_subject who = authorize_subject(d);
    int r = cp_attest_judge(d->api, s, &d->contract, &who, d->rq->now_us, &d->attest);

    if (r == -EHOSTUNREACH)
        return authorize_fail_maa(d);
    if (r < 0 || !cp_attest_is_asked(&d->attest))
        return r;
    if (*d->attest.reason) {
        d->reason = d->attest.reason;
        return 0;
    }
    if (d->contract.mode == CP_MODE_OPEN) {
        cp_attest_name(&d->attest, d->tpm_name);
        d->hw_id = d->tpm_name;
    }
    return 0;
}

static int authorize_take_slot(struct cp_store *s, struct decision *d)
{
    int r = cp_store_take_slot(s, &d->contract, d->hw_id, d->identity.key_sha256, d->rq->now_us);

    if (r == -EDQUOT || r == -EACCES) {
        d->reason = r == -EDQUOT ? "hw_limit_reached" : "machine_expelled";
        return 0;
    }
    if (r == 0)
        r = cp_attest_bind(s, &d->contract, d->hw_id, d->rq->now_us, &d->attest);
    if (r == 0 && *d->attest.reason)
        d->reason = d->attest.reason;
    return r < 0 || d->reason ? r
                              : cp_attest_take_report(s, &d->contract, d->hw_id, d->rq->now_us, &d->attest);
}

/* One that a machine names and that is gone is none: it goes on with what it has in memory. */
static int authorize_judge_held(struct cp_store *s, struct decision *d)
{
    int r = cp_store_hold_versions(s, d->contract.contract_id, d->hw_id, &d->current.asset, d->q.held_version,
                                   &d->has_held);

    if (r == 0 && d->has_held)
        r = cp_store_get_asset(s, d->q.asset_id, d->q.held_version, &d->held.asset);
    d->has_held = d->has_held && r == 0;
    return r == -ENOENT ? 0 : r;
}

static int authorize_judge(struct cp_store *s, struct decision *d)
{
    int r = authorize_judge_contract(s, d);
    bool ended;

    if (r < 0 || d->reason)
        return r;
    r = cp_store_billing_state(s, d->contract.contract_id, &d->billed_here, &ended);
    if (r == 0 && ended) {
        d->reason = "subscription_ended";
        return 0;
    }
    if (r == 0)
        r = cp_store_get_asset(s, d->q.asset_id, d->contract.version, &d->current.asset);
    if (r == -ENOENT) {
        d->reason = "asset_unknown";
        return 0;
    }
    if (r == 0)
        r = authorize_judge_tpm(s, d);
    if (r == 0 && !d->reason)
        r = authorize_take_slot(s, d);
    return r < 0 || d->reason ? r : authorize_judge_held(s, d);
}

static int authorize_unwrap(const struct decision *d, const struct cp_asset *a, struct tb_key *ret)
{
    const struct cp_wrapped *w = &a->wrapped;

    for (size_t i = 0; i < ARRAY_SIZE(d->unwrapped); i++) {
        const struct unwrapped *u = &d->unwrapped[i];

        if (u->wrapped.len == 0 || w->len != u->wrapped.len || memcmp(w->b, u->wrapped.b, w->len) != 0 ||
            strcmp(w->kek_id, u->wrapped.kek_id) != 0)
            continue;
        *ret = u->key;
        return 0;
    }
    return cp_keyring_unwrap(d->api->keyring, a->asset_id, w, ret);
}

static int authorize_fail_key(struct decision *d, int r)
{
    d->fault = r == -EAGAIN ? CP_FAULT_KEY_SERVICE : CP_FAULT_KEY;
    return -ECANCELED;
}

static int authorize_prepare_version(struct cp_store *s, struct decision *d, uint64_t version,
                                     struct cp_release *l, struct unwrapped *u)
{
    int r;

    if (cp_store_get_asset(s, d->q.asset_id, version, &l->asset) < 0)
        return 0;
    r = cp_keyring_unwrap(d->api->keyring, l->asset.asset_id, &l->asset.wrapped, &u->key);
    if (r < 0)
        return r;
    u->wrapped = l->asset.wrapped;
    /* without what signs them the transaction says so */
    if (cp_release_find(s, l) == 0)
        cp_release_prepare(&d->api->sas, l, d->rq->now_us);
    return 0;
}

/* The keys that will be needed, if all stays as it is until the transaction. What fails for another reason
 * than a key's is for the transaction to say. */
static int authorize_prepare(struct cp_store *s, struct decision *d)
{
    int r;

    if (authorize_judge_contract(s, d) < 0 || d->reason)
        return 0;
    if (cp_attest_prepare(d->api, &d->contract, d->rq->now_us, &d->attest) < 0)
        return authorize_fail_maa(d);
    r = authorize_prepare_version(s, d, d->contract.version, &d->current, &d->unwrapped[0]);
    if (r == 0 && d->q.held_version && d->q.held_version != d->current.asset.version) {
        r = authorize_prepare_version(s, d, d->q.held_version, &d->held, &d->unwrapped[1]);
        r = r == -EAGAIN ? r : 0; /* else the machine does without, see authorize_release_held() */
    }
    return r < 0 ? authorize_fail_key(d, r) : 0;
}

/* The key, and the URLs, for the answer. */
static int authorize_release(struct cp_store *s, struct decision *d, struct cp_release *l)
{
    int r = authorize_unwrap(d, &l->asset, &l->key);

    if (r < 0)
        return authorize_fail_key(d, r);
    r = cp_release_find(s, l);
    if (r < 0)
        return r;
    r = cp_release_deal(&d->api->sas, l, d->hw_id, d->rq->now_us,
                        d->contract.expires_us ? d->contract.expires_us : UINT64_MAX);
    if (r < 0)
        d->fault = r == -EAGAIN ? CP_FAULT_STORAGE : CP_FAULT_URL;
    return r < 0 ? -ECANCELED : 0;
}

/* What is wrong with an old version must not keep the machine from the one of its contract. */
static int authorize_release_held(struct cp_store *s, struct decision *d)
{
    int r = d->has_held ? authorize_release(s, d, &d->held) : 0;

    if (r == 0 || d->fault == CP_FAULT_NONE || d->fault == CP_FAULT_KEY_SERVICE ||
        d->fault == CP_FAULT_STORAGE)
        return r;
    tb_warn("authorize: the key or the URLs of %s@%llu, which machine %.8s serves, cannot be given",
            d->q.asset_id, (unsigned long long)d->q.held_version, d->hw_id);
    d->has_held = false;
    d->fault = CP_FAULT_NONE;
    return 0;
}

/* -- usage ------------------------------------------------------------------------------------- */
struct signature {
    struct decision *d;
    bool found;
};

/* A report is of whoever has the key of some version of the asset. */
static int authorize_try_version(const struct cp_asset *a, void *ctx)
{
    struct signature *g = ctx;
    _cleanup_key_ struct tb_key key = {0};

    if (cp_report_keys_get(g->d->api->report_keys, g->d->api->keyring, a->asset_id, &a->wrapped, &key) == 0)
        g->found = cp_usage_report_signed(&g->d->q, &key);
    return g->found;
}

static int authorize_check_signature(struct cp_store *s, struct decision *d, bool *ret)
{
    _cleanup_key_ struct tb_key key = {0};
    struct signature g = {.d = d};
    int r = 0;

    g.found = !d->reason && tb_report_key(&d->current.key, &key) == 0 && cp_usage_report_signed(&d->q, &key);
    if (!g.found)
        r = cp_store_each_asset(s, d->q.asset_id, authorize_try_version, &g);
    *ret = g.found;
    return MIN(r, 0);
}

/* Whose it is. A machine that is named by its TPM, and has shown nothing in this request or was refused,
 * calls itself something else here: the ledger tells, of which nobody else knows the name. */
static int authorize_name_usage(struct cp_store *s, const struct decision *d)
{
    char known[CP_HW_ID_MAX + 1] = "";
    int r = *d->contract.attest && d->hw_id == d->q.hw_id
                ? cp_store_ledger_machine(s, d->contract.contract_id, d->report->ledger, known)
                : 0;

    snprintf(d->report->hw_id, sizeof(d->report->hw_id), "%s", *known ? known : d->hw_id);
    return r;
}

/* Whatever the verdict: what was served was served. */
static int authorize_take_usage(struct cp_store *s, struct decision *d)
{
    bool is_signed, own;
    int r;

    if (!d->report || !*d->contract.contract_id)
        return 0;
    r = authorize_check_signature(s, d, &is_signed);
    if (r < 0 || !is_signed)
        return r;
    r = cp_usage_report_is_own(s, &d->contract, &d->identity, &own);
    if (r < 0)
        return r;
    d->report->received_us = d->rq->now_us;
    r = authorize_name_usage(s, d);
    if (r < 0)
        return r;
    d->report_taken = true;
    if (own)
        return cp_store_take_usage(s, d->report, &d->usage_flags);
    d->usage_flags = CP_USAGE_STRANGER;
    return cp_store_keep_stranger(s, d->report);
}

static void authorize_tell_usage(const struct decision *d)
{
    static const char *const words[] = {" goes back (its disk was set back, or its audit chain is another)",
                                        " comes late", " is of another machine's ledger",
                                        " is from none of its machines and is not counted"};

    if (*d->q.usage_report && !d->report_taken)
        tb_warn("authorize: the usage report of machine %.8s for %s is not signed with the key of %s, or has "
                "no time; ignored",
                d->hw_id, d->q.contract_id, d->q.asset_id);
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
        if (d->report_taken && d->usage_flags & 1U << i)
            tb_warn("authorize: the usage report of machine %.8s for %s%s; it is kept, see `usage`", d->hw_id,
                    d->q.contract_id, words[i]);
}

/* -- the transaction --------------------------------------------------------------------------- */
static int authorize_add_log(struct cp_store *s, const struct decision *d, const struct cp_release *l)
{
    struct cp_log_entry e = {
        .at_us = d->rq->now_us, .authorized = !d->reason, .version = d->reason ? 0 : l->asset.version};

    snprintf(e.contract_id, sizeof(e.contract_id), "%s", d->q.contract_id);
    snprintf(e.asset_id, sizeof(e.asset_id), "%s", d->q.asset_id);
    snprintf(e.hw_id, sizeof(e.hw_id), "%s", d->hw_id);
    snprintf(e.peer, sizeof(e.peer), "%s", d->rq->peer);
    snprintf(e.client_name, sizeof(e.client_name), "%s", d->rq->client_name ? d->rq->client_name : "");
    snprintf(e.reason, sizeof(e.reason), "%s", d->reason ? d->reason : "");
    return cp_store_add_log(s, &e);
}

static int authorize_decide(struct cp_store *s, void *ctx)
{
    struct decision *d = ctx;
    int r;

    d->reason = NULL;
    d->hw_id = d->q.hw_id;
    d->identity = (struct cp_identity){0};
    d->fault = CP_FAULT_NONE;
    d->has_held = false;
    d->contract = (struct cp_contract){0};
    d->report_taken = false;
    d->usage_flags = 0;
    r = authorize_judge(s, d);
    if (r == 0 && !d->reason)
        r = authorize_release(s, d, &d->current);
    if (r == 0 && !d->reason)
        r = authorize_release_held(s, d);
    if (r == 0)
        r = authorize_take_usage(s, d);
    if (r == 0)
        r = authorize_add_log(s, d, &d->current);
    return r == 0 && d->has_held ? authorize_add_log(s, d, &d->held) : r;
}

/* -- the answer -------------------------------------------------------------------------------- */
static bool authorize_add_release(const struct decision *d, const struct cp_release *l, cJSON *j)
{
    bool sealed = cp_attest_is_asked(&d->attest);

    return cp_release_add_urls(l, j) &&
           (sealed ? cp_attest_add_key(&d->attest, d->q.contract_id, &l->asset, &l->key, j) == 0
                   : cp_release_add_key(l, j));
}

/* For the next request, which comes within this time or is refused with a fresh one. */
static bool authorize_add_challenge(const struct decision *d, uint64_t within_s, cJSON *j)
{
    const struct tb_attest_subject who = authorize_subject(d);

    return cp_attest_add_challenge(d->api, &d->attest, &who, d->rq->now_us, within_s + CP_CHALLENGE_S, j) ==
           0;
}

/* A refusal for want of evidence, with what to make it for. */
static void authorize_answer_challenge(const struct decision *d, struct cp_reply *ret)
{
    _cleanup_json_ cJSON *j = cJSON_CreateObject();

    if (j && cJSON_AddStringToObject(j, "status", "denied") &&
        cJSON_AddStringToObject(j, "reason", d->reason) && authorize_add_challenge(d, 0, j))
        cp_answer_json(ret, 200, j);
    else
        *ret = (struct cp_reply){0};
}

static void authorize_answer_key(const struct decision *d, struct cp_reply *ret)
{
    uint64_t end_us = d->contract.expires_us ? d->contract.expires_us : UINT64_MAX;
    uint64_t lease_us = d->rq->now_us + d->contract.lease_seconds * TB_USEC_PER_SEC;
    _cleanup_secret_json_ cJSON *j = cJSON_CreateObject();
    char expires[TB_RFC3339_MAX];
    cJSON *held;
    bool ok;

    tb_rfc3339_format(MIN(lease_us, end_us), 0, expires);
    ok = j && cJSON_AddStringToObject(j, "status", "authorized") &&
         authorize_add_release(d, &d->current, j) && cJSON_AddStringToObject(j, "expires_at", expires) &&
         cp_release_add_version(&d->current, j);
    if (ok && cp_attest_is_asked(&d->attest))
        ok = authorize_add_challenge(d, d->contract.lease_seconds, j) &&
             cp_attest_add_level(&d->attest, j) == 0;
    if (ok && d->billed_here)
        ok = cJSON_AddStringToObject(j, "billed_by", "control_plane");
    if (ok && d->has_held) {
        held = cJSON_AddObjectToObject(j, "held");
        ok = held && authorize_add_release(d, &d->held, held) && cp_release_add_version(&d->held, held);
    }
    *ret = (struct cp_reply){0}; /* without a body it is a failure of the server's */
    if (ok)
        cp_answer_object(ret, j);
}

static void authorize_count(const struct decision *d)
{
    static const enum cp_metric flags[] = {CP_METRIC_USAGE_BACK, CP_METRIC_USAGE_LATE, CP_METRIC_USAGE_CLONE,
                                           CP_METRIC_USAGE_STRANGER};

    cp_metric_add(d->reason ? CP_METRIC_VERDICT_DENIED : CP_METRIC_VERDICT_AUTHORIZED);
    if (!*d->contract.contract_id) {
        cp_metric_add(CP_METRIC_GUESS_CONTRACT);
        (void)cp_limits_take(d->api->limits, CP_LIMIT_GUESS, d->rq->peer, tb_now_monotonic_us());
    }
    if (*d->q.usage_report && !d->report_taken)
        cp_metric_add(CP_METRIC_USAGE_UNSIGNED);
    if (d->report_taken && !d->usage_flags)
        cp_metric_add(CP_METRIC_USAGE_GOOD);
    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++)
        if (d->usage_flags & 1U << i)
            cp_metric_add(flags[i]);
}

static void authorize_answer(struct cp_store *s, struct decision *d, struct cp_reply *ret)
{
    int r = authorize_prepare(s, d);

    if (r == 0)
        r = cp_store_transact(s, authorize_decide, d);

    if (r < 0 && d->fault != CP_FAULT_NONE) {
        cp_answer_fault(d->fault, d->q.contract_id, d->q.asset_id, d->current.asset.wrapped.kek_id, ret);
        return;
    }
    if (r < 0) {
        cp_answer_store_failure(s, "authorize", r, ret);
        return;
    }
    tb_info("authorize: %s for %s by machine %.10s at %s: %s%s", d->q.contract_id, d->q.asset_id, d->hw_id,
            d->rq->peer, d->reason ? "denied, " : "authorized", d->reason ? d->reason : "");
    authorize_tell_usage(d);
    if (!d->reason && strncmp(d->attest.report_said, "machine_report_", 15) == 0)
        tb_warn("authorize: the report of machine %.10s on itself is not kept: %s", d->hw_id,
                d->attest.report_said);
    authorize_count(d);
    if (d->reason && d->rq->client_auth == CP_CLIENT_UNTRUSTED &&
        strcmp(d->reason, "client_certificate_untrusted") == 0)
        cp_answer(ret, 403, "status", "denied", "reason", d->reason, "message",
                  "the TLS client certificate is not one of its CA, or expired");
    else if (d->reason == d->attest.reason && d->attest.wants)
        authorize_answer_challenge(d, ret);
    else if (d->reason)
        cp_answer(ret, 200, "status", "denied", "reason", d->reason);
    else
        authorize_answer_key(d, ret);
}

void cp_answer_authorize(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                         struct cp_reply *ret)
{
    _cleanup_(decision_clear) struct decision d = {.api = api, .rq = rq};
    char err[TB_JSON_ERR_MAX];
    int r = cp_authorize_parse(rq->body, rq->body_len, &d.q, err);
    unsigned wait;

    if (r < 0) {
        tb_warn("authorize: refused from %s: %s", rq->peer, err);
        cp_answer(ret, 400, "status", "denied", "reason", "invalid_request", "error", "invalid_request",
                  "message", err);
        return;
    }
    wait = cp_limits_take(api->limits, CP_LIMIT_CONTRACT, d.q.contract_id, tb_now_monotonic_us());
    if (wait) {
        cp_metric_add(CP_METRIC_LIMITED_CONTRACT);
        cp_answer_too_often(ret, wait, d.q.contract_id, "is asked for too often");
        return;
    }
    if (*d.q.usage_report) {
        d.report = calloc(1, sizeof(*d.report));
        if (d.report && cp_usage_report_parse(&d.q, d.report, err) < 0)
            tb_freep(&d.report);
    }
    if (cp_attest_read(rq, &d.attest) < 0)
        *ret = (struct cp_reply){0};
    else
        authorize_answer(s, &d, ret);
}
