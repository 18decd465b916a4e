/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/evidence.h"

#include <string.h>

#include "common/base64.h"
#include "common/hex.h"

static int evidence_fault(char *err, const char *name, const char *why)
{
    snprintf(err, TB_JSON_ERR_MAX, "\"%s\" %s", name, why);
    return -EINVAL;
}

/* At most max bytes in base64. */
static int evidence_bytes(const cJSON *o, const char *name, uint8_t *out, size_t max, size_t *ret_len,
                          char *err)
{
    uint8_t raw[TB_TPM_CERT_MAX + 3];
    const char *s;
    ssize_t n;
    int r = tb_json_get_string(o, name, &s, err);

    if (r < 0)
        return r;
    if (strlen(s) > TB_BASE64_CHARS(max))
        return evidence_fault(err, name, "is too long");
    n = tb_base64_decode(s, strlen(s), raw);
    if (n <= 0 || (size_t)n > max)
        return evidence_fault(err, name, n > 0 ? "is too long" : "is not base64");
    memcpy(out, raw, (size_t)n);
    *ret_len = (size_t)n;
    return 0;
}

static int evidence_optional(const cJSON *o, const char *name, uint8_t *out, size_t max, size_t *ret_len,
                             char *err)
{
    *ret_len = 0;
    return tb_json_member(o, name) ? evidence_bytes(o, name, out, max, ret_len, err) : 0;
}

static int evidence_part(const cJSON *o, const char *name, struct tb_tpm_part *ret, char *err)
{
    return evidence_bytes(o, name, ret->b, sizeof(ret->b), &ret->n, err);
}

static int evidence_hex(const cJSON *o, const char *name, uint8_t *out, size_t n, char *err)
{
    const char *s;
    int r = tb_json_get_string(o, name, &s, err);

    if (r < 0)
        return r;
    return tb_hex_decode(s, strlen(s), out, n) < 0 ? evidence_fault(err, name, "is not that many hex digits")
                                                   : 0;
}

static int evidence_token(const cJSON *o, struct cp_evidence *e, char *err)
{
    const char *s = "";
    int r = tb_json_member(o, "maa") ? tb_json_get_string(o, "maa", &s, err) : 0;

    if (r == 0 && strlen(s) > CP_JWT_MAX)
        return evidence_fault(err, "maa", "is too long");
    snprintf(e->maa, sizeof(e->maa), "%s", r == 0 ? s : "");
    return r;
}

static int evidence_read(const cJSON *o, struct cp_evidence *e, char *err)
{
    const struct {
        const char *name;
        struct tb_tpm_part *part;
    } parts[] = {{"ak", &e->ak},
                 {"quote", &e->quote},
                 {"quote_sig", &e->quote_sig},
                 {"key", &e->key},
                 {"key_certify", &e->key_certify},
                 {"key_sig", &e->key_sig}};
    int r = evidence_hex(o, "challenge", e->challenge, sizeof(e->challenge), err);

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(parts); i++)
        r = evidence_part(o, parts[i].name, parts[i].part, err);
    if (r == 0)
        r = tb_attest_values_read(o, &e->pcrs, err);
    if (r == 0 && tb_attest_pcrs_read(tb_json_member(o, "key_pcrs"), &e->key_pcrs) < 0)
        r = evidence_fault(err, "key_pcrs", "is not a list of PCRs from 0 to 15");
    if (r == 0)
        r = evidence_optional(o, "ak_cert", e->ak_cert, sizeof(e->ak_cert), &e->ak_cert_len, err);
    if (r == 0)
        r = evidence_optional(o, "snp", e->snp, sizeof(e->snp), &e->snp_len, err);
    if (r == 0)
        r = evidence_optional(o, "vcek", e->vcek, sizeof(e->vcek), &e->vcek_len, err);
    if (r == 0)
        r = evidence_token(o, e, err);
    return r;
}

static bool offers_tpm(const cJSON *offer)
{
    const cJSON *m;

    cJSON_ArrayForEach (m, offer)
        if (cJSON_IsString(m) && strcmp(m->valuestring, "tpm2") == 0)
            return true;
    return false;
}

static void offer_why(const cJSON *o, char out[static CP_ATTEST_WHY_MAX + 1])
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    size_t n = 0;

    if (tb_json_get_string(o, "why", &s, err) < 0)
        s = "";
    for (; *s && n < CP_ATTEST_WHY_MAX; s++)
        out[n++] = *s >= ' ' && *s <= '~' ? *s : '?';
    out[n] = '\0';
}

static int attestation_read(const cJSON *o, struct cp_attestation *a, char *err)
{
    const cJSON *offer = tb_json_member(o, "offer");
    uint64_t v;
    const char *type;
    int r = tb_json_get_uint(o, "v", 1000, &v, err);

    if (r < 0)
        return r;
    if (v != 1)
        return evidence_fault(err, "v", "is of a version that this server does not know");
    if (offer) {
        a->offer = offers_tpm(offer) ? CP_SAID_OFFER : CP_SAID_CANNOT;
        offer_why(o, a->why);
        return 0;
    }
    r = tb_json_get_string(o, "type", &type, err);
    if (r < 0)
        return r;
    if (strcmp(type, "tpm2") != 0)
        return evidence_fault(err, "type", "is not tpm2");
    a->offer = CP_SAID_EVIDENCE;
    return evidence_read(o, &a->evidence, err);
}

int cp_attestation_parse(const char *text, size_t len, struct cp_attestation *ret,
                         char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    int r;

    ret->offer = CP_SAID_NOTHING;
    ret->why[0] = '\0';
    if (len == 0)
        return 0;
    r = tb_json_parse(text, len, TB_EVIDENCE_MAX, &o, err);
    if (r == 0 && !cJSON_IsObject(o))
        r = evidence_fault(err, "attestation", "is not a JSON object");
    if (r == 0)
        r = attestation_read(o, ret, err);
    if (r < 0)
        ret->offer = CP_SAID_NOTHING;
    return r < 0 ? -EBADMSG : 0;
}
