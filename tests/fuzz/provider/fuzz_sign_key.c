/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a signing key: whatever is in it, what is taken without a passphrase is a pair that signs. */
#include <stdlib.h>
#include <string.h>

#include "common/secret.h"
#include "provider/asset/sign_key.h"

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            abort();                                                                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_key(const struct sign_key *k)
{
    struct tb_minisign_keys keys = {.n = 1};
    char err[TB_MINISIGN_ERR_MAX];
    struct tb_minisign_sig sig;
    char *text = NULL;

    sign_key_public(k, &keys.v[0]);
    CHECK(sign_message(k, "m", 1, "c", &text) == 0);
    CHECK(tb_minisign_sig_parse(text, strlen(text), &sig, err) == 0);
    CHECK(tb_minisign_verify(&keys, &sig, "m", 1, NULL, err) == 0);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1), err[TB_MINISIGN_ERR_MAX] = "";
    struct sign_file f;
    struct sign_key k;

    memcpy(copy, data, size);
    if (sign_file_parse(copy, size, &f, err) < 0)
        CHECK(err[0]);
    else if (!f.locked && sign_file_open(&f, NULL, &k, err) == 0)
        check_key(&k);
    free(copy);
    return 0;
}
