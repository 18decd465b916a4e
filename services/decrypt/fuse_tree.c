/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/fuse_tree.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/deliver.h"
#include "common/macros.h"

#define TREE_VALID_S 86400 /* nothing changes while it is mounted */
#define TREE_BLOCK_BYTES (1024 * 1024)

/* -- made ------------------------------------------------------------------------------------------------ */
static struct fuse_node *tree_add(struct fuse_tree *t, size_t parent, const char *name, size_t len)
{
    t->nodes[t->n] =
        (struct fuse_node){.parent = parent, .name = name, .name_len = len, .file = FUSE_TREE_NO_FILE};
    return &t->nodes[t->n++];
}

/* The directory of that name in parent, which can only be the one that was made last there: paths are
 * sorted, so what begins alike stands together. */
static size_t tree_directory(struct fuse_tree *t, size_t *last, size_t parent, const char *name, size_t len)
{
    const struct fuse_node *d = &t->nodes[*last];

    if (*last == 0 || d->parent != parent || d->name_len != len || memcmp(d->name, name, len) != 0) {
        *last = t->n;
        (void)tree_add(t, parent, name, len);
        t->nodes[parent].subdirs++;
    }
    return *last;
}

static size_t path_depth(const char *path)
{
    size_t n = 1;

    for (; (path = strchr(path, '/')); path++)
        n++;
    return n;
}

static void tree_add_file(struct fuse_tree *t, size_t *last, const struct tbenc_file *f, size_t file)
{
    const char *path = f->path, *slash;
    size_t parent = 0, level = 0;
    struct fuse_node *node;

    for (; (slash = strchr(path, '/')); path = slash + 1)
        parent = tree_directory(t, &last[level++], parent, path, (size_t)(slash - path));
    node = tree_add(t, parent, path, strlen(path));
    node->bytes = f->bytes;
    node->mode = (f->mode & 0555) | 0400;
    node->file = file;
}

static int tree_compare(const void *a, const void *b, void *arg)
{
    const struct fuse_node *nodes = arg, *x = &nodes[*(const size_t *)a], *y = &nodes[*(const size_t *)b];
    int c;

    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    c = memcmp(x->name, y->name, MIN(x->name_len, y->name_len));
    return c ? c : x->name_len < y->name_len ? -1 : x->name_len > y->name_len;
}

static void tree_sort(struct fuse_tree *t)
{
    for (size_t i = 1; i < t->n; i++)
        t->order[i - 1] = i;
    qsort_r(t->order, t->n - 1, sizeof(*t->order), tree_compare, t->nodes);
    for (size_t i = 0; i + 1 < t->n; i++) {
        struct fuse_node *dir = &t->nodes[t->nodes[t->order[i]].parent];

        if (dir->children++ == 0)
            dir->first = i;
    }
}

int fuse_tree_init(struct fuse_tree *t, const struct tbenc_manifest *m, uint64_t time_s)
{
    size_t room = 1, deepest = 1;
    _cleanup_free_ size_t *last = NULL;

    *t = (struct fuse_tree){.time_s = time_s};
    for (size_t i = 0; i < m->n_files; i++) {
        size_t depth = path_depth(m->files[i].path);

        room += depth;
        deepest = MAX(deepest, depth);
    }
    room += m->files ? 0 : 1;
    t->nodes = calloc(room, sizeof(*t->nodes));
    t->order = calloc(room, sizeof(*t->order));
    t->one_name = m->files ? NULL : strdup(m->weights_filename);
    last = calloc(deepest, sizeof(*last));
    if (!t->nodes || !t->order || !last || (!m->files && !t->one_name)) {
        fuse_tree_clear(t);
        return -ENOMEM;
    }
    (void)tree_add(t, 0, "", 0);
    if (!m->files) {
        struct tbenc_file one = {
            .path = tb_deliver_name(t->one_name), .bytes = m->plaintext_bytes, .mode = 0444};

        tree_add_file(t, last, &one, 0);
    }
    for (size_t i = 0; i < m->n_files; i++)
        tree_add_file(t, last, &m->files[i], i);
    tree_sort(t);
    return 0;
}

void fuse_tree_clear(struct fuse_tree *t)
{
    free(TAKE_PTR(t->nodes));
    free(TAKE_PTR(t->order));
    free(TAKE_PTR(t->one_name));
}

