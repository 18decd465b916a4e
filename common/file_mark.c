/* SPDX-License-Identifier: Apache-2.0 */
#include "common/file_mark.h"

#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"

/* As text: nanoseconds since 1970 do not fit the integers of JSON. */
static char *file_mark_mtime(const struct stat *st)
{
    return tb_strf("%lld.%09ld", (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
}

int tb_file_mark_add(cJSON *o, const struct stat *st)
{
    _cleanup_free_ char *mtime = file_mark_mtime(st);

    if (!mtime || tb_json_add_uint(o, "bytes", (uint64_t)st->st_size) < 0 ||
        !cJSON_AddStringToObject(o, "mtime", mtime) || tb_json_add_uint(o, "inode", st->st_ino) < 0)
        return -ENOMEM;
    return 0;
}

static bool file_mark_uint(const cJSON *o, const char *name, uint64_t want)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t have;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &have, err) == 0 && have == want;
}

bool tb_file_mark_is_of(const cJSON *o, const struct stat *st)
{
    return file_mark_uint(o, "bytes", (uint64_t)st->st_size) && file_mark_uint(o, "inode", st->st_ino);
}

bool tb_file_mark_matches(const cJSON *o, const struct stat *st)
{
    _cleanup_free_ char *mtime = file_mark_mtime(st);
    char err[TB_JSON_ERR_MAX];
    const char *have;

    return mtime && tb_json_get_string(o, "mtime", &have, err) == 0 && strcmp(have, mtime) == 0 &&
           tb_file_mark_is_of(o, st);
}
