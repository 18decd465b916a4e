/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/pe.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/macros.h"

#define DOS_HEADER_BYTES 64
#define PE_OFFSET_AT 0x3c
#define COFF_HEADER_BYTES 24 /* with the signature before it */
#define SECTION_HEADER_BYTES 40
#define MAGIC_PE32 0x10b
#define MAGIC_PE32_PLUS 0x20b
/* In the optional header. */
#define HEADERS_LEN_AT 60
#define CHECKSUM_AT 64
#define DIRECTORIES_AT 96 /* 112 in PE32+ */
#define CERTIFICATES_DIRECTORY 4
#define DIRECTORY_BYTES 8
#define ZEROS_MAX (16U << 20) /* of a section that is longer in memory */

static uint16_t pe_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t pe_u32(const uint8_t *p)
{
    return (uint32_t)pe_u16(p) | (uint32_t)pe_u16(p + 2) << 16;
}

/* n bytes from `at` on are in the file. */
static bool pe_has(const struct pe *p, uint64_t at, uint64_t n)
{
    return at <= p->len && n <= p->len - at;
}

/* The optional header, whose length the COFF header says. */
static int pe_read_optional(struct pe *p, size_t at, size_t n)
{
    size_t directories, count_at;
    uint16_t magic;

    if (!pe_has(p, at, n) || n < DIRECTORIES_AT)
        return -EBADMSG;
    magic = pe_u16(p->b + at);
    if (magic != MAGIC_PE32 && magic != MAGIC_PE32_PLUS)
        return -EBADMSG;
    directories = magic == MAGIC_PE32_PLUS ? DIRECTORIES_AT + 16 : DIRECTORIES_AT;
    count_at = directories - 4;
    if (n < directories + (CERTIFICATES_DIRECTORY + 1) * DIRECTORY_BYTES ||
        pe_u32(p->b + at + count_at) <= CERTIFICATES_DIRECTORY)
        return -EBADMSG;
    p->checksum_at = at + CHECKSUM_AT;
    p->certificates_at = at + directories + CERTIFICATES_DIRECTORY * DIRECTORY_BYTES;
    p->headers_len = pe_u32(p->b + at + HEADERS_LEN_AT);
    p->certificates_len = pe_u32(p->b + p->certificates_at + 4);
    return 0;
}

static int pe_read_sections(struct pe *p, size_t at, size_t n)
{
    if (n > PE_SECTIONS_MAX || !pe_has(p, at, n * SECTION_HEADER_BYTES) ||
        at + n * SECTION_HEADER_BYTES > p->headers_len)
        return -EBADMSG;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *h = p->b + at + i * SECTION_HEADER_BYTES;
        struct pe_section *s = &p->sections[p->n++];

        memcpy(s->name, h, sizeof(s->name) - 1);
        s->memory_bytes = pe_u32(h + 8);
        s->file_bytes = pe_u32(h + 16);
        s->file_at = pe_u32(h + 20);
        if (s->file_bytes && (s->file_at < p->headers_len || !pe_has(p, s->file_at, s->file_bytes)))
            return -EBADMSG;
        if (s->memory_bytes > s->file_bytes && s->memory_bytes - s->file_bytes > ZEROS_MAX)
            return -EBADMSG;
    }
    return 0;
}

int pe_parse(const uint8_t *b, size_t len, struct pe *ret)
{
    size_t at, optional;
    int r;

    *ret = (struct pe){.b = b, .len = len};
    if (len < DOS_HEADER_BYTES || memcmp(b, "MZ", 2) != 0)
        return -EBADMSG;
    at = pe_u32(b + PE_OFFSET_AT);
    if (!pe_has(ret, at, COFF_HEADER_BYTES) || memcmp(b + at, "PE\0\0", 4) != 0)
        return -EBADMSG;
    optional = pe_u16(b + at + 20);
    r = pe_read_optional(ret, at + COFF_HEADER_BYTES, optional);
    if (r == 0 && (ret->headers_len > len || ret->certificates_len > len - ret->headers_len ||
                   ret->headers_len < ret->certificates_at + DIRECTORY_BYTES))
        r = -EBADMSG;
    return r < 0 ? r : pe_read_sections(ret, at + COFF_HEADER_BYTES + optional, pe_u16(b + at + 6));
}

const struct pe_section *pe_find(const struct pe *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->sections[i].name, name) == 0)
            return &p->sections[i];
    return NULL;
}

uint8_t *pe_load(const struct pe *p, const struct pe_section *s)
{
    uint8_t *m = calloc(1, (size_t)s->memory_bytes + 1);

    if (m && s->file_bytes)
        memcpy(m, p->b + s->file_at, MIN(s->memory_bytes, s->file_bytes));
    return m;
}

/* -- the hash ---------------------------------------------------------------------------------- */
static int section_compare(const void *a, const void *b)
{
    const struct pe_section *const *x = a, *const *y = b;

    return ((*x)->file_at > (*y)->file_at) - ((*x)->file_at < (*y)->file_at);
}

static bool hash_headers(EVP_MD_CTX *c, const struct pe *p)
{
    size_t after_checksum = p->checksum_at + 4, after_certificates = p->certificates_at + DIRECTORY_BYTES;

    return EVP_DigestUpdate(c, p->b, p->checksum_at) == 1 &&
           EVP_DigestUpdate(c, p->b + after_checksum, p->certificates_at - after_checksum) == 1 &&
           EVP_DigestUpdate(c, p->b + after_certificates, p->headers_len - after_certificates) == 1;
}

/* Sections in the order of the file; then what is behind them, up to the signatures. */
static bool hash_rest(EVP_MD_CTX *c, const struct pe *p)
{
    const struct pe_section *order[PE_SECTIONS_MAX] = {NULL};
    uint64_t done = p->headers_len, end = p->len - p->certificates_len;

    for (size_t i = 0; i < p->n; i++)
        order[i] = &p->sections[i];
    qsort(order, p->n, sizeof(order[0]), section_compare);
    for (size_t i = 0; i < p->n; i++) {
        if (order[i]->file_bytes && EVP_DigestUpdate(c, p->b + order[i]->file_at, order[i]->file_bytes) != 1)
            return false;
        done += order[i]->file_bytes;
    }
    return done >= end || EVP_DigestUpdate(c, p->b + done, (size_t)(end - done)) == 1;
}

int pe_hash(const struct pe *p, uint8_t ret[static PE_DIGEST_BYTES])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 && hash_headers(c, p) && hash_rest(c, p) &&
              EVP_DigestFinal_ex(c, ret, NULL) == 1;

    EVP_MD_CTX_free(c);
    return ok ? 0 : -EIO;
}
