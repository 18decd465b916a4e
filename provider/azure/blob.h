/* SPDX-License-Identifier: Apache-2.0 */
/* Azure Blob service, REST version 2024-11-04: what a request looks like on the wire. No I/O here: URLs,
 * Shared Key signatures, block ids, the body of Put Block List. Strings returned through ret_ are heap
 * strings of the caller. */
#ifndef TBPKG_AZURE_BLOB_H
#define TBPKG_AZURE_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define BLOB_API_VERSION "2024-11-04"
#define BLOB_BLOCKS_MAX 50000               /* of one blob, a limit of the service */
#define BLOB_BLOCK_BYTES_DEFAULT (8U << 20) /* above 4 MiB the service writes at its high-throughput rate */
#define BLOB_BLOCK_BYTES_MIN (64U << 10)
#define BLOB_BLOCK_BYTES_MAX (256U << 20) /* the service takes 4000 MiB; we hold some of them in memory */
#define BLOB_MD5_BYTES 16
#define BLOB_MD5_BASE64 24 /* characters, without NUL */
#define BLOB_ID_CHARS 56   /* characters of a block id, without NUL */
#define BLOB_ERR_MAX 320
#define BLOB_QUERY_MAX 4
#define BLOB_HEADERS_MAX 10

/* An account's blob endpoint. */
struct blob_service {
    char *account;
    /* "https://acct.blob.core.windows.net" or, path style, "http://127.0.0.1:10000/acct"; no '/' at the
     * end */
    char *url;
};

struct blob_pair {
    const char *name, *value;
};
/* All strings are borrowed. query and headers end with the first name that is NULL. Headers: those of the
 * operation; x-ms-version, x-ms-date and Authorization are added on the way out. */
struct blob_request {
    const char *method;
    const char *path; /* "container/name", not encoded */
    struct blob_pair query[BLOB_QUERY_MAX + 1];
    struct blob_pair headers[BLOB_HEADERS_MAX + 1];
    const void *body;
    size_t body_len;
};

/* endpoint NULL: Azure's public cloud. Else an http(s) URL of a private endpoint or an emulator; when its
 * host is an IP address or localhost and it has no path, the account is appended, as emulators want it.
 * http:// needs a loopback host or allow_http. -EINVAL with a reason in err (which never repeats a query). */
int blob_service_init(const char *account, const char *endpoint, bool allow_http, struct blob_service *ret,
                      char err[static BLOB_ERR_MAX]);
void blob_service_clear(struct blob_service *s);
#define _cleanup_blob_service_ _cleanup_(blob_service_clear)

/* Names as the service wants them: account 3-24 of a-z0-9; container 3-63 of a-z0-9 and single '-' inside. */
bool blob_account_valid(const char *s);
bool blob_container_valid(const char *s);

/* https, or http when the host is loopback (127/8, ::1, localhost) or allow_http. Refused: other schemes, no
 * host, user info, query, fragment. what names the option in err. -EINVAL. */
int blob_base_url_check(const char *what, const char *url, bool allow_http, char err[static BLOB_ERR_MAX]);
bool blob_url_is_loopback(const char *url);

/* URL of the request. sas (without '?') is appended when not NULL; the result is then a secret. */
int blob_request_url(const struct blob_service *s, const struct blob_request *rq, const char *sas,
                     char **ret);

/* What Shared Key signs for the request at date (RFC 1123, GMT), and the value of the Authorization
 * header. */
int blob_string_to_sign(const struct blob_service *s, const struct blob_request *rq, const char *date,
                        char **ret);
int blob_authorization(const struct blob_service *s, const struct blob_request *rq, const char *date,
                       const uint8_t *key, size_t key_len, char **ret);
/* MD5 of a buffer, as Content-MD5 has it. 0 or -EIO (a crypto policy without MD5). */
int blob_md5(const void *buf, size_t len, uint8_t out[static BLOB_MD5_BYTES]);

/* The id of block `index` with that content. It names the content, so a block staged by another run is taken
 * for ours only when it is what we would send; all ids have one length, as the service demands. session, of
 * BLOB_SESSION_CHARS, tells the blocks of one key from those of another; NULL: of a file. */
#define BLOB_SESSION_CHARS 9
void blob_block_id(size_t index, const char *session, const uint8_t md5[static BLOB_MD5_BYTES],
                   char out[static BLOB_ID_CHARS + 1]);
/* Whether an id is one of that session, and of which block. */
bool blob_block_id_parse(const char *id, const char *session, size_t *ret_index);

/* The smallest block size >= wanted with which size bytes fit in BLOB_BLOCKS_MAX blocks, whole MiB when it
 * had to grow. 0 when none up to BLOB_BLOCK_BYTES_MAX does. */
uint32_t blob_block_bytes_for(uint64_t size, uint32_t wanted);

/* Body of Put Block List: the blocks in this order, all from the uncommitted list. */
int blob_block_list_format(char (*ids)[BLOB_ID_CHARS + 1], size_t n, char **ret, size_t *ret_len);

#endif
