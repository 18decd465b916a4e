/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg publish: all steps from a model to a package, as one run that can be broken off anywhere and continued by the same
 * command line. */
#include "provider/publish/publish.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "common/config.h"
#include "common/json.h"

#define SUMMARY_NAME "publish-summary.json"

static void publish_clear(struct publish *p)
{
    source_close(&p->source);
    publish_state_close(&p->state);
    cli_list_clear(&p->sets);
    cli_list_clear(&p->vars);
    tb_freep(&p->encrypted);
    tb_freep(&p->ciphertext);
    tb_freep(&p->manifest);
    tb_freep(&p->key);
    tb_freep(&p->default_zip);
}

/* -- command line -------------------------------------------------------------------------------------------------- */

#define job publish /* as CLI_OPTION() calls it */
static const struct cli_option options[] = {
    CLI_OPTION('a', "asset-id", "ID", CLI_STRING, asset_id, "name of the asset"),
    CLI_OPTION('i', "in", "INPUT", CLI_STRING, in, "the same as INPUT"),
    CLI_OPTION('o', "output", "DIR", CLI_DIR_NAME, dir,
               "directory for everything that is made, and for the state of this run [publish-output]"),
    CLI_OPTION(0, "output-zip", "FILE", CLI_STRING, zip,
               "the package [managed-app.zip in the output directory]"),
    CLI_OPTION('y', "yes", NULL, CLI_FLAG, yes, "do not ask"),
    CLI_OPTION('n', "dry-run", NULL, CLI_FLAG, dry_run,
               "check everything that can be checked and show the plan"),
    CLI_OPTION(0, "skip-encrypt", NULL, CLI_FLAG, skip[STEP_ENCRYPT],
               "the encrypted asset is in the output directory already"),
    CLI_OPTION(0, "skip-upload", NULL, CLI_FLAG, skip[STEP_UPLOAD], "do not upload"),
    CLI_OPTION(0, "skip-register", NULL, CLI_FLAG, skip[STEP_REGISTER], "do not register"),
    CLI_OPTION(0, "skip-build", NULL, CLI_FLAG, skip[STEP_BUILD],
               "build no image; also when there is no --deb-dir"),
    CLI_OPTION(0, "skip-package", NULL, CLI_FLAG, skip[STEP_PACKAGE], "make no package"),
    CLI_OPTION(0, "forget-key", NULL, CLI_FLAG, forget_key,
               "remove the key file once the control plane has confirmed the key"),
    CLI_HEADING_ROW("Encryption:"),
    CLI_OPTION('c', "chunk-bytes", "SIZE", CLI_SIZE, chunk_bytes, "plaintext bytes in a record [4M]",
               .setting = "encryption.chunk_bytes", .min = TBENC_CHUNK_BYTES_MIN,
               .max = TBENC_CHUNK_BYTES_MAX),
    CLI_OPTION(0, "no-finetune", NULL, CLI_FLAG, no_finetune, "say that fine-tuning is not allowed"),
    CLI_HEADING_ROW("Storage; without a file, credentials are looked for as tbpkg upload --help says:"),
    CLI_OPTION('s', "storage-account", "ACCOUNT", CLI_STRING, account, "storage account",
               .setting = "azure.storage_account"),
    CLI_OPTION('C', "container", "NAME", CLI_STRING, container, "container [models]",
               .setting = "azure.container"),
    CLI_OPTION(0, "endpoint", "URL", CLI_STRING, blob_endpoint, "blob endpoint, when it is not Azure's own",
               .setting = "azure.endpoint"),
    CLI_OPTION(0, "connection-string-file", "FILE", CLI_STRING, connection_string_file, "connection string"),
    CLI_OPTION(0, "account-key-file", "FILE", CLI_STRING, account_key_file, "shared key of the account"),
    CLI_OPTION(0, "sas-file", "FILE", CLI_STRING, sas_file, "shared access signature"),
    CLI_HEADING_ROW("Control plane:"),
    CLI_OPTION('E', "edc-endpoint", "URL", CLI_STRING, edc_endpoint, "control plane, https://",
               .setting = "controlplane.endpoint"),
    CLI_OPTION(0, "token-file", "FILE", CLI_STRING, token_file, "bearer token for it",
               .setting = "controlplane.token_file"),
    CLI_OPTION(0, "client-cert", "FILE", CLI_STRING, cert, "client certificate (PEM) for mutual TLS",
               .setting = "controlplane.client_cert"),
    CLI_OPTION(0, "client-key", "FILE", CLI_STRING, cert_key, "its private key (PEM)",
               .setting = "controlplane.client_key"),
    CLI_OPTION('k', "key-file", "FILE", CLI_STRING, key_file,
               "with --skip-encrypt: the key, when it is elsewhere"),
    CLI_OPTION(0, "ca-file", "FILE", CLI_STRING, ca_file, "trust the certificate authorities in FILE (PEM)",
               .setting = "tls.ca_file"),
    CLI_OPTION(0, "insecure-http", NULL, CLI_FLAG, insecure,
               "allow http:// to a loopback address, for tests"),
    CLI_HEADING_ROW("Image, as for tbpkg build:"),
    CLI_OPTION(0, "target", "TARGET", CLI_STRING, target, "oci, vm-qemu or vm-azure [oci]"),
    CLI_OPTION(0, "deb-dir", "DIR", CLI_DIR_NAME, debs, "directory with the .debs that go into it",
               .setting = "build.deb_dir"),
    CLI_OPTION(0, "base-image", "IMAGE", CLI_STRING, base, "what to build on"),
    CLI_OPTION('r', "registry", "REGISTRY", CLI_STRING, registry, "registry to push to",
               .setting = "docker.registry"),
    CLI_OPTION(0, "image-name", "NAME", CLI_STRING, image_name, "name of the container image",
               .setting = "docker.image_name"),
    CLI_OPTION(0, "image-tag", "TAG", CLI_STRING, tag, "its tag [latest]"),
    CLI_OPTION(0, "no-push", NULL, CLI_FLAG, no_push, "leave it in local storage"),
    CLI_OPTION(0, "insecure-registry", NULL, CLI_FLAG, insecure_registry,
               "allow a registry without TLS, for tests"),
    CLI_OPTION(0, "var", "NAME=VALUE", CLI_LIST, vars, "variable of the Packer template; may be repeated"),
    CLI_OPTION(0, "packer-dir", "DIR", CLI_DIR_NAME, packer, "directory of the Packer templates",
               .setting = "build.template_dir"),
    CLI_HEADING_ROW("Package:"),
    CLI_OPTION(0, "vm-image", "IMAGE", CLI_STRING, vm_image, "image of the machines, as for tbpkg package",
               .setting = "package.vm_image"),
    CLI_OPTION(0, "image", "IMAGE", CLI_STRING, image, "the same, or a container image"),
    CLI_OPTION(0, "set", "NAME=VALUE", CLI_LIST, sets,
               "default of a parameter of the template; may be repeated"),
    CLI_OPTION(0, "package-version", "X.Y.Z", CLI_STRING, package_version, "version of the package"),
    CLI_OPTION(0, "template-dir", "DIR", CLI_STRING, templates, "directory of the templates",
               .setting = "package.template_dir"),
    CLI_GONE_ROW("all-steps", NULL, "all steps are what publish does"),
    CLI_GONE_ROW("sentinel-binary", "FILE", "the programs come from the .debs in --deb-dir"),
    CLI_GONE_ROW("entrypoint", "FILE", "the image starts systemd, which starts and confines the programs"),
    CLI_HEADING_ROW("Every command:"),
    CLI_COMMON,
};
#undef job

