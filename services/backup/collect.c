/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/collect.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "backup/counters.h"
#include "backup/ledger.h"
#include "common/chain_head.h"
#include "common/io.h"
#include "common/log.h"
#include "common/text.h"
#include "common/version.h"

struct collection {
    const struct backup_places *p;
    struct backup_set *s;
    struct tb_outcome *o;
};

/* What cannot be read: the program's exit code for it. */
static int collect_fail(struct collection *c, const char *path, int r, const char *why)
{
    if (r == -EACCES || r == -EPERM)
        return tb_outcome_set(c->o, TB_EXIT_NOPERM, "%s: %s; run this as root", path, strerror(-r));
    return tb_outcome_set(c->o, r == -EBADMSG ? TB_EXIT_DATAERR : TB_EXIT_IOERR, "%s: %s", path,
                          why && *why ? why : strerror(-r));
}

/* A regular file; whoever owns the directory may have put anything in its place. */
static int collect_read(int dir_fd, const char *file, char **ret, size_t *ret_len, mode_t *ret_mode)
{
    _cleanup_close_ int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    _cleanup_free_ char *data = NULL;
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -ELOOP;
    if ((uint64_t)st.st_size > BACKUP_MEMBER_MAX)
        return -EFBIG;
    data = malloc((size_t)st.st_size + 1);
    if (!data)
        return -ENOMEM;
    n = tb_read_full(fd, data, (size_t)st.st_size);
    if (n < 0)
        return (int)n;
    *ret = TAKE_PTR(data);
    *ret_len = (size_t)n;
    *ret_mode = st.st_mode & 0777;
    return 0;
}

/* Files of dir as PREFIX/FILE, for those that are members of that kind and `wanted` says yes to. */
static int collect_directory(struct collection *c, const char *dir, const char *prefix, bool sealed,
                             bool (*wanted)(const char *file))
{
    _cleanup_closedir_ DIR *d = opendir(dir);
    int r = 0;

    if (!d)
        return errno == ENOENT ? 0 : collect_fail(c, dir, -errno, NULL);
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        char name[BACKUP_NAME_MAX + NAME_MAX], *data;
        size_t len;
        mode_t mode;

        snprintf(name, sizeof(name), "%s/%s", prefix, e->d_name);
        if (e->d_name[0] == '.' || !wanted(e->d_name) || backup_set_find(c->s, name))
            continue;
        if (backup_name_kind(name, sealed) == BACKUP_KIND_NONE) {
            tb_warn("%s/%s: not in the backup: a name that it has no place for", dir, e->d_name);
            continue;
        }
        r = collect_read(dirfd(d), e->d_name, &data, &len, &mode);
        if (r == 0)
            r = backup_set_add(c->s, name, mode, data, len);
        if (r == -ENOENT) /* its writer has removed it meanwhile */
            r = 0;
        else if (r == -ELOOP || r == -EFBIG) {
            tb_warn("%s/%s: not in the backup: %s", dir, e->d_name,
                    r == -ELOOP ? "not a plain file" : "too large");
            r = 0;
        } else if (r < 0) {
            r = collect_fail(c, dir, r, NULL);
        }
    }
    return r;
}

/* Not what SQLite has beside its database, what somebody set aside, or what prerm leaves. */
static bool collect_is_state(const char *file)
{
    return strncmp(file, "ledger.db", 9) != 0 && !strstr(file, ".corrupt-") &&
           strcmp(file, "unreported") != 0;
}

static bool collect_is_ours(const char *file)
{
    return strncmp(file, "trustbridge.", 12) == 0;
}

static bool collect_is_beside_settings(const char *file)
{
    return strcmp(file, "trustbridge.env") != 0 && strcmp(file, "purge-ledger") != 0;
}

static bool collect_is_conf(const char *file)
{
    return tb_text_ends_with(file, ".conf");
}

static int collect_ledger(struct collection *c, bool damaged_ok, bool *ret_damaged)
{
    _cleanup_free_ char *path = backup_place_of(c->p, BACKUP_LEDGER, BACKUP_KIND_STATE);
    char err[TB_DB_ERR_MAX], *data = NULL;
    size_t len = 0;
    int r = path ? backup_ledger_copy(path, &data, &len, err) : -ENOMEM;

    *ret_damaged = r == -EBADMSG;
    if (r == -ENOENT || (r == -EBADMSG && damaged_ok))
        return 0;
    if (r == 0)
        r = backup_set_add(c->s, BACKUP_LEDGER, 0600, data, len);
    return r < 0 ? collect_fail(c, path ? path : "ledger", r, err) : 0;
}

static int collect_head(struct collection *c)
{
    _cleanup_free_ char *path = backup_place_of(c->p, BACKUP_HEAD, BACKUP_KIND_STATE);
    char *page = malloc(TB_CHAIN_HEAD_BYTES);
    int r = path && page ? tb_chain_head_copy(path, page) : -ENOMEM;

    if (r == 0)
        r = backup_set_add(c->s, BACKUP_HEAD, 0640, page, TB_CHAIN_HEAD_BYTES);
    else
        free(page);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? collect_fail(c, path ? path : "audit-head", r,
                                r == -EBADMSG ? "not a head of the audit chain; move it away" : NULL)
                 : 0;
}

