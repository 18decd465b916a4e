/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/verified.h"

#include <string.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"

#define VERIFIED_MAX 4096

/* As text: nanoseconds since 1970 do not fit the integers of JSON. */
static char *mtime_text(const struct stat *st)
{
    return tb_strf("%lld.%09ld", (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
}

static bool string_is(const cJSON *o, const char *name, const char *want)
{
    char err[TB_JSON_ERR_MAX];
    const char *have;

    return tb_json_get_string(o, name, &have, err) == 0 && strcmp(have, want) == 0;
}

static bool uint_is(const cJSON *o, const char *name, uint64_t want)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t have;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &have, err) == 0 && have == want;
}

bool verified_matches(const char *final_path, const struct stat *st,
                      const uint8_t sha256[static SHA256_BYTES])
{
    _cleanup_free_ char *path = tb_strf("%s" VERIFIED_SUFFIX, final_path), *text = NULL,
                        *mtime = mtime_text(st);
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX], hex[2 * SHA256_BYTES + 1];
    size_t len;

    if (!path || !mtime || tb_read_file(path, VERIFIED_MAX, &text, &len) < 0 ||
        tb_json_parse(text, len, VERIFIED_MAX, &o, err) < 0)
        return false;
    tb_hex_encode(sha256, SHA256_BYTES, hex);
    return string_is(o, "sha256", hex) && string_is(o, "mtime", mtime) &&
           uint_is(o, "bytes", (uint64_t)st->st_size) && uint_is(o, "inode", st->st_ino);
}

int verified_write(const char *final_path, const struct stat *st, const uint8_t sha256[static SHA256_BYTES])
{
    _cleanup_free_ char *path = tb_strf("%s" VERIFIED_SUFFIX, final_path), *text = NULL,
                        *mtime = mtime_text(st);
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char hex[2 * SHA256_BYTES + 1];

    if (!path || !mtime || !o)
        return -ENOMEM;
    tb_hex_encode(sha256, SHA256_BYTES, hex);
    if (!cJSON_AddStringToObject(o, "sha256", hex) ||
        tb_json_add_uint(o, "bytes", (uint64_t)st->st_size) < 0 ||
        !cJSON_AddStringToObject(o, "mtime", mtime) || tb_json_add_uint(o, "inode", st->st_ino) < 0)
        return -ENOMEM;
    text = cJSON_Print(o);
    return text ? tb_write_file_atomic(path, text, strlen(text), 0640) : -ENOMEM;
}
