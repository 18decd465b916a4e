/* SPDX-License-Identifier: Apache-2.0 */
/* libtbenc: the encrypted asset format tbenc/v1 and its manifest. tbenc(5) is the specification; section
 * names here are of that page.
 *
 * The library knows no network, no systemd and no log. Functions return 0 or a negative errno and describe
 * the failure in an optional struct tbenc_error: -EBADMSG the data is not authentic or not what the manifest
 * says; -EINVAL an argument is out of range; -EFBIG over a limit; -ECANCELED the progress callback said
 * stop; -EPIPE the reader went away; -ENOSPC and other errnos from read and write. Sizes are bytes. Nothing
 * of a chunk leaves the library before its tag is verified. Keys are read through the pointer given and
 * never kept after the call (readers: after free). Buffers that held plaintext are wiped before they are
 * freed and kept out of core dumps; they are not locked: a program that must not swap calls mlockall() or
 * runs without swap. */
#ifndef TBENC_H
#define TBENC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TBENC_KEY_BYTES 32
#define TBENC_SHA256_BYTES 32
#define TBENC_KEY_ID_BYTES 8
#define TBENC_SALT_BYTES 32
#define TBENC_HEADER_BYTES 32
#define TBENC_TAG_BYTES 16
#define TBENC_RECORD_OVERHEAD 20 /* u32 length + tag */
#define TBENC_CHUNK_BYTES_MIN 1024
#define TBENC_CHUNK_BYTES_MAX (64 * 1024 * 1024)
#define TBENC_CHUNK_BYTES_DEFAULT (1024 * 1024)
#define TBENC_MANIFEST_MAX (1024 * 1024)
#define TBENC_FILES_MAX 4096
#define TBENC_PATH_MAX 1024 /* bytes of one path of the file table, without NUL */
#define TBENC_ID_MAX 100
#define TBENC_NAME_MAX 255
#define TBENC_PLAINTEXT_MAX 9007199254740991ULL /* 2^53 - 1: exact in JSON */
#define TBENC_THREADS_MAX 64

#define TBENC_NO_CHUNK UINT64_MAX

struct tbenc_error {
    char message[512]; /* one line, names the object and the reason; no secret */
    uint64_t chunk;    /* index of the record at fault, TBENC_NO_CHUNK when none */
};

enum tbenc_flags {
    /* chunk_bytes 1..64 MiB, reserved header bytes may be set */
    TBENC_LENIENT = 1 << 0,
    /* also compare the whole ciphertext with sha256_ciphertext (a hash thread, overlapped) */
    TBENC_CHECK_SHA256 = 1 << 1,
    /* open_stream: never lend pages to a pipe; for readers that splice() or tee() instead of read() */
    TBENC_COPY_TO_PIPE = 1 << 2,
    /* manifest_parse: also take an overlay. Who asks must look at `base` */
    TBENC_OVERLAY = 1 << 3,
};

/* -- header (section FILE HEADER) -------------------------------------------------------------- */
struct tbenc_header {
    uint32_t chunk_bytes;
    uint8_t nonce_prefix[4];
};
int tbenc_header_parse(const void *buf, size_t len, unsigned flags, struct tbenc_header *ret,
                       struct tbenc_error *e);
void tbenc_header_format(const struct tbenc_header *h, uint8_t out[TBENC_HEADER_BYTES]);

/* -- manifest (section MANIFEST) --------------------------------------------------------------- */
struct tbenc_file {
    /* Relative, '/'-separated, no '.', '..', empty component or control character; sorted bytewise. */
    char *path;
    uint64_t bytes;
    uint32_t mode;                      /* permission bits, 0..0777 */
    uint64_t chunk;                     /* index of its first record (of the next record when empty) */
    uint8_t sha256[TBENC_SHA256_BYTES]; /* of its plaintext */
};
/* What an overlay takes from the version that it stands on (section OVERLAYS). */
struct tbenc_base {
    uint64_t version;                            /* number that the control plane knows it by, from 1 */
    uint8_t manifest_sha256[TBENC_SHA256_BYTES]; /* of the text of its manifest */
    uint8_t sha256_ciphertext[TBENC_SHA256_BYTES], tags_sha256[TBENC_SHA256_BYTES]; /* as that has them */
    uint8_t salt[TBENC_SALT_BYTES]; /* of the overlay's own records' key */
    struct tbenc_file *files;       /* chunk: of the base's ciphertext; never empty files. NULL: none */
    size_t n_files;
};
struct tbenc_manifest {
    uint32_t chunk_bytes;
    uint64_t plaintext_bytes;
    uint8_t sha256_ciphertext[TBENC_SHA256_BYTES];
    char asset_id[TBENC_ID_MAX + 1];
    char weights_filename[TBENC_NAME_MAX + 1]; /* a plain file name */
    bool allow_finetune;                       /* absent: true */
    bool has_tags_sha256;                      /* absent in files of v1 writers */
    uint8_t tags_sha256[TBENC_SHA256_BYTES];
    struct tbenc_file *files; /* NULL: one file */
    size_t n_files;
    bool has_key_id; /* absent in files of other writers */
    uint8_t key_id[TBENC_KEY_ID_BYTES];
    struct tbenc_base *base; /* NULL: no overlay. All else is then of the overlay's own ciphertext */
};
/* The id of a key, which tells keys apart and nothing about them: the first bytes of a SHA-256 over a label
 * and the key. */
