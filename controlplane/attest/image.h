/* SPDX-License-Identifier: Apache-2.0 */
/* What a registered image makes of a machine's PCRs: the document that `tbpkg image measure` writes, and
 * whether quoted values are those of it. No I/O. docs/attestation.md. */
#ifndef CP_ATTEST_IMAGE_H
#define CP_ATTEST_IMAGE_H

#include "common/json.h"
#include "common/tpm_key.h"
#include "controlplane/store/images.h"

#define CP_IMAGE_VALUES_MAX 8 /* of one PCR */
/* Without them an image is not told from what was added to it at the boot. */
#define CP_IMAGE_PCRS (1U << 4 | 1U << 11 | 1U << 12 | 1U << 13 | 1U << 14)

struct cp_image_values {
    uint32_t pcrs; /* those that it names */
    struct cp_image_pcr {
        uint8_t value[CP_IMAGE_VALUES_MAX][TB_TPM_DIGEST_BYTES];
        size_t n;
    } of[16];
    bool debug;
};

/* The document as JSON. name, version: are set, registered_us and the like not. -EINVAL and what is wrong. */
int cp_image_read(const struct cJSON *o, struct cp_image *ret, struct cp_image_values *values,
                  char err[static TB_JSON_ERR_MAX]);
/* The same of its text, as it is kept. */
int cp_image_values_read(const struct cp_image *i, struct cp_image_values *ret);

struct cp_image_match {
    unsigned same;   /* PCRs that are as the image says */
    unsigned differ; /* the first that is not; 16: none */
    bool open;       /* it is, but its PCR 4 is that without Secure Boot */
};
void cp_image_compare(const struct cp_image_values *v, const struct tb_tpm_pcrs *quoted,
                      struct cp_image_match *ret);

/* A name or a version of an image. */
bool cp_image_name_valid(const char *s);
#define CP_IMAGE_NAME_WORDS "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
/* NAME@VERSION, where VERSION may be "*"; or NAME, which is NAME@*. Writes the long form. -EINVAL. */
int cp_image_reference(const char *word, char ret[static CP_IMAGE_REFERENCE_MAX]);
bool cp_image_is_named(const struct cp_image *i, const char *reference);

#endif
