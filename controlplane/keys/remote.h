/* SPDX-License-Identifier: Apache-2.0 */
/* Key services over HTTPS. They wrap a fresh data key (DEK); the asset's key is sealed under it here, with
 * the asset's id as additional data, because not every service binds what it wraps to something. What is
 * kept is the sealed key (CP_WRAPPED_KEY_BYTES) and behind it the wrapped DEK. */
#ifndef CP_REMOTE_H
#define CP_REMOTE_H

#include "controlplane/keys/keyring.h"
#include "controlplane/keys/wrap.h"

#define CP_REMOTE_DEK_MAX (CP_WRAPPED_MAX - CP_WRAPPED_KEY_BYTES)
#define CP_REMOTE_URL_MAX 150 /* of the setting; what is asked for is a little longer */

struct cJSON;

/* What a service does with a DEK. */
struct cp_remote_dek {
    int (*wrap)(void *me, const struct tb_key *dek, char kek_id[static CP_KEK_ID_MAX + 1],
                uint8_t out[static CP_REMOTE_DEK_MAX], size_t *ret_len);
    int (*unwrap)(void *me, const char *kek_id, const uint8_t *in, size_t len, struct tb_key *ret_dek);
};
int cp_remote_wrap(const struct cp_remote_dek *d, void *me, const char *asset_id, const struct tb_key *key,
                   struct cp_wrapped *ret);
int cp_remote_unwrap(const struct cp_remote_dek *d, void *me, const char *asset_id,
                     const struct cp_wrapped *w, struct tb_key *ret);

/* "https://host[:port]/path" of plain characters, or http:// to loopback; path has at least two
 * components. The path, or NULL with a reason in err. */
const char *cp_remote_url_path(const char *url, bool allow_http, char err[static CP_KEYRING_ERR_MAX]);

/* Base64 of the value, URL-safe and without padding where `url`; cp_remote_decode() takes both. */
void cp_remote_encode(const uint8_t *in, size_t n, bool url, char *out);
int cp_remote_decode(const char *text, uint8_t *out, size_t room, size_t *ret_len);

/* POSTs {"name":"value",...} (pairs, NULL at the end) and parses the answer. 0 with an answer of status
 * 200 in *ret; else what the keyring's callers are told, with the reason in the log, and the status (0:
 * none came). Values and answer may be secret: all copies are wiped, and the caller wipes *ret with
 * cp_remote_forget(). */
int cp_remote_post(const char *url, const char *header, const struct tb_http_tls *tls,
                   const char *const *pairs, struct cJSON **ret, long *ret_status);
void cp_remote_forget(struct cJSON *o);

#endif
