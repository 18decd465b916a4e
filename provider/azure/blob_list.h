/* SPDX-License-Identifier: Apache-2.0 */
/* What a container holds, and removing of it. Functions that fail have said so on stderr and return
 * CLI_FAILED; CLI_OK otherwise. */
#ifndef TBPKG_AZURE_BLOB_LIST_H
#define TBPKG_AZURE_BLOB_LIST_H

#include "provider/azure/blob_client.h"
#include "provider/cli/output.h"

/* All blobs of c->container, of which also those that have nothing but uncommitted blocks. */
int blob_list(const struct blob_client *c, struct blob_entries *ret);
/* Removes the blob as it was listed: not one that was stored there meanwhile. Gone already is fine. */
int blob_remove(const struct blob_client *c, const char *path, const char *etag);
/* Lets go of all uncommitted blocks of a blob that has no others: makes it an empty blob and removes that. */
int blob_abort(const struct blob_client *c, const char *path);

#endif
