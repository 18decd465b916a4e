/* SPDX-License-Identifier: Apache-2.0 */
/* A PE file (PE/COFF specification 8.3) as firmware sees it: the sections of a unified kernel image, and the
 * hash that firmware measures a program by. (buf, len), no I/O; nothing of the file is believed. */
#ifndef TBPKG_IMAGE_PE_H
#define TBPKG_IMAGE_PE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PE_SECTIONS_MAX 96 /* what Windows loads */
#define PE_DIGEST_BYTES 32 /* SHA-256 */

struct pe_section {
    char name[9];
    uint32_t memory_bytes, file_at, file_bytes;
};

struct pe {
    const uint8_t *b;
    size_t len;
    size_t checksum_at, certificates_at; /* fields that no hash covers */
    size_t headers_len;
    size_t certificates_len; /* of the signatures, at the end of the file */
    struct pe_section sections[PE_SECTIONS_MAX];
    size_t n;
};

/* -EBADMSG: it is none, or lies about itself. */
int pe_parse(const uint8_t *b, size_t len, struct pe *ret);
/* NULL: there is none of that name. */
const struct pe_section *pe_find(const struct pe *p, const char *name);
/* Its contents, as they stand in memory: heap, memory_bytes long. NULL on ENOMEM. */
uint8_t *pe_load(const struct pe *p, const struct pe_section *s);
/* The Authenticode hash (SHA-256), over the bytes that edk2's TpmMeasurePe hashes. -EIO. */
int pe_hash(const struct pe *p, uint8_t ret[static PE_DIGEST_BYTES]);

#endif
