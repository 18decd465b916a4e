/* SPDX-License-Identifier: Apache-2.0 */
#include "common/domain_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/json.h"
#include "common/restore_pending.h"
#include "common/units.h"

/* systemd lists a unit's directories with colons, in alphabetical order, and a drop-in may have added some:
 * ours has our name. */
static char *pick_dir(const char *list, const char *program)
{
    size_t n = strlen(program);

    for (const char *p = list; *p; p += strspn(p, ":")) {
        const char *end = p + strcspn(p, ":");

        if ((size_t)(end - p) > n && end[-(ptrdiff_t)n - 1] == '/' && strncmp(end - n, program, n) == 0)
            return strndup(p, (size_t)(end - p));
        p = end;
    }
    return strndup(list, strcspn(list, ":"));
}

static int program_dir(const char *env, const char *base, const char *program, char **ret)
{
    const char *given = getenv(env);
    _cleanup_free_ char *dir = NULL;
    int r;

    dir = given && *given == '/' ? pick_dir(given, program) : tb_path_join(base, program);
    if (!dir)
        return -ENOMEM;
    r = tb_mkdir_p(dir, 0755);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(dir);
    return 0;
}

int tb_runtime_dir(const char *run_base, const char *program, char **ret)
{
    return program_dir("RUNTIME_DIRECTORY", run_base, program, ret);
}

/* Beside the program's directory, wherever that is. */
static int state_dir_check(const char *dir)
{
    const char *slash = strrchr(dir, '/');
    _cleanup_free_ char *plan =
        slash ? tb_strf("%.*s/" TB_RESTORE_DIR "/" TB_RESTORE_PLAN, (int)(slash - dir), dir) : NULL;

    return plan && access(plan, F_OK) == 0 ? -EUCLEAN : 0;
}

int tb_state_dir(const char *state_base, const char *program, char **ret)
{
    _cleanup_free_ char *dir = NULL;
    int r = program_dir("STATE_DIRECTORY", state_base, program, &dir);

    if (r == 0)
        r = state_dir_check(dir);
    if (r == 0)
        *ret = TAKE_PTR(dir);
    return r;
}

const char *tb_state_dir_error(int r)
{
    return r == -EUCLEAN ? "a restore was interrupted; run tb-restore --finish" : strerror(-r);
}

static int domain_file_write_volatile(const char *path, const char *text, size_t len)
{
    _cleanup_free_ char *tmp = tb_strf("%s.tmp", path);
    int fd, r;

    if (!tmp)
        return -ENOMEM;
    fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return -errno;
    (void)fchmod(fd, 0644);
    r = tb_write_full(fd, text, len);
    close(fd);
    if (r == 0 && rename(tmp, path) < 0)
        r = -errno;
    if (r < 0)
        (void)unlink(tmp);
    return r;
}

int tb_state_add_times(cJSON *doc, uint64_t started_boottime_us)
{
    int r = tb_json_add_uint(doc, "started_boottime_us", started_boottime_us);

    return r < 0 ? r : tb_json_add_uint(doc, "written_boottime_us", tb_now_boottime_us());
}

int tb_state_write(const char *dir, const char *name, const cJSON *doc, int durable)
{
    _cleanup_free_ char *path = tb_path_join(dir, name), *text = cJSON_PrintUnformatted(doc);

    if (!path || !text)
        return -ENOMEM;
    if (durable)
        return tb_write_file_atomic(path, text, strlen(text), 0644);
    return domain_file_write_volatile(path, text, strlen(text));
}

int tb_state_read_at(const char *dir, const char *name, cJSON **ret)
{
    _cleanup_free_ char *path = tb_path_join(dir, name), *text = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    size_t len;
    int r;

    if (!path)
        return -ENOMEM;
    r = tb_read_file(path, TB_STATE_FILE_MAX, &text, &len);
    if (r < 0)
        return r;
    r = tb_json_parse(text, len, TB_STATE_FILE_MAX, &doc, err);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    if (!cJSON_IsObject(doc))
        return -EBADMSG;
    *ret = TAKE_PTR(doc);
    return 0;
}
