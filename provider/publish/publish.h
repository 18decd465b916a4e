/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg publish: what its two files share. publish.c has the command line, the plan and the report; steps.c
 * the steps. */
#ifndef TBPKG_PUBLISH_PUBLISH_H
#define TBPKG_PUBLISH_PUBLISH_H

#include "provider/publish/state.h"
#include "provider/asset/signer.h"
#include "provider/asset/source.h"
#include "provider/cli/command.h"

enum publish_step { STEP_ENCRYPT, STEP_UPLOAD, STEP_REGISTER, STEP_BUILD, STEP_PACKAGE, N_STEPS };

enum publish_action { ACTION_RUN, ACTION_DONE, ACTION_SKIP };

struct publish {
    struct cli cli;
    const struct tbpkg_command *const *commands; /* of each step */
    const struct tbpkg_command *verify;
    /* options */
    const char *asset_id, *in, *dir, *zip, *out;
    const char *under, *base_manifest; /* of an overlay: ASSET[@VERSION], and its manifest's file */
    uint64_t chunk_bytes;
    bool no_finetune;
    struct signer_options sign;
    const char *provider_key;
    const char *account, *container, *blob_endpoint, *connection_string_file, *account_key_file, *sas_file;
    uint64_t bandwidth;
    const char *edc_endpoint, *token_file, *cert, *cert_key, *ca_file, *key_file, *key_out;
    const char *target, *registry, *image_name, *tag, *base, *debs, *packer;
    struct tb_option_list vars;
    bool no_push, insecure_registry, no_image;
    const char *image, *vm_image, *templates, *package_version;
    struct tb_option_list sets;
    struct tb_option_list blob_urls; /* copies, beside where it is uploaded to */
    bool insecure, replace, no_promote, skip[N_STEPS], yes, dry_run, forget_key;
    /* what they stand for */
    char *encrypted, *ciphertext, *manifest, *journal, *default_zip;
    char *base_found, *base_file; /* what they stand for */
    char *key_dir;                /* DIR/, as --key-out takes it */
    char *found_asset_id;         /* what --asset-id would have said */
    char *key;                    /* the file of the clear key, where publish_key_find() found it; or NULL */
    struct signer signer;
    struct publish_state state;
    struct model_source source;
    struct source_options how; /* the model is read */
    char *sbom;                /* where build writes the image's bill of materials */
    /* of the step at hand */
    char hash[65];
};

struct publish_words {
    char *v[512];
    int n;
    bool failed;
};

/* The model is sealed straight into the storage: the steps of encryption and upload are one, and the
 * second is only run by itself to send a finished asset to another place. */
bool publish_streams(const struct publish *p);
/* The command that does the step. */
const struct tbpkg_command *publish_command(const struct publish *p, enum publish_step s);
/* The step as a command line. */
void publish_argv(const struct publish *p, enum publish_step s, struct publish_words *w);
void publish_words_clear(struct publish_words *w);
#define _cleanup_words_ _cleanup_(publish_words_clear)

/* --base: finds the version at the control plane, unless it was named with its manifest, and fetches that. */
int publish_base_find(struct publish *p);
void publish_base_clear(struct publish *p);

/* Finds the clear key's file: where it was put, or by its id in the output directory. */
void publish_key_find(struct publish *p);
/* Says which key is needed and where it was last. CLI_FAILED. */
int publish_key_missing(const struct publish *p);
/* --forget-key, once everything is done: removes the key's file if the control plane has confirmed the key.
 * CLI_OK or CLI_FAILED. */
int publish_key_forget(struct publish *p);
/* With --sign-key: the manifest that is there is signed by it. CLI_OK or CLI_FAILED. */
int publish_check_signed(const struct publish *p);
/* Temporary files of keys that a killed run left. */
void publish_key_sweep(const struct publish *p);

/* What becomes of a step. *ret_rc: CLI_FAILED when that cannot be told. */
enum publish_action publish_decide(struct publish *p, enum publish_step s, int *ret_rc);
/* Hash of the step's inputs into p->hash. CLI_OK or CLI_FAILED. */
int publish_hash(struct publish *p, enum publish_step s);
/* Is what the step made still there? */
bool publish_outputs_there(const struct publish *p, enum publish_step s);
/* Ciphertext or manifest are there, of an encryption that was not begun: says so. CLI_OK or CLI_FAILED. */
int publish_check_recorded(const struct publish *p);
/* Runs a step and records it. */
int publish_run_step(struct publish *p, enum publish_step s);

#endif
