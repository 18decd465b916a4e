/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and other secrets: memory that is locked, kept out of core dumps and wiped. Spec: design section 7,
 * rule 2. */
#ifndef TB_SECRET_H
#define TB_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_KEY_BYTES 32
#define TB_KEY_HEX_CHARS 64

struct tb_key {
    uint8_t b[TB_KEY_BYTES];
};

/* Call first in main() of every program that sees a key: PR_SET_DUMPABLE=0, RLIMIT_CORE=0. */
void tb_secret_init(void);

/* Overwrites n bytes; never optimised away. p may be NULL when n is 0. */
void tb_erase(void *p, size_t n);

/* n bytes of zeroed memory, locked (best effort: a low RLIMIT_MEMLOCK is not an error) and MADV_DONTDUMP, on
 * pages of its own. NULL with errno on failure. Free with tb_secret_free(), which wipes. */
void *tb_secret_alloc(size_t n);
void tb_secret_free(void *p);

/* Wipes and frees a NUL-terminated heap string. */
void tb_erase_string(char *s);

static inline void tb_key_erase(struct tb_key *k)
{
    tb_erase(k, sizeof(*k));
}
static inline void tb_secret_freep(void *p)
{
    tb_secret_free(*(void **)p);
    *(void **)p = NULL;
}
static inline void tb_erase_stringp(char **s)
{
    tb_erase_string(*s);
    *s = NULL;
}
#define _cleanup_key_ _cleanup_(tb_key_erase)
#define _cleanup_secret_ _cleanup_(tb_secret_freep)
#define _cleanup_erase_string_ _cleanup_(tb_erase_stringp)

/* Constant-time equality of n bytes. */
bool tb_mem_equal(const void *a, const void *b, size_t n);

/* n random bytes from the kernel. 0 or negative errno. */
int tb_random(void *out, size_t n);

/* Reads a key from a file: 64 hex digits with an optional newline, or exactly 32 raw bytes. path "-" is
 * stdin. 0; -errno of open/read; -EINVAL when the contents are neither. Never logs. */
int tb_key_read_file(const char *path, struct tb_key *ret);

#endif
