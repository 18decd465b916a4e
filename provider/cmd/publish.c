/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg publish: all steps from a model to a package, as one run that can be interrupted anywhere and
 * continued by the same command line. */
#include "provider/publish/plan.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/publish/journal.h"
#include "provider/cli/key_arg.h"
#include "common/config.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"
#include "provider/cli/interrupt.h"

#define SUMMARY_NAME "publish-summary.json"

static const struct tbpkg_command *const publish_commands[N_STEPS] = {
    [STEP_ENCRYPT] = &tbpkg_encrypt, [STEP_UPLOAD] = &tbpkg_upload,   [STEP_REGISTER] = &tbpkg_register,
    [STEP_BUILD] = &tbpkg_build,     [STEP_PACKAGE] = &tbpkg_package,
};

static void publish_clear(struct publish *p)
{
    source_close(&p->source);
    source_options_clear(&p->how);
    publish_state_close(&p->state);
    tb_option_list_clear(&p->sets);
    tb_option_list_clear(&p->blob_urls);
    tb_option_list_clear(&p->vars);
    tb_freep(&p->encrypted);
    tb_freep(&p->ciphertext);
    tb_freep(&p->manifest);
    tb_freep(&p->journal);
    tb_freep(&p->key);
    tb_freep(&p->key_dir);
    publish_base_clear(p);
    (void)cli_key_hold(NULL);
    signer_clear(&p->signer);
    signer_forget();
    tb_freep(&p->default_zip);
    tb_freep(&p->sbom);
    tb_freep(&p->found_asset_id);
}

/* -- command line ------------------------------------------------------------------------------ */

