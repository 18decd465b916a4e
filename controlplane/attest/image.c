/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/image.h"

#include <string.h>

#include "common/hex.h"

#define FORMAT "trustbridge-image/v1"
#define PCR_SECURE_BOOT 4 /* its first value is with Secure Boot, the others without */
#define ANY_VERSION "*"

static int image_fault(char *err, const char *name, const char *why)
{
    snprintf(err, TB_JSON_ERR_MAX, "\"%.40s\" %s", name, why);
    return -EINVAL;
}

bool cp_image_name_valid(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    return n > 0 && n <= CP_IMAGE_NAME_MAX && !s[n] && !strchr("._-", s[0]);
}

int cp_image_reference(const char *word, char ret[static CP_IMAGE_REFERENCE_MAX])
{
    const char *at = strchr(word, '@'), *version = at ? at + 1 : ANY_VERSION;
    char name[CP_IMAGE_NAME_MAX + 1];
    size_t n = at ? (size_t)(at - word) : strlen(word);

    if (n >= sizeof(name))
        return -EINVAL;
    memcpy(name, word, n);
    name[n] = '\0';
    if (!cp_image_name_valid(name) || (strcmp(version, ANY_VERSION) != 0 && !cp_image_name_valid(version)))
        return -EINVAL;
    snprintf(ret, CP_IMAGE_REFERENCE_MAX, "%s@%s", name, version);
    return 0;
}

bool cp_image_is_named(const struct cp_image *i, const char *reference)
{
    size_t n = strlen(i->name);

    return strncmp(reference, i->name, n) == 0 && reference[n] == '@' &&
           (strcmp(reference + n + 1, ANY_VERSION) == 0 || strcmp(reference + n + 1, i->version) == 0);
}

/* -- the document ------------------------------------------------------------------------------ */
static int image_read_pcr(const cJSON *m, struct cp_image_values *v, char *err)
{
    static const char *const names[] = {"0", "1", "2",  "3",  "4",  "5",  "6",  "7",
                                        "8", "9", "10", "11", "12", "13", "14", "15"};
    struct cp_image_pcr *p = NULL;
    const cJSON *one;

    for (unsigned i = 0; !p && i < ARRAY_SIZE(names); i++)
        if (strcmp(m->string, names[i]) == 0) {
            p = &v->of[i];
            v->pcrs |= 1U << i;
        }
    if (!p || !cJSON_IsArray(m) || cJSON_GetArraySize(m) < 1 || cJSON_GetArraySize(m) > CP_IMAGE_VALUES_MAX)
        return image_fault(err, m->string, "in \"pcrs\" is not a PCR from 0 to 15 with 1 to 8 values");
    cJSON_ArrayForEach (one, m) {
        const char *hex = cJSON_GetStringValue(one);

        if (!hex || tb_hex_decode(hex, strlen(hex), p->value[p->n], TB_TPM_DIGEST_BYTES) < 0)
            return image_fault(err, m->string, "in \"pcrs\" has something else than 64 hex digits");
        p->n++;
    }
    return 0;
}

static int image_read_pcrs(const cJSON *o, struct cp_image_values *v, char *err)
{
    const cJSON *m, *pcrs = tb_json_member(o, "pcrs");

    if (!cJSON_IsObject(pcrs))
        return image_fault(err, "pcrs", "is no object");
    cJSON_ArrayForEach (m, pcrs) {
        int r = image_read_pcr(m, v, err);

        if (r < 0)
            return r;
    }
    if ((v->pcrs & CP_IMAGE_PCRS) != CP_IMAGE_PCRS)
        return image_fault(err, "pcrs", "lacks one of the PCRs 4, 11, 12, 13 and 14");
    return 0;
}

static int image_read_name(const cJSON *o, const char *member, char ret[static CP_IMAGE_NAME_MAX + 1],
                           char *err)
{
    const char *s;
    int r = tb_json_get_string(o, member, &s, err);

    if (r < 0)
        return -EINVAL;
    if (!cp_image_name_valid(s))
        return image_fault(err, member, "is not " CP_IMAGE_NAME_WORDS);
    strcpy(ret, s);
    return 0;
}

static int image_check_members(const cJSON *o, char *err)
{
    static const char *const known[] = {"format",   "image",   "version", "created", "uki_sha256",
                                        "roothash", "cmdline", "pcrs",    "debug"};
    const cJSON *m;

    cJSON_ArrayForEach (m, o) {
        bool is = false;

        for (size_t i = 0; i < ARRAY_SIZE(known); i++)
            is |= strcmp(m->string, known[i]) == 0;
        if (!is)
            return image_fault(err, m->string, "is unknown");
    }
    return 0;
}

/* What people read of it: nothing here goes by it, and whoever lists images is promised these forms. */
static int image_check_texts(const cJSON *o, char *err)
{
    static const char *const texts[] = {"created", "cmdline", "uki_sha256", "roothash"};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        const cJSON *m = tb_json_member(o, texts[i]);
        const char *s = cJSON_GetStringValue(m);
        bool digest = i >= 2;

        if (m && (!s || (digest &&
                         (strlen(s) != 2 * (size_t)TB_TPM_DIGEST_BYTES || s[strspn(s, "0123456789abcdef")]))))
            return image_fault(err, texts[i], digest ? "is not 64 hex digits" : "is no text");
    }
    return 0;
}

int cp_image_read(const cJSON *o, struct cp_image *ret, struct cp_image_values *values,
                  char err[static TB_JSON_ERR_MAX])
{
    const char *format;
    int r = cJSON_IsObject(o) ? image_check_members(o, err) : image_fault(err, "image", "is no object");

    *values = (struct cp_image_values){0};
    if (r == 0 && (tb_json_get_string(o, "format", &format, err) < 0 || strcmp(format, FORMAT) != 0))
        r = image_fault(err, "format", "is not " FORMAT ", which tbpkg image measure writes");
    if (r == 0)
        r = image_check_texts(o, err);
    if (r == 0)
        r = image_read_name(o, "image", ret->name, err);
    if (r == 0)
        r = image_read_name(o, "version", ret->version, err);
    if (r == 0 && tb_json_get_bool(o, "debug", &values->debug, err) < 0)
        r = -EINVAL;
    if (r == 0)
        r = image_read_pcrs(o, values, err);
    if (r == 0 && !cJSON_PrintPreallocated((cJSON *)o, ret->document, CP_IMAGE_DOCUMENT_MAX - 8, false))
        r = image_fault(err, "image", "is longer than a document of an image may be");
    return r;
}

int cp_image_values_read(const struct cp_image *i, struct cp_image_values *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    struct cp_image again;
    int r = tb_json_parse(i->document, strlen(i->document), CP_IMAGE_DOCUMENT_MAX, &o, err);

    return r < 0 ? r : cp_image_read(o, &again, ret, err);
}

/* -- comparison -------------------------------------------------------------------------------- */
void cp_image_compare(const struct cp_image_values *v, const struct tb_tpm_pcrs *quoted,
                      struct cp_image_match *ret)
{
    *ret = (struct cp_image_match){.differ = 16};
    for (unsigned i = 0; i < 16; i++) {
        size_t at = 0;

        if (!(v->pcrs & 1U << i))
            continue;
        while (at < v->of[i].n && memcmp(v->of[i].value[at], quoted->v[i], TB_TPM_DIGEST_BYTES) != 0)
            at++;
        if (at < v->of[i].n) {
            ret->same++;
            ret->open |= i == PCR_SECURE_BOOT && at > 0;
        } else if (ret->differ == 16) {
            ret->differ = i;
        }
    }
}
