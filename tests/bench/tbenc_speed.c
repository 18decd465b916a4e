/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of libtbenc: tbenc_speed OPERATION DIR MIB CHUNK_BYTES THREADS [FILES]. OPERATION is one of
 *   seal          DIR/speed.pt -> DIR/speed.tbenc
 *   seal-null     DIR/speed.pt -> /dev/null: without the cost of storing (on tmpfs, of fresh pages)
 *   fifo          DIR/speed.tbenc -> a pipe that another process read()s into one buffer
 *   files         DIR/speed.tbenc -> DIR/speed.out
 *   verify        DIR/speed.tbenc, with sha256_ciphertext
 *   sha256, gcm   one core's bare speed on 1 MiB buffers in cache: the yardsticks
 * seal makes the plaintext when it is missing and leaves the manifest in DIR/speed.json; clean removes all of
 * them. FILES > 1: a file table of so many files. Prints one line "OPERATION GB/s seconds". */
#include <fcntl.h>
#include <openssl/evp.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "tbenc/tbenc.h"
#include "common/units.h"

static const uint8_t key[TBENC_KEY_BYTES] = "only for measuring, not a secret";
static const char *dir;
static uint64_t total;
static uint32_t chunk_bytes;
static unsigned threads, n_files = 1;
static struct tbenc_error error;

static void die(const char *what, int r)
{
    fprintf(stderr, "tbenc_speed: %s: %s %s\n", what, strerror(-r), error.message);
    exit(1);
}

static char *name(const char *suffix)
{
    char *p = tb_strf("%s/speed.%s", dir, suffix);

    if (!p)
        die("memory", -ENOMEM);
    return p;
}

static int must_open(const char *suffix, int flags)
{
    _cleanup_free_ char *p = name(suffix);
    int fd = open(p, flags | O_CLOEXEC, 0600);

    if (fd < 0)
        die(p, -errno);
    return fd;
}

static double now(void)
{
    return (double)tb_now_monotonic_us() / 1e6;
}

static void report(const char *op, uint64_t bytes, double seconds)
{
    printf("%s %.3f %.3f\n", op, (double)bytes / seconds / 1e9, seconds);
}

static void make_plaintext(void)
{
    _cleanup_close_ int fd = must_open("pt", O_RDWR | O_CREAT);
    static uint8_t buf[1 << 20];
    uint64_t x = 88172645463325252ULL;
    struct stat st;

    if (fstat(fd, &st) == 0 && (uint64_t)st.st_size == total / n_files)
        return;
    if (ftruncate(fd, 0) < 0)
        die("truncate", -errno);
    for (uint64_t at = 0; at < total / n_files; at += sizeof(buf)) {
        for (size_t i = 0; i < sizeof(buf); i += 8, x = x * 6364136223846793005ULL + 1)
            memcpy(buf + i, &x, 8);
        if (tb_write_full(fd, buf, sizeof(buf)) < 0)
            die("write", -EIO);
    }
}

static void do_seal(bool store)
{
    struct tbenc_input in[TBENC_FILES_MAX];
    struct tbenc_seal_params p = {.key = key,
                                  .chunk_bytes = chunk_bytes,
                                  .threads = threads,
                                  .asset_id = "speed",
                                  .weights_filename = "speed.tbenc"};
    _cleanup_close_ int out = -1;
    _cleanup_free_ char *text = NULL, *manifest = name("json");
    struct tbenc_manifest *m = NULL;
    size_t len;
    double t;
    int r;

    make_plaintext();
    for (unsigned i = 0; i < n_files; i++)
        in[i] = (struct tbenc_input){.fd = must_open("pt", O_RDONLY),
                                     .path = tb_strf("f%05u", i),
                                     .mode = 0644,
                                     .bytes = total / n_files};
    out = store ? must_open("tbenc", O_WRONLY | O_CREAT | O_TRUNC) : open("/dev/null", O_WRONLY | O_CLOEXEC);
    t = now();
    r = tbenc_seal(&p, in, n_files, n_files > 1, out, &m, &error);
    if (r < 0)
        die("seal", r);
    report(store ? "seal" : "seal-null", total, now() - t);
    if (store &&
        (tbenc_manifest_format(m, &text, &len) < 0 || tb_write_file_atomic(manifest, text, len, 0600) < 0))
        die("manifest", -EIO);
    tbenc_manifest_free(m);
}

