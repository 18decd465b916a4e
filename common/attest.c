/* SPDX-License-Identifier: Apache-2.0 */
#include "common/attest.h"

#include <cjson/cJSON.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "common/hex.h"
#include "common/macros.h"
#include "common/tpm_key.h"

#define EXTRA_LABEL "trustbridge attestation v1" /* each with its NUL */
#define INFO_LABEL "trustbridge model key v1"
#define REPORT_LABEL "trustbridge machine report v1"
#define WRAPPED_MAGIC "TBWK0001"

static void put_name(struct tb_tpm_writer *w, const char *name)
{
    size_t n = strlen(name);

    if (n > UINT16_MAX)
        w->bad = true;
    else
        tb_tpm_put_2b(w, name, n);
}

int tb_attest_extra(const uint8_t challenge[static TB_CHALLENGE_BYTES], const struct tb_attest_subject *s,
                    uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    struct tb_tpm_writer w;

    w.n = 0;
    w.bad = false;
    tb_tpm_put(&w, EXTRA_LABEL, sizeof(EXTRA_LABEL));
    tb_tpm_put(&w, challenge, TB_CHALLENGE_BYTES);
    put_name(&w, s->contract_id);
    put_name(&w, s->asset_id);
    put_name(&w, s->hw_id);
    if (w.bad)
        return -EINVAL;
    return EVP_Digest(w.b, w.n, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

int tb_attest_info(const char *contract_id, const char *asset_id, const char *manifest_sha256,
                   uint8_t ret[static TB_HPKE_INFO_MAX], size_t *ret_len)
{
    struct tb_tpm_writer w;

    w.n = 0;
    w.bad = false;
    tb_tpm_put(&w, INFO_LABEL, sizeof(INFO_LABEL));
    put_name(&w, contract_id);
    put_name(&w, asset_id);
    put_name(&w, manifest_sha256);
    if (w.bad || w.n > TB_HPKE_INFO_MAX)
        return -EINVAL;
    memcpy(ret, w.b, w.n);
    *ret_len = w.n;
    return 0;
}

int tb_machine_report_digest(const char *report, uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(c, REPORT_LABEL, sizeof(REPORT_LABEL)) == 1 &&
              EVP_DigestUpdate(c, report, strlen(report)) == 1 && EVP_DigestFinal_ex(c, ret, NULL) == 1;

    EVP_MD_CTX_free(c);
    return ok ? 0 : -EIO;
}

int tb_attest_pcrs_read(const struct cJSON *array, uint32_t *ret)
{
    const cJSON *m;

    *ret = 0;
    if (!cJSON_IsArray(array))
        return -EINVAL;
    cJSON_ArrayForEach (m, array) {
        int n = cJSON_IsNumber(m) && m->valuedouble >= 0 && m->valuedouble < 32 ? (int)m->valuedouble : -1;

        if (n < 0 || (double)n != m->valuedouble || !(TB_TPM_PCRS_ALLOWED & 1U << n) || (*ret & 1U << n))
            return -EINVAL;
        *ret |= 1U << n;
    }
    return *ret ? 0 : -EINVAL;
}

void tb_wrapped_key_write(const struct tb_wrapped_key *k, uint8_t ret[static TB_WRAPPED_KEY_BYTES])
{
    memcpy(ret, WRAPPED_MAGIC, 8);
    for (int i = 0; i < 4; i++)
        ret[8 + i] = (uint8_t)(k->pcrs >> (24 - 8 * i));
    memcpy(ret + 12, k->enc, sizeof(k->enc));
    memcpy(ret + 12 + sizeof(k->enc), k->ct, sizeof(k->ct));
}

int tb_wrapped_key_read(const void *buf, size_t len, struct tb_wrapped_key *ret)
{
    struct tb_tpm_reader r = {.p = buf, .n = len};
    struct tb_tpm_span magic = tb_tpm_take(&r, 8), enc, ct;

    ret->pcrs = tb_tpm_take_u32(&r);
    enc = tb_tpm_take(&r, sizeof(ret->enc));
    ct = tb_tpm_take(&r, sizeof(ret->ct));
    if (!tb_tpm_is_read(&r) || memcmp(magic.p, WRAPPED_MAGIC, 8) != 0 || ret->pcrs == 0 ||
        (ret->pcrs & ~TB_TPM_PCRS_ALLOWED))
        return -EBADMSG;
    memcpy(ret->enc, enc.p, enc.n);
    memcpy(ret->ct, ct.p, ct.n);
    return 0;
}

int tb_attest_values_add(cJSON *o, const struct tb_tpm_pcrs *values)
{
    cJSON *m = cJSON_AddObjectToObject(o, "pcrs");
    char hex[2 * TB_TPM_DIGEST_BYTES + 1], name[4];

    for (unsigned i = 0; m && i < 16; i++) {
        snprintf(name, sizeof(name), "%u", i);
        tb_hex_encode(values->v[i], TB_TPM_DIGEST_BYTES, hex);
        if (!cJSON_AddStringToObject(m, name, hex))
            return -ENOMEM;
    }
    return m ? 0 : -ENOMEM;
}

int tb_attest_values_read(const cJSON *o, struct tb_tpm_pcrs *ret, char err[static TB_JSON_ERR_MAX])
{
    const cJSON *values = tb_json_member(o, "pcrs");
    char name[4];

    if (!cJSON_IsObject(values) || cJSON_GetArraySize(values) != 16) {
        snprintf(err, TB_JSON_ERR_MAX, "\"pcrs\" has not the members 0 to 15");
        return -EINVAL;
    }
    for (unsigned i = 0; i < 16; i++) {
        const char *s;

        snprintf(name, sizeof(name), "%u", i);
        if (tb_json_get_string(values, name, &s, err) < 0)
            return -EINVAL;
        if (tb_hex_decode(s, strlen(s), ret->v[i], TB_TPM_DIGEST_BYTES) < 0) {
            snprintf(err, TB_JSON_ERR_MAX, "\"%s\" is not that many hex digits", name);
            return -EINVAL;
        }
    }
    return 0;
}