/* Each step's own command says what is wrong with its part, before the first one starts. */
static int check_steps(struct publish *p)
{
    int rc = CLI_OK;

    cli_check_only(true);
    for (int s = 0; rc == CLI_OK && s < N_STEPS; s++) {
        _cleanup_words_ struct publish_words w = {0};

        if (p->skip[s])
            continue;
        publish_argv(p, s, &w);
        rc = w.failed ? tbpkg_fail_errno("publish", -ENOMEM) : publish_command(s)->run(w.n, w.v);
    }
    cli_check_only(false);
    return rc;
}

static int check_files(const struct publish *p)
{
    const char *const files[] = {p->connection_string_file,
                                 p->account_key_file,
                                 p->sas_file,
                                 p->token_file,
                                 p->cert,
                                 p->cert_key,
                                 p->ca_file,
                                 p->key_file};

    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        if (files[i] && access(files[i], R_OK) < 0)
            return tbpkg_fail_errno(files[i], -errno);
    return CLI_OK;
}

static int name_files(struct publish *p)
{
    p->encrypted = tb_path_join(p->dir, "encrypted");
    p->key = tb_path_join(p->dir, "model.key");
    if (!p->encrypted || !p->key)
        return tbpkg_fail_errno("publish", -ENOMEM);
    p->ciphertext = tb_path_join(p->encrypted, ASSET_DEFAULT_NAME);
    p->manifest = tb_path_join(p->encrypted, ASSET_DEFAULT_MANIFEST);
    return p->ciphertext && p->manifest ? CLI_OK : tbpkg_fail_errno("publish", -ENOMEM);
}

