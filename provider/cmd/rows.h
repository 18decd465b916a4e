/* SPDX-License-Identifier: Apache-2.0 */
/* Option rows that several commands have: the same name, meaning and help everywhere. m is the member that
 * the row fills. */
#ifndef TBPKG_CMD_ROWS_H
#define TBPKG_CMD_ROWS_H

#include "common/option.h"
#include "provider/cli/key_arg.h"
#include "tbenc/tbenc.h"

/* -- an asset on disk -------------------------------------------------------------------------- */
#define ROW_CIPHERTEXT(m)                                                                                    \
    TB_OPTION('i', "in", "FILE", TB_OPTION_STRING, m,                                                        \
              "the same as FILE [model.tbenc, or what the manifest names]; '-' is standard input")
#define ROW_MANIFEST(m)                                                                                      \
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, m, "the manifest [beside FILE: NAME.manifest.json]")
#define ROW_BASE_FILE(m)                                                                                     \
    TB_OPTION(0, "base", "FILE", TB_OPTION_STRING, m,                                                        \
              "of an overlay: the .tbenc of the version that it stands on, its manifest beside it")
#define ROW_THREADS(m)                                                                                       \
    TB_OPTION('t', "threads", "N", TB_OPTION_UINT, m, "workers [one for each CPU]", .min = 1,                \
              .max = TBENC_THREADS_MAX)
#define ROW_CHUNK_BYTES(m)                                                                                   \
    TB_OPTION('c', "chunk-bytes", "SIZE", TB_OPTION_SIZE, m,                                                 \
              "plaintext bytes in a record, 1K to 64M [1M]: what is fetched again when "                     \
              "damaged, and waited for at any place",                                                        \
              .setting = "encryption.chunk_bytes", .min = TBENC_CHUNK_BYTES_MIN,                             \
              .max = TBENC_CHUNK_BYTES_MAX)
#define ROW_NO_FINETUNE(m)                                                                                   \
    TB_OPTION(0, "no-finetune", NULL, TB_OPTION_FLAG, m,                                                     \
              "say in the manifest that fine-tuning is not allowed")
/* m: a struct signer_options */
#define ROWS_SIGN(m)                                                                                         \
    TB_OPTION(0, "sign-key", "FILE", TB_OPTION_STRING, m.key_file,                                           \
              "sign the manifest with this key of tbpkg keygen or minisign; machines that pin its public "   \
              "half serve nothing else",                                                                     \
              .setting = "signing.key"),                                                                     \
        TB_OPTION(0, "sign-passphrase-file", "FILE", TB_OPTION_STRING, m.passphrase_file,                    \
                  "its passphrase is in FILE [ask]", .setting = "signing.passphrase_file")
#define PACKAGE_PROVIDER_KEY_HELP                                                                            \
    "machines serve only what this key signed: KEY is the public key of tbpkg keygen, several with commas, " \
    "or a file of them"
#define ROW_PROVIDER_KEY(m, what)                                                                            \
    TB_OPTION(0, "provider-key", "KEY", TB_OPTION_STRING, m, what, .setting = "signing.provider_key")
#define ROW_PROVIDER_KEY_OF_MANIFEST(m)                                                                      \
    ROW_PROVIDER_KEY(m, "the manifest must be signed by this key: KEY is the public key, several with "      \
                        "commas, or a file of them")
#define ROW_LENIENT(m)                                                                                       \
    TB_OPTION(0, "lenient", NULL, TB_OPTION_BITS, m,                                                         \
              "accept what the first writers of tbenc/v1 may have left: any chunk size, reserved bytes "     \
              "that are set",                                                                                \
              .max = TBENC_LENIENT)

/* -- a model directory; m is a struct source_options -- */
#define ROWS_SOURCE(m)                                                                                       \
    TB_OPTION(0, "include", "PATTERN", TB_OPTION_LIST, m.include,                                            \
              "keep what is left out otherwise; may be repeated"),                                           \
        TB_OPTION(0, "exclude", "PATTERN", TB_OPTION_LIST, m.exclude,                                        \
                  "leave files or directories out; may be repeated"),                                        \
        TB_OPTION(0, "ignore-file", "FILE", TB_OPTION_STRING, m.ignore_file,                                 \
                  "patterns to leave out, one on a line; '!' before one keeps"),                             \
        TB_OPTION(0, "follow-links", NULL, TB_OPTION_FLAG, m.follow_links,                                   \
                  "follow symbolic links wherever they point to"),                                           \
        TB_OPTION(0, "allow-incomplete", NULL, TB_OPTION_FLAG, m.allow_incomplete,                           \
                  "accept Git LFS pointers and missing parts of a model")

