/* SPDX-License-Identifier: Apache-2.0 */
/* Bearer tokens beside the identity of the machine (common/azure_token.h): of a service principal by Entra
 * ID, and of the Azure CLI. service: "storage.azure.com", "vault.azure.net". Blocking. */
#ifndef TBPKG_AZURE_TOKEN_H
#define TBPKG_AZURE_TOKEN_H

#include "common/azure_token.h"
#include "common/http.h"

#define AZURE_SCOPE_MAX 64

/* Client credentials flow at $AZURE_AUTHORITY_HOST (https://login.microsoftonline.com). */
int azure_token_principal(const char *service, const char *tenant, const char *client_id,
                          const char *client_secret, const struct tb_http_tls *tls,
                          struct tb_azure_token *ret, char err[static TB_AZURE_ERR_MAX]);

/* az account get-access-token. -ENOENT when az is not installed. */
int azure_token_cli(const char *service, struct tb_azure_token *ret, char err[static TB_AZURE_ERR_MAX]);

#endif
