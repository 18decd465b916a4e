/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/cmd/cmd.h"

#include <ctype.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define CP_ENV_FILE "/etc/trustbridge/controlplane.env"
#define CP_ENV_MAX (64 * 1024)
#define CP_DATA_OF_SERVICE "/var/lib/tb-controlplane"

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_no_options[] = {CP_COMMON_ROWS};
const struct tb_option cp_json_options[] = {CP_JSON_ROW, CP_COMMON_ROWS};

void cp_options_clear(struct cp_options *o)
{
    tb_option_list_clear(&o->names);
    tb_option_list_clear(&o->storage_accounts);
    tb_option_list_clear(&o->storage_key_files);
    tb_option_list_clear(&o->storage_endpoints);
    tb_option_list_clear(&o->keks_old);
    tb_option_list_clear(&o->scopes);
    tb_option_list_clear(&o->aks);
    tb_option_list_clear(&o->id_keys);
    tb_option_list_clear(&o->images);
    tb_option_list_clear(&o->oidc_scopes);
}

int cp_option_time(const struct tb_option *o, void *us, char *value, char err[static TB_OPTION_ERR_MAX])
{
    return tb_rfc3339_parse(value, us);
}

int cp_option_from_now(const struct tb_option *o, void *us, char *value, char err[static TB_OPTION_ERR_MAX])
{
    uint64_t duration;
    int r = tb_duration_parse(value, &duration);

    if (r == 0)
        *(uint64_t *)us = tb_now_realtime_us() + duration;
    return r;
}

static void cp_print_words(FILE *f, const struct cp_command *c)
{
    fprintf(f, CP_PROGRAM " %s%s%s", c->noun, c->verb ? " " : "", c->verb ? c->verb : "");
}

static void cp_print_command_help(const struct cp_command *c)
{
    printf("Usage: ");
    cp_print_words(stdout, c);
    printf(" --data DIR%s%s [OPTION...]\n\n%c%s.%s%s\n\nOptions:\n", c->operand ? " " : "",
           c->operand ? c->operand : "", toupper((unsigned char)c->summary[0]), c->summary + 1,
           c->details ? "\n\n" : "", c->details ? c->details : "");
    tb_options_help(c->options, stdout, NULL);
}

