/* SPDX-License-Identifier: Apache-2.0 */
/* What an upload that seals on its way knows of itself, so that it can be continued under the same key:
 * the SHA-256 of each sealed block is in this file, on disk, before a byte of the block leaves. A later
 * run that seals the block again compares before it sends: tbenc(5), section CONTINUING, has the argument.
 * Holds no secret. One process at a time has it. Functions that fail have said so on stderr and return
 * CLI_FAILED, unless said otherwise; CLI_OK otherwise. */
#ifndef TBPKG_PUBLISH_JOURNAL_H
#define TBPKG_PUBLISH_JOURNAL_H

#include "provider/azure/blob_upload.h"
#include "provider/asset/key.h"

#define JOURNAL_SUFFIX ".upload" /* behind the manifest's name */
#define JOURNAL_MAX (32U << 20)
#define JOURNAL_LINE_MAX 120 /* of a block */
#define JOURNAL_FILE_MAX 48

struct journal_block {
    bool there;
    uint8_t sha256[32], md5[BLOB_MD5_BYTES];
};

struct journal {
    char *path;
    int fd;       /* locked; -1: there is none yet */
    uint64_t len; /* bytes of it that count */
    bool valid;   /* what follows is of the file */
    bool is_copy; /* which was written as another file */
    /* its header */
    char asset_id[TBENC_ID_MAX + 1], key_id[ASSET_KEY_ID_HEX + 1];
    char *key_file, *key_recipient; /* where the key was put, and for whom; the latter may be NULL */
    uint8_t nonce_prefix[4];
    uint32_t chunk_bytes, block_bytes;
    uint64_t size;               /* of the ciphertext */
    char layout[65];             /* hash of the sizes of the inputs: which record a byte is in */
    char *destination;           /* URL of the blob */
    char *origin;                /* what is sealed, where that is not on this machine; or NULL */
    char file[JOURNAL_FILE_MAX]; /* inode and time of birth */
    /* its entries */
    struct journal_block *blocks;
    size_t n_blocks;
    char *manifest;  /* once all was sealed: its text */
    char source[65]; /* and the state of the inputs then */
    bool commit_begun;
};
#define JOURNAL_INIT                                                                                         \
    {                                                                                                        \
        .fd = -1                                                                                             \
    }
void journal_clear(struct journal *j);
#define _cleanup_journal_ _cleanup_(journal_clear)

/* Reads the text into the header and the entries. *ret_len: without a last line that has no end, which a
 * killed process left and nothing depends on. -EBADMSG when anything else is wrong: then the whole counts
 * for nothing. */
int journal_parse(const char *buf, size_t len, struct journal *j, size_t *ret_len);

/* Opens and locks the file, if there is one. A file that cannot be relied on is like none. */
int journal_open(const char *path, struct journal *ret);
/* Of what the upload was begun; NULL: there is none. For looking only. */
void journal_peek_origin(const char *path, const char *asset_id, char **ret);
/* Puts a new file with the header's members in the place of the old one. */
int journal_create(struct journal *j);

/* Is it sure that no block has left of which it has no entry? Copies may lack entries of the original, and a
 * copy that is written over the original those of what went elsewhere. A journal that has all entries lacks
 * none. */
bool journal_is_last_word(const struct journal *j, const char *destination);
/* A block of this key that the service holds, or made a blob of, and the journal does not know was sent by a
 * run that wrote another journal: this one is an old copy, and what it lacks cannot be compared. */
bool journal_knows(const struct journal *j, const struct blob_staged_set *staged);
/* Are all the blocks still there? Then they need not be sealed again to be sent. */
bool journal_all_staged(const struct journal *j, const struct blob_staged_set *staged,
                        char (*ids)[BLOB_ID_CHARS + 1]);
/* Are these blocks, sealed again or for the first time, what may be sent? 0: each is what was recorded, or
 * is recorded now, on disk. -ESTALE: one is not; *ret_index tells which, and nothing was recorded. Other
 * errnos: of the disk. */
int journal_admit(struct journal *j, const struct blob_block *const *blocks, size_t n, size_t *ret_index);
/* All is sealed, and the inputs are unchanged. */
int journal_sealed(struct journal *j, const char *manifest, const char *source);
/* The same as before came of inputs in that state. The manifest, of 1 MiB at most, is not written again: runs
 * may be many. */
int journal_sealed_again(struct journal *j, const char *source);
/* The blocks are about to become a blob. */
int journal_commit(struct journal *j);

#endif
