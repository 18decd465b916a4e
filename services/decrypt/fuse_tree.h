/* SPDX-License-Identifier: Apache-2.0 */
/* The directories and files of an asset, as a file system numbers and answers them. No I/O. */
#ifndef TB_DECRYPT_FUSE_TREE_H
#define TB_DECRYPT_FUSE_TREE_H

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "decrypt/fuse_request.h"
#include "tbenc/tbenc.h"

#define FUSE_TREE_NO_FILE SIZE_MAX

struct fuse_node {
    size_t parent; /* indices into nodes; the root is its own */
    const char *name;
    size_t name_len;
    uint64_t bytes;
    uint32_t mode;          /* of a file: as the table says, but that nobody may write */
    size_t file;            /* of the manifest's table; FUSE_TREE_NO_FILE: a directory */
    size_t first, children; /* of a directory, in fuse_tree.order; set by fuse_tree_init() */
    size_t subdirs;
};

struct fuse_tree {
    struct fuse_node *nodes; /* nodes[0] is the root; a node's id is its index and one */
    size_t n;
    size_t *order;   /* indices of all nodes but the root, by directory and then by name */
    char *one_name;  /* of an asset without a table */
    uint64_t time_s; /* when all of it was made */
};

/* time_s: what stands as the time of every file. 0 or -ENOMEM. */
int fuse_tree_init(struct fuse_tree *t, const struct tbenc_manifest *m, uint64_t time_s);
void fuse_tree_clear(struct fuse_tree *t);

/* NULL: there is none of that id. */
const struct fuse_node *fuse_tree_node(const struct fuse_tree *t, uint64_t id);
uint64_t fuse_tree_id(const struct fuse_tree *t, const struct fuse_node *node);
/* NULL: no such name there, or no directory. */
const struct fuse_node *fuse_tree_lookup(const struct fuse_tree *t, uint64_t dir, const char *name);

/* All belongs to who asks, and nobody may write: the mount is of one user. */
void fuse_tree_attr(const struct fuse_tree *t, const struct fuse_node *node, const struct fuse_request *q,
                    struct fuse_attr *ret);
void fuse_tree_entry(const struct fuse_tree *t, const struct fuse_node *node, const struct fuse_request *q,
                     struct fuse_entry_out *ret);
/* Answers READDIR or READDIRPLUS of a directory: as many entries from q->read.offset on as fit. Bytes. */
size_t fuse_tree_list(const struct fuse_tree *t, const struct fuse_request *q, void *buf);

#endif
