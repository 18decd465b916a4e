/* SPDX-License-Identifier: Apache-2.0 */
/* Encrypting a model: source in, ciphertext, manifest and key out. Order of events, so that no crash loses a
 * key that is needed: everything is written under temporary names and synced; then the key takes its name (or
 * goes to stdout), then the ciphertext, then the manifest. */
#ifndef TBPKG_ASSET_SEAL_H
#define TBPKG_ASSET_SEAL_H

#include "common/io.h"
#include "provider/asset/asset.h"
#include "provider/asset/base.h"
#include "provider/asset/key.h"
#include "provider/asset/signer.h"
#include "provider/asset/source.h"
#include "provider/cli/command.h"
#include "provider/cli/key_arg.h"
#include "tbenc/tbenc.h"

struct asset_seal {
    const struct cli *cli; /* for messages */
    /* what to do */
    const char *asset_id, *in, *out, *manifest, *key_out; /* NULL: beside the ciphertext; standard output */
    uint64_t chunk_bytes, threads;                        /* 0 threads: one for each CPU */
    bool no_finetune, force;
    struct source_options how; /* a directory is read */
    struct signer_options sign;
    /* NULL, or the version that an overlay is made on, with its manifest and its key, which is the
     * overlay's too: no key is made, and key_out is not looked at */
    const char *base, *base_manifest;
    const struct cli_key_arg *base_key;
    /* what came of it */
    char *out_path, *manifest_path;
    struct tbenc_manifest *result;
    struct key_out key;
    struct signer signer;
    double seconds;
    /* private */
    char *text; /* of the manifest */
    size_t text_len;
    struct model_source source;
    struct asset_base under;  /* of base */
    struct tb_newfile ct, mf; /* ciphertext, manifest */
    bool to_stdout;           /* out is "-": the key has its place before the first byte is written */
};
#define ASSET_SEAL_INIT                                                                                      \
    {                                                                                                        \
        .out = ASSET_DEFAULT_NAME, .chunk_bytes = TBENC_CHUNK_BYTES_DEFAULT, .source = SOURCE_INIT,          \
        .ct = TB_NEWFILE_INIT, .mf = TB_NEWFILE_INIT, .key = KEY_OUT_INIT                                    \
    }

/* Holds the key for the commands that follow in this process (cli_key_hold()). CLI_OK; or the error is
 * reported and CLI_FAILED or CLI_USAGE returned: then nothing is left under the final names. */
int asset_seal(struct asset_seal *s);
void asset_seal_clear(struct asset_seal *s);

#endif