static int check_options(struct publish *p)
{
    const struct cli *c = &p->cli;

    if (!p->asset_id)
        return cli_usage(c, "--asset-id is missing");
    if (!tb_id_valid(p->asset_id))
        return cli_usage(c, "--asset-id: 1 to 100 letters, digits, '_' and '-', not '%s'", p->asset_id);
    if (!*p->dir)
        return cli_usage(c, "--output: name a directory");
    if (!p->skip[STEP_ENCRYPT] && (!p->in || !*p->in))
        return cli_usage(c, "no input: name a file or a directory, or say --skip-encrypt");
    if (p->in && strcmp(p->in, "-") == 0)
        return cli_usage(c, "the input must be a file or a directory, so that the run can be continued");
    if (p->key_file && !p->skip[STEP_ENCRYPT])
        return cli_usage(c, "--key-file goes with --skip-encrypt: encrypting makes a key");
    if (!p->debs && (cli_given(c, "registry") || p->target) && !p->skip[STEP_BUILD])
        return cli_usage(
            c,
            "--deb-dir is missing: the directory with the .debs that go into the image; or say --skip-build");
    p->skip[STEP_BUILD] |= !p->debs;
    if (p->skip[STEP_ENCRYPT] && !p->key_file && getenv("TBPKG_KEY_FILE"))
        p->key_file = getenv("TBPKG_KEY_FILE");
    return check_steps(p);
}

static int parse(struct publish *p, int argc, char **argv)
{
    int rc;

    if (cli_parse(&p->cli, p, argc, argv) != CLI_OK)
        return CLI_STOP;
    rc = cli_positional(&p->cli, argc, argv, &p->in);
    if (rc == CLI_OK)
        rc = name_files(p);
    if (rc == CLI_OK && !p->zip) {
        p->zip = p->default_zip = tb_path_join(p->dir, "managed-app.zip");
        rc = p->zip ? CLI_OK : tbpkg_fail_errno("publish", -ENOMEM);
    }
    if (rc == CLI_OK)
        rc = check_options(p);
    p->cli.rc = rc;
    return cli_ready(&p->cli);
}

/* -- the plan ------------------------------------------------------------------------------------------------------ */

/* An input that changed makes another asset: under the same id its consumers would fail. */
static int check_same_model(struct publish *p)
{
    bool done;
    const char *before = publish_state_inputs(&p->state, "encrypt", &done);

    if (!before || strcmp(before, p->hash) == 0 || (!done && access(p->key, F_OK) < 0))
        return CLI_OK;
    return tbpkg_failf(
        p->in,
        "is not what %s was begun with (contents, chunk size or fine-tuning); use a new asset id and "
        "another --output",
        p->state.path);
}

static enum publish_action decide(struct publish *p, enum publish_step s, int *ret_rc)
{
    const char *before;
    bool done;

