/* SPDX-License-Identifier: Apache-2.0 */
#include "common/hcl.h"

#include <errno.h>
#include <string.h>

/* Little-endian. */
#define HCL_MAGIC "HCLA"
#define HCL_HEADER_BYTES 32
#define HCL_REQUEST_SNP 2
#define HCL_DATA_HEADER_BYTES 20
#define HCL_HASH_SHA256 1

static uint32_t hcl_number(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int tb_hcl_parse(const uint8_t *buf, size_t len, struct tb_hcl *ret)
{
    struct tb_tpm_reader r = {.p = buf, .n = len};
    struct tb_tpm_span header = tb_tpm_take(&r, HCL_HEADER_BYTES), data;
    uint32_t size;

    ret->snp = tb_tpm_take(&r, TB_HCL_SNP_BYTES);
    data = tb_tpm_take(&r, HCL_DATA_HEADER_BYTES);
    if (r.bad || memcmp(header.p, HCL_MAGIC, 4) != 0 || hcl_number(header.p + 12) != HCL_REQUEST_SNP ||
        hcl_number(data.p + 8) != HCL_REQUEST_SNP || hcl_number(data.p + 12) != HCL_HASH_SHA256)
        return -EBADMSG;
    size = hcl_number(data.p + 16);
    if (size == 0 || size > TB_HCL_CLAIMS_MAX)
        return -EBADMSG;
    ret->claims = tb_tpm_take(&r, size);
    return r.bad ? -EBADMSG : 0;
}
