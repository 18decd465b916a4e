/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/request.h"

#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/version.h"

static char *request_url(const char *endpoint, const char *path)
{
    size_t n = strlen(endpoint);

    while (n > 0 && endpoint[n - 1] == '/')
        n--;
    return tb_strf("%.*s%s", (int)n, endpoint, path);
}

char *authorize_request_url(const char *endpoint)
{
    return request_url(endpoint, "/api/v1/license/authorize");
}

char *authorize_health_url(const char *endpoint)
{
    return request_url(endpoint, "/api/v1/health");
}

char *authorize_request_body(const struct authorize_question *q)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddStringToObject(o, "contract_id", q->contract_id) ||
        !cJSON_AddStringToObject(o, "asset_id", q->asset_id) ||
        !cJSON_AddStringToObject(o, "hw_id", q->hw_id) ||
        !cJSON_AddStringToObject(o, "client_version", TB_USER_AGENT) ||
        !cJSON_AddStringToObject(o, "attestation", q->attestation))
        return NULL;
    if (q->held_version && tb_json_add_uint(o, "held_version", q->held_version) < 0)
        return NULL;
    if (q->report && (!cJSON_AddStringToObject(o, "usage_report", q->report) ||
                      !cJSON_AddStringToObject(o, "usage_hmac", q->hmac)))
        return NULL;
    if (q->machine_report && !cJSON_AddStringToObject(o, "machine_report", q->machine_report))
        return NULL;
    return cJSON_PrintUnformatted(o);
}
