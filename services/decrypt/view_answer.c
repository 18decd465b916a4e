/* SPDX-License-Identifier: Apache-2.0 */
/* Everything but READ: names, sizes, modes, and that nothing can be changed. */
#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "common/macros.h"
#include "decrypt/view.h"

#define ANSWER_MINOR 36     /* of the protocol; what follows it is not used */
#define ANSWER_MINOR_MIN 28 /* max_pages: Linux 4.20 */
#define ANSWER_BACKGROUND 256
#define ANSWER_NAME_MAX 255
/* More than anybody sets: what it is may have changed since the kernel asked (tb_view_await_readahead). */
#define ANSWER_READAHEAD_MAX (64 * 1024 * 1024)

void view_reply(struct tb_view *v, uint64_t unique, int error, const void *buf, size_t n)
{
    struct fuse_out_header h = {
        .len = (uint32_t)(sizeof(h) + (error ? 0 : n)), .error = error, .unique = unique};
    struct iovec iov[] = {{&h, sizeof(h)}, {(void *)buf, n}};

    /* Fails when nobody waits for it any more. */
    (void)!writev(v->fuse_fd, iov, error || n == 0 ? 1 : 2);
}

static void answer_init(struct tb_view *v, const struct fuse_request *q)
{
    struct fuse_init_out o = {.major = FUSE_KERNEL_VERSION,
                              .minor = ANSWER_MINOR,
                              .max_readahead = ANSWER_READAHEAD_MAX,
                              .flags = FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES |
                                       FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO,
                              .max_background = ANSWER_BACKGROUND,
                              .congestion_threshold = ANSWER_BACKGROUND * 3 / 4,
                              .max_write = 4096,
                              .time_gran = 1,
                              .max_pages = (uint16_t)(FUSE_READ_MAX / sysconf(_SC_PAGESIZE))};
    struct tbenc_error e = {0};

    if (q->init.major != FUSE_KERNEL_VERSION || q->init.minor < ANSWER_MINOR_MIN) {
        snprintf(e.message, sizeof(e.message),
                 "the kernel speaks FUSE %u.%u, and %d.%d is needed: Linux 4.20", q->init.major,
                 q->init.minor, FUSE_KERNEL_VERSION, ANSWER_MINOR_MIN);
        view_reply(v, q->unique, -EPROTO, NULL, 0);
        return tb_weights_fail(v->weights, NULL, -EPROTO, &e);
    }
    o.flags &= q->init.flags;
    view_reply(v, q->unique, 0, &o, sizeof(o));
    atomic_store(&v->initialised, true);
    (void)eventfd_write(v->weights->event_fd, 1);
}

static void answer_lookup(struct tb_view *v, const struct fuse_request *q)
{
    const struct fuse_node *node = fuse_tree_lookup(&v->tree, q->node, q->name);
    struct fuse_entry_out o;

    if (!node)
        return view_reply(v, q->unique, -ENOENT, NULL, 0);
    fuse_tree_entry(&v->tree, node, q, &o);
    view_reply(v, q->unique, 0, &o, sizeof(o));
}

static void answer_open(struct tb_view *v, const struct fuse_request *q, const struct fuse_node *node)
{
    bool dir = node->file == FUSE_TREE_NO_FILE;
    struct fuse_open_out o = {.open_flags = FOPEN_KEEP_CACHE | (dir ? FOPEN_CACHE_DIR : 0)};

    if (dir != (q->opcode == FUSE_OPENDIR))
        return view_reply(v, q->unique, dir ? -EISDIR : -ENOTDIR, NULL, 0);
    view_reply(v, q->unique, 0, &o, sizeof(o));
}

static void answer_list(struct tb_view *v, const struct fuse_request *q, const struct fuse_node *node)
{
    _cleanup_free_ void *buf = NULL;

    if (node->file != FUSE_TREE_NO_FILE)
        return view_reply(v, q->unique, -ENOTDIR, NULL, 0);
    buf = malloc(MAX(q->read.size, 1U));
    if (!buf)
        return view_reply(v, q->unique, -ENOMEM, NULL, 0);
    view_reply(v, q->unique, 0, buf, fuse_tree_list(&v->tree, q, buf));
}

static void answer_attr(struct tb_view *v, const struct fuse_request *q, const struct fuse_node *node)
{
    struct fuse_attr_out o = {.attr_valid = 86400};

    fuse_tree_attr(&v->tree, node, q, &o.attr);
    view_reply(v, q->unique, 0, &o, sizeof(o));
}

static void answer_statfs(struct tb_view *v, const struct fuse_request *q)
{
    struct fuse_statfs_out o = {.st = {.blocks = v->weights->files->plaintext_bytes / 4096 + 1,
                                       .files = v->tree.n,
                                       .bsize = 4096,
                                       .frsize = 4096,
                                       .namelen = ANSWER_NAME_MAX}};

    view_reply(v, q->unique, 0, &o, sizeof(o));
}

/* A parked READ that nobody waits for any more. */
static void answer_interrupt(struct tb_view *v, uint64_t unique)
{
    struct view_read *found = NULL;

    (void)pthread_mutex_lock(&v->lock);
    for (struct view_read **p = &v->parked; *p; p = &(*p)->next)
        if ((*p)->q.unique == unique) {
            found = *p;
            *p = found->next;
            break;
        }
    if (!found) /* answered, or about to be parked */
        v->interrupted[v->n_interrupted++ % VIEW_INTERRUPTS] = unique;
    (void)pthread_mutex_unlock(&v->lock);
    if (found)
        view_reply(v, unique, -EINTR, NULL, 0);
    free(found);
}

static void answer_of_node(struct tb_view *v, const struct fuse_request *q)
{
    const struct fuse_node *node = fuse_tree_node(&v->tree, q->node);

    if (!node)
        return view_reply(v, q->unique, -ESTALE, NULL, 0);
    switch (q->opcode) {
    case FUSE_LOOKUP:
        return answer_lookup(v, q);
    case FUSE_GETATTR:
        return answer_attr(v, q, node);
    case FUSE_OPEN:
    case FUSE_OPENDIR:
        return answer_open(v, q, node);
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return answer_list(v, q, node);
    case FUSE_STATFS:
        return answer_statfs(v, q);
    default: /* ACCESS, FLUSH, RELEASE, RELEASEDIR */
        return view_reply(v, q->unique, 0, NULL, 0);
    }
}

void view_answer(struct tb_view *v, const struct fuse_request *q)
{
    switch (q->opcode) {
    case FUSE_INIT:
        return answer_init(v, q);
    case FUSE_DESTROY:
        return view_reply(v, q->unique, 0, NULL, 0);
    case FUSE_INTERRUPT:
        return answer_interrupt(v, q->interrupted);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return; /* names stay as long as the mount; nothing is answered */
    default:
        return answer_of_node(v, q);
    }
}
