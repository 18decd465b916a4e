/* SPDX-License-Identifier: Apache-2.0 */
#include "common/attestation.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/macros.h"
#include "common/units.h"

#define NEEDS_TPM                                                                                            \
    "the machine needs a TPM 2.0: on Azure a size and an image with Trusted Launch (vTpmEnabled); "          \
    "systemctl status tb-attest.socket"

/* The first that fits. */
static const struct {
    const char *begin, *inside; /* one of them */
    const char *remedy;
} attestation_remedies[] = {
    {NULL, "token of Azure Attestation",
     "let this machine reach the Azure Attestation that the contract names (TCP 443), and look at what it "
     "says of "
     "the machine; tb-authorize asks again"},
    {"attestation_required", NULL, NEEDS_TPM},
    {"this machine can make no evidence", NULL, NEEDS_TPM},
    {"tb-attest", NULL, NEEDS_TPM},
    {NULL, "/tb-attest.sock: ", NEEDS_TPM},
    {"attestation_stale", NULL,
     "compare this machine's clock with a right one: date -u; tb-authorize asks again"},
    {"attestation_untrusted_key", NULL,
     "the contract does not trust this TPM: deploy a machine as the provider says (on Azure with Trusted "
     "Launch), or ask the provider to trust this one"},
    {"attestation_key_changed", NULL,
     "ask the provider to remove this machine from the contract, which lets its new TPM in"},
    {"attestation_policy_unknown", NULL,
     "ask the provider: the control plane is older than what the contract asks for"},
    {"attestation_maa_required", NULL,
     "the contract asks for a token of Azure Attestation: install a newer trustbridge on this machine"},
    {"attestation_maa_expired", NULL,
     "compare this machine's clock and the control plane's with a right one: date -u; tb-authorize asks "
     "again"},
    {"attestation_maa", NULL,
     "deploy a confidential machine (AMD SEV-SNP) as the provider says, or ask the provider what is wrong"},
    {"attestation_snp", NULL,
     "deploy a confidential machine (AMD SEV-SNP) as the provider says, or ask the provider what is wrong"},
    {"attestation_", NULL,
     "restart the machine, so that its TPM begins anew; if it is refused again, give the provider this line"},
    {"image_revoked", NULL, "deploy a newer version of the provider's image: this one is revoked"},
    {"image_", NULL, "deploy a version of the provider's image that the contract names, unchanged"},
    {"secure_boot_required", NULL, "switch Secure Boot on for this machine, and start it again"},
};

const char *tb_attestation_remedy(const char *reason)
{
    for (size_t i = 0; i < ARRAY_SIZE(attestation_remedies); i++) {
        const char *begin = attestation_remedies[i].begin, *inside = attestation_remedies[i].inside;

        if (begin ? strncmp(reason, begin, strlen(begin)) == 0 : strstr(reason, inside) != NULL)
            return attestation_remedies[i].remedy;
    }
    return NULL;
}

const char *tb_attestation_refusal(const struct tb_facts *f)
{
    const char *const reasons[] = {
        f->lease == TB_LEASE_AUTHORIZED ? "" : f->lease_reason,
        f->suspended_flag ? f->suspended_reason : "",
        f->contact.known && !f->contact.reachable ? f->contact.reason : "",
    };

    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
        if (tb_attestation_remedy(reasons[i]))
            return reasons[i];
    return NULL;
}

const char *tb_attestation_level(const struct tb_facts *f)
{
    bool said = f->lease == TB_LEASE_AUTHORIZED || f->lease == TB_LEASE_UNREACHABLE;

    return *f->attested.level ? f->attested.level : said ? "none" : "";
}

const char *tb_attestation_image(const struct tb_facts *f, char out[static TB_ATTESTATION_TEXT_MAX])
{
    snprintf(out, TB_ATTESTATION_TEXT_MAX, "%s%s%s", f->attested.image, *f->attested.version ? " " : "",
             f->attested.version);
    return out;
}

static int attestation_add_text(cJSON *o, const char *name, const char *text)
{
    return !*text || cJSON_AddStringToObject(o, name, text) ? 0 : -ENOMEM;
}

static int attestation_add_volume(cJSON *doc, const struct tb_facts *f)
{
    cJSON *o = *f->volume ? cJSON_AddObjectToObject(doc, "state_volume") : NULL;

    if (!*f->volume)
        return 0;
    return o && attestation_add_text(o, "state", f->volume) == 0 &&
                   attestation_add_text(o, "text", f->volume_text) == 0
               ? 0
               : -ENOMEM;
}

int tb_attestation_add(cJSON *doc, const struct tb_facts *f)
{
    const char *refusal = tb_attestation_refusal(f), *level = tb_attestation_level(f);
    char at[TB_RFC3339_MAX] = "";
    cJSON *o;

    if (attestation_add_volume(doc, f) < 0)
        return -ENOMEM;
    if (!refusal && !*level)
        return 0;
    o = cJSON_AddObjectToObject(doc, "attestation");
    if (*f->attested.level)
        tb_rfc3339_format(f->attested.at_real_us, 0, at);
    if (!o || attestation_add_text(o, "level", level) < 0 ||
        attestation_add_text(o, "image", f->attested.image) < 0 ||
        attestation_add_text(o, "version", f->attested.version) < 0 ||
        attestation_add_text(o, "at", at) < 0 ||
        attestation_add_text(o, "refused", refusal ? refusal : "") < 0 ||
        attestation_add_text(o, "remedy", refusal ? tb_attestation_remedy(refusal) : "") < 0)
        return -ENOMEM;
    return 0;
}
