/* SPDX-License-Identifier: Apache-2.0 */
/* A fixed VHD, the one form of a disk that Azure takes: the disk's bytes, and a footer of 512 bytes behind
 * them (Virtual Hard Disk Image Format Specification 1.0). No I/O. */
#ifndef TBPKG_IMAGE_VHD_H
#define TBPKG_IMAGE_VHD_H

#include <stdint.h>

#define VHD_FOOTER_BYTES 512
#define VHD_ALIGN ((uint64_t)1 << 20) /* Azure wants whole MiB */

/* id: any 16 bytes that are this disk's. created: seconds since 1970. */
void vhd_footer(uint64_t disk_bytes, uint64_t created, const uint8_t id[static 16],
                uint8_t ret[static VHD_FOOTER_BYTES]);

#endif
