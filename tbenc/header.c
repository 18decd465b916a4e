/* SPDX-License-Identifier: Apache-2.0 */
/* The 32 bytes that start a .tbenc file: tbenc(5), section FILE HEADER. */
#include <string.h>

#include "tbenc/internal.h"

#define MAGIC "TBENC001"
#define VERSION 1
#define ALGO_AES_256_GCM_CHUNKED 1

enum { AT_VERSION = 8, AT_ALGO = 10, AT_CHUNK_BYTES = 11, AT_NONCE_PREFIX = 15, AT_RESERVED = 19 };

static int header_check_chunk_bytes(uint32_t n, unsigned flags, struct tbenc_error *e)
{
    uint32_t min = flags & TBENC_LENIENT ? 1 : TBENC_CHUNK_BYTES_MIN;

    if (n < min || n > TBENC_CHUNK_BYTES_MAX)
        return tbenc_fail(e, -EBADMSG, "header: chunk_bytes %u is not in %u..%u", n, min,
                          TBENC_CHUNK_BYTES_MAX);
    return 0;
}

static int header_check_reserved(const uint8_t *p, unsigned flags, struct tbenc_error *e)
{
    if (flags & TBENC_LENIENT)
        return 0;
    for (size_t i = AT_RESERVED; i < TBENC_HEADER_BYTES; i++)
        if (p[i])
            return tbenc_fail(e, -EBADMSG,
                              "header: reserved byte %zu is not zero: written by a newer version, or damaged",
                              i);
    return 0;
}

int tbenc_header_parse(const void *buf, size_t len, unsigned flags, struct tbenc_header *ret,
                       struct tbenc_error *e)
{
    const uint8_t *p = buf;
    struct tbenc_header h;
    unsigned version;
    int r;

    if (len < TBENC_HEADER_BYTES)
        return tbenc_fail(e, -EBADMSG, "header: %zu bytes instead of %d: not a tbenc file, or cut short", len,
                          TBENC_HEADER_BYTES);
    if (memcmp(p, MAGIC, sizeof(MAGIC) - 1) != 0)
        return tbenc_fail(e, -EBADMSG, "header: wrong magic: not a tbenc file");
    version = (unsigned)p[AT_VERSION] << 8 | p[AT_VERSION + 1];
    if (version != VERSION)
        return tbenc_fail(e, -EBADMSG, "header: version %u is not supported, only %d is", version, VERSION);
    if (p[AT_ALGO] != ALGO_AES_256_GCM_CHUNKED)
        return tbenc_fail(e, -EBADMSG,
                          "header: algorithm %u is not supported, only %d (aes-256-gcm-chunked) is",
                          p[AT_ALGO], ALGO_AES_256_GCM_CHUNKED);
    h.chunk_bytes = tbenc_get32(p + AT_CHUNK_BYTES);
    r = header_check_chunk_bytes(h.chunk_bytes, flags, e);
    if (r < 0)
        return r;
    r = header_check_reserved(p, flags, e);
    if (r < 0)
        return r;
    memcpy(h.nonce_prefix, p + AT_NONCE_PREFIX, sizeof(h.nonce_prefix));
    *ret = h;
    return 0;
}

void tbenc_header_format(const struct tbenc_header *h, uint8_t out[TBENC_HEADER_BYTES])
{
    memset(out, 0, TBENC_HEADER_BYTES);
    memcpy(out, MAGIC, sizeof(MAGIC) - 1);
    out[AT_VERSION + 1] = VERSION;
    out[AT_ALGO] = ALGO_AES_256_GCM_CHUNKED;
    tbenc_put32(out + AT_CHUNK_BYTES, h->chunk_bytes);
    memcpy(out + AT_NONCE_PREFIX, h->nonce_prefix, sizeof(h->nonce_prefix));
}
