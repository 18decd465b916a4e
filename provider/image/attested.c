/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/attested.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config.h"
#include "common/envfile.h"
#include "common/units.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/tool.h"
#include "common/secret.h"
#include "provider/image/approve.h"
#include "provider/image/debs.h"
#include "provider/image/image.h"
#include "provider/image/measure.h"
#include "provider/image/vhd.h"

#define RECIPE "build.sh"
#define UKI_MAX ((size_t)1 << 30)
#define CMDLINE_ADDED_MAX 512
#define APPROVAL_BYTES ((size_t)1 << 20)

void attested_clear(struct attested_build *a)
{
    tb_option_list_clear(&a->packages);
    tb_option_list_clear(&a->overlays);
    tb_option_list_clear(&a->scripts);
    tb_option_list_clear(&a->units);
    tb_freep(&a->default_output);
}

/* -- options ----------------------------------------------------------------------------------- */

static int attested_check_name(const struct image_build *b, const char *option, const char *name)
{
    if (!name)
        return cli_need(&b->cli, false, option);
    return measure_name_valid(name)
               ? CLI_OK
               : cli_usage(&b->cli, "%s \"%s\": must be " MEASURE_NAME_WORDS, option, name);
}

static bool word_is_plain(const char *s, const char *more)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

    for (const char *p = s; *p; p++)
        if (!strchr(letters, *p) && !strchr(more, *p))
            return false;
    return *s && *s != '-';
}

static int attested_check_words(const struct image_build *b)
{
    const struct attested_build *a = &b->attested;
    int rc = CLI_OK;

    for (size_t i = 0; i < a->packages.n; i++)
        if (!word_is_plain(a->packages.v[i], "+.-:="))
            rc = cli_usage(&b->cli, "--extra-package \"%s\": must be the name of a Debian package",
                           a->packages.v[i]);
    for (size_t i = 0; i < a->units.n; i++)
        if (!word_is_plain(a->units.v[i], "@:._\\-") || !strchr(a->units.v[i], '.'))
            rc = cli_usage(&b->cli, "--allow-unit \"%s\": must be the name of a unit, as in acme.service",
                           a->units.v[i]);
    for (const char *p = a->append_cmdline; p && *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"')
            return cli_usage(&b->cli, "--append-cmdline: must be printable ASCII without a quotation mark");
    if (a->append_cmdline && strlen(a->append_cmdline) > CMDLINE_ADDED_MAX)
        rc = cli_usage(&b->cli, "--append-cmdline: is longer than %d characters", CMDLINE_ADDED_MAX);
    return rc;
}

int image_attested_check(struct image_build *b)
{
    struct attested_build *a = &b->attested;
    int rc = attested_check_name(b, "--image", a->image);

    rc = cli_worse(rc, attested_check_name(b, "--image-version", a->version));
    rc = cli_worse(rc, cli_need(&b->cli, a->settings, "--settings"));
    if (!a->secure_boot_key != !a->secure_boot_cert)
        rc = cli_usage(&b->cli, "--secure-boot-key and --secure-boot-cert are given together");
    if (a->state_key && a->append_cmdline)
        rc = cli_usage(&b->cli, "--state-key and --append-cmdline exclude each other: who is let in by the "
                                "command line would have the state");
    if (a->output && !*a->output)
        rc = cli_usage(&b->cli, "--output-dir: must name a directory");
    if (rc == CLI_OK && !a->output)
        a->output = a->default_output = tb_strf("%s-%s", a->image, a->version);
    if (rc == CLI_OK && !a->output)
        return tbpkg_fail_errno("build", -ENOMEM);
    return cli_worse(rc, attested_check_words(b));
}

/* -- settings ---------------------------------------------------------------------------------- */

/* A contract comes with each deployment: for the check one stands in. */
static int settings_complete(const struct tb_envfile *e, const char *text, char **ret)
{
    *ret = tb_strf("%s\n%s%s", text, tb_envfile_find(e, "TB_CONTRACT_ID") ? "" : "TB_CONTRACT_ID=contract\n",
                   tb_envfile_find(e, "TB_ASSET_ID") ? "" : "TB_ASSET_ID=asset\n");
    return *ret ? 0 : -ENOMEM;
}

static void settings_judge(const struct tb_envfile *e, const struct tb_config *c, struct tb_findings *f)
{
    for (size_t i = 0; i < e->n; i++)
        (void)tb_config_check_name(e->v[i].name, e->v[i].line, TB_FINDING_ERROR, f);
    if (!c->runtime_exec)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_RUNTIME_EXEC",
                        "is not set, and nobody but the image may say what gets the weights; set it");
    if (c->insecure_http)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "TB_INSECURE_HTTP",
                        "is set, so that anybody in between could be the control plane; remove it");
}

