/* SPDX-License-Identifier: Apache-2.0 */
/* The JSON bodies of the two POST calls, checked member by member. No I/O. Unknown members are ignored:
 * clients are older and newer than this server. */
#ifndef CP_REQUEST_H
#define CP_REQUEST_H

#include "common/json.h"
#include "common/usage_report.h"
#include "common/secret.h"
#include "controlplane/store/places.h"

#define CP_BODY_MAX (64 * 1024)
#define CP_CODE_MAX 64
#define CP_CSR_MAX 8192
#define CP_IDENTITY_TOKEN_MAX 8192

/* Parses an assets/register body. Of ret, all but the version, the wrapped key, key_id and the times are
 * set; the key comes apart from it. On failure -EBADMSG, -EINVAL, -ENOENT or -ENOMEM, and err names the
 * member and never quotes the key. */
int cp_register_parse(const char *body, size_t len, struct cp_asset *ret, struct cp_put_how *ret_how,
                      struct tb_key *ret_key, char err[static TB_JSON_ERR_MAX]);

/* Where the asset of such a body, which cp_register_parse() took, lies: what is in ret_asset, and behind it
 * the members of blob_urls.further. */
int cp_register_places(const char *body, size_t len, const struct cp_asset *a, struct cp_places *ret,
                       char err[static TB_JSON_ERR_MAX]);

struct cp_authorize {
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1], hw_id[CP_HW_ID_MAX + 1];
    uint64_t held_version;                /* the one that the machine serves; 0: it does not say */
    char usage_report[TB_REPORT_MAX + 1]; /* "" when there is none, or one that is of no use */
    char usage_hmac[TB_REPORT_MAC_HEX + 1];
};
/* Parses a license/authorize body. Failures as above. attestation and client_version are accepted and not
 * looked at. */
int cp_authorize_parse(const char *body, size_t len, struct cp_authorize *ret,
                       char err[static TB_JSON_ERR_MAX]);

struct cp_enrol {
    char contract_id[TB_ID_MAX + 1];
    char code[CP_CODE_MAX + 1]; /* "": by identity_token */
    char identity_token[CP_IDENTITY_TOKEN_MAX + 1];
    char csr[CP_CSR_MAX + 1];
};
/* Parses a machines/enrol body, with a code or else a token of a managed identity; of machines/renew,
 * which has neither and no contract, with renew. */
int cp_enrol_parse(const char *body, size_t len, bool renew, struct cp_enrol *ret,
                   char err[static TB_JSON_ERR_MAX]);

/* Wipes the strings in the object, then frees all of it. */
void cp_json_wipe(cJSON *j);
static inline void cp_json_wipep(cJSON **j)
{
    cp_json_wipe(*j);
    *j = NULL;
}
#define _cleanup_secret_json_ _cleanup_(cp_json_wipep)

#endif
