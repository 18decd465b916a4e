/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/access/oidc.h"

#include <openssl/evp.h>
#include <string.h>

#include "controlplane/access/issuer.h"

#define OIDC_REFILL_US 20000000ULL
#define OIDC_BURST 5

struct cp_oidc {
    struct cp_oidc_settings settings;
    struct cp_issuer *issuer;
};

int cp_oidc_new(const struct cp_oidc_settings *settings, struct cp_oidc **ret,
                char err[static CP_JWT_ERR_MAX])
{
    const struct cp_issuer_settings i = {.url = settings->issuer,
                                         .ca_file = settings->ca_file,
                                         .discovery = true,
                                         .burst = OIDC_BURST,
                                         .refill_us = OIDC_REFILL_US,
                                         .certain_us = OIDC_BURST * OIDC_REFILL_US};
    struct cp_oidc *o = calloc(1, sizeof(*o));
    int r = o ? cp_issuer_new(&i, &o->issuer) : -ENOMEM;

    if (r < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "%s",
                 r == -EINVAL ? "the issuer is an https:// URL, as it stands in its tokens (iss)"
                              : "out of memory");
        free(o);
        return r;
    }
    o->settings = *settings;
    *ret = o;
    return 0;
}

struct cp_oidc *cp_oidc_free(struct cp_oidc *o)
{
    if (o)
        cp_issuer_free(o->issuer);
    free(o);
    return NULL;
}

int cp_oidc_identify(struct cp_oidc *o, const char *token, uint64_t now_us, struct cp_jwt_person *ret,
                     unsigned *ret_scopes, char err[static CP_JWT_ERR_MAX])
{
    const struct cp_jwt_terms terms = {.issuer = o->settings.issuer, .audience = o->settings.audience};
    _cleanup_jwt_ struct cp_jwt t = {0};
    struct cp_jwk key;
    int r = cp_jwt_parse(token, &t, err);

    if (r == 0) /* before a stranger makes this server ask for keys */
        r = cp_jwt_check(&t, &terms, now_us, ret, err);
    if (r < 0)
        return r;
    r = cp_issuer_find(o->issuer, &t, &key);
    if (r < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "%s",
                 r == -EAGAIN ? "the identity provider does not answer"
                              : "the identity provider has no key of the name that the JWT has");
        return r;
    }
    r = cp_jwt_verify(&t, token, &key);
    EVP_PKEY_free(key.key);
    if (r < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "the signature of the JWT is wrong");
        return r;
    }
    *ret_scopes = 0;
    for (size_t i = 0; i < o->settings.n_maps; i++)
        if (cp_jwt_has(&t, o->settings.claim, o->settings.map[i].value))
            *ret_scopes |= o->settings.map[i].scopes;
    return 0;
}
