/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>

#include "common/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    cJSON *j = NULL;

    if (tb_json_parse((const char *)data, size, 65536, &j, err) == 0) {
        free(cJSON_PrintUnformatted(j));
        cJSON_Delete(j);
    }
    return 0;
}
