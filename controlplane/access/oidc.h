/* SPDX-License-Identifier: Apache-2.0 */
/* An OpenID provider whose tokens are good here. Any thread. */
#ifndef CP_OIDC_H
#define CP_OIDC_H

#include "controlplane/access/jwt.h"

#define CP_OIDC_MAPS_MAX 32
#define CP_OIDC_VALUE_MAX 200

struct cp_oidc_map {
    char value[CP_OIDC_VALUE_MAX + 1];
    unsigned scopes;
};
/* Strings live longer. */
struct cp_oidc_settings {
    const char *issuer, *audience;
    const char *claim;   /* roles, groups, scope, realm_access.roles */
    const char *ca_file; /* NULL: the system's */
    struct cp_oidc_map map[CP_OIDC_MAPS_MAX];
    size_t n_maps;
};

struct cp_oidc;
/* -EINVAL with a reason: an issuer that is no https:// URL, or http:// of this machine. */
int cp_oidc_new(const struct cp_oidc_settings *settings, struct cp_oidc **ret,
                char err[static CP_JWT_ERR_MAX]);
struct cp_oidc *cp_oidc_free(struct cp_oidc *o);

/* 0; -EACCES, -EKEYEXPIRED, -EBADMSG: the token is not good; -EAGAIN: the provider does not answer, and its
 * keys are not known. A reason in err. */
int cp_oidc_identify(struct cp_oidc *o, const char *token, uint64_t now_us, struct cp_jwt_person *ret,
                     unsigned *ret_scopes, char err[static CP_JWT_ERR_MAX]);

#endif