#define TB_OPTION_TARGET struct publish
static const struct tb_option publish_options[] = {
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, asset_id, "name of the asset"),
    TB_OPTION('i', "in", "INPUT", TB_OPTION_STRING, in, "the same as INPUT"),
    TB_OPTION('o', "output", "DIR", TB_OPTION_DIR_NAME, dir,
              "directory for everything that is made, and for the state of this run [publish-output]"),
    TB_OPTION(0, "out", "FILE", TB_OPTION_STRING, out,
              "keep the ciphertext in FILE; without it the model is sealed straight into the storage"),
    TB_OPTION(0, "output-zip", "FILE", TB_OPTION_STRING, zip,
              "the package [managed-app.zip in the output directory]"),
    TB_OPTION('y', "yes", NULL, TB_OPTION_FLAG, yes, "do not ask"),
    TB_OPTION('n', "dry-run", NULL, TB_OPTION_FLAG, dry_run,
              "check everything that can be checked and show the plan"),
    TB_OPTION(0, "skip-encrypt", NULL, TB_OPTION_FLAG, skip[STEP_ENCRYPT],
              "the encrypted asset is in the output directory already"),
    TB_OPTION(0, "skip-upload", NULL, TB_OPTION_FLAG, skip[STEP_UPLOAD], "do not upload"),
    TB_OPTION(0, "skip-register", NULL, TB_OPTION_FLAG, skip[STEP_REGISTER], "do not register"),
    TB_OPTION(0, "skip-build", NULL, TB_OPTION_FLAG, skip[STEP_BUILD],
              "build no image; also when there is no --deb-dir"),
    TB_OPTION(0, "skip-package", NULL, TB_OPTION_FLAG, skip[STEP_PACKAGE], "make no package"),
    TB_OPTION(0, "forget-key", NULL, TB_OPTION_FLAG, forget_key,
              "remove the key file once the control plane has confirmed the key"),
    TB_OPTION_HEADING_ROW("Encryption:"),
    TB_OPTION(0, "base", "ASSET[@VERSION]", TB_OPTION_STRING, under,
              "carry only the files that this version [the current one] has not: an overlay on it, under its "
              "key, which --key-file names"),
    TB_OPTION(0, "base-manifest", "FILE", TB_OPTION_STRING, base_manifest,
              "the manifest of that version [fetched from where the control plane says]"),
    ROWS_SOURCE(how),
    TB_OPTION(0, "key-out", "TARGET", TB_OPTION_STRING, key_out,
              "where the key goes: a FILE, a DIR/ [the output directory], age:RECIPIENT, gpg:RECIPIENT or "
              "akv:VAULT"),
    ROW_CHUNK_BYTES(chunk_bytes),
    ROW_NO_FINETUNE(no_finetune),
    ROWS_SIGN(sign),
    TB_OPTION_HEADING_ROW("Storage; without a file, credentials are looked for as tbpkg upload --help says:"),
    ROW_STORAGE_ACCOUNT(account),
    ROW_CONTAINER(container),
    ROW_BLOB_ENDPOINT(blob_endpoint),
    TB_OPTION(
        0, "blob-url", "URL", TB_OPTION_LIST, blob_urls,
        "URL of a container that has a copy, at URL/ID/model.tbenc, when the asset is registered; may be "
        "repeated"),
    ROW_BANDWIDTH(bandwidth),
    ROWS_CREDENTIAL_FILES(connection_string_file, account_key_file, sas_file),
    TB_OPTION_HEADING_ROW("Control plane:"),
    ROW_EDC_ENDPOINT(edc_endpoint),
    ROW_TOKEN_FILE(token_file),
    ROWS_CLIENT_CERT(cert, cert_key),
    TB_OPTION('k', "key-file", "FILE", TB_OPTION_STRING, key_file,
              "the key of the asset that is encrypted already, when it is not where it was put"),
    ROW_CA_FILE(ca_file),
    ROW_REPLACE(replace),
    TB_OPTION(0, "no-promote", NULL, TB_OPTION_FLAG, no_promote,
              "keep a new version beside the current one until tbpkg asset promote"),
    ROW_INSECURE_HTTP(insecure),
    TB_OPTION_HEADING_ROW("Image, as for tbpkg build:"),
    TB_OPTION(0, "target", "TARGET", TB_OPTION_STRING, target, "oci, vm-qemu or vm-azure [oci]"),
    ROW_DEB_DIR(debs),
    TB_OPTION(0, "base-image", "IMAGE", TB_OPTION_STRING, base, "what to build on"),
    ROW_REGISTRY(registry),
    ROW_IMAGE_NAME(image_name),
    TB_OPTION(0, "image-tag", "TAG", TB_OPTION_STRING, tag, "its tag [latest]"),
    ROW_NO_PUSH(no_push),
    ROW_INSECURE_REGISTRY(insecure_registry),
    ROW_VAR(vars),
    TB_OPTION(0, "packer-dir", "DIR", TB_OPTION_DIR_NAME, packer, "directory of the Packer templates",
              .setting = "build.template_dir"),
    TB_OPTION_HEADING_ROW("Package:"),
    ROW_VM_IMAGE(vm_image),
    ROW_IMAGE(image),
    ROW_NO_IMAGE(no_image),
    ROW_SET(sets),
    ROW_PACKAGE_VERSION(package_version),
    ROW_PROVIDER_KEY(provider_key, PACKAGE_PROVIDER_KEY_HELP " [that of --sign-key]"),
    TB_OPTION(0, "template-dir", "DIR", TB_OPTION_STRING, templates, "directory of the templates",
              .setting = "package.template_dir"),
    CLI_GONE_ROW("all-steps", NULL, "all steps are what publish does"),
    ROWS_GONE_PROGRAMS,
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

/* Each step's own command says what is wrong with its part, before the first one starts. */
static int publish_check_steps(struct publish *p)
{
    const char *asset_id = p->asset_id, *in = p->in;
    int rc = CLI_OK;

    p->asset_id = asset_id ? asset_id : "missing"; /* which was said */
    p->in = in && *in ? in : ".";
    cli_check_only(true);
    for (int s = 0; s < N_STEPS; s++) {
        _cleanup_words_ struct publish_words w = {0};

        if (p->skip[s] || (s == STEP_UPLOAD && publish_streams(p)))
            continue;
        publish_argv(p, s, &w);
        rc = cli_worse(rc, w.failed ? tbpkg_fail_errno("publish", -ENOMEM) : p->commands[s]->run(w.n, w.v));
    }
    cli_check_only(false);
    p->asset_id = asset_id;
    p->in = in;
    return rc;
}

