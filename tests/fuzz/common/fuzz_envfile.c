/* SPDX-License-Identifier: Apache-2.0 */
/* A settings file: whatever it holds, each name reaches a program once, a value has no NUL, and the findings are
 * lines that can be read back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/envfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_environ(char **env)
{
    for (char **a = env; *a; a++) {
        size_t n = strcspn(*a, "=") + 1;

        if (n == 1 || (*a)[n - 1] != '=')
            abort();
        for (char **b = a + 1; *b; b++)
            if (strncmp(*a, *b, n) == 0)
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_envfile_ struct tb_envfile e = {0};
    _cleanup_findings_ struct tb_findings f = {0}, again = {0};
    _cleanup_free_ char *text = NULL, *out = NULL;
    size_t len = 0;
    FILE *stream;
    char **env;

    if (size > 4096)
        return 0;
    text = malloc(size + 1); /* exactly as long as it is */
    memcpy(text, data, size);
    if (tb_envfile_parse(text, size, &e) < 0)
        abort();
    for (size_t i = 0; i < e.n; i++)
        if (e.v[i].line == 0 || !e.v[i].name[0])
            abort();
    env = tb_envfile_environ(&e);
    check_environ(env);
    tb_envfile_free_environ(env);
    tb_envfile_check(&e, &f);
    stream = open_memstream(&out, &len);
    tb_findings_write(&f, stream);
    fclose(stream);
    tb_findings_read(&again, out, len);
    if (again.n > f.n || (f.n > 0 && again.n == 0))
        abort();
    return 0;
}
