/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/blob_list.h"

#include <string.h>

#define PAGES_MAX 10000 /* a service whose pages do not end */

static int list_fail(const struct blob_client *c, const char *path, int r, const struct blob_reply *reply,
                     const char *err)
{
    struct blob_fault f;

    blob_explain(c, r, reply, err, &f);
    return tbpkg_fail(path, f.reason, f.remedy[0] ? f.remedy : NULL);
}

/* The marker of the page behind it in next; "" when it was the last. */
static int list_page(const struct blob_client *c, char next[static BLOB_MARKER_MAX], struct blob_entries *ret)
{
    struct blob_request rq = {
        .method = "GET",
        .path = c->container,
        .query = {{"comp", "list"}, {"include", "uncommittedblobs"}, {"restype", "container"}},
    };
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    int r;

    if (*next)
        rq.query[3] = (struct blob_pair){"marker", next};
    r = blob_call(c, &rq, BLOB_LIST_BYTES_MAX, &reply, err);
    if (r < 0 || reply.status != 200)
        return list_fail(c, c->container, r, &reply, err);
    if (!reply.body || blob_xml_list(reply.body, reply.len, ret, next) < 0)
        return tbpkg_fail(c->container, "cannot parse the list of the service",
                          "is --endpoint a Blob service?");
    return CLI_OK;
}

int blob_list(const struct blob_client *c, struct blob_entries *ret)
{
    char next[BLOB_MARKER_MAX] = "";
    int rc = CLI_OK;

    for (unsigned i = 0; rc == CLI_OK && i < PAGES_MAX && (i == 0 || *next); i++)
        rc = list_page(c, next, ret);
    return rc;
}

int blob_remove(const struct blob_client *c, const char *path, const char *etag)
{
    struct blob_request rq = {.method = "DELETE", .path = path};
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX], quoted[sizeof(reply.etag) + 2];
    int r;

    if (etag && *etag) { /* a list has it without the quotes */
        snprintf(quoted, sizeof(quoted), *etag == '"' ? "%s" : "\"%s\"", etag);
        rq.headers[0] = (struct blob_pair){"If-Match", quoted};
    }
    r = blob_call(c, &rq, 0, &reply, err);
    if (r == 0 && (reply.status == 202 || reply.status == 404))
        return CLI_OK;
    if (r == 0 && reply.status == 412)
        return tbpkg_fail(path, "was stored anew meanwhile, and is left alone", "look at it again: tbpkg ls");
    return list_fail(c, path, r, &reply, err);
}

int blob_abort(const struct blob_client *c, const char *path)
{
    static const char nothing[] = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList></BlockList>";
    const struct blob_request rq = {
        .method = "PUT",
        .path = path,
        .query = {{"comp", "blocklist"}},
        .headers = {{"Content-Type", "application/xml"}, {"If-None-Match", "*"}},
        .body = nothing,
        .body_len = strlen(nothing),
    };
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    int r = blob_call(c, &rq, 0, &reply, err);

    if (r == 0 && (reply.status == 409 || reply.status == 412))
        return tbpkg_fail(path, "was completed meanwhile, and is left alone", "look at it again: tbpkg ls");
    if (r < 0 || reply.status != 201)
        return list_fail(c, path, r, &reply, err);
    return blob_remove(c, path, reply.etag);
}
