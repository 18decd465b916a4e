/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of tbpkg publish. Each is a subcommand, run in this process with the command line that a person
 * would type; its JSON is the step's result. A step is recorded as begun, with the hash of its inputs, before
 * it runs, and as done after: a killed run leaves a step that is begun, and each can be run again. */
#include "provider/publish/publish.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/cli/key_arg.h"
#include "common/hex.h"
#include "common/json.h"
#include "common/text.h"
#include "provider/cli/command.h"

/* -- command lines ----------------------------------------------------------------------------- */

static void step_add(struct publish_words *w, const char *word)
{
    char *s = strdup(word);

    if (!s || (size_t)w->n + 1 >= ARRAY_SIZE(w->v)) {
        free(s);
        w->failed = true;
        return;
    }
    w->v[w->n++] = s;
}

/* "--name=value", unless there is no value */
static void step_add_option(struct publish_words *w, const char *name, const char *value)
{
    _cleanup_free_ char *s = value ? tb_strf("--%s=%s", name, value) : NULL;

    if (s)
        step_add(w, s);
    else if (value)
        w->failed = true;
}

static void step_add_flag(struct publish_words *w, const char *word, bool on)
{
    if (on)
        step_add(w, word);
}

void publish_words_clear(struct publish_words *w)
{
    for (int i = 0; i < w->n; i++)
        free(w->v[i]);
    *w = (struct publish_words){0};
}

static void step_add_number(struct publish_words *w, const char *name, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    step_add_option(w, name, text);
}

static void step_add_storage(const struct publish *p, struct publish_words *w)
{
    step_add_option(w, "storage-account", p->account);
    step_add_option(w, "container", p->container);
    step_add_option(w, "endpoint", p->blob_endpoint);
    step_add_option(w, "connection-string-file", p->connection_string_file);
    step_add_option(w, "account-key-file", p->account_key_file);
    step_add_option(w, "sas-file", p->sas_file);
    step_add_option(w, "ca-file", p->ca_file);
    if (p->bandwidth)
        step_add_number(w, "bandwidth", p->bandwidth);
}

static void step_encrypt_argv(const struct publish *p, struct publish_words *w)
{
    step_add_option(w, "asset-id", p->asset_id);
    if (!p->under)
        step_add_number(w, "chunk-bytes", p->chunk_bytes);
    step_add_option(w, "manifest", p->manifest);
    if (publish_streams(p)) {
        step_add(w, "--upload");
        step_add_storage(p, w);
        step_add_option(w, "key-file", p->key_file ? p->key_file : p->key);
    } else {
        step_add_option(w, "out", p->ciphertext);
        step_add(w, "--force"); /* what stands there without a record is of a run that was killed */
    }
    if (p->under) {
        step_add_option(w, "base", p->base_found ? p->base_found : p->under);
        step_add_option(w, "base-manifest", p->base_file ? p->base_file : p->manifest);
        step_add_option(w, "key-file", p->key_file);
    } else {
        step_add_option(w, "key-out", p->key_out ? p->key_out : p->key_dir);
    }
    step_add_flag(w, "--no-finetune", p->no_finetune);
    step_add_option(w, "sign-key", p->sign.key_file);
    step_add_option(w, "sign-passphrase-file", p->sign.passphrase_file);
    for (size_t i = 0; i < p->how.include.n; i++)
        step_add_option(w, "include", p->how.include.v[i]);
    for (size_t i = 0; i < p->how.exclude.n; i++)
        step_add_option(w, "exclude", p->how.exclude.v[i]);
    step_add_option(w, "ignore-file", p->how.ignore_file);
    step_add_flag(w, "--follow-links", p->how.follow_links);
    step_add_flag(w, "--allow-incomplete", p->how.allow_incomplete);
    step_add_option(w, "in", p->in);
}

static void step_upload_argv(const struct publish *p, struct publish_words *w)
{
    if (publish_streams(p)) {
        step_encrypt_argv(p, w);
        return;
    }
    step_add_option(w, "asset-id", p->asset_id);
    step_add_option(w, "encrypted-file", p->ciphertext);
    step_add_option(w, "manifest", p->manifest);
    step_add_storage(p, w);
}

/* Where upload found that it lies: the URL of the container, "URL/ASSET/model.tbenc" without the last two
 * parts; or, when another version has that name, all of it. Heap, or NULL. */
