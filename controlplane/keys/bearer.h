/* SPDX-License-Identifier: Apache-2.0 */
/* The managed identity's token for one service of Azure, kept until shortly before its end. Any thread. */
#ifndef CP_BEARER_H
#define CP_BEARER_H

#include <stdbool.h>

#include "common/azure_token.h"

struct cp_bearer;

/* service: "vault.azure.net"; client_id: a user-assigned identity, or NULL. Both must outlive it. NULL on
 * ENOMEM. */
struct cp_bearer *cp_bearer_new(const char *service, const char *client_id);
struct cp_bearer *cp_bearer_free(struct cp_bearer *b);

/* "Authorization: Bearer ..." for tb_secret_free(), or NULL with the reason in err. fresh: the last one was
 * refused. */
char *cp_bearer_header(struct cp_bearer *b, bool fresh, char err[static TB_AZURE_ERR_MAX]);

#endif
