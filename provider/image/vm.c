/* SPDX-License-Identifier: Apache-2.0 */
/* The image of a virtual machine, by Packer and the templates of packer/. What Packer would refuse half an
 * hour later, or in words about its own files, is looked at first. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <strings.h>
#include <sys/stat.h>

#include "common/buf.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/tool.h"
#include "provider/image/image.h"

#define MAIN "trustbridge.pkr.hcl"
#define PLUGINS "plugins.pkr.hcl"      /* Packer 1.6 does not understand it */
#define VM_PROVIDER_KEY "provider_key" /* the variable */
#define TEMPLATE_MAX ((size_t)1 << 20)

const char *image_var(const struct image_build *b, const char *name, const char *fallback)
{
    _cleanup_free_ char *env = tb_strf("PKR_VAR_%s", name);
    const char *v = env ? getenv(env) : NULL;
    size_t n = strlen(name);

    for (size_t i = b->vars.n; i > 0; i--)
        if (strncmp(b->vars.v[i - 1], name, n) == 0 && b->vars.v[i - 1][n] == '=')
            return b->vars.v[i - 1] + n + 1;
    return v ? v : fallback;
}

char *image_output(const struct image_build *b)
{
    const char *output = image_var(b, "output_directory", IMAGE_DEFAULT_OUTPUT);
    size_t n = strlen(output);

    while (n > 1 && output[n - 1] == '/')
        n--;
    return strndup(output, n);
}

/* -- options ----------------------------------------------------------------------------------- */

static int vm_check_var(const struct image_build *b, const char *var)
{
    static const char *const secrets[] = {"secret", "password", "token"};

    if (!strchr(var, '=') || var[0] == '=')
        return cli_usage(&b->cli, "--var: must be NAME=VALUE");
    for (size_t i = 0; i < ARRAY_SIZE(secrets); i++) {
        const char *s = strcasestr(var, secrets[i]);

        if (s && s < strchr(var, '='))
            return cli_usage(&b->cli,
                             "--var %.*s: a secret on a command line is visible to every user; run az login, "
                             "or put it into "
                             "the environment as PKR_VAR_%.*s",
                             (int)strcspn(var, "="), var, (int)strcspn(var, "="), var);
    }
    return CLI_OK;
}

/* -- templates --------------------------------------------------------------------------------- */

struct vm_build {
    struct image_build *b;
    char *templates;     /* links to them, in the work directory */
    struct tb_buf names; /* "\nNAME\n" of each variable that they declare */
    bool old;            /* Packer before 1.7 */
    bool values;         /* files of theirs give values to variables */
    bool json;           /* some are in JSON, where names of variables are not looked for */
    /* of a qemu image, directories: where Packer makes it, and its name when it is whole */
    char *making, *final;
};

static void vm_clear(struct vm_build *v)
{
    tb_freep(&v->templates);
    tb_buf_free(&v->names);
    tool_rmdir(&v->making);
    tb_freep(&v->final);
}

static int vm_find_packer(struct vm_build *v)
{
    _cleanup_tool_ struct tool t = {.quiet = v->b->cli.quiet};
    _cleanup_free_ char *out = NULL;
    unsigned major = 0, minor = 0;
    int rc;

    tool_add(&t, "packer");
    tool_add(&t, "version");
    rc = tool_run(&t, "packer", &out);
    if (rc != CLI_OK)
        return rc;
    if (!out || sscanf(out, "Packer v%5u.%5u", &major, &minor) != 2)
        return tbpkg_fail("packer", "does not report its version", NULL);
    v->old = major < 1 || (major == 1 && minor < 7);
    return CLI_OK;
}

/* variable "NAME" { at the begin of a line */
static int vm_read_names(struct vm_build *v, const char *path)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = tb_read_file(path, TEMPLATE_MAX, &text, &len);

    if (r < 0)
        return r;
    for (char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        const char *q = strncmp(line, "variable", 8) == 0 ? line + 8 + strspn(line + 8, " \t") : NULL;

        if (q && *q == '"')
            (void)tb_buf_printf(&v->names, "\n%.*s\n", (int)strcspn(q + 1, "\"\n"), q + 1);
    }
    return tb_buf_error(&v->names);
}

static bool vm_ends(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n > m && strcmp(name + n - m, end) == 0;
}

