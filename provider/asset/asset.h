/* SPDX-License-Identifier: Apache-2.0 */
/* An asset on disk: a .tbenc and its manifest, found by their names, read and checked. Functions that fail
 * have said so on stderr and return CLI_FAILED; CLI_OK otherwise. */
#ifndef TBPKG_ASSET_ASSET_H
#define TBPKG_ASSET_ASSET_H

#include "common/macros.h"
#include "tbenc/signature.h"
#include "tbenc/tbenc.h"
#include "provider/cli/command.h"

#define ASSET_DEFAULT_NAME "model.tbenc"
#define ASSET_DEFAULT_MANIFEST "model.manifest.json"

struct asset {
    char *path;          /* of the ciphertext; "-" is stdin */
    char *manifest_path; /* "-" is stdin */
    struct tbenc_manifest *manifest;
    struct tbenc_signature signature;
    const struct tb_minisign_keys *trusted; /* one of them must have signed the manifest; NULL: nobody must */
    int fd;                                 /* of the ciphertext */
};
#define ASSET_INIT                                                                                           \
    {                                                                                                        \
        .fd = -1                                                                                             \
    }
void asset_clear(struct asset *a);
#define _cleanup_asset_ _cleanup_(asset_clear)

/* "dir/name.tbenc" -> "dir/name.manifest.json". NULL on ENOMEM. */
char *asset_manifest_name(const char *path);

/* Finds, reads and opens both. A NULL path is derived from the manifest's weights_filename, a NULL manifest
 * from the path's name; both NULL: model.tbenc in the current directory. flags: enum tbenc_flags.
 * ret->trusted says who must have signed. */
int asset_open(const char *path, const char *manifest_path, unsigned flags, struct asset *ret);

/* The base of an overlay: path is its ciphertext, and the manifest lies beside it. NULL path: what the
 * overlay needs is said, and CLI_FAILED. */
int asset_open_base(const struct asset *overlay, const char *path, struct asset *ret);

/* Only the manifest. */
int asset_manifest_read(const char *path, unsigned flags, struct tbenc_manifest **ret);

/* The same with the signature, by one of the keys unless that is NULL. */
int asset_manifest_read_signed(const char *path, unsigned flags, const struct tb_minisign_keys *keys,
                               struct tbenc_manifest **ret, struct tbenc_signature *ret_sig);
/* An --asset-id that was not given is that of the manifest; *to_free gets the copy that *id then is. CLI_OK
 * or CLI_USAGE, as of cli_check_asset_id(); CLI_FAILED when the manifest cannot be read. */
int asset_id_default(const struct cli *c, const char *manifest, const char **id, char **to_free);

/* Reports what libtbenc said about object. Returns CLI_FAILED. */
int asset_fail(const char *object, int r, const struct tbenc_error *e);

/* CLI_OK when the directory of path exists and its file system has room for bytes more (0: any). */
int asset_check_space(const char *path, uint64_t bytes);

#endif
