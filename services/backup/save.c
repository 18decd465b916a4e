/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "backup/backup.h"
#include "backup/collect.h"
#include "backup/compare.h"
#include "common/io.h"
#include "common/log.h"

static int save_fail(struct tb_outcome *o, const char *file, int r)
{
    return tb_outcome_set(o, r == -EACCES || r == -EPERM ? TB_EXIT_NOPERM : TB_EXIT_IOERR,
                          "%s: cannot be written: %s%s", file, strerror(-r),
                          r == -ENOSPC ? "; free space, or name another place" : "");
}

/* A device, a FIFO or a directory is not replaced by a file. */
static int save_check_target(const char *file, struct tb_outcome *o)
{
    struct stat st;

    if (lstat(file, &st) < 0)
        return errno == ENOENT ? 0 : save_fail(o, file, -errno);
    return S_ISREG(st.st_mode) ? 0
                               : tb_outcome_set(o, TB_EXIT_USAGE,
                                                "%s: is there and no plain file; name another, or - for "
                                                "standard output",
                                                file);
}

int backup_save_set(const struct backup_set *s, const char *file, struct tb_outcome *o)
{
    _cleanup_buf_ struct tb_buf b = {0};
    int r = backup_archive_write(s, &b);

    if (r < 0)
        return save_fail(o, file, r);
    if (strcmp(file, "-") == 0) {
        r = tb_write_full(STDOUT_FILENO, b.data, b.len);
    } else {
        tb_newfile_sweep(file);
        r = tb_write_file_atomic(file, b.data, b.len, 0600);
    }
    return r < 0 ? save_fail(o, file, r) : 0;
}

static int save_add_credentials(const struct backup_options *opt, const struct backup_places *p,
                                struct backup_set *s, size_t *ret_n, struct tb_outcome *o)
{
    _cleanup_backup_set_ struct backup_set *secrets = NULL;
    _cleanup_buf_ struct tb_buf b = {.secret = true};
    char err[BACKUP_ERR_MAX], *sealed = NULL;
    size_t len;
    int r = backup_collect_secrets(p, &secrets, o);

    if (r != 0)
        return r;
    *ret_n = secrets->n;
    if (backup_archive_write(secrets, &b) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "not enough memory for the credentials");
    r = backup_seal(b.data, b.len, &opt->key, &sealed, &len, err);
    if (r < 0)
        return tb_outcome_set(o, r == -EINVAL ? TB_EXIT_USAGE : TB_EXIT_IOERR, "%s", err);
    r = backup_set_add(s, BACKUP_SEALED, 0600, sealed, len);
    return r < 0 ? tb_outcome_set(o, TB_EXIT_IOERR, "credentials: %s", strerror(-r)) : 0;
}

/* What could be saved besides, for somebody who finds out too late. */
static void save_say(const struct backup_options *opt, const struct backup_set *s, size_t credentials)
{
    struct backup_counters c;

    if (opt->quiet)
        return;
    backup_counters_of(s, &c);
    fprintf(stderr, "tb-backup: %s:%s%s%s", strcmp(opt->file, "-") == 0 ? "standard output" : opt->file,
            backup_set_find(s, BACKUP_SETTINGS) ? " settings," : " no settings,",
            backup_set_find(s, BACKUP_LEDGER) ? " ledger," : " no ledger,",
            backup_set_find(s, BACKUP_SUSPENDED) ? " suspended," : "");
    if (c.present)
        fprintf(stderr, " counters (%" PRIu64 " requests),", c.usage.value[TB_USAGE_REQUESTS]);
    fprintf(stderr, " audit head %" PRIu64, backup_audit_seq(s));
    if (opt->credentials)
        fprintf(stderr, ", %zu files of credentials, encrypted\n", credentials);
    else
        fprintf(stderr, "; no certificate, key or drop-in: see --credentials\n");
}

int backup_save(const struct backup_options *opt, const struct backup_places *p)
{
    _cleanup_backup_set_ struct backup_set *s = NULL;
    struct tb_outcome o = {0};
    size_t credentials = 0;
    bool damaged;
    int r = strcmp(opt->file, "-") == 0 ? 0 : save_check_target(opt->file, &o);

    if (r == 0 && strcmp(opt->file, "-") == 0 && isatty(STDOUT_FILENO))
        r = tb_outcome_set(&o, TB_EXIT_USAGE, "a backup is not for a terminal; name a file");
    if (r == 0)
        r = backup_collect(p, false, &s, &damaged, &o);
    if (r == 0 && s->n == 0)
        r = tb_outcome_set(&o, TB_EXIT_NOINPUT,
                           "nothing to save: neither settings in %s nor state of TrustBridge in %s", p->etc,
                           p->state);
    if (r == 0 && opt->credentials)
        r = save_add_credentials(opt, p, s, &credentials, &o);
    if (r == 0)
        r = backup_save_set(s, opt->file, &o);
    if (r != 0)
        tb_error("%s", o.reason);
    else
        save_say(opt, s, credentials);
    return r;
}
