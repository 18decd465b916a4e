/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/in_flight.h"

#include <string.h>
#include <sys/mman.h>

#include "common/io.h"
#include "common/mapfile.h"

#define MAGIC "TBFLIGH1"
#define SLOTS 16384
#define FILE_BYTES (sizeof(struct tb_flight_slot) * (SLOTS + 1)) /* the first is the head */

struct tb_flight {
    struct tb_flight_slot *slot; /* in the map */
    uint32_t *spare;             /* stack of slots not taken */
    size_t n_spare;
};

static void book_slot(const struct tb_flight_slot *s, struct tb_usage *usage, struct tb_key_book *book)
{
    struct tb_tokens t = {
        .prompt = s->prompt, .completion = s->completion, .cached = s->cached, .ours = s->ours};

    tb_usage_add(usage, TB_USAGE_PROMPT_TOKENS, t.prompt);
    tb_usage_add(usage, TB_USAGE_COMPLETION_TOKENS, t.completion);
    tb_usage_add(usage, TB_USAGE_CACHED_TOKENS, t.cached);
    tb_usage_add(usage, TB_USAGE_ESTIMATED_TOKENS, t.ours);
    if (book && s->key > 0)
        tb_key_book_add(book, s->key - 1, &t);
}

int tb_flight_open(const char *path, struct tb_usage *usage, struct tb_key_book *book, struct tb_flight **ret,
                   size_t *ret_found)
{
    _cleanup_close_ int fd = tb_mapfile_open(path, MAGIC, FILE_BYTES, true);
    struct tb_flight *f;

    if (fd < 0)
        return fd;
    f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    f->spare = calloc(SLOTS, sizeof(*f->spare));
    f->slot = f->spare ? mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (f->slot == MAP_FAILED) {
        free(f->spare);
        free(f);
        return -ENOMEM;
    }
    *ret_found = 0;
    for (uint32_t i = SLOTS; i > 0; i--) {
        struct tb_flight_slot left = f->slot[i];

        f->slot[i] = (struct tb_flight_slot){0};
        if (left.taken) {
            book_slot(&left, usage, book);
            ++*ret_found;
        }
        f->spare[f->n_spare++] = i;
    }
    *ret = f;
    return 0;
}

void tb_flight_close(struct tb_flight *f)
{
    if (!f)
        return;
    munmap(f->slot, FILE_BYTES);
    free(f->spare);
    free(f);
}

struct tb_flight_slot *tb_flight_take(struct tb_flight *f, const struct tb_key_account *a)
{
    struct tb_flight_slot *s;

    if (f->n_spare == 0)
        return NULL;
    s = &f->slot[f->spare[--f->n_spare]];
    *s = (struct tb_flight_slot){.taken = 1, .key = a ? a->place + 1 : 0};
    return s;
}

void tb_flight_note(struct tb_flight_slot *s, const struct tb_tokens *t)
{
    s->prompt = t->prompt;
    s->completion = t->completion;
    s->cached = t->cached;
    s->ours = t->ours;
}

void tb_flight_give_back(struct tb_flight *f, struct tb_flight_slot *s)
{
    *s = (struct tb_flight_slot){0};
    f->spare[f->n_spare++] = (uint32_t)(s - f->slot);
}
