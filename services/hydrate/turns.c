/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/turns.h"

#include "common/macros.h"

static struct turn *turn_of(struct turns *t, uint64_t offset, unsigned try)
{
    struct turn *new;

    for (unsigned i = 0; i < t->n; i++)
        if (t->turn[i].offset == offset)
            return &t->turn[i];
    if (t->n < ARRAY_SIZE(t->turn)) {
        new = &t->turn[t->n++];
    } else {
        new = &t->turn[t->oldest];
        t->oldest = (t->oldest + 1) % (unsigned)ARRAY_SIZE(t->turn);
    }
    *new = (struct turn){.offset = offset, .next = MAX(try, 1U) - 1};
    return new;
}

unsigned turns_next(struct turns *t, uint64_t offset, unsigned try)
{
    return turn_of(t, offset, try)->next++;
}

int turns_place(unsigned turn, unsigned n_others)
{
    unsigned at = turn % (n_others + 1);

    if (n_others == 0 || at == 1)
        return -1;
    return at == 0 ? 0 : (int)at - 1;
}