/* What the templates declare. 0 or a negative errno. */
static int vm_scan(struct vm_build *v)
{
    _cleanup_closedir_ DIR *d = opendir(v->b->templates);
    const struct dirent *e;
    int r = d ? 0 : -errno;

    while (r == 0 && (e = readdir(d))) {
        _cleanup_free_ char *path = tb_path_join(v->b->templates, e->d_name);

        v->values |= vm_ends(e->d_name, ".auto.pkrvars.hcl") || vm_ends(e->d_name, ".auto.pkrvars.json");
        v->json |= vm_ends(e->d_name, ".pkr.json");
        if (e->d_name[0] != '.' && vm_ends(e->d_name, ".pkr.hcl"))
            r = path ? vm_read_names(v, path) : -ENOMEM;
    }
    return r;
}

static int vm_link_one(const struct vm_build *v, const char *root, const char *name)
{
    _cleanup_free_ char *from = tb_path_join(root, name), *link = tb_path_join(v->templates, name);

    if (!from || !link)
        return -ENOMEM;
    return symlink(from, link) < 0 ? -errno : 0;
}

/* The templates by links, so that a file this Packer does not understand can be left out. */
static int vm_link_templates(struct vm_build *v)
{
    const char *dir = v->b->templates;
    _cleanup_free_ char *root = realpath(dir, NULL);
    _cleanup_closedir_ DIR *d = NULL;
    const struct dirent *e;
    bool any = false;
    int r = 0;

    if (!root)
        return errno == ENOENT
                   ? tbpkg_fail(dir, strerror(ENOENT), "name the Packer templates with --template-dir")
                   : tbpkg_fail_errno(dir, -errno);
    v->templates = tb_path_join(v->b->work, "packer");
    d = opendir(root);
    if (!d || !v->templates || mkdir(v->templates, 0700) < 0)
        return tbpkg_fail_errno(root, -errno);
    while (r == 0 && (e = readdir(d))) {
        if (e->d_name[0] == '.' || (v->old && strcmp(e->d_name, PLUGINS) == 0))
            continue;
        r = vm_link_one(v, root, e->d_name);
        any |= strcmp(e->d_name, MAIN) == 0;
    }
    if (r == 0)
        r = vm_scan(v);
    if (r < 0)
        return tbpkg_fail_errno(root, r);
    return any ? CLI_OK : tbpkg_fail(root, "has no " MAIN, "name the Packer templates with --template-dir");
}

static bool vm_declares(const struct vm_build *v, const char *name, size_t n)
{
    _cleanup_free_ char *word = tb_strf("\n%.*s\n", (int)n, name);

    return word && v->names.len > 0 && memmem(v->names.data, v->names.len, word, strlen(word));
}

/* -- variables --------------------------------------------------------------------------------- */

static int vm_check_names(const struct vm_build *v)
{
    const struct image_build *b = v->b;

    for (size_t i = 0; i < b->vars.n; i++) {
        const char *var = b->vars.v[i];
        size_t n = strcspn(var, "=");
        _cleanup_free_ char *all = NULL;

        if (v->json || vm_declares(v, var, n))
            continue;
        all = tb_strf("%.*s", (int)v->names.len, v->names.data);
        for (char *p = all; p && *p; p++)
            *p = *p == '\n' ? ' ' : *p;
        return cli_usage(&b->cli, "--var %.*s: the templates have no such variable; there are%s", (int)n, var,
                         all ? all : "");
    }
    return CLI_OK;
}

/* --var says the same: beside the option it would silently win, and wins over a setting. */
static int vm_check_pin(const struct vm_build *v)
{
    struct image_build *b = v->b;

    for (size_t i = 0; i < b->vars.n; i++) {
        if (strncmp(b->vars.v[i], VM_PROVIDER_KEY "=", strlen(VM_PROVIDER_KEY "=")) != 0)
            continue;
        if (cli_given(&b->cli, "provider-key"))
            return cli_usage(&b->cli, "--provider-key and --var " VM_PROVIDER_KEY " exclude each other");
        b->provider_key = NULL;
    }
    if (b->provider_key && !v->json && !vm_declares(v, VM_PROVIDER_KEY, strlen(VM_PROVIDER_KEY)))
        return cli_usage(&b->cli,
                         "--provider-key: the templates in %s have no variable " VM_PROVIDER_KEY
                         ", so their image would pin none",
                         b->templates);
    return CLI_OK;
}

