/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/complete.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"

#define LFS_POINTER_MAX 1024
#define INDEX_MAX (64 << 20)
#define PART_DIGITS 5
#define PRIVATE_KEY_MAX (64 << 10)

bool complete_is_lfs_pointer(int fd, uint64_t bytes)
{
    static const char *const begins[] = {"version https://git-lfs.github.com/spec/",
                                         "version https://hawser.github.com/spec/"};
    char head[64];
    ssize_t n;

    if (bytes > LFS_POINTER_MAX)
        return false;
    n = tb_pread_full(fd, head, sizeof(head) - 1, 0);
    head[n < 0 ? 0 : n] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(begins); i++)
        if (strncmp(head, begins[i], strlen(begins[i])) == 0)
            return true;
    return false;
}

static bool complete_digits(const char *s, unsigned *ret)
{
    *ret = 0;
    for (int i = 0; i < PART_DIGITS; i++) {
        if (!isdigit((unsigned char)s[i]))
            return false;
        *ret = 10 * *ret + (unsigned)(s[i] - '0');
    }
    return true;
}

/* What begins a private key in files of OpenSSL and OpenSSH, of age, of PGP, and of minisign, where a comment
 * is before it. */
static bool complete_is_private_key(int fd, uint64_t bytes)
{
    static const char *const marks[] = {"PRIVATE KEY-----", "AGE-SECRET-KEY-1", "PRIVATE KEY BLOCK-----",
                                        "secret key\nRW"};
    char head[512];
    ssize_t n = bytes <= PRIVATE_KEY_MAX ? tb_pread_full(fd, head, sizeof(head) - 1, 0) : 0;

    for (size_t i = 0; n > 0 && i < ARRAY_SIZE(marks); i++)
        if (memmem(head, (size_t)n, marks[i], strlen(marks[i])))
            return true;
    return false;
}

int complete_check_secrets(const struct model_dir *m, const struct select *wanted, const char *root,
                           struct model_dir_error *e)
{
    for (size_t i = 0; i < m->n; i++) {
        const struct tbenc_input *in = &m->inputs[i];

        if (select_leaves_out(wanted, in->path, false) || !complete_is_private_key(in->fd, in->bytes))
            continue;
        e->object = tb_path_join(root, in->path);
        e->reason = "holds a private key, which whoever gets the model would have";
        e->remedy = "move it away, or leave it out by --exclude, or take it by --include";
        return e->object ? -ENODATA : -ENOMEM;
    }
    return 0;
}

bool complete_part_parse(const char *name, struct complete_part *ret)
{
    const char *of = strstr(name, "-of-");

    if (!of || of - name < PART_DIGITS + 1 || of[-PART_DIGITS - 1] != '-' ||
        !complete_digits(of - PART_DIGITS, &ret->part) || !complete_digits(of + 4, &ret->of))
        return false;
    ret->digits_at = (size_t)(of - PART_DIGITS - name);
    return ret->part >= 1 && ret->part <= ret->of;
}

static int complete_compare(const void *key, const void *input)
{
    return strcmp(key, ((const struct tbenc_input *)input)->path);
}

static bool complete_has(const struct model_dir *m, const char *path)
{
    return bsearch(path, m->inputs, m->n, sizeof(*m->inputs), complete_compare);
}

static int complete_missing(struct model_dir_error *e, const char *root, const char *path, const char *what,
                            const char *missing)
{
    e->object = tb_path_join(root, path);
    e->text = tb_strf("%s '%s', which is not there", what, missing);
    e->reason = e->text;
    e->remedy = "download the model again, or use --allow-incomplete";
    return e->object && e->text ? -ENODATA : -ENOMEM;
}

/* The next part, and the first one: so each gap of a series is found by one of its neighbours. */
static int complete_check_part(const struct model_dir *m, const char *root, const char *path,
                               struct model_dir_error *e)
{
    const char *slash = strrchr(path, '/');
    struct complete_part p;
    unsigned wanted[2];

    if (!complete_part_parse(slash ? slash + 1 : path, &p))
        return 0;
    wanted[0] = p.part < p.of ? p.part + 1 : p.part;
    wanted[1] = 1;
    for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
        _cleanup_free_ char *other = strdup(path);
        char digits[16];

        if (!other)
            return -ENOMEM;
        snprintf(digits, sizeof(digits), "%05u", wanted[i]);
        memcpy(other + (slash ? slash + 1 - path : 0) + p.digits_at, digits, PART_DIGITS);
        if (!complete_has(m, other))
            return complete_missing(e, root, path, "is one of several parts, and another is", other);
    }
    return 0;
}

static bool complete_is_index(const char *path)
{
    size_t n = strlen(path);

    return n > 5 && strcmp(path + n - 5, ".json") == 0 && strstr(path, ".index.");
}

static int complete_check_index(const struct model_dir *m, const struct tbenc_input *in, const char *root,
                                struct model_dir_error *e)
{
    const char *slash = strrchr(in->path, '/');
    _cleanup_free_ char *text = in->bytes <= INDEX_MAX ? malloc(in->bytes + 1) : NULL;
    _cleanup_json_ cJSON *doc = NULL;
    const cJSON *shard;
    const char *last = NULL;
    ssize_t n;

    if (!text)
        return in->bytes <= INDEX_MAX ? -ENOMEM : 0;
    n = tb_pread_full(in->fd, text, in->bytes, 0);
    doc = n > 0 ? cJSON_ParseWithLength(text, (size_t)n) : NULL;
    cJSON_ArrayForEach (shard, cJSON_GetObjectItemCaseSensitive(doc, "weight_map")) {
        _cleanup_free_ char *path = NULL;

        if (!cJSON_IsString(shard) || (last && strcmp(last, shard->valuestring) == 0))
            continue;
        last = shard->valuestring;
        path = tb_strf("%.*s%s", slash ? (int)(slash + 1 - in->path) : 0, in->path, last);
        if (!path)
            return -ENOMEM;
        if (!complete_has(m, path))
            return complete_missing(e, root, in->path, "names", path);
    }
    return 0;
}

int complete_check(const struct model_dir *m, const char *root, struct model_dir_error *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < m->n; i++) {
        const struct tbenc_input *in = &m->inputs[i];

        if (complete_is_lfs_pointer(in->fd, in->bytes)) {
            e->object = tb_path_join(root, in->path);
            e->reason = "is a Git LFS pointer, not the file that it stands for";
            e->remedy = "run git lfs pull, or download the model again, or use --allow-incomplete";
            return e->object ? -ENODATA : -ENOMEM;
        }
        r = complete_check_part(m, root, in->path, e);
        if (r == 0 && complete_is_index(in->path))
            r = complete_check_index(m, in, root, e);
    }
    return r;
}
