/* SPDX-License-Identifier: Apache-2.0 */
/* A bill of materials in SPDX 2.3, as JSON. Neither Debian 12 nor 13 has a tool that makes one of an image,
 * so it is made here of what the image's own package managers say (tb-inventory). */
#ifndef TBPKG_IMAGE_SPDX_H
#define TBPKG_IMAGE_SPDX_H

#include <cjson/cJSON.h>
#include <stddef.h>

#include "common/io.h"

/* What the bill is of. */
struct spdx_subject {
    const char *name, *version; /* version may be NULL */
    const char *purpose;        /* primaryPackagePurpose: "CONTAINER", "OPERATING-SYSTEM", "ARCHIVE" */
    const char *purl;           /* package URL, or NULL */
    const char *sha256;         /* hex, or NULL */
};

/* The document with its subject as the only package, or NULL (no memory). Its time is $SOURCE_DATE_EPOCH, or
 * now; its namespace is made of what the subject says and of identity: the same inputs have the same. */
cJSON *spdx_new(const struct spdx_subject *s, const char *identity);

/* Adds what tb-inventory wrote. 0; -EBADMSG when a line is not as it writes them, or no package is there; or
 * -ENOMEM. */
int spdx_add_inventory(cJSON *doc, const char *text);
/* Adds a file of the subject, which is the text. 0 or -ENOMEM, -EIO. */
int spdx_add_file(cJSON *doc, const char *name, const char *text, size_t len);
/* Adds what the subject needs beside it: "DEPENDS_ON". 0 or -ENOMEM. */
int spdx_add_needed(cJSON *doc, const char *name, const char *version);

/* Writes the document to the open file, which the caller commits. 0 or a negative errno. */
int spdx_write(const cJSON *doc, const struct tb_newfile *f);

#endif
