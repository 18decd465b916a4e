/* SPDX-License-Identifier: Apache-2.0 */
/* Bearer tokens for https://storage.azure.com from the three places that issue them: Entra ID for a service
 * principal, the managed identity endpoint of the machine, and the Azure CLI. Blocking. Tokens are
 * tb_secret_alloc strings of the caller. */
#ifndef TBPKG_AZURE_TOKEN_H
#define TBPKG_AZURE_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/http.h"
#include "common/macros.h"

#define AZURE_TOKEN_MAX (16 * 1024)
#define AZURE_ERR_MAX 480

struct azure_token {
    char *text;
    uint64_t lifetime_s; /* from now; 0: unknown */
};

/* Reads a token answer (JSON): access_token or accessToken, and expires_in, expires_on (seconds, as number or
 * string). buf is wiped. -EBADMSG and a reason that repeats nothing of it. */
int azure_token_parse(char *buf, size_t len, uint64_t now_s, struct azure_token *ret,
                      char err[static AZURE_ERR_MAX]);

/* Client credentials flow at $AZURE_AUTHORITY_HOST (https://login.microsoftonline.com). */
int azure_token_principal(const char *tenant, const char *client_id, const char *client_secret,
                          const struct tb_http_tls *tls, struct azure_token *ret,
                          char err[static AZURE_ERR_MAX]);

/* $IDENTITY_ENDPOINT with $IDENTITY_HEADER, or IMDS at $AZURE_POD_IDENTITY_AUTHORITY_HOST
 * (http://169.254.169.254). client_id: a user-assigned identity, or NULL. Without any of the variables this
 * is a probe: one second, no retries. */
int azure_token_identity(const char *client_id, struct azure_token *ret, char err[static AZURE_ERR_MAX]);
bool azure_token_identity_configured(void);

/* az account get-access-token. -ENOENT when az is not installed. */
int azure_token_cli(struct azure_token *ret, char err[static AZURE_ERR_MAX]);

#endif
