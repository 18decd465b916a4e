/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/access/jwt.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "common/units.h"

#define JWT_TIME_MAX 253402300799.0 /* the year 9999 */

/* -- base64url --------------------------------------------------------------------------------- */
static int base64url_digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

int cp_base64url_decode(const char *in, size_t n, uint8_t *out, size_t room, size_t *ret_len)
{
    uint32_t bits = 0;
    size_t len = 0;
    int have = 0;

    if (n % 4 == 1 || n / 4 * 3 + (n % 4 ? n % 4 - 1 : 0) > room)
        return -EBADMSG;
    for (size_t i = 0; i < n; i++) {
        int d = base64url_digit(in[i]);

        if (d < 0)
            return -EBADMSG;
        bits = bits << 6 | (uint32_t)d;
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[len++] = (uint8_t)(bits >> have);
            bits &= (1U << have) - 1;
        }
    }
    *ret_len = len;
    return bits == 0 ? 0 : -EBADMSG; /* the one form of it */
}

/* -- the three parts --------------------------------------------------------------------------- */
void cp_jwt_clear(struct cp_jwt *t)
{
    tb_json_freep(&t->claims);
}

static int jwt_fault(char err[static CP_JWT_ERR_MAX], int r, const char *why)
{
    snprintf(err, CP_JWT_ERR_MAX, "%s", why);
    return r;
}

static int jwt_parse_part(const char *part, size_t n, cJSON **ret, char err[static CP_JWT_ERR_MAX])
{
    char json[CP_JWT_MAX], why[TB_JSON_ERR_MAX];
    size_t len;

    if (cp_base64url_decode(part, n, (uint8_t *)json, sizeof(json), &len) < 0)
        return jwt_fault(err, -EBADMSG, "the bearer token is not a JWT: a part of it is not base64url");
    if (tb_json_parse(json, len, sizeof(json), ret, why) < 0 || !cJSON_IsObject(*ret))
        return jwt_fault(err, -EBADMSG, "the bearer token is not a JWT: a part of it is not a JSON object");
    return 0;
}

static int jwt_parse_header(const char *part, size_t n, struct cp_jwt *t, char err[static CP_JWT_ERR_MAX])
{
    _cleanup_json_ cJSON *header = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *alg, *kid;
    int r = jwt_parse_part(part, n, &header, err);

    if (r < 0)
        return r;
    if (tb_json_get_string(header, "alg", &alg, why) < 0)
        return jwt_fault(err, -EBADMSG, "the JWT names no algorithm");
    if (strcmp(alg, "RS256") != 0 && strcmp(alg, "ES256") != 0)
        return jwt_fault(err, -EBADMSG, "the JWT is not signed by RS256 or ES256");
    t->alg = alg[0] == 'R' ? CP_JWT_RS256 : CP_JWT_ES256;
    if (tb_json_get_string(header, "kid", &kid, why) < 0 || !*kid || strlen(kid) > CP_KID_MAX)
        return jwt_fault(err, -EBADMSG, "the JWT does not name its key (kid)");
    strcpy(t->kid, kid);
    if (tb_json_member(header, "crit"))
        return jwt_fault(err, -EBADMSG,
                         "the JWT wants something understood that this server does not know (crit)");
    return 0;
}

int cp_jwt_parse(const char *text, struct cp_jwt *ret, char err[static CP_JWT_ERR_MAX])
{
    const char *first = strchr(text, '.'), *second = first ? strchr(first + 1, '.') : NULL;
    _cleanup_jwt_ struct cp_jwt t = {0};
    int r;

    if (strlen(text) > CP_JWT_MAX)
        return jwt_fault(err, -EBADMSG, "the bearer token is longer than 8192 characters");
    if (!second || strchr(second + 1, '.'))
        return jwt_fault(err, -EBADMSG, "the bearer token is neither one of this control plane nor a JWT");
    r = jwt_parse_header(text, (size_t)(first - text), &t, err);
    if (r < 0)
        return r;
    r = jwt_parse_part(first + 1, (size_t)(second - first - 1), &t.claims, err);
    if (r < 0)
        return r;
    t.signed_len = (size_t)(second - text);
    if (cp_base64url_decode(second + 1, strlen(second + 1), t.signature, sizeof(t.signature),
                            &t.signature_len) < 0 ||
        t.signature_len == 0)
        return jwt_fault(err, -EBADMSG, "the JWT has no signature");
    *ret = t;
    t.claims = NULL;
    return 0;
}

/* -- claims ------------------------------------------------------------------------------------ */

