/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-authorize released to this unit, and the manifest it leads to. */
#ifndef TB_HYDRATE_SOURCE_H
#define TB_HYDRATE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "hydrate/hasher.h"
#include "common/http.h"
#include "tbenc/signature.h"
#include "hydrate/outcome.h"

#define HYDRATE_PLACES_MAX 4

struct hydrate_source {
    /* secret memory; one URL on each line, of which the pointers below are the beginnings. libcurl makes
     * copies of its own while it uses them */
    char *sas_lines, *manifest_lines;
    const char *sas_urls[HYDRATE_PLACES_MAX], *manifest_urls[HYDRATE_PLACES_MAX];
    unsigned n_places, place;           /* of the same ciphertext; the one that is used now */
    const char *sas_url, *manifest_url; /* of it */
    uint64_t version;                   /* of the asset; 0: the control plane names none */
    struct tb_minisign_keys keys;       /* one of which signed the manifest; none: nobody must have */
    bool bound;                         /* the contract names the manifest: */
    uint8_t manifest_sha256[SHA256_BYTES];
};

/* Reads sas-url, manifest-url and manifest-sha256, and the keys of TB_PROVIDER_KEY. 0; TB_EXIT_NOPERM
 * refused; TB_EXIT_CONFIG not there or malformed. */
int source_load(struct hydrate_source *s, const struct tb_config *cfg, struct tb_outcome *o);
/* The places of the base of an overlay, from base-urls, and its manifest's hash, from the overlay's, which
 * makes it the provider's if that is. No places when there is no such credential. 0 or TB_EXIT_CONFIG,
 * TB_EXIT_NOPERM. */
int source_load_base(const struct tbenc_base *b, struct hydrate_source *ret, struct tb_outcome *o);
void source_clear(struct hydrate_source *s);
/* Uses the next place, behind the last one the first. */
void source_next(struct hydrate_source *s);
/* URLs of the ciphertext in the other places, from the one after the one that is used now. How many. */
unsigned source_others(const struct hydrate_source *s, const char *ret[static HYDRATE_PLACES_MAX - 1]);
#define _cleanup_source_ _cleanup_(source_clear)

struct manifest {
    char *text; /* as received: its bytes are what manifest-sha256 names */
    size_t len;
    struct tbenc_manifest *m;
};
void manifest_clear(struct manifest *m);
#define _cleanup_manifest_ _cleanup_(manifest_clear)

/* Fetches, with retries, and checks: bound hash, signature, syntax, asset id, file name. TB_EXIT_TEMPFAIL
 * refused or unreachable; TB_EXIT_NOINPUT 404; TB_EXIT_DATAERR any check. */
int manifest_fetch(const struct hydrate_source *s, const struct tb_config *cfg, const struct tb_http_tls *tls,
                   struct manifest *ret, struct tb_outcome *o);

/* The manifest that an earlier run left at path, if it is the very one that the contract names: it need not
 * be fetched again, and nothing that has become of its blob matters to a machine that has the model. */
bool manifest_keep(const struct hydrate_source *s, const char *asset_id, const char *path,
                   struct manifest *ret);

/* The checks alone, on a body received. Takes no ownership of text. */
int manifest_check(const struct hydrate_source *s, const char *asset_id, const char *text, size_t len,
                   struct tbenc_manifest **ret, struct tb_outcome *o);

/* false when name is one that tb-hydrate itself uses in TB_TARGET_DIR, or a hidden one. */
bool weights_name_free(const char *name);

#endif
