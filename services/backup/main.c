/* SPDX-License-Identifier: Apache-2.0 */
/* tb-backup and tb-restore: by the name that it is called by. See tb-backup(8). */
#include <string.h>
#include <sys/stat.h>

#include "backup/backup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/option.h"
#include "common/secret.h"
#include "common/version.h"

#define PASSPHRASE_MAX 1024
#define PASSPHRASE_MIN 8

static const char save_help[] = "Usage: tb-backup [OPTION...] FILE\n"
                                "Saves the settings and the state of TrustBridge on this machine, while it "
                                "serves: usage ledger and counters,\n"
                                "accounts of API keys, head of the audit chain, suspension. FILE appears "
                                "whole or not at all, with mode 0600;\n"
                                "- is standard output.\n\n";
static const char restore_help[] = "Usage: tb-restore [OPTION...] FILE\n"
                                   "       tb-restore --check FILE\n"
                                   "       tb-restore --finish\n"
                                   "Puts a backup of tb-backup in place of what is here. TrustBridge must be "
                                   "stopped. Nothing is changed when FILE\n"
                                   "is damaged, or when what is here is newer. - is standard input.\n\n";
static const char exit_help[] =
    "\nExit status: 0 done; 64 usage; 66 no such file, or nothing to save; 74 I/O; 75 "
    "TrustBridge is running;\n76 damaged, or no backup; 77 refused: newer here, wrong "
    "key, not root. See tb-backup(8).\n";

static int options_set_only(const struct tb_option *o, void *var, char *value,
                            char err[static TB_OPTION_ERR_MAX])
{
    static const struct {
        const char *name;
        unsigned bit;
    } parts[] = {{"settings", BACKUP_ONLY_SETTINGS},
                 {"state", BACKUP_ONLY_STATE},
                 {"credentials", BACKUP_ONLY_CREDENTIALS}};

    for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
        if (strcmp(parts[i].name, value) == 0) {
            *(unsigned *)var |= parts[i].bit;
            return 0;
        }
    return -EINVAL;
}

#define TB_OPTION_TARGET struct backup_options
#define PASSPHRASE_ROW(help_text)                                                                            \
    TB_OPTION(0, "passphrase-file", "FILE", TB_OPTION_STRING, passphrase_file, help_text)
#define ROOT_ROW                                                                                             \
    TB_OPTION(0, "root", "DIR", TB_OPTION_DIR_NAME, root, "the machine whose files are below DIR")
#define COMMON_ROWS                                                                                          \
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),                                    \
        TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"), TB_OPTION_END
static const struct tb_option save_options[] = {
    TB_OPTION(0, "credentials", NULL, TB_OPTION_FLAG, credentials,
              "also, encrypted: /etc/credstore/trustbridge.*, other files of /etc/trustbridge, drop-ins of "
              "the units"),
    TB_OPTION(0, "recipient", "CERT", TB_OPTION_STRING, key.certificate,
              "encrypt them for the owner of this certificate's key (PEM)"),
    PASSPHRASE_ROW("or with the passphrase that is the first line of FILE"),
    TB_OPTION('q', "quiet", NULL, TB_OPTION_FLAG, quiet, "do not say what was saved"),
    ROOT_ROW,
    COMMON_ROWS,
};
static const struct tb_option restore_options[] = {
    TB_OPTION(0, "check", NULL, TB_OPTION_FLAG, check, "only check FILE, and say what is in it"),
    TB_OPTION(0, "force", NULL, TB_OPTION_FLAG, force,
              "even if what is here is newer; it is kept in /var/lib/tb-restore"),
    TB_OPTION(0, "keep-counters", NULL, TB_OPTION_FLAG, keep_counters,
              "the ledger here is lost: restore it, and let it go on with the counters here"),
    TB_OPTION(0, "only", "PART", TB_OPTION_CALL, only,
              "settings, state or credentials; may be repeated. Without it, all", .set = options_set_only,
              .want = "settings, state or credentials"),
    TB_OPTION(0, "identity", "KEY", TB_OPTION_STRING, key.key,
              "private key (PEM) that opens the credentials"),
    PASSPHRASE_ROW("or the passphrase: the first line of FILE"),
    TB_OPTION(0, "finish", NULL, TB_OPTION_FLAG, finish,
              "complete a restore that was interrupted, if there is one"),
    ROOT_ROW,
    COMMON_ROWS,
};

static int main_usage(const char *program, const char *what)
{
    tb_error("%s; see %s --help", what, program);
    return TB_EXIT_USAGE;
}

static int main_read_passphrase(const char *path, char **ret)
{
    size_t n;
    int r = tb_read_file(path, PASSPHRASE_MAX, ret, &n);

    if (r < 0) {
        tb_error("%s: %s", path, strerror(-r));
        return r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR;
    }
    (*ret)[strcspn(*ret, "\r\n")] = '\0';
    if (strlen(*ret) >= PASSPHRASE_MIN)
        return 0;
    tb_error("%s: its first line is no passphrase of at least %d characters", path, PASSPHRASE_MIN);
    return TB_EXIT_USAGE;
}

static const char *main_check(const struct backup_options *o, bool restore)
{
    bool key = o->key.certificate || o->key.key;

    if (o->finish)
        return o->check || o->force || o->keep_counters || o->only ? "--finish goes with no other option"
                                                                   : NULL;
    if (key && o->passphrase_file)
        return "a key or a passphrase, one of them";
    if (restore)
        return o->check && (o->force || o->keep_counters) ? "--check changes nothing" : NULL;
    if (o->credentials && !key && !o->passphrase_file)
        return "credentials are saved encrypted only: give --recipient or --passphrase-file";
    return !o->credentials && (key || o->passphrase_file) ? "only --credentials are encrypted" : NULL;
}

static void main_print_help(bool restore)
{
    fputs(restore ? restore_help : save_help, stdout);
    tb_options_help(restore ? restore_options : save_options, stdout, NULL);
    fputs(exit_help, stdout);
}

static int main_run(const char *program, struct backup_options *o, bool restore)
{
    _cleanup_backup_places_ struct backup_places p = {0};
    _cleanup_erase_string_ char *passphrase = NULL;
    int r = o->passphrase_file ? main_read_passphrase(o->passphrase_file, &passphrase) : 0;

    o->key.passphrase = passphrase;
    if (r == 0 && backup_places_init(&p, o->root) < 0)
        r = TB_EXIT_IOERR;
    if (r != 0)
        return r;
    return restore ? backup_restore(o, &p) : backup_save(o, &p);
}

int main(int argc, char **argv)
{
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    bool restore = strcmp(name, "tb-restore") == 0;
    const char *program = restore ? "tb-restore" : "tb-backup", *wrong;
    struct tb_options line = {.rows = restore ? restore_options : save_options};
    struct backup_options o = {0};

    tb_secret_init();
    umask(0022);
    tb_log_init(program);
    if (tb_options_parse(&line, &o, argc, argv) < 0)
        return main_usage(program, line.error);
    if (o.help)
        main_print_help(restore);
    if (o.version)
        printf("%s %s\n", program, TB_VERSION);
    if (o.help || o.version)
        return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
    wrong = main_check(&o, restore);
    if (wrong)
        return main_usage(program, wrong);
    if (optind != argc - (o.finish ? 0 : 1))
        return main_usage(program, o.finish ? "--finish takes no file" : "give one file");
    o.file = o.finish ? NULL : argv[optind];
    return main_run(program, &o, restore);
}
