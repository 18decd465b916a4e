/* SPDX-License-Identifier: Apache-2.0 */
/* The descriptors a client passes, into which the plaintext goes: receiving them, and refusing any through
 * which it could reach a disk. docs/contracts.md, "Delivery", steps 1 and 2; design section 7, rule 1. */
#ifndef TB_DECRYPT_OUTPUTS_H
#define TB_DECRYPT_OUTPUTS_H

#include <stddef.h>
#include <stdint.h>

#include "common/deliver.h"
#include "common/outcome.h"
#include "tbenc/tbenc.h"

#define TB_OUTPUTS_PIPE_BYTES (1024 * 1024)

struct tb_outputs {
    int *fd; /* owned */
    size_t n;
};

/* Receives the request and all its descriptors within timeout_us in total. 0 or an exit code with its reason:
 * 64 the request is malformed; 75 the client went away or kept us waiting. */
int tb_outputs_receive(int sock, uint64_t timeout_us, struct tb_deliver_request *ret_req,
                       struct tb_outputs *ret, struct tb_outcome *o);

/* Checks number, kind and access mode. Mode fifo: a FIFO opened write-only; its pipe is widened and made
 * blocking. Mode dir: regular files on tmpfs or ramfs (a memfd is one), writable, not O_APPEND, no file
 * twice. Mode view: /dev/fuse. Mode s3: a TCP socket that listens on a loopback address. 0 or an exit code:
 * 64 number or kind; 78 a file that is not memory-backed. */
int tb_outputs_check(const struct tb_outputs *out, uint32_t mode, const struct tbenc_manifest *m,
                     struct tb_outcome *o);

/* Empties regular files: what failed leaves nothing behind. */
void tb_outputs_truncate(const struct tb_outputs *out);

/* Closes and frees; accepts an empty set. */
void tb_outputs_clear(struct tb_outputs *out);

#endif
