/* SPDX-License-Identifier: Apache-2.0 */
/* tb-configure: checks trustbridge.env and brings it into force. See tb-configure(8). */
#include <limits.h>
#include <string.h>
#include <syslog.h>

#include "common/exit.h"
#include "common/io.h"
#include "common/option.h"
#include "common/version.h"
#include "configure/configure.h"

static const char help_before[] = "Usage: tb-configure --check [--json] [FILE]\n"
                                  "       tb-configure --run PROGRAM [FILE]\n"
                                  "Check the settings in FILE (" TB_CONFIG_FILE ") with all that they name,\n"
                                  "as the programs and systemd would, and change nothing.\n"
                                  "\n"
                                  "To bring them into force: systemctl restart tb-configure.service\n";
static const char help_after[] =
    "Exit status: 0 in order, warnings or not; 64 usage; 66 there is no such file; 74 cannot read it;\n"
    "78 errors. See tb-configure(8).\n";

struct configure_options {
    bool check, json, help, version, accept, apply, generate;
    const char *run, *run_dir;
};

#define TB_OPTION_TARGET struct configure_options
static const struct tb_option options[] = {
    TB_OPTION('c', "check", NULL, TB_OPTION_FLAG, check, "say everything that is wrong, and what to do"),
    TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, json, "print one JSON object"),
    TB_OPTION(0, "run", "PROGRAM", TB_OPTION_STRING, run,
              "run a program of TrustBridge by hand with these settings"),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"),
    /* for the units and the generator */
    TB_OPTION(0, "run-dir", "DIR", TB_OPTION_DIR_NAME, run_dir, NULL),
    TB_OPTION(0, "accept", NULL, TB_OPTION_FLAG, accept, NULL),
    TB_OPTION(0, "apply", NULL, TB_OPTION_FLAG, apply, NULL),
    TB_OPTION(0, "generate", NULL, TB_OPTION_FLAG, generate, NULL),
    TB_OPTION_END,
};

static int configure_usage(const char *what)
{
    fprintf(stderr, "tb-configure: %s; see tb-configure --help\n", what);
    return TB_EXIT_USAGE;
}

/* The daemons are beside this program, wherever a link to it may be. */
static char *configure_programs(void)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    char *slash;

    if (n < 0) {
        configure_say(LOG_ERR,
                      "cannot read /proc/self/exe, which says where the programs are: %s; mount /proc",
                      strerror(errno));
        return NULL;
    }
    path[n] = '\0';
    slash = strrchr(path, '/');
    if (slash)
        *slash = '\0';
    return strdup(path);
}

static int configure_read(const char *file, struct tb_settings *ret)
{
    int r = tb_settings_read(file, ret);

    if (r == 0)
        return TB_EXIT_OK;
    if (r == -ENOENT)
        configure_say(LOG_ERR, "%s does not exist; give the file to check", file);
    else if (r == -EFBIG)
        configure_say(LOG_ERR, "%s is larger than %d KiB, which no settings are", file,
                      TB_ENVFILE_MAX / 1024);
    else
        configure_say(LOG_ERR, "cannot read %s: %s%s", file, strerror(-r),
                      r == -EACCES ? "; run this as root" : "");
    return r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR;
}

static int configure_check(const char *file, const struct tb_check *how, bool json)
{
    _cleanup_settings_ struct tb_settings s = {0};
    _cleanup_findings_ struct tb_findings f = {0};
    int r = configure_read(file, &s);

    if (r != TB_EXIT_OK)
        return r;
    tb_settings_check(&s, how, &f);
    if (json) {
        tb_findings_print_json(&f, &s, stdout);
    } else {
        tb_findings_print(&f, file, false, stdout);
        if (f.errors + f.warnings == 0)
            printf("%s: the settings are in order\n", file);
        else
            printf("%s: %u error%s, %u warning%s\n", file, f.errors, f.errors == 1 ? "" : "s", f.warnings,
                   f.warnings == 1 ? "" : "s");
    }
    if (fflush(stdout) != 0)
        return TB_EXIT_IOERR;
    return f.errors > 0 ? TB_EXIT_CONFIG : TB_EXIT_OK;
}

static int configure_run(const char *program, const char *file, const char *programs)
{
    _cleanup_free_ char *path = strchr(program, '/') ? strdup(program) : tb_path_join(programs, program);
    _cleanup_settings_ struct tb_settings s = {0};
    int r = configure_read(file, &s);

    if (r != TB_EXIT_OK)
        return r;
    for (size_t i = 0; i < s.file.n; i++)
        if (tb_envfile_find(&s.file, s.file.v[i].name) == &s.file.v[i] &&
            setenv(s.file.v[i].name, s.file.v[i].value, 1) < 0)
            return TB_EXIT_IOERR;
    if (path)
        execl(path, program, (char *)NULL);
    configure_say(LOG_ERR, "cannot run %s: %s", path ? path : program, strerror(errno));
    return TB_EXIT_NOINPUT;
}

/* The modes of the units: FILE, and the directory of the drop-ins. */
static int configure_internal(const struct configure_options *o, const struct tb_check *how, char **words,
                              int n)
{
    if (o->accept)
        return n == 1 ? configure_accept(words[0], how) : configure_usage("--accept FILE");
    if (o->apply)
        return n == 2 ? configure_apply(words[0], words[1], how->run_dir)
                      : configure_usage("--apply FILE DIR");
    return n >= 2 ? configure_generate(words[0], how->run_dir, words[1])
                  : configure_usage("--generate FILE NORMAL-DIR [EARLY-DIR LATE-DIR]");
}

int main(int argc, char **argv)
{
    struct tb_options parsed = {.rows = options};
    struct configure_options o = {.run_dir = CONFIGURE_RUN_DIR};
    _cleanup_free_ char *programs = configure_programs();
    struct tb_check how = {.programs = programs};
    const char *file;

    if (!programs)
        return TB_EXIT_IOERR;
    if (tb_options_parse(&parsed, &o, argc, argv) < 0)
        return configure_usage(parsed.error);
    if (o.help) {
        fputs(help_before, stdout);
        tb_options_help(options, stdout, NULL);
        fputs(help_after, stdout);
        return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
    }
    if (o.version) {
        puts("tb-configure " TB_VERSION);
        return TB_EXIT_OK;
    }
    how.run_dir = o.run_dir;
    how.unconfigured = how.installed = o.accept;
    if (o.accept || o.apply || o.generate)
        return configure_internal(&o, &how, argv + optind, argc - optind);
    if (argc - optind > 1)
        return configure_usage("give one file");
    file = optind < argc ? argv[optind] : TB_CONFIG_FILE;
    how.installed = optind == argc;
    if (o.run)
        return configure_run(o.run, file, programs);
    return o.check ? configure_check(file, &how, o.json) : configure_usage("give --check");
}
