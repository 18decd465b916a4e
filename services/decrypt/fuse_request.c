/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/fuse_request.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <string.h>

/* The beginning of what follows the header; newer kernels make some of them longer. */
static bool fuse_parse_take(const uint8_t *body, size_t len, void *ret, size_t n)
{
    if (len < n)
        return false;
    memcpy(ret, body, n);
    return true;
}

static int fuse_parse_init(const uint8_t *body, size_t len, struct fuse_request *q)
{
    struct {
        uint32_t major, minor, max_readahead, flags; /* the oldest form of struct fuse_init_in */
    } in;

    if (!fuse_parse_take(body, len, &in, sizeof(in)))
        return -EBADMSG;
    q->init.major = in.major;
    q->init.minor = in.minor;
    q->init.flags = in.flags;
    return 0;
}

static int fuse_parse_name(const uint8_t *body, size_t len, struct fuse_request *q)
{
    const char *name = (const char *)body, *end = memchr(name, '\0', len);

    if (!end || end == name || end - name > FUSE_NAME_BYTES_MAX || memchr(name, '/', (size_t)(end - name)))
        return -EBADMSG;
    q->name = name;
    return 0;
}

static int fuse_parse_read(const uint8_t *body, size_t len, struct fuse_request *q)
{
    struct fuse_read_in in;

    if (!fuse_parse_take(body, len, &in, sizeof(in)) || in.size > FUSE_READ_MAX || in.offset > INT64_MAX)
        return -EBADMSG;
    q->read.offset = in.offset;
    q->read.size = in.size;
    q->read.flags = in.flags;
    return 0;
}

static int fuse_parse_interrupt(const uint8_t *body, size_t len, struct fuse_request *q)
{
    struct fuse_interrupt_in in;

    if (!fuse_parse_take(body, len, &in, sizeof(in)))
        return -EBADMSG;
    q->interrupted = in.unique;
    return 0;
}

static int fuse_parse_body(const uint8_t *body, size_t len, struct fuse_request *q)
{
    switch (q->opcode) {
    case FUSE_INIT:
        return fuse_parse_init(body, len, q);
    case FUSE_LOOKUP:
        return fuse_parse_name(body, len, q);
    case FUSE_READ:
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return fuse_parse_read(body, len, q);
    case FUSE_INTERRUPT:
        return fuse_parse_interrupt(body, len, q);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_OPEN:
    case FUSE_OPENDIR:
    case FUSE_GETATTR:
    case FUSE_STATFS:
    case FUSE_ACCESS:
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_DESTROY:
        return 0; /* what else they say changes no answer */
    default:
        return -ENOSYS;
    }
}

int fuse_request_parse(const void *buf, size_t len, struct fuse_request *ret)
{
    struct fuse_in_header h;

    *ret = (struct fuse_request){0};
    if (!fuse_parse_take(buf, len, &h, sizeof(h)) || h.len != len)
        return -EBADMSG;
    ret->opcode = h.opcode;
    ret->unique = h.unique;
    ret->node = h.nodeid;
    ret->uid = h.uid;
    ret->gid = h.gid;
    return fuse_parse_body((const uint8_t *)buf + sizeof(h), len - sizeof(h), ret);
}