static int settings_report(const char *file, const struct tb_findings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct tb_finding *x = &f->v[i];
        _cleanup_free_ char *at = x->line ? tb_strf("%s:%u", file, x->line) : strdup(file);

        if (x->level == TB_FINDING_ERROR)
            tbpkg_failf(at ? at : file, "%s%s%s", x->name, *x->name ? " " : "", x->text);
    }
    return f->errors > 0 ? CLI_FAILED : CLI_OK;
}

/* What a daemon of the image would refuse is known now, and not when a customer boots it. */
static int attested_check_settings(const struct image_build *b)
{
    const char *file = b->attested.settings;
    _cleanup_envfile_ struct tb_envfile e = {0}, whole = {0};
    _cleanup_findings_ struct tb_findings f = {0};
    _cleanup_config_ struct tb_config c = {0};
    _cleanup_free_ char *text = NULL, *complete = NULL;
    char **env = NULL;
    size_t len;
    int r = tb_read_file(file, TB_ENVFILE_MAX, &text, &len);

    if (r < 0)
        return tbpkg_fail_errno(file, r);
    r = tb_envfile_parse(text, len, &e);
    if (r == 0)
        r = settings_complete(&e, text, &complete);
    if (r == 0)
        r = tb_envfile_parse(complete, strlen(complete), &whole);
    if (r == 0 && !(env = tb_envfile_environ(&whole)))
        r = -ENOMEM;
    if (r < 0)
        return tbpkg_fail_errno(file, r);
    tb_envfile_check(&e, &f);
    tb_config_read(env, &c, &f);
    tb_envfile_free_environ(env);
    settings_judge(&e, &c, &f);
    return settings_report(file, &f);
}

/* -- what is needed ---------------------------------------------------------------------------- */

static int attested_check_file(const char *path, bool directory, const char *remedy)
{
    struct stat st;

    if (!path)
        return CLI_OK;
    if (stat(path, &st) < 0)
        return tbpkg_fail(path, strerror(errno), remedy);
    return S_ISDIR(st.st_mode) == directory
               ? CLI_OK
               : tbpkg_fail(path, directory ? "is no directory" : "is a directory", remedy);
}

static int attested_check_inputs(const struct image_build *b)
{
    const struct attested_build *a = &b->attested;
    int rc = attested_check_settings(b);

    for (size_t i = 0; i < a->overlays.n; i++)
        rc = cli_worse(rc, attested_check_file(a->overlays.v[i], true,
                                               "--overlay is a directory with files for the root"));
    for (size_t i = 0; i < a->scripts.n; i++)
        rc = cli_worse(
            rc, attested_check_file(a->scripts.v[i], false, "--run-script is a program for the image"));
    rc = cli_worse(rc, attested_check_file(a->secure_boot_key, false, "--secure-boot-key is a key (PEM)"));
    rc = cli_worse(
        rc, attested_check_file(a->secure_boot_cert, false, "--secure-boot-cert is a certificate (PEM)"));
    return cli_worse(rc, attested_check_file(a->state_key, false, "--state-key is an RSA key (PEM)"));
}

static int attested_check_machine(const struct image_build *b)
{
    if (geteuid() != 0)
        return tbpkg_fail("build",
                          "needs root: files of the image belong to its users, and tools run within it",
                          "run it as root, in a virtual machine or a container if you like");
    if (tool_find("mmdebstrap", "mmdebstrap") != CLI_OK || tool_find("unshare", "util-linux") != CLI_OK ||
        tool_find("dpkg-deb", "dpkg") != CLI_OK)
        return CLI_FAILED;
    if (access(b->attested.output, F_OK) == 0)
        return tbpkg_fail(b->attested.output, "exists", "remove it, or name another with --output-dir");
    return CLI_OK;
}

/* -- building ---------------------------------------------------------------------------------- */

struct attested_run {
    struct image_build *b;
    char *work; /* beside the output, so that a rename ends it; removed with all that is in it */
    char *made; /* what becomes the output */
    uint64_t epoch;
};

static void attested_run_clear(struct attested_run *a)
{
    tool_rmdir(&a->work);
    tb_freep(&a->made);
}

static int attested_make_work(struct attested_run *a)
{
    const char *output = a->b->attested.output, *slash = strrchr(output, '/');
    int at = slash ? (int)(slash - output) + 1 : 0;

    a->work = tb_strf("%.*s.%s.XXXXXX", at, output, output + at);
    if (!a->work)
        return tbpkg_fail_errno(output, -ENOMEM);
    if (!mkdtemp(a->work)) {
        int r = -errno;

        tb_freep(&a->work);
        return tbpkg_fail_errno(output, r);
    }
    /* Programs of other users run in the trees below it. */
    if (chmod(a->work, 0755) < 0)
        return tbpkg_fail_errno(a->work, -errno);
    a->made = tb_path_join(a->work, "out");
    return a->made ? CLI_OK : tbpkg_fail_errno(output, -ENOMEM);
}

