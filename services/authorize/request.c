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

char *authorize_request_body(const char *contract_id, const char *asset_id, const char *hw_id,
                             uint64_t held_version, const char *report, const char *hmac)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddStringToObject(o, "contract_id", contract_id) ||
        !cJSON_AddStringToObject(o, "asset_id", asset_id) || !cJSON_AddStringToObject(o, "hw_id", hw_id) ||
        !cJSON_AddStringToObject(o, "client_version", TB_USER_AGENT))
        return NULL;
    if (held_version && tb_json_add_uint(o, "held_version", held_version) < 0)
        return NULL;
    if (report && (!cJSON_AddStringToObject(o, "usage_report", report) ||
                   !cJSON_AddStringToObject(o, "usage_hmac", hmac)))
        return NULL;
    return cJSON_PrintUnformatted(o);
}
