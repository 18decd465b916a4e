/* SPDX-License-Identifier: Apache-2.0 */
/* A version that is an overlay (tbenc(5)) lies in its place as any other, and the version that it stands on
 * in PLACE/.base, as if that were a place of its own: manifest, ciphertext and records under the names that
 * they always have. So what brings, verifies and repairs a version does the same for a base. The ciphertext
 * of one that is on the disk already, because it serves, is a second name of the same file: it stays when
 * the other version goes. */
#ifndef TB_HYDRATE_OVERLAY_H
#define TB_HYDRATE_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "hydrate/outcome.h"
#include "hydrate/source.h"

/* Makes the place of the base of m ready, if m is an overlay, with what is on the disk of it; *ret_place is
 * NULL otherwise, and what was there is gone. Fills *ret with where else it is to be had, maybe nowhere.
 * target_dir: TB_TARGET_DIR of the settings. 0 or a verdict. */
int overlay_prepare(const char *target_dir, const char *place, const struct tbenc_manifest *m,
                    char **ret_place, struct hydrate_source *ret, struct tb_outcome *o);
/* The verdict when it is nowhere. */
int overlay_no_source(const char *place, struct tb_outcome *o);
/* Judges the base that came against the manifest that stands on it. 0 or TB_EXIT_DATAERR. */
int overlay_check(const struct tbenc_manifest *m, const struct manifest *base, struct tb_outcome *o);
/* The base of m is complete in its place, as it was when it was verified. Also true of no overlay. */
bool overlay_is_whole(const char *place, const struct tbenc_manifest *m);
/* What is delivered of m, with what it takes from its base. */
uint64_t overlay_plaintext_bytes(const struct tbenc_manifest *m);
/* Removes the place of a base. */
void overlay_remove(const char *place);

#endif
