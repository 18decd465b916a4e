/* SPDX-License-Identifier: Apache-2.0 */
/* Azure Resource Manager, asked for a managed application (Microsoft.Solutions 2021-07-01) by the machine's
 * managed identity. */
#ifndef CP_ARM_H
#define CP_ARM_H

#include "common/http.h"
#include "common/json.h"
#include "controlplane/purchase/judge.h"

#define CP_ARM_DEFAULT "https://management.azure.com"
#define CP_ARM_ERR_MAX 400

struct cp_arm;

struct cp_arm_application {
    enum cp_existence existence;
    char provisioning[32];
    char source[CP_SOURCE_MAX + 1], resource_usage_id[CP_USAGE_ID_MAX + 1];
    char managed_group[TB_APPLICATION_MAX + 1]; /* lower case; "" */
    char contract_id[TB_ID_MAX + 1];            /* what the customer wrote into the portal's form; "" */
};

/* url: "https://HOST", or http:// of loopback. client_id: a user-assigned identity, or NULL. -EINVAL, -ENOMEM
 * with a reason in err. */
int cp_arm_new(const char *url, const char *client_id, const char *ca_file, struct cp_arm **ret,
               char err[static CP_ARM_ERR_MAX]);
struct cp_arm *cp_arm_free(struct cp_arm *a);

/* 0; -EAGAIN: no answer, or none that says it. The reason, with its remedy, in err. */
int cp_arm_get(struct cp_arm *a, const char *application_id, struct cp_arm_application *ret,
               char err[static CP_ARM_ERR_MAX]);

/* A token of a machine's managed identity for Resource Manager. The resource that Entra ID says it is of
 * (xms_mirid), lower case, once Resource Manager has taken the token for good. 0; -EBADMSG it is none;
 * -EACCES it is not good; -EAGAIN. The reason in err. */
int cp_arm_identify(struct cp_arm *a, const char *token, char ret[static TB_APPLICATION_MAX + 1],
                    char err[static CP_ARM_ERR_MAX]);
/* The claim alone, which nobody has proved. -EBADMSG. No I/O. */
int cp_arm_token_parse(const char *token, char ret[static TB_APPLICATION_MAX + 1]);
/* Whether the resource is a machine in the resource group. */
bool cp_arm_is_machine_of(const char *resource, const char *group);

/* The answer's body, without I/O. -EBADMSG. */
int cp_arm_parse(const char *body, size_t len, struct cp_arm_application *ret,
                 char err[static TB_JSON_ERR_MAX]);

#endif
