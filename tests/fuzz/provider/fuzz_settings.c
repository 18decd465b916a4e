/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/settings.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int set(void *ctx, size_t index, const char *value)
{
    if (index >= n_settings || !*value || strlen(value) > SETTINGS_LINE_MAX)
        abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[SETTINGS_ERR_MAX];

    if (settings_parse((const char *)data, size, set, NULL, err) < 0 && !memchr(err, '\0', sizeof(err)))
        abort();
    return 0;
}