static struct tbenc_manifest *load(void)
{
    _cleanup_free_ char *path = name("json"), *text = NULL;
    struct tbenc_manifest *m = NULL;
    size_t len;
    int r;

    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r >= 0)
        r = tbenc_manifest_parse(text, len, 0, &m, &error);
    if (r < 0)
        die(path, r);
    return m;
}

/* The other end: as a runtime does, read() into one buffer. */
static void reader_main(int fd)
{
    static uint8_t buf[1 << 20];

    while (read(fd, buf, sizeof(buf)) > 0)
        ;
    _exit(0);
}

static void do_fifo(const struct tbenc_open_params *p)
{
    _cleanup_close_ int in = must_open("tbenc", O_RDONLY);
    int fds[2], r;
    double t = now();
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        die("pipe", -errno);
    pid = fork();
    if (pid == 0) {
        close(fds[1]);
        reader_main(fds[0]);
    }
    close(fds[0]);
    r = tbenc_open_stream(p, in, fds[1], &error);
    if (r < 0)
        die("open_stream", r);
    close(fds[1]);
    waitpid(pid, NULL, 0);
    report("fifo", total, now() - t);
}

static void do_files(const struct tbenc_open_params *p)
{
    _cleanup_close_ int in = must_open("tbenc", O_RDONLY);
    int out[TBENC_FILES_MAX];
    double t;
    int r;

    for (unsigned i = 0; i < n_files; i++) {
        _cleanup_free_ char *suffix = tb_strf("out%u", i);

        out[i] = must_open(suffix, O_RDWR | O_CREAT | O_TRUNC);
    }
    t = now();
    r = tbenc_open_files(p, in, out, n_files, &error);
    if (r < 0)
        die("open_files", r);
    report("files", total, now() - t);
}

static void do_verify(const struct tbenc_open_params *p)
{
    _cleanup_close_ int in = must_open("tbenc", O_RDONLY);
    double t = now();
    int r = tbenc_verify(p, in, &error);

    if (r < 0)
        die("verify", r);
    report("verify", total, now() - t);
}

static void do_yardstick(const char *op)
{
    static uint8_t buf[1 << 20];
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    EVP_MD_CTX *h = EVP_MD_CTX_new();
    double t = now();
    int n;

    EVP_DigestInit_ex(h, EVP_sha256(), NULL);
    EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, key, buf);
    for (uint64_t at = 0; at < total; at += sizeof(buf))
        if (strcmp(op, "sha256") == 0)
            EVP_DigestUpdate(h, buf, sizeof(buf));
        else
            EVP_EncryptUpdate(c, buf, &n, buf, sizeof(buf));
    report(op, total, now() - t);
    EVP_CIPHER_CTX_free(c);
    EVP_MD_CTX_free(h);
}

static void do_clean(void)
{
    static const char *const suffixes[] = {"pt", "tbenc", "json"};

    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        _cleanup_free_ char *p = name(suffixes[i]);

        unlink(p);
    }
    for (unsigned i = 0; i < TBENC_FILES_MAX; i++) {
        _cleanup_free_ char *suffix = tb_strf("out%u", i), *p = name(suffix);

        unlink(p);
    }
}

int main(int argc, char **argv)
{
    struct tbenc_open_params p = {.key = key};
    const char *op;

    if (argc < 6) {
        fprintf(stderr,
                "usage: tbenc_speed seal|seal-null|fifo|files|verify|sha256|gcm|clean DIR MIB CHUNK_BYTES "
                "THREADS [FILES]\n");
        return 64;
    }
    op = argv[1];
    dir = argv[2];
    total = strtoull(argv[3], NULL, 10) << 20;
    chunk_bytes = (uint32_t)strtoul(argv[4], NULL, 10);
    p.threads = threads = (unsigned)strtoul(argv[5], NULL, 10);
    if (argc > 6)
        n_files = (unsigned)MAX(strtoul(argv[6], NULL, 10), 1UL);
    signal(SIGPIPE, SIG_IGN);
    if (strcmp(op, "clean") == 0)
        return do_clean(), 0;
    if (strcmp(op, "sha256") == 0 || strcmp(op, "gcm") == 0)
        return do_yardstick(op), 0;
    if (strcmp(op, "seal") == 0 || strcmp(op, "seal-null") == 0)
        return do_seal(strcmp(op, "seal") == 0), 0;
    p.manifest = load();
    if (strcmp(op, "fifo") == 0)
        do_fifo(&p);
    else if (strcmp(op, "files") == 0)
        do_files(&p);
    else
        do_verify(&p);
    return 0;
}
