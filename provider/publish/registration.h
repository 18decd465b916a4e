/* SPDX-License-Identifier: Apache-2.0 */
/* Telling the control plane where an asset lies and with which key it opens. The key is in secret memory from
 * the file to the socket: the request body is built there, the key last, as the API's first client sends
 * it. */
#ifndef TBPKG_PUBLISH_REGISTRATION_H
#define TBPKG_PUBLISH_REGISTRATION_H

#include "common/secret.h"
#include "provider/asset/key.h"
#include "provider/cli/key_arg.h"
#include "provider/remote/remote.h"
#include "tbenc/tbenc.h"

#define REGISTRATION_API_PATH "/api/v1/assets/register"

#define REGISTRATION_BASES_MAX 16

struct registration {
    const struct cli *cli; /* for messages */
    /* what to do */
    const char *asset_id, *manifest_path;
    struct remote remote; /* the control plane; checked */
    /* of the containers, or of the ciphertext itself: the same asset lies in each */
    const char *const *bases;
    size_t n_bases;
    bool replace;    /* another key or other contents of an asset that contracts use */
    bool no_promote; /* a new version is kept beside the current one */
    const struct cli_key_arg *key_arg;
    /* private */
    struct tbenc_manifest *manifest;
    uint8_t manifest_sha256[32];
    char *body; /* secret */
    size_t body_len;
    char place[ASSET_KEY_ID_HEX + 1]; /* store.h */
    char key_hex[TB_KEY_HEX_CHARS + 1];
};

/* Sends it and prints the answer. CLI_OK; or the error is reported and CLI_FAILED or CLI_USAGE returned. */
int registration_send(struct registration *g);
void registration_clear(struct registration *g);

#endif
