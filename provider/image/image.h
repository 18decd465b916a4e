/* SPDX-License-Identifier: Apache-2.0 */
/* The image that the weights are served from: a container's by Buildah, a virtual machine's by Packer. What
 * is built gets its name last: whatever ends the run before leaves nothing under it. */
#ifndef TBPKG_IMAGE_IMAGE_H
#define TBPKG_IMAGE_IMAGE_H

#include <string.h>

#include "provider/cli/command.h"
#include "provider/image/attested.h"

#define IMAGE_DEFAULT_BASE "nvcr.io/nvidia/vllm:latest" /* as the first TrustBridge */
#define IMAGE_DEFAULT_OUTPUT "output-qemu"
#define IMAGE_DEFAULT_TEMPLATES "/usr/share/trustbridge/packer"

struct image_build {
    struct cli cli;
    const char *target, *debs, *templates, *base, *registry, *name, *tag, *sbom, *provider_key;
    struct tb_option_list vars, labels;
    bool no_push, no_cache, no_sbom, insecure_registry, dry_run;
    struct attested_build attested; /* vm-attested */

    char *work;              /* temporary directory */
    char *provider_keys;     /* those that the image pins, with commas between; NULL: none */
    char *reference;         /* "REGISTRY/NAME:TAG" */
    char *digest, *image_id; /* of a container */
    char *containerfile;     /* of a container, in a dry run */
    char *resource;          /* what was built for a machine: file or resource id */
    char *inventory;         /* text of tb-inventory in the image; NULL: it could not be asked */
    char *sbom_path;         /* final name; NULL: none is written */
};

static inline bool image_is_oci(const struct image_build *b)
{
    return strcmp(b->target, "oci") == 0;
}

static inline bool image_is_qemu(const struct image_build *b)
{
    return strcmp(b->target, "vm-qemu") == 0;
}

static inline bool image_is_attested(const struct image_build *b)
{
    return strcmp(b->target, "vm-attested") == 0;
}

/* Judge options only: CLI_OK, or the error is reported. */
int image_oci_check(struct image_build *b);
int image_vm_check(struct image_build *b);
int image_attested_check(struct image_build *b);

/* Build it, or with dry_run look whether it could be built. What is said above to be built is set after that.
 * CLI_OK, or the error is reported. */
int image_oci_build(struct image_build *b);
int image_vm_build(struct image_build *b);
int image_attested_build(struct image_build *b);

/* The value of --var NAME, else of PKR_VAR_NAME in the environment as Packer takes it, else fallback. */
const char *image_var(const struct image_build *b, const char *name, const char *fallback);
/* The directory of a qemu image, without '/' at its end. Heap, or NULL. */
char *image_output(const struct image_build *b);

#endif