/* What the template has no default for, all at once. */
static int vm_check_azure(const struct vm_build *v)
{
    static const struct {
        const char *name, *what;
    } need[] = {
        {"subscription_id", "ID of the subscription that builds"},
        {"resource_group", "NAME of the gallery's resource group"},
        {"gallery_name", "NAME of the Compute Gallery"},
    };
    struct tb_buf missing = {0};
    unsigned a, b, c;
    char end;
    const char *version = image_var(v->b, "image_version", "1.0.0");
    int rc = CLI_OK;

    for (size_t i = 0; i < ARRAY_SIZE(need); i++)
        if (!v->values && vm_declares(v, need[i].name, strlen(need[i].name)) &&
            !*image_var(v->b, need[i].name, ""))
            (void)tb_buf_printf(&missing, "%s--var %s=%s", missing.len ? ", " : "", need[i].name,
                                need[i].what);
    if (missing.len)
        rc = cli_usage(&v->b->cli, "missing: %.*s", (int)missing.len, missing.data);
    else if (sscanf(version, "%9u.%9u.%9u%c", &a, &b, &c, &end) != 3)
        rc = cli_usage(&v->b->cli, "--var image_version: three numbers such as 1.0.0, not '%s'", version);
    tb_buf_free(&missing);
    return rc;
}

int image_vm_check(struct image_build *b)
{
    _cleanup_(vm_clear) struct vm_build v = {.b = b};
    int rc = CLI_OK;

    if (!cli_given(&b->cli, "base-image"))
        b->base = NULL; /* the environment has that of containers */
    if (image_is_qemu(b) && !b->base)
        rc = cli_usage(&b->cli, "--base-image is missing: a qcow2 of a Debian cloud image");
    for (size_t i = 0; i < b->vars.n; i++)
        rc = cli_worse(rc, vm_check_var(b, b->vars.v[i]));
    if (rc != CLI_OK || vm_scan(&v) < 0 || v.names.len == 0) /* that there are no templates is said later */
        return rc;
    rc = cli_worse(vm_check_names(&v), vm_check_pin(&v));
    return image_is_qemu(b) ? rc : cli_worse(rc, vm_check_azure(&v));
}

/* -- what a machine of our own needs ------------------------------------------------------------ */

static int vm_check_qemu(struct vm_build *v)
{
    const struct image_build *b = v->b;
    const char *accelerator = image_var(b, "accelerator", "kvm"),
               *output = image_var(b, "output_directory", IMAGE_DEFAULT_OUTPUT);

    if (!strstr(b->base, "://") && access(b->base, R_OK) < 0)
        return tbpkg_fail(b->base, strerror(errno), "--base-image is a qcow2 of a Debian cloud image");
    if (*output == '\0')
        return cli_usage(&b->cli, "--var output_directory: must name a directory");
    if (access(output, F_OK) == 0)
        return tbpkg_fail(output, "exists", "remove it, or name another with --var output_directory=DIR");
    if (b->dry_run)
        return CLI_OK;
    if (tool_find("qemu-system-x86_64", "qemu-system-x86 qemu-utils") != CLI_OK)
        return CLI_FAILED;
    if (strcmp(accelerator, "kvm") == 0 && access("/dev/kvm", R_OK | W_OK) < 0)
        return tbpkg_fail("/dev/kvm", strerror(errno),
                          "without KVM it takes longer: --var accelerator=tcg --var cpu=max,-cx16");
    return CLI_OK;
}

/* Packer works in a directory beside the final one. */
static int vm_make_output(struct vm_build *v)
{
    const char *name;
    int r = 0;

    v->final = image_output(v->b);
    if (!v->final)
        return tbpkg_fail_errno("build", -ENOMEM);
    name = strrchr(v->final, '/');
    name = name ? name + 1 : v->final;
    v->making = tb_strf("%.*s.%s.XXXXXX", (int)(name - v->final), v->final, name);
    if (!v->making)
        r = -ENOMEM;
    else if (!mkdtemp(v->making))
        r = -errno;
    if (r < 0)
        tb_freep(&v->making);
    return r < 0 ? tbpkg_fail_errno(v->final, r) : CLI_OK;
}

static int vm_name_output(const struct vm_build *v)
{
    _cleanup_free_ char *made = tb_path_join(v->making, "image");
    int r = made ? 0 : -ENOMEM;

    if (r == 0 && renameat2(AT_FDCWD, made, AT_FDCWD, v->final, RENAME_NOREPLACE) < 0)
        r = -errno;
    if (r == -EEXIST)
        return tbpkg_fail(v->final, "was made by somebody else meanwhile",
                          "name another with --var output_directory=DIR");
    return r < 0 ? tbpkg_fail_errno(v->final, r) : CLI_OK;
}

static int vm_make_seed(const struct vm_build *v)
{
    const char *user = image_var(v->b, "ssh_username", NULL);
    _cleanup_tool_ struct tool t = {.quiet = v->b->cli.quiet};

    if (tool_find("ssh-keygen", "openssh-client") != CLI_OK)
        return CLI_FAILED;
    tool_add(&t, "sh");
    tool_add(&t, "%s/scripts/seed.sh", v->templates);
    tool_add(&t, "%s/seed", v->b->work);
    if (user)
        tool_add(&t, "%s", user);
    return tool_run(&t, "openssh-client", NULL);
}