/* -- storage ----------------------------------------------------------------------------------- */
#define ROW_STORAGE_ACCOUNT(m)                                                                               \
    TB_OPTION('s', "storage-account", "ACCOUNT", TB_OPTION_STRING, m, "storage account",                     \
              .setting = "azure.storage_account")
#define ROW_CONTAINER(m)                                                                                     \
    TB_OPTION('C', "container", "NAME", TB_OPTION_STRING, m, "container of the storage account [models]",    \
              .setting = "azure.container")
#define ROW_BLOB_ENDPOINT(m)                                                                                 \
    TB_OPTION(0, "endpoint", "URL", TB_OPTION_STRING, m,                                                     \
              "blob endpoint instead of https://ACCOUNT.blob.core.windows.net: a private endpoint, or an "   \
              "emulator (http://127.0.0.1:10000/ACCOUNT)",                                                   \
              .setting = "azure.endpoint")
#define ROWS_CREDENTIAL_FILES(connection_string, account_key, sas)                                           \
    TB_OPTION(0, "connection-string-file", "FILE", TB_OPTION_STRING, connection_string,                      \
              "read an Azure connection string from FILE"),                                                  \
        TB_OPTION(0, "account-key-file", "FILE", TB_OPTION_STRING, account_key,                              \
                  "read the account's shared key from FILE"),                                                \
        TB_OPTION(0, "sas-file", "FILE", TB_OPTION_STRING, sas, "read a shared access signature from FILE")

/* How an upload goes; m is a struct asset_store. */
#define ROWS_TRANSFER(m)                                                                                     \
    TB_OPTION(0, "block-bytes", "SIZE", TB_OPTION_SIZE, m.block_bytes, "size of a block, 64K to 256M [8M]",  \
              .min = BLOB_BLOCK_BYTES_MIN, .max = BLOB_BLOCK_BYTES_MAX),                                     \
        TB_OPTION(0, "concurrency", "N", TB_OPTION_UINT, m.concurrency, "blocks sent at once, 1 to 64 [16]", \
                  .min = 1, .max = BLOB_CONCURRENCY_MAX),                                                    \
        ROW_BANDWIDTH(m.bandwidth),                                                                          \
        TB_OPTION(0, "retries", "N", TB_OPTION_UINT, m.retries,                                              \
                  "further attempts for each request, 0 to 20 [8]", .max = 20),                              \
        TB_OPTION(0, "timeout", "SECONDS", TB_OPTION_UINT, m.timeout,                                        \
                  "give a transfer up that moves nothing for so long [60]", .min = 1, .max = 3600)
#define ROW_BANDWIDTH(m)                                                                                     \
    TB_OPTION(0, "bandwidth", "SIZE", TB_OPTION_SIZE, m, "send no more than SIZE bytes a second, as in 20M", \
              .min = 1024, .max = UINT64_C(1) << 40)

/* -- control plane ----------------------------------------------------------------------------- */
#define ROW_EDC_ENDPOINT(m)                                                                                  \
    TB_OPTION('E', "edc-endpoint", "URL", TB_OPTION_STRING, m, "control plane, https://",                    \
              .setting = "controlplane.endpoint")
#define ROW_REPLACE(member)                                                                                  \
    TB_OPTION(0, "replace", NULL, TB_OPTION_FLAG, member,                                                    \
              "give live contracts of the asset another key or other contents")
#define ROW_TOKEN_FILE(m)                                                                                    \
    TB_OPTION(0, "token-file", "FILE", TB_OPTION_STRING, m,                                                  \
              "bearer token for the control plane [what tbpkg login keeps]",                                 \
              .setting = "controlplane.token_file")