    if (p->skip[s])
        return ACTION_SKIP;
    *ret_rc = publish_hash(p, s);
    before = publish_state_inputs(&p->state, publish_command(s)->name, &done);
    return done && before && strcmp(before, p->hash) == 0 && publish_outputs_there(p, s) ? ACTION_DONE
                                                                                         : ACTION_RUN;
}

/* Before anything runs: the model can be read, its ciphertext fits, the package can be made. */
static int check_ahead(struct publish *p, const enum publish_action *plan)
{
    int rc = CLI_OK;

    if (plan[STEP_ENCRYPT] == ACTION_RUN)
        rc = asset_check_space(access(p->dir, F_OK) == 0 ? p->key : p->dir,
                               source_ciphertext_bytes(&p->source, p->chunk_bytes));
    if (rc == CLI_OK && plan[STEP_PACKAGE] == ACTION_RUN) {
        _cleanup_words_ struct publish_words w = {0};
        struct publish quiet = *p;

        quiet.cli.quiet = true;
        if (plan[STEP_BUILD] == ACTION_RUN && !p->vm_image && p->target && strcmp(p->target, "vm-azure") == 0)
            quiet.vm_image = "what:build:makes"; /* not known yet */
        publish_argv(&quiet, STEP_PACKAGE, &w);
        rc = w.n + 1 < (int)ARRAY_SIZE(w.v) && (w.v[w.n] = strdup("--dry-run"))
                 ? (w.n++, tbpkg_package.run(w.n, w.v))
                 : tbpkg_fail_errno("publish", -ENOMEM);
    }
    return rc;
}

static const char *const action_texts[] = {
    [ACTION_RUN] = "to do", [ACTION_DONE] = "done already", [ACTION_SKIP] = "skipped"};

static int make_plan(struct publish *p, enum publish_action plan[N_STEPS])
{
    int rc = CLI_OK;

    for (int s = 0; rc == CLI_OK && s < N_STEPS; s++) {
        plan[s] = decide(p, s, &rc);
        if (s == STEP_ENCRYPT && plan[s] == ACTION_RUN && rc == CLI_OK)
            rc = check_same_model(p);
    }
    return rc == CLI_OK ? check_ahead(p, plan) : rc;
}

static void show_plan(const struct publish *p, const enum publish_action *plan)
{
    for (int s = 0; s < N_STEPS; s++)
        tbpkg_note(&p->cli, "  %d. %-10s %s", s + 1, publish_command(s)->name, action_texts[plan[s]]);
}

static int print_plan_json(const struct publish *p, const enum publish_action *plan)
{
    _cleanup_json_ cJSON *d = cJSON_CreateObject();
    cJSON *steps;

    cJSON_AddStringToObject(d, "asset_id", p->asset_id);
    cJSON_AddStringToObject(d, "output", p->dir);
    cJSON_AddBoolToObject(d, "dry_run", true);
    steps = cJSON_AddObjectToObject(d, "steps");
    for (int s = 0; s < N_STEPS; s++)
        cJSON_AddStringToObject(steps, publish_command(s)->name, action_texts[plan[s]]);
    return cli_print_json(d);
}

/* CLI_OK to go on. */
static int confirm(const struct publish *p)
{
    char answer[8];

    if (p->yes)
        return CLI_OK;
    if (!isatty(STDIN_FILENO))
        return cli_usage(&p->cli, "nobody to ask: say --yes to go on");
    fprintf(stderr, "Go on? [Y/n] ");
    if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != '\n' && answer[0] != 'y' && answer[0] != 'Y'))
        return tbpkg_fail("publish", "you said no; nothing was done", NULL);
    return CLI_OK;
}

/* -- the end ------------------------------------------------------------------------------------------------------- */

