/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/xml.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char code[BLOB_CODE_MAX], message[BLOB_MESSAGE_MAX];
    struct blob_staged_set s = {0};
    struct blob_entries entries = {0};
    char next[BLOB_MARKER_MAX];

    if (blob_xml_error((const char *)data, size, code, message) == 0 &&
        (code[0] == '\0' || !memchr(code, '\0', sizeof(code)) || !memchr(message, '\0', sizeof(message))))
        abort();
    if (blob_xml_block_list((const char *)data, size, BLOB_LIST_UNCOMMITTED, &s) == 0)
        for (size_t i = 0; i < s.n; i++) {
            const struct blob_staged *b = blob_staged_find(&s, s.blocks[i].id);

            if (!b || strcmp(b->id, s.blocks[i].id) != 0)
                abort();
        }
    blob_staged_set_clear(&s);
    if (blob_xml_list((const char *)data, size, &entries, next) == 0 && !memchr(next, '\0', sizeof(next)))
        abort();
    for (size_t i = 0; i < entries.n; i++)
        if (!entries.v[i].name[0] || strlen(entries.v[i].name) > BLOB_NAME_MAX)
            abort();
    blob_entries_clear(&entries);
    return 0;
}
