/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/vhd.h"

#include <string.h>

#define VHD_EPOCH UINT64_C(946684800) /* 2000-01-01T00:00:00Z */
#define VHD_FIXED 2
#define VHD_GEOMETRY_UNUSED 0xffff10ff /* the greatest: the size counts */

static uint8_t *vhd_put(uint8_t *at, uint64_t v, unsigned bytes)
{
    for (unsigned i = bytes; i > 0; i--, v >>= 8)
        at[i - 1] = (uint8_t)v;
    return at + bytes;
}

void vhd_footer(uint64_t disk_bytes, uint64_t created, const uint8_t id[static 16],
                uint8_t ret[static VHD_FOOTER_BYTES])
{
    uint32_t sum = 0;
    uint8_t *at = ret;

    memset(ret, 0, VHD_FOOTER_BYTES);
    memcpy(at, "conectix", 8);
    at = vhd_put(at + 8, 2, 4);      /* features: the bit that is always set */
    at = vhd_put(at, 0x00010000, 4); /* version */
    at = vhd_put(at, UINT64_MAX, 8); /* no dynamic header */
    at = vhd_put(at, created > VHD_EPOCH ? created - VHD_EPOCH : 0, 4);
    /* As qemu-img with force_size writes it, which Azure's documentation has one use. */
    memcpy(at, "qem2", 4);
    at = vhd_put(at + 4, 0x00050003, 4);
    memcpy(at, "Wi2k", 4);
    at = vhd_put(at + 4, disk_bytes, 8); /* original size */
    at = vhd_put(at, disk_bytes, 8);     /* current size */
    at = vhd_put(at, VHD_GEOMETRY_UNUSED, 4);
    at = vhd_put(at, VHD_FIXED, 4);
    memcpy(at + 4, id, 16);
    for (unsigned i = 0; i < VHD_FOOTER_BYTES; i++)
        sum += ret[i];
    vhd_put(at, ~sum, 4);
}
