/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tpm_approval.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <string.h>

#include "common/base64.h"
#include "common/hex.h"
#include "common/secret.h"
#include "common/tpm_key.h"

#define CC_POLICY_AUTHORIZE 0x16AU
#define USER_WITH_AUTH (1U << 6)
#define ALG_KEYEDHASH 0x0008
#define ALG_HMAC 0x0005
/* and not userWithAuth: only the policy opens it */
#define STATE_ATTRIBUTES                                                                                     \
    (TB_TPM_FIXED_TPM | TB_TPM_FIXED_PARENT | TB_TPM_SENSITIVE_ORIGIN | TB_TPM_NO_DA | TB_TPM_SIGN)

/* -- the key that signs -------------------------------------------------------------------------- */
static void signer_key_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static void signer_bio_freep(BIO **b)
{
    BIO_free(*b);
}

static void signer_bn_freep(BIGNUM **n)
{
    BN_free(*n);
}

int tb_tpm_signer_parse(const char *pem, size_t len, struct tb_tpm_signer *ret)
{
    _cleanup_(signer_bio_freep) BIO *b = len < INT_MAX ? BIO_new_mem_buf(pem, (int)len) : NULL;
    _cleanup_(signer_key_freep) EVP_PKEY *k = b ? PEM_read_bio_PUBKEY(b, NULL, NULL, NULL) : NULL;
    _cleanup_(signer_bn_freep) BIGNUM *n = NULL, *e = NULL;
    int r = -EINVAL;

    if (k && EVP_PKEY_is_a(k, "RSA") && EVP_PKEY_get_bn_param(k, OSSL_PKEY_PARAM_RSA_N, &n) == 1 &&
        EVP_PKEY_get_bn_param(k, OSSL_PKEY_PARAM_RSA_E, &e) == 1 && BN_is_word(e, RSA_F4) &&
        BN_num_bits(n) == 8 * TB_SIGNER_BYTES &&
        BN_bn2binpad(n, ret->modulus, TB_SIGNER_BYTES) == TB_SIGNER_BYTES)
        r = 0;
    ERR_clear_error();
    return r;
}

void tb_tpm_signer_public(struct tb_tpm_writer *w, const struct tb_tpm_signer *s)
{
    tb_tpm_put_u16(w, TB_TPM_ALG_RSA);
    tb_tpm_put_u16(w, TB_TPM_ALG_SHA256);
    tb_tpm_put_u32(w, USER_WITH_AUTH | TB_TPM_SIGN);
    tb_tpm_put_2b(w, NULL, 0); /* authPolicy */
    tb_tpm_put_u16(w, TB_TPM_ALG_NULL);
    tb_tpm_put_u16(w, TB_TPM_ALG_NULL);
    tb_tpm_put_u16(w, 8 * TB_SIGNER_BYTES);
    tb_tpm_put_u32(w, 0); /* 65537 */
    tb_tpm_put_2b(w, s->modulus, sizeof(s->modulus));
}

void tb_tpm_signer_name(const struct tb_tpm_signer *s, uint8_t ret[static TB_TPM_NAME_BYTES])
{
    struct tb_tpm_writer w;

    w.n = 0;
    w.bad = false;
    tb_tpm_signer_public(&w, s);
    ret[0] = TB_TPM_ALG_SHA256 >> 8;
    ret[1] = TB_TPM_ALG_SHA256 & 0xff;
    (void)EVP_Digest(w.b, w.n, ret + 2, NULL, EVP_sha256(), NULL);
}

void tb_tpm_approval_digest(const uint8_t policy[static TB_TPM_DIGEST_BYTES],
                            uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    (void)EVP_Digest(policy, TB_TPM_DIGEST_BYTES, ret, NULL, EVP_sha256(), NULL); /* and an empty policyRef */
}

/* TPM2_PolicyAuthorize, part 3, 23.16: H(H(zeros | command | name) | policyRef). */
static void signer_policy(const struct tb_tpm_signer *s, uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    static const uint8_t start[TB_TPM_DIGEST_BYTES];
    uint8_t name[TB_TPM_NAME_BYTES];
    struct tb_tpm_writer w;

    tb_tpm_signer_name(s, name);
    w.n = 0;
    w.bad = false;
    tb_tpm_put(&w, start, sizeof(start));
    tb_tpm_put_u32(&w, CC_POLICY_AUTHORIZE);
    tb_tpm_put(&w, name, sizeof(name));
    (void)EVP_Digest(w.b, w.n, ret, NULL, EVP_sha256(), NULL);
    tb_tpm_approval_digest(ret, ret);
}

void tb_tpm_state_template(struct tb_tpm_writer *w, const struct tb_tpm_signer *s)
{
    uint8_t policy[TB_TPM_DIGEST_BYTES];

    signer_policy(s, policy);
    tb_tpm_put_u16(w, ALG_KEYEDHASH);
    tb_tpm_put_u16(w, TB_TPM_ALG_SHA256);
    tb_tpm_put_u32(w, STATE_ATTRIBUTES);
    tb_tpm_put_2b(w, policy, sizeof(policy));
    tb_tpm_put_u16(w, ALG_HMAC);
    tb_tpm_put_u16(w, TB_TPM_ALG_SHA256);
    tb_tpm_put_2b(w, NULL, 0); /* unique */
}

