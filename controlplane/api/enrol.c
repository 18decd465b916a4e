/* SPDX-License-Identifier: Apache-2.0 */
/* POST /api/v1/machines/enrol and .../renew: a machine gets a client certificate for a key of its own. Its
 * name is made of the key: who asks again with the same key, because no answer came, is the same machine. */
#include <string.h>

#include "common/log.h"
#include "common/units.h"
#include "controlplane/api/answer.h"
#include "controlplane/api/metrics.h"
#include "controlplane/identity/code.h"

struct enrol {
    const struct cp_api *api;
    const struct cp_request *rq;
    struct cp_enrol q;
    struct cp_identity id; /* of the key */
    char code_sha256[CP_CODE_HASH_HEX + 1];
    char resource[TB_APPLICATION_MAX + 1]; /* of its managed identity, instead of a code; "" */
    const char *reason;
};

static void enrol_clear(struct enrol *e)
{
    tb_erase(e->q.code, sizeof(e->q.code));
    tb_erase(e->q.identity_token, sizeof(e->q.identity_token));
}

/* What is not there is a guess, as it is where a key is asked for. */
static void enrol_count_guess(const struct enrol *e)
{
    static const struct {
        const char *reason;
        enum cp_metric metric;
    } guesses[] = {
        {"contract_invalid", CP_METRIC_GUESS_CONTRACT},
        {"enrolment_code_invalid", CP_METRIC_GUESS_CODE},
        {"identity_untrusted", CP_METRIC_GUESS_TOKEN},
        {"identity_not_of_purchase", CP_METRIC_GUESS_TOKEN},
    };

    for (size_t i = 0; i < ARRAY_SIZE(guesses); i++)
        if (strcmp(guesses[i].reason, e->reason) == 0) {
            cp_metric_add(guesses[i].metric);
            (void)cp_limits_take(e->api->limits, CP_LIMIT_GUESS, e->rq->peer, tb_now_monotonic_us());
        }
}

static void enrol_refuse(const struct enrol *e, const char *what, struct cp_reply *ret)
{
    static const struct {
        const char *reason, *message;
    } says[] = {
        {"contract_invalid", "there is no such contract"},
        {"enrolment_not_used", "the contract is not of the mode `enrolled`: its machines need no code"},
        {"enrolment_code_invalid", "no such enrolment code of this contract; ask the provider for one"},
        {"enrolment_code_expired", "the enrolment code is over; ask the provider for another"},
        {"enrolment_code_used",
         "the enrolment code was used by as many machines as it is for; ask for another"},
        {"identity_untrusted", "the token of the machine's managed identity is not good"},
        {"identity_not_of_purchase",
         "the machine is not in the resource group of the application that bought this contract"},
        {"enrolment_limit_reached",
         "this machine enrolled with as many keys as one may in a day; it may again tomorrow"},
        {"machine_expelled", "the provider expelled this machine"},
        {"machine_unknown", "the provider does not know this machine any more; it needs an enrolment code"},
        {"client_certificate_untrusted", "the client certificate is not one that this control plane gave"},
    };
    const char *message = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(says); i++)
        if (strcmp(says[i].reason, e->reason) == 0)
            message = says[i].message;
    tb_warn("%s: refused for %s from %s: %s", what, *e->q.contract_id ? e->q.contract_id : "a machine",
            e->rq->peer, e->reason);
    enrol_count_guess(e);
    cp_answer(ret, 403, "status", "denied", "reason", e->reason, "message", message);
}

static int enrol_contract(struct cp_store *s, struct enrol *e)
{
    struct cp_contract c;
    int r = cp_store_get_contract(s, e->q.contract_id, 0, &c);

    if (r == -ENOENT)
        e->reason = "contract_invalid";
    else if (r == 0 && !c.active)
        e->reason = "contract_inactive";
    else if (r == 0 && c.expires_us && c.expires_us <= e->rq->now_us)
        e->reason = "contract_expired";
    else if (r == 0 && c.mode != CP_MODE_ENROLLED)
        e->reason = "enrolment_not_used";
    return r == -ENOENT ? 0 : r;
}

