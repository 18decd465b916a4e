/* SPDX-License-Identifier: Apache-2.0 */
/* Answers that a runtime compresses though it was asked not to: decoded for counting only, the client gets
 * them as they came. */
#ifndef TB_PROXY_USAGE_INFLATE_H
#define TB_PROXY_USAGE_INFLATE_H

#include <stdbool.h>
#include <stddef.h>

struct tb_inflate;
/* coding: a Content-Encoding that tb_inflate_knows(). NULL when memory is short. */
struct tb_inflate *tb_inflate_new(void);
bool tb_inflate_knows(const char *coding);
/* Gives what the bytes decode to, in pieces, to each. False when they are not what they should be. */
bool tb_inflate_feed(struct tb_inflate *d, const char *p, size_t n,
                     void (*each)(void *arg, const char *p, size_t n), void *arg);
void tb_inflate_free(struct tb_inflate *d);

#endif
