/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "backup/backup.h"
#include "backup/collect.h"
#include "backup/compare.h"
#include "backup/ledger.h"
#include "backup/plan.h"
#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"

struct restore {
    const struct backup_options *opt;
    const struct backup_places *p;
    struct backup_set *s, *secrets; /* of the archive; secrets NULL: none that can be opened */
    struct backup_set *here;
    bool damaged;       /* the ledger here */
    bool keep_counters; /* and so the head of the audit chain */
    struct backup_newer newer;
    int lock_fd;
    char replaced[PATH_MAX]; /* a backup of what was here; "": there was nothing */
    struct tb_outcome o;
};

/* -- the archive ----------------------------------------------------------------------------------------- */

static int restore_open_secrets(struct restore *rs)
{
    const struct backup_member *m = backup_set_find(rs->s, BACKUP_SEALED);
    _cleanup_free_ char *plain = NULL;
    char err[BACKUP_ERR_MAX];
    size_t len;
    int r;

    if (!m || (!rs->opt->key.key && !rs->opt->key.passphrase))
        return m || !(rs->opt->only & BACKUP_ONLY_CREDENTIALS)
                   ? 0
                   : tb_outcome_set(&rs->o, TB_EXIT_NOINPUT, "%s: there are no credentials in it",
                                    rs->opt->file);
    r = backup_unseal(m->data, m->len, &rs->opt->key, &plain, &len, err);
    if (r < 0)
        return tb_outcome_set(&rs->o, r == -EBADMSG ? TB_EXIT_DATAERR : TB_EXIT_NOPERM, "%s: %s",
                              rs->opt->file, err);
    r = backup_archive_read(plain, len, true, &rs->secrets, err);
    tb_erase(plain, len);
    return r < 0 ? tb_outcome_set(&rs->o, TB_EXIT_DATAERR, "%s: the encrypted part: %s", rs->opt->file, err)
                 : 0;
}

static int restore_check_ledger(struct restore *rs)
{
    const struct backup_member *m = backup_set_find(rs->s, BACKUP_LEDGER);
    _cleanup_db_ sqlite3 *db = NULL;
    char err[TB_DB_ERR_MAX];
    int r;

    if (!m)
        return 0;
    r = tb_db_open(":memory:", SQLITE_OPEN_READWRITE, &db, err);
    if (r == 0)
        r = backup_ledger_attach(db, "main", m, err);
    return r < 0 ? tb_outcome_set(&rs->o, r == -EBADMSG ? TB_EXIT_DATAERR : TB_EXIT_IOERR,
                                  "%s: the ledger in it: %s", rs->opt->file, err)
                 : 0;
}

static int restore_read(struct restore *rs)
{
    _cleanup_free_ char *data = NULL;
    char err[BACKUP_ERR_MAX];
    size_t len;
    int r = tb_read_file(rs->opt->file, BACKUP_ARCHIVE_MAX, &data, &len);

    if (r == -EFBIG)
        return tb_outcome_set(&rs->o, TB_EXIT_DATAERR, "%s: larger than any backup", rs->opt->file);
    if (r < 0)
        return tb_outcome_set(&rs->o, r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR, "%s: %s", rs->opt->file,
                              strerror(-r));
    r = backup_archive_read(data, len, false, &rs->s, err);
    if (r < 0)
        return tb_outcome_set(&rs->o, r == -ENOMEM ? TB_EXIT_IOERR : TB_EXIT_DATAERR,
                              "%s: %s. Nothing was changed", rs->opt->file, err);
    r = restore_check_ledger(rs);
    return r != 0 ? r : restore_open_secrets(rs);
}

static bool restore_wants(const struct restore *rs, unsigned part)
{
    return rs->opt->only == 0 || rs->opt->only & part;
}

/* -- what is here ---------------------------------------------------------------------------------------- */

