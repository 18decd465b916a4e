/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "provider/publish/pull.h"

int pull_range(struct pull *p, const struct pull_part *part, uint64_t off, uint64_t n, struct blob_reply *ret)
{
    char range[64], err[TB_HTTP_ERR_MAX];
    const struct blob_request rq = {
        .method = "GET", .path = part->path, .headers = {{"If-Match", part->etag}, {"x-ms-range", range}}};
    struct blob_fault fault;
    int r;

    snprintf(range, sizeof(range), "bytes=%" PRIu64 "-%" PRIu64, off, off + n - 1);
    r = blob_call_on(&p->connection, &p->from->client, &rq, (size_t)n, ret, err);
    if (r == 0 && ret->status == 206 && ret->len == n)
        return CLI_OK;
    if (r == 0 && ret->status == 412)
        return tbpkg_fail(part->path, "was replaced while it was read", "run the command again");
    if (r == 0 && ret->status == 206)
        return tbpkg_fail(part->path, "the service sent another range than was asked for", NULL);
    blob_explain(&p->from->client, r, ret, err, &fault);
    return tbpkg_fail_as(fault.rc, part->path, fault.reason, fault.remedy[0] ? fault.remedy : NULL);
}
