/* SPDX-License-Identifier: Apache-2.0 */
/* Which place is asked next for a record that is fetched once more: another than the download's own first,
 * since what that one sent may be what is wrong, then its own, then the rest, and so on in a circle. Each
 * request counts, whatever came of it, so whichever place has the record right has its turn. */
#ifndef TB_HYDRATE_TURNS_H
#define TB_HYDRATE_TURNS_H

#include <stdint.h>

#include "common/want.h"

struct turn {
    uint64_t offset; /* of the record */
    unsigned next;
};

struct turns {
    struct turn turn[TB_WANT_MAX]; /* the first n; when there are more, the oldest gives way */
    unsigned n, oldest;
};

/* The turn of the next request for the record at that offset. try: of the wish, from 1; counts where it was
 * not asked for here, as an earlier run may have been told of it. */
unsigned turns_next(struct turns *t, uint64_t offset, unsigned try);
/* Of n_others other places, whose turn it is; -1: the download's own. */
int turns_place(unsigned turn, unsigned n_others);

#endif
