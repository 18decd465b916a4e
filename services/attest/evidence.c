/* SPDX-License-Identifier: Apache-2.0 */
#include "attest/evidence.h"

#include <string.h>

#include "common/hcl.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/tpm_key.h"

#define AK_TRIES 3 /* the PCRs may change between the key and the quote */

static int request_text(const cJSON *o, const char *name, char *out, size_t room, char *err)
{
    const char *s;
    int r = tb_json_get_string(o, name, &s, err);

    if (r < 0)
        return r;
    if (strlen(s) >= room) {
        snprintf(err, TB_JSON_ERR_MAX, "\"%s\" is too long", name);
        return -EINVAL;
    }
    strcpy(out, s);
    return 0;
}

static int request_read(const cJSON *o, struct attest_request *q, char *err)
{
    int r = request_text(o, "challenge", q->challenge_hex, sizeof(q->challenge_hex), err);

    if (r == 0)
        r = request_text(o, "contract_id", q->contract_id, sizeof(q->contract_id), err);
    if (r == 0)
        r = request_text(o, "asset_id", q->asset_id, sizeof(q->asset_id), err);
    if (r == 0)
        r = request_text(o, "hw_id", q->hw_id, sizeof(q->hw_id), err);
    if (r == 0 &&
        tb_hex_decode(q->challenge_hex, strlen(q->challenge_hex), q->challenge, sizeof(q->challenge)) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"challenge\" is not %d hex digits", TB_CHALLENGE_HEX_CHARS);
        return -EINVAL;
    }
    if (r == 0 && tb_attest_pcrs_read(tb_json_member(o, "challenge_pcrs"), &q->pcrs) < 0) {
        snprintf(err, TB_JSON_ERR_MAX, "\"challenge_pcrs\" is not a list of PCRs from 0 to 15");
        return -EINVAL;
    }
    return r;
}

int attest_request_parse(const char *buf, size_t len, struct attest_request *ret,
                         char err[static TB_ATTEST_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX];
    int r = tb_json_parse(buf, len, TB_ATTEST_REQUEST_MAX, &o, why);

    if (r == 0)
        r = request_read(o, ret, why);
    if (r < 0)
        snprintf(err, TB_ATTEST_ERR_MAX, "the request is malformed: %s", why);
    return r < 0 ? -EBADMSG : 0;
}

/* -- what the TPM gives -------------------------------------------------------------------------- */
struct evidence {
    struct tb_tpm_part ak, quote, quote_sig, key, key_certify, key_sig;
    uint8_t cert[TB_TPM_CERT_MAX];
    size_t cert_len; /* 0: the machine has none */
    struct tb_tpm_pcrs pcrs;
    uint8_t snp[TB_SNP_REPORT_MAX];
    size_t snp_len; /* 0: no confidential VM */
    char *vcek;     /* DER */
    size_t vcek_len;
};

static int evidence_identity(struct tb_tpm *t, struct evidence *e)
{
    int r = tb_tpm_read_public(t, TB_TPM_AK_HANDLE, &e->ak);

    if (r < 0)
        return r;
    e->cert_len = 0;
    r = tb_tpm_read_nv(t, TB_TPM_AK_CERT_NV, e->cert, sizeof(e->cert), &e->cert_len);
    return r == -ENOKEY ? 0 : r;
}

/* Machines of other kinds (TDX, Trusted Launch under that firmware) have theirs in the same place, and no
 * certificate that could be waited for. A confidential VM has its report in the TPM, and the processor's
 * certificate from tb-vcek. Without the certificate nobody can check the report: no evidence yet. */
static int evidence_confidential(struct tb_tpm *t, const char *run_dir, struct evidence *e)
{
    _cleanup_free_ char *dir = NULL, *path = NULL;
    struct tb_hcl h;
    int r;

    e->snp_len = 0;
    r = tb_tpm_read_nv(t, TB_TPM_SNP_NV, e->snp, sizeof(e->snp), &e->snp_len);
    if (r == -ENOKEY)
        return 0;
    if (r < 0)
        return r;
    if (tb_hcl_parse(e->snp, e->snp_len, &h) < 0) {
        e->snp_len = 0;
        return 0;
    }
    dir = tb_path_join(run_dir, TB_VCEK_DIR);
    path = dir ? tb_path_join(dir, TB_VCEK_FILE) : NULL;
    tb_freep(&e->vcek);
    r = path ? tb_read_file(path, TB_TPM_CERT_MAX, &e->vcek, &e->vcek_len) : -ENOMEM;
    if (r < 0)
        snprintf(t->err, sizeof(t->err),
                 "the certificate of this machine's processor: %s (tb-vcek.service fetches it)",
                 r == -ENOENT ? "not there yet" : strerror(-r));
    return r < 0 ? -EAGAIN : 0;
}

