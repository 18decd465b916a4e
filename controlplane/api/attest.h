/* SPDX-License-Identifier: Apache-2.0 */
/* The part of license/authorize in which a machine shows its TPM: what the contract asks, what it answers,
 * and the key sealed to its boot. docs/attestation.md. */
#ifndef CP_API_ATTEST_H
#define CP_API_ATTEST_H

#include "controlplane/api/api.h"
#include "controlplane/api/booted.h"
#include "controlplane/attest/machine_report.h"
#include "controlplane/attest/policy.h"

#define CP_ATTEST_REASON_MAX 320

struct cp_attest_turn {
    struct cp_attestation *said; /* heap; NULL: nothing that can be read */
    char malformed[TB_JSON_ERR_MAX];
    struct cp_machine_report *report;       /* heap; of tb-verify, NULL: none that can be read */
    char *report_text;                      /* as it came */
    char report_said[CP_ATTEST_REASON_MAX]; /* "kept", "known", or why it is not; "": there is none */
    char verified_policy[CP_POLICY_MAX];    /* what `verdict` was found by; said stays the same */
    bool has_verdict;
    const char *verdict;
    char detail[CP_ATTEST_DETAIL_MAX];
    uint8_t extra[TB_TPM_DIGEST_BYTES];
    /* what the token of Azure Attestation is judged by, looked up before the transaction */
    char maa[CP_POLICY_URL_MAX]; /* of this instance; "": it was not looked for */
    struct cp_jwk maa_key;       /* key NULL: there is none of that name */
    /* found anew at each try */
    struct cp_attest_policy policy;
    struct cp_attested by;             /* who showed itself: where policy.level is not none */
    struct cp_booted booted;           /* where the policy names images; else image is "" */
    bool wants;                        /* the refusal comes with a challenge */
    char reason[CP_ATTEST_REASON_MAX]; /* of the refusal, for the client and the log */
};

/* Reads the body's member; a body that cp_authorize_parse() took. -ENOMEM. */
int cp_attest_read(const struct cp_request *rq, struct cp_attest_turn *t);
void cp_attest_clear(struct cp_attest_turn *t);

/* Before the transaction, as it may ask the network: the key by which a token is signed. 0, also when the
 * token is no good, which is for cp_attest_judge() to say; -EHOSTUNREACH: its keys are not known now. */
int cp_attest_prepare(const struct cp_api *api, const struct cp_contract *c, uint64_t now_us,
                      struct cp_attest_turn *t);
/* In a transaction. -EHOSTUNREACH: see cp_attest_prepare(). 0: t->reason "" when the machine may have the
 * key of this contract as far as its TPM goes. */
int cp_attest_judge(const struct cp_api *api, struct cp_store *s, const struct cp_contract *c,
                    const struct tb_attest_subject *who, uint64_t now_us, struct cp_attest_turn *t);
/* The machine hw_id, which has its slot, is the one of that TPM. Sets t->reason. In a transaction. */
int cp_attest_bind(struct cp_store *s, const struct cp_contract *c, const char *hw_id, uint64_t now_us,
                   struct cp_attest_turn *t);
/* Keeps the machine's report on itself, where it is its own, of this boot, and no older than what is
 * known; in t->report_said what became of it. It decides on nothing. Behind cp_attest_bind(), in a
 * transaction. */
int cp_attest_take_report(struct cp_store *s, const struct cp_contract *c, const char *hw_id, uint64_t now_us,
                          struct cp_attest_turn *t);
/* The name of a machine that nothing else names. */
#define CP_ATTEST_NAME_MAX 44
void cp_attest_name(const struct cp_attest_turn *t, char ret[static CP_ATTEST_NAME_MAX]);

static inline bool cp_attest_is_asked(const struct cp_attest_turn *t)
{
    return t->policy.level != CP_LEVEL_NONE;
}

/* The next challenge; good_for_s: see cp_challenge_make(). */
int cp_attest_add_challenge(const struct cp_api *api, const struct cp_attest_turn *t,
                            const struct tb_attest_subject *who, uint64_t now_us, uint64_t good_for_s,
                            cJSON *j);
/* The key of the asset, sealed to the boot, and the one that signs usage. */
int cp_attest_add_key(const struct cp_attest_turn *t, const char *contract_id, const struct cp_asset *a,
                      const struct tb_key *key, cJSON *j);
/* And what became of its report on itself. */
int cp_attest_add_level(const struct cp_attest_turn *t, cJSON *j);

#endif
