/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/azure/blob_object.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/base64.h"
#include "common/io.h"
#include "provider/cli/output.h"

static int object_fail_call(const struct blob_client *c, const char *path, int r,
                            const struct blob_reply *reply, const char *err)
{
    struct blob_fault f;

    blob_explain(c, r, reply, err, &f);
    return tbpkg_fail_as(f.rc, path, f.reason, f.remedy[0] ? f.remedy : NULL);
}

/* MD5 of the local file, for a blob that another program stored and that has no x-ms-meta-sha256. */
static bool object_md5_is(int fd, uint64_t size, const char *base64)
{
    _cleanup_free_ uint8_t *buf = malloc(1 << 20);
    uint8_t md5[BLOB_MD5_BYTES];
    char text[BLOB_MD5_BASE64 + 1];
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = buf && ctx && EVP_DigestInit_ex(ctx, EVP_md5(), NULL) == 1;

    for (uint64_t off = 0; ok && off < size;) {
        ssize_t n = tb_pread_full(fd, buf, (size_t)MIN(size - off, 1ULL << 20), off);

        ok = n > 0 && EVP_DigestUpdate(ctx, buf, (size_t)n) == 1;
        off += n > 0 ? (uint64_t)n : 0;
    }
    ok = ok && EVP_DigestFinal_ex(ctx, md5, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    if (!ok)
        return false;
    tb_base64_encode(md5, sizeof(md5), text);
    return strcmp(text, base64) == 0;
}

int blob_object_look(const struct blob_client *c, struct blob_object *o, int fd)
{
    const struct blob_request rq = {.method = "HEAD", .path = o->path};
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    int r;

    r = blob_call(c, &rq, 0, &reply, err);
    o->there = BLOB_ABSENT;
    if (r == 0 && reply.status == 404 && strcmp(reply.code, "ContainerNotFound") != 0)
        return CLI_OK;
    if (r < 0 || reply.status != 200)
        return object_fail_call(c, o->path, r, &reply, err);
    o->there = BLOB_OTHER;
    snprintf(o->etag, sizeof(o->etag), "%s", reply.etag);
    if (reply.content_length != (int64_t)o->size)
        return CLI_OK;
    if (strcmp(reply.sha256, o->sha256) == 0 || (!reply.sha256[0] && reply.content_md5[0] && fd >= 0 &&
                                                 object_md5_is(fd, o->size, reply.content_md5)))
        o->there = BLOB_SAME;
    return CLI_OK;
}

int blob_object_may_write(const struct blob_client *c, const char *path)
{
    const struct blob_request rq = {
        .method = "PUT",
        .path = path,
        .headers = {{"Content-Type", "application/octet-stream"},
                    {"x-ms-blob-type", "BlockBlob"},
                    {"If-Match", "\"0x0\""}},
        .body = "",
    };
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    int r = blob_call(c, &rq, 0, &reply, err);

    return r == 0 && (reply.status == 412 || strcmp(reply.code, "BlobNotFound") == 0)
               ? CLI_OK
               : object_fail_call(c, path, r, &reply, err);
}

int blob_object_staged(const struct blob_client *c, const struct blob_object *o, struct blob_staged_set *ret,
                       struct blob_staged_set *ret_committed)
{
    const struct blob_request rq = {
        .method = "GET",
        .path = o->path,
        .query = {{"comp", "blocklist"}, {"blocklisttype", ret_committed ? "all" : "uncommitted"}},
    };
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    int r;

    r = blob_call(c, &rq, BLOB_LIST_BYTES_MAX, &reply, err);
    if (r == 0 && reply.status == 404 && strcmp(reply.code, "ContainerNotFound") != 0)
        return CLI_OK;
    if (r < 0 || reply.status != 200)
        return object_fail_call(c, o->path, r, &reply, err);
    if (!reply.body || blob_xml_block_list(reply.body, reply.len, BLOB_LIST_UNCOMMITTED, ret) < 0 ||
        (ret_committed && blob_xml_block_list(reply.body, reply.len, BLOB_LIST_COMMITTED, ret_committed) < 0))
        return tbpkg_fail(o->path, "cannot parse the block list of the service",
                          "is --endpoint a Blob service?");
    if (ret->n_foreign > 0)
        tbpkg_warn("%s: %zu uncommitted blocks of another program are there", o->path, ret->n_foreign);
    return CLI_OK;
}

int blob_object_create(const struct blob_client *c, struct blob_object *o, int fd, struct blob_request *rq)
{
    _cleanup_blob_reply_ struct blob_reply reply = {0};
    char err[TB_HTTP_ERR_MAX];
    size_t n_headers = 0;
    int r, rc;

    while (rq->headers[n_headers].name)
        n_headers++;
    rq->method = "PUT";
    rq->path = o->path;
    rq->headers[n_headers++] = (struct blob_pair){"x-ms-meta-sha256", o->sha256};
    rq->headers[n_headers] = o->there == BLOB_ABSENT ? (struct blob_pair){"If-None-Match", "*"}
                                                     : (struct blob_pair){"If-Match", o->etag};
    r = blob_call(c, rq, 0, &reply, err);
    if (r == 0 && reply.status == 201)
        return CLI_OK;
    if (r == 0 && (reply.status == 409 || reply.status == 412)) {
        rc = blob_object_look(c, o, fd);
        if (rc != CLI_OK || o->there == BLOB_SAME)
            return rc;
    }
    return object_fail_call(c, o->path, r, &reply, err);
}