static int evidence_collect(struct tb_tpm *t, const char *run_dir, const struct attest_request *q,
                            struct evidence *e)
{
    const struct tb_attest_subject subject = {q->contract_id, q->asset_id, q->hw_id};
    uint8_t extra[TB_TPM_DIGEST_BYTES];
    uint32_t key;
    int r = tb_attest_extra(q->challenge, &subject, extra);

    if (r == 0)
        r = evidence_identity(t, e);
    if (r == 0)
        r = evidence_confidential(t, run_dir, e);
    if (r == 0)
        r = tb_tpm_boot_key(t, q->pcrs, &key, &e->key);
    if (r < 0)
        return r;
    r = tb_tpm_certify(t, key, TB_TPM_AK_HANDLE, extra, &e->key_certify, &e->key_sig);
    if (r == 0)
        r = tb_tpm_quote(t, TB_TPM_AK_HANDLE, TB_ATTEST_QUOTED, extra, &e->quote, &e->quote_sig);
    tb_tpm_flush(t, key);
    return r == 0 ? tb_tpm_read_pcrs(t, TB_ATTEST_QUOTED, &e->pcrs) : r;
}

/* Whether the key is one of the values that were read: a PCR that changed in between is no fault. */
static bool evidence_agrees(const struct evidence *e, uint32_t pcrs)
{
    uint8_t policy[TB_TPM_DIGEST_BYTES], point[TB_P256_POINT_BYTES];

    tb_tpm_pcrs_policy(pcrs, &e->pcrs, policy);
    return tb_tpm_key_read((struct tb_tpm_span){e->key.b, e->key.n}, policy, point) == 0;
}

/* -- as JSON ------------------------------------------------------------------------------------- */
static bool add_part(cJSON *o, const char *name, const struct tb_tpm_part *p)
{
    return tb_json_add_base64(o, name, p->b, p->n) == 0;
}

static bool add_pcrs(cJSON *o, const struct evidence *e, uint32_t key_pcrs)
{
    cJSON *used = cJSON_AddArrayToObject(o, "key_pcrs"), *n;

    for (unsigned i = 0; used && i < 16; i++) {
        n = key_pcrs & 1U << i ? cJSON_CreateNumber(i) : NULL;
        if ((key_pcrs & 1U << i) && (!n || !cJSON_AddItemToArray(used, n)))
            return false;
    }
    return used && tb_attest_values_add(o, &e->pcrs) == 0;
}

static bool add_confidential(cJSON *o, const struct evidence *e)
{
    return tb_json_add_base64(o, "snp", e->snp, e->snp_len) == 0 &&
           tb_json_add_base64(o, "vcek", e->vcek, e->vcek_len) == 0;
}

static char *evidence_print(const struct evidence *e, const struct attest_request *q)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || tb_json_add_uint(o, "v", 1) < 0 || !cJSON_AddStringToObject(o, "type", "tpm2") ||
        !cJSON_AddStringToObject(o, "challenge", q->challenge_hex) || !add_pcrs(o, e, q->pcrs) ||
        !add_part(o, "ak", &e->ak) ||
        (e->cert_len && tb_json_add_base64(o, "ak_cert", e->cert, e->cert_len) < 0) ||
        !add_part(o, "quote", &e->quote) || !add_part(o, "quote_sig", &e->quote_sig) ||
        !add_part(o, "key", &e->key) || !add_part(o, "key_certify", &e->key_certify) ||
        !add_part(o, "key_sig", &e->key_sig) || (e->snp_len && !add_confidential(o, e)))
        return NULL;
    return cJSON_PrintUnformatted(o);
}

static void evidence_freep(struct evidence **e)
{
    if (*e)
        free((*e)->vcek);
    free(*e);
}

int attest_evidence(const struct tb_config *c, const struct attest_request *q, char **ret,
                    char err[static TB_ATTEST_ERR_MAX])
{
    _cleanup_(evidence_freep) struct evidence *e = calloc(1, sizeof(*e));
    _cleanup_tpm_ struct tb_tpm t = {.fd = -1};
    int r = e ? tb_tpm_open(c->tpm, &t) : -ENOMEM;

    for (int tries = 1; r == 0; tries++) {
        r = evidence_collect(&t, c->run_dir, q, e);
        if (r < 0 || evidence_agrees(e, q->pcrs))
            break;
        if (tries == AK_TRIES) {
            snprintf(t.err, sizeof(t.err), "the PCRs change while evidence is made; try again");
            r = -EAGAIN;
        }
    }
    *ret = r == 0 ? evidence_print(e, q) : NULL;
    if (r == 0 && !*ret)
        r = -ENOMEM;
    if (r < 0)
        snprintf(err, TB_ATTEST_ERR_MAX, "%s", *t.err ? t.err : strerror(-r));
    return r;
}
