/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/policy.h"

#include <string.h>

#include "common/hex.h"
#include "controlplane/access/issuer.h"

/* What the firmware started, Secure Boot, the kernel image, what was added to it, and the owner's: whatever a
 * boot from other media or with another kernel changes. */
#define PCRS_DEFAULT (1U << 4 | 1U << 7 | 1U << 11 | 1U << 12 | 1U << 13 | 1U << 14)
#define PIN "pin:"

const char *const cp_attest_level_names[] = {
    [CP_LEVEL_NONE] = "none", [CP_LEVEL_TPM] = "tpm", [CP_LEVEL_IMAGE] = "image", [CP_LEVEL_CVM] = "cvm"};

static int policy_fault(char *err, const char *name, const char *why)
{
    snprintf(err, TB_JSON_ERR_MAX, "attest: \"%.80s\" %s", name, why);
    return -EINVAL;
}

static int policy_pin(struct cp_attest_trust *t, const char *word, char *err)
{
    uint8_t digest[TB_TPM_DIGEST_BYTES];

    if (tb_hex_decode(word + strlen(PIN), strlen(word) - strlen(PIN), digest, sizeof(digest)) < 0)
        return policy_fault(err, word, "is not pin: and the SHA-256 of a key in 64 hex digits");
    if (t->n_pins == CP_PINS_MAX)
        return policy_fault(err, word, "is one key too many");
    tb_hex_encode(digest, sizeof(digest), t->pins[t->n_pins++]);
    return 0;
}

static int policy_ak(struct cp_attest_trust *t, const char *word, char *err)
{
    if (strncmp(word, PIN, strlen(PIN)) == 0)
        return policy_pin(t, word, err);
    if (strcmp(word, "azure") == 0)
        t->roots |= CP_ATTEST_AZURE;
    else if (strcmp(word, "own") == 0)
        t->roots |= CP_ATTEST_OWN;
    else
        return policy_fault(err, word, "names no attestation keys: azure, own, or pin:SHA256");
    return 0;
}

static int policy_aks(const cJSON *array, struct cp_attest_trust *t, char *err)
{
    const cJSON *m;

    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) == 0)
        return policy_fault(err, "ak", "is not a list of at least one name");
    cJSON_ArrayForEach (m, array) {
        int r = cJSON_IsString(m) ? policy_ak(t, m->valuestring, err)
                                  : policy_fault(err, "ak", "has something that is no name");

        if (r < 0)
            return r;
    }
    return 0;
}

static int policy_id_keys(const cJSON *array, struct cp_snp_terms *t, char *err)
{
    uint8_t digest[CP_SNP_DIGEST_BYTES];
    const cJSON *m;

    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) == 0 ||
        cJSON_GetArraySize(array) > CP_SNP_ID_KEYS_MAX)
        return policy_fault(err, "id_keys", "is not a list of one to eight SHA-384");
    cJSON_ArrayForEach (m, array) {
        if (!cJSON_IsString(m) ||
            tb_hex_decode(m->valuestring, strlen(m->valuestring), digest, sizeof(digest)) < 0)
            return policy_fault(err, "id_keys", "has something that is not a SHA-384 in 96 hex digits");
        tb_hex_encode(digest, sizeof(digest), t->id_keys[t->n_id_keys++]);
    }
    return 0;
}

/* As it stands in the tokens of the instance (iss). */
static int policy_maa(const cJSON *m, char ret[static CP_POLICY_URL_MAX], char *err)
{
    const char *url = cJSON_GetStringValue(m);

    if (!url || !cp_issuer_url_good(url) || strlen(url) >= CP_POLICY_URL_MAX || url[strlen(url) - 1] == '/')
        return policy_fault(
            err, "maa",
            "is not the URL of an instance of Azure Attestation, https:// and without a slash "
            "at its end");
    strcpy(ret, url);
    return 0;
}

/* What is of level cvm alone. -ENOENT: it is nothing of that. */
static int policy_snp(const cJSON *m, struct cp_attest_policy *p, char *err)
{
    bool tcb = strcmp(m->string, "min_tcb") == 0, maa = strcmp(m->string, "maa") == 0;

    if (!tcb && !maa && strcmp(m->string, "id_keys") != 0)
        return -ENOENT;
    if (p->level != CP_LEVEL_CVM)
        return policy_fault(err, m->string, "goes with level cvm alone");
    if (maa)
        return policy_maa(m, p->maa, err);
    if (!tcb)
        return policy_id_keys(m, &p->snp, err);
    return cJSON_IsString(m) && cp_snp_tcb_read(m->valuestring, &p->snp.min_tcb) == 0
               ? 0
               : policy_fault(err, "min_tcb", "is not BOOTLOADER.TEE.SNP.MICROCODE, four numbers up to 255");
}

static int policy_level(const cJSON *o, enum cp_attest_level *ret, char *err)
{
    const char *s;
    int r = tb_json_get_string(o, "level", &s, err);

    if (r < 0)
        return -EINVAL;
    for (int i = CP_LEVEL_NONE; i < _CP_LEVEL_MAX; i++)
        if (strcmp(s, cp_attest_level_names[i]) == 0) {
            *ret = (enum cp_attest_level)i;
            return 0;
        }
    return policy_fault(err, s, "is no level: none, tpm, image or cvm");
}

static int policy_images(const cJSON *array, struct cp_attest_policy *p, char *err)
{
    const cJSON *m;

    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) == 0)
        return policy_fault(err, "images", "is not a list of at least one image");
    cJSON_ArrayForEach (m, array) {
        const char *word = cJSON_GetStringValue(m);

        if (p->n_images == CP_POLICY_IMAGES_MAX)
            return policy_fault(err, word ? word : "images", "is one image too many");
        if (!word || cp_image_reference(word, p->images[p->n_images]) < 0)
            return policy_fault(err, word ? word : "images",
                                "is no image: NAME@VERSION, or NAME for every version");
        p->n_images++;
    }
    return 0;
}