static int publish_name_files(struct publish *p)
{
    p->encrypted = tb_path_join(p->dir, "encrypted");
    p->key_dir = tb_strf("%s/", p->dir);
    if (!p->encrypted || !p->key_dir)
        return tbpkg_fail_errno("publish", -ENOMEM);
    p->ciphertext = p->out ? strdup(p->out) : tb_path_join(p->encrypted, ASSET_DEFAULT_NAME);
    p->manifest = tb_path_join(p->encrypted, ASSET_DEFAULT_MANIFEST);
    p->journal = p->manifest ? tb_strf("%s" JOURNAL_SUFFIX, p->manifest) : NULL;
    p->sbom = tb_path_join(p->dir, "image.spdx.json");
    if (!p->zip)
        p->zip = p->default_zip = tb_path_join(p->dir, "managed-app.zip");
    return p->ciphertext && p->manifest && p->journal && p->sbom && p->zip
               ? CLI_OK
               : tbpkg_fail_errno("publish", -ENOMEM);
}

static int publish_check_base(struct publish *p)
{
    const struct cli *c = &p->cli;
    size_t n = p->asset_id ? strlen(p->asset_id) : 0;

    if (!p->under || n == 0)
        return !p->under && p->base_manifest ? cli_usage(c, "--base-manifest: say of which version by --base")
                                             : CLI_OK;
    if (strncmp(p->under, p->asset_id, n) != 0 || (p->under[n] != '\0' && p->under[n] != '@'))
        return cli_usage(c, "--base: a version of asset '%s', as in %s@1, not '%s'", p->asset_id, p->asset_id,
                         p->under);
    if (!p->key_file && getenv("TBPKG_KEY_FILE"))
        p->key_file = getenv("TBPKG_KEY_FILE");
    if (!p->key_file)
        return cli_usage(c, "--base: the key of that version is missing; name its file by --key-file");
    if (p->key_out || p->forget_key)
        return cli_usage(c, "--base: an overlay has the key of its base, and makes none: leave --%s out",
                         p->key_out ? "key-out" : "forget-key");
    return CLI_OK;
}

/* Of what the output directory has, when it is not given. */
static int publish_default_asset_id(struct publish *p)
{
    if (!p->asset_id && *p->dir && access(p->manifest, F_OK) == 0)
        return asset_id_default(&p->cli, p->manifest, &p->asset_id, &p->found_asset_id);
    if (!p->asset_id && *p->dir && publish_state_asset(p->dir, &p->found_asset_id) == CLI_OK)
        p->asset_id = p->found_asset_id;
    return cli_check_asset_id(&p->cli, p->asset_id);
}

/* A connection string names it, and what is neither uploaded nor registered needs none. */
static bool publish_knows_account(const struct publish *p)
{
    return p->connection_string_file || getenv("AZURE_STORAGE_CONNECTION_STRING") ||
           (p->skip[STEP_UPLOAD] && p->skip[STEP_REGISTER]);
}

static int publish_check_own(struct publish *p)
{
    const struct cli *c = &p->cli;
    int rc = CLI_OK;

    if (!*p->dir)
        rc = cli_usage(c, "--output: name a directory");
    if (!p->skip[STEP_ENCRYPT] && (!p->in || !*p->in))
        rc = cli_usage(c, "no input: name a file or a directory, or use --skip-encrypt");
    if (p->in && strcmp(p->in, "-") == 0)
        rc = cli_usage(c, "the input must be a file or a directory, so that the run can be continued");
    if (p->out && (!*p->out || strcmp(p->out, "-") == 0 || p->out[strlen(p->out) - 1] == '/'))
        rc = cli_usage(c, "--out: name a file");
    if (p->key_out && strcmp(p->key_out, "-") == 0)
        rc = cli_usage(c, "--key-out: name a file, a directory or a recipient");
    if (!p->debs && (cli_given(c, "registry") || p->target) && !p->skip[STEP_BUILD])
        rc = cli_usage(
            c,
            "--deb-dir is missing: the directory with the .debs that go into the image; or use --skip-build");
    if (!p->account && !publish_knows_account(p))
        rc = cli_usage(c, "--storage-account is missing; AZURE_STORAGE_ACCOUNT or azure.storage_account in "
                          "tbpkg.ini may hold it");
    if (!p->yes && !p->dry_run && !isatty(STDIN_FILENO))
        rc = cli_usage(c, "standard input is not a terminal: use --yes to continue without a question");
    return rc;
}