#define ROWS_CLIENT_CERT(cert, key)                                                                          \
    TB_OPTION(0, "client-cert", "FILE", TB_OPTION_STRING, cert,                                              \
              "client certificate (PEM) for mutual TLS, with --client-key",                                  \
              .setting = "controlplane.client_cert"),                                                        \
        TB_OPTION(0, "client-key", "FILE", TB_OPTION_STRING, key,                                            \
                  "its private key (PEM, without a passphrase)", .setting = "controlplane.client_key")

/* token, client certificate and CAs of a struct remote */
#define ROWS_ACCESS(m)                                                                                       \
    ROW_TOKEN_FILE(m.token_file), ROWS_CLIENT_CERT(m.cert, m.cert_key), ROW_CA_FILE(m.ca_file),              \
        ROW_INSECURE_HTTP(m.insecure)

/* -- both -------------------------------------------------------------------------------------- */
#define ROW_CA_FILE(m)                                                                                       \
    TB_OPTION(0, "ca-file", "FILE", TB_OPTION_STRING, m, "trust the certificate authorities in FILE (PEM)",  \
              .setting = "tls.ca_file")
#define ROW_INSECURE_HTTP(m)                                                                                 \
    TB_OPTION(0, "insecure-http", NULL, TB_OPTION_FLAG, m, "allow http:// to a loopback address, for tests")

/* -- image ------------------------------------------------------------------------------------- */
#define ROW_DEB_DIR(m)                                                                                       \
    TB_OPTION(0, "deb-dir", "DIR", TB_OPTION_DIR_NAME, m,                                                    \
              "directory with the .debs of trustbridge and libtbenc1, built for the release of the base",    \
              .setting = "build.deb_dir")
#define ROW_REGISTRY(m)                                                                                      \
    TB_OPTION('r', "registry", "REGISTRY", TB_OPTION_STRING, m,                                              \
              "registry to push to, as in acme.azurecr.io", .setting = "docker.registry")
#define ROW_IMAGE_NAME(m)                                                                                    \
    TB_OPTION(0, "image-name", "NAME", TB_OPTION_STRING, m,                                                  \
              "name of the container image [trustbridge-runtime]", .setting = "docker.image_name")
#define ROW_NO_PUSH(m)                                                                                       \
    TB_OPTION(0, "no-push", NULL, TB_OPTION_FLAG, m, "leave the container image in local storage")
#define ROW_INSECURE_REGISTRY(m)                                                                             \
    TB_OPTION(0, "insecure-registry", NULL, TB_OPTION_FLAG, m,                                               \
              "allow a registry without TLS or with an unknown certificate, for tests")
#define ROW_VAR(m)                                                                                           \
    TB_OPTION(0, "var", "NAME=VALUE", TB_OPTION_LIST, m, "variable of the Packer template; may be repeated")
#define ROWS_GONE_PROGRAMS                                                                                   \
    CLI_GONE_ROW("sentinel-binary", "FILE", "the programs come from the .debs in --deb-dir"),                \
        CLI_GONE_ROW("entrypoint", "FILE",                                                                   \
                     "the image starts systemd, which starts and confines the programs")

/* -- package ----------------------------------------------------------------------------------- */
#define ROW_VM_IMAGE(m)                                                                                      \
    TB_OPTION(0, "vm-image", "IMAGE", TB_OPTION_STRING, m,                                                   \
              "image of the machines: PUBLISHER:OFFER:PLAN[:VERSION] of the Marketplace, or the resource "   \
              "id of an image version in a gallery",                                                         \
              .setting = "package.vm_image")
#define ROW_IMAGE(m)                                                                                         \
    TB_OPTION(0, "image", "IMAGE", TB_OPTION_STRING, m,                                                      \
              "the same; a container image is taken where the template has a parameter containerImage")
#define ROW_NO_IMAGE(m)                                                                                      \
    TB_OPTION(0, "no-image", NULL, TB_OPTION_FLAG, m,                                                        \
              "the package is for somebody who has an image: the portal's form asks for it")
#define ROW_SET(m)                                                                                           \
    TB_OPTION(0, "set", "NAME=VALUE", TB_OPTION_LIST, m,                                                     \
              "default of another parameter of the template; may be repeated")
#define ROW_PACKAGE_VERSION(m)                                                                               \
    TB_OPTION(0, "package-version", "X.Y.Z", TB_OPTION_STRING, m,                                            \
              "version of the package [that of the template]")

#endif
