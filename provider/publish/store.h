/* SPDX-License-Identifier: Apache-2.0 */
/* An asset's place in Blob storage: container/ID/model.tbenc and container/ID/model.manifest.json; where
 * another version of it has that place, container/ID/KEYID/ with the same names. The
 * ciphertext goes first, as blocks that stay uncommitted until all are there and what they make is known
 * to be right; the manifest goes last, so whoever finds it finds a complete asset. The service keeps
 * uncommitted blocks for a week. Functions that fail have said so on stderr and return CLI_FAILED or
 * CLI_USAGE, unless said otherwise; CLI_OK otherwise. */
#ifndef TBPKG_PUBLISH_STORE_H
#define TBPKG_PUBLISH_STORE_H

#include "provider/asset/key.h"
#include "provider/azure/blob_object.h"
#include "provider/azure/blob_upload.h"
#include "provider/cli/command.h"

struct asset_store {
    const struct cli *cli; /* for messages */
    /* what to do */
    const char *account, *container, *asset_id, *endpoint, *ca_file;
    char place[ASSET_KEY_ID_HEX + 1]; /* KEYID; "": not known yet */
    bool overwrite, may_move, insecure, verbose;
    bool signed_anew; /* the manifest is that of the asset that is stored, with another signature */
    uint64_t block_bytes, concurrency, retries, timeout, bandwidth;
    struct azure_auth_options credentials;
    /* what came of it; the caller fills size and sha256 before it looks */
    struct blob_object ct, mf; /* ciphertext and manifest */
    bool aside;                /* they lie under KEYID */
    struct blob_service service;
    /* private */
    struct azure_auth auth;
    struct tb_http_tls tls;
    struct blob_client client;
    struct cli_progress progress;
};
#define ASSET_STORE_INIT                                                                                     \
    {                                                                                                        \
        .container = "models", .block_bytes = BLOB_BLOCK_BYTES_DEFAULT, .concurrency = 16, .retries = 8,     \
        .timeout = 60                                                                                        \
    }

/* A path of plain names. CLI_OK or CLI_USAGE. */
int store_check_folder(const struct cli *c, const char *folder);
/* Whether the options make sense, without looking at anything. */
int store_check_options(const struct cli *c, const struct asset_store *s);
/* The names under base, which is a container or its URL; place "": the first ones. Heap, NULL on ENOMEM. */
char *store_ciphertext_name(const char *base, const char *asset_id, const char *place);
char *store_manifest_name(const char *base, const char *asset_id, const char *place);
/* The KEYID of a version: its key's; or, where the manifest does not say that, or is an overlay's, which has
 * the key of its base, from its ciphertext's hash. */
void store_place_of(const struct tbenc_manifest *m, char out[static ASSET_KEY_ID_HEX + 1]);
/* Finds a credential and the endpoint. Nothing is sent yet. */
int store_connect(struct asset_store *s);
/* What is there under both names? Where another version has the first place, this one's is the one aside:
 * when s->place is known, at once; else, with s->may_move, by store_move_aside() later. Another ciphertext
 * or manifest there is refused, unless overwrite says otherwise. fd: of the ciphertext, or -1. */
int store_look(struct asset_store *s, int fd);
/* The place aside, of which it is known that nothing is there. */
int store_move_aside(struct asset_store *s, const char *place);
/* To go on with what was begun at url, if that is the place aside. */
int store_follow_aside(struct asset_store *s, const char *url, const char *place);
/* Sends what u->feed produces as uncommitted blocks of the ciphertext; the rest of *u is filled here.
 * Returns what blob_upload_blocks() does, not reported. */
int store_send_blocks(struct asset_store *s, struct blob_upload *u, struct blob_upload_result *ret,
                      struct blob_fault *fault);
/* Makes the ciphertext of these blocks. */
int store_commit(struct asset_store *s, char (*ids)[BLOB_ID_CHARS + 1], size_t n, int fd);
int store_send_manifest(struct asset_store *s, const char *text);
/* SHA-256 as hex, for ct.sha256 and mf.sha256. 0 or -EIO. */
int store_sha256(const void *buf, size_t len, char out[static BLOB_SHA256_HEX + 1]);
/* What lies at a path of the service, if it is no larger than max. */
int store_fetch(const struct asset_store *s, const char *path, size_t max, char **ret, size_t *ret_len);
cJSON *store_report(const struct asset_store *s, const struct blob_object *o);
void store_clear(struct asset_store *s);

#endif
