/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/scan.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/macros.h"

static _printf_(2, 3) void scan_problem(struct scan *s, const char *fmt, ...)
{
    va_list ap;

    if (s->n_problems >= SCAN_PROBLEMS_MAX)
        return;
    va_start(ap, fmt);
    vsnprintf(s->problems[s->n_problems++], SCAN_TEXT_MAX, fmt, ap);
    va_end(ap);
}

static int scan_header(int fd, unsigned flags, struct scan *s)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    ssize_t n = tb_pread_full(fd, buf, sizeof(buf), 0);

    if (n < 0)
        return (int)n;
    if (tbenc_header_parse(buf, (size_t)n, flags, &s->header, &e) == 0) {
        s->has_header = true;
        return 0;
    }
    scan_problem(s, "%s", e.message);
    /* What only the strict rules refuse can still be shown. */
    s->has_header = tbenc_header_parse(buf, (size_t)n, flags | TBENC_LENIENT, &s->header, NULL) == 0;
    return 0;
}

/* The length of record i is what header and manifest allow, and the file holds all of it. */
static bool scan_record_ok(struct scan *s, const struct tbenc_manifest *m, uint64_t off, uint32_t len)
{
    uint64_t left = s->bytes - off;
    struct tbenc_record want;
    unsigned long long i = s->records;

    if (len == 0 || len > s->header.chunk_bytes) {
        scan_problem(s, "chunk %llu at byte %llu says it holds %u bytes; 1 to %u are possible", i,
                     (unsigned long long)off, len, s->header.chunk_bytes);
        return false;
    }
    if (left < (uint64_t)len + TBENC_RECORD_OVERHEAD) {
        scan_problem(s, "the file ends inside chunk %llu: %llu bytes are missing", i,
                     (unsigned long long)(len + TBENC_RECORD_OVERHEAD - left));
        return false;
    }
    if (!m)
        return true;
    if (tbenc_manifest_record(m, i, &want) < 0) {
        scan_problem(s, "%llu bytes follow the last chunk of the manifest", (unsigned long long)left);
        return false;
    }
    if (want.pt_len == len)
        return true;
    scan_problem(s, "chunk %llu holds %u bytes, the manifest says %u", i, len, want.pt_len);
    return false;
}

static int scan_records(int fd, const struct tbenc_manifest *m, struct scan *s)
{
    bool was_short = false;

    for (uint64_t off = TBENC_HEADER_BYTES; off < s->bytes;) {
        uint32_t len;
        ssize_t n = tb_pread_full(fd, &len, sizeof(len), off);

        if (n < 0)
            return (int)n;
        len = be32toh(len);
        if (n < (ssize_t)sizeof(len)) {
            scan_problem(s, "the file ends inside the length of chunk %llu", (unsigned long long)s->records);
            return 0;
        }
        if (!scan_record_ok(s, m, off, len))
            return 0;
        if (!m && was_short)
            scan_problem(
                s, "chunk %llu is short but not the last: only a manifest with a file table allows that",
                (unsigned long long)s->records - 1);
        was_short = len < s->header.chunk_bytes;
        off += (uint64_t)len + TBENC_RECORD_OVERHEAD;
        s->plaintext_bytes += len;
        s->records++;
    }
    return 0;
}

static void scan_compare(struct scan *s, const struct tbenc_manifest *m)
{
    uint64_t size = tbenc_manifest_ciphertext_bytes(m), records = tbenc_manifest_records(m);

    if (s->has_header && s->header.chunk_bytes != m->chunk_bytes)
        scan_problem(s, "the header says chunks of %u bytes, the manifest %u", s->header.chunk_bytes,
                     m->chunk_bytes);
    if (s->bytes != size)
        scan_problem(s, "%llu bytes, the manifest says %llu", (unsigned long long)s->bytes,
                     (unsigned long long)size);
    if (s->has_header && s->records != records)
        scan_problem(s, "%llu whole chunks, the manifest says %llu", (unsigned long long)s->records,
                     (unsigned long long)records);
}

int scan_ciphertext(int fd, uint64_t bytes, const struct tbenc_manifest *m, unsigned flags, struct scan *ret)
{
    struct scan s = {.bytes = bytes};
    int r = scan_header(fd, flags, &s);

    if (r == 0 && s.has_header)
        r = scan_records(fd, m, &s);
    if (r < 0)
        return r;
    if (m)
        scan_compare(&s, m);
    *ret = s;
    return 0;
}
