/* SPDX-License-Identifier: Apache-2.0 */
/* Managed applications of Azure: their ids, and the contract that a purchase makes. */
#ifndef TB_APPLICATION_H
#define TB_APPLICATION_H

#include "common/id.h"

#define TB_APPLICATION_MAX 360 /* bytes of an id */
/* "app-" and 128 bits of a hash in hex. */
#define TB_APPLICATION_CONTRACT_MAX 36

/* Reads "/subscriptions/GUID/resourceGroups/GROUP/providers/Microsoft.Solutions/applications/NAME" as Azure
 * writes it in one place or another, with or without the first slash, into its one spelling: lower case (of
 * ASCII), with it. -EINVAL when it is none. */
int tb_application_read(const char *text, char ret[static TB_APPLICATION_MAX + 1]);

/* What TB_CONTRACT_ID says instead of a contract's id: the one of the purchase. */
#define TB_APPLICATION_CONTRACT "application"

/* The id of the contract that the purchase of this application makes: whoever knows the application knows it,
 * the control plane from the notification, the machine from TB_BILLING_RESOURCE_ID. Takes what
 * tb_application_read() does. -EINVAL, -EIO. */
int tb_application_contract(const char *text, char ret[static TB_APPLICATION_CONTRACT_MAX + 1]);

#endif
