/* SPDX-License-Identifier: Apache-2.0 */
/* Where in TB_TARGET_DIR a version belongs, which one is to be served, and what need not stay there.
 * common/serving.h says where that is written, docs/versions.md why. tb-hydrate brings what is to be served;
 * `tb-hydrate next` brings the contract's version beside it; `tb-hydrate switch` decides between the two. */
#ifndef TB_HYDRATE_VERSIONS_H
#define TB_HYDRATE_VERSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/serving.h"
#include "hydrate/outcome.h"
#include "tbenc/tbenc.h"

struct versions {
    const struct tb_config *cfg; /* with the TB_TARGET_DIR of the settings */
    uint64_t version;            /* that the credentials are of; 0: the control plane names none */
    bool next;                   /* of `tb-hydrate next` */
    bool has_serving;
    struct tb_serving serving;
    bool adopts; /* of `next`: what serves has no number, as before there were versions */
    bool beside;
    char *place; /* where this run works */
};

/* Finds the place and makes it. 0; HYDRATE_NOTHING: there is nothing to bring, and what need not stay is
 * gone. */
int versions_begin(struct versions *v, struct tb_outcome *o);
/* The version is complete and verified in its place: one that is to be served now says so, and what cannot
 * be served any more goes. */
int versions_complete(struct versions *v, struct tb_outcome *o);
/* Notes that what serves is the version of the credentials, if `same` says so. HYDRATE_NOTHING, or what an
 * error ends with. */
int versions_adopt(const struct versions *v, bool same, struct tb_outcome *o);
/* The version that is to be served proved bad. When there is one to go back to, that is the one from now
 * on, and TB_EXIT_TEMPFAIL says so; else 0. */
int versions_forsake(const struct versions *v, const char *why, struct tb_outcome *o);
void versions_clear(struct versions *v);
/* Before the manifest of a place is replaced by `now`: when the one there names another file, who reads that
 * as it comes is told that no more does. It stays until `now` is complete, as it may be wanted again. */
void versions_end_former(const char *place, const struct tbenc_manifest *now);
/* Removes from a place what tb-hydrate brought, in whole or in part, under other names than that of `now`. */
void versions_sweep_former(const char *place, const struct tbenc_manifest *now);

/* Does what RUN/tb-update/wish.json says: {"action": "take", "version": N} serves N from the next start of
 * the runtime on, and keeps the one before; "back" goes back to that; "keep" removes it, and all but N. 0
 * also when that was done before. */
int versions_switch(const struct tb_config *cfg, struct tb_outcome *o);

#endif
