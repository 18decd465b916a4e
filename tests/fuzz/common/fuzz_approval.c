/* SPDX-License-Identifier: Apache-2.0 */
/* What the maker of images approved, as a partition that anybody may have written holds it; and his key. What is
 * taken is written and read again as the same. */
#include <stdlib.h>
#include <string.h>

#include "common/tpm_approval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_tpm_approvals a, again;
    struct tb_tpm_signer s;
    char err[TB_JSON_ERR_MAX];

    (void)tb_tpm_signer_parse((const char *)data, size, &s);
    if (tb_tpm_approvals_parse((const char *)data, size, &a, err) == 0) {
        cJSON *o = tb_tpm_approvals_describe(&a);
        char *text = cJSON_Print(o);

        if (!text || tb_tpm_approvals_parse(text, strlen(text), &again, err) < 0 || again.n != a.n)
            abort();
        for (size_t i = 0; i < a.n; i++)
            if (a.v[i].mask != again.v[i].mask ||
                memcmp(a.v[i].policy, again.v[i].policy, sizeof(a.v[i].policy)) != 0 ||
                memcmp(a.v[i].signature, again.v[i].signature, sizeof(a.v[i].signature)) != 0)
                abort();
        free(text);
        cJSON_Delete(o);
    }
    return 0;
}
