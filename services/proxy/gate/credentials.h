/* SPDX-License-Identifier: Apache-2.0 */
/* The API key a request brings: `Authorization: Bearer KEY`, `x-api-key: KEY` (Anthropic's clients) and
 * `api-key: KEY` (Azure's) are one thing, whichever and however many of them are there. Pure. */
#ifndef TB_PROXY_GATE_CREDENTIALS_H
#define TB_PROXY_GATE_CREDENTIALS_H

#include <stdbool.h>
#include <stddef.h>

struct tb_credentials {
    const char *key; /* borrowed from the field's value, not NUL-terminated; NULL: none was given */
    size_t key_len;
    bool conflict; /* two different keys */
};

/* Feed each header field. True for one of the three: with TB_API_KEYS it is meant for us and never reaches
 * the runtime, whatever its value; without, it passes, as a runtime may have a key of its own. */
bool tb_credentials_field(struct tb_credentials *c, const char *name, const char *value, size_t value_len);

#endif
