/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of signatures, keys and signed manifests: whatever comes, nothing is read behind its end, what was split
 * joins to the same bytes, and a key that was parsed signed none of it. */
#include <stdlib.h>
#include <string.h>

#include "tbenc/signature.h"

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            abort();                                                                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_split(const char *buf, size_t size)
{
    char *text = NULL, *sig = NULL, *joined = NULL;
    struct tbenc_error e = {.message = ""};
    struct tbenc_signature look;
    size_t len, joined_len;

    if (tbenc_signature_split(buf, size, &text, &len, &sig, &e) < 0)
        CHECK(!text && !sig && e.message[0]);
    else if (sig && tbenc_signature_join(text, len, sig, &joined, &joined_len) == 0)
        CHECK(joined_len >= len + strlen(sig)); /* an escape of theirs may be a character of ours */
    else
        CHECK(sig || (len == size && memcmp(text, buf, len) == 0));
    if (tbenc_signature_look(buf, size, &look, &e) == 0 && look.present)
        CHECK(strlen(look.key_id) == TB_MINISIGN_ID_HEX);
    free(text);
    free(sig);
    free(joined);
}

static void check_keys(const char *buf, size_t size)
{
    char err[TB_MINISIGN_ERR_MAX] = "";
    struct tb_minisign_keys keys;
    struct tb_minisign_sig sig;

    if (tb_minisign_keys_parse(buf, size, &keys, err) < 0)
        CHECK(err[0]);
    else
        CHECK(keys.n >= 1 && keys.n <= TB_MINISIGN_KEYS_MAX);
    if (tb_minisign_sig_parse(buf, size, &sig, err) == 0) {
        CHECK(sig.comment >= buf && sig.comment + sig.comment_len <= buf + size);
        keys = (struct tb_minisign_keys){.n = 1};
        memcpy(keys.v[0].id, sig.key_id, sizeof(sig.key_id));
        memset(keys.v[0].public, 0x35, sizeof(keys.v[0].public)); /* nobody has the other half */
        CHECK(tb_minisign_verify(&keys, &sig, buf, size, NULL, err) < 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size ? size : 1); /* of exactly this size, so that a byte too much is seen */

    memcpy(copy, data, size);
    check_split(copy, size);
    check_keys(copy, size);
    free(copy);
    return 0;
}
