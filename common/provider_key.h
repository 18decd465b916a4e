/* SPDX-License-Identifier: Apache-2.0 */
/* TB_PROVIDER_KEY: the public keys of the provider, one of which must have signed a manifest. Keys in the
 * setting itself, or a file of them that is read at each use, so that a new one needs no restart. */
#ifndef TB_PROVIDER_KEY_H
#define TB_PROVIDER_KEY_H

#include <stdbool.h>

#include "common/findings.h"
#include "common/minisign.h"

#define TB_PROVIDER_KEY_WORDS                                                                                \
    "must be public keys as tbpkg keygen prints them (RW...), with commas between, or the absolute path of " \
    "a file of them"

/* What an image pins, as `tbpkg build --provider-key` and Packer's install.sh leave it there. No file of a
 * deployment: it may neither mount nor write over that. */
#define TB_PROVIDER_KEY_IMAGE "/usr/lib/trustbridge/provider.pub"

/* NULL when value may stand there, without looking at a file; else TB_PROVIDER_KEY_WORDS. */
const char *tb_provider_key_rule(const char *value);
/* value NULL: none is pinned, and ret->n is 0. Otherwise there is at least one, or -errno with the reason: a
 * file that cannot be read or has no key pins as much as one that has. */
int tb_provider_key_load(const char *value, struct tb_minisign_keys *ret,
                         char err[static TB_MINISIGN_ERR_MAX]);
/* Is there such a file? One that cannot be read pins as well. */
bool tb_provider_key_pinned(const char *image);
/* Does value, or NULL, name other keys than that file holds? Not where either cannot be read: what counts is
 * the image's. */
bool tb_provider_key_contradicts(const char *image, const char *value);
/* For a program's check; user: whom it runs as. */
void tb_provider_key_check(const char *value, const char *user, struct tb_findings *f);

#endif
