/* SPDX-License-Identifier: Apache-2.0 */
/* A blob as a thing with contents: is it there already, which of its blocks are, make it. Functions that fail
 * have said so on stderr and return an exit code; CLI_OK otherwise. */
#ifndef TBPKG_AZURE_BLOB_OBJECT_H
#define TBPKG_AZURE_BLOB_OBJECT_H

#include "provider/azure/blob_client.h"
#include "provider/cli/output.h"

/* What should be there, and what is. The caller fills path, size and sha256, and frees path. */
struct blob_object {
    char *path; /* "container/name" */
    uint64_t size;
    char sha256[BLOB_SHA256_HEX + 1];
    enum { BLOB_ABSENT, BLOB_SAME, BLOB_OTHER } there; /* set by blob_object_look() */
    char etag[128];                                    /* of what is there */
    uint64_t sent, resumed;                            /* for the caller's use: bytes */
};

/* Looks what the service has under the name. Same is: of the same size, and with our x-ms-meta-sha256; or
 * without one (another program's upload) and with the MD5 of fd's contents (-1: not asked). */
int blob_object_look(const struct blob_client *c, struct blob_object *o, int fd);

/* Whether the credential may write there: by a request for an empty blob whose condition cannot be met, which
 * a service that would let us write refuses for that. Nothing is made. */
int blob_object_may_write(const struct blob_client *c, const char *path);

/* Uncommitted blocks of an earlier run; and those that the blob was made of, unless ret_committed is NULL. */
int blob_object_staged(const struct blob_client *c, const struct blob_object *o, struct blob_staged_set *ret,
                       struct blob_staged_set *ret_committed);

/* Sends rq (body, query and headers of the operation) as the PUT that creates or replaces exactly what was
 * looked at, and names its contents in x-ms-meta-sha256. An answer that got lost is found out by looking
 * again. */
int blob_object_create(const struct blob_client *c, struct blob_object *o, int fd, struct blob_request *rq);

#endif
