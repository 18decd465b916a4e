/* SPDX-License-Identifier: Apache-2.0 */
#include "common/near.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/macros.h"

#define NEAR_MAX 100 /* longest name that is compared */
#define NEAR_PREFIX_MIN 3

/* Optimal string alignment: three rows of the matrix are enough. */
static unsigned near_distance(const char *a, const char *b)
{
    unsigned rows[3][NEAR_MAX + 1], *before = rows[0], *last = rows[1], *row = rows[2];
    size_t n = strlen(a), m = strlen(b);

    for (size_t j = 0; j <= m; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        unsigned *free_row = before;

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);

            row[j] = MIN(MIN(last[j], row[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) &&
                y == tolower((unsigned char)a[i - 2]))
                row[j] = MIN(row[j], before[j - 2] + 1);
        }
        before = last;
        last = row;
        row = free_row;
    }
    return last[m];
}

bool tb_near(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b), shorter = MIN(n, m);

    if (n > NEAR_MAX || m > NEAR_MAX || shorter == 0)
        return false;
    if (shorter >= NEAR_PREFIX_MIN && strncasecmp(a, b, shorter) == 0)
        return true;
    return near_distance(a, b) <= (MAX(n, m) >= 6 ? 2 : 1);
}