static int restore_enter(struct restore *rs)
{
    int r = tb_mkdir_p(rs->p->state, 0755);

    if (r == 0)
        r = tb_mkdir_p(rs->p->own, 0711);
    rs->lock_fd = r < 0 ? r : open(rs->p->own, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (r == 0 && rs->lock_fd < 0)
        r = -errno;
    if (r == -EACCES || r == -EPERM)
        return tb_outcome_set(&rs->o, TB_EXIT_NOPERM, "%s: %s; run this as root", rs->p->own, strerror(-r));
    if (r < 0)
        return tb_outcome_set(&rs->o, TB_EXIT_IOERR, "%s: %s", rs->p->own, strerror(-r));
    if (flock(rs->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return tb_outcome_set(&rs->o, TB_EXIT_TEMPFAIL, "%s: another tb-restore is at work", rs->p->own);
    /* Daemons look for the plan in it. */
    return fchmod(rs->lock_fd, 0711) < 0
               ? tb_outcome_set(&rs->o, TB_EXIT_IOERR, "%s: %s", rs->p->own, strerror(errno))
               : 0;
}

static int restore_refuse_newer(struct restore *rs)
{
    return tb_outcome_set(
        &rs->o, TB_EXIT_NOPERM,
        "what is here is newer than the backup of %s: it has %s. A restore would lose that, and the "
        "marketplace "
        "may be told twice. --force restores all the same; what is here then goes to %s first",
        rs->s->created, rs->newer.text, rs->p->own);
}

/* The ledger here is gone and the counters go on: they know what it had, but not which of it was sent. */
static int restore_judge_lost_ledger(struct restore *rs)
{
    char err[256];

    if (rs->opt->keep_counters) {
        if (backup_counters_fit(rs->here, rs->s, err) < 0)
            return tb_outcome_set(&rs->o, TB_EXIT_NOPERM, "--keep-counters: %s", err);
        rs->keep_counters = true;
        return 0;
    }
    return tb_outcome_set(
        &rs->o, TB_EXIT_NOPERM,
        "the ledger here is %s, and the counters are newer than the backup of %s: %s. "
        "--keep-counters restores the ledger and lets it book that into the present hour; what "
        "of it was sent to the marketplace before is then sent twice. --force restores the "
        "counters too, and that usage is not billed",
        rs->damaged ? "damaged" : "missing", rs->s->created, rs->newer.text);
}

static int restore_judge(struct restore *rs)
{
    char err[256];
    bool lost;
    int r = backup_collect(rs->p, true, &rs->here, &rs->damaged, &rs->o);

    if (r != 0)
        return r;
    r = backup_compare(rs->here, rs->s, &rs->newer, err);
    if (r < 0 && !rs->opt->force && restore_wants(rs, BACKUP_ONLY_STATE))
        return tb_outcome_set(
            &rs->o, TB_EXIT_NOPERM,
            "the ledger here cannot be compared with that of the backup: %s. --force restores "
            "all the same",
            err);
    lost = rs->damaged || !backup_set_find(rs->here, BACKUP_LEDGER);
    if (rs->opt->keep_counters && !lost)
        return tb_outcome_set(
            &rs->o, TB_EXIT_USAGE,
            "--keep-counters is for a ledger that is missing or damaged; this one is whole");
    if (r < 0 || !*rs->newer.text || rs->opt->force || !restore_wants(rs, BACKUP_ONLY_STATE))
        return 0;
    return lost && rs->newer.counters ? restore_judge_lost_ledger(rs) : restore_refuse_newer(rs);
}

/* -- the change ------------------------------------------------------------------------------------------ */

/* A program's directory, its owner by that or by the program's user; a new one belongs to that user. */
static int restore_state_dir(struct restore *rs, const struct backup_program *prog, struct backup_owner *ret)
{
    _cleanup_free_ char *dir = tb_path_join(rs->p->state, prog->name);
    const struct passwd *pw = getpwnam(prog->name);
    struct stat st;
    int r;

    *ret = (struct backup_owner){pw ? pw->pw_uid : geteuid(), pw ? pw->pw_gid : getegid()};
    if (!dir)
        return -ENOMEM;
    if (lstat(dir, &st) == 0) {
        *ret = (struct backup_owner){st.st_uid, st.st_gid};
        return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
    }
    r = tb_mkdir_p(rs->p->state, 0755);
    if (r == 0 && mkdir(dir, prog->mode) < 0)
        r = -errno;
    if (r == 0 && geteuid() == 0 && lchown(dir, ret->uid, ret->gid) < 0)
        r = -errno;
    return r == 0 ? tb_fsync_parent(dir) : r;
}

/* What the backup has not stays behind, but for the suspension: a restore never clears one. */
static bool restore_removes(const struct restore *rs, const char *name)
{
    if (strcmp(name, BACKUP_SUSPENDED) == 0)
        return false;
    if (rs->keep_counters && strncmp(name, "state/tb-proxy/", 15) == 0)
        return false;
    return backup_name_kind(name, false) == BACKUP_KIND_STATE && !backup_set_find(rs->s, name);
}

static int restore_plan_removals(struct restore *rs, struct backup_plan *plan)
{
    static const char *const beside[] = {"-wal", "-shm", "-journal"};
    _cleanup_free_ char *ledger = backup_place_of(rs->p, BACKUP_LEDGER, BACKUP_KIND_STATE);
    int r = ledger ? 0 : -ENOMEM;

    /* They belong to the database that is replaced. */
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(beside); i++) {
        _cleanup_free_ char *path = tb_strf("%s%s", ledger, beside[i]);

        r = path ? backup_plan_remove(plan, path) : -ENOMEM;
    }
    if (r == 0 && rs->damaged && !backup_set_find(rs->s, BACKUP_LEDGER))
        r = backup_plan_remove(plan, ledger);
    for (size_t i = 0; r == 0 && i < rs->here->n; i++) {
        _cleanup_free_ char *path = backup_place_of(rs->p, rs->here->v[i].name, BACKUP_KIND_STATE);

        if (restore_removes(rs, rs->here->v[i].name))
            r = path ? backup_plan_remove(plan, path) : -ENOMEM;
    }
    return r;
}

static int restore_plan_state(struct restore *rs, struct backup_plan *plan)
{
    int r = restore_plan_removals(rs, plan);

    for (const struct backup_program *prog = backup_programs; r == 0 && prog->name; prog++) {
        _cleanup_free_ char *prefix = tb_strf("state/%s/", prog->name);
        struct backup_owner owner;

        if (!prefix)
            return -ENOMEM;
        r = restore_state_dir(rs, prog, &owner);
        for (size_t i = 0; r == 0 && i < rs->s->n; i++) {
            const struct backup_member *m = &rs->s->v[i];
            _cleanup_free_ char *path = NULL;

            if (strncmp(m->name, prefix, strlen(prefix)) != 0 ||
                (rs->keep_counters && strcmp(prog->name, "tb-proxy") == 0 &&
                 backup_set_find(rs->here, m->name)))
                continue;
            path = backup_place_of(rs->p, m->name, BACKUP_KIND_STATE);
            r = path ? backup_plan_put(plan, path, m->data, m->len, m->mode & 0644, owner) : -ENOMEM;
        }
    }
    return r;
}

/* Files of root's. */
static int restore_plan_files(struct restore *rs, struct backup_plan *plan, const struct backup_set *s,
                              bool sealed)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < s->n; i++) {
        const struct backup_member *m = &s->v[i];
        enum backup_kind kind = backup_name_kind(m->name, sealed);
        _cleanup_free_ char *path = backup_place_of(rs->p, m->name, kind), *dir = NULL;

        if (kind == BACKUP_KIND_STATE || kind == BACKUP_KIND_SEALED)
            continue;
        dir = path ? strndup(path, (size_t)(strrchr(path, '/') - path)) : NULL;
        r = dir ? tb_mkdir_p(dir, kind == BACKUP_KIND_CREDSTORE ? 0700 : 0755) : -ENOMEM;
        if (r == 0)
            r = backup_plan_put(plan, path, m->data, m->len,
                                kind == BACKUP_KIND_CREDSTORE ? m->mode & 0600 : m->mode & 0644,
                                (struct backup_owner){geteuid(), getegid()});
    }
    return r;
}

