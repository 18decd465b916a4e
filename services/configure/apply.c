/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>

#include "common/exit.h"
#include "common/io.h"
#include "configure/configure.h"

#define APPLY_MODE 0640
#define APPLY_CHECK "tb-settings.service"
#define APPLY_RESTART "trustbridge-apply.target"

/* --- a file that is taken over -------------------------------------------------------------------------- */

static char *run_path(const char *run_dir, const char *name)
{
    return tb_path_join(run_dir, name);
}

static bool run_has(const char *run_dir, const char *name)
{
    _cleanup_free_ char *path = run_path(run_dir, name);

    return path && access(path, F_OK) == 0;
}

/* Is RUN/name this text, byte for byte? */
static bool run_is(const char *run_dir, const char *name, const struct tb_settings *s)
{
    _cleanup_free_ char *path = run_path(run_dir, name), *text = NULL;
    size_t len;

    return path && tb_read_file(path, TB_ENVFILE_MAX, &text, &len) == 0 && len == s->len &&
           memcmp(text, s->text, len) == 0;
}

static int run_write(const char *run_dir, const char *name, const void *text, size_t len)
{
    _cleanup_free_ char *path = run_path(run_dir, name);
    int r = path ? tb_write_file_atomic(path, text, len, APPLY_MODE) : -ENOMEM;

    if (r < 0)
        configure_say(LOG_ERR, "cannot write %s/%s: %s", run_dir, name, strerror(-r));
    return r;
}

static void run_remove(const char *run_dir, const char *name)
{
    _cleanup_free_ char *path = run_path(run_dir, name);

    if (path)
        (void)unlink(path);
}

/* The text of a file that is removed with this; heap, NULL: there is none. */
static char *run_take(const char *run_dir, const char *name)
{
    _cleanup_free_ char *path = run_path(run_dir, name);
    char *text = NULL;

    if (!path || tb_read_file(path, TB_ENVFILE_MAX, &text, NULL) < 0)
        return NULL;
    (void)unlink(path);
    return text;
}

/* A file that is not there is one without settings. */
static int settings_read_or_none(const char *path, struct tb_settings *ret)
{
    int r = tb_settings_read(path, ret);

    if (r == -ENOENT) {
        *ret = (struct tb_settings){.path = path, .text = strdup("")};
        r = ret->text ? 0 : -ENOMEM;
    }
    if (r == -EFBIG)
        configure_say(LOG_ERR, "%s is larger than %d KiB, which no settings are; write it again", path,
                      TB_ENVFILE_MAX / 1024);
    else if (r < 0)
        configure_say(LOG_ERR, "cannot read %s: %s", path, strerror(-r));
    return r;
}

static int accept_report(const struct tb_findings *f, const char *path, const char *run_dir, bool say)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    int r;

    if (!out)
        return -ENOMEM;
    tb_findings_print(f, path, true, out);
    fclose(out);
    if (!text)
        return -ENOMEM;
    r = run_write(run_dir, "report", text, len);
    if (say)
        configure_say_report(text);
    return r;
}

/* What runs at boot runs with what there is: each program then says what it cannot use. */
static int accept_refuse(const struct tb_settings *s, const struct tb_findings *f, const char *run_dir)
{
    (void)run_write(run_dir, "refused.env", s->text, s->len);
    if (!run_has(run_dir, "trustbridge.env"))
        (void)run_write(run_dir, "trustbridge.env", s->text, s->len);
    return TB_EXIT_CONFIG;
}

int configure_accept(const char *file, const struct tb_check *how)
{
    _cleanup_settings_ struct tb_settings s = {0};
    _cleanup_findings_ struct tb_findings f = {0};
    _cleanup_free_ char *asked = NULL;
    bool again, say;

    if (settings_read_or_none(file, &s) < 0)
        return TB_EXIT_IOERR;
    asked = run_take(how->run_dir, "asked");
    again = asked && *asked;
    /* Before the first time tb-configure.service is still to come, and will say it. */
    say = !asked && run_has(how->run_dir, "listeners.env");
    if (!again && run_is(how->run_dir, "trustbridge.env", &s))
        return TB_EXIT_OK;
    if (!again && run_is(how->run_dir, "refused.env", &s))
        return TB_EXIT_CONFIG; /* it was said */
    tb_settings_check(&s, how, &f);
    if (accept_report(&f, file, how->run_dir, say) < 0)
        return TB_EXIT_IOERR;
    if (f.errors > 0 && say)
        configure_say(LOG_ERR, "%s is not used; what was in it before stays in force", file);
    if (f.errors > 0)
        return accept_refuse(&s, &f, how->run_dir);
    run_remove(how->run_dir, "refused.env");
    return run_write(how->run_dir, "trustbridge.env", s.text, s.len) < 0 ? TB_EXIT_IOERR : TB_EXIT_OK;
}

/* --- tb-configure.service ------------------------------------------------------------------------------- */

