/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "load/cmdline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char err[TB_CMDLINE_ERR_MAX] = "", **argv = NULL;
    size_t n = 0, total = 0;

    if (tb_cmdline_split((const char *)data, size, &argv, err) < 0) {
        if (err[0] == '\0' || argv)
            abort();
        return 0;
    }
    for (; argv[n]; n++)
        total += strlen(argv[n]);
    if (n < 1 || n > TB_CMDLINE_ARGS_MAX || total > size || argv[0][0] == '\0')
        abort();
    if (tb_cmdline_substitute(argv, "/run/model") < 0)
        abort();
    tb_argv_free(argv);
    return 0;
}