static int collect_state(struct collection *c)
{
    _cleanup_free_ char *proxy = tb_path_join(c->p->state, "tb-proxy");
    const char *bad = "";
    int r = proxy ? backup_counters_add(c->s, proxy, &bad) : -ENOMEM;

    if (r == -EBUSY)
        return tb_outcome_set(c->o, TB_EXIT_TEMPFAIL,
                              "%s: tb-proxy books faster than its counters can be read; try again", proxy);
    if (r < 0) {
        _cleanup_free_ char *path = tb_path_join(proxy ? proxy : "", bad);

        return collect_fail(c, path ? path : bad, r, r == -EBADMSG ? "not a file of tb-proxy" : NULL);
    }
    r = collect_head(c);
    for (const struct backup_program *p = backup_programs; r == 0 && p->name; p++) {
        _cleanup_free_ char *dir = tb_path_join(c->p->state, p->name), *prefix = tb_strf("state/%s", p->name);

        r = dir && prefix ? collect_directory(c, dir, prefix, false, collect_is_state)
                          : collect_fail(c, p->name, -ENOMEM, NULL);
    }
    return r;
}

static int collect_settings(struct collection *c)
{
    _cleanup_free_ char *path = backup_place_of(c->p, BACKUP_SETTINGS, BACKUP_KIND_SETTINGS);
    char *data = NULL;
    size_t len = 0;
    mode_t mode = 0;
    int r = path ? collect_read(AT_FDCWD, path, &data, &len, &mode) : -ENOMEM;

    if (r == -ENOENT)
        return 0;
    if (r == 0)
        r = backup_set_add(c->s, BACKUP_SETTINGS, mode, data, len);
    return r < 0 ? collect_fail(c, path ? path : "settings", r, r == -ELOOP ? "not a plain file" : NULL) : 0;
}

static struct backup_set *collect_begin(const struct backup_places *p, bool secret)
{
    struct backup_set *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->secret = secret;
    tb_rfc3339_format(tb_now_realtime_us(), 0, s->created);
    snprintf(s->version, sizeof(s->version), "%s", TB_VERSION);
    snprintf(s->machine, sizeof(s->machine), "%s", p->machine);
    return s;
}

int backup_collect(const struct backup_places *p, bool damaged_ok, struct backup_set **ret, bool *ret_damaged,
                   struct tb_outcome *o)
{
    _cleanup_backup_set_ struct backup_set *s = collect_begin(p, false);
    struct collection c = {.p = p, .s = s, .o = o};
    int r;

    *ret_damaged = false;
    if (!s)
        return tb_outcome_set(o, TB_EXIT_IOERR, "not enough memory");
    r = collect_ledger(&c, damaged_ok, ret_damaged);
    if (r == 0)
        r = collect_state(&c);
    if (r == 0)
        r = collect_settings(&c);
    if (r == 0)
        *ret = TAKE_PTR(s);
    return r;
}

static int collect_drop_ins(struct collection *c)
{
    _cleanup_free_ char *top = tb_strf("%s/etc/systemd/system", c->p->root);
    _cleanup_closedir_ DIR *d = top ? opendir(top) : NULL;
    int r = 0;

    if (!d)
        return top && errno == ENOENT ? 0 : collect_fail(c, "/etc/systemd/system", -errno, NULL);
    for (struct dirent *e; r == 0 && (e = readdir(d));) {
        _cleanup_free_ char *dir = NULL, *prefix = NULL;

        if ((strncmp(e->d_name, "tb-", 3) != 0 && strncmp(e->d_name, "trustbridge.", 12) != 0) ||
            !tb_text_ends_with(e->d_name, ".d"))
            continue;
        dir = tb_path_join(top, e->d_name);
        prefix = tb_strf("units/%s", e->d_name);
        r = dir && prefix && strlen(prefix) < BACKUP_NAME_MAX
                ? collect_directory(c, dir, prefix, true, collect_is_conf)
                : collect_fail(c, e->d_name, -ENOMEM, NULL);
    }
    return r;
}

int backup_collect_secrets(const struct backup_places *p, struct backup_set **ret, struct tb_outcome *o)
{
    static const char *const stores[] = {"credstore", "credstore.encrypted"};
    _cleanup_backup_set_ struct backup_set *s = collect_begin(p, true);
    struct collection c = {.p = p, .s = s, .o = o};
    int r = s ? 0 : tb_outcome_set(o, TB_EXIT_IOERR, "not enough memory");

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(stores); i++) {
        _cleanup_free_ char *dir = tb_strf("%s/etc/%s", p->root, stores[i]);

        r = dir ? collect_directory(&c, dir, stores[i], true, collect_is_ours)
                : collect_fail(&c, stores[i], -ENOMEM, NULL);
    }
    if (r == 0)
        r = collect_directory(&c, p->etc, "etc", true, collect_is_beside_settings);
    if (r == 0)
        r = collect_drop_ins(&c);
    if (r == 0)
        *ret = TAKE_PTR(s);
    return r;
}
