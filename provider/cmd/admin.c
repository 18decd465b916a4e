/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cmd/admin.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/id.h"
#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/units.h"
#include "common/version.h"
#include "common/near.h"

/* -- options ----------------------------------------------------------------------------------- */

int admin_option_time(const struct tb_option *o, void *us, char *value, char err[static TB_OPTION_ERR_MAX])
{
    _cleanup_free_ char *midnight = strlen(value) == 10 ? tb_strf("%sT00:00:00Z", value) : NULL;

    return tb_rfc3339_parse(midnight ? midnight : value, us);
}

int admin_option_from_now(const struct tb_option *o, void *us, char *value,
                          char err[static TB_OPTION_ERR_MAX])
{
    uint64_t duration;
    int r = tb_duration_parse(value, &duration);

    if (r == 0 && duration == 0)
        r = -EINVAL;
    if (r == 0)
        *(uint64_t *)us = tb_now_realtime_us() + duration;
    return r;
}

int admin_option_max(const struct tb_option *o, void *n, char *value, char err[static TB_OPTION_ERR_MAX])
{
    *(uint64_t *)n = 0;
    return strcmp(value, "any") == 0 ? 0 : tb_uint_parse(value, 1, 1000000, n);
}

bool admin_word_is_of(const char *words, const char *word)
{
    for (size_t n; *words; words += n) {
        n = strcspn(words, ", ");
        if (strlen(word) == n && strncmp(word, words, n) == 0 && strcmp(word, "or") != 0)
            return true;
        n += strspn(words + n, ", ");
    }
    return false;
}

int admin_option_word(const struct tb_option *o, void *word, char *value, char err[static TB_OPTION_ERR_MAX])
{
    *(const char **)word = value;
    return admin_word_is_of(o->want, value) ? 0 : -EINVAL;
}

int admin_check_id(const struct admin_job *j, const char *what, const char *id)
{
    if (tb_id_valid(id))
        return CLI_OK;
    return cli_usage(&j->cli, "%s: 1 to 100 letters, digits, '_' and '-', not '%s'", what, id);
}

/* "my-model@2" or "my-model". any: "*" is right, too. */
static int admin_take_asset(struct admin_job *j, const char *what, const char *reference, bool any)
{
    size_t n = strcspn(reference, "@");

    snprintf(j->asset, sizeof(j->asset), "%.*s", (int)MIN(n, sizeof(j->asset) - 1), reference);
    if (any && strcmp(reference, "*") == 0)
        return CLI_OK;
    if (!tb_asset_id_valid(j->asset) || n >= sizeof(j->asset))
        return cli_usage(&j->cli,
                         "%s: an asset id is 1 to 100 letters, digits, '_', '-' and single '.' inside, "
                         "'@N' behind it a version; not '%s'",
                         what, reference);
    if (reference[n] == '@' && tb_uint_parse(reference + n + 1, 1, TB_JSON_INT_MAX, &j->version) < 0)
        return cli_usage(&j->cli, "%s: behind '@' stands the number of a version, as in my-model@2, not '%s'",
                         what, reference);
    return CLI_OK;
}

/* -- running ----------------------------------------------------------------------------------- */

static int admin_take_words(struct admin_job *j, const struct admin_command *command, int argc, char **argv)
{
    const char *operand = command->operand;

    if (operand && optind >= argc)
        return cli_need(&j->cli, false, operand);
    if (operand)
        j->operand = argv[optind++];
    if (optind < argc)
        return cli_usage(&j->cli, "unexpected argument '%s'", argv[optind]);
    if (j->contract && admin_check_id(j, "--contract", j->contract) != CLI_OK)
        return CLI_USAGE;
    if (j->asset_option && admin_take_asset(j, "--asset", j->asset_option, true) != CLI_OK)
        return CLI_USAGE;
    if (!operand || command->any_operand)
        return CLI_OK;
    return strcmp(operand, "ASSET") == 0 ? admin_take_asset(j, operand, j->operand, false)
                                         : admin_check_id(j, operand, j->operand);
}

static void admin_job_clear(struct admin_job *j)
{
    remote_clear(&j->remote);
    tb_option_list_clear(&j->scopes);
    tb_option_list_clear(&j->aks);
    tb_option_list_clear(&j->id_keys);
    tb_option_list_clear(&j->images);
}

int admin_run(const struct admin_command *command, int argc, char **argv)
{
    _cleanup_(admin_job_clear) struct admin_job j = {.cli = {.command = &command->c}};
    int rc;

    tb_secret_init();
    j.remote.cli = &j.cli;
    if (cli_parse(&j.cli, &j, argc, argv, CLI_ANY_WORDS, NULL, NULL) != CLI_OK)
        return j.cli.rc;
    rc = admin_take_words(&j, command, argc, argv);
    if (command->check && (!command->operand || j.operand))
        rc = cli_worse(rc, command->check(&j));
    if (!command->local)
        rc = cli_worse(rc, remote_check(&j.remote));
    if (rc == CLI_OK && !command->local)
        rc = remote_open(&j.remote, !command->no_token);
    return rc == CLI_OK ? command->work(&j) : rc;
}

