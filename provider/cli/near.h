/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean": which names are nearly the one that was typed. */
#ifndef TBPKG_CLI_NEAR_H
#define TBPKG_CLI_NEAR_H

#include <stdbool.h>

/* a becomes b by few changes for its length: a letter more, less or another, two neighbours swapped; or one
 * begins the other. Case makes no difference. */
bool cli_near(const char *a, const char *b);

#endif