static int policy_flag(const cJSON *m, bool *ret, char *err)
{
    if (!cJSON_IsBool(m))
        return policy_fault(err, m->string, "is neither true nor false");
    *ret = cJSON_IsTrue(m);
    return 0;
}

/* What is of level image, and may be of cvm. -ENOENT: it is nothing of that. */
static int policy_image(const cJSON *m, struct cp_attest_policy *p, char *err)
{
    bool images = strcmp(m->string, "images") == 0, secure = strcmp(m->string, "secure_boot") == 0;

    if (!images && !secure && strcmp(m->string, "allow_debug") != 0)
        return -ENOENT;
    if (p->level < CP_LEVEL_IMAGE)
        return policy_fault(err, m->string, "goes with level image or cvm alone");
    if (images)
        return policy_images(m, p, err);
    return policy_flag(m, secure ? &p->secure_boot : &p->allow_debug, err);
}

static int policy_member(const cJSON *m, struct cp_attest_policy *p, char *err)
{
    int r;

    if (strcmp(m->string, "level") == 0)
        return 0;
    if (strcmp(m->string, "ak") == 0)
        return policy_aks(m, &p->trust, err);
    if (strcmp(m->string, "pcrs") == 0)
        return tb_attest_pcrs_read(m, &p->pcrs) < 0
                   ? policy_fault(err, "pcrs", "is not a list of PCRs from 0 to 15")
                   : 0;
    r = policy_image(m, p, err);
    if (r == -ENOENT)
        r = policy_snp(m, p, err);
    return r == -ENOENT ? policy_fault(err, m->string, "is unknown") : r;
}

static int policy_read(const cJSON *o, struct cp_attest_policy *p, char *err)
{
    const cJSON *m;
    int r = cJSON_IsObject(o) ? policy_level(o, &p->level, err) : policy_fault(err, "attest", "is no object");

    if (r < 0)
        return r;
    p->trust.roots = tb_json_member(o, "ak") ? 0 : CP_ATTEST_AZURE;
    cJSON_ArrayForEach (m, o) {
        r = policy_member(m, p, err);
        if (r < 0)
            return r;
    }
    if (!p->n_images && (p->level == CP_LEVEL_IMAGE || p->secure_boot || p->allow_debug))
        return policy_fault(err, "images", "is missing: which images may have the key");
    if (!p->n_images)
        return 0;
    /* Else the key would still open after one of them changed. */
    if ((p->pcrs & CP_IMAGE_PCRS) != CP_IMAGE_PCRS)
        return policy_fault(err, "pcrs", "lacks one of 4, 11, 12, 13 and 14, which images need");
    return 0;
}

int cp_policy_parse(const char *text, struct cp_attest_policy *ret, char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    int r;

    *ret = (struct cp_attest_policy){.level = CP_LEVEL_NONE, .pcrs = PCRS_DEFAULT};
    if (!*text)
        return 0;
    r = tb_json_parse(text, strlen(text), CP_POLICY_MAX, &o, err);
    return r < 0 ? -EINVAL : policy_read(o, ret, err);
}

/* An empty list: no such member. */
static bool policy_add_list(cJSON *o, const char *name, const struct tb_option_list *words)
{
    cJSON *array = words->n ? cJSON_AddArrayToObject(o, name) : NULL;

    for (size_t i = 0; array && i < words->n; i++) {
        cJSON *s = cJSON_CreateString(words->v[i]);

        if (!s || !cJSON_AddItemToArray(array, s))
            return false;
    }
    return array || !words->n;
}

int cp_policy_make(const struct cp_policy_words *w, char ret[static CP_POLICY_MAX],
                   char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    struct cp_attest_policy p;
    bool ok = o && cJSON_AddStringToObject(o, "level", w->level) && policy_add_list(o, "ak", &w->aks) &&
              policy_add_list(o, "id_keys", &w->id_keys) &&
              (!w->min_tcb || cJSON_AddStringToObject(o, "min_tcb", w->min_tcb)) &&
              (!w->maa || cJSON_AddStringToObject(o, "maa", w->maa)) &&
              policy_add_list(o, "images", &w->images) &&
              (!w->secure_boot || cJSON_AddBoolToObject(o, "secure_boot", true)) &&
              (!w->allow_debug || cJSON_AddBoolToObject(o, "allow_debug", true));

    if (!ok || !cJSON_PrintPreallocated(o, ret, CP_POLICY_MAX - 8, false)) {
        snprintf(err, TB_JSON_ERR_MAX, "attest: too much for a policy");
        return -EINVAL;
    }
    if (cp_policy_parse(ret, &p, err) < 0)
        return -EINVAL;
    if (p.level == CP_LEVEL_NONE)
        ret[0] = '\0';
    return 0;
}

struct policy_lookup {
    const char *reference;
    bool found;
};

static int policy_look(const struct cp_image *i, void *ctx)
{
    struct policy_lookup *l = ctx;

    l->found = !i->revoked_us && cp_image_is_named(i, l->reference);
    return l->found;
}

int cp_policy_check_images(struct cp_store *s, const struct cp_attest_policy *p, const char **ret_unknown)
{
    for (size_t n = 0; n < p->n_images; n++) {
        struct policy_lookup l = {.reference = p->images[n]};
        int r = cp_store_each_image(s, policy_look, &l);

        if (r < 0)
            return r;
        if (!l.found) {
            *ret_unknown = l.reference;
            return -ENOENT;
        }
    }
    return 0;
}
