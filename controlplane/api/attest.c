/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/attest.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/hex.h"
#include "common/units.h"
#include "common/usage_report.h"
#include "controlplane/attest/challenge.h"

#define REQUIRED "attestation_required"
#define STALE "attestation_stale"

/* A report that makes no sense is answered so, and stops nothing. */
static int attest_read_report(const cJSON *body, struct cp_attest_turn *t)
{
    char err[TB_JSON_ERR_MAX];
    const char *text;

    if (!tb_json_member(body, "machine_report"))
        return 0;
    t->report = malloc(sizeof(*t->report));
    if (!t->report)
        return -ENOMEM;
    if (tb_json_get_string(body, "machine_report", &text, err) < 0 ||
        cp_machine_report_parse(text, strlen(text), t->report, err) < 0) {
        tb_freep(&t->report);
        snprintf(t->report_said, sizeof(t->report_said), "machine_report_malformed: %s", err);
        return 0;
    }
    t->report_text = strdup(text);
    return t->report_text ? 0 : -ENOMEM;
}

int cp_attest_read(const struct cp_request *rq, struct cp_attest_turn *t)
{
    _cleanup_secret_json_ cJSON *o = NULL;
    const char *text;

    if (tb_json_parse(rq->body, rq->body_len, CP_BODY_MAX, &o, t->malformed) < 0 ||
        tb_json_get_string(o, "attestation", &text, t->malformed) < 0 || !*text) {
        t->malformed[0] = '\0';
        return 0;
    }
    t->said = calloc(1, sizeof(*t->said));
    if (!t->said || attest_read_report(o, t) < 0)
        return -ENOMEM;
    if (cp_attestation_parse(text, strlen(text), t->said, t->malformed) < 0)
        tb_freep(&t->said);
    return 0;
}

void cp_attest_clear(struct cp_attest_turn *t)
{
    tb_freep(&t->said);
    tb_freep(&t->report);
    tb_freep(&t->report_text);
    EVP_PKEY_free(t->maa_key.key);
    t->maa_key.key = NULL;
}

int cp_attest_prepare(const struct cp_api *api, const struct cp_contract *c, uint64_t now_us,
                      struct cp_attest_turn *t)
{
    _cleanup_jwt_ struct cp_jwt token = {0};
    char err[TB_JSON_ERR_MAX], detail[CP_ATTEST_DETAIL_MAX];
    struct cp_attest_policy policy;
    int r;

    if (cp_policy_parse(c->attest, &policy, err) < 0 || !*policy.maa)
        return 0;
    if (!t->said || t->said->offer != CP_SAID_EVIDENCE || !*t->said->evidence.maa ||
        cp_maa_open(t->said->evidence.maa, policy.maa, now_us / TB_USEC_PER_SEC, &token, detail)) {
        memcpy(t->maa, policy.maa, sizeof(t->maa));
        return 0;
    }
    r = api->maa_keys ? cp_maa_keys_find(api->maa_keys, policy.maa, &token, &t->maa_key) : -EACCES;
    if (r == -EAGAIN)
        return -EHOSTUNREACH;
    memcpy(t->maa, policy.maa, sizeof(t->maa));
    return 0;
}

static int attest_refuse(struct cp_attest_turn *t, const char *reason, const char *detail, bool wants)
{
    snprintf(t->reason, sizeof(t->reason), "%s%s%s", reason, *detail ? ": " : "", detail);
    t->wants = wants;
    return 0;
}

/* Signatures are looked at once for a request, however often its transaction begins anew. */
static const char *attest_verify(const struct cp_api *api, const struct cp_contract *c, uint64_t now_us,
                                 struct cp_attest_turn *t)
{
    const struct cp_maa_rules maa = {.issuer = t->maa, .key = t->maa_key.key ? &t->maa_key : NULL};
    struct cp_attest_rules rules = {.roots = api->attest_roots,
                                    .trust = &t->policy.trust,
                                    .pcrs = t->policy.pcrs,
                                    .snp = t->policy.level == CP_LEVEL_CVM ? &t->policy.snp : NULL,
                                    .maa = *t->policy.maa ? &maa : NULL,
                                    .now_s = now_us / TB_USEC_PER_SEC};

    if (t->has_verdict && strcmp(t->verified_policy, c->attest) == 0)
        return t->verdict;
    memcpy(rules.extra, t->extra, sizeof(rules.extra));
    t->verdict = cp_evidence_verify(&t->said->evidence, &rules, &t->by, t->detail);
    t->has_verdict = true;
    memcpy(t->verified_policy, c->attest, sizeof(t->verified_policy));
    return t->verdict;
}

static int attest_take_challenge(const struct cp_api *api, struct cp_store *s,
                                 const struct tb_attest_subject *who, uint64_t now_us,
                                 struct cp_attest_turn *t)
{
    const uint8_t *challenge = t->said->evidence.challenge;
    char hex[TB_CHALLENGE_HEX_CHARS + 1];
    uint64_t end_s;
    int r = cp_challenge_check(api->challenge_secret, who, now_us / TB_USEC_PER_SEC, challenge, &end_s);

