/* SPDX-License-Identifier: Apache-2.0 */
/* What strangers send as a bearer token, and what an OpenID provider has for keys. The first byte chooses. A
 * token that nobody signed is never good. */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/access/caller.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_US 1767873600000000ULL

static void fuzz_token(const char *text)
{
    static const struct cp_jwt_terms terms = {.issuer = "https://i", .audience = "a"};
    char err[CP_JWT_ERR_MAX] = "", hash[CP_SHA256_HEX + 1] = "";
    _cleanup_jwt_ struct cp_jwt t = {0};
    struct cp_jwt_person person;

    if (cp_token_hash(text, hash) == 0 && strlen(hash) != CP_SHA256_HEX)
        abort();
    if (cp_jwt_parse(text, &t, err) < 0) {
        if (!*err || t.claims)
            abort();
        return;
    }
    if (!*t.kid || !t.claims || t.signature_len == 0 || t.signature_len > CP_SIGNATURE_MAX ||
        t.signed_len >= strlen(text))
        abort();
    if (cp_jwt_check(&t, &terms, NOW_US, &person, err) == 0 &&
        (!*person.subject || person.expires_us + CP_JWT_LEEWAY_S * 1000000ULL <= NOW_US))
        abort();
    (void)cp_jwt_has(&t, "roles", "x");
    (void)cp_jwt_has(&t, "a.b.c", "x");
}

/* What is decoded has one form alone. */
static void fuzz_base64url(const char *text, size_t len)
{
    uint8_t out[300], again[300];
    char encoded[410];
    size_t n, m;
    int k;

    if (cp_base64url_decode(text, len, out, sizeof(out), &n) < 0 || n == 0)
        return;
    k = EVP_EncodeBlock((unsigned char *)encoded, out, (int)n);
    while (k > 0 && encoded[k - 1] == '=')
        k--;
    for (int i = 0; i < k; i++)
        encoded[i] = encoded[i] == '+' ? '-' : encoded[i] == '/' ? '_' : encoded[i];
    if ((size_t)k != len || memcmp(encoded, text, len) != 0 ||
        cp_base64url_decode(encoded, (size_t)k, again, sizeof(again), &m) < 0 || m != n)
        abort();
}

static void fuzz_jwks(const char *text, size_t len)
{
    static const struct cp_jwt unsigned_tokens[] = {
        {.alg = CP_JWT_RS256, .signed_len = 3, .signature_len = 256},
        {.alg = CP_JWT_ES256, .signed_len = 3, .signature_len = 64},
    };
    char err[CP_JWT_ERR_MAX] = "";
    struct cp_jwks *k = calloc(1, sizeof(*k));

    if (!k)
        return;
    if (cp_jwks_parse(text, len, k, err) < 0 && !*err)
        abort();
    for (size_t i = 0; i < k->n; i++)
        for (size_t j = 0; j < 2; j++)
            if (!k->v[i].key || !*k->v[i].kid || cp_jwt_verify(&unsigned_tokens[j], "a.b", &k->v[i]) == 0)
                abort();
    cp_jwks_clear(k);
    free(k);
}

static void fuzz_scopes(const char *text)
{
    char words[CP_SCOPES_TEXT_MAX];
    unsigned scopes = 0, again = 0;

    if (cp_scopes_parse(text, &scopes) == 0 &&
        (cp_scopes_parse(cp_scopes_text(scopes, words), &again) < 0 || again != scopes))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text;

    if (size < 2)
        return 0;
    text = malloc(size);
    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    if (data[0] % 4 == 0)
        fuzz_token(text);
    else if (data[0] % 4 == 1)
        fuzz_jwks(text, size - 1);
    else if (data[0] % 4 == 2)
        fuzz_base64url(text, size - 1);
    else
        fuzz_scopes(text);
    free(text);
    return 0;
}
