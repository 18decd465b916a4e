/* SPDX-License-Identifier: Apache-2.0 */
/* The keys file. What is accepted has names that can stand in a log and limits within bounds; an error never quotes the file. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/gate/keys.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size ? size : 1), err[TB_API_KEYS_ERR_MAX] = "";
    struct tb_api_keys keys = {0};
    int r;

    memcpy(text, data, size); /* without a NUL behind it that would hide reading too far */
    r = tb_api_keys_parse(text, size, &keys, err);
    if (r == -EINVAL && !strstr(err, "line "))
        abort();
    for (size_t i = 0; r == 0 && i < keys.n; i++) {
        const struct tb_api_key *k = &keys.key[i];

        if (!k->name[0] || strpbrk(k->name, " \t\n:=\"") || k->limits.rpm > TB_LIMIT_MAX ||
            k->limits.tpm > TB_LIMIT_MAX || k->limits.concurrent > TB_LIMIT_MAX ||
            k->limits.budget > TB_LIMIT_MAX)
            abort();
    }
    tb_api_keys_clear(&keys);
    free(text);
    return 0;
}
