/* SPDX-License-Identifier: Apache-2.0 */
/* What the control plane granted: the key and the two URLs. All of it is secret and lives in one block of
 * secret memory, wiped when freed. Compat: the authorize response. */
#ifndef TB_AUTHORIZE_GRANT_H
#define TB_AUTHORIZE_GRANT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attest.h"
#include "common/macros.h"
#include "common/secret.h"

#define TB_GRANT_URL_MAX 8192
#define TB_GRANT_LINES_MAX (2 * TB_GRANT_URL_MAX)
#define TB_GRANT_FALLBACKS_MAX 3
#define TB_GRANT_SHA256_NONE "none"
#define TB_GRANT_BASE_NONE "none"

struct tb_grant {
    uint64_t version; /* of the asset; 0: the control plane knows of none */
    struct tb_key key;
    /* or, of a contract that binds it to the boot: sealed, as it is released, and what signs usage reports */
    bool is_wrapped;
    uint8_t wrapped[TB_WRAPPED_KEY_BYTES];
    struct tb_key usage_key;
    char manifest_sha256[TB_KEY_HEX_CHARS + 1]; /* lower case hex, or TB_GRANT_SHA256_NONE */
    char sas_url[TB_GRANT_URL_MAX + 1];
    char manifest_url[TB_GRANT_URL_MAX + 1];
    /* the same and what tb-hydrate falls back to, in pairs, one on each line: as they are released */
    char sas_lines[TB_GRANT_LINES_MAX + 1];
    char manifest_lines[TB_GRANT_LINES_MAX + 1];
    /* of the version that this one stands on: ciphertext and manifest by turns; or TB_GRANT_BASE_NONE */
    char base_lines[TB_GRANT_LINES_MAX + 1];
};

/* What signs usage reports while it holds. 0 or -EIO. */
int tb_grant_report_key(const struct tb_grant *g, struct tb_key *ret);
/* NULL on ENOMEM. */
struct tb_grant *tb_grant_new(void);
void tb_grant_free(struct tb_grant *g);
static inline void tb_grant_freep(struct tb_grant **g)
{
    tb_grant_free(*g);
    *g = NULL;
}
#define _cleanup_grant_ _cleanup_(tb_grant_freep)

/* NULL: none, or wiped. */
struct tb_grants {
    struct tb_grant *current;
    struct tb_grant *held; /* of the version that this machine serves, while that is another one */
};
static inline void tb_grants_clear(struct tb_grants *g)
{
    tb_grant_freep(&g->current);
    tb_grant_freep(&g->held);
}

/* When the SAS in url ends (its se= parameter), in us of CLOCK_REALTIME; 0 when it does not say. */
uint64_t tb_sas_expiry_us(const char *url);

#endif
