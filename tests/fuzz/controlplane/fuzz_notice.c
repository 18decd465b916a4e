/* SPDX-License-Identifier: Apache-2.0 */
/* Notifications of managed applications, and what Resource Manager answers. The first byte chooses. */
#include <stdlib.h>
#include <string.h>

#include "controlplane/purchase/arm.h"
#include "controlplane/purchase/notice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[TB_JSON_ERR_MAX] = "", again[TB_APPLICATION_MAX + 1];
    const char *text = (const char *)data + 1;
    struct cp_arm_application a;
    struct cp_notice n;

    if (size == 0)
        return 0;
    if (data[0] & 1) {
        if (cp_arm_parse(text, size - 1, &a, err) == 0 &&
            (!*a.provisioning || (*a.contract_id && !tb_id_valid(a.contract_id))))
            abort();
        return 0;
    }
    if (cp_notice_parse(text, size - 1, 1, &n, err) < 0) {
        if (!*err)
            abort();
        return 0;
    }
    /* an id has one spelling, and a notification an event */
    if (tb_application_read(n.application_id, again) < 0 || strcmp(again, n.application_id) != 0 ||
        !strchr(n.event, ' '))
        abort();
    for (const char *s = n.detail; *s; s++)
        if ((unsigned char)*s < ' ')
            abort();
    return 0;
}
