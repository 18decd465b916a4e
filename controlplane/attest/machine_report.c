/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/machine_report.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "common/base64.h"
#include "common/text.h"

#define MALFORMED "machine_report_malformed"
#define UNSIGNED "machine_report_unsigned"
#define OTHER_MACHINE "machine_report_other_machine"
#define BAD_SIGNATURE "machine_report_bad_signature"
#define OTHER_CONTRACT "machine_report_other_contract"
#define OTHER_BOOT "machine_report_other_boot"
#define CLAIMS_MAX 64

static int machine_report_fault(char *err, const char *name, const char *why)
{
    snprintf(err, TB_JSON_ERR_MAX, "machine_report: \"%s\" %s", name, why);
    return -EBADMSG;
}

/* Printable text, which people are shown. */
static int machine_report_text(const cJSON *o, const char *name, char *out, size_t room, char *err)
{
    const char *s;

    if (tb_json_get_string(o, name, &s, err) < 0)
        return -EBADMSG;
    if (strlen(s) >= room)
        return machine_report_fault(err, name, "is too long");
    for (const char *p = s; *p; p++)
        if (*p < ' ' || *p > '~')
            return machine_report_fault(err, name, "is not printable ASCII");
    strcpy(out, s);
    return 0;
}

static int machine_report_count(const cJSON *claim, struct cp_machine_report *m, char *err)
{
    char name[CP_CLAIM_NAME_MAX + 1], result[16];

    if (!cJSON_IsObject(claim) || machine_report_text(claim, "claim", name, sizeof(name), err) < 0 ||
        machine_report_text(claim, "result", result, sizeof(result), err) < 0)
        return machine_report_fault(err, "claims", "has something that is no claim");
    if (strcmp(result, "holds") == 0)
        m->holds++;
    else if (strcmp(result, "not checked") == 0)
        m->not_checked++;
    else if (strcmp(result, "broken") != 0)
        return machine_report_fault(err, "result", "is neither holds, broken nor not checked");
    else if (m->broken++ == 0)
        strcpy(m->first_broken, name);
    return 0;
}

/* What is signed is a text, and has JSON in it. */
static int machine_report_read(const char *text, struct cp_machine_report *m, char *err)
{
    _cleanup_json_ cJSON *o = NULL;
    const cJSON *claims, *one;
    uint64_t v;

    if (tb_json_parse(text, strlen(text), TB_MACHINE_REPORT_MAX, &o, err) < 0 ||
        tb_json_get_uint(o, "v", 1000, &v, err) < 0)
        return -EBADMSG;
    if (v != 1)
        return machine_report_fault(err, "v", "is of a version that this server does not know");
    if (machine_report_text(o, "contract_id", m->contract_id, sizeof(m->contract_id), err) < 0 ||
        machine_report_text(o, "boot_id", m->boot_id, sizeof(m->boot_id), err) < 0)
        return -EBADMSG;
    claims = tb_json_member(o, "claims");
    if (!cJSON_IsArray(claims) || cJSON_GetArraySize(claims) == 0 || cJSON_GetArraySize(claims) > CLAIMS_MAX)
        return machine_report_fault(err, "claims", "is not a list of claims");
    cJSON_ArrayForEach (one, claims) {
        if (machine_report_count(one, m, err) < 0)
            return -EBADMSG;
    }
    return 0;
}

static int machine_report_part(const cJSON *o, const char *name, struct tb_tpm_part *ret, char *err)
{
    uint8_t raw[sizeof(ret->b) + 3];
    const char *s;
    ssize_t n;

    if (tb_json_get_string(o, name, &s, err) < 0)
        return -EBADMSG;
    n = strlen(s) <= TB_BASE64_CHARS(sizeof(ret->b)) ? tb_base64_decode(s, strlen(s), raw) : -EINVAL;
    if (n <= 0 || (size_t)n > sizeof(ret->b))
        return machine_report_fault(err, name, "is not that in base64");
    memcpy(ret->b, raw, (size_t)n);
    ret->n = (size_t)n;
    return 0;
}

int cp_machine_report_parse(const char *text, size_t len, struct cp_machine_report *ret,
                            char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    const cJSON *signature;
    const char *report;

    *ret = (struct cp_machine_report){.holds = 0};
    if (tb_json_parse(text, len, TB_MACHINE_REPORT_MAX, &o, err) < 0 ||
        tb_json_get_string(o, "report", &report, err) < 0 || machine_report_read(report, ret, err) < 0 ||
        tb_machine_report_digest(report, ret->digest) < 0)
        return -EBADMSG;
    signature = tb_json_member(o, "signature");
    if (!signature)
        return 0;
    ret->has_pcrs = tb_json_member(o, "pcrs");
    if (machine_report_part(signature, "ak", &ret->ak, err) < 0 ||
        machine_report_part(signature, "quote", &ret->quote, err) < 0 ||
        (ret->has_pcrs && tb_attest_values_read(o, &ret->pcrs, err) < 0))
        return -EBADMSG;
    return machine_report_part(signature, "quote_sig", &ret->quote_sig, err);
}

static const char *machine_report_refuse(char *detail, const char *reason, const char *text)
{
    snprintf(detail, CP_ATTEST_DETAIL_MAX, "%s", text);
    return reason;
}

const char *cp_machine_report_judge(const struct cp_machine_report *m, const char *contract_id,
                                    const struct cp_attested *by, struct cp_tpm_clock *ret,
                                    char detail[static CP_ATTEST_DETAIL_MAX])
{
    char ak[CP_AK_HEX + 1];
    int r;

    if (!m->quote.n)
        return machine_report_refuse(detail, UNSIGNED, "the report is not signed");
    r = cp_quote_verify(&m->ak, &m->quote, &m->quote_sig, m->digest, m->has_pcrs ? &m->pcrs : NULL, ak, ret);
    if (r == -EBADMSG)
        return machine_report_refuse(detail, MALFORMED, "the signature of the report is none of a TPM's");
    if (strcmp(ak, by->ak) != 0)
        return machine_report_refuse(detail, OTHER_MACHINE,
                                     "the report is signed by another TPM than the evidence");
    if (r < 0)
        return machine_report_refuse(detail, BAD_SIGNATURE,
                                     "the TPM did not sign this report: it was altered");
    if (strcmp(m->contract_id, contract_id) != 0)
        return machine_report_refuse(detail, OTHER_CONTRACT, "the report is for another contract");
    if (ret->resets != by->clock.resets || ret->restarts != by->clock.restarts || ret->ms > by->clock.ms)
        return machine_report_refuse(detail, OTHER_BOOT,
                                     "the report is not of the boot that the machine is in");
    return NULL;
}
