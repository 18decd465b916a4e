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
#define RECORDS_STEP 256 /* that get their blocks at once */
#define TABLE_SIZE (2 * 65536U)
_Static_assert(TABLE_SIZE >= 2 * RECORDS_MAX && (TABLE_SIZE & (TABLE_SIZE - 1)) == 0,
               "half empty, a power of two");
#define FILE_BYTES (HEAD_BYTES + RECORDS_MAX * sizeof(struct tb_key_record))

_Static_assert(sizeof(struct tb_key_record) == 256, "a format on disk");

struct tb_key_accounts {
    int fd;
    void *map;
    struct tb_key_record *record; /* in the map */
    size_t n;                     /* records with a name */
    size_t n_allocated;           /* records that have their blocks */
    struct tb_key_account **account;
    uint32_t *table; /* by name: number of the record from 1, 0: none; linear probing */
};

/* FNV-1a. Names come from the operator's own file. */
static uint32_t account_hash(const char *name)
{
    uint32_t h = 2166136261U;

    while (*name)
        h = (h ^ (uint8_t)*name++) * 16777619U;
    return h;
}

/* The place in the table of the record with this name, or where it would be. */
static uint32_t *account_slot(struct tb_key_accounts *b, const char *name)
{
    uint32_t i = account_hash(name);

    for (;; i++) {
        uint32_t *slot = &b->table[i & (TABLE_SIZE - 1)];

        if (*slot == 0 || strcmp(b->record[*slot - 1].name, name) == 0)
            return slot;
    }
}

static void accounts_free(struct tb_key_accounts *b)
{
    free(b->account);
    free(b->table);
    free(b);
}

int tb_key_accounts_open(const char *path, struct tb_key_accounts **ret)
{
    struct tb_key_accounts *b = calloc(1, sizeof(*b));
    int r = -ENOMEM;

    if (!b)
        return r;
    b->account = calloc(RECORDS_MAX, sizeof(struct tb_key_account *));
    b->table = calloc(TABLE_SIZE, sizeof(*b->table));
    if (b->account && b->table)
        r = tb_mapfile_open(path, MAGIC, FILE_BYTES, false, &b->map);
    if (r < 0) {
        accounts_free(b);
        return r;
    }
    b->fd = r;
    b->record = (struct tb_key_record *)((char *)b->map + HEAD_BYTES);
    while (b->n < RECORDS_MAX && b->record[b->n].name[0]) {
        b->record[b->n].name[sizeof(b->record->name) - 1] = '\0';
        b->n++;
        *account_slot(b, b->record[b->n - 1].name) = (uint32_t)b->n;
    }
    b->n_allocated = b->n;
    *ret = b;
    return 0;
}

/* Writing to a hole of a mapped file kills the process when the disk is full. */
static int accounts_allocate(struct tb_key_accounts *b)
{
    size_t end = MIN(b->n + RECORDS_STEP, (size_t)RECORDS_MAX);

    if (b->n < b->n_allocated)
        return 0;
    if (posix_fallocate(b->fd, (off_t)(HEAD_BYTES + b->n * sizeof(struct tb_key_record)),
                        (off_t)((end - b->n) * sizeof(struct tb_key_record))) != 0)
        return -ENOSPC;
    b->n_allocated = end;
    return 0;
}

static struct tb_key_account *account_of(struct tb_key_accounts *b, const struct tb_api_key *k)
{
    uint32_t *slot = account_slot(b, k->name);
    size_t i = *slot ? *slot - 1 : b->n;

    if (i == RECORDS_MAX || (i == b->n && accounts_allocate(b) < 0))
        return NULL;
    if (!b->account[i]) {
        b->account[i] = calloc(1, sizeof(struct tb_key_account));
        if (!b->account[i])
            return NULL;
        *b->account[i] =
            (struct tb_key_account){.limiter.limits = k->limits, .record = &b->record[i], .place = i};
    }
    if (i == b->n) {
        memcpy(b->record[i].name, k->name, strlen(k->name) + 1);
        *slot = (uint32_t)++b->n;
    }
    return b->account[i];
}

int tb_key_accounts_bind(struct tb_key_accounts *b, struct tb_api_keys *keys)
{
    for (size_t i = 0; i < keys->n; i++) {
        keys->key[i].account = account_of(b, &keys->key[i]);
        if (!keys->key[i].account)
            return -ENOSPC;
    }
    return 0;
}

struct tb_key_account *tb_key_account_use(const struct tb_api_key *k)
{
    k->account->limiter.limits = k->limits;
    return k->account;
}

void tb_key_accounts_close(struct tb_key_accounts *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < RECORDS_MAX; i++)
        free(b->account[i]);
    (void)msync(b->map, FILE_BYTES, MS_SYNC);
    munmap(b->map, FILE_BYTES);
    close(b->fd);
    accounts_free(b);
}

int tb_key_accounts_keep(struct tb_key_accounts *b, const char *path)
{
    int r = tb_mapfile_keep(path, &b->fd, b->map, FILE_BYTES, false, false);

    if (r > 0)
        b->n_allocated = b->n; /* what was reserved behind them was of the old file */
    return r;
}

uint64_t tb_key_spent(const struct tb_key_account *a)
{
    return a->record->prompt_tokens + a->record->completion_tokens;
}

static void account_add_tokens(struct tb_key_record *r, const struct tb_tokens *t)
{
    r->prompt_tokens += t->prompt;
    r->completion_tokens += t->completion;
    r->cached_tokens += t->cached;
    r->estimated_tokens += t->ours;
}

void tb_key_accounts_add(struct tb_key_accounts *b, uint64_t place, const struct tb_tokens *t)
{
    if (place < b->n)
        account_add_tokens(&b->record[place], t);
}

void tb_key_add_tokens(struct tb_key_account *a, const struct tb_tokens *t)
{
    account_add_tokens(a->record, t);
}

void tb_key_add_request(struct tb_key_account *a, uint64_t bytes_in, uint64_t bytes_out)
{
    a->record->requests++;
    a->record->bytes_in += bytes_in;
    a->record->bytes_out += bytes_out;
}
