/* SPDX-License-Identifier: Apache-2.0 */
/* The XML documents the Blob service answers with: errors, block lists and lists of blobs. A scanner for just
 * these, over (buf, len): no I/O, no DTD, no entities but the five of XML; what is not one of these documents
 * is -EBADMSG. */
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

/* A blob of a container. */
#define BLOB_NAME_MAX 1024 /* characters, a limit of the service */
#define BLOB_MARKER_MAX 2048
#define BLOB_ENTRIES_MAX 1000000
struct blob_entry {
    char *name; /* without the container's */
    uint64_t size;
    char etag[80], modified[40]; /* "" when there is none, as of one that is not committed */
};
struct blob_entries {
    struct blob_entry *v;
    size_t n, capacity;
};
void blob_entries_clear(struct blob_entries *e);
#define _cleanup_blob_entries_ _cleanup_(blob_entries_clear)
/* Adds a page of the list to ret; next is the marker of the one behind it, or "". A name that is no printable
 * ASCII is none of ours, and left out. */
int blob_xml_list(const char *buf, size_t len, struct blob_entries *ret, char next[static BLOB_MARKER_MAX]);

const struct blob_staged *blob_staged_find(const struct blob_staged_set *s, const char *id);

#endif
