/* SPDX-License-Identifier: Apache-2.0 */
/* The attestation that a stranger sends: its JSON, and the structures of a TPM in it, which are judged as far as a
 * signature that is not there lets them; and a sealed key. Nothing that was not signed is believed. */
#include <stdlib.h>
#include <string.h>

#include "controlplane/attest/policy.h"
#include "controlplane/attest/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_S 1767873600U

static void fuzz_policy(const char *text)
{
    struct cp_attest_policy p;
    char err[TB_JSON_ERR_MAX] = "";

    if (cp_policy_parse(text, &p, err) < 0) {
        if (!*err)
            abort();
    } else if ((p.level == CP_LEVEL_IMAGE && !p.n_images) ||
               (p.n_images && (p.pcrs & CP_IMAGE_PCRS) != CP_IMAGE_PCRS) ||
               (p.level < CP_LEVEL_IMAGE && (p.n_images || p.secure_boot || p.allow_debug)) || p.pcrs == 0 ||
               (p.pcrs & ~0xffffU) || (p.level != CP_LEVEL_NONE && !p.trust.roots && !p.trust.n_pins))
        abort();
}

/* measurements.json: what is taken is read again from what is kept, and says the same. */
static void fuzz_image(const char *text, size_t size)
{
    static const struct tb_tpm_pcrs zero;
    struct cp_image *i = calloc(1, sizeof(*i));
    struct cp_image_values v, again;
    char err[TB_JSON_ERR_MAX] = "";
    _cleanup_json_ cJSON *o = NULL;
    struct cp_image_match m;

    if (!i)
        abort();
    if (tb_json_parse(text, size, CP_IMAGE_DOCUMENT_MAX, &o, err) == 0) {
        if (cp_image_read(o, i, &v, err) < 0) {
            if (!*err)
                abort();
        } else {
            if (cp_image_values_read(i, &again) < 0 || memcmp(&v, &again, sizeof(v)) != 0 ||
                !cp_image_name_valid(i->name) || (v.pcrs & CP_IMAGE_PCRS) != CP_IMAGE_PCRS)
                abort();
            cp_image_compare(&v, &zero, &m);
        }
    }
    free(i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct cp_attest_roots *roots;
    static const struct cp_attest_trust trust = {.roots = CP_ATTEST_AZURE | CP_ATTEST_OWN};
    struct cp_attest_rules rules = {.trust = &trust, .pcrs = 1U << 4 | 1U << 7, .now_s = NOW_S};
    struct cp_attestation *a = calloc(1, sizeof(*a));
    char *text = calloc(1, size + 1), err[CP_ERR_MAX] = "", why[TB_JSON_ERR_MAX] = "";
    char detail[CP_ATTEST_DETAIL_MAX];
    struct cp_attested by;
    struct tb_wrapped_key w;

    if (!a || !text || (!roots && cp_attest_roots_new(&roots, err) < 0))
        abort();
    memcpy(text, data, size);
    rules.roots = roots;
    if (cp_attestation_parse(text, size, a, why) < 0 && !*why)
        abort();
    if (a->offer == CP_SAID_EVIDENCE && !cp_evidence_verify(&a->evidence, &rules, &by, detail))
        abort();
    fuzz_policy(text);
    fuzz_image(text, size);
    if (tb_wrapped_key_read(data, size, &w) == 0 && (w.pcrs == 0 || w.pcrs > 0xffffU))
        abort();
    free(a);
    free(text);
    return 0;
}
