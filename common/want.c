/* SPDX-License-Identifier: Apache-2.0 */
#include "common/want.h"

#include <fcntl.h>
#include <string.h>

#include "common/domain_file.h"
#include "common/io.h"
#include "common/json.h"

static int want_uint(const cJSON *o, const char *name, uint64_t max, uint64_t *ret)
{
    char err[TB_JSON_ERR_MAX];

    return tb_json_member(o, name) && tb_json_get_uint(o, name, max, ret, err) == 0 ? 0 : -EBADMSG;
}

static int want_parse_range(const cJSON *o, struct tb_want_range *ret)
{
    struct tb_want_range r = {0};
    uint64_t seen, try = 1; /* a tb-decrypt of before there was one runs on when the package is newer */

    if (!cJSON_IsObject(o) || want_uint(o, "offset", TB_JSON_INT_MAX, &r.offset) < 0 ||
        want_uint(o, "bytes", TB_JSON_INT_MAX, &r.bytes) < 0 || r.bytes == 0)
        return -EBADMSG;
    r.repair = tb_json_member(o, "record") != NULL;
    if (r.repair && (want_uint(o, "record", TB_JSON_INT_MAX, &r.record) < 0 ||
                     want_uint(o, "seen", UINT32_MAX, &seen) < 0 ||
                     (tb_json_member(o, "try") && want_uint(o, "try", UINT8_MAX, &try) < 0)))
        return -EBADMSG;
    if (r.repair) {
        r.seen = (uint32_t)seen;
        r.try = (uint8_t)try;
    }
    *ret = r;
    return 0;
}

int tb_want_parse(const char *buf, size_t len, struct tb_want *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    struct tb_want w = {0};
    char err[TB_JSON_ERR_MAX];
    const cJSON *list, *item;
    const char *sha = "";

    if (tb_json_parse(buf, len, TB_STATE_FILE_MAX, &o, err) < 0 ||
        tb_json_get_string(o, "sha256", &sha, err) < 0 || strlen(sha) != TB_WANT_SHA256_HEX)
        return -EBADMSG;
    list = tb_json_member(o, "ranges");
    if (!cJSON_IsArray(list))
        return -EBADMSG;
    memcpy(w.sha256, sha, sizeof(w.sha256));
    cJSON_ArrayForEach (item, list) {
        if (w.n >= TB_WANT_MAX || want_parse_range(item, &w.r[w.n]) < 0)
            return -EBADMSG;
        w.n++;
    }
    *ret = w;
    return 0;
}

int tb_want_read(const char *run_dir, struct tb_want *ret)
{
    _cleanup_free_ char *path = tb_path_join(run_dir, "tb-decrypt/" TB_WANT_NAME), *text = NULL;
    size_t len;
    int r;

    if (!path)
        return -ENOMEM;
    r = tb_read_file(path, TB_STATE_FILE_MAX, &text, &len);
    return r < 0 ? r : tb_want_parse(text, len, ret);
}

static int want_add_range(cJSON *list, const struct tb_want_range *r)
{
    cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddItemToArray(list, o)) {
        cJSON_Delete(o);
        return -ENOMEM;
    }
    if (tb_json_add_uint(o, "offset", r->offset) < 0 || tb_json_add_uint(o, "bytes", r->bytes) < 0)
        return -ENOMEM;
    if (r->repair && (tb_json_add_uint(o, "record", r->record) < 0 ||
                      tb_json_add_uint(o, "seen", r->seen) < 0 || tb_json_add_uint(o, "try", r->try) < 0))
        return -ENOMEM;
    return 0;
}

int tb_want_write(const char *dir, const struct tb_want *w)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *list =
        o && cJSON_AddStringToObject(o, "sha256", w->sha256) ? cJSON_AddArrayToObject(o, "ranges") : NULL;

    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < w->n; i++)
        if (want_add_range(list, &w->r[i]) < 0)
            return -ENOMEM;
    return tb_state_write(dir, TB_WANT_NAME, o, 0);
}

int tb_want_call(const char *dir)
{
    _cleanup_free_ char *path = tb_path_join(dir, TB_WANT_CALL);
    _cleanup_close_ int fd = -1;

    if (!path)
        return -ENOMEM;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    return fd < 0 ? -errno : tb_write_full(fd, "\n", 1);
}
