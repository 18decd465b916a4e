/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/publish/journal.h"

#define FAST_LINE (1000000000 / 8) /* bytes a second, for a first idea of the time */
#define SLOW_LINE (100000000 / 8)

/* -- what becomes of each step ----------------------------------------------------------------- */

enum publish_action publish_decide(struct publish *p, enum publish_step s, int *ret_rc)
{
    const char *before;
    bool done;

    if (p->skip[s])
        return ACTION_SKIP;
    *ret_rc = publish_hash(p, s);
    before = publish_state_inputs(&p->state, p->commands[s]->name, &done);
    return done && before && strcmp(before, p->hash) == 0 && publish_outputs_there(p, s) ? ACTION_DONE
                                                                                         : ACTION_RUN;
}

/* An input that changed makes another asset: under the same id its consumers would fail. */
static int plan_check_same_model(struct publish *p)
{
    bool done;
    const char *before = publish_state_inputs(&p->state, "encrypt", &done);

    if (!before || strcmp(before, p->hash) == 0 || (!done && access(p->manifest, F_OK) < 0))
        return CLI_OK;
    return tbpkg_failf(
        p->in,
        "is not what %s was begun with (contents, chunk size or fine-tuning); use a new asset id and "
        "another --output",
        p->state.path);
}

static int plan_decide(struct publish *p, struct publish_plan *plan)
{
    int rc = CLI_OK;
    bool done;

    for (int s = 0; rc == CLI_OK && s < N_STEPS; s++) {
        plan->steps[s] = publish_decide(p, s, &rc);
        if (s != STEP_ENCRYPT || plan->steps[s] != ACTION_RUN || rc != CLI_OK)
            continue;
        rc = publish_state_inputs(&p->state, "encrypt", &done) ? plan_check_same_model(p)
                                                               : publish_check_recorded(p);
    }
    return rc;
}

/* -- this machine ------------------------------------------------------------------------------ */

static int plan_check_files(const struct publish *p)
{
    const char *const files[] = {p->connection_string_file,
                                 p->account_key_file,
                                 p->sas_file,
                                 p->token_file,
                                 p->cert,
                                 p->cert_key,
                                 p->ca_file,
                                 p->key_file};
    int rc = CLI_OK;

    for (size_t i = 0; i < ARRAY_SIZE(files); i++)
        if (files[i] && strcmp(files[i], "-") != 0 && access(files[i], R_OK) < 0)
            rc = tbpkg_fail_errno(files[i], -errno);
    return rc;
}

static int plan_make_dirs(const struct publish *p, struct publish_plan *plan)
{
    int r, rc = CLI_OK;

    plan->made_dirs = access(p->encrypted, F_OK) < 0;
    r = tb_mkdir_p(p->encrypted, 0777);
    if (r < 0)
        return tbpkg_fail_errno(p->encrypted, r);
    if (!p->skip[STEP_ENCRYPT])
        rc = source_check_output(&p->source, "--output", p->encrypted);
    return rc;
}

/* What a killed run left half written; it may be as large as the model. */
static void plan_sweep(const struct publish *p)
{
    const char *const made[] = {p->ciphertext, p->manifest, p->journal, p->zip, p->sbom};

    for (size_t i = 0; i < ARRAY_SIZE(made); i++)
        tb_newfile_sweep(made[i]);
    publish_key_sweep(p);
}

static int plan_open_output(struct publish *p, struct publish_plan *plan)
{
    int rc;

    if (p->dry_run && access(p->dir, F_OK) < 0)
        return publish_state_none(p->dir, p->asset_id, &p->state);
    rc = plan_make_dirs(p, plan);
    if (rc == CLI_OK)
        rc = publish_state_open(p->dir, p->asset_id, &p->state);
    if (rc == CLI_OK && !p->dry_run)
        plan_sweep(p);
    return rc;
}

