/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/asset.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/io.h"
#include "common/units.h"
#include "provider/cli/output.h"

#define SPACE_RESERVE (1024 * 1024) /* manifest, key, directory blocks */

void asset_clear(struct asset *a)
{
    tb_freep(&a->path);
    tb_freep(&a->manifest_path);
    a->manifest = tbenc_manifest_free(a->manifest);
    a->fd = tb_close(a->fd);
}

char *asset_manifest_name(const char *path)
{
    static const char suffix[] = ".tbenc";
    size_t n = strlen(path), s = sizeof(suffix) - 1;

    if (n > s && path[n - s - 1] != '/' && strcmp(path + n - s, suffix) == 0)
        n -= s;
    return tb_strf("%.*s.manifest.json", (int)n, path);
}

/* The ciphertext beside its manifest. */
static char *asset_ciphertext_name(const char *manifest_path, const struct tbenc_manifest *m)
{
    const char *slash = strrchr(manifest_path, '/');

    return tb_strf("%.*s%s", slash ? (int)(slash + 1 - manifest_path) : 0, manifest_path,
                   m->weights_filename);
}

int asset_fail(const char *object, int r, const struct tbenc_error *e)
{
    const char *remedy =
        r == -EBADMSG ? "fetch the file again, and check that manifest and key belong to it" : NULL;

    if (!e->message[0])
        return tbpkg_fail_errno(object, r);
    return tbpkg_fail(object, e->message, remedy);
}

int asset_manifest_read_signed(const char *path, unsigned flags, const struct tb_minisign_keys *keys,
                               struct tbenc_manifest **ret, struct tbenc_signature *ret_sig)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    const char *object = strcmp(path, "-") == 0 ? "manifest on standard input" : path;
    size_t len;
    int r;

    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r == -EFBIG)
        return tbpkg_fail(object, "is larger than 1 MiB, so it is not a manifest", "give the .manifest.json");
    if (r == -ENOENT)
        return tbpkg_fail(object, "no such manifest", "name it with --manifest");
    if (r < 0)
        return tbpkg_fail_errno(object, r);
    r = tbenc_manifest_parse_signed(text, len, flags | TBENC_OVERLAY, keys, ret, &e);
    if (r < 0 && e.message[0])
        return tbpkg_fail(object, e.message,
                          r == -ENOKEY ? "check --provider-key, or sign it with tbpkg sign"
                                       : "get the manifest from its publisher again");
    if (r < 0)
        return tbpkg_fail_errno(object, r);
    /* What is wrong with a signature that nobody asked for is for tbpkg inspect to say. */
    (void)tbenc_signature_look(text, len, ret_sig, &e);
    return CLI_OK;
}

int asset_manifest_read(const char *path, unsigned flags, struct tbenc_manifest **ret)
{
    struct tbenc_signature sig;

    return asset_manifest_read_signed(path, flags, NULL, ret, &sig);
}

static int asset_ciphertext_open(const char *path, int *ret)
{
    _cleanup_close_ int fd = -1;
    struct stat st;

    if (strcmp(path, "-") == 0)
        fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    else
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || fstat(fd, &st) < 0)
        return tbpkg_fail_errno(path, -errno);
    if (S_ISDIR(st.st_mode))
        return tbpkg_fail(path, "is a directory", "name the .tbenc file");
    *ret = TAKE_FD(fd);
    return CLI_OK;
}

int asset_open(const char *path, const char *manifest_path, unsigned flags, struct asset *ret)
{
    _cleanup_asset_ struct asset a = ASSET_INIT;
    int rc;

    if (!path && !manifest_path)
        path = ASSET_DEFAULT_NAME;
    a.manifest_path = manifest_path ? strdup(manifest_path) : asset_manifest_name(path);
    if (!a.manifest_path)
        return tbpkg_fail_errno(path, -ENOMEM);
    rc = asset_manifest_read_signed(a.manifest_path, flags, ret->trusted, &a.manifest, &a.signature);
    if (rc != CLI_OK)
        return rc;
    a.path = path ? strdup(path) : asset_ciphertext_name(a.manifest_path, a.manifest);
    if (!a.path)
        return tbpkg_fail_errno(a.manifest_path, -ENOMEM);
    rc = asset_ciphertext_open(a.path, &a.fd);
    if (rc != CLI_OK)
        return rc;
    *ret = a;
    a = (struct asset)ASSET_INIT;
    return CLI_OK;
}

int asset_id_default(const struct cli *c, const char *manifest, const char **id, char **to_free)
{
    struct tbenc_manifest *m = NULL;
    int rc;

    if (*id || !manifest || strcmp(manifest, "-") == 0)
        return cli_check_asset_id(c, *id);
    rc = asset_manifest_read(manifest, 0, &m);
    if (rc != CLI_OK)
        return rc;
    *id = *to_free = strdup(m->asset_id);
    (void)tbenc_manifest_free(m);
    return *id ? cli_check_asset_id(c, *id) : tbpkg_fail_errno(manifest, -ENOMEM);
}

int asset_open_base(const struct asset *overlay, const char *path, struct asset *ret)
{
    _cleanup_asset_ struct asset a = ASSET_INIT;
    _cleanup_free_ char *text = NULL;
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    size_t len;
    int r, rc;

    if (!path)
        return tbpkg_failf(overlay->manifest_path,
                           "is of an overlay on version %llu: name that version's .tbenc by --base",
                           (unsigned long long)overlay->manifest->base->version);
    a.path = strdup(path);
    a.manifest_path = asset_manifest_name(path);
    if (!a.path || !a.manifest_path)
        return tbpkg_fail_errno(path, -ENOMEM);
    r = tb_read_file(a.manifest_path, TBENC_MANIFEST_MAX, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(a.manifest_path, r);
    r = tbenc_base_parse(overlay->manifest, text, len, &a.manifest, &e);
    if (r < 0)
        return tbpkg_fail(a.manifest_path, e.message, "name the version that the overlay was made on");
    rc = asset_ciphertext_open(path, &a.fd);
    if (rc != CLI_OK)
        return rc;
    *ret = a;
    a = (struct asset)ASSET_INIT;
    return CLI_OK;
}

int asset_check_space(const char *path, uint64_t bytes)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir =
        slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    char need[32], have[32], why[96];
    struct statvfs v;
    uint64_t avail;

    if (!dir)
        return tbpkg_fail_errno(path, -ENOMEM);
    if (statvfs(dir, &v) < 0)
        return tbpkg_fail_errno(dir, -errno);
    avail = (uint64_t)v.f_bavail * v.f_frsize;
    if (bytes == 0 || v.f_blocks == 0 ||
        (bytes <= avail && avail - bytes >= SPACE_RESERVE)) /* 0 blocks: no limit (a tmpfs) */
        return CLI_OK;
    tb_bytes_format(bytes, need, sizeof(need));
    tb_bytes_format(avail, have, sizeof(have));
    snprintf(why, sizeof(why), "%s are needed and %s are free", need, have);
    return tbpkg_fail_as(CLI_NO_ROOM, dir, why, "free some space or choose another directory");
}
