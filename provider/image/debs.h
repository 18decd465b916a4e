/* SPDX-License-Identifier: Apache-2.0 */
/* The packages that go into an image: trustbridge, and libtbenc1 if it is there. */
#ifndef TBPKG_IMAGE_DEBS_H
#define TBPKG_IMAGE_DEBS_H

/* Each: CLI_OK, or the error is reported. */

/* The directory has the packages, one version of each. */
int debs_check(const char *dir);
/* SHA-256 of their names and contents, in hex. */
int debs_hash(const char *dir, char hex[static 65]);
/* Copies them to the directory `to`, which is made. */
int debs_copy(const char *dir, const char *to);

#endif
