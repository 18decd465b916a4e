/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/source.h"

#include "provider/cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

static int source_model_dir_fail(const struct model_dir_error *e, int r)
{
    const char *object = e->object ? e->object : "model directory";

    return e->reason ? tbpkg_fail(object, e->reason, e->remedy) : tbpkg_fail_errno(object, r);
}

static int source_open_dir(struct model_source *s)
{
    _cleanup_model_dir_error_ struct model_dir_error e = {0};
    int r = model_dir_open(s->path, &s->dir, &e);

    if (r < 0)
        return source_model_dir_fail(&e, r);
    s->is_dir = true;
    s->bytes = s->dir.bytes;
    if (s->dir.n == 0)
        return tbpkg_fail(s->path, "is empty", "put the model's files into it");
    if (s->bytes == 0)
        return tbpkg_fail(s->path, "is empty: so are all files in it", "put the model's files into it");
    if (s->dir.empty_dirs > 0)
        tbpkg_warn("%s: %zu empty director%s left out: an asset holds files only", s->path, s->dir.empty_dirs,
                   s->dir.empty_dirs == 1 ? "y is" : "ies are");
    return CLI_OK;
}

/* Takes fd. name is for messages. */
static int source_use_fd(struct model_source *s, int fd, const char *name)
{
    off_t at;

    s->file.fd = fd;
    if (fd < 0 || fstat(fd, &s->st) < 0)
        return tbpkg_fail_errno(name, -errno);
    s->bytes = s->file.bytes = UINT64_MAX;
    if (!S_ISREG(s->st.st_mode))
        return CLI_OK;
    /* stdin may be redirected from a file, and somewhere in its middle */
    at = lseek(fd, 0, SEEK_CUR);
    if (at < 0)
        return tbpkg_fail_errno(name, -errno);
    s->bytes = s->st.st_size > at ? (uint64_t)(s->st.st_size - at) : 0;
    if (s->bytes == 0)
        return tbpkg_fail(name, "is empty", "give a file with data");
    if (s->bytes > TBENC_PLAINTEXT_MAX)
        return tbpkg_fail_errno(name, -EFBIG);
    s->file.bytes = s->bytes;
    return CLI_OK;
}

static int source_open_any(struct model_source *s)
{
    struct stat st;

    if (strcmp(s->path, "-") == 0)
        return source_use_fd(s, fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), "standard input");
    /* Look before opening: opening a device may do something. */
    if (stat(s->path, &st) < 0)
        return tbpkg_fail_errno(s->path, -errno);
    if (S_ISDIR(st.st_mode))
        return source_open_dir(s);
    if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        return tbpkg_fail(s->path, "is neither a file nor a directory", "name the model");
    return source_use_fd(s, open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY), s->path);
}

int source_open(const char *path, struct model_source *ret)
{
    struct model_source s = SOURCE_INIT;
    int rc;

    s.path = path;
    rc = source_open_any(&s);
    if (rc != CLI_OK) {
        source_close(&s);
        return rc;
    }
    *ret = s;
    return CLI_OK;
}

uint64_t source_ciphertext_bytes(const struct model_source *s, uint64_t chunk_bytes)
{
    if (s->bytes == UINT64_MAX)
        return 0;
    return TBENC_HEADER_BYTES + s->bytes + (s->bytes / chunk_bytes + source_count(s)) * TBENC_RECORD_OVERHEAD;
}

int source_check_unchanged(const struct model_source *s)
{
    _cleanup_model_dir_error_ struct model_dir_error e = {0};
    struct stat st;
    int r;

    if (s->is_dir) {
        r = model_dir_check_unchanged(&s->dir, s->path, &e);
        return r < 0 ? source_model_dir_fail(&e, r) : CLI_OK;
    }
    if (!S_ISREG(s->st.st_mode))
        return CLI_OK;
    if (fstat(s->file.fd, &st) < 0)
        return tbpkg_fail_errno(s->path, -errno);
    if (st.st_size != s->st.st_size || st.st_mtim.tv_sec != s->st.st_mtim.tv_sec ||
        st.st_mtim.tv_nsec != s->st.st_mtim.tv_nsec)
        return tbpkg_fail(s->path, "changed while it was read", "encrypt a copy that nothing writes to");
    return CLI_OK;
}

/* The existing directory that holds path, without links. */
static char *source_real_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *dir =
        slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");

    return dir ? realpath(dir, NULL) : NULL;
}

int source_check_output(const struct model_source *s, const char *option, const char *path)
{
    _cleanup_free_ char *root = NULL, *parent = NULL;
    struct stat st;
    size_t n;

    if (!s->is_dir) {
        if (S_ISREG(s->st.st_mode) && stat(path, &st) == 0 && st.st_dev == s->st.st_dev &&
            st.st_ino == s->st.st_ino)
            return tbpkg_failf(path, "is the input itself; choose another name for %s", option);
        return CLI_OK;
    }
    root = realpath(s->path, NULL);
    if (!root)
        return tbpkg_fail_errno(s->path, -errno);
    parent = source_real_parent(path);
    if (!parent)
        return tbpkg_fail_errno(path, -errno);
    n = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(parent, root, n) == 0 && (parent[n] == '/' || parent[n] == '\0'))
        return tbpkg_failf(path, "is inside the input directory; choose another location for %s", option);
    return CLI_OK;
}

void source_close(struct model_source *s)
{
    model_dir_close(&s->dir);
    s->file.fd = tb_close(s->file.fd);
}
