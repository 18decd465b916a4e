/* SPDX-License-Identifier: Apache-2.0 */
/* JSON Web Tokens, as an OpenID provider gives them to people: RS256 and ES256 alone. Which of the two is the
 * key's to say, never the token's: a token that names another algorithm than its key is refused. No I/O. */
#ifndef CP_JWT_H
#define CP_JWT_H

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/json.h"

#define CP_JWT_MAX 8192
#define CP_JWT_ERR_MAX 300
#define CP_KID_MAX 200
#define CP_SUBJECT_MAX 150
#define CP_SIGNATURE_MAX 1024 /* of a key of 8192 bits */
#define CP_JWT_LEEWAY_S 60    /* clocks differ */

enum cp_jwt_alg { CP_JWT_RS256, CP_JWT_ES256 };

struct cp_jwt {
    enum cp_jwt_alg alg; /* that it says */
    char kid[CP_KID_MAX + 1];
    size_t signed_len; /* of the text, from its beginning */
    uint8_t signature[CP_SIGNATURE_MAX];
    size_t signature_len;
    cJSON *claims;
};
void cp_jwt_clear(struct cp_jwt *t);
#define _cleanup_jwt_ _cleanup_(cp_jwt_clear)

/* Three parts of base64url with dots between. Nothing of it may be believed yet. -EBADMSG with a reason. */
int cp_jwt_parse(const char *text, struct cp_jwt *ret, char err[static CP_JWT_ERR_MAX]);

/* A key of the issuer. */
struct cp_jwk {
    char kid[CP_KID_MAX + 1];
    enum cp_jwt_alg alg;
    EVP_PKEY *key;
};
#define CP_JWKS_MAX 64
struct cp_jwks {
    size_t n;
    struct cp_jwk v[CP_JWKS_MAX];
};
void cp_jwks_clear(struct cp_jwks *k);
#define _cleanup_jwks_ _cleanup_(cp_jwks_clear)
/* A JWK set (RFC 7517). Keys for something else are left out. -EBADMSG with a reason. */
int cp_jwks_parse(const char *text, size_t len, struct cp_jwks *ret, char err[static CP_JWT_ERR_MAX]);

/* 0; -EACCES: another algorithm than the key's, or the key did not sign it. */
int cp_jwt_verify(const struct cp_jwt *t, const char *text, const struct cp_jwk *key);

/* What must be in it. */
struct cp_jwt_terms {
    const char *issuer, *audience;
};
struct cp_jwt_person {
    char subject[CP_SUBJECT_MAX + 1];
    uint64_t expires_us;
};
/* 0; -EACCES, or -EKEYEXPIRED, with a reason. */
int cp_jwt_check(const struct cp_jwt *t, const struct cp_jwt_terms *terms, uint64_t now_us,
                 struct cp_jwt_person *ret, char err[static CP_JWT_ERR_MAX]);
/* exp, nbf and iat alone. The same. */
int cp_jwt_check_times(const struct cp_jwt *t, uint64_t now_us, uint64_t *ret_expires_us,
                       char err[static CP_JWT_ERR_MAX]);
/* Whether the claim (a.b: b in a) is this word, has it among its words, or as an element. */
bool cp_jwt_has(const struct cp_jwt *t, const char *claim, const char *word);

/* Base64 for URLs, without padding, in its one form. -EBADMSG. */
int cp_base64url_decode(const char *in, size_t n, uint8_t *out, size_t room, size_t *ret_len);

#endif
