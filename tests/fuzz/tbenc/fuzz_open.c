/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes as a .tbenc against a sealed asset's manifest: only the original opens; anything else is refused and
 * leaks nothing of a chunk that is not the original's. The input is an edit script over the original: 4-byte
 * position, 1 byte xor, repeated; an odd tail cuts or lengthens the file. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/io.h"
#include "tbenc/tbenc.h"

#define SIZE (3 * 1024 + 77)
#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x))                                                                                            \
            abort();                                                                                         \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t key[TBENC_KEY_BYTES] = "fuzzing, not a secret, 32 bytes";
static uint8_t plain[SIZE], sealed[SIZE + 4096];
static size_t sealed_len;
static struct tbenc_manifest *manifest;

static int memfd_of(const void *p, size_t n)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    CHECK(fd >= 0 && tb_pwrite_full(fd, p, n, 0) == 0);
    return fd;
}

static void setup(void)
{
    struct tbenc_seal_params p = {.key = key,
                                  .chunk_bytes = 1024,
                                  .threads = 1,
                                  .nonce_prefix = (const uint8_t *)"fuzz",
                                  .asset_id = "fuzz",
                                  .weights_filename = "fuzz.tbenc"};
    struct tbenc_input in = {.bytes = SIZE};
    int out = memfd_of("", 0);

    for (size_t i = 0; i < SIZE; i++)
        plain[i] = (uint8_t)(i * 31 + i / 256);
    in.fd = memfd_of(plain, SIZE);
    CHECK(tbenc_seal(&p, &in, 1, false, out, &manifest, NULL) == 0);
    sealed_len = (size_t)tb_pread_full(out, sealed, sizeof(sealed), 0);
    CHECK(sealed_len == tbenc_manifest_ciphertext_bytes(manifest));
    close(in.fd);
    close(out);
}

/* Applies the script; the new length is returned. */
static size_t edit(uint8_t *ct, size_t max, const uint8_t *data, size_t size)
{
    size_t n = sealed_len;

    memcpy(ct, sealed, sealed_len);
    for (; size >= 5; data += 5, size -= 5) {
        uint32_t at;

        memcpy(&at, data, 4);
        ct[at % sealed_len] ^= data[4];
    }
    if (size == 1)
        n = MIN(n + data[0], max);
    else if (size >= 2)
        n -= ((size_t)data[0] << 8 | data[1]) % (sealed_len + 1);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t ct[sizeof(sealed)], got[SIZE];
    struct tbenc_open_params p = {.manifest = NULL, .key = key, .threads = 2};
    struct tbenc_error e = {.message = ""};
    int in, out, r;
    bool same;
    ssize_t k;
    size_t n;

    if (!manifest)
        setup();
    p.manifest = manifest;
    memset(ct, 0, sizeof(ct));
    n = edit(ct, sizeof(ct), data, size);
    same = n == sealed_len && memcmp(ct, sealed, n) == 0;
    in = memfd_of(ct, n);
    out = memfd_of("", 0);
    r = tbenc_open_stream(&p, in, out, &e);
    CHECK((r == 0) == same && (r == 0 || (r == -EBADMSG && e.message[0])));
    k = tb_pread_full(out, got, sizeof(got), 0);
    CHECK(k >= 0 && memcmp(got, plain, (size_t)k) == 0); /* whatever came out is a true beginning */
    CHECK((tbenc_open_files(&p, in, &out, 1, NULL) == 0) == same);
    CHECK((tbenc_verify(&p, in, NULL) == 0) == same);
    close(in);
    close(out);
    return 0;
}
