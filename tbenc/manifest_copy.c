/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of a manifest. */
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"
#include "tbenc/internal.h"

static void copy_free_files(struct tbenc_file *files, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(files[i].path);
    free(files);
}

struct tbenc_base *tbenc_base_free(struct tbenc_base *b)
{
    if (!b)
        return NULL;
    copy_free_files(b->files, b->n_files);
    free(b);
    return NULL;
}

struct tbenc_manifest *tbenc_manifest_free(struct tbenc_manifest *m)
{
    if (!m)
        return NULL;
    copy_free_files(m->files, m->n_files);
    tbenc_base_free(m->base);
    free(m);
    return NULL;
}

static void copy_base_freep(struct tbenc_base **b)
{
    *b = tbenc_base_free(*b);
}

int tbenc_file_copy(const struct tbenc_file *f, struct tbenc_file *ret)
{
    *ret = *f;
    ret->path = strdup(f->path);
    return ret->path ? 0 : -ENOMEM;
}

int tbenc_base_copy(const struct tbenc_base *b, struct tbenc_base **ret)
{
    _cleanup_(copy_base_freep) struct tbenc_base *c = malloc(sizeof(*c));

    if (!c)
        return -ENOMEM;
    *c = *b;
    c->n_files = 0;
    c->files = calloc(b->n_files + 1, sizeof(*c->files));
    if (!c->files)
        return -ENOMEM;
    for (; c->n_files < b->n_files; c->n_files++)
        if (tbenc_file_copy(&b->files[c->n_files], &c->files[c->n_files]) < 0)
            return -ENOMEM;
    *ret = TAKE_PTR(c);
    return 0;
}