/* Whether machines enrol, and the machine is one that the purchase of this contract deployed. */
static int enrol_judge(struct cp_store *s, void *ctx)
{
    struct cp_application a = {0};
    struct enrol *e = ctx;
    int r;

    e->reason = NULL;
    r = enrol_contract(s, e);
    if (r < 0 || e->reason || !*e->resource)
        return r;
    r = cp_store_get_application_of(s, e->q.contract_id, &a);
    if (r < 0 && r != -ENOENT)
        return r;
    if (a.state != CP_APPLICATION_GRANTED || !cp_arm_is_machine_of(e->resource, a.managed_group))
        e->reason = "identity_not_of_purchase";
    return 0;
}

static int enrol_admit(struct cp_store *s, struct enrol *e)
{
    int r =
        cp_store_admit_machine(s, e->q.contract_id, e->id.name, e->id.key_sha256, e->resource, e->rq->now_us);

    if (r == -EACCES || r == -EDQUOT) {
        e->reason = r == -EACCES ? "machine_expelled" : "enrolment_limit_reached";
        return 0;
    }
    return r < 0 ? r
                 : cp_change(s, e->rq->now_us, "enrolment", "machine.enrol", e->q.contract_id, "machine",
                             e->id.name, "peer", e->rq->peer, "resource", e->resource);
}

static int enrol_decide(struct cp_store *s, void *ctx)
{
    struct enrol *e = ctx;
    int r = enrol_judge(s, e);

    if (r < 0 || e->reason)
        return r;
    if (*e->resource)
        return enrol_admit(s, e);
    r = cp_store_enrol_machine(s, e->code_sha256, e->q.contract_id, e->id.name, e->id.key_sha256,
                               e->rq->now_us);
    if (r == -ENOENT)
        e->reason = "enrolment_code_invalid";
    else if (r == -EKEYEXPIRED)
        e->reason = "enrolment_code_expired";
    else if (r == -EDQUOT)
        e->reason = "enrolment_code_used";
    else if (r == -EACCES)
        e->reason = "machine_expelled";
    if (e->reason)
        return 0;
    return r < 0 ? r
                 : cp_change(s, e->rq->now_us, "enrolment", "machine.enrol", e->q.contract_id, "machine",
                             e->id.name, "peer", e->rq->peer);
}

static void enrol_hand_out(const struct enrol *e, struct cp_reply *ret)
{
    uint64_t seconds = e->api->certificate_s ? e->api->certificate_s : CP_CERTIFICATE_S;
    char err[CP_AUTHORITY_ERR_MAX], end[TB_RFC3339_MAX];
    _cleanup_free_ char *pem = NULL;

    if (cp_authority_issue(e->api->machines, e->q.csr, strlen(e->q.csr), e->id.name, e->rq->now_us, seconds,
                           &pem, err) < 0) {
        tb_error("a machine's certificate: %s", err);
        cp_answer_misconfigured(ret);
        return;
    }
    tb_rfc3339_format(e->rq->now_us + seconds * TB_USEC_PER_SEC, 0, end);
    cp_answer(ret, 200, "status", "enrolled", "machine_id", e->id.name, "certificate", pem, "expires_at",
              end);
}

/* The body and the key in it; false: *ret is the answer. */
static bool enrol_read(struct enrol *e, bool renew, struct cp_reply *ret)
{
    char err[MAX(TB_JSON_ERR_MAX, CP_AUTHORITY_ERR_MAX)] = "enrolment is not set up at this control plane";
    int r = e->api->machines ? cp_enrol_parse(e->rq->body, e->rq->body_len, renew, &e->q, err) : -EINVAL;

    if (r == 0)
        r = cp_request_key(e->q.csr, strlen(e->q.csr), e->id.key_sha256, err);
    if (r == 0) {
        cp_machine_name(e->id.key_sha256, e->id.name);
        return true;
    }
    cp_answer(ret, 400, "status", "denied", "reason", "invalid_request", "error", "invalid_request",
              "message", err);
    return false;
}

/* By Resource Manager, before the transaction. What the token only says is looked at first, so that no
 * stranger makes this server ask. False: e->reason, or *ret is the answer. */