/* -- Packer ------------------------------------------------------------------------------------ */

static void vm_add_variables(const struct vm_build *v, struct tool *t)
{
    const struct image_build *b = v->b;

    tool_add(t, "-var=debs=%s", b->debs);
    if (image_is_qemu(b))
        tool_add(t, "-var=base_image=%s", b->base);
    for (size_t i = 0; i < b->vars.n; i++)
        if (!v->making || strncmp(b->vars.v[i], "output_directory=", 17) != 0)
            tool_add(t, "-var=%s", b->vars.v[i]);
    if (image_is_qemu(b) && !image_var(b, "seed", NULL))
        tool_add(t, "-var=seed=%s/seed", b->work);
    if (v->making)
        tool_add(t, "-var=output_directory=%s/image", v->making);
    if (b->provider_keys)
        tool_add(t, "-var=" VM_PROVIDER_KEY "=%s", b->provider_keys);
    if (b->sbom_path && vm_declares(v, "inventory", strlen("inventory")))
        tool_add(t, "-var=inventory=%s/inventory", b->work);
}

static int vm_run_packer(const struct vm_build *v, const char *verb)
{
    const struct image_build *b = v->b;
    _cleanup_tool_ struct tool t = {.quiet = b->cli.quiet};
    int rc;

    tool_add(&t, "packer");
    tool_add(&t, "%s", verb);
    if (strcmp(verb, "init") != 0) {
        tool_add(&t, "-only=%s", image_is_qemu(b) ? "qemu.trustbridge" : "azure-arm.trustbridge");
        vm_add_variables(v, &t);
    }
    tool_add(&t, "%s", v->templates);
    rc = tool_run(&t, "packer", NULL);
    if (rc != CLI_FAILED)
        return rc;
    if (strcmp(verb, "init") == 0)
        tbpkg_note(false, "Packer could not get its plugins, which it downloads from github.com.");
    else if (!image_is_qemu(b) && strcmp(verb, "build") == 0)
        tbpkg_note(false, "Packer works as whoever az login says, who needs the role Contributor in %s.",
                   image_var(b, "resource_group", "the resource group"));
    return rc;
}

static int vm_take_inventory(struct vm_build *v)
{
    _cleanup_free_ char *path = tb_path_join(v->b->work, "inventory");
    size_t len;
    int r = path ? tb_read_file(path, (size_t)16 << 20, &v->b->inventory, &len) : -ENOMEM;

    return r == 0 || r == -ENOENT ? CLI_OK : tbpkg_fail_errno(path ? path : "inventory", r);
}

static int vm_name_resource(struct image_build *b)
{
    if (image_is_qemu(b)) {
        _cleanup_free_ char *output = image_output(b);

        b->resource = output ? tb_strf("%s/trustbridge.qcow2", output) : NULL;
    } else {
        const char *subscription = image_var(b, "subscription_id", ""),
                   *group = image_var(b, "resource_group", ""), *gallery = image_var(b, "gallery_name", "");

        b->resource =
            tb_strf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Compute/galleries/%s/images/%s/"
                    "versions/%s",
                    subscription, group, gallery, image_var(b, "image_name", "trustbridge"),
                    image_var(b, "image_version", "1.0.0"));
    }
    return b->resource ? CLI_OK : tbpkg_fail_errno("build", -ENOMEM);
}

static int vm_prepare(struct vm_build *v)
{
    int rc = vm_find_packer(v);

    if (rc == CLI_OK)
        rc = vm_link_templates(v);
    if (rc == CLI_OK && image_is_qemu(v->b))
        rc = vm_check_qemu(v);
    if (rc == CLI_OK && image_is_qemu(v->b) && !image_var(v->b, "seed", NULL))
        rc = vm_make_seed(v);
    return rc;
}

int image_vm_build(struct image_build *b)
{
    _cleanup_(vm_clear) struct vm_build v = {.b = b};
    int rc = vm_prepare(&v);

    if (rc == CLI_OK && b->dry_run)
        return vm_run_packer(&v, "validate");
    if (rc == CLI_OK && image_is_qemu(b) && vm_declares(&v, "output_directory", strlen("output_directory")))
        rc = vm_make_output(&v);
    if (rc == CLI_OK && !v.old)
        rc = vm_run_packer(&v, "init");
    if (rc == CLI_OK)
        rc = vm_run_packer(&v, "build");
    if (rc == CLI_OK)
        rc = vm_take_inventory(&v);
    if (rc == CLI_OK && v.making)
        rc = vm_name_output(&v);
    return rc == CLI_OK ? vm_name_resource(b) : rc;
}
