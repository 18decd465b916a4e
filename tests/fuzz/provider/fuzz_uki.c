/* SPDX-License-Identifier: Apache-2.0 */
/* Any file as a unified kernel image: it is measured or refused with a reason, and what is measured does not change. */
#include <stdlib.h>
#include <string.h>

#include "provider/image/measure.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[MEASURE_ERR_MAX] = "";
    struct measured m, again;
    cJSON *o;

    if (measure_uki(data, size, &m, err) < 0) {
        if (!*err)
            abort();
        return 0;
    }
    if (measure_uki(data, size, &again, err) < 0 || memcmp(m.pcr11, again.pcr11, sizeof(m.pcr11)) != 0 ||
        memcmp(m.pcr4_open, again.pcr4_open, sizeof(m.pcr4_open)) != 0)
        abort();
    o = measured_describe(&m, "a", "1", NULL);
    if (!o)
        abort();
    cJSON_Delete(o);
    measured_clear(&m);
    measured_clear(&again);
    return 0;
}