/* An asset that is stored or registered is not encrypted again under a new key; and its key is there when it
 * is needed. */
static int plan_check_key(struct publish *p, const struct publish_plan *plan)
{
    bool encrypted, uploaded, registered;
    const char *begun = publish_state_inputs(&p->state, "upload", &uploaded);
    const enum publish_action *steps = plan->steps;

    (void)publish_state_inputs(&p->state, "encrypt", &encrypted);
    (void)publish_state_inputs(&p->state, "register", &registered);
    if (steps[STEP_ENCRYPT] == ACTION_RUN && encrypted && (begun || registered))
        return tbpkg_fail(access(p->manifest, F_OK) < 0 ? p->manifest : p->ciphertext,
                          "is missing, and the asset is in use: encrypting again would make another key",
                          "put the file back, or use a new asset id and another --output");
    if (steps[STEP_ENCRYPT] == ACTION_RUN && p->key_file && !p->under && access(p->manifest, F_OK) < 0 &&
        !(publish_streams(p) && access(p->journal, F_OK) == 0))
        return tbpkg_fail(p->key_file, "is not used: encrypting makes a key",
                          "leave --key-file out, or use --skip-encrypt");
    publish_key_find(p);
    if ((steps[STEP_REGISTER] == ACTION_RUN || (steps[STEP_UPLOAD] == ACTION_RUN && publish_streams(p))) &&
        steps[STEP_ENCRYPT] != ACTION_RUN && !p->key && !p->key_file)
        return publish_key_missing(p);
    return CLI_OK;
}

/* The ciphertext, or what is kept of one that goes to the storage. */
static void plan_check_room(struct publish *p, struct publish_plan *plan)
{
    uint64_t bytes = source_ciphertext_bytes(&p->source, p->chunk_bytes);
    const char *path = p->out ? p->out : access(p->dir, F_OK) == 0 ? p->encrypted : p->dir;
    struct finding *k = checklist_begin(&plan->look.list, "disk");
    char text[32];

    plan->bytes = bytes;
    if (publish_streams(p))
        bytes = 2 * TBENC_MANIFEST_MAX + bytes / BLOB_BLOCK_BYTES_DEFAULT * JOURNAL_LINE_MAX;
    checklist_end(k, asset_check_space(path, bytes), CHECK_OK, "there is room for %s",
                  tb_bytes_format(bytes, text, sizeof(text)));
}

/* The package is made, but for its last step. */
static int plan_check_package(const struct publish *p)
{
    _cleanup_words_ struct publish_words w = {0};
    _cleanup_json_ cJSON *valid = NULL;
    struct publish quiet = *p;
    int rc;

    quiet.cli.quiet = true;
    publish_argv(&quiet, STEP_PACKAGE, &w);
    if (w.n + 1 >= (int)ARRAY_SIZE(w.v) || !(w.v[w.n] = strdup("--dry-run")))
        return tbpkg_fail_errno("publish", -ENOMEM);
    w.n++;
    cli_capture_json(&valid);
    rc = p->commands[STEP_PACKAGE]->run(w.n, w.v);
    cli_capture_json(NULL);
    return rc;
}