/* -- groups ------------------------------------------------------------------------------------ */

/* "add", of "contract add" */
static const char *admin_verb(const struct admin_command *c)
{
    return strchr(c->c.name, ' ') + 1;
}

static void admin_group_help(const struct admin_group *g, FILE *f)
{
    fprintf(f, "Usage: tbpkg %s COMMAND [OPTION]...\n%s\nCommands:\n", g->name, g->about);
    for (size_t i = 0; i < g->n; i++)
        fprintf(f, "  %-10s%s\n", admin_verb(&g->commands[i]), g->commands[i].c.summary);
    fprintf(f, "\nEach has options of its own: see tbpkg %s COMMAND --help, or tbpkg(1).\n", g->name);
}

static int admin_group_unknown(const struct admin_group *g, const char *word)
{
    _cleanup_free_ char *line = NULL;
    const char *near = NULL;

    for (size_t i = 0; i < g->n && !near; i++)
        if (tb_near(word, admin_verb(&g->commands[i])))
            near = admin_verb(&g->commands[i]);
    line = near ? tb_strf("no such command: '%s'; did you mean '%s'?", word, near)
                : tb_strf("no such command: '%s'", word);
    fprintf(stderr, "tbpkg %s: ", g->name);
    cli_print_line("", line ? line : (char[]){"out of memory"});
    fprintf(stderr, "Try 'tbpkg %s --help'.\n", g->name);
    return CLI_USAGE;
}

int admin_run_group(const struct admin_group *g, int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : NULL;

    if (!word) {
        admin_group_help(g, stderr);
        return CLI_USAGE;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        admin_group_help(g, stdout);
        return CLI_OK;
    }
    if (strcmp(word, "--version") == 0) {
        puts("tbpkg " TB_VERSION);
        return CLI_OK;
    }
    for (size_t i = 0; i < g->n; i++)
        if (strcmp(word, admin_verb(&g->commands[i])) == 0)
            return admin_run(&g->commands[i], argc - 1, argv + 1);
    return g->otherwise ? admin_run(g->otherwise, argc, argv) : admin_group_unknown(g, word);
}

/* -- documents --------------------------------------------------------------------------------- */

void admin_add_time(cJSON *o, const char *name, uint64_t us)
{
    char text[TB_RFC3339_MAX];

    if (us)
        cJSON_AddStringToObject(o, name, tb_rfc3339_format(us, 0, text));
}

const char *admin_text(const cJSON *row, const char *member)
{
    const char *s = cJSON_GetStringValue(tb_json_member(row, member));

    return s ? s : "";
}

uint64_t admin_number(const cJSON *row, const char *member)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    (void)tb_json_get_uint(row, member, TB_JSON_INT_MAX, &v, err);
    return v;
}

const char *admin_machines(uint64_t n, char out[static 40])
{
    if (n == 1)
        return "one machine";
    snprintf(out, 40, "%" PRIu64 " machines", n);
    return out;
}

int admin_list(const struct admin_job *j, const char *path, const char *member,
               const struct table_column *columns, size_t n)
{
    _cleanup_json_ cJSON *doc = NULL;
    int rc = remote_list(&j->remote, path, member, &doc);

    return rc == CLI_OK ? admin_print_list(j, doc, member, columns, n) : rc;
}

int admin_print_list(const struct admin_job *j, const cJSON *doc, const char *member,
                     const struct table_column *columns, size_t n)
{
    return j->cli.json ? cli_print_json(doc) : table_print(tb_json_member(doc, member), columns, n);
}

int admin_print_object(const struct admin_job *j, const cJSON *doc, const struct table_column *columns,
                       size_t n)
{
    return j->cli.json ? cli_print_json(doc) : table_print_object(doc, columns, n);
}

int admin_print_done(const struct admin_job *j, const cJSON *doc, const char *fmt, ...)
{
    char line[2048];
    va_list ap;

    if (j->cli.json)
        return cli_print_json(doc);
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    tbpkg_note(j->cli.quiet, "%s", line);
    return CLI_OK;
}

/* It is printed to the byte: nothing that a terminal would act on. */
static bool admin_secret_valid(const char *s)
{
    for (const char *p = s; *p; p++)
        if (*p <= ' ' || *p >= 0x7f)
            return false;
    return *s;
}

int admin_print_secret(const struct admin_job *j, const cJSON *doc, const char *secret, const char *fmt, ...)
{
    char line[512];
    va_list ap;

    if (j->cli.json)
        return cli_print_json(doc);
    if (!admin_secret_valid(secret))
        return tbpkg_failf(j->remote.base,
                           "did as it was told, but answered without a token or code that can be printed; is "
                           "--edc-endpoint a control plane?");
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    tbpkg_note(j->cli.quiet, "%s", line);
    puts(secret);
    return cli_flush_stdout();
}
