/* SPDX-License-Identifier: Apache-2.0 */
/* A request of the kernel, and what the tree of an asset answers to it. */
#include <linux/fuse.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decrypt/fuse_tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fuse_tree tree;

static void plant(void)
{
    static char a[] = "a", c[] = "b/c", e[] = "b/d/e", z[] = "z";
    struct tbenc_file files[] = {
        {.path = a, .bytes = 5}, {.path = c}, {.path = e, .bytes = 1ULL << 40}, {.path = z, .bytes = 7}};
    struct tbenc_manifest m = {.files = files, .n_files = 4};

    if (!tree.nodes && fuse_tree_init(&tree, &m, 1) < 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuse_request q;
    const struct fuse_node *node;

    plant();
    if (fuse_request_parse(data, size, &q) < 0)
        return 0;
    node = fuse_tree_node(&tree, q.node);
    if (node && (node < tree.nodes || node >= tree.nodes + tree.n))
        abort();
    if (q.opcode == FUSE_LOOKUP &&
        (q.name[0] == '\0' || strchr(q.name, '/') || (const uint8_t *)q.name + strlen(q.name) >= data + size))
        abort();
    if (q.opcode == FUSE_LOOKUP) {
        const struct fuse_node *found = fuse_tree_lookup(&tree, q.node, q.name);
        struct fuse_entry_out entry;

        if (found && (found->name_len != strlen(q.name) || &tree.nodes[found->parent] != node))
            abort();
        if (found)
            fuse_tree_entry(&tree, found, &q, &entry);
    }
    if ((q.opcode == FUSE_READDIR || q.opcode == FUSE_READDIRPLUS) && node &&
        node->file == FUSE_TREE_NO_FILE) {
        uint8_t *buf = malloc(q.read.size + 1);

        if (fuse_tree_list(&tree, &q, buf) > q.read.size)
            abort();
        free(buf);
    }
    if (q.opcode == FUSE_READ && q.read.size > FUSE_READ_MAX)
        abort();
    return 0;
}
