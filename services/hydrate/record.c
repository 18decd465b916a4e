/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/record.h"

#include <string.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/secret.h"

static int record_parse_identity(const cJSON *o, struct partial_identity *id)
{
    char err[TB_JSON_ERR_MAX];
    const char *sha, *etag;

    if (tb_json_get_string(o, "sha256_ciphertext", &sha, err) < 0 ||
        tb_json_get_string(o, "etag", &etag, err) < 0 ||
        tb_json_get_uint(o, "bytes", TB_JSON_INT_MAX, &id->size, err) < 0 ||
        tb_json_get_uint(o, "range_bytes", TB_JSON_INT_MAX, &id->chunk, err) < 0)
        return -EBADMSG;
    if (tb_hex_decode(sha, strlen(sha), id->sha256, sizeof(id->sha256)) < 0)
        return -EBADMSG;
    id->etag[0] = '\0';
    if (*etag && etag_parse(etag, strlen(etag), id->etag) < 0)
        return -EBADMSG;
    return 0;
}

int record_parse(const char *buf, size_t len, struct partial_identity *ret_id,
                 char ret_instance[static INSTANCE_MAX], struct ranges *ret_ranges)
{
    _cleanup_json_ cJSON *o = NULL;
    _cleanup_ranges_ struct ranges ranges = {0};
    struct partial_identity id = {0};
    char err[TB_JSON_ERR_MAX];
    const char *instance, *done;
    int r;

    r = tb_json_parse(buf, len, RECORD_MAX, &o, err);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    r = record_parse_identity(o, &id);
    if (r < 0)
        return r;
    if (tb_json_get_string(o, "instance", &instance, err) < 0 || strlen(instance) != INSTANCE_MAX - 1 ||
        tb_json_get_string(o, "done", &done, err) < 0)
        return -EBADMSG;
    r = ranges_init(&ranges, id.size, id.chunk);
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    if (ranges_parse(&ranges, done, strlen(done)) < 0)
        return -EBADMSG;
    *ret_id = id;
    memcpy(ret_instance, instance, INSTANCE_MAX);
    *ret_ranges = ranges;
    ranges = (struct ranges){0};
    return 0;
}

char *record_format(const struct partial_identity *id, const char *instance, const struct ranges *ranges)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *done = ranges_format(ranges);
    char hex[2 * SHA256_BYTES + 1];

    if (!o || !done)
        return NULL;
    tb_hex_encode(id->sha256, sizeof(id->sha256), hex);
    if (!cJSON_AddStringToObject(o, "sha256_ciphertext", hex) || tb_json_add_uint(o, "bytes", id->size) < 0 ||
        tb_json_add_uint(o, "range_bytes", id->chunk) < 0 || !cJSON_AddStringToObject(o, "etag", id->etag) ||
        !cJSON_AddStringToObject(o, "instance", instance) || !cJSON_AddStringToObject(o, "done", done))
        return NULL;
    return cJSON_Print(o);
}
