/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean": which names are nearly the one that was typed. */
#ifndef TB_NEAR_H
#define TB_NEAR_H

#include <stdbool.h>

/* a becomes b by few changes for its length: a letter more, less or another, two neighbours swapped; or one
 * begins the other. Case makes no difference. */
bool tb_near(const char *a, const char *b);

#endif