static bool enrol_identify(struct cp_store *s, struct enrol *e, struct cp_reply *ret)
{
    struct cp_arm *arm = e->api->purchases ? cp_purchases_arm(e->api->purchases) : NULL;
    char err[CP_ARM_ERR_MAX] = "this control plane does not ask Azure Resource Manager";
    int r;

    e->reason = "identity_untrusted";
    if (!arm || cp_arm_token_parse(e->q.identity_token, e->resource) < 0)
        return false;
    r = cp_store_transact(s, enrol_judge, e);
    if (r < 0)
        cp_answer_store_failure(s, "enrol", r, ret);
    if (r < 0 || e->reason)
        return false;
    r = cp_arm_identify(arm, e->q.identity_token, e->resource, err);
    if (r == 0)
        return true;
    tb_warn("enrol: the managed identity of a machine at %s for %s: %s", e->rq->peer, e->q.contract_id, err);
    if (r == -EAGAIN)
        cp_answer_later(ret, "identity_service_unavailable", "the identity cannot be proved now; try again");
    e->reason = "identity_untrusted";
    return false;
}

/* By a code, or an identity. As above. */
static bool enrol_prove(struct cp_store *s, struct enrol *e, struct cp_reply *ret)
{
    if (*e->q.identity_token)
        return enrol_identify(s, e, ret);
    e->reason = "enrolment_code_invalid";
    return cp_code_hash(e->q.code, e->code_sha256) == 0;
}

void cp_answer_enrol(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     struct cp_reply *ret)
{
    _cleanup_(enrol_clear) struct enrol e = {.api = api, .rq = rq};
    int r;

    if (!enrol_read(&e, false, ret))
        return;
    if (!enrol_prove(s, &e, ret)) {
        if (!ret->status)
            enrol_refuse(&e, "enrol", ret);
        return;
    }
    r = cp_store_transact(s, enrol_decide, &e);
    if (r < 0) {
        cp_answer_store_failure(s, "enrol", r, ret);
    } else if (e.reason) {
        enrol_refuse(&e, "enrol", ret);
    } else {
        tb_info("enrol: machine %s of %s at %s", e.id.name, e.q.contract_id, rq->peer);
        enrol_hand_out(&e, ret);
    }
}

/* -- renewal ----------------------------------------------------------------------------------- */

/* Whether any contract still knows the machine. */
static int renew_see(const struct cp_machine *m, void *ctx)
{
    struct enrol *e = ctx;

    if (strcmp(m->hw_id, e->id.name) != 0 || strcmp(m->identity, e->id.key_sha256) != 0)
        return 0;
    if (m->expelled_us && !e->reason)
        e->reason = "machine_expelled";
    snprintf(e->q.contract_id, sizeof(e->q.contract_id), "%s", m->contract_id);
    return 0;
}

static int renew_decide(struct cp_store *s, void *ctx)
{
    struct enrol *e = ctx;
    int r;

    e->reason = NULL;
    e->q.contract_id[0] = '\0';
    r = cp_store_each_machine_named(s, e->id.name, renew_see, e);
    if (r == 0 && !*e->q.contract_id)
        e->reason = "machine_unknown";
    return r;
}

/* By the certificate of the same key; one that ended not too long ago is good enough. */
static void renew_identify(struct enrol *e)
{
    static const struct cp_peer nobody = {0};
    const struct cp_peer *p = e->rq->client ? e->rq->client : &nobody;
    const char *ca = cp_authority_pem(e->api->machines);
    uint64_t late_us = CP_CERTIFICATE_LATE_S * TB_USEC_PER_SEC;
    struct cp_identity shown;
    int r = cp_peer_verify(p, ca, false, e->rq->now_us, &shown);

    if (r == -EKEYEXPIRED && e->rq->now_us > late_us)
        r = cp_peer_ended_within(p, e->rq->now_us, CP_CERTIFICATE_LATE_S)
                ? cp_peer_verify(p, ca, true, 0, &shown)
                : -EKEYEXPIRED;
    if (r < 0 || strcmp(shown.key_sha256, e->id.key_sha256) != 0 || strcmp(shown.name, e->id.name) != 0)
        e->reason = "client_certificate_untrusted";
}

void cp_answer_renew(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     struct cp_reply *ret)
{
    _cleanup_(enrol_clear) struct enrol e = {.api = api, .rq = rq};
    int r = 0;

    if (!enrol_read(&e, true, ret))
        return;
    renew_identify(&e);
    if (!e.reason)
        r = cp_store_transact(s, renew_decide, &e);
    if (r < 0)
        cp_answer_store_failure(s, "renew", r, ret);
    else if (e.reason)
        enrol_refuse(&e, "renew", ret);
    else
        enrol_hand_out(&e, ret);
}
