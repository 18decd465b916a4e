/* SPDX-License-Identifier: Apache-2.0 */
/* The provider's signature of a manifest: tbenc(5), section SIGNATURE. Not exported: for the programs that
 * have the library in them.
 *
 * The signature is the last member of the manifest, as the bytes ,\n  "signature": "..."\n}, and what is
 * signed is the text without that member, to the byte. So one blob, one URL and one hash carry both, they
 * cannot get out of step, and no second spelling of JSON has to be agreed upon. What is used of a signed
 * manifest is parsed from the very bytes that were signed. */
#ifndef TBENC_SIGNATURE_H
#define TBENC_SIGNATURE_H

#include <stdbool.h>

#include "common/minisign.h"
#include "tbenc/tbenc.h"

struct tbenc_signature {
    bool present;
    char key_id[TB_MINISIGN_ID_HEX + 1];
    char comment[TB_MINISIGN_COMMENT_MAX + 1]; /* the trusted one: time, asset */
};

/* The text that is signed, and the signature in minisign's format; both heap. Without a signature *ret_sig
 * is NULL and *ret_text all of it. -EBADMSG: there is one, and not in this form. */
int tbenc_signature_split(const char *buf, size_t len, char **ret_text, size_t *ret_len, char **ret_sig,
                          struct tbenc_error *e);
/* The reverse. text ends with "\n}". -EINVAL; -EFBIG: no reader would take it. */
int tbenc_signature_join(const char *text, size_t len, const char *sig, char **ret, size_t *ret_len);

/* What it says of itself: nothing is verified. -EBADMSG malformed. */
int tbenc_signature_look(const char *buf, size_t len, struct tbenc_signature *ret, struct tbenc_error *e);
/* As tbenc_manifest_parse(), of a manifest that one of the keys signed: -ENOKEY when none did; -EBADMSG when
 * the signature is damaged or of another text. With no keys (n 0, or NULL) a signature is not looked at. */
int tbenc_manifest_parse_signed(const char *buf, size_t len, unsigned flags,
                                const struct tb_minisign_keys *keys, struct tbenc_manifest **ret,
                                struct tbenc_error *e);

#endif
