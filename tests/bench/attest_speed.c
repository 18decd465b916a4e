/* SPDX-License-Identifier: Apache-2.0 */
/* What evidence costs a control plane: reads, verifies and seals, as license/authorize does, on one core.
 * attest_speed EVIDENCE.json TPM-CA.pem AMD.pem tpm|cvm SECONDS: "N MICROSECONDS", of processor time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/hpke.h"
#include "common/io.h"
#include "common/units.h"
#include "controlplane/attest/policy.h"
#include "controlplane/attest/verify.h"

struct speed {
    char *evidence;
    size_t len;
    struct cp_attest_roots *roots;
    struct cp_attest_policy policy;
    struct tb_attest_subject who;
};

static double speed_cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void speed_stop(const char *what, const char *why)
{
    fprintf(stderr, "attest_speed: %s: %s\n", what, why);
    exit(1);
}

static void speed_once(const struct speed *b, struct cp_attestation *a)
{
    static const uint8_t key[TB_KEY_BYTES] = {1};
    struct cp_attest_rules rules = {.roots = b->roots,
                                    .trust = &b->policy.trust,
                                    .pcrs = b->policy.pcrs,
                                    .snp = b->policy.level == CP_LEVEL_CVM ? &b->policy.snp : NULL,
                                    .now_s = (uint64_t)time(NULL)};
    char err[TB_JSON_ERR_MAX], detail[CP_ATTEST_DETAIL_MAX];
    uint8_t info[TB_HPKE_INFO_MAX], enc[TB_P256_POINT_BYTES], ct[TB_SEALED_KEY_BYTES];
    struct cp_attested by;
    const char *reason;
    size_t info_len;

    if (cp_attestation_parse(b->evidence, b->len, a, err) < 0)
        speed_stop("the evidence", err);
    if (tb_attest_extra(a->evidence.challenge, &b->who, rules.extra) < 0)
        speed_stop("extra data", "too long");
    reason = cp_evidence_verify(&a->evidence, &rules, &by, detail);
    if (reason)
        speed_stop(reason, detail);
    if (tb_attest_info(b->who.contract_id, b->who.asset_id, "none", info, &info_len) < 0 ||
        tb_hpke_seal(by.point, info, info_len, key, sizeof(key), enc, ct) < 0)
        speed_stop("the seal", "failed");
}

static char *speed_read(const char *path, size_t *ret_len)
{
    char *text;

    if (tb_read_file(path, 1 << 20, &text, ret_len) < 0)
        speed_stop(path, "cannot be read");
    return text;
}

int main(int argc, char **argv)
{
    struct cp_attestation *a = calloc(1, sizeof(*a));
    struct speed b = {.who = {"acme-1", "my-model", "hw-1"}};
    struct cp_policy_words words = {0};
    char policy[CP_POLICY_MAX], err[CP_ERR_MAX];
    const char *own[] = {"own"};
    double begin, until;
    size_t n = 0;

    if (argc != 6 || !a)
        speed_stop("usage", "attest_speed EVIDENCE.json TPM-CA.pem AMD.pem tpm|cvm SECONDS");
    words.level = argv[4];
    words.aks = (struct tb_option_list){.v = own, .n = 1};
    b.evidence = speed_read(argv[1], &b.len);
    if (cp_policy_make(&words, policy, err) < 0 || cp_policy_parse(policy, &b.policy, err) < 0 ||
        cp_attest_roots_new(&b.roots, err) < 0 ||
        cp_attest_roots_add_own(b.roots, speed_read(argv[2], &(size_t){0}), err) < 0 ||
        cp_attest_roots_add_amd(b.roots, speed_read(argv[3], &(size_t){0}), err) < 0)
        speed_stop("policy and roots", err);
    begin = speed_cpu_s();
    until = begin + atof(argv[5]);
    for (; speed_cpu_s() < until; n++)
        speed_once(&b, a);
    printf("%zu %.1f\n", n, (speed_cpu_s() - begin) * 1e6 / (double)n);
    return 0;
}
