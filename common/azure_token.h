/* SPDX-License-Identifier: Apache-2.0 */
/* Bearer tokens of Microsoft Entra ID: the answer that carries one, and the managed identity of the machine,
 * which anything of ours on Azure may use. Blocking. Tokens are tb_secret_alloc strings of the caller. */
#ifndef TB_AZURE_TOKEN_H
#define TB_AZURE_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_AZURE_TOKEN_MAX (16 * 1024)
#define TB_AZURE_ERR_MAX 480

#define TB_AZURE_AUTHORITY "https://login.microsoftonline.com"

struct tb_http_response;
struct tb_http_tls;

struct tb_azure_token {
    char *text;
    uint64_t lifetime_s; /* from now; 0: unknown */
};

/* Reads a token answer (JSON): access_token or accessToken, and expires_in, expires_on (seconds, as number or
 * string). buf is wiped. -EBADMSG and a reason that repeats nothing of it. */
int tb_azure_token_parse(char *buf, size_t len, uint64_t now_s, struct tb_azure_token *ret,
                         char err[static TB_AZURE_ERR_MAX]);

/* What a refusal says: Entra, IMDS and Key Vault describe errors in `error_description` or `error`; neither
 * holds a secret. Its first line only, behind the status. */
void tb_azure_refusal(const struct tb_http_response *rs, char *out, size_t out_len);

/* The token of the managed identity for https://SERVICE/ ("storage.azure.com", "vault.azure.net"), or for the
 * application with the id SERVICE (no dot in it), from
 * $IDENTITY_ENDPOINT with $IDENTITY_HEADER, or IMDS at $AZURE_POD_IDENTITY_AUTHORITY_HOST
 * (http://169.254.169.254). client_id: a user-assigned identity, or NULL. Without any of the variables this
 * is a probe: one second, no retries. */
int tb_azure_identity_token(const char *service, const char *client_id, struct tb_azure_token *ret,
                            char err[static TB_AZURE_ERR_MAX]);
bool tb_azure_identity_configured(void);

/* A service principal: client credentials at host ("https://login.microsoftonline.com", which the caller has
 * checked). scope: "https://storage.azure.com/.default". */
struct tb_azure_principal {
    const char *host, *tenant, *client_id, *secret;
};
int tb_azure_principal_token(const struct tb_azure_principal *a, const char *scope,
                             const struct tb_http_tls *tls, struct tb_azure_token *ret,
                             char err[static TB_AZURE_ERR_MAX]);
bool tb_azure_tenant_valid(const char *s);

#endif