/* Without times: the same run, broken off or not, ends in the same summary. */
static cJSON *make_summary(const struct publish *p)
{
    cJSON *d = cJSON_CreateObject(), *steps;

    cJSON_AddStringToObject(d, "asset_id", p->asset_id);
    cJSON_AddStringToObject(d, "output", p->dir);
    if (access(p->key, F_OK) == 0)
        cJSON_AddStringToObject(d, "key_file", p->key);
    steps = cJSON_AddObjectToObject(d, "steps");
    for (int s = 0; s < N_STEPS; s++) {
        static const char *const of_a_run[] = {"seconds", "bytes_sent", "bytes_resumed"};
        const cJSON *r = p->skip[s] ? NULL : publish_state_result(&p->state, publish_command(s)->name);
        cJSON *o = r ? cJSON_Duplicate(r, true) : cJSON_CreateObject(), *i;

        for (size_t n = 0; n < ARRAY_SIZE(of_a_run); n++) {
            cJSON_DeleteItemFromObjectCaseSensitive(o, of_a_run[n]);
            cJSON_ArrayForEach (i, o)
                if (cJSON_IsObject(i))
                    cJSON_DeleteItemFromObjectCaseSensitive(i, of_a_run[n]);
        }
        cJSON_AddBoolToObject(o, "skipped", p->skip[s]);
        cJSON_AddItemToObject(steps, publish_command(s)->name, o);
    }
    return d;
}

static void print_row(const char *what, const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    if (cJSON_IsString(v))
        printf("%-12s %s\n", what, v->valuestring);
}

static void print_table(const struct publish *p, const cJSON *summary)
{
    const cJSON *steps = cJSON_GetObjectItemCaseSensitive(summary, "steps");
    const cJSON *encrypt = cJSON_GetObjectItemCaseSensitive(steps, "encrypt");
    const cJSON *upload = cJSON_GetObjectItemCaseSensitive(steps, "upload");
    const cJSON *package = cJSON_GetObjectItemCaseSensitive(steps, "package");

    print_row("asset", summary, "asset_id");
    print_row("ciphertext", encrypt, "encrypted_file");
    print_row("sha256", encrypt, "sha256_ciphertext");
    print_row("stored as", cJSON_GetObjectItemCaseSensitive(upload, "ciphertext"), "url");
    printf("%-12s %s\n", "registered", p->skip[STEP_REGISTER] ? "no (skipped)" : p->edc_endpoint);
    print_row("key", summary, "key_file");
    print_row("image", cJSON_GetObjectItemCaseSensitive(steps, "build"), "image");
    print_row("digest", cJSON_GetObjectItemCaseSensitive(steps, "build"), "digest");
    print_row("package", package, "package");
    print_row("version", package, "version");
    printf("%-12s %s/" SUMMARY_NAME "\n", "summary", p->dir);
}

static int forget_key(const struct publish *p)
{
    bool registered;

    (void)publish_state_inputs(&p->state, "register", &registered);
    if (!p->forget_key || !registered || p->skip[STEP_REGISTER] || access(p->key, F_OK) < 0)
        return CLI_OK;
    if (unlink(p->key) < 0)
        return tbpkg_fail_errno(p->key, -errno);
    tbpkg_note(&p->cli, "%s is removed; only the control plane has the key now.", p->key);
    return CLI_OK;
}

static int finish(struct publish *p)
{
    _cleanup_free_ char *path = tb_path_join(p->dir, SUMMARY_NAME), *text = NULL;
    _cleanup_json_ cJSON *summary = NULL;
    int r, rc = forget_key(p);

    if (rc != CLI_OK)
        return rc;
    summary = make_summary(p);
    text = cJSON_Print(summary);
    if (path)
        tb_newfile_sweep(path);
    r = path && text ? tb_write_file_atomic(path, text, strlen(text), 0644) : -ENOMEM;
    if (r < 0)
        return tbpkg_fail_errno(path ? path : SUMMARY_NAME, r);
    if (p->cli.json)
        return cli_print_json(summary);
    if (!p->cli.quiet)
        print_table(p, summary);
    return cli_flush_stdout();
}

/* -- main ---------------------------------------------------------------------------------------------------------- */

