/* SPDX-License-Identifier: Apache-2.0 */
/* The closed image of a virtual machine, by the recipe of image/: checks what goes in, has it made, measures
 * its kernel image, and gives the whole its name last. */
#ifndef TBPKG_IMAGE_ATTESTED_H
#define TBPKG_IMAGE_ATTESTED_H

#include "common/option.h"

#define ATTESTED_DEFAULT_RECIPE "/usr/share/trustbridge/image"

struct attested_build {
    const char *settings, *image, *version, *output, *recipe, *mirror, *cache;
    const char *secure_boot_key, *secure_boot_cert, *state_key, *append_cmdline;
    bool no_drivers;
    struct tb_option_list packages, overlays, scripts, units;
    char *default_output; /* heap; output is this when none is named */
};
void attested_clear(struct attested_build *a);

#endif