int cp_fail(const struct cp_options *o, int code, const char *fmt, ...)
{
    va_list ap;

    cp_print_words(stderr, o->command);
    fputs(": ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return code;
}

int cp_fail_store(const struct cp_options *o, const struct cp_store *s, int r)
{
    if (r == -EBUSY)
        return cp_fail(o, TB_EXIT_TEMPFAIL, "the database is held by another process; try again");
    if (r == -ENOTCONN)
        return cp_fail(o, TB_EXIT_TEMPFAIL, "the database does not answer: %s", cp_store_error(s));
    return cp_fail(o, TB_EXIT_IOERR, "error of the database: %s", cp_store_error(s));
}

int cp_place(const struct cp_options *o, struct cp_place *ret)
{
    char err[CP_ERR_MAX];
    int r = cp_data_place(o->data, o->database, ret, err);

    return r < 0 ? cp_fail(o, TB_EXIT_IOERR, "%s", err) : 0;
}

int cp_open(const struct cp_options *o, struct cp_store **ret)
{
    char err[CP_ERR_MAX];
    struct cp_place p;
    int r = cp_place(o, &p);

    if (r != 0)
        return r;
    r = cp_data_open_store(&p, ret, err);
    if (r == -EINVAL)
        return cp_fail(o, TB_EXIT_USAGE, "--database: %s", err);
    return r < 0 ? cp_fail(o, r == -EBUSY || r == -ENOTCONN ? TB_EXIT_TEMPFAIL : TB_EXIT_IOERR, "%s", err)
                 : 0;
}

const char *cp_actor(char out[static 64])
{
    const struct passwd *pw = getpwuid(getuid());

    if (pw && tb_id_valid(pw->pw_name))
        snprintf(out, 64, "cli:%.50s", pw->pw_name);
    else
        snprintf(out, 64, "cli:uid-%u", (unsigned)getuid());
    return out;
}

/* One line of the file, in systemd's words as far as ours need them: NAME=VALUE, quotes around a value. */
static void cp_environment_line(char *line)
{
    char *name = line + strspn(line, " \t"), *value = strchr(name, '='), *end;

    if (strncmp(name, "TBCP_", 5) != 0 || !value)
        return;
    *value++ = '\0';
    value += strspn(value, " \t");
    for (end = value + strlen(value); end > value && strchr(" \t\r", end[-1]); end--)
        end[-1] = '\0';
    if (end - value >= 2 && (*value == '"' || *value == '\'') && end[-1] == *value) {
        end[-1] = '\0';
        value++;
    }
    (void)setenv(name, value, 0);
}

/* The settings of the service, for commands by hand. -1 to go on, else an exit code. */
static int cp_environment_read(const struct cp_options *o)
{
    const char *path = getenv("TBCP_ENV_FILE");
    _cleanup_erase_string_ char *text = NULL;
    char *rest, *line;
    int r;

    path = path && *path ? path : CP_ENV_FILE;
    r = tb_read_file(path, CP_ENV_MAX, &text, NULL);
    if (r == -ENOENT)
        return -1;
    if (r < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot read %s: %s; run it as root, or give --data DIR", path,
                       strerror(-r));
    (void)setenv("TBCP_DATA", CP_DATA_OF_SERVICE, 0);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        cp_environment_line(line);
    return -1;
}

/* What root makes in a directory of the service, the service could not write any more. */
static int cp_become_owner(const struct cp_options *o)
{
    struct stat st;

    if (geteuid() != 0 || stat(o->data, &st) < 0 || st.st_uid == 0)
        return -1;
    if (setgroups(0, NULL) < 0 || setgid(st.st_gid) < 0 || setuid(st.st_uid) < 0)
        return cp_fail(o, TB_EXIT_CONFIG, "cannot become the owner of %s: %s", o->data, strerror(errno));
    return -1;
}

/* What the command line did not say, the environment may: /etc/trustbridge/controlplane.env. */
static int cp_options_environment(struct tb_options *table, struct cp_options *o)
{
    int r = 0;

    for (size_t i = 0; r == 0 && !tb_option_is_end(&table->rows[i]); i++) {
        const struct tb_option *row = &table->rows[i];
        char *value = row->setting && !table->given[i] ? getenv(row->setting) : NULL, *rest = NULL;

        if (!value || !*value)
            continue;
        if (row->kind == TB_OPTION_LIST) /* a word each */
            for (char *w = strtok_r(value, " ", &rest); r == 0 && w; w = strtok_r(NULL, " ", &rest))
                r = tb_options_set(table, o, i, row->setting, w);
        else if (row->kind != TB_OPTION_FLAG)
            r = tb_options_set(table, o, i, row->setting, value);
        else if (strcmp(value, "true") == 0)
            r = tb_options_set(table, o, i, row->setting, value);
        else if (strcmp(value, "false") != 0)
            r = cp_fail(o, -EINVAL, "%s: true or false, not '%s'", row->setting, value);
    }
    return r;
}

static int cp_check_operands(struct cp_options *o, int argc, char **argv)
{
    const struct cp_command *c = o->command;

    if (!o->data || !*o->data)
        return cp_fail(o, TB_EXIT_USAGE, "--data DIR is missing");
    if (c->operand && optind < argc)
        o->operand = argv[optind++];
    if (c->operand && !o->operand)
        return cp_fail(o, TB_EXIT_USAGE, "%s is missing", c->operand);
    if (optind < argc)
        return cp_fail(o, TB_EXIT_USAGE, "unexpected argument '%s'; see --help", argv[optind]);
    if (!c->operand)
        return -1;
    if (strcmp(c->operand, "ASSET") == 0 && !tb_asset_id_valid(o->operand))
        return cp_fail(o, TB_EXIT_USAGE,
                       "ASSET \"%s\" does not match what an asset may be called: " TB_ASSET_ID_WORDS,
                       o->operand);
    if (strcmp(c->operand, "ASSET") != 0 && !tb_id_valid(o->operand))
        return cp_fail(o, TB_EXIT_USAGE, "%s \"%s\" does not match ^[A-Za-z0-9_-]{1,100}$", c->operand,
                       o->operand);
    return -1;
}

int cp_options_parse(const struct cp_command *c, int argc, char **argv, struct cp_options *ret)
{
    _cleanup_cp_options_ struct cp_options o = {.command = c};
    struct tb_options table = {.rows = c->options};
    int r;

    if (tb_options_parse(&table, &o, argc, argv) < 0)
        return cp_fail(&o, TB_EXIT_USAGE, "%s; see --help", table.error);
    if (!o.help && !o.data && !getenv("TBCP_DATA")) {
        r = cp_environment_read(&o);
        if (r >= 0)
            return r;
    }
    if (!o.help && cp_options_environment(&table, &o) < 0)
        return *table.error ? cp_fail(&o, TB_EXIT_USAGE, "%s", table.error) : TB_EXIT_USAGE;
    if (o.help) {
        cp_print_command_help(c);
        return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
    }
    r = cp_check_operands(&o, argc, argv);
    if (r < 0)
        r = cp_become_owner(&o);
    if (r < 0) {
        *ret = o;
        o = (struct cp_options){0};
    }
    return r;
}
