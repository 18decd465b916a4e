/* SPDX-License-Identifier: Apache-2.0 */
/* What whoever deploys a machine may say to an image that is closed: settings by an allow-list, and
 * credentials. Everything that decides where weights go is the image's. (buf, len), no I/O. */
#ifndef PROVISION_DOCUMENT_H
#define PROVISION_DOCUMENT_H

#include "common/buf.h"
#include "common/json.h"

#define PROVISION_DOCUMENT_MAX 65536
#define PROVISION_ERR_MAX 400

struct provision_document {
    cJSON *json;
    const cJSON *settings, *credentials; /* of it; NULL: none */
};
void provision_document_clear(struct provision_document *d);

/* {"trustbridge":1,"settings":{"TB_CONTRACT_ID":"acme-1"},"credentials":{"enrolment-code":"tbe-..."}}.
 * -EBADMSG, -EPERM (what may not be said is said) or -ENOMEM, and what about it, without its value. */
int provision_parse(const char *buf, size_t len, struct provision_document *ret,
                    char err[static PROVISION_ERR_MAX]);

/* What this image's settings (TB_ENVFILE_MAX) forbid that others allow: naming the managed application where
 * the image bills by itself, whose usage would go there. -EPERM and what about it, or -ENOMEM. */
int provision_check_image(const char *image, size_t len, const struct provision_document *d,
                          char err[static PROVISION_ERR_MAX]);

/* The names of credentials that a document may have; i < PROVISION_CREDENTIALS. */
#define PROVISION_CREDENTIALS 6
const char *provision_credential(size_t i);

/* trustbridge.env: the image's settings, and behind them those of the document. -EINVAL: the image's have no
 * end. */
int provision_settings(const char *image, size_t len, const struct provision_document *d, struct tb_buf *ret);

#endif
