/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/key_accounts.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "common/io.h"
#include "common/mapfile.h"

#define MAGIC "TBKEYS01"
#define HEAD_BYTES sizeof(struct tb_key_record)
/* Names that ever were. The file is sparse. */
#define RECORDS_MAX (4 * TB_API_KEYS_MAX)
#define FILE_BYTES (HEAD_BYTES + RECORDS_MAX * sizeof(struct tb_key_record))

_Static_assert(sizeof(struct tb_key_record) == 256, "a format on disk");

struct tb_key_book {
    int fd;
    void *map;
    struct tb_key_record *record; /* in the map */
    size_t n;                     /* records with a name */
    struct tb_key_account **account;
};

int tb_key_book_open(const char *path, struct tb_key_book **ret)
{
    _cleanup_close_ int fd = tb_mapfile_open(path, MAGIC, FILE_BYTES, false);
    struct tb_key_book *b;

    if (fd < 0)
        return fd;
    b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->account = calloc(RECORDS_MAX, sizeof(struct tb_key_account *));
    b->map = b->account ? mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (b->map == MAP_FAILED) {
        free(b->account);
        free(b);
        return -ENOMEM; /* fd is closed */
    }
    b->fd = TAKE_FD(fd);
    b->record = (struct tb_key_record *)((char *)b->map + HEAD_BYTES);
    while (b->n < RECORDS_MAX && b->record[b->n].name[0])
        b->record[b->n++].name[sizeof(b->record->name) - 1] = '\0';
    *ret = b;
    return 0;
}

static struct tb_key_account *account_of(struct tb_key_book *b, const char *name)
{
    size_t i = 0;

    while (i < b->n && strcmp(b->record[i].name, name) != 0)
        i++;
    if (i == RECORDS_MAX)
        return NULL;
    if (!b->account[i]) {
        b->account[i] = calloc(1, sizeof(struct tb_key_account));
        if (!b->account[i])
            return NULL;
        b->account[i]->record = &b->record[i];
        b->account[i]->place = i;
    }
    if (i == b->n) {
        /* Writing to a hole of a mapped file kills the process when the disk is full. */
        if (posix_fallocate(b->fd, (off_t)(HEAD_BYTES + i * sizeof(struct tb_key_record)),
                            sizeof(struct tb_key_record)) != 0)
            return NULL;
        memcpy(b->record[i].name, name, strlen(name) + 1);
        b->n++;
    }
    return b->account[i];
}

int tb_key_book_bind(struct tb_key_book *b, struct tb_api_keys *keys)
{
    for (size_t i = 0; i < keys->n; i++) {
        keys->key[i].account = account_of(b, keys->key[i].name);
        if (!keys->key[i].account)
            return -ENOSPC;
    }
    for (size_t i = 0; i < keys->n; i++)
        keys->key[i].account->limiter.limits = keys->key[i].limits;
    return 0;
}

void tb_key_book_close(struct tb_key_book *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < RECORDS_MAX; i++)
        free(b->account[i]);
    (void)msync(b->map, FILE_BYTES, MS_SYNC);
    munmap(b->map, FILE_BYTES);
    close(b->fd);
    free(b->account);
    free(b);
}

uint64_t tb_key_spent(const struct tb_key_account *a)
{
    return a->record->prompt_tokens + a->record->completion_tokens;
}

static void add_tokens(struct tb_key_record *r, const struct tb_tokens *t)
{
    r->prompt_tokens += t->prompt;
    r->completion_tokens += t->completion;
    r->cached_tokens += t->cached;
    r->estimated_tokens += t->ours;
}

void tb_key_book_add(struct tb_key_book *b, uint64_t place, const struct tb_tokens *t)
{
    if (place < b->n)
        add_tokens(&b->record[place], t);
}

void tb_key_add_tokens(struct tb_key_account *a, const struct tb_tokens *t)
{
    add_tokens(a->record, t);
}

void tb_key_add_request(struct tb_key_account *a, uint64_t bytes_in, uint64_t bytes_out)
{
    a->record->requests++;
    a->record->bytes_in += bytes_in;
    a->record->bytes_out += bytes_out;
}
