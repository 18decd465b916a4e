/* SPDX-License-Identifier: Apache-2.0 */
#include "common/deliver.h"

#include <string.h>

#define SUFFIX ".tbenc"

const char *tb_deliver_mode_name(uint32_t mode)
{
    switch (mode) {
    case TB_DELIVER_FIFO:
        return "fifo";
    case TB_DELIVER_DIR:
        return "dir";
    case TB_DELIVER_VIEW:
        return "view";
    case TB_DELIVER_S3:
        return "s3";
    default:
        return "?";
    }
}

char *tb_deliver_name(char *name)
{
    size_t n = strlen(name), s = strlen(SUFFIX);

    if (n > s && strcmp(name + n - s, SUFFIX) == 0)
        name[n - s] = '\0';
    return name;
}
