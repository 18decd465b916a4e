/* SPDX-License-Identifier: Apache-2.0 */
/* The administration API, /api/v1/admin/..., without HTTP: docs/controlplane.openapi.yaml. Each call is one
 * serializable transaction, and each change has its line in the chain of changes in it. */
#ifndef CP_ADMIN_H
#define CP_ADMIN_H

#include "controlplane/api/api.h"

bool cp_admin_path(const char *path);
/* As cp_api_refuse() and cp_api_answer(), of such a path. */
bool cp_admin_refuse(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret);
void cp_admin_answer(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     struct cp_reply *ret);

#endif
