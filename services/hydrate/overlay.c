/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/overlay.h"

#include <dirent.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fdpass.h"
#include "common/io.h"
#include "common/log.h"
#include "common/serving.h"
#include "hydrate/partial.h"
#include "hydrate/target.h"
#include "hydrate/verified.h"

static void overlay_manifest_clear(struct tbenc_manifest **m)
{
    *m = tbenc_manifest_free(*m);
}

uint64_t overlay_plaintext_bytes(const struct tbenc_manifest *m)
{
    uint64_t n = m->plaintext_bytes;

    for (size_t i = 0; m->base && i < m->base->n_files; i++)
        n += m->base->files[i].bytes; /* the parser has bounded the sum */
    return n;
}

void overlay_remove(const char *place)
{
    _cleanup_free_ char *path = tb_path_join(place, TB_SERVING_BASE_NAME);
    int r = path ? partial_remove_dir(path) : -ENOMEM;

    if (r < 0 && r != -ENOTDIR)
        tb_warn("cannot remove %s of %s, which nothing stands on any more: %s", TB_SERVING_BASE_NAME, place,
                strerror(-r));
}

/* The manifest in dir: its text, and whether it is the base's. */
static bool overlay_read(const char *dir, const struct tbenc_base *b, char **ret, size_t *ret_len,
                         bool *ret_there)
{
    _cleanup_free_ char *path = tb_path_join(dir, TARGET_MANIFEST_NAME);
    uint8_t sha256[SHA256_BYTES];

    *ret_there = path && tb_read_file(path, TBENC_MANIFEST_MAX, ret, ret_len) == 0;
    if (!*ret_there)
        return false;
    SHA256((const uint8_t *)*ret, *ret_len, sha256);
    return memcmp(sha256, b->manifest_sha256, sizeof(sha256)) == 0;
}

/* The base, if it lies whole in dir: the path of its ciphertext. */
static char *overlay_find_in(const char *dir, const struct tbenc_manifest *m, char **ret_text,
                             size_t *ret_len, struct stat *ret_st)
{
    _cleanup_(overlay_manifest_clear) struct tbenc_manifest *base = NULL;
    _cleanup_free_ char *text = NULL, *path = NULL;
    bool there;

    if (!overlay_read(dir, m->base, &text, ret_len, &there) ||
        tbenc_base_parse(m, text, *ret_len, &base, NULL) < 0)
        return NULL;
    path = tb_path_join(dir, base->weights_filename);
    if (!path || lstat(path, ret_st) < 0 || !S_ISREG(ret_st->st_mode) ||
        !verified_matches(path, ret_st, base->sha256_ciphertext))
        return NULL;
    *ret_text = TAKE_PTR(text);
    return TAKE_PTR(path);
}

/* A second name for the ciphertext that lies in dir. What becomes of it when this run ends halfway the next
 * finds out as of any file. */
static bool overlay_link(const char *dir, const char *place, const struct tbenc_manifest *m)
{
    _cleanup_free_ char *text = NULL, *to = NULL, *from = NULL;
    _cleanup_free_ char *manifest = tb_path_join(place, TARGET_MANIFEST_NAME);
    struct stat st;
    size_t len;

    from = overlay_find_in(dir, m, &text, &len, &st);
    to = from ? tb_path_join(place, strrchr(from, '/') + 1) : NULL;
    if (!to || !manifest)
        return false;
    if (unlink(to) < 0 && errno != ENOENT)
        return false;
    if (link(from, to) < 0) {
        tb_warn("%s cannot have a second name, %s: %s; it is fetched again", from, to, strerror(errno));
        return false;
    }
    if (verified_write(to, &st, m->base->sha256_ciphertext, NULL) < 0 ||
        tb_write_file_atomic(manifest, text, len, 0640) < 0)
        return false;
    tb_info("%s is what this version stands on: not downloaded again", from);
    return true;
}

/* A download of it is under way in dir: what lies elsewhere was there when it was begun, and was not what it
 * should be. */
static bool overlay_is_coming(const char *dir)
{
    _cleanup_closedir_ DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (strlen(e->d_name) > strlen(PARTIAL_RECORD_SUFFIX) &&
            strcmp(e->d_name + strlen(e->d_name) - strlen(PARTIAL_RECORD_SUFFIX), PARTIAL_RECORD_SUFFIX) == 0)
            return true;
    return false;
}

/* In each place of a version, and of what those stand on. */
static void overlay_take_from_disk(const char *target_dir, const char *place, const struct tbenc_manifest *m)
{
    _cleanup_closedir_ DIR *d = opendir(target_dir);
    _cleanup_free_ char *of_first = tb_path_join(target_dir, TB_SERVING_BASE_NAME);
    bool found = overlay_link(target_dir, place, m);
    struct dirent *e;

    found = found || (of_first && strcmp(of_first, place) != 0 && overlay_link(of_first, place, m));
    while (!found && d && (e = readdir(d))) {
        _cleanup_free_ char *dir = tb_path_join(target_dir, e->d_name);
        _cleanup_free_ char *base = dir ? tb_path_join(dir, TB_SERVING_BASE_NAME) : NULL;

        if (base && tb_serving_is_place(e->d_name))
            found = overlay_link(dir, place, m) || (strcmp(base, place) != 0 && overlay_link(base, place, m));
    }
}

int overlay_prepare(const char *target_dir, const char *place, const struct tbenc_manifest *m,
                    char **ret_place, struct hydrate_source *ret, struct tb_outcome *o)
{
    _cleanup_free_ char *path = tb_path_join(place, TB_SERVING_BASE_NAME), *text = NULL, *have = NULL;
    struct stat st;
    bool there;
    size_t len;
    int r;

    *ret_place = NULL;
    if (!path)
        return hydrate_outcome_io(o, -ENOMEM, "cannot name a directory in", place);
    if (!m->base) {
        overlay_remove(place);
        return 0;
    }
    if (!overlay_read(path, m->base, &text, &len, &there) && there)
        overlay_remove(place); /* of another base */
    r = tb_mkdir_p(path, 0755);
    if (r < 0)
        return hydrate_outcome_io(o, r, "cannot create", path);
    tb_freep(&text);
    have = overlay_find_in(path, m, &text, &len, &st);
    if (!have && !overlay_is_coming(path))
        overlay_take_from_disk(target_dir, path, m);
    r = source_load_base(m->base, ret, o);
    if (r == 0)
        *ret_place = TAKE_PTR(path);
    return r;
}

int overlay_no_source(const char *place, struct tb_outcome *o)
{
    return tb_outcome_set(
        o, TB_EXIT_NOINPUT,
        "this version is an overlay, and what it stands on is neither in %s nor does the "
        "control plane say where it is (base in its answer): ask the provider for a version "
        "that is whole",
        place);
}

int overlay_check(const struct tbenc_manifest *m, const struct manifest *base, struct tb_outcome *o)
{
    _cleanup_(overlay_manifest_clear) struct tbenc_manifest *b = NULL;
    struct tbenc_error e = {.message = ""};

    return tbenc_base_parse(m, base->text, base->len, &b, &e) < 0
               ? tb_outcome_set(o, TB_EXIT_DATAERR, "bad manifest: %s", e.message)
               : 0;
}

bool overlay_is_whole(const char *place, const struct tbenc_manifest *m)
{
    _cleanup_free_ char *path = tb_path_join(place, TB_SERVING_BASE_NAME), *text = NULL, *have = NULL;
    struct stat st;
    size_t len;

    if (!m->base)
        return true;
    have = path ? overlay_find_in(path, m, &text, &len, &st) : NULL;
    return have != NULL;
}