/* Model, output directory and what was done there. */
static int plan_look_here(struct publish *p, struct publish_plan *plan)
{
    struct checklist *l = &plan->look.list;
    struct finding *k = checklist_begin(l, "files");
    int rc = CLI_OK;

    (void)checklist_end(k, plan_check_files(p), CHECK_OK, "all that are named can be read");
    if (p->sign.key_file) {
        k = checklist_begin(l, "signing key");
        (void)checklist_end(k, signer_open(&p->signer, &p->sign), CHECK_OK, "%s", p->sign.key_file);
    }
    p->how.quiet = p->cli.quiet || !p->dry_run; /* the step of encryption says it, too */
    if (!p->skip[STEP_ENCRYPT]) {
        k = checklist_begin(l, "model");
        rc = checklist_end(k, source_open(p->in, &p->how, &p->source), CHECK_OK, "%s", p->in);
    }
    if (rc == CLI_OK) {
        k = checklist_begin(l, "output");
        rc = checklist_end(k, plan_open_output(p, plan), CHECK_OK, "%s", p->dir);
    }
    if (rc == CLI_OK) {
        k = checklist_begin(l, "state");
        rc = plan_decide(p, plan);
        if (rc == CLI_OK)
            rc = plan_check_key(p, plan);
        if (rc == CLI_OK && plan->steps[STEP_ENCRYPT] != ACTION_RUN)
            rc = publish_check_signed(p);
        rc = checklist_end(k, rc, CHECK_OK, "%s", p->state.path);
    }
    if (rc == CLI_OK && plan->steps[STEP_ENCRYPT] == ACTION_RUN)
        plan_check_room(p, plan);
    if (rc == CLI_OK && plan->steps[STEP_PACKAGE] == ACTION_RUN) {
        k = checklist_begin(l, "package");
        (void)checklist_end(k, plan_check_package(p), CHECK_OK, "%s", p->zip);
    }
    return rc;
}

/* -- the services ------------------------------------------------------------------------------ */

/* What the manifest says of the ciphertext that is there already, or comes from a run before. */
static void plan_take_manifest(const struct publish *p, struct publish_plan *plan)
{
    struct asset_store *s = &plan->look.store;
    struct tbenc_manifest *m = NULL;

    if (plan->steps[STEP_ENCRYPT] == ACTION_RUN || access(p->manifest, F_OK) < 0 ||
        asset_manifest_read(p->manifest, 0, &m) != CLI_OK)
        return;
    tb_hex_encode(m->sha256_ciphertext, sizeof(m->sha256_ciphertext), plan->look.sha256);
    memcpy(s->ct.sha256, plan->look.sha256, sizeof(s->ct.sha256));
    s->ct.size = tbenc_manifest_ciphertext_bytes(m);
    plan->bytes = s->ct.size;
    (void)tbenc_manifest_free(m);
}

static void plan_look_at_storage(struct publish *p, struct publish_plan *plan)
{
    struct asset_store *s = &plan->look.store;

    s->account = p->account;
    s->container = p->container;
    s->endpoint = p->blob_endpoint;
    s->ca_file = p->ca_file;
    s->credentials = (struct azure_auth_options){.connection_string_file = p->connection_string_file,
                                                 .account_key_file = p->account_key_file,
                                                 .sas_file = p->sas_file};
    plan->look.fresh = access(p->journal, F_OK) < 0;
    preflight_storage(&plan->look);
}

static void plan_look_at_control_plane(struct publish *p, struct publish_plan *plan)
{
    struct preflight *look = &plan->look;

    look->remote.endpoint = p->edc_endpoint;
    look->remote.token_file = p->token_file;
    look->remote.cert = p->cert;
    look->remote.cert_key = p->cert_key;
    look->remote.ca_file = p->ca_file;
    look->remote.insecure = p->insecure;
    look->replace = p->replace || p->no_promote;
    look->seconds = plan->bytes / (p->bandwidth ? p->bandwidth : SLOW_LINE);
    preflight_control_plane(look);
}

static void plan_look_at_services(struct publish *p, struct publish_plan *plan)
{
    struct preflight *look = &plan->look;

    look->cli = &p->cli;
    look->asset_id = p->asset_id;
    look->target = p->target;
    look->registry = p->registry;
    look->base = p->base;
    look->no_push = p->no_push;
    look->insecure_registry = p->insecure_registry;
    plan_take_manifest(p, plan);
    if (plan->steps[STEP_UPLOAD] == ACTION_RUN)
        plan_look_at_storage(p, plan);
    if (plan->steps[STEP_REGISTER] == ACTION_RUN)
        plan_look_at_control_plane(p, plan);
    if (plan->steps[STEP_BUILD] == ACTION_RUN)
        preflight_image(look);
}