static void recipe_add(struct tool *t, const char *option, const char *value)
{
    if (!value)
        return;
    tool_add(t, "%s", option);
    tool_add(t, "%s", value);
}

static void recipe_add_list(struct tool *t, const char *option, const struct tb_option_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        recipe_add(t, option, l->v[i]);
}

static int attested_run_recipe(const struct attested_run *a)
{
    const struct image_build *b = a->b;
    const struct attested_build *o = &b->attested;
    _cleanup_tool_ struct tool t = {.quiet = b->cli.quiet};

    tool_add(&t, "%s/" RECIPE, o->recipe);
    tool_add(&t, "make"); /* what a failure is of */
    recipe_add(&t, "--work", a->work);
    tool_add(&t, "--debs");
    tool_add(&t, "%s/debs", b->work);
    recipe_add(&t, "--settings", o->settings);
    recipe_add(&t, "--image", o->image);
    recipe_add(&t, "--image-version", o->version);
    recipe_add(&t, "--mirror", o->mirror);
    recipe_add(&t, "--cache", o->cache);
    recipe_add(&t, "--provider-key", b->provider_keys);
    recipe_add(&t, "--secure-boot-key", o->secure_boot_key);
    recipe_add(&t, "--secure-boot-cert", o->secure_boot_cert);
    recipe_add(&t, "--state-key", o->state_key);
    recipe_add(&t, "--append-cmdline", o->append_cmdline);
    recipe_add_list(&t, "--package", &o->packages);
    recipe_add_list(&t, "--overlay", &o->overlays);
    recipe_add_list(&t, "--script", &o->scripts);
    recipe_add_list(&t, "--unit", &o->units);
    return tool_run(&t, "tbpkg", NULL);
}

/* The moment that is written into all of it; and the list of software. */
static int attested_read(struct attested_run *a)
{
    _cleanup_free_ char *path = tb_path_join(a->made, "epoch"), *text = NULL,
                        *list = tb_path_join(a->made, "inventory");
    unsigned long long epoch;
    size_t len;
    int r = path && list ? tb_read_file(path, 64, &text, &len) : -ENOMEM;

    if (r == 0 && sscanf(text, "%11llu", &epoch) != 1)
        r = -EBADMSG;
    if (r == 0)
        r = tb_read_file(list, (size_t)16 << 20, &a->b->inventory, &len);
    if (r == 0 && (unlink(path) < 0 || unlink(list) < 0))
        r = -errno;
    if (r < 0)
        return tbpkg_fail_errno(path ? path : "build", r);
    a->epoch = epoch;
    /* The bill of materials is of that moment, too. */
    text[strcspn(text, "\n")] = '\0';
    (void)setenv("SOURCE_DATE_EPOCH", text, false);
    return CLI_OK;
}

static int attested_write_measurements(const struct attested_run *a, const struct measured *m)
{
    char created[TB_RFC3339_MAX];
    _cleanup_json_ cJSON *doc = measured_describe(m, a->b->attested.image, a->b->attested.version,
                                                  tb_rfc3339_format(a->epoch * TB_USEC_PER_SEC, 0, created));
    _cleanup_free_ char *path = tb_path_join(a->made, "measurements.json"),
                        *text = doc ? cJSON_Print(doc) : NULL, *line = text ? tb_strf("%s\n", text) : NULL;
    int r = path && line ? tb_write_file_atomic(path, line, strlen(line), 0644) : -ENOMEM;

    return r < 0 ? tbpkg_fail_errno("measurements.json", r) : CLI_OK;
}

/* disk.vhd is a copy of disk.raw as yet. */
static int attested_write_footer(const struct attested_run *a, const struct measured *m)
{
    _cleanup_free_ char *path = tb_path_join(a->made, "disk.vhd");
    _cleanup_close_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    uint8_t footer[VHD_FOOTER_BYTES];
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return tbpkg_fail_errno("disk.vhd", path ? -errno : -ENOMEM);
    if (st.st_size <= 0 || st.st_size % VHD_ALIGN != 0)
        return tbpkg_fail("disk.vhd", "is not of whole MiB, as Azure wants", NULL);
    vhd_footer((uint64_t)st.st_size, a->epoch, m->file, footer);
    r = tb_pwrite_full(fd, footer, sizeof(footer), (uint64_t)st.st_size);
    if (r == 0 && fsync(fd) < 0)
        r = -errno;
    return r < 0 ? tbpkg_fail_errno("disk.vhd", r) : CLI_OK;
}

/* -- the state of its machines ----------------------------------------------------------------- */