/* -- what is signed ------------------------------------------------------------------------------ */
static int approvals_fail(char *err, const char *why)
{
    snprintf(err, TB_JSON_ERR_MAX, "%s", why);
    return -EBADMSG;
}

static int approvals_read_mask(const cJSON *o, uint32_t *ret, char *err)
{
    const cJSON *list = tb_json_member(o, "pcrs"), *m;

    *ret = 0;
    cJSON_ArrayForEach (m, list) {
        int n = cJSON_IsNumber(m) && m->valuedouble == (double)m->valueint ? m->valueint : -1;

        if (n < 0 || n >= TB_TPM_PCRS || !(TB_TPM_PCRS_ALLOWED & 1U << n) || (*ret & 1U << n))
            return approvals_fail(err, "member \"pcrs\": not a list of PCRs, each from 0 to 15 and once");
        *ret |= 1U << n;
    }
    return cJSON_IsArray(list) && *ret ? 0 : approvals_fail(err, "member \"pcrs\": not a list of PCRs");
}

static int approvals_read_one(const cJSON *m, uint32_t mask, struct tb_tpm_approval *ret, char *err)
{
    const char *policy, *signature;
    uint8_t bytes[TB_BASE64_CHARS(TB_SIGNER_BYTES) / 4 * 3];

    if (!cJSON_IsObject(m) || tb_json_get_string(m, "policy", &policy, err) < 0 ||
        tb_json_get_string(m, "signature", &signature, err) < 0)
        return approvals_fail(err, "member \"approved\": a policy and its signature are missing");
    ret->mask = mask;
    if (tb_hex_decode(policy, strlen(policy), ret->policy, sizeof(ret->policy)) < 0)
        return approvals_fail(err, "member \"policy\": not 64 hex digits");
    if (strlen(signature) != TB_BASE64_CHARS(TB_SIGNER_BYTES) ||
        tb_base64_decode(signature, strlen(signature), bytes) != TB_SIGNER_BYTES)
        return approvals_fail(err, "member \"signature\": not 256 bytes in base64");
    memcpy(ret->signature, bytes, TB_SIGNER_BYTES);
    return 0;
}

int tb_tpm_approvals_parse(const char *buf, size_t len, struct tb_tpm_approvals *ret,
                           char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    const char *format;
    const cJSON *m;
    uint32_t mask;

    ret->n = 0;
    if (tb_json_parse(buf, strnlen(buf, len), TB_APPROVAL_DOCUMENT_MAX, &o, err) < 0 ||
        tb_json_get_string(o, "format", &format, err) < 0 || approvals_read_mask(o, &mask, err) < 0)
        return -EBADMSG;
    if (strcmp(format, TB_APPROVAL_FORMAT) != 0)
        return approvals_fail(err, "member \"format\" is not " TB_APPROVAL_FORMAT);
    cJSON_ArrayForEach (m, tb_json_member(o, "approved")) {
        if (ret->n == TB_APPROVALS_MAX)
            return approvals_fail(err, "member \"approved\" is too long");
        if (approvals_read_one(m, mask, &ret->v[ret->n], err) < 0)
            return -EBADMSG;
        ret->n++;
    }
    return ret->n > 0 ? 0 : approvals_fail(err, "member \"approved\" approves nothing");
}

static int approvals_add(cJSON *list, const struct tb_tpm_approval *a)
{
    char hex[2 * TB_TPM_DIGEST_BYTES + 1];
    cJSON *m = cJSON_CreateObject();

    tb_hex_encode(a->policy, sizeof(a->policy), hex);
    if (!cJSON_AddItemToArray(list, m))
        return -ENOMEM;
    return cJSON_AddStringToObject(m, "policy", hex)
               ? tb_json_add_base64(m, "signature", a->signature, sizeof(a->signature))
               : -ENOMEM;
}

cJSON *tb_tpm_approvals_describe(const struct tb_tpm_approvals *a)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *pcrs, *list, *done;

    if (!o || !cJSON_AddStringToObject(o, "format", TB_APPROVAL_FORMAT))
        return NULL;
    pcrs = cJSON_AddArrayToObject(o, "pcrs");
    list = cJSON_AddArrayToObject(o, "approved");
    if (!pcrs || !list)
        return NULL;
    for (int i = 0; a->n > 0 && i < TB_TPM_PCRS; i++)
        if ((a->v[0].mask & 1U << i) && !cJSON_AddItemToArray(pcrs, cJSON_CreateNumber(i)))
            return NULL;
    for (size_t i = 0; i < a->n; i++)
        if (approvals_add(list, &a->v[i]) < 0)
            return NULL;
    done = o;
    o = NULL;
    return done;
}

const struct tb_tpm_approval *tb_tpm_approval_find(const struct tb_tpm_approvals *a,
                                                   const struct tb_tpm_pcrs *pcrs)
{
    uint8_t policy[TB_TPM_DIGEST_BYTES];

    for (size_t i = 0; i < a->n; i++) {
        tb_tpm_pcrs_policy(a->v[i].mask, pcrs, policy);
        if (tb_mem_equal(policy, a->v[i].policy, sizeof(policy)))
            return &a->v[i];
    }
    return NULL;
}