/* So that a restore that was a mistake can be undone by one. */
static int restore_keep_replaced(struct restore *rs)
{
    char now[TB_RFC3339_MAX];

    if (rs->damaged) {
        _cleanup_free_ char *ledger = backup_place_of(rs->p, BACKUP_LEDGER, BACKUP_KIND_STATE),
                            *aside = tb_strf("%s/ledger.db.damaged", rs->p->own), *data = NULL;
        size_t n;
        int r = ledger && aside ? tb_read_file(ledger, BACKUP_LEDGER_MAX, &data, &n) : -ENOMEM;

        if (r == 0)
            r = tb_write_file_atomic(aside, data, n, 0600);
        if (r < 0)
            return tb_outcome_set(&rs->o, TB_EXIT_IOERR, "%s: the damaged ledger cannot be kept: %s",
                                  rs->p->own, strerror(-r));
    }
    if (rs->here->n == 0)
        return 0;
    snprintf(rs->replaced, sizeof(rs->replaced), "%s/before-%s.backup", rs->p->own,
             tb_rfc3339_format(tb_now_realtime_us(), 1, now));
    return backup_save_set(rs->here, rs->replaced, &rs->o);
}

static int restore_change(struct restore *rs)
{
    _cleanup_backup_plan_ struct backup_plan plan = {0};
    bool done;
    int r = restore_keep_replaced(rs);

    if (r != 0)
        return r;
    r = backup_plan_init(&plan);
    if (r == 0 && restore_wants(rs, BACKUP_ONLY_STATE))
        r = restore_plan_state(rs, &plan);
    if (r == 0 && restore_wants(rs, BACKUP_ONLY_SETTINGS))
        r = restore_plan_files(rs, &plan, rs->s, false);
    if (r == 0 && rs->secrets && restore_wants(rs, BACKUP_ONLY_CREDENTIALS))
        r = restore_plan_files(rs, &plan, rs->secrets, true);
    if (r == 0)
        r = backup_plan_decide(&plan, rs->p);
    if (r < 0)
        return tb_outcome_set(&rs->o, r == -EACCES || r == -EPERM ? TB_EXIT_NOPERM : TB_EXIT_IOERR,
                              "the files cannot be prepared: %s. Nothing was changed", strerror(-r));
    return backup_plan_finish(rs->p, &done, &rs->o);
}

