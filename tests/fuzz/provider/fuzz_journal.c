/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/journal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_journal_ struct journal j = JOURNAL_INIT;
    size_t good = 0;

    if (journal_parse((const char *)data, size, &j, &good) == 0 &&
        (good > size || data[good - 1] != '\n' || j.n_blocks < 1 || j.n_blocks > BLOB_BLOCKS_MAX ||
         !j.key_file || (j.commit_begun && !j.manifest)))
        abort();
    return 0;
}