/* Its exit status, -errno. */
static int apply_systemctl(const char *verb, const char *unit, bool wait)
{
    char *argv[6];
    int status, n = 0;
    pid_t pid;

    argv[n++] = (char *)"systemctl";
    argv[n++] = (char *)"--quiet"; /* what failed is said here */
    if (!wait)
        argv[n++] = (char *)"--no-block";
    argv[n++] = (char *)verb;
    if (unit)
        argv[n++] = (char *)unit;
    argv[n] = NULL;
    pid = fork();
    if (pid == 0) {
        execvp(argv[0], argv);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return -errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* The check runs in a unit of its own, which sees network and files and may do nothing: this one may do what
 * restarts a machine's services, and sees nothing. Returns whether there was no error. */
static bool apply_check(const char *run_dir, bool booting)
{
    _cleanup_free_ char *path = run_path(run_dir, "report"), *text = NULL;
    size_t len = 0;
    int r;

    if (run_write(run_dir, "asked", "again", booting ? 0 : strlen("again")) < 0)
        return false;
    if (!booting)
        run_remove(run_dir, "report");
    r = apply_systemctl("restart", APPLY_CHECK, true);
    if (path && tb_read_file(path, TB_ENVFILE_MAX, &text, &len) == 0)
        configure_say_report(text);
    else
        configure_say(
            LOG_ERR,
            "%s could not check the settings; see journalctl --namespace=trustbridge -u " APPLY_CHECK,
            APPLY_CHECK);
    return r == 0;
}

static int apply_contract(const struct tb_settings *s, const char *run_dir)
{
    if (tb_settings_get(s, "TB_CONTRACT_ID"))
        return run_write(run_dir, "contract", "", 0);
    run_remove(run_dir, "contract");
    configure_say(LOG_INFO, "no TB_CONTRACT_ID in trustbridge.env: nothing is started");
    return 0;
}

/* An unnecessary reload would cost a second or two at each boot. */
static int apply_dropins(const struct tb_settings *s, const char *kept)
{
    _cleanup_findings_ struct tb_findings ignored = {0}; /* the check has said it */
    _cleanup_dropins_ struct tb_dropins d = {0};
    int r = tb_dropins_make(s, &d, &ignored);

    if (r < 0)
        return r;
    if (tb_dropins_equal(&d, kept)) {
        configure_say(LOG_INFO, "systemd knows the settings");
        return 0;
    }
    configure_say(LOG_INFO, "the settings have changed: reloading systemd");
    r = apply_systemctl("daemon-reload", NULL, true);
    if (r != 0)
        configure_say(LOG_ERR, "systemctl daemon-reload failed; see journalctl -b -p err");
    return r == 0 ? 0 : -EIO;
}

int configure_apply(const char *file, const char *kept, const char *run_dir)
{
    _cleanup_free_ char *in_force = run_path(run_dir, "trustbridge.env");
    _cleanup_settings_ struct tb_settings s = {0};
    bool booting = !run_has(run_dir, "listeners.env"), good = apply_check(run_dir, booting);
    int r;

    if (!good && !booting) {
        configure_say(
            LOG_ERR,
            "%s is not applied: nothing was restarted, and what serves goes on with the settings before; "
            "correct it, then: systemctl restart tb-configure.service",
            file);
        return TB_EXIT_CONFIG;
    }
    if (!in_force || settings_read_or_none(in_force, &s) < 0)
        return TB_EXIT_IOERR;
    s.path = file; /* whose name is in the drop-ins */
    r = run_write(run_dir, "listeners.env", s.text, s.len);
    if (r == 0)
        r = apply_contract(&s, run_dir);
    if (r == 0)
        r = apply_dropins(&s, kept);
    /* Made from the units as they are now. They start behind this one. */
    if (r == 0 && apply_systemctl("restart", APPLY_RESTART, false) != 0) {
        configure_say(LOG_ERR, "systemctl restart " APPLY_RESTART " failed; see journalctl -b -p err");
        r = -EIO;
    }
    return r < 0 ? TB_EXIT_IOERR : good ? TB_EXIT_OK : TB_EXIT_CONFIG;
}

/* --- trustbridge-generator ------------------------------------------------------------------------------ */

/* Not in the journal yet: it may not run when systemd reads its units. */
static void generate_complain(const struct tb_findings *f, const char *file)
{
    _cleanup_fclose_ FILE *kmsg = fopen("/dev/kmsg", "we");

    for (size_t i = 0; i < f->n; i++) {
        fprintf(stderr, "trustbridge-generator: %s: %s: %s\n", file, f->v[i].name, f->v[i].text);
        if (kmsg) {
            fprintf(kmsg, "<3>trustbridge-generator: %s: %s: %s\n", file, f->v[i].name, f->v[i].text);
            fflush(kmsg);
        }
    }
}

/* What was applied, and not what somebody is writing now: to lose its drop-in closes a socket. */
int configure_generate(const char *file, const char *run_dir, const char *out)
{
    _cleanup_free_ char *applied = run_path(run_dir, "listeners.env");
    _cleanup_findings_ struct tb_findings f = {0};
    _cleanup_settings_ struct tb_settings s = {0};
    _cleanup_dropins_ struct tb_dropins d = {0};
    int r;

    if (settings_read_or_none(applied && access(applied, R_OK) == 0 ? applied : file, &s) < 0)
        return TB_EXIT_IOERR;
    s.path = file;
    umask(022);
    r = tb_dropins_make(&s, &d, &f);
    if (r == 0)
        r = tb_dropins_write(&d, out);
    generate_complain(&f, file);
    if (r < 0)
        configure_say(LOG_ERR, "cannot write to %s: %s", out, strerror(-r));
    return r < 0 ? TB_EXIT_IOERR : TB_EXIT_OK;
}