static char *step_uploaded_to(const struct publish *p)
{
    const cJSON *o =
        cJSON_GetObjectItemCaseSensitive(publish_state_result(&p->state, "upload"), "ciphertext");
    const cJSON *u = cJSON_GetObjectItemCaseSensitive(o, "url");
    _cleanup_free_ char *tail = tb_strf("/%s/model.tbenc", p->asset_id);
    char *url = cJSON_IsString(u) ? strdup(u->valuestring) : NULL;

    if (url && tail && tb_text_ends_with(url, tail))
        url[strlen(url) - strlen(tail)] = '\0';
    return url;
}

static void step_add_container_url(const struct publish *p, struct publish_words *w)
{
    _cleanup_free_ char *url =
        tb_strf("https://%s.blob.core.windows.net/%s", p->account, p->container ? p->container : "models");

    step_add_option(w, "blob-url", url);
}

static void step_register_argv(const struct publish *p, struct publish_words *w)
{
    _cleanup_free_ char *url = p->skip[STEP_UPLOAD] ? NULL : step_uploaded_to(p);

    step_add_option(w, "asset-id", p->asset_id);
    step_add_option(w, "manifest", p->manifest);
    if (p->key_file || p->key)
        step_add_option(w, "key-file", p->key_file ? p->key_file : p->key);
    else if (!cli_key_is_held())
        step_add_option(w, "key-file", p->key_dir); /* only to be checked */
    step_add_option(w, "edc-endpoint", p->edc_endpoint);
    if (url || !p->account || (!p->skip[STEP_UPLOAD] && p->blob_endpoint)) {
        step_add_option(w, "blob-url", url ? url : "https://what.upload.finds"); /* only to be checked */
    } else if (p->blob_urls.n > 0) { /* register takes an account or URLs */
        step_add_container_url(p, w);
    } else {
        step_add_option(w, "storage-account", p->account);
        step_add_option(w, "container", p->container);
    }
    for (size_t i = 0; i < p->blob_urls.n; i++)
        step_add_option(w, "blob-url", p->blob_urls.v[i]);
    step_add_option(w, "token-file", p->token_file);
    step_add_option(w, "client-cert", p->cert);
    step_add_option(w, "client-key", p->cert_key);
    step_add_option(w, "ca-file", p->ca_file);
    step_add_flag(w, "--replace", p->replace);
    step_add_flag(w, "--no-promote", p->no_promote);
    step_add_flag(w, "--insecure-http", p->insecure);
}

/* What the machines are told to trust: what was said, else the key that signs here. */
static const char *step_provider_key(const struct publish *p)
{
    if (p->provider_key)
        return p->provider_key;
    return signer_signs(&p->signer) ? p->signer.text : NULL;
}

static void step_build_argv(const struct publish *p, struct publish_words *w)
{
    step_add_option(w, "target", p->target);
    step_add_option(w, "deb-dir", p->debs);
    step_add_option(w, "base-image", p->base);
    step_add_option(w, "registry", p->registry);
    step_add_option(w, "image-name", p->image_name);
    step_add_option(w, "tag", p->tag);
    for (size_t i = 0; i < p->vars.n; i++)
        step_add_option(w, "var", p->vars.v[i]);
    step_add_option(w, "template-dir", p->packer);
    step_add_option(w, "provider-key", step_provider_key(p));
    step_add_option(w, "sbom", p->sbom);
    step_add_flag(w, "--no-push", p->no_push);
    step_add_flag(w, "--insecure-registry", p->insecure_registry);
}

static const char *step_string_of(const cJSON *o, const char *name)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, name);

    return cJSON_IsString(v) ? v->valuestring : NULL;
}

/* What build made, as package wants it: a resource id, or "REGISTRY/NAME@DIGEST". Heap, or NULL: nothing that
 * package could use. */
static char *step_built_image(const struct publish *p, bool *ret_is_vm)
{
    const cJSON *r = p->skip[STEP_BUILD] ? NULL : publish_state_result(&p->state, "build");
    const char *target = step_string_of(r, "target"), *image = step_string_of(r, "image"),
               *digest = step_string_of(r, "digest");
    const char *tag;

    *ret_is_vm = target && strcmp(target, "vm-azure") == 0;
    if (!image || (!*ret_is_vm && !digest))
        return NULL;
    tag = strrchr(image, ':');
    return *ret_is_vm ? strdup(image) : tb_strf("%.*s@%s", (int)(tag ? tag - image : 0), image, digest);
}

/* What stands for the image that build has yet to make, where a command line is only checked. */
static const char *step_image_to_come(const struct publish *p)
{
    return !p->skip[STEP_BUILD] && p->target && strcmp(p->target, "vm-azure") == 0 ? "what:build:makes"
                                                                                   : NULL;
}

