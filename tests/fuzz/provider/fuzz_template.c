/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/template.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* template NUL name NUL value */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_free_ char *text = malloc(size + 1);
    _cleanup_json_ cJSON *d = NULL;
    char err[TEMPLATE_ERR_MAX];
    const char *name = "p", *value = "1";
    size_t n;

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    n = strlen(text);
    if (n < size) {
        name = text + n + 1;
        if (name + strlen(name) < text + size)
            value = name + strlen(name) + 1;
    }
    if (template_parse(text, n, &d, err) < 0)
        return 0;
    (void)template_check_secrets(d, err);
    (void)template_check_form(d, d, err);
    if (template_set(d, name, value, err) == 0 &&
        (template_secret_kind(value) ||
         !cJSON_GetObjectItemCaseSensitive(template_parameter(d, name), "defaultValue")))
        abort();
    return 0;
}
