/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine sends as its report on itself. Nothing of it is kept that the machine's TPM did not sign. */
#include <stdlib.h>
#include <string.h>

#include "controlplane/attest/machine_report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct cp_attested nobody;
    struct cp_machine_report *m = calloc(1, sizeof(*m));
    char err[TB_JSON_ERR_MAX] = "", detail[CP_ATTEST_DETAIL_MAX] = "";
    struct cp_tpm_clock clock;

    if (!m)
        return 0;
    if (cp_machine_report_parse((const char *)data, size, m, err) < 0) {
        if (!*err)
            abort();
    } else if (m->holds + m->broken + m->not_checked == 0 ||
               (m->broken && !memchr(m->first_broken, 0, sizeof(m->first_broken))) ||
               !cp_machine_report_judge(m, "acme", &nobody, &clock, detail) || !*detail) {
        abort();
    }
    free(m);
    return 0;
}