    if (r == -EBADMSG || r == -ETIME)
        return attest_refuse(t, STALE,
                             r == -ETIME ? "the challenge has ended" : "the challenge is none of mine", true);
    if (r < 0)
        return r;
    tb_hex_encode(challenge, TB_CHALLENGE_BYTES, hex);
    r = cp_store_take_challenge(s, hex, end_s * TB_USEC_PER_SEC, now_us);
    return r == -EEXIST ? attest_refuse(t, STALE, "the challenge was answered before", true) : r;
}

static int attest_judge_evidence(const struct cp_api *api, struct cp_store *s, const struct cp_contract *c,
                                 const struct tb_attest_subject *who, uint64_t now_us,
                                 struct cp_attest_turn *t)
{
    const char *reason;
    int r = attest_take_challenge(api, s, who, now_us, t);

    /* the contract was changed meanwhile: the next request is judged by what it says now */
    if (r == 0 && !*t->reason && *t->policy.maa && strcmp(t->policy.maa, t->maa) != 0)
        r = -EHOSTUNREACH;
    if (r < 0 || *t->reason)
        return r;
    r = tb_attest_extra(t->said->evidence.challenge, who, t->extra);
    if (r < 0)
        return r;
    reason = attest_verify(api, c, now_us, t);
    if (reason)
        return attest_refuse(t, reason, t->detail,
                             strcmp(reason, STALE) == 0 || strcmp(reason, CP_MAA_REQUIRED) == 0);
    if (!t->policy.n_images)
        return 0;
    r = cp_booted_judge(s, &t->policy, &t->said->evidence.pcrs, &t->booted);
    return r == 0 && t->booted.reason ? attest_refuse(t, t->booted.reason, t->booted.detail, false) : r;
}

int cp_attest_judge(const struct cp_api *api, struct cp_store *s, const struct cp_contract *c,
                    const struct tb_attest_subject *who, uint64_t now_us, struct cp_attest_turn *t)
{
    char err[TB_JSON_ERR_MAX];

    t->reason[0] = '\0';
    t->booted = (struct cp_booted){0};
    t->wants = false;
    /* One that this server does not understand: nobody is let in by it. */
    if (cp_policy_parse(c->attest, &t->policy, err) < 0)
        return attest_refuse(t, "attestation_policy_unknown", "", false);
    if (t->policy.level == CP_LEVEL_NONE)
        return 0;
    if (*t->malformed)
        return attest_refuse(t, "attestation_malformed", t->malformed, false);
    if (!t->said || t->said->offer == CP_SAID_NOTHING || t->said->offer == CP_SAID_OFFER)
        return attest_refuse(t, REQUIRED, "", true);
    if (t->said->offer == CP_SAID_CANNOT)
        return attest_refuse(t, REQUIRED, t->said->why, false);
    return attest_judge_evidence(api, s, c, who, now_us, t);
}

int cp_attest_bind(struct cp_store *s, const struct cp_contract *c, const char *hw_id, uint64_t now_us,
                   struct cp_attest_turn *t)
{
    struct cp_machine_attested m = {.at_us = now_us};
    int r;

    if (t->policy.level == CP_LEVEL_NONE)
        return 0;
    snprintf(m.ak, sizeof(m.ak), "%s", t->by.ak);
    snprintf(m.level, sizeof(m.level), "%s", cp_attest_level_names[t->policy.level]);
    memcpy(m.image, t->booted.image, sizeof(m.image));
    memcpy(m.image_version, t->booted.version, sizeof(m.image_version));
    r = cp_store_attest_machine(s, c->contract_id, hw_id, &m);
    return r == -EACCES ? attest_refuse(t, "attestation_key_changed",
                                        "this machine had another TPM; remove it to let it in", false)
                        : r;
}

static int attest_keep_report(struct cp_store *s, const struct cp_contract *c, const char *hw_id,
                              uint64_t now_us, const struct cp_tpm_clock *clock, struct cp_attest_turn *t)
{
    const struct cp_machine_report *m = t->report;
    struct cp_kept_report k = {.made_us = now_us - MIN(now_us, (t->by.clock.ms - clock->ms) * 1000),
                               .resets = clock->resets,
                               .restarts = clock->restarts,
                               .clock_ms = clock->ms,
                               .holds = m->holds,
                               .broken = m->broken,
                               .not_checked = m->not_checked,
                               .text = t->report_text};
    int r;

    memcpy(k.first_broken, m->first_broken, sizeof(k.first_broken));
    r = cp_store_keep_report(s, c->contract_id, hw_id, &k);
    if (r < 0 && r != -ESTALE && r != -EEXIST)
        return r;
    snprintf(t->report_said, sizeof(t->report_said), "%s",
             r == -ESTALE   ? "machine_report_old: a later report of this boot is known"
             : r == -EEXIST ? "known"
                            : "kept");
    return 0;
}

