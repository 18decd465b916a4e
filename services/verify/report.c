/* SPDX-License-Identifier: Apache-2.0 */
#include "verify/report.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/attest.h"
#include "common/io.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "common/version.h"

#define QUOTES_MAX 5

const char *verify_result_name(enum verify_result r)
{
    static const char *const names[] = {
        [VERIFY_HOLDS] = "holds", [VERIFY_BROKEN] = "broken", [VERIFY_NOT_CHECKED] = "not checked"};

    return names[r];
}

static bool report_add_claims(cJSON *o, const struct verify_claims *c)
{
    cJSON *array = cJSON_AddArrayToObject(o, "claims");

    for (size_t i = 0; array && i < c->n; i++) {
        cJSON *m = cJSON_CreateObject();

        if (!m || !cJSON_AddItemToArray(array, m) || !cJSON_AddStringToObject(m, "claim", c->v[i].name) ||
            !cJSON_AddStringToObject(m, "result", verify_result_name(c->v[i].result)) ||
            !cJSON_AddStringToObject(m, "detail", c->v[i].detail))
            return false;
    }
    return array;
}

static bool report_add_machine(cJSON *o)
{
    _cleanup_free_ char *boot = NULL,
                        *contract = getenv("TB_CONTRACT_ID") ? strdup(getenv("TB_CONTRACT_ID")) : NULL;
    char host[256] = "", at[TB_RFC3339_MAX];

    (void)gethostname(host, sizeof(host) - 1);
    (void)tb_rfc3339_format(tb_now_realtime_us(), 0, at);
    if (tb_read_file("/proc/sys/kernel/random/boot_id", 64, &boot, NULL) == 0)
        boot[strcspn(boot, "\n")] = '\0';
    return cJSON_AddStringToObject(o, "at", at) && cJSON_AddStringToObject(o, "host", host) &&
           cJSON_AddStringToObject(o, "boot_id", boot ? boot : "") &&
           cJSON_AddStringToObject(o, "contract_id", contract ? contract : "") &&
           cJSON_AddStringToObject(o, "program", "tb-verify " TB_VERSION);
}

char *verify_report(const struct verify_claims *c, const char *challenge)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || tb_json_add_uint(o, "v", 1) < 0 || !report_add_machine(o) ||
        (challenge && !cJSON_AddStringToObject(o, "challenge", challenge)) || !report_add_claims(o, c))
        return NULL;
    return cJSON_PrintUnformatted(o);
}

/* -- the signature ----------------------------------------------------------------------------------- */
struct machine_signature {
    struct tb_tpm_part ak, quote, quote_sig;
    uint8_t cert[TB_TPM_CERT_MAX];
    size_t cert_len; /* 0: the machine has none */
    struct tb_tpm_pcrs pcrs;
};

/* With the values that the quote has but the hash of. A register that changes meanwhile, as each phase of the
 * boot has it, is quoted again. */
static int report_quote_pcrs(struct tb_tpm *t, const uint8_t digest[static TB_TPM_DIGEST_BYTES],
                             struct machine_signature *s)
{
    struct tb_tpm_pcrs before = {0};
    int r = tb_tpm_read_pcrs(t, TB_ATTEST_QUOTED, &before);

    for (int i = 0; r == 0 && i < QUOTES_MAX; i++) {
        r = tb_tpm_quote(t, TB_TPM_AK_HANDLE, TB_ATTEST_QUOTED, digest, &s->quote, &s->quote_sig);
        if (r == 0)
            r = tb_tpm_read_pcrs(t, TB_ATTEST_QUOTED, &s->pcrs);
        if (r == 0 && memcmp(&before, &s->pcrs, sizeof(before)) == 0)
            return 0;
        before = s->pcrs;
    }
    return r < 0 ? r : -EAGAIN;
}

static int report_quote(const char *report, const char *device, struct machine_signature *s,
                        char why[static VERIFY_ERR_MAX])
{
    _cleanup_tpm_ struct tb_tpm t = {.fd = -1};
    uint8_t digest[TB_TPM_DIGEST_BYTES];
    int r = tb_machine_report_digest(report, digest);

    if (r == 0)
        r = tb_tpm_open(device, &t);
    if (r == 0)
        r = tb_tpm_read_public(&t, TB_TPM_AK_HANDLE, &s->ak);
    s->cert_len = 0;
    if (r == 0) {
        r = tb_tpm_read_nv(&t, TB_TPM_AK_CERT_NV, s->cert, sizeof(s->cert), &s->cert_len);
        r = r == -ENOKEY ? 0 : r;
    }
    if (r == 0)
        r = report_quote_pcrs(&t, digest, s);
    if (r < 0)
        snprintf(why, VERIFY_ERR_MAX, "%s", *t.err ? t.err : strerror(-r));
    return r;
}

static bool report_add_signature(cJSON *o, const struct machine_signature *s)
{
    cJSON *m = cJSON_AddObjectToObject(o, "signature");

    return m && cJSON_AddStringToObject(m, "type", "tpm2-quote") &&
           tb_json_add_base64(m, "quote", s->quote.b, s->quote.n) == 0 &&
           tb_json_add_base64(m, "quote_sig", s->quote_sig.b, s->quote_sig.n) == 0 &&
           tb_json_add_base64(m, "ak", s->ak.b, s->ak.n) == 0 &&
           (!s->cert_len || tb_json_add_base64(m, "ak_cert", s->cert, s->cert_len) == 0);
}

char *verify_sign(const char *report, const char *device, char why[static VERIFY_ERR_MAX])
{
    _cleanup_free_ struct machine_signature *s = calloc(1, sizeof(*s));
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    bool ok = s && o && cJSON_AddStringToObject(o, "report", report);

    why[0] = '\0';
    if (ok && report_quote(report, device, s, why) < 0)
        ok = cJSON_AddStringToObject(o, "unsigned", why);
    else
        ok = ok && report_add_signature(o, s) && tb_attest_values_add(o, &s->pcrs) == 0;
    return ok ? cJSON_PrintUnformatted(o) : NULL;
}
