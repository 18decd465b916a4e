/* SPDX-License-Identifier: Apache-2.0 */
/* The authorize request: POST <endpoint>/api/v1/license/authorize. No I/O here. */
#ifndef TB_AUTHORIZE_REQUEST_H
#define TB_AUTHORIZE_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

/* The URL to ask; a trailing slash of the endpoint is not doubled. Heap, NULL on ENOMEM. */
char *authorize_request_url(const char *endpoint);
/* The URL that tells whether the control plane is there, without anything of ours. Heap, NULL on ENOMEM. */
char *authorize_health_url(const char *endpoint);
/* The JSON body: contract_id, asset_id, hw_id, client_version, held_version unless it is 0, and usage_report
 * with usage_hmac unless report is NULL. Heap, NULL on ENOMEM. */
char *authorize_request_body(const char *contract_id, const char *asset_id, const char *hw_id,
                             uint64_t held_version, const char *report, const char *hmac);

#endif