int cp_attest_take_report(struct cp_store *s, const struct cp_contract *c, const char *hw_id, uint64_t now_us,
                          struct cp_attest_turn *t)
{
    char detail[CP_ATTEST_DETAIL_MAX];
    struct cp_tpm_clock clock;
    const char *reason;

    if (!t->report)
        return 0;
    if (t->policy.level == CP_LEVEL_NONE) {
        snprintf(
            t->report_said, sizeof(t->report_said),
            "machine_report_other_machine: the contract asks for no evidence, which would say whose it is");
        return 0;
    }
    reason = cp_machine_report_judge(t->report, c->contract_id, &t->by, &clock, detail);
    if (!reason)
        return attest_keep_report(s, c, hw_id, now_us, &clock, t);
    snprintf(t->report_said, sizeof(t->report_said), "%s: %s", reason, detail);
    return 0;
}

void cp_attest_name(const struct cp_attest_turn *t, char ret[static CP_ATTEST_NAME_MAX])
{
    snprintf(ret, CP_ATTEST_NAME_MAX, "tpm-%.32s", t->by.ak);
}

/* -- the answer -------------------------------------------------------------------------------- */
static int attest_add_pcrs(cJSON *o, const char *name, uint32_t mask)
{
    cJSON *array = cJSON_AddArrayToObject(o, name);

    for (unsigned i = 0; array && i < 16; i++) {
        cJSON *n = mask & 1U << i ? cJSON_CreateNumber(i) : NULL;

        if ((mask & 1U << i) && (!n || !cJSON_AddItemToArray(array, n)))
            return -ENOMEM;
    }
    return array ? 0 : -ENOMEM;
}

int cp_attest_add_challenge(const struct cp_api *api, const struct cp_attest_turn *t,
                            const struct tb_attest_subject *who, uint64_t now_us, uint64_t good_for_s,
                            cJSON *j)
{
    uint8_t challenge[TB_CHALLENGE_BYTES];
    char hex[TB_CHALLENGE_HEX_CHARS + 1];
    int r = cp_challenge_make(api->challenge_secret, who, now_us / TB_USEC_PER_SEC, good_for_s, challenge);

    if (r < 0)
        return r;
    tb_hex_encode(challenge, sizeof(challenge), hex);
    if (!cJSON_AddStringToObject(j, "challenge", hex) ||
        (*t->policy.maa && !cJSON_AddStringToObject(j, "maa", t->policy.maa)))
        return -ENOMEM;
    return attest_add_pcrs(j, "challenge_pcrs", t->policy.pcrs);
}

static int attest_add_wrapped(const struct cp_attest_turn *t, const struct tb_wrapped_key *w, cJSON *j)
{
    cJSON *o = cJSON_AddObjectToObject(j, "wrapped_key");

    if (!o || !cJSON_AddStringToObject(o, "alg", TB_ATTEST_ALG) ||
        attest_add_pcrs(o, "pcrs", t->policy.pcrs) < 0 ||
        tb_json_add_base64(o, "enc", w->enc, sizeof(w->enc)) < 0 ||
        tb_json_add_base64(o, "ct", w->ct, sizeof(w->ct)) < 0)
        return -ENOMEM;
    return 0;
}

int cp_attest_add_key(const struct cp_attest_turn *t, const char *contract_id, const struct cp_asset *a,
                      const struct tb_key *key, cJSON *j)
{
    struct tb_wrapped_key w = {.pcrs = t->policy.pcrs};
    _cleanup_key_ struct tb_key usage = {0};
    char hex[TB_KEY_HEX_CHARS + 1];
    uint8_t info[TB_HPKE_INFO_MAX];
    size_t info_len;
    bool ok;
    int r = tb_attest_info(contract_id, a->asset_id, *a->manifest_sha256 ? a->manifest_sha256 : "none", info,
                           &info_len);

    if (r == 0)
        r = tb_hpke_seal(t->by.point, info, info_len, key->b, sizeof(key->b), w.enc, w.ct);
    if (r == 0)
        r = tb_report_key(key, &usage);
    if (r == 0)
        r = attest_add_wrapped(t, &w, j);
    if (r < 0)
        return r;
    tb_hex_encode(usage.b, sizeof(usage.b), hex);
    ok = cJSON_AddStringToObject(j, "usage_key_hex", hex);
    tb_erase(hex, sizeof(hex));
    return ok ? 0 : -ENOMEM;
}

int cp_attest_add_level(const struct cp_attest_turn *t, cJSON *j)
{
    cJSON *o = cJSON_AddObjectToObject(j, "attested");

    if (!o || !cJSON_AddStringToObject(o, "level", cp_attest_level_names[t->policy.level]) ||
        (*t->report_said && !cJSON_AddStringToObject(j, "machine_report", t->report_said)))
        return -ENOMEM;
    if (*t->booted.image && (!cJSON_AddStringToObject(o, "image", t->booted.image) ||
                             !cJSON_AddStringToObject(o, "version", t->booted.version)))
        return -ENOMEM;
    return 0;
}
