/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine's TPM will say after it booted a unified kernel image that its firmware started directly:
 * found from the file alone, by the rules of edk2 (PCR 4) and of systemd-stub and systemd-pcrphase (PCR 11).
 * No I/O. docs/attestation.md says which boots this is true of, and what would prove it wrong. */
#ifndef TBPKG_IMAGE_MEASURE_H
#define TBPKG_IMAGE_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/json.h"
#include "provider/image/pe.h"

#define MEASURE_ERR_MAX 200
#define MEASURE_CMDLINE_MAX 4096
#define MEASURE_NAME_WORDS "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"

struct measured {
    uint8_t program[PE_DIGEST_BYTES];                                 /* Authenticode of the image */
    uint8_t pcr4_secure[PE_DIGEST_BYTES], pcr4_open[PE_DIGEST_BYTES]; /* Secure Boot on, off */
    uint8_t pcr11[PE_DIGEST_BYTES];                                   /* in the phase `ready` */
    uint8_t pcr11_early[PE_DIGEST_BYTES]; /* after the initrd, before any program of the image's root */
    uint8_t file[PE_DIGEST_BYTES];        /* SHA-256 of the whole file */
    char cmdline[MEASURE_CMDLINE_MAX];
    char roothash[2 * PE_DIGEST_BYTES + 1]; /* of dm-verity, from the command line */
    uint8_t pcr2_bare[PE_DIGEST_BYTES];     /* where neither a card nor an EFI variable brings a driver */
    bool no_drivers;                        /* set by the caller: name PCR 2, too */
    struct tb_buf open; /* words that a closed command line has and this one lacks, or the reverse; "" */
};
void measured_clear(struct measured *m);

/* -EBADMSG, -EOPNOTSUPP: an image that boots otherwise than this knows; and why in err. */
int measure_uki(const uint8_t *b, size_t len, struct measured *ret, char err[static MEASURE_ERR_MAX]);

/* A name or a version of an image. */
bool measure_name_valid(const char *s);
/* measurements.json. Debug: the command line is not closed. created: RFC 3339, or NULL. NULL on ENOMEM. */
cJSON *measured_describe(const struct measured *m, const char *image, const char *version,
                         const char *created);

#endif
