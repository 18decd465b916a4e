/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/in_flight.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "common/io.h"
#include "common/mapfile.h"

struct tb_in_flight {
    int fd;
    struct tb_in_flight_slot *slot; /* in the map */
    uint32_t *spare;                /* stack of slots not taken */
    size_t n_spare;
};

int tb_in_flight_open(const char *path, tb_in_flight_left_fn *left, void *arg, struct tb_in_flight **ret,
                      size_t *ret_found)
{
    struct tb_in_flight *f = calloc(1, sizeof(*f));
    void *map = NULL;
    int fd = -ENOMEM;

    if (!f)
        return fd;
    f->spare = calloc(TB_IN_FLIGHT_SLOTS, sizeof(*f->spare));
    if (f->spare)
        fd = tb_mapfile_open(path, TB_IN_FLIGHT_MAGIC, TB_IN_FLIGHT_FILE_BYTES, true, &map);
    if (fd < 0) {
        free(f->spare);
        free(f);
        return fd;
    }
    f->fd = fd;
    f->slot = map;
    *ret_found = 0;
    for (uint32_t i = TB_IN_FLIGHT_SLOTS; i > 0; i--) {
        struct tb_in_flight_slot s = f->slot[i];
        struct tb_tokens t = {
            .prompt = s.prompt, .completion = s.completion, .cached = s.cached, .ours = s.ours};

        f->slot[i] = (struct tb_in_flight_slot){0};
        if (s.taken) {
            left(arg, s.key, &t);
            ++*ret_found;
        }
        f->spare[f->n_spare++] = i;
    }
    *ret = f;
    return 0;
}

void tb_in_flight_close(struct tb_in_flight *f)
{
    if (!f)
        return;
    munmap(f->slot, TB_IN_FLIGHT_FILE_BYTES);
    tb_close(f->fd);
    free(f->spare);
    free(f);
}

int tb_in_flight_keep(struct tb_in_flight *f, const char *path)
{
    return tb_mapfile_keep(path, &f->fd, f->slot, TB_IN_FLIGHT_FILE_BYTES, true, false);
}

struct tb_in_flight_slot *tb_in_flight_take(struct tb_in_flight *f, uint64_t key)
{
    struct tb_in_flight_slot *s;

    if (f->n_spare == 0)
        return NULL;
    s = &f->slot[f->spare[--f->n_spare]];
    *s = (struct tb_in_flight_slot){.taken = 1, .key = key};
    return s;
}

void tb_in_flight_note(struct tb_in_flight_slot *s, const struct tb_tokens *t)
{
    s->prompt = t->prompt;
    s->completion = t->completion;
    s->cached = t->cached;
    s->ours = t->ours;
}

void tb_in_flight_give_back(struct tb_in_flight *f, struct tb_in_flight_slot *s)
{
    *s = (struct tb_in_flight_slot){0};
    f->spare[f->n_spare++] = (uint32_t)(s - f->slot);
}
