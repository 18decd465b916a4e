/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's own identity: a key that is made here and never leaves, and the client certificate that
 * the control plane gives for it. STATE/tb-authorize/machine.pem (0600) has both, so that they are
 * replaced as one. A machine enrols by the credential `enrolment-code`, once for each code, and renews
 * when a third of the certificate's life is left.
 *
 * Until the answer came the new key is in machine.key: asked again with the same key, the control plane
 * uses the code once. Of a code that was used its hash is kept beside the certificate. */
#ifndef TB_AUTHORIZE_IDENTITY_H
#define TB_AUTHORIZE_IDENTITY_H

#include <stdbool.h>

#include "authorize/response.h"
#include "common/config.h"

/* The path of the identity when there is one, heap, else NULL. */
char *authorize_identity_path(const struct tb_config *cfg);

/* Enrols or renews when that is due, or `renew` says so; code_path: the credential, or NULL. tls: how the
 * control plane is reached, without a client certificate. True: go on and ask, with the identity if there is
 * one. False: *v says why not, a denial of the control plane or an error that passes. */
bool authorize_identity_prepare(const struct tb_config *cfg, const struct tb_http_tls *tls,
                                const char *code_path, bool renew, struct authorize_verdict *v);

#endif