int tbenc_key_id(const uint8_t key[TBENC_KEY_BYTES], uint8_t ret[TBENC_KEY_ID_BYTES]);
/* Parses JSON text (strict, see section MANIFEST) into a new manifest. Checks everything that needs no other
 * file. An overlay is refused unless TBENC_OVERLAY says that the caller brings its base. */
int tbenc_manifest_parse(const char *buf, size_t len, unsigned flags, struct tbenc_manifest **ret,
                         struct tbenc_error *e);
/* Writes v1 members first in v1 order, indent 2, no trailing newline. Heap string in *ret. */
int tbenc_manifest_format(const struct tbenc_manifest *m, char **ret, size_t *ret_len);
/* Wipes nothing (no secret inside); accepts NULL; returns NULL. */
struct tbenc_manifest *tbenc_manifest_free(struct tbenc_manifest *m);
/* Whole .tbenc size and number of records that the manifest implies; both fit uint64_t for any parsed
 * manifest. */
uint64_t tbenc_manifest_ciphertext_bytes(const struct tbenc_manifest *m);
uint64_t tbenc_manifest_records(const struct tbenc_manifest *m);
/* Where record `index` lies. -ERANGE past the last. */
struct tbenc_record {
    uint64_t index;
    uint64_t ct_off; /* of its length field, in the .tbenc */
    uint64_t pt_off; /* in the concatenated plaintext */
    uint32_t pt_len;
    size_t file;       /* index into files; 0 when there is no table */
    uint64_t file_off; /* offset of its first byte in that file */
};
int tbenc_manifest_record(const struct tbenc_manifest *m, uint64_t index, struct tbenc_record *ret);
/* true when p may stand as a path of the file table. */
bool tbenc_path_valid(const char *p);

/* -- overlays (section OVERLAYS) --------------------------------------------------------------- */
/* Reads the manifest of the base that m stands on, from its text. -EBADMSG when it is another one, or m takes
 * from it what it has not. */
int tbenc_base_parse(const struct tbenc_manifest *m, const char *text, size_t len,
                     struct tbenc_manifest **ret, struct tbenc_error *e);
/* Whether a base's manifest, with the hash of its text, is the one that m stands on; the checks of
 * tbenc_base_parse(). */
int tbenc_base_check(const struct tbenc_manifest *m, const struct tbenc_manifest *base,
                     const uint8_t manifest_sha256[TBENC_SHA256_BYTES], struct tbenc_error *e);
/* The files that m delivers, as the table of an asset that has them all: for who makes and names files. Its
 * ciphertext exists nowhere: sha256_ciphertext is m's, and there are no tags. Of a manifest that is no
 * overlay a copy. */
int tbenc_manifest_tree(const struct tbenc_manifest *m, struct tbenc_manifest **ret);
/* Deals what belongs to each file of the tree, a descriptor, to the tables of the two ciphertexts:
 * ret_own has room for m->n_files, ret_base for base->n_files, of which those that are not taken get -1. */
int tbenc_tree_deal(const struct tbenc_manifest *m, const struct tbenc_manifest *base,
                    const struct tbenc_manifest *tree, const int *fds, int *ret_own, int *ret_base);

/* -- sealing (encrypting) ---------------------------------------------------------------------- */
/* Plaintext bytes. Called from the thread that called the function, after each batch of about a MiB or each
 * chunk; nonzero stops the work with -ECANCELED. total 0: unknown. */
typedef int (*tbenc_progress_fn)(void *ctx, uint64_t done, uint64_t total);

