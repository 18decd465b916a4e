/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/plan.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/json.h"
#include "common/restore_pending.h"

#define PLAN_MAX (256UL * 1024)

/* "DIR/.NAME.tb-restore" for "DIR/NAME". */
static char *plan_beside(const char *path)
{
    const char *slash = strrchr(path, '/');

    return tb_strf("%.*s/.%s.tb-restore", (int)(slash - path), path, slash + 1);
}

int backup_plan_init(struct backup_plan *p)
{
    *p = (struct backup_plan){.doc = cJSON_CreateObject()};
    return p->doc && cJSON_AddArrayToObject(p->doc, "remove") && cJSON_AddArrayToObject(p->doc, "put")
               ? 0
               : -ENOMEM;
}

static int plan_add(struct backup_plan *p, const char *list, const char *path)
{
    cJSON *a = cJSON_GetObjectItemCaseSensitive(p->doc, list);

    return cJSON_AddItemToArray(a, cJSON_CreateString(path)) ? 0 : -ENOMEM;
}

void backup_plan_clear(struct backup_plan *p)
{
    const cJSON *row;

    if (!p->decided)
        cJSON_ArrayForEach (row, cJSON_GetObjectItemCaseSensitive(p->doc, "put")) {
            _cleanup_free_ char *tmp = plan_beside(row->valuestring);

            if (tmp)
                (void)unlink(tmp);
        }
    cJSON_Delete(p->doc);
    p->doc = NULL;
}

/* The directory may belong to a daemon: nothing that is there already is followed or written to. */
int backup_plan_put(struct backup_plan *p, const char *path, const char *data, size_t len, mode_t mode,
                    struct backup_owner owner)
{
    _cleanup_free_ char *tmp = plan_beside(path);
    _cleanup_close_ int fd = -1;
    int r;

    if (!tmp)
        return -ENOMEM;
    if (unlink(tmp) < 0 && errno != ENOENT)
        return -errno;
    r = plan_add(p, "put", path);
    if (r < 0)
        return r;
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    r = tb_write_full(fd, data, len);
    if (r == 0 && geteuid() == 0 && fchown(fd, owner.uid, owner.gid) < 0)
        r = -errno;
    if (r == 0 && (fchmod(fd, mode) < 0 || fsync(fd) < 0))
        r = -errno;
    return r == 0 ? tb_fsync_parent(path) : r;
}

int backup_plan_remove(struct backup_plan *p, const char *path)
{
    return plan_add(p, "remove", path);
}

int backup_plan_decide(struct backup_plan *p, const struct backup_places *places)
{
    _cleanup_free_ char *text = cJSON_Print(p->doc), *path = tb_path_join(places->own, TB_RESTORE_PLAN);
    int r;

    if (!text || !path)
        return -ENOMEM;
    tb_newfile_sweep(path);
    r = tb_write_file_atomic(path, text, strlen(text), 0600);
    /* Its name may be there although the directory could not be synced. */
    p->decided = r == 0 || access(path, F_OK) == 0;
    return p->decided ? 0 : r;
}

static int plan_read(const char *path, cJSON **ret, struct tb_outcome *o)
{
    _cleanup_free_ char *text = NULL;
    char err[TB_JSON_ERR_MAX] = "";
    size_t n;
    int r = tb_read_file(path, PLAN_MAX, &text, &n);

    if (r == -ENOENT)
        return -ENOENT;
    if (r == 0)
        r = tb_json_parse(text, n, PLAN_MAX, ret, err);
    if (r == 0 &&
        (!cJSON_IsArray(tb_json_member(*ret, "put")) || !cJSON_IsArray(tb_json_member(*ret, "remove"))))
        r = -EBADMSG;
    if (r < 0)
        tb_outcome_set(o, TB_EXIT_IOERR, "%s: cannot be read: %s", path, *err ? err : strerror(-r));
    return r;
}

/* Its file has its place, or had got it before. */
static int plan_place(const char *path)
{
    _cleanup_free_ char *tmp = plan_beside(path);

    if (!tmp)
        return -ENOMEM;
    if (rename(tmp, path) < 0 && (errno != ENOENT || access(path, F_OK) < 0))
        return -errno;
    return tb_fsync_parent(path);
}

static int plan_carry_out(const cJSON *doc, const char **ret_bad)
{
    const cJSON *row;

    cJSON_ArrayForEach (row, tb_json_member(doc, "remove")) {
        *ret_bad = row->valuestring;
        if (!cJSON_IsString(row) || row->valuestring[0] != '/')
            return -EBADMSG;
        if (unlink(row->valuestring) < 0 && errno != ENOENT)
            return -errno;
    }
    cJSON_ArrayForEach (row, tb_json_member(doc, "put")) {
        int r = cJSON_IsString(row) && row->valuestring[0] == '/' ? plan_place(row->valuestring) : -EBADMSG;

        *ret_bad = row->valuestring;
        if (r < 0)
            return r;
    }
    return 0;
}

bool backup_plan_is_none(const struct backup_places *places)
{
    _cleanup_free_ char *path = tb_path_join(places->own, TB_RESTORE_PLAN);

    return path && access(path, F_OK) < 0 && errno == ENOENT;
}

int backup_plan_finish(const struct backup_places *places, bool *ret_done, struct tb_outcome *o)
{
    _cleanup_free_ char *path = tb_path_join(places->own, TB_RESTORE_PLAN);
    _cleanup_json_ cJSON *doc = NULL;
    const char *bad = "";
    int r;

    *ret_done = false;
    if (!path)
        return tb_outcome_set(o, TB_EXIT_IOERR, "not enough memory");
    r = plan_read(path, &doc, o);
    if (r < 0)
        return r == -ENOENT ? 0 : o->code;
    r = plan_carry_out(doc, &bad);
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR,
                              "%s: %s; the restore is decided and not complete: remove the cause, then run "
                              "tb-restore --finish",
                              bad ? bad : path, strerror(-r));
    if (unlink(path) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "%s: %s", path, strerror(errno));
    *ret_done = true;
    r = tb_fsync_parent(path);
    return r < 0 ? tb_outcome_set(o, TB_EXIT_IOERR, "%s: %s", places->own, strerror(-r)) : 0;
}