static void step_package_argv(const struct publish *p, struct publish_words *w)
{
    bool is_vm;
    _cleanup_free_ char *built = step_built_image(p, &is_vm);

    step_add_option(w, "asset-id", p->asset_id);
    step_add_option(w, "edc-endpoint", p->edc_endpoint);
    step_add_option(w, "vm-image", p->vm_image ? p->vm_image : is_vm ? built : step_image_to_come(p));
    step_add_flag(w, "--no-image", p->no_image);
    step_add_option(w, "image", p->image ? p->image : is_vm ? NULL : built);
    step_add_option(w, "template-dir", p->templates);
    step_add_option(w, "package-version", p->package_version);
    step_add_option(w, "provider-key", step_provider_key(p));
    for (size_t i = 0; i < p->sets.n; i++)
        step_add_option(w, "set", p->sets.v[i]);
    step_add_option(w, "output-zip", p->zip);
}

void publish_argv(const struct publish *p, enum publish_step s, struct publish_words *w)
{
    static void (*const fill[N_STEPS])(const struct publish *, struct publish_words *) = {
        [STEP_ENCRYPT] = step_encrypt_argv,   [STEP_UPLOAD] = step_upload_argv,
        [STEP_REGISTER] = step_register_argv, [STEP_BUILD] = step_build_argv,
        [STEP_PACKAGE] = step_package_argv,
    };

    step_add(w, publish_command(p, s)->name);
    step_add_option(w, "config", p->cli.config);
    step_add(w, "--json");
    step_add_flag(w, "--quiet", p->cli.quiet);
    fill[s](p, w);
}

/* -- inputs and outputs ------------------------------------------------------------------------ */

/* Names, sizes and times: reading the model twice would double the work. */
static void step_hash_source(const struct model_source *s, struct inputs *in)
{
    for (size_t i = 0; i < source_count(s); i++) {
        const struct tbenc_input *f = &source_inputs(s)[i];
        const struct timespec *t = s->is_dir ? &s->dir.times[i].m : &s->st.st_mtim;

        inputs_word(in, s->is_dir ? f->path : NULL);
        inputs_number(in, f->bytes);
        inputs_number(in, (uint64_t)t->tv_sec);
        inputs_number(in, (uint64_t)t->tv_nsec);
    }
}

static void step_hash_templates(const struct publish *p, struct inputs *in)
{
    static const char *const names[] = {"mainTemplate.json", "createUiDefinition.json",
                                        "viewDefinition.json"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        _cleanup_free_ char *path = tb_path_join(p->templates, names[i]);

        inputs_file(in, path);
    }
}

static void step_hash_encrypt(const struct publish *p, struct inputs *in)
{
    inputs_number(in, p->chunk_bytes);
    inputs_number(in, p->no_finetune);
    if (p->under)
        inputs_word(in, p->under);
    step_hash_source(&p->source, in);
}

static void step_hash_upload(const struct publish *p, struct inputs *in)
{
    inputs_file(in, p->manifest);
    inputs_word(in, p->account);
    inputs_word(in, p->container);
    inputs_word(in, p->blob_endpoint);
}

static void step_hash_list(struct inputs *in, const struct tb_option_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        inputs_word(in, l->v[i]);
    inputs_word(in, NULL);
}

static void step_hash_register(const struct publish *p, struct inputs *in)
{
    _cleanup_free_ char *url = p->skip[STEP_UPLOAD] ? NULL : step_uploaded_to(p);

    inputs_file(in, p->manifest);
    inputs_word(in, p->edc_endpoint);
    inputs_word(in, url);
    inputs_word(in, url ? NULL : p->account);
    inputs_word(in, url ? NULL : p->container);
    if (p->blob_urls.n > 0)
        step_hash_list(in, &p->blob_urls);
}

/* Names in order, and contents. */
static void step_hash_directory(struct inputs *in, const char *dir)
{
    struct dirent **list = NULL;
    int n = dir ? scandir(dir, &list, NULL, alphasort) : -1;

    for (int i = 0; i < n; i++) {
        _cleanup_free_ char *path = tb_path_join(dir, list[i]->d_name);
        struct stat st;

        if (path && stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
            inputs_word(in, list[i]->d_name);
            inputs_file(in, path);
        }
        free(list[i]);
    }
    free(list);
    inputs_number(in, (uint64_t)n);
}

static void step_hash_build(const struct publish *p, struct inputs *in)
{
    const char *const words[] = {p->target, p->registry, p->image_name, p->tag, p->base};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        inputs_word(in, words[i]);
    inputs_number(in, p->no_push);
    inputs_word(in, step_provider_key(p));
    step_hash_list(in, &p->vars);
    step_hash_directory(in, p->debs);
    step_hash_directory(in, p->packer);
}

