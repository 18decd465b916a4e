/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/blake2b.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>

#include "common/macros.h"
#include "common/secret.h"

#define BLOCK_BYTES 128
#define ROUNDS 12

static const uint64_t blake2b_iv[8] = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
};

static const uint8_t blake2b_sigma[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static uint64_t blake2b_rotate(uint64_t v, unsigned n)
{
    return v >> n | v << (64 - n);
}

static void blake2b_mix(uint64_t *v, unsigned a, unsigned b, unsigned c, unsigned d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = blake2b_rotate(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = blake2b_rotate(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = blake2b_rotate(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = blake2b_rotate(v[b] ^ v[c], 63);
}

static void blake2b_compress(uint64_t h[8], const uint8_t block[BLOCK_BYTES], uint64_t total, bool last)
{
    static const uint8_t mix[8][4] = {{0, 4, 8, 12},  {1, 5, 9, 13},  {2, 6, 10, 14}, {3, 7, 11, 15},
                                      {0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13},  {3, 4, 9, 14}};
    uint64_t m[16], v[16];

    memcpy(m, block, sizeof(m));
    for (size_t i = 0; i < ARRAY_SIZE(m); i++)
        m[i] = le64toh(m[i]);
    memcpy(v, h, 8 * sizeof(*v));
    memcpy(v + 8, blake2b_iv, sizeof(blake2b_iv));
    v[12] ^= total;
    v[14] ^= last ? UINT64_MAX : 0;
    for (unsigned r = 0; r < ROUNDS; r++)
        for (unsigned i = 0; i < ARRAY_SIZE(mix); i++)
            blake2b_mix(v, mix[i][0], mix[i][1], mix[i][2], mix[i][3], m[blake2b_sigma[r % 10][2 * i]],
                        m[blake2b_sigma[r % 10][2 * i + 1]]);
    for (size_t i = 0; i < 8; i++)
        h[i] ^= v[i] ^ v[i + 8];
    tb_erase(m, sizeof(m));
    tb_erase(v, sizeof(v));
}

void blake2b(const void *in, size_t len, uint8_t *out, size_t out_len)
{
    uint8_t block[BLOCK_BYTES];
    const uint8_t *p = in;
    uint64_t h[8], total = 0;

    memcpy(h, blake2b_iv, sizeof(h));
    h[0] ^= 0x01010000 ^ out_len;
    for (; len - total > BLOCK_BYTES; p += BLOCK_BYTES) {
        total += BLOCK_BYTES;
        blake2b_compress(h, p, total, false);
    }
    memset(block, 0, sizeof(block));
    memcpy(block, p, len - total);
    blake2b_compress(h, block, len, true);
    for (size_t i = 0; i < ARRAY_SIZE(h); i++)
        h[i] = htole64(h[i]);
    memcpy(out, h, out_len);
    tb_erase(block, sizeof(block));
    tb_erase(h, sizeof(h));
}
