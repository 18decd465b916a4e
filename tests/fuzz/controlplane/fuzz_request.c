/* SPDX-License-Identifier: Apache-2.0 */
/* Both request bodies, and the URL signing that works on what they let through. */
#include <stdlib.h>
#include <string.h>

#include "controlplane/api/request.h"
#include "controlplane/blob/sas.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void sign(const char *url)
{
    static const uint8_t key[64];
    const struct cp_sas_account account = {.name = "acct", .key = key, .key_len = sizeof(key)};
    const struct cp_sas s = {.accounts = &account, .n_accounts = 1, .lifetime_us = 1};
    char out[CP_SAS_URL_MAX];

    if (cp_sas_url(&s, url, 1767873600000000ULL, UINT64_MAX, out) < 0)
        return;
    if (strncmp(out, url, strlen(url)) != 0 || strpbrk(out, " \r\n\"\\"))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    struct cp_authorize q;
    struct cp_asset a;
    struct tb_key k;
    struct cp_put_how how;

    if (cp_register_parse((const char *)data, size, &a, &how, &k, err) == 0) {
        if (!tb_asset_id_valid(a.asset_id) || cp_blob_url_fault(a.ciphertext_url))
            abort();
        sign(a.ciphertext_url);
        sign(a.manifest_url);
    }
    if (cp_authorize_parse((const char *)data, size, &q, err) == 0 &&
        (!tb_id_valid(q.contract_id) || !*q.hw_id))
        abort();
    return 0;
}
