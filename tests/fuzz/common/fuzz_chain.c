/* SPDX-License-Identifier: Apache-2.0 */
/* Audit lines: a record is read or refused; and of a tail, what is followed is whole lines that lead on from where it began. */
#include <stdlib.h>
#include <string.h>

#include "common/chain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_chain_point from = {0}, end;
    struct tb_chain_entry e;
    char err[TB_CHAIN_ERR_MAX] = "";
    char *text;
    size_t whole;
    int r;

    if (size > 65536)
        return 0;
    text = malloc(size + 1); /* exactly as long as it is */
    memcpy(text, data, size);
    if (tb_chain_parse(text, size, &e, err) == 0 ? e.seq == 0 : !*err)
        abort();
    for (int i = 0; i < 2; i++) {
        r = tb_chain_follow(text, size, &from, &end, &whole);
        if (r < 0 || whole > size || (whole > 0 && text[whole - 1] != '\n') ||
            memchr(text + whole, '\n', size - whole))
            abort();
        if (r == TB_CHAIN_TAIL_EMPTY ? whole > 0 : whole == 0)
            abort();
        if (r == TB_CHAIN_TAIL_LEADS ? end.seq < from.seq || end.seq == 0 : end.seq != from.seq)
            abort();
        from = end;
    }
    free(text);
    return 0;
}
