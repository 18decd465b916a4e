/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel asks of a file system in user space, of which a read-only one needs little: the protocol of
 * <linux/fuse.h>, major 7. No I/O. */
#ifndef TB_DECRYPT_FUSE_REQUEST_H
#define TB_DECRYPT_FUSE_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#define FUSE_REQUEST_MAX (64 * 1024) /* larger than any request of a mount that is read-only */
#define FUSE_READ_MAX (1024 * 1024)  /* one READ, and max_read of the mount */
#define FUSE_NAME_BYTES_MAX 1024

struct fuse_request {
    uint32_t opcode; /* enum fuse_opcode */
    uint64_t unique, node;
    uint32_t uid, gid; /* of who asks, as the mount's user namespace numbers them */
    union {
        struct {
            uint32_t major, minor, flags;
        } init;
        const char *name; /* LOOKUP; in the buffer that was parsed */
        struct {
            uint64_t offset;
            uint32_t size, flags; /* flags of the open file */
        } read;                   /* and READDIR, READDIRPLUS */
        uint64_t interrupted;     /* INTERRUPT: the unique of the request that nobody waits for any more */
    };
};

/* 0; -EBADMSG: not a whole request, or one that the kernel does not make; -ENOSYS: one that a read-only file
 * system of plain files does not know, whose header is good. */
int fuse_request_parse(const void *buf, size_t len, struct fuse_request *ret);

#endif
