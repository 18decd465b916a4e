/* SPDX-License-Identifier: Apache-2.0 */
/* TB_PROVIDER_KEY: the public keys of the provider, one of which must have signed a manifest. Keys in the
 * setting itself, or a file of them that is read at each use, so that a new one needs no restart. */
#ifndef TB_PROVIDER_KEY_H
#define TB_PROVIDER_KEY_H

#include "common/findings.h"
#include "common/minisign.h"

#define TB_PROVIDER_KEY_WORDS                                                                                \
    "must be public keys as tbpkg keygen prints them (RW...), with commas between, or the absolute path of " \
    "a file of them"

/* NULL when value may stand there, without looking at a file; else TB_PROVIDER_KEY_WORDS. */
const char *tb_provider_key_rule(const char *value);
/* value NULL: none is pinned, and ret->n is 0. Otherwise there is at least one, or -errno with the reason: a
 * file that cannot be read or has no key pins as much as one that has. */
int tb_provider_key_load(const char *value, struct tb_minisign_keys *ret,
                         char err[static TB_MINISIGN_ERR_MAX]);
/* For a program's check; user: whom it runs as. */
void tb_provider_key_check(const char *value, const char *user, struct tb_findings *f);

#endif
