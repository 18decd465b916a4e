/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/access/scope.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *const cp_scope_names[CP_SCOPES_N] = {"owner",   "publisher", "support", "auditor",
                                                 "replace", "billing",   "keys"};

#define SCOPE_CALL_ROW(name, operation, method, path, scopes) {operation, method, path, scopes},
const struct cp_call_row cp_calls[_CP_CALL_MAX] = {CP_CALLS(SCOPE_CALL_ROW)};

static unsigned scope_find(const char *word, size_t n)
{
    for (unsigned i = 0; i < CP_SCOPES_N; i++)
        if (strlen(cp_scope_names[i]) == n && memcmp(cp_scope_names[i], word, n) == 0)
            return 1U << i;
    return 0;
}

int cp_scopes_parse(const char *words, unsigned *ret)
{
    unsigned scopes = 0;

    for (words += strspn(words, " \t"); *words; words += strspn(words, " \t")) {
        size_t n = strcspn(words, " \t");
        unsigned one = scope_find(words, n);

        if (!one)
            return -EINVAL;
        scopes |= one;
        words += n;
    }
    *ret = scopes;
    return scopes ? 0 : -EINVAL;
}

const char *cp_scopes_text(unsigned scopes, char out[static CP_SCOPES_TEXT_MAX])
{
    size_t n = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < CP_SCOPES_N; i++)
        if (scopes & 1U << i)
            n += (size_t)snprintf(out + n, CP_SCOPES_TEXT_MAX - n, "%s%s", n ? " " : "", cp_scope_names[i]);
    return out;
}