int publish_plan_make(struct publish *p, struct publish_plan *plan)
{
    const struct finding *output;

    for (int s = 0; s < N_STEPS; s++) /* until it is known better */
        plan->steps[s] = p->skip[s] ? ACTION_SKIP : ACTION_RUN;
    (void)plan_look_here(p, plan);
    plan->files = p->skip[STEP_ENCRYPT] ? 0 : source_count(&p->source);
    output = checklist_find(&plan->look.list, "output");
    if (!output || output->state != CHECK_FAILED) /* perhaps another run is at work */
        plan_look_at_services(p, plan);
    return checklist_rc(&plan->look.list);
}

int publish_plan_fail(struct publish *p, struct publish_plan *plan)
{
    int rc = checklist_report(&plan->look.list);

    publish_state_close(&p->state);
    if (plan->made_dirs && rmdir(p->encrypted) == 0)
        (void)rmdir(p->dir);
    tbpkg_note(p->cli.quiet, "Nothing was done. Run the same command again when that is mended.");
    return rc;
}

/* -- telling ----------------------------------------------------------------------------------- */

static const char *const action_texts[] = {
    [ACTION_RUN] = "to do", [ACTION_DONE] = "done already", [ACTION_SKIP] = "skipped"};

/* Below a step. */
static void plan_tell(const struct publish *p, const char *fmt, ...) _printf_(2, 3);
static void plan_tell(const struct publish *p, const char *fmt, ...)
{
    char line[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    tbpkg_note(p->cli.quiet, "                %s", line);
}

static void plan_tell_check(const struct publish *p, const struct publish_plan *plan, const char *name,
                            const char *what)
{
    const struct finding *k = checklist_find(&plan->look.list, name);

    if (k && k->detail)
        plan_tell(p, "%s%s", what, k->detail);
}

/* "about 35 min at 1 Gbit/s, 5 h 50 min at 100 Mbit/s" */
static void plan_tell_time(const struct publish *p, uint64_t bytes)
{
    char fast[TB_SPAN_MAX], slow[TB_SPAN_MAX], rate[32];

    if (p->bandwidth)
        plan_tell(p, "about %s at %s/s", tb_span_format((bytes / p->bandwidth + 1) * TB_USEC_PER_SEC, slow),
                  tb_bytes_format(p->bandwidth, rate, sizeof(rate)));
    else
        plan_tell(p, "about %s on a line of 1 Gbit/s, %s on one of 100 Mbit/s",
                  tb_span_format((bytes / FAST_LINE + 1) * TB_USEC_PER_SEC, fast),
                  tb_span_format((bytes / SLOW_LINE + 1) * TB_USEC_PER_SEC, slow));
}

static void plan_tell_encrypt(const struct publish *p, const struct publish_plan *plan)
{
    char bytes[32];

    plan_tell(p, "%s in %" PRIu64 " file%s of %s", tb_bytes_format(p->source.bytes, bytes, sizeof(bytes)),
              plan->files, plan->files == 1 ? "" : "s", p->in);
    if (publish_streams(p))
        plan_tell(p, "sealed on the way to the storage; no copy is kept here");
    else
        plan_tell(p, "into %s, %s", p->ciphertext, tb_bytes_format(plan->bytes, bytes, sizeof(bytes)));
    if (p->under)
        plan_tell(p, "what %s has not; key: that of it", p->under);
    else if (p->key)
        plan_tell(p, "key: %s", p->key);
    else if (p->key_out)
        plan_tell(p, "key: to %s", p->key_out);
    else
        plan_tell(p, "key: %s%s-KEYID.key", p->key_dir, p->asset_id);
}

static void plan_tell_upload(const struct publish *p, const struct publish_plan *plan)
{
    const struct asset_store *s = &plan->look.store;
    char bytes[32];

    plan_tell(p, "%s to %s/%s/%s/", tb_bytes_format(plan->bytes, bytes, sizeof(bytes)),
              s->service.url ? s->service.url : "", s->container, p->asset_id);
    plan_tell_check(p, plan, "credential", "by ");
    plan_tell_check(p, plan, "asset id", "");
    plan_tell_time(p, plan->bytes);
}

static void plan_tell_build(const struct publish *p, const struct publish_plan *plan)
{
    if (!p->target || strcmp(p->target, "oci") == 0)
        plan_tell(p, "%s/%s:%s%s", p->registry ? p->registry : "",
                  p->image_name ? p->image_name : "trustbridge-runtime", p->tag ? p->tag : "latest",
                  p->no_push ? ", not pushed" : "");
    else
        plan_tell(p, "an image of a machine, %s", p->target);
    plan_tell(p, "with the packages in %s", p->debs);
    plan_tell_check(p, plan, "registry", "pushed to ");
}

static void plan_tell_step(const struct publish *p, const struct publish_plan *plan, enum publish_step s)
{
    if (s == STEP_ENCRYPT)
        plan_tell_encrypt(p, plan);
    else if (s == STEP_UPLOAD)
        plan_tell_upload(p, plan);
    else if (s == STEP_REGISTER) {
        plan_tell(p, "at %s", p->edc_endpoint);
        plan_tell_check(p, plan, "token", "by the token ");
        plan_tell_check(p, plan, "registration", "");
    } else if (s == STEP_BUILD)
        plan_tell_build(p, plan);
    else if (s == STEP_PACKAGE)
        plan_tell(p, "%s", p->zip);
}

void publish_plan_show(const struct publish *p, const struct publish_plan *plan)
{
    (void)checklist_report(&plan->look.list); /* warnings */
    for (int s = 0; s < N_STEPS; s++) {
        tbpkg_note(
            p->cli.quiet, "  %d. %-10s %s%s", s + 1, p->commands[s]->name, action_texts[plan->steps[s]],
            s == STEP_UPLOAD && plan->steps[s] == ACTION_RUN && publish_streams(p) ? ", with the encryption"
                                                                                   : "");
        if (plan->steps[s] == ACTION_RUN)
            plan_tell_step(p, plan, s);
    }
}

int publish_plan_print_json(const struct publish *p, const struct publish_plan *plan)
{
    _cleanup_json_ cJSON *d = cJSON_CreateObject();
    const struct asset_store *s = &plan->look.store;
    cJSON *steps;

    cJSON_AddStringToObject(d, "asset_id", p->asset_id);
    cJSON_AddStringToObject(d, "output", p->dir);
    cJSON_AddBoolToObject(d, "dry_run", true);
    cJSON_AddBoolToObject(d, "ok", checklist_rc(&plan->look.list) == CLI_OK);
    if (!p->skip[STEP_ENCRYPT]) {
        tb_json_add_uint(d, "files", plan->files);
        tb_json_add_uint(d, "plaintext_bytes", p->source.bytes);
    }
    if (plan->bytes)
        tb_json_add_uint(d, "ciphertext_bytes", plan->bytes);
    if (plan->bytes && p->bandwidth)
        tb_json_add_uint(d, "seconds", plan->bytes / p->bandwidth + 1);
    if (s->service.url && s->ct.path) {
        _cleanup_free_ char *url = tb_strf("%s/%s", s->service.url, s->ct.path);

        cJSON_AddStringToObject(d, "url", url ? url : "");
    }
    steps = cJSON_AddObjectToObject(d, "steps");
    for (int i = 0; i < N_STEPS; i++)
        cJSON_AddStringToObject(steps, p->commands[i]->name, action_texts[plan->steps[i]]);
    cJSON_AddItemToObject(d, "checks", checklist_json(&plan->look.list));
    return cli_print_json(d);
}