static void step_hash_package(const struct publish *p, struct inputs *in)
{
    bool is_vm;
    _cleanup_free_ char *built = step_built_image(p, &is_vm);

    inputs_word(in, p->edc_endpoint);
    inputs_word(in, p->image);
    inputs_word(in, p->vm_image);
    inputs_number(in, p->no_image);
    inputs_word(in, built);
    inputs_word(in, p->package_version);
    inputs_word(in, step_provider_key(p));
    step_hash_list(in, &p->sets);
    inputs_word(in, p->zip);
    step_hash_templates(p, in);
}

/* Options that only say where a credential is are no inputs: a fresh one continues the same run. */
int publish_hash(struct publish *p, enum publish_step s)
{
    static void (*const hash[N_STEPS])(const struct publish *, struct inputs *) = {
        [STEP_ENCRYPT] = step_hash_encrypt,   [STEP_UPLOAD] = step_hash_upload,
        [STEP_REGISTER] = step_hash_register, [STEP_BUILD] = step_hash_build,
        [STEP_PACKAGE] = step_hash_package,
    };
    _cleanup_inputs_ struct inputs in;

    inputs_start(&in);
    inputs_word(&in, p->asset_id);
    hash[s](p, &in);
    return inputs_end(&in, p->hash);
}

static bool step_is_file(const char *path, uint64_t bytes)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (bytes == 0 || (uint64_t)st.st_size == bytes);
}

static uint64_t step_number_of(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err) == 0 ? v : 0;
}

bool publish_streams(const struct publish *p)
{
    return !p->under && !p->skip[STEP_ENCRYPT] && !p->skip[STEP_UPLOAD] && !p->out &&
           !step_is_file(p->ciphertext, 0);
}

const struct tbpkg_command *publish_command(const struct publish *p, enum publish_step s)
{
    return p->commands[s == STEP_UPLOAD && publish_streams(p) ? STEP_ENCRYPT : s];
}

bool publish_outputs_there(const struct publish *p, enum publish_step s)
{
    const cJSON *r = publish_state_result(&p->state, p->commands[s]->name);
    bool uploaded;

    if (s == STEP_PACKAGE)
        return step_is_file(p->zip, step_number_of(r, "bytes"));
    if (s != STEP_ENCRYPT)
        return true;
    (void)publish_state_inputs(&p->state, "upload", &uploaded);
    return step_is_file(p->manifest, 0) &&
           (uploaded || (publish_streams(p) && step_is_file(p->journal, 0)) ||
            step_is_file(p->ciphertext, step_number_of(r, "ciphertext_bytes")));
}

/* -- running ----------------------------------------------------------------------------------- */

static int step_call(const struct tbpkg_command *command, struct publish_words *w, cJSON **ret)
{
    int rc;

    if (w->failed)
        return tbpkg_fail_errno("publish", -ENOMEM);
    cli_capture_json(ret);
    rc = command->run(w->n, w->v);
    cli_capture_json(NULL);
    return rc;
}

/* What a killed encryption left. Complete, when ciphertext and manifest are there and belong together, and
 * with the key if it is still where it was put: it was killed before that could be recorded. */
static bool step_is_complete(struct publish *p)
{
    _cleanup_words_ struct publish_words w = {0};
    _cleanup_json_ cJSON *result = NULL;

    if (!step_is_file(p->ciphertext, 0) || !step_is_file(p->manifest, 0))
        return false;
    tbpkg_note(p->cli.quiet, "An earlier run left an encrypted asset; checking it.");
    publish_key_find(p);
    step_add(&w, p->verify->name);
    step_add(&w, "--json");
    step_add_flag(&w, "--quiet", p->cli.quiet);
    step_add_option(&w, "config", p->cli.config);
    step_add_option(&w, "in", p->ciphertext);
    step_add_option(&w, "manifest", p->manifest);
    step_add_option(&w, "key-file", p->key);
    return step_call(p->verify, &w, &result) == CLI_OK;
}

static int step_adopt(struct publish *p, cJSON **ret)
{
    struct tbenc_manifest *m = NULL;
    char hex[65], id[ASSET_KEY_ID_HEX + 1];
    int rc = asset_manifest_read(p->manifest, 0, &m);

    if (rc != CLI_OK)
        return rc;
    *ret = cJSON_CreateObject();
    cJSON_AddStringToObject(*ret, "asset_id", m->asset_id);
    cJSON_AddStringToObject(*ret, "encrypted_file", p->ciphertext);
    cJSON_AddStringToObject(*ret, "manifest", p->manifest);
    cJSON_AddStringToObject(*ret, "key_id", asset_key_id_wanted(m, id));
    if (p->key)
        cJSON_AddStringToObject(*ret, "key_file", p->key);
    tb_json_add_uint(*ret, "plaintext_bytes", m->plaintext_bytes);
    tb_json_add_uint(*ret, "ciphertext_bytes", tbenc_manifest_ciphertext_bytes(m));
    tb_hex_encode(m->sha256_ciphertext, 32, hex);
    cJSON_AddStringToObject(*ret, "sha256_ciphertext", hex);
    (void)tbenc_manifest_free(m);
    return CLI_OK;
}

