/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/source.h"

#include "common/buf.h"
#include "common/io.h"
#include "provider/asset/complete.h"
#include "provider/cli/output.h"

#define LEFT_OUT_SHOWN 5

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

static int source_model_dir_fail(const struct model_dir_error *e, int r)
{
    const char *object = e->object ? e->object : "model directory";

    return e->reason ? tbpkg_fail(object, e->reason, e->remedy) : tbpkg_fail_errno(object, r);
}

static int source_add_patterns(struct select *select, const struct tb_option_list *l, bool keep)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < l->n; i++)
        r = select_add(select, l->v[i], keep);
    return r;
}

static int source_make_rules(const struct source_options *o, struct select *ret)
{
    _cleanup_free_ char *text = NULL;
    int r = select_defaults(ret);

    if (r == 0 && o->ignore_file) {
        r = tb_read_file(o->ignore_file, SELECT_FILE_MAX, &text, NULL);
        if (r < 0)
            return tbpkg_fail_errno(o->ignore_file, r);
        r = select_add_lines(ret, text);
    }
    if (r == 0)
        r = source_add_patterns(ret, &o->exclude, false);
    if (r == 0)
        r = source_add_patterns(ret, &o->include, true);
    if (r == -EINVAL)
        return tbpkg_fail("--include or --exclude", "the pattern is empty", NULL);
    return r < 0 ? tbpkg_fail_errno("patterns", r) : CLI_OK;
}

static void source_tell_left_out(const struct model_source *s)
{
    _cleanup_buf_ struct tb_buf b = {0};
    size_t shown = MIN(s->dir.n_left_out, (size_t)LEFT_OUT_SHOWN), more = s->dir.n_left_out - shown;

    for (size_t i = 0; i < shown; i++) {
        (void)tb_buf_puts(&b, i ? ", " : "");
        (void)tb_buf_puts(&b, s->dir.left_out[i]);
    }
    if (more > 0)
        (void)tb_buf_printf(&b, " and %zu more", more);
    if (tb_buf_error(&b) == 0)
        tbpkg_note(false, "Left out: %.*s (tbpkg encrypt --list shows all, --include keeps one).", (int)b.len,
                   b.data);
}

static int source_open_dir(struct model_source *s, const struct source_options *o)
{
    _cleanup_model_dir_error_ struct model_dir_error e = {0};
    _cleanup_select_ struct select select = {0}, wanted = {0};
    const struct model_dir_options how = {.select = &select, .follow_links = o->follow_links};
    int r, rc = source_make_rules(o, &select);

    if (rc != CLI_OK)
        return rc;
    r = model_dir_open(s->path, &how, &s->dir, &e);
    for (size_t i = 0; r == 0 && i < o->include.n; i++)
        r = select_add(&wanted, o->include.v[i], false);
    if (r == 0)
        r = complete_check_secrets(&s->dir, &wanted, s->path, &e);
    if (r == 0 && !o->allow_incomplete)
        r = complete_check(&s->dir, s->path, &e);
    if (r < 0)
        return source_model_dir_fail(&e, r);
    s->is_dir = true;
    s->bytes = s->dir.bytes;
    if (s->dir.n_left_out > 0 && !o->quiet)
        source_tell_left_out(s);
    if (s->dir.n == 0)
        return tbpkg_fail(s->path, "is empty", "put the model's files into it");
    if (s->bytes == 0)
        return tbpkg_fail(s->path, "is empty: so are all files in it", "put the model's files into it");
    if (s->dir.empty_dirs > 0)
        tbpkg_warn("%s: %zu empty director%s left out: an asset holds files only", s->path, s->dir.empty_dirs,
                   s->dir.empty_dirs == 1 ? "y is" : "ies are");
    return CLI_OK;
}

/* One file alone: not a pointer, and not one part of several. */
static int source_check_file(const struct model_source *s, const struct source_options *o, const char *name)
{
    const char *slash = strrchr(name, '/');
    struct complete_part p;

    if (o->allow_incomplete)
        return CLI_OK;
    if (complete_is_lfs_pointer(s->file.fd, s->bytes))
        return tbpkg_fail(name, "is a Git LFS pointer, not the file that it stands for",
                          "run git lfs pull, or download the model again, or use --allow-incomplete");
    if (complete_part_parse(slash ? slash + 1 : name, &p) && p.of > 1)
        return tbpkg_failf(name,
                           "is part %u of %u; name the directory with all parts, or use --allow-incomplete",
                           p.part, p.of);
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

static int source_open_any(struct model_source *s, const struct source_options *o)
{
    struct stat st;
    int rc;

    if (strcmp(s->path, "-") == 0)
        return source_use_fd(s, fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), "standard input");
    /* Look before opening: opening a device may do something. */
    if (stat(s->path, &st) < 0)
        return tbpkg_fail_errno(s->path, -errno);
    if (S_ISDIR(st.st_mode))
        return source_open_dir(s, o);
    if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        return tbpkg_fail(s->path, "is neither a file nor a directory", "name the model");
    rc = source_use_fd(s, open(s->path, O_RDONLY | O_CLOEXEC | O_NOCTTY), s->path);
    return rc == CLI_OK && S_ISREG(s->st.st_mode) ? source_check_file(s, o, s->path) : rc;
}

int source_open(const char *path, const struct source_options *o, struct model_source *ret)
{
    struct model_source s = SOURCE_INIT;
    int rc;

    s.path = path;
    rc = source_open_any(&s, o);
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
    if (st.st_size != s->st.st_size || memcmp(&st.st_mtim, &s->st.st_mtim, sizeof(st.st_mtim)) != 0 ||
        memcmp(&st.st_ctim, &s->st.st_ctim, sizeof(st.st_ctim)) != 0)
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