/* In its partition, the last MiB but one: the rest of that are zeros. */
static int attested_write_approval(const struct attested_run *a, const char *disk, const char *text)
{
    _cleanup_free_ char *path = tb_path_join(a->made, disk);
    _cleanup_close_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    struct stat st;
    int r = fd < 0 || fstat(fd, &st) < 0 ? (path ? -errno : -ENOMEM) : 0;

    if (r == 0 && (size_t)st.st_size < 2 * APPROVAL_BYTES)
        r = -EBADMSG;
    if (r == 0)
        r = tb_pwrite_full(fd, text, strlen(text), (uint64_t)st.st_size - 2 * APPROVAL_BYTES);
    return r < 0 ? tbpkg_fail_errno(disk, r) : CLI_OK;
}

static int attested_approve(const struct attested_run *a, const struct measured *m)
{
    const char *key = a->b->attested.state_key;
    _cleanup_free_ char *pem = NULL, *text = NULL, *path = tb_path_join(a->made, "approval.json");
    _cleanup_json_ cJSON *doc = NULL;
    char err[APPROVE_ERR_MAX];
    size_t len;
    int rc, r = tb_read_file(key, APPROVE_KEY_MAX, &pem, &len);

    if (r < 0)
        return tbpkg_fail_errno(key, r);
    r = approve_image(m, pem, len, &doc, err);
    tb_erase(pem, len);
    if (r < 0)
        return tbpkg_fail(key, err, NULL);
    text = cJSON_Print(doc);
    r = text && path ? tb_write_file_atomic(path, text, strlen(text), 0644) : -ENOMEM;
    if (r < 0)
        return tbpkg_fail_errno("approval.json", r);
    rc = attested_write_approval(a, "disk.raw", text);
    return rc == CLI_OK ? attested_write_approval(a, "disk.vhd", text) : rc;
}

static int attested_measure(const struct attested_run *a)
{
    _cleanup_(measured_clear) struct measured m = {0};
    _cleanup_free_ char *path = tb_path_join(a->made, "uki.efi"), *uki = NULL;
    char err[MEASURE_ERR_MAX] = "";
    size_t len;
    int r = path ? tb_read_file(path, UKI_MAX, &uki, &len) : -ENOMEM, rc;

    if (r < 0)
        return tbpkg_fail_errno("uki.efi", r);
    r = measure_uki((const uint8_t *)uki, len, &m, err);
    if (r < 0)
        return *err ? tbpkg_fail("uki.efi", err, NULL) : tbpkg_fail_errno("uki.efi", r);
    if (*m.open.data && !a->b->attested.append_cmdline)
        return tbpkg_failf("uki.efi", "its command line lets others in: it %s", m.open.data);
    if (*m.open.data)
        tbpkg_warn("the command line lets others in: it %s. Contracts take the image only with --allow-debug",
                   m.open.data);
    m.no_drivers = a->b->attested.no_drivers;
    rc = attested_write_measurements(a, &m);
    if (rc == CLI_OK && a->b->attested.state_key)
        rc = attested_approve(a, &m);
    return rc == CLI_OK ? attested_write_footer(a, &m) : rc;
}

static int attested_name_output(const struct attested_run *a)
{
    const char *output = a->b->attested.output;
    int r = 0;

    if (renameat2(AT_FDCWD, a->made, AT_FDCWD, output, RENAME_NOREPLACE) < 0)
        r = -errno;
    if (r == -EEXIST)
        return tbpkg_fail(output, "was made by somebody else meanwhile", "name another with --output-dir");
    if (r < 0)
        return tbpkg_fail_errno(output, r);
    a->b->resource = strdup(output);
    return a->b->resource ? CLI_OK : tbpkg_fail_errno(output, -ENOMEM);
}

int image_attested_build(struct image_build *b)
{
    _cleanup_(attested_run_clear) struct attested_run a = {.b = b};
    _cleanup_free_ char *recipe = tb_path_join(b->attested.recipe, RECIPE),
                        *debs = tb_path_join(b->work, "debs");
    int rc = recipe && debs ? attested_check_inputs(b) : tbpkg_fail_errno("build", -ENOMEM);

    if (rc == CLI_OK)
        rc = attested_check_file(recipe, false, "name the recipe's directory with --recipe-dir");
    if (rc == CLI_OK)
        rc = attested_check_machine(b);
    if (rc != CLI_OK || b->dry_run)
        return rc;
    rc = debs_copy(b->debs, debs);
    if (rc == CLI_OK)
        rc = attested_make_work(&a);
    if (rc == CLI_OK)
        rc = attested_run_recipe(&a);
    if (rc == CLI_OK)
        rc = attested_read(&a);
    if (rc == CLI_OK)
        rc = attested_measure(&a);
    return rc == CLI_OK ? attested_name_output(&a) : rc;
}
