/* SPDX-License-Identifier: Apache-2.0 */
/* The archive of tb-backup, plain and as the encrypted part. What is taken names nothing outside of a backup. */
#include "backup/archive.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int sealed = 0; sealed < 2; sealed++) {
        _cleanup_backup_set_ struct backup_set *s = NULL;
        char err[BACKUP_ERR_MAX] = "";
        int r = backup_archive_read((const char *)data, size, sealed, &s, err);

        if (r < 0 && !*err)
            abort();
        for (size_t i = 0; r == 0 && i < s->n; i++)
            if (backup_name_kind(s->v[i].name, sealed) == BACKUP_KIND_NONE || s->v[i].len > size)
                abort();
    }
    return 0;
}