struct tbenc_input {
    int fd;           /* read sequentially from its current position; file, pipe or socket */
    const char *path; /* name in the file table; NULL for a single-file asset */
    uint32_t mode;
    uint64_t bytes; /* exact size, else -EBADMSG; or UINT64_MAX: until end of file */
};
struct tbenc_seal_params {
    const uint8_t *key;   /* TBENC_KEY_BYTES */
    uint32_t chunk_bytes; /* 0: default */
    unsigned threads;     /* workers; 0: one per CPU */
    /* 4 bytes; NULL: random. Never twice with one key, unless none of what is made the second time leaves
     * the machine before it is known to be what was made the first time (section CONTINUING). */
    const uint8_t *nonce_prefix;
    const char *asset_id, *weights_filename;
    bool allow_finetune;
    tbenc_progress_fn progress;
    void *progress_ctx;
    /* NULL: into out_fd. Else takes the ciphertext, in order and in the calling thread; 0 or -errno, which
     * ends the work. */
    int (*write)(void *ctx, const void *buf, size_t n);
    void *write_ctx;
    /* NULL, or what to stand on: makes an overlay, always with a table, of any number of inputs. key is then
     * that of the base, chunk_bytes the base's. The salt is random and never given twice with one key. */
    const struct tbenc_base *base;
};
/* Seals the inputs in order into out_fd (written sequentially; may be a pipe) or by write(). With
 * table=true the manifest gets a file table (inputs must be sorted by path). The bytes written do not
 * depend on threads. *ret is a complete manifest. */
int tbenc_seal(const struct tbenc_seal_params *p, const struct tbenc_input *in, size_t n_in, bool table,
               int out_fd, struct tbenc_manifest **ret, struct tbenc_error *e);

/* -- opening (decrypting) ---------------------------------------------------------------------- */
struct tbenc_open_params {
    const struct tbenc_manifest *manifest; /* of an overlay: what is opened is its own ciphertext */
    const uint8_t *key; /* TBENC_KEY_BYTES; tbenc_verify() also takes NULL. Of an overlay: the base's */
    unsigned threads;   /* 0: one per CPU; at most TBENC_THREADS_MAX are used */
    unsigned flags;     /* enum tbenc_flags */
    tbenc_progress_fn progress;
    void *progress_ctx;
};
/* Ciphertext read in sequence from in_fd (any kind; a regular file from where it stands), plaintext written
 * in order to out_fd (any kind). All checks of section OPENING. What belongs to the whole (end of file,
 * tags_sha256, sha256_ciphertext) is checked after the last chunk was written: the output is void until this
 * returns 0. A pipe is enlarged to 1 MiB and gets pages lent by vmsplice() instead of copies, unless
 * TBENC_COPY_TO_PIPE. Ignore SIGPIPE to get -EPIPE. After a failure a pipe may hold zeros in place of bytes
 * already written. */
int tbenc_open_stream(const struct tbenc_open_params *p, int in_fd, int out_fd, struct tbenc_error *e);
/* Ciphertext from offset 0 of in_fd, chunks in parallel, each to its place (pwrite) in the descriptor of its
 * file. n_out is n_files, or 1 without a table; one that is -1 is verified and not written. Output files are
 * ftruncate'd to their size first; after a failure what they hold is void. The plaintext hashes of the table
 * are not recomputed: the tags have authenticated each byte. */
int tbenc_open_files(const struct tbenc_open_params *p, int in_fd, const int *out_fds, size_t n_out,
                     struct tbenc_error *e);
/* Ciphertext from offset 0 of in_fd, or from a pipe. Checks structure, tags_sha256 and sha256_ciphertext;
 * with a key also every tag and the table's hashes. No output. */
int tbenc_verify(const struct tbenc_open_params *p, int in_fd, struct tbenc_error *e);

/* An overlay and its base into one stream: the files of the tree, one after another. Both ciphertexts are
 * regular files; the tags of both are compared before the first byte is written. A message begins with
 * "base: " when that is at fault. progress as ever. */
int tbenc_open_overlay(const struct tbenc_open_params *p, const struct tbenc_manifest *base, int in_fd,
                       int base_fd, int out_fd, struct tbenc_error *e);

/* Reading at any offset of the concatenated plaintext. A reader holds the key until freed, keeps one
 * decrypted chunk and is not thread-safe; make one per thread. Returns bytes read, 0 at the end, or a
 * negative errno. */
struct tbenc_reader;
int tbenc_reader_new(const struct tbenc_open_params *p, int in_fd, struct tbenc_reader **ret,
                     struct tbenc_error *e);
ssize_t tbenc_reader_pread(struct tbenc_reader *r, void *buf, size_t n, uint64_t off, struct tbenc_error *e);
struct tbenc_reader *tbenc_reader_free(struct tbenc_reader *r);

#ifdef __cplusplus
}
#endif
#endif