/* -- asked ----------------------------------------------------------------------------------------------- */
const struct fuse_node *fuse_tree_node(const struct fuse_tree *t, uint64_t id)
{
    return id >= 1 && id <= t->n ? &t->nodes[id - 1] : NULL;
}

uint64_t fuse_tree_id(const struct fuse_tree *t, const struct fuse_node *node)
{
    return (uint64_t)(node - t->nodes) + 1;
}

const struct fuse_node *fuse_tree_lookup(const struct fuse_tree *t, uint64_t dir, const char *name)
{
    const struct fuse_node *d = fuse_tree_node(t, dir);
    size_t len = strlen(name), lo = 0, hi;

    if (!d || d->file != FUSE_TREE_NO_FILE)
        return NULL;
    for (hi = d->children; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        const struct fuse_node *x = &t->nodes[t->order[d->first + mid]];
        int c = memcmp(x->name, name, MIN(x->name_len, len));

        if (c == 0 && x->name_len == len)
            return x;
        if (c < 0 || (c == 0 && x->name_len < len))
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* -- answered -------------------------------------------------------------------------------------------- */
static uint32_t node_type(const struct fuse_node *node)
{
    return node->file == FUSE_TREE_NO_FILE ? S_IFDIR : S_IFREG;
}

void fuse_tree_attr(const struct fuse_tree *t, const struct fuse_node *node, const struct fuse_request *q,
                    struct fuse_attr *ret)
{
    bool dir = node->file == FUSE_TREE_NO_FILE;

    *ret = (struct fuse_attr){
        .ino = fuse_tree_id(t, node),
        .size = node->bytes,
        .blocks = (node->bytes + 511) / 512,
        .atime = t->time_s,
        .mtime = t->time_s,
        .ctime = t->time_s,
        .mode = node_type(node) | (dir ? 0555 : node->mode),
        .nlink = dir ? (uint32_t)node->subdirs + 2 : 1,
        .uid = q->uid,
        .gid = q->gid,
        .blksize = TREE_BLOCK_BYTES,
    };
}

void fuse_tree_entry(const struct fuse_tree *t, const struct fuse_node *node, const struct fuse_request *q,
                     struct fuse_entry_out *ret)
{
    *ret = (struct fuse_entry_out){
        .nodeid = fuse_tree_id(t, node), .entry_valid = TREE_VALID_S, .attr_valid = TREE_VALID_S};
    fuse_tree_attr(t, node, q, &ret->attr);
}

/* Entry `at` of a directory: "." and ".." first. NULL at the end. */
static const struct fuse_node *list_entry(const struct fuse_tree *t, const struct fuse_node *d, uint64_t at,
                                          const char **ret_name, size_t *ret_len)
{
    const struct fuse_node *x;

    if (at < 2) {
        *ret_name = "..";
        *ret_len = at + 1;
        return at == 0 ? d : &t->nodes[d->parent];
    }
    if (at - 2 >= d->children)
        return NULL;
    x = &t->nodes[t->order[d->first + at - 2]];
    *ret_name = x->name;
    *ret_len = x->name_len;
    return x;
}

size_t fuse_tree_list(const struct fuse_tree *t, const struct fuse_request *q, void *buf)
{
    bool plus = q->opcode == FUSE_READDIRPLUS;
    size_t head = plus ? FUSE_NAME_OFFSET_DIRENTPLUS : FUSE_NAME_OFFSET, used = 0, len;
    const struct fuse_node *d = fuse_tree_node(t, q->node), *x;
    const char *name;

    for (uint64_t at = q->read.offset; (x = list_entry(t, d, at, &name, &len)); at++) {
        size_t whole = FUSE_DIRENT_ALIGN(head + len);
        uint8_t *p = (uint8_t *)buf + used;
        struct fuse_dirent e = {
            .ino = fuse_tree_id(t, x), .off = at + 1, .namelen = (uint32_t)len, .type = node_type(x) >> 12};
        struct fuse_entry_out entry = {0};

        if (whole > q->read.size - used)
            break;
        memset(p, 0, whole);
        if (plus && at >= 2)
            fuse_tree_entry(t, x, q, &entry);
        if (plus)
            memcpy(p, &entry, sizeof(entry));
        memcpy(p + head - FUSE_NAME_OFFSET, &e, FUSE_NAME_OFFSET);
        memcpy(p + head, name, len);
        used += whole;
    }
    return used;
}