/* What several steps miss is said once. */
static int publish_check_options(void *job)
{
    _cleanup_faults_ struct cli_faults all = {0};
    struct publish *p = job;
    int rc;

    cli_capture_faults(&all);
    rc = publish_check_own(p);
    p->skip[STEP_BUILD] |= !p->debs;
    if (p->skip[STEP_ENCRYPT] && !p->key_file && getenv("TBPKG_KEY_FILE"))
        p->key_file = getenv("TBPKG_KEY_FILE");
    if (publish_name_files(p) == CLI_OK)
        rc = cli_worse(rc, publish_default_asset_id(p));
    if (p->manifest)
        rc = cli_worse(cli_worse(rc, publish_check_base(p)), publish_check_steps(p));
    cli_capture_faults(NULL);
    for (size_t i = 0; i < all.n; i++)
        if (all.v[i].rc == CLI_USAGE)
            (void)cli_usage(&p->cli, "%s", all.v[i].reason);
        else
            tbpkg_fail_as(all.v[i].rc, all.v[i].object, all.v[i].reason, all.v[i].remedy);
    return all.n > 0 && rc == CLI_OK ? CLI_FAILED : rc;
}

/* CLI_OK to go on. */
static int publish_confirm(const struct publish *p)
{
    char answer[8];

    if (p->yes)
        return CLI_OK;
    fprintf(stderr, "Go on? [Y/n] ");
    if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != '\n' && answer[0] != 'y' && answer[0] != 'Y'))
        return tbpkg_fail("publish", "cancelled; nothing was done", NULL);
    return CLI_OK;
}

/* -- the end ----------------------------------------------------------------------------------- */

/* Without times: the same run, interrupted or not, ends in the same summary. */
static cJSON *publish_make_summary(const struct publish *p)
{
    cJSON *d = cJSON_CreateObject(), *steps;

    cJSON_AddStringToObject(d, "asset_id", p->asset_id);
    cJSON_AddStringToObject(d, "output", p->dir);
    if (p->key)
        cJSON_AddStringToObject(d, "key_file", p->key);
    steps = cJSON_AddObjectToObject(d, "steps");
    for (int s = 0; s < N_STEPS; s++) {
        static const char *const of_a_run[] = {"seconds", "bytes_sent", "bytes_resumed"};
        const cJSON *r = p->skip[s] ? NULL : publish_state_result(&p->state, p->commands[s]->name);
        cJSON *o = r ? cJSON_Duplicate(r, true) : cJSON_CreateObject(), *i;

        for (size_t n = 0; n < ARRAY_SIZE(of_a_run); n++) {
            cJSON_DeleteItemFromObjectCaseSensitive(o, of_a_run[n]);
            cJSON_ArrayForEach (i, o)
                if (cJSON_IsObject(i))
                    cJSON_DeleteItemFromObjectCaseSensitive(i, of_a_run[n]);
        }
        cJSON_AddBoolToObject(o, "skipped", p->skip[s]);
        cJSON_AddItemToObject(steps, p->commands[s]->name, o);
    }
    return d;
}

static void publish_print_row(const char *what, const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    if (cJSON_IsString(v))
        printf("%-12s %s\n", what, v->valuestring);
}

static void publish_print_table(const struct publish *p, const cJSON *summary)
{
    const cJSON *steps = cJSON_GetObjectItemCaseSensitive(summary, "steps");
    const cJSON *encrypt = cJSON_GetObjectItemCaseSensitive(steps, "encrypt");
    const cJSON *upload = cJSON_GetObjectItemCaseSensitive(steps, "upload");
    const cJSON *package = cJSON_GetObjectItemCaseSensitive(steps, "package");

    publish_print_row("asset", summary, "asset_id");
    publish_print_row("ciphertext", encrypt, "encrypted_file");
    publish_print_row("sha256", encrypt, "sha256_ciphertext");
    publish_print_row("stored as", cJSON_GetObjectItemCaseSensitive(upload, "ciphertext"), "url");
    printf("%-12s %s\n", "registered", p->skip[STEP_REGISTER] ? "no (skipped)" : p->edc_endpoint);
    publish_print_row("key", summary, "key_file");
    publish_print_row("image", cJSON_GetObjectItemCaseSensitive(steps, "build"), "image");
    publish_print_row("digest", cJSON_GetObjectItemCaseSensitive(steps, "build"), "digest");
    publish_print_row("package", package, "package");
    publish_print_row("version", package, "version");
    printf("%-12s %s/" SUMMARY_NAME "\n", "summary", p->dir);
}

