/* SPDX-License-Identifier: Apache-2.0 */
#include "common/hex.h"
#include "common/usage_report.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

static int usage_report_mac(const void *key, size_t key_len, const void *data, size_t len,
                            uint8_t out[static 32])
{
    unsigned n = 32;

    return HMAC(EVP_sha256(), key, (int)key_len, data, len, out, &n) && n == 32 ? 0 : -EIO;
}

int tb_report_key(const struct tb_key *asset_key, struct tb_key *ret)
{
    static const char purpose[] = "trustbridge usage report v1";

    return usage_report_mac(asset_key->b, sizeof(asset_key->b), purpose, sizeof(purpose) - 1, ret->b);
}

int tb_report_sign(const struct tb_key *report_key, const char *text, size_t len,
                   char out[static TB_REPORT_MAC_HEX + 1])
{
    uint8_t sum[32];
    int r = usage_report_mac(report_key->b, sizeof(report_key->b), text, len, sum);

    if (r == 0)
        tb_hex_encode(sum, sizeof(sum), out);
    return r;
}