/* -- telling --------------------------------------------------------------------------------------------- */

static void restore_describe(const struct restore *rs)
{
    const struct backup_set *s = rs->s;
    struct backup_counters c;

    backup_counters_of(s, &c);
    printf("Backup of %s, by TrustBridge %s, %s\n", s->created, s->version,
           *s->machine && strcmp(s->machine, rs->p->machine) == 0 ? "of this machine" : "of another machine");
    for (size_t i = 0; i < s->n; i++)
        printf("  %-36s %12zu bytes\n", s->v[i].name, s->v[i].len);
    for (size_t i = 0; rs->secrets && i < rs->secrets->n; i++)
        printf("    %-34s %12zu bytes\n", rs->secrets->v[i].name, rs->secrets->v[i].len);
    if (c.present)
        printf("  counted: %" PRIu64 " requests, %" PRIu64 " prompt and %" PRIu64
               " completion tokens; audit head: %" PRIu64 "\n",
               c.usage.value[TB_USAGE_REQUESTS], c.usage.value[TB_USAGE_PROMPT_TOKENS],
               c.usage.value[TB_USAGE_COMPLETION_TOKENS], backup_audit_seq(s));
}

static void restore_tell(const struct restore *rs)
{
    const struct backup_set *s = rs->s;
    bool another = !*s->machine || strcmp(s->machine, rs->p->machine) != 0;

    printf("Restored: the backup of %s.\n", s->created);
    if (rs->replaced[0])
        printf("What was here before is in %s (tb-restore --force takes it back).\n", rs->replaced);
    if (rs->damaged)
        printf("The damaged ledger is in %s/ledger.db.damaged.\n", rs->p->own);
    if (rs->keep_counters && *rs->newer.text)
        printf("The counters stay. To be booked again into the present hour: %s.\n", rs->newer.text);
    if (backup_set_find(s, BACKUP_SUSPENDED) || backup_set_find(rs->here, BACKUP_SUSPENDED))
        printf("It is suspended, and stays so until the control plane allows serving.\n");
    if (backup_set_find(s, BACKUP_SEALED) && !rs->secrets)
        printf("Its credentials were not restored: that needs --identity or --passphrase-file.\n");
    backup_advise(rs->p, s, another, rs->secrets != NULL);
    if (!rs->p->elsewhere)
        printf("Start it with: systemctl daemon-reload; systemctl restart tb-configure.service; "
               "systemctl start trustbridge.target\n");
}

static int restore_check(struct restore *rs)
{
    int r = restore_read(rs);

    if (r == 0)
        restore_describe(rs);
    return r;
}

static int restore_all(struct restore *rs)
{
    _cleanup_backup_locks_ struct backup_locks locks = {-1, -1};
    bool finished = false;
    int r;

    if (rs->opt->finish && backup_plan_is_none(rs->p)) {
        printf("There is nothing to finish: no restore was interrupted.\n");
        return 0;
    }
    r = rs->opt->finish ? 0 : restore_read(rs);
    if (r == 0)
        r = restore_enter(rs);
    if (r == 0)
        r = backup_locks_take(&locks, rs->p, &rs->o);
    if (r == 0)
        r = backup_plan_finish(rs->p, &finished, &rs->o);
    if (r == 0 && finished)
        printf("An interrupted restore was completed.\n");
    if (r != 0 || rs->opt->finish)
        return r;
    r = backup_check_stopped(rs->p, &rs->o);
    if (r == 0)
        r = restore_judge(rs);
    if (r == 0)
        r = restore_change(rs);
    if (r == 0)
        restore_tell(rs);
    return r;
}

int backup_restore(const struct backup_options *opt, const struct backup_places *p)
{
    struct restore rs = {.opt = opt, .p = p, .lock_fd = -1};
    int r = opt->check ? restore_check(&rs) : restore_all(&rs);

    if (r != 0)
        tb_error("%s", rs.o.reason);
    if (fflush(stdout) != 0 && r == 0)
        r = TB_EXIT_IOERR;
    backup_set_free(rs.s);
    backup_set_free(rs.secrets);
    backup_set_free(rs.here);
    tb_close(rs.lock_fd);
    return r;
}