static int publish_finish(struct publish *p)
{
    _cleanup_free_ char *path = tb_path_join(p->dir, SUMMARY_NAME), *text = NULL;
    _cleanup_json_ cJSON *summary = NULL;
    int r, rc = publish_key_forget(p);

    if (rc != CLI_OK)
        return rc;
    summary = publish_make_summary(p);
    text = cJSON_Print(summary);
    if (path)
        tb_newfile_sweep(path);
    r = path && text ? tb_write_file_atomic(path, text, strlen(text), 0644) : -ENOMEM;
    if (r < 0)
        return tbpkg_fail_errno(path ? path : SUMMARY_NAME, r);
    if (p->cli.json)
        return cli_print_json(summary);
    if (!p->cli.quiet)
        publish_print_table(p, summary);
    return cli_flush_stdout();
}

/* -- main -------------------------------------------------------------------------------------- */

static int publish_run_steps(struct publish *p)
{
    cli_progress_as_json(p->cli.json); /* each step's own JSON is for us */
    for (int s = 0; s < N_STEPS; s++) {
        int rc = CLI_OK;
        enum publish_action action =
            publish_decide(p, s, &rc); /* anew: a step before may have changed this one's inputs */

        if (rc == CLI_OK && action == ACTION_RUN) {
            tbpkg_note(p->cli.quiet, "Step %d of %d: %s%s", s + 1, N_STEPS, p->commands[s]->name,
                       s == STEP_ENCRYPT && publish_streams(p) ? " and upload" : "");
            rc = publish_run_step(p, s);
        }
        if (rc != CLI_OK) {
            tbpkg_note(
                p->cli.quiet,
                "The step '%s' failed. Run the same command again to continue; steps that are done are "
                "not repeated.",
                p->commands[s]->name);
            return rc == CLI_USAGE ? CLI_FAILED : rc;
        }
    }
    return CLI_OK;
}

static int publish_all(struct publish *p)
{
    _cleanup_plan_ struct publish_plan plan = PUBLISH_PLAN_INIT;
    int rc = publish_plan_make(p, &plan);

    if (p->dry_run && p->cli.json)
        return publish_plan_print_json(p, &plan) == CLI_OK ? rc : CLI_FAILED;
    if (rc != CLI_OK)
        return publish_plan_fail(p, &plan);
    publish_plan_show(p, &plan);
    if (p->dry_run)
        return CLI_OK;
    rc = publish_confirm(p);
    if (rc != CLI_OK)
        return rc;
    cli_interrupt_note("Run the same command again to continue; steps that are done are not repeated.");
    rc = publish_run_steps(p);
    return rc == CLI_OK ? publish_finish(p) : rc;
}

static int publish_main(int argc, char **argv)
{
    _cleanup_(publish_clear) struct publish p = {.cli = {.command = &tbpkg_publish},
                                                 .commands = publish_commands,
                                                 .verify = &tbpkg_verify,
                                                 .dir = "publish-output",
                                                 .container = "models",
                                                 .chunk_bytes = TBENC_CHUNK_BYTES_DEFAULT,
                                                 .templates = "/usr/share/trustbridge/managed-app",
                                                 .state = PUBLISH_STATE_INIT,
                                                 .source = SOURCE_INIT};

    tb_secret_init();
    if (cli_parse(&p.cli, &p, argc, argv, CLI_ONE_INPUT, &p.in, publish_check_options) != CLI_OK)
        return p.cli.rc;
    return publish_all(&p);
}

const struct tbpkg_command tbpkg_publish = {
    .name = "publish",
    .summary = "all of it: encrypt, upload, register, build, package; resumable",
    .synopsis = "--asset-id ID [OPTION]... INPUT",
    .about = "Encrypt a model, upload it, register it with the control plane, build the image and make the\n"
             "package of the managed application. Run the same command again to continue a run that was\n"
             "interrupted: steps that are done, with the same inputs, are not repeated. The key stays in\n"
             "DIR/ASSET-KEYID.key (0600) unless --key-out or --forget-key says otherwise.\n",
    .options = publish_options,
    .run = publish_main,
};
