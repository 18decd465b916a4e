/* SPDX-License-Identifier: Apache-2.0 */
/* Images of machines that the provider registered, and what a TPM says of each. In a transaction. */
#ifndef CP_IMAGES_H
#define CP_IMAGES_H

#include "controlplane/store/tokens.h"

#define CP_IMAGE_REFERENCE_MAX (2 * CP_IMAGE_NAME_MAX + 2) /* NAME@VERSION */
#define CP_IMAGE_DOCUMENT_MAX 16384

struct cp_image {
    char name[CP_IMAGE_NAME_MAX + 1], version[CP_IMAGE_NAME_MAX + 1];
    char document[CP_IMAGE_DOCUMENT_MAX]; /* JSON, as it was registered */
    uint64_t registered_us, revoked_us;   /* revoked_us 0: it is not */
    char registered_by[CP_ACTOR_MAX + 1];
};

/* -EEXIST: there is, or was, one of that name and version; a name in the log is one image for ever. */
int cp_store_put_image(struct cp_store *s, const struct cp_image *i);
/* -ENOENT. */
int cp_store_get_image(struct cp_store *s, const char *name, const char *version, struct cp_image *ret);
/* The first revocation stays. -ENOENT. */
int cp_store_revoke_image(struct cp_store *s, const char *name, const char *version, uint64_t now_us);
/* By name and version, at most `limit` behind those; "": from the first. fn as in cp_store_each_log(). */
int cp_store_page_images(struct cp_store *s, const char *after, const char *after_version, uint64_t limit,
                         int (*fn)(const struct cp_image *, void *), void *ctx);
/* The newest first. */
int cp_store_each_image(struct cp_store *s, int (*fn)(const struct cp_image *, void *), void *ctx);

#endif
