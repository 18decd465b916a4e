/* SPDX-License-Identifier: Apache-2.0 */
/* The two XML documents the Blob service answers with: errors and block lists. A scanner for just these, over
 * (buf, len): no I/O, no DTD, no entities but the five of XML; what is not one of these documents is
 * -EBADMSG. */
#ifndef TBPKG_AZURE_XML_H
#define TBPKG_AZURE_XML_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"
#include "provider/azure/blob.h"

#define BLOB_CODE_MAX 64
#define BLOB_MESSAGE_MAX 200
#define BLOB_UNCOMMITTED_MAX 100000 /* blocks, a limit of the service */
#define BLOB_LIST_BYTES_MAX (32U << 20)

/* <Error><Code>..</Code><Message>..</Message></Error>. Text is cut to what fits, its first line, printable
 * ASCII only. */
int blob_xml_error(const char *buf, size_t len, char code[static BLOB_CODE_MAX],
                   char message[static BLOB_MESSAGE_MAX]);

/* Blocks of one of a block list's two lists that have an id of blob_block_id()'s length. */
struct blob_staged {
    char id[BLOB_ID_CHARS + 1];
    uint64_t size;
};
struct blob_staged_set {
    struct blob_staged *blocks; /* sorted by id */
    size_t n;
    size_t n_foreign; /* blocks with ids of another length: another program's */
};
#define BLOB_LIST_COMMITTED "CommittedBlocks"
#define BLOB_LIST_UNCOMMITTED "UncommittedBlocks"
int blob_xml_block_list(const char *buf, size_t len, const char *which, struct blob_staged_set *ret);
void blob_staged_set_clear(struct blob_staged_set *s);
#define _cleanup_staged_set_ _cleanup_(blob_staged_set_clear)
const struct blob_staged *blob_staged_find(const struct blob_staged_set *s, const char *id);

#endif
