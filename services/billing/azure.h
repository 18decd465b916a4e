/* SPDX-License-Identifier: Apache-2.0 */
/* The network side of tb-billing: instance metadata (IMDS), Resource Manager (ARM) and the metering API. One
 * exchange a call, no retries, each within 15 s; errors are negative errnos of tb_http_do(), -EACCES for a
 * refusal, -EBADMSG for an answer that makes no sense, with object, reason and remedy in err. */
#ifndef TB_BILLING_AZURE_H
#define TB_BILLING_AZURE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/http.h"

#define TB_METERING_AUDIENCE "20e940b3-4c77-4b0b-9a53-9e16a1b010a7"
#define TB_METERING_API_VERSION "2018-08-31"

struct tb_azure {
    const struct tb_config *cfg;
    struct tb_http_tls tls;
    char *token;             /* for the metering API; NULL: none */
    uint64_t token_until_us; /* CLOCK_BOOTTIME */
    char *resource;          /* as set, or found; NULL: not yet */
};
void tb_azure_init(struct tb_azure *a, const struct tb_config *cfg);
void tb_azure_clear(struct tb_azure *a);

/* Makes sure that there is a token that lasts five minutes. */
int tb_azure_authenticate(struct tb_azure *a, char err[static TB_HTTP_ERR_MAX]);
void tb_azure_drop_token(struct tb_azure *a);
/* Makes sure that a->resource is known: TB_BILLING_RESOURCE_ID, or the managed application that the machine's
 * resource group belongs to, which the machine's identity must be allowed to read. */
int tb_azure_find_resource(struct tb_azure *a, char err[static TB_HTTP_ERR_MAX]);

/* POST /api/batchUsageEvent. 0 with an answer of any status. *ret_reached is false when nothing can have
 * arrived. */
int tb_azure_post(struct tb_azure *a, const char *body, const char *request_id, struct tb_http_response *ret,
                  bool *ret_reached, char err[static TB_HTTP_ERR_MAX]);

#endif
