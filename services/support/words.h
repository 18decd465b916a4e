/* SPDX-License-Identifier: Apache-2.0 */
/* What a word looks like. No I/O, no memory. */
#ifndef TB_SUPPORT_WORDS_H
#define TB_SUPPORT_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#include "support/redact.h"

/* What s, a run of letters, digits and "._~+/=%@:-", is as a whole. */
enum redact_class word_class(const char *s, size_t len);
/* The name of a setting, member, header or option whose value is a secret: "api_key", "Authorization",
 * "sig". */
bool word_names_secret(const char *s, size_t len);
/* A host that is this machine to itself, or every one: "127.0.0.1", "localhost", "0.0.0.0", "::1". */
bool word_is_local(const char *s, size_t len);

#endif