/* NumericDate: seconds, which may have a fraction. 0; -ENOENT: it is not there. */
static int jwt_get_time(const cJSON *claims, const char *name, uint64_t *ret_us)
{
    const cJSON *m = tb_json_member(claims, name);

    if (!m)
        return -ENOENT;
    if (!cJSON_IsNumber(m) || !(m->valuedouble >= 0 && m->valuedouble <= JWT_TIME_MAX))
        return -EINVAL;
    *ret_us = (uint64_t)floor(m->valuedouble) * TB_USEC_PER_SEC;
    return 0;
}

static bool jwt_is_for(const cJSON *aud, const char *audience)
{
    const cJSON *one;

    if (cJSON_IsString(aud))
        return strcmp(aud->valuestring, audience) == 0;
    if (!cJSON_IsArray(aud))
        return false;
    cJSON_ArrayForEach (one, aud) {
        if (cJSON_IsString(one) && strcmp(one->valuestring, audience) == 0)
            return true;
    }
    return false;
}

int cp_jwt_check_times(const struct cp_jwt *t, uint64_t now_us, uint64_t *ret_expires_us,
                       char err[static CP_JWT_ERR_MAX])
{
    const uint64_t leeway_us = CP_JWT_LEEWAY_S * TB_USEC_PER_SEC;
    static const char *const begins[] = {"nbf", "iat"};

    if (jwt_get_time(t->claims, "exp", ret_expires_us) < 0)
        return jwt_fault(err, -EACCES, "the JWT has no end (exp)");
    if (*ret_expires_us + leeway_us <= now_us)
        return jwt_fault(err, -EKEYEXPIRED, "the JWT is over: log in again");
    for (size_t i = 0; i < ARRAY_SIZE(begins); i++) {
        uint64_t us;
        int r = jwt_get_time(t->claims, begins[i], &us);

        if (r == -EINVAL)
            return jwt_fault(err, -EACCES, "a time of the JWT is none (nbf, iat)");
        if (r == 0 && us > now_us + leeway_us)
            return jwt_fault(err, -EACCES, "the JWT is of the future: a clock is wrong");
    }
    return 0;
}

int cp_jwt_check(const struct cp_jwt *t, const struct cp_jwt_terms *terms, uint64_t now_us,
                 struct cp_jwt_person *ret, char err[static CP_JWT_ERR_MAX])
{
    char why[TB_JSON_ERR_MAX];
    const char *iss, *sub;

    *ret = (struct cp_jwt_person){0};
    if (tb_json_get_string(t->claims, "iss", &iss, why) < 0 || strcmp(iss, terms->issuer) != 0)
        return jwt_fault(err, -EACCES, "the JWT is of another issuer than this control plane trusts");
    if (!jwt_is_for(tb_json_member(t->claims, "aud"), terms->audience))
        return jwt_fault(err, -EACCES, "the JWT is for another audience than this control plane");
    if (tb_json_get_string(t->claims, "sub", &sub, why) < 0 || !*sub || strlen(sub) > CP_SUBJECT_MAX)
        return jwt_fault(err, -EACCES, "the JWT does not say who it is of (sub)");
    for (const char *s = sub; *s; s++) /* it goes to the log of changes */
        if (*s <= ' ' || *s >= 0x7f)
            return jwt_fault(err, -EACCES, "the subject of the JWT is not printable ASCII");
    strcpy(ret->subject, sub);
    return cp_jwt_check_times(t, now_us, &ret->expires_us, err);
}

static bool jwt_word_in(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
        size_t len = strcspn(text, " ");

        if (len == n && memcmp(text, word, n) == 0)
            return true;
        text += len;
    }
    return false;
}

static const cJSON *jwt_find_claim(const cJSON *o, const char *claim)
{
    const cJSON *whole = tb_json_member(o, claim);
    const char *dot = strchr(claim, '.');
    char name[100];

    if (whole || !dot || (size_t)(dot - claim) >= sizeof(name))
        return whole;
    memcpy(name, claim, (size_t)(dot - claim));
    name[dot - claim] = '\0';
    o = tb_json_member(o, name);
    return cJSON_IsObject(o) ? jwt_find_claim(o, dot + 1) : NULL;
}

bool cp_jwt_has(const struct cp_jwt *t, const char *claim, const char *word)
{
    const cJSON *c = jwt_find_claim(t->claims, claim), *one;

    if (cJSON_IsString(c))
        return strcmp(c->valuestring, word) == 0 || jwt_word_in(c->valuestring, word);
    if (!cJSON_IsArray(c))
        return false;
    cJSON_ArrayForEach (one, c) {
        if (cJSON_IsString(one) && strcmp(one->valuestring, word) == 0)
            return true;
    }
    return false;
}
