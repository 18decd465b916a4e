/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>

#include "common/hex.h"
#include "common/io.h"
#include "provider/asset/asset.h"

void asset_upload_clear(struct asset_upload *a)
{
    a->manifest = tbenc_manifest_free(a->manifest);
    tb_freep(&a->manifest_text);
    a->fd = tb_close(a->fd);
    store_clear(&a->store);
}

/* -- the asset on this machine ----------------------------------------------------------------- */

static int upload_read_manifest(struct asset_upload *a)
{
    struct tbenc_error e = {.message = ""};
    size_t len = 0;
    int r;

    r = tb_read_file(a->manifest_path, TBENC_MANIFEST_MAX, &a->manifest_text, &len);
    if (r < 0)
        return tbpkg_fail_errno(a->manifest_path, r);
    r = tbenc_manifest_parse(a->manifest_text, len, TBENC_OVERLAY, &a->manifest, &e);
    if (r < 0)
        return asset_fail(a->manifest_path, r, &e);
    if (strcmp(a->manifest->asset_id, a->store.asset_id) != 0)
        return tbpkg_failf(a->manifest_path,
                           "belongs to asset '%s', not '%s'; check --asset-id and --manifest",
                           a->manifest->asset_id, a->store.asset_id);
    r = store_sha256(a->manifest_text, len, a->store.mf.sha256);
    if (r < 0)
        return tbpkg_fail_errno(a->manifest_path, r);
    a->store.mf.size = len;
    tb_hex_encode(a->manifest->sha256_ciphertext, 32, a->store.ct.sha256);
    a->store.ct.size = tbenc_manifest_ciphertext_bytes(a->manifest);
    store_place_of(a->manifest, a->store.place);
    return CLI_OK;
}

static int upload_verify_whole(struct asset_upload *a)
{
    const struct tbenc_open_params p = {.manifest = a->manifest};
    struct tbenc_error e = {.message = ""};
    int r = tbenc_verify(&p, a->fd, &e);

    return r < 0 ? asset_fail(a->file, r, &e) : CLI_OK;
}

static int upload_open_ciphertext(struct asset_upload *a)
{
    uint8_t head[TBENC_HEADER_BYTES];
    struct tbenc_error e = {.message = ""};
    struct tbenc_header h;
    struct stat st;
    ssize_t n;
    int r;

    a->fd = open(a->file, O_RDONLY | O_CLOEXEC);
    if (a->fd < 0 || fstat(a->fd, &st) < 0)
        return tbpkg_fail_errno(a->file, -errno);
    if (!S_ISREG(st.st_mode))
        return tbpkg_fail(a->file, "is not a regular file", NULL);
    if ((uint64_t)st.st_size != a->store.ct.size)
        return tbpkg_failf(a->file,
                           "has %" PRIu64 " bytes, its manifest says %" PRIu64
                           "; encrypt again, or name the manifest that belongs to it",
                           (uint64_t)st.st_size, a->store.ct.size);
    n = tb_pread_full(a->fd, head, sizeof(head), 0);
    if (n < 0)
        return tbpkg_fail_errno(a->file, (int)n);
    r = tbenc_header_parse(head, (size_t)n, 0, &h, &e);
    if (r < 0)
        return asset_fail(a->file, r, &e);
    if (h.chunk_bytes != a->manifest->chunk_bytes)
        return tbpkg_failf(a->file, "has records of %u bytes, its manifest says %u", h.chunk_bytes,
                           a->manifest->chunk_bytes);
    return a->verify ? upload_verify_whole(a) : CLI_OK;
}

/* -- sending it -------------------------------------------------------------------------------- */

struct upload_file {
    int fd;
    uint64_t size;
    EVP_MD_CTX *sha;
    uint8_t sha256[32]; /* of the bytes that went to the service */
};

static void upload_file_clear(struct upload_file *f)
{
    EVP_MD_CTX_free(f->sha);
}

static int upload_feed(void *ctx, struct blob_feed *feed)
{
    struct upload_file *f = ctx;

    for (uint64_t off = 0; off < f->size;) {
        size_t room;
        uint8_t *to = blob_feed_room(feed, &room);
        ssize_t n = to ? tb_pread_full(f->fd, to, room, off) : -ECANCELED;

        if (n < 0)
            return (int)n;
        if ((size_t)n < room)
            return -EBADMSG;
        if (EVP_DigestUpdate(f->sha, to, room) != 1)
            return -EIO;
        blob_feed_advance(feed, room);
        off += room;
    }
    return EVP_DigestFinal_ex(f->sha, f->sha256, NULL) == 1 ? 0 : -EIO;
}

static int upload_send_ciphertext(struct asset_upload *a)
{
    _cleanup_upload_result_ struct blob_upload_result up = {0};
    _cleanup_staged_set_ struct blob_staged_set staged = {0};
    _cleanup_(upload_file_clear) struct upload_file f = {
        .fd = a->fd, .size = a->store.ct.size, .sha = EVP_MD_CTX_new()};
    struct blob_upload u = {
        .block_bytes = blob_block_bytes_for(a->store.ct.size, (uint32_t)a->store.block_bytes),
        .staged = &staged,
        .feed = upload_feed,
        .feed_ctx = &f,
    };
    struct blob_fault fault;
    int rc, r;

    if (u.block_bytes == 0)
        return tbpkg_fail(a->file, "is larger than 50000 blocks of 256 MiB", NULL);
    if (!f.sha || EVP_DigestInit_ex(f.sha, EVP_sha256(), NULL) != 1)
        return tbpkg_fail_errno(a->file, -ENOMEM);
    rc = blob_object_staged(&a->store.client, &a->store.ct, &staged, NULL);
    if (rc != CLI_OK)
        return rc;
    r = store_send_blocks(&a->store, &u, &up, &fault);
    if (r < 0)
        return tbpkg_fail_as(fault.rc, r == -EBADMSG ? a->file : a->store.ct.path, fault.reason,
                             fault.remedy[0] ? fault.remedy : NULL);
    if (memcmp(f.sha256, a->manifest->sha256_ciphertext, sizeof(f.sha256)) != 0)
        return tbpkg_fail(a->file, "its SHA-256 is not the one of its manifest; nothing was committed",
                          "encrypt again, or name the manifest that belongs to it");
    return store_commit(&a->store, up.ids, up.n_blocks, a->fd);
}

static int upload_send(struct asset_upload *a)
{
    int rc = store_look(&a->store, a->fd);

    if (rc == CLI_OK && a->store.ct.there != BLOB_SAME)
        rc = upload_send_ciphertext(a);
    if (rc == CLI_OK && a->store.mf.there != BLOB_SAME)
        rc = store_send_manifest(&a->store, a->manifest_text);
    return rc;
}

int asset_upload(struct asset_upload *a)
{
    int rc = upload_read_manifest(a);

    if (rc == CLI_OK)
        rc = upload_open_ciphertext(a);
    if (rc == CLI_OK)
        rc = store_connect(&a->store);
    return rc == CLI_OK ? upload_send(a) : rc;
}