static int run_steps(struct publish *p)
{
    for (int s = 0; s < N_STEPS; s++) {
        int rc = CLI_OK;
        enum publish_action action =
            decide(p, s, &rc); /* anew: a step before may have changed this one's inputs */

        if (rc == CLI_OK && action == ACTION_RUN) {
            tbpkg_note(&p->cli, "Step %d of %d: %s", s + 1, N_STEPS, publish_command(s)->name);
            rc = publish_run_step(p, s);
        }
        if (rc != CLI_OK) {
            tbpkg_note(
                &p->cli,
                "The step '%s' failed. Run the same command again to continue; steps that are done are "
                "not repeated.",
                publish_command(s)->name);
            return rc == CLI_USAGE ? CLI_FAILED : rc;
        }
    }
    return CLI_OK;
}

static int make_dirs(const struct publish *p)
{
    int r = tb_mkdir_p(p->encrypted, 0777), rc = CLI_OK;

    if (r < 0)
        return tbpkg_fail_errno(p->encrypted, r);
    if (!p->skip[STEP_ENCRYPT])
        rc = source_check_output(&p->source, "--output", p->key);
    if (rc != CLI_OK && rmdir(p->encrypted) == 0)
        (void)rmdir(p->dir);
    return rc;
}

/* What a killed run left half written; it may be as large as the model. */
static void sweep(const struct publish *p)
{
    const char *const made[] = {p->ciphertext, p->manifest, p->key, p->zip};

    for (size_t i = 0; i < ARRAY_SIZE(made); i++)
        tb_newfile_sweep(made[i]);
}

static int open_all(struct publish *p)
{
    int rc = CLI_OK;

    if (!p->skip[STEP_ENCRYPT])
        rc = source_open(p->in, &p->source);
    if (rc == CLI_OK && p->dry_run && access(p->dir, F_OK) < 0)
        return publish_state_none(p->dir, p->asset_id, &p->state);
    if (rc == CLI_OK)
        rc = make_dirs(p);
    if (rc == CLI_OK)
        rc = publish_state_open(p->dir, p->asset_id, &p->state);
    if (rc == CLI_OK && !p->dry_run)
        sweep(p);
    return rc;
}

static int publish(struct publish *p)
{
    enum publish_action plan[N_STEPS] = {0};
    int rc = check_files(p);

    if (rc == CLI_OK)
        rc = open_all(p);
    if (rc == CLI_OK)
        rc = make_plan(p, plan);
    if (rc != CLI_OK)
        return rc;
    if (p->dry_run && p->cli.json)
        return print_plan_json(p, plan);
    show_plan(p, plan);
    if (p->dry_run)
        return CLI_OK;
    rc = confirm(p);
    if (rc != CLI_OK)
        return rc;
    cli_interrupt_note("Run the same command again to continue; steps that are done are not repeated.");
    rc = run_steps(p);
    return rc == CLI_OK ? finish(p) : rc;
}

static int publish_main(int argc, char **argv)
{
    _cleanup_(publish_clear) struct publish p = {.cli = {.command = &tbpkg_publish},
                                                 .dir = "publish-output",
                                                 .container = "models",
                                                 .chunk_bytes = TBENC_CHUNK_BYTES_DEFAULT,
                                                 .templates = "/usr/share/trustbridge/managed-app",
                                                 .state = PUBLISH_STATE_INIT,
                                                 .source = SOURCE_INIT};

    tb_secret_init();
    return parse(&p, argc, argv) == CLI_OK ? publish(&p) : p.cli.rc;
}

const struct tbpkg_command tbpkg_publish = {
    .name = "publish",
    .summary = "all of it: encrypt, upload, register, build, package; resumable",
    .synopsis = "--asset-id ID [OPTION]... INPUT",
    .about = "Encrypt a model, upload it, register it with the control plane, build the image and make the\n"
             "package of the managed application. Run the same command again to continue a run that was\n"
             "broken off: steps that are done, with the same inputs, are not repeated. The key stays in\n"
             "DIR/model.key (0600) unless --forget-key is given.\n",
    .options = options,
    .run = publish_main,
};
