/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/verified.h"

#include <string.h>

#include "common/file_mark.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"

#define VERIFIED_MAX 4096

/* The record, if it is of this hash. NULL otherwise. */
/* *ret_sha256 is in what is returned. */
static cJSON *verified_parse(const char *final_path, const char **ret_sha256)
{
    _cleanup_free_ char *path = tb_strf("%s" VERIFIED_SUFFIX, final_path), *text = NULL;
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    size_t len;

    if (!path || tb_read_file(path, VERIFIED_MAX, &text, &len) < 0 ||
        tb_json_parse(text, len, VERIFIED_MAX, &o, err) < 0 ||
        tb_json_get_string(o, "sha256", ret_sha256, err) < 0)
        return NULL;
    return TAKE_PTR(o);
}

static cJSON *verified_read(const char *final_path, const uint8_t sha256[static SHA256_BYTES])
{
    char hex[2 * SHA256_BYTES + 1];
    const char *have;
    _cleanup_json_ cJSON *o = verified_parse(final_path, &have);

    tb_hex_encode(sha256, SHA256_BYTES, hex);
    return o && strcmp(have, hex) == 0 ? TAKE_PTR(o) : NULL;
}

bool verified_any(const char *final_path)
{
    const char *have;
    _cleanup_json_ cJSON *o = verified_parse(final_path, &have);

    return o && strlen(have) == 2 * SHA256_BYTES;
}

bool verified_is_of(const char *final_path, const struct stat *st, const uint8_t sha256[static SHA256_BYTES])
{
    _cleanup_json_ cJSON *o = verified_read(final_path, sha256);

    return o && tb_file_mark_is_of(o, st);
}

bool verified_matches(const char *final_path, const struct stat *st,
                      const uint8_t sha256[static SHA256_BYTES])
{
    _cleanup_json_ cJSON *o = verified_read(final_path, sha256);

    return o && tb_file_mark_matches(o, st);
}

bool verified_before(const char *final_path, const uint8_t sha256[static SHA256_BYTES])
{
    _cleanup_json_ cJSON *o = verified_read(final_path, sha256);

    return o != NULL;
}

void verified_etag(const char *final_path, const uint8_t sha256[static SHA256_BYTES],
                   char ret[static ETAG_MAX])
{
    _cleanup_json_ cJSON *o = verified_read(final_path, sha256);
    char err[TB_JSON_ERR_MAX];
    const char *etag;

    *ret = '\0';
    if (o && tb_json_member(o, "etag") && tb_json_get_string(o, "etag", &etag, err) == 0 &&
        etag_parse(etag, strlen(etag), ret) < 0)
        *ret = '\0';
}

int verified_write(const char *final_path, const struct stat *st, const uint8_t sha256[static SHA256_BYTES],
                   const char *etag)
{
    _cleanup_free_ char *path = tb_strf("%s" VERIFIED_SUFFIX, final_path), *text = NULL;
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char hex[2 * SHA256_BYTES + 1], had[ETAG_MAX];

    if (!path || !o)
        return -ENOMEM;
    verified_etag(final_path, sha256, had);
    etag = etag ? etag : had;
    if (strcmp(etag, had) == 0 && verified_matches(final_path, st, sha256))
        return 0;
    tb_hex_encode(sha256, SHA256_BYTES, hex);
    if (!cJSON_AddStringToObject(o, "sha256", hex) || tb_file_mark_add(o, st) < 0 ||
        (*etag && !cJSON_AddStringToObject(o, "etag", etag)))
        return -ENOMEM;
    text = cJSON_Print(o);
    return text ? tb_write_file_atomic(path, text, strlen(text), 0640) : -ENOMEM;
}