int publish_check_recorded(const struct publish *p)
{
    if (!step_is_file(p->ciphertext, 0) && !step_is_file(p->manifest, 0))
        return CLI_OK;
    return tbpkg_fail(p->encrypted, "holds an asset that no run of publish recorded",
                      "publish it with --skip-encrypt and --key-file, or choose another --output");
}

int publish_check_signed(const struct publish *p)
{
    _cleanup_free_ char *text = NULL;
    size_t len;

    if (!signer_signs(&p->signer) || tb_read_file(p->manifest, TBENC_MANIFEST_MAX, &text, &len) < 0 ||
        signer_signed(&p->signer, text, len))
        return CLI_OK;
    return tbpkg_failf(p->manifest,
                       "is not signed with %s; run tbpkg sign --sign-key %s %s, then this command again",
                       p->sign.key_file, p->sign.key_file, p->manifest);
}

static int step_run_encrypt(struct publish *p, struct publish_words *w, bool begun, cJSON **ret)
{
    if (begun && !publish_streams(p) && step_is_complete(p))
        return publish_check_signed(p) == CLI_OK ? step_adopt(p, ret) : CLI_FAILED;
    if (!begun && publish_check_recorded(p) != CLI_OK)
        return CLI_FAILED;
    if (p->key_file && !p->under && !(publish_streams(p) && step_is_file(p->journal, 0)))
        return tbpkg_fail(p->key_file, "is not used: encrypting makes a key",
                          "leave --key-file out, or use --skip-encrypt");
    return step_call(p->commands[STEP_ENCRYPT], w, ret);
}

/* The result of sealing into the storage is that of two steps. */
static int step_record_stream(struct publish *p, enum publish_step s, cJSON *result)
{
    _cleanup_json_ cJSON *up = cJSON_DetachItemFromObjectCaseSensitive(result, "upload");
    int rc = CLI_OK;

    if (!up)
        return tbpkg_fail_errno("publish", -ENOMEM);
    cJSON_AddStringToObject(up, "asset_id", p->asset_id);
    if (s == STEP_ENCRYPT)
        rc = publish_state_done(&p->state, p->commands[STEP_ENCRYPT]->name, p->hash, result);
    if (rc == CLI_OK)
        rc = publish_hash(p, STEP_UPLOAD); /* of the manifest that is there now */
    return rc == CLI_OK ? publish_state_done(&p->state, p->commands[STEP_UPLOAD]->name, p->hash, up) : rc;
}

int publish_run_step(struct publish *p, enum publish_step s)
{
    _cleanup_words_ struct publish_words w = {0};
    _cleanup_json_ cJSON *result = NULL;
    const char *name = p->commands[s]->name, *before;
    bool begun;
    int rc = CLI_OK;

    before = publish_state_inputs(&p->state, name, &begun);
    begun = before && strcmp(before, p->hash) == 0; /* with the same inputs */
    if (s == STEP_REGISTER)
        publish_key_find(p);
    if (s == STEP_ENCRYPT && p->under)
        rc = publish_base_find(p);
    if (rc != CLI_OK)
        return rc;
    if (s == STEP_REGISTER && !p->key && !p->key_file && !cli_key_is_held())
        return publish_key_missing(p);
    publish_argv(p, s, &w);
    if (s == STEP_ENCRYPT && !begun && (step_is_file(p->ciphertext, 0) || step_is_file(p->manifest, 0)))
        return step_run_encrypt(p, &w, false, &result); /* refuses, and says why */
    rc = publish_state_begin(&p->state, name, p->hash);
    if (rc == CLI_OK)
        rc = s == STEP_ENCRYPT ? step_run_encrypt(p, &w, true, &result)
                               : step_call(publish_command(p, s), &w, &result);
    if (s == STEP_REGISTER)
        (void)cli_key_hold(NULL);
    if (rc == CLI_OK && s <= STEP_UPLOAD && publish_streams(p))
        return step_record_stream(p, s, result);
    return rc == CLI_OK ? publish_state_done(&p->state, name, p->hash, result) : rc;
}
