/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a confidential VM, which a stranger sends: what is read of it lies within it. And the versions that a
 * policy names. */
#include <stdlib.h>
#include <string.h>

#include "common/hcl.h"
#include "controlplane/attest/snp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(1, size + 1);
    struct cp_snp_tcb tcb;
    struct cp_hcl h;

    if (!text)
        abort();
    if (size > 0)
        memcpy(text, data, size);
    if (cp_hcl_parse(data, size, &h) == 0 &&
        (h.report.raw < data || h.claims.n == 0 || h.claims.p + h.claims.n > data + size ||
         h.report.raw + TB_HCL_SNP_BYTES > h.claims.p || h.report.chip > h.claims.p))
        abort();
    (void)cp_snp_tcb_read(text, &tcb);
    free(text);
    return 0;
}
