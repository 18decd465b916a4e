/* SPDX-License-Identifier: Apache-2.0 */
/* What tbpkg publish remembers from one run to the next: which steps are done, with which inputs, and what
 * they returned. Holds no secret. The directory is locked while a run uses it. Functions that fail have said
 * so on stderr and return CLI_FAILED; CLI_OK otherwise. */
#ifndef TBPKG_PUBLISH_STATE_H
#define TBPKG_PUBLISH_STATE_H

#include <cjson/cJSON.h>
#include <openssl/evp.h>
#include <stdbool.h>

#include "common/macros.h"
#include "provider/cli/output.h"

#define PUBLISH_STATE_NAME "publish-state.json"

/* -- what a step was made from: a SHA-256 over words and files --------------------------------- */

struct inputs {
    EVP_MD_CTX *md;
    bool failed;
};
void inputs_start(struct inputs *in);
void inputs_word(struct inputs *in, const char *s); /* NULL: a word of its own */
void inputs_number(struct inputs *in, uint64_t n);
/* The contents; one that is missing is a word of its own. */
void inputs_file(struct inputs *in, const char *path);
/* 64 hex digits and NUL. CLI_OK or CLI_FAILED. */
int inputs_end(struct inputs *in, char out[static 65]);
void inputs_clear(struct inputs *in);
#define _cleanup_inputs_ _cleanup_(inputs_clear)

/* -- the file ---------------------------------------------------------------------------------- */

struct publish_state {
    char *path;
    cJSON *doc;
    int lock; /* of the directory */
};
#define PUBLISH_STATE_INIT                                                                                   \
    {                                                                                                        \
        .lock = -1                                                                                           \
    }
/* Opens or begins the state of asset_id in dir, which exists; another asset's is refused. */
int publish_state_open(const char *dir, const char *asset_id, struct publish_state *ret);
/* An empty one, for looking only. */
int publish_state_none(const char *dir, const char *asset_id, struct publish_state *ret);
/* Of which asset a run in dir was; heap. CLI_OK, or CLI_FAILED without a word: there was none. */
int publish_state_asset(const char *dir, char **ret);
void publish_state_close(struct publish_state *s);
#define _cleanup_publish_state_ _cleanup_(publish_state_close)

/* The inputs of a step that was begun or done, or NULL; done tells which. */
const char *publish_state_inputs(const struct publish_state *s, const char *step, bool *ret_done);
/* What a step that is done returned, or NULL. */
const cJSON *publish_state_result(const struct publish_state *s, const char *step);
/* Both are on disk when they return. result may be NULL; it is copied. */
int publish_state_begin(struct publish_state *s, const char *step, const char *inputs);
int publish_state_done(struct publish_state *s, const char *step, const char *inputs, const cJSON *result);

/* The key's file is about to be removed, because the control plane at `with` has confirmed the key. CLI_OK or
 * CLI_FAILED. */
int publish_state_forget(struct publish_state *s, const char *key_id, const char *with);
/* It was, and the encryption has not been done again since. */
bool publish_state_forgotten(const struct publish_state *s, const char **ret_with, const char **ret_at);

#endif
