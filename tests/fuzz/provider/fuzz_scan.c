/* SPDX-License-Identifier: Apache-2.0 */
/* The skeleton reader of `tbpkg inspect`: any file, strict and lenient, must be described without a fault, and what it counts
 * must fit into the file. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/io.h"
#include "provider/asset/scan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static int fd = -1;
    struct scan s;

    if (fd < 0)
        fd = memfd_create("scan", MFD_CLOEXEC);
    if (ftruncate(fd, 0) < 0 || tb_pwrite_full(fd, data, len, 0) < 0)
        abort();
    for (unsigned flags = 0; flags <= TBENC_LENIENT; flags++) {
        if (scan_ciphertext(fd, len, NULL, flags, &s) < 0)
            abort();
        if (s.n_problems > SCAN_PROBLEMS_MAX || s.records * TBENC_RECORD_OVERHEAD + s.plaintext_bytes > len)
            abort();
        if (s.has_header && s.n_problems == 0 &&
            TBENC_HEADER_BYTES + s.records * TBENC_RECORD_OVERHEAD + s.plaintext_bytes != len)
            abort();
    }
    return 0;
}
