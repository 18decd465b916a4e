/* SPDX-License-Identifier: Apache-2.0 */
/* Notifications of managed applications, as Azure sends them: of the Marketplace (plan, billingDetails) and
 * of a service catalog (applicationDefinitionId). No I/O. */
#ifndef CP_NOTICE_H
#define CP_NOTICE_H

#include "common/json.h"
#include "controlplane/store/purchases.h"

/* now_us: for one without a time. Members that are not known are ignored. -EBADMSG, -EINVAL, -ENOENT or
 * -ENOMEM, with a reason in err. */
int cp_notice_parse(const char *body, size_t len, uint64_t now_us, struct cp_notice *ret,
                    char err[static TB_JSON_ERR_MAX]);

/* What an application is of, by the object's members `plan` or else the definition's id: "" when it says
 * neither. The notification and the application itself have them in different places. */
void cp_notice_source(const cJSON *plan, const char *definition, char ret[static CP_SOURCE_MAX + 1]);
/* "publisher/product/plan" or an id, in the one spelling of sources. -EINVAL. */
int cp_source_read(const char *text, char ret[static CP_SOURCE_MAX + 1]);
/* Of an offer: a plan has two slashes with something between them, a definition begins with one. -EINVAL. */
int cp_plan_read(const char *plan, char ret[static CP_SOURCE_MAX + 1]);
int cp_definition_read(const char *id, char ret[static CP_SOURCE_MAX + 1]);
/* A GUID. */
bool cp_subscription_valid(const char *s);
/* billingDetails.resourceUsageId of the object; "" without. */
void cp_notice_usage_id(const cJSON *o, char ret[static CP_USAGE_ID_MAX + 1]);

#endif
