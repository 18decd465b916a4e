/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/wishes.h"

#include <string.h>
#include <sys/inotify.h>

#include "common/hex.h"
#include "common/io.h"

void wishes_init(struct wishes *w, const char *run_dir)
{
    *w = (struct wishes){.run_dir = run_dir, .fd = run_dir ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1};
}

void wishes_clear(struct wishes *w)
{
    w->fd = tb_close(w->fd);
}

/* Something was written there, which need not be a wish. */
static bool wishes_changed(struct wishes *w)
{
    char dust[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    _cleanup_free_ char *dir = NULL;
    bool changed = false;

    if (w->fd < 0)
        return false;
    if (!w->watched && (dir = tb_path_join(w->run_dir, "tb-decrypt")))
        changed = w->watched = inotify_add_watch(w->fd, dir, IN_MOVED_TO | IN_ONLYDIR) >= 0;
    while (read(w->fd, dust, sizeof(dust)) > 0)
        changed = true;
    return changed;
}

static bool wish_fits(const struct tb_want_range *r, const struct partial_identity *id)
{
    return r->offset < id->size && r->bytes <= id->size - r->offset;
}

bool wishes_refresh(struct wishes *w, const struct partial_identity *id)
{
    char sha256[2 * SHA256_BYTES + 1];
    size_t n = 0;

    if (w->watched && !w->ready)
        return false;
    w->ready = false;
    if (!wishes_changed(w))
        return false;
    tb_hex_encode(id->sha256, SHA256_BYTES, sha256);
    if (tb_want_read(w->run_dir, &w->want) < 0 || strcmp(w->want.sha256, sha256) != 0)
        w->want.n = 0;
    for (size_t i = 0; i < w->want.n; i++) {
        struct tb_want_range *r = &w->want.r[i];

        if (!r->repair && r->offset < id->size) /* as many as the file has */
            r->bytes = MIN(r->bytes, id->size - r->offset);
        if (wish_fits(r, id))
            w->want.r[n++] = *r;
    }
    w->want.n = n;
    return n > 0;
}

unsigned wishes_repairs(const struct wishes *w)
{
    unsigned n = 0;

    for (size_t i = 0; i < w->want.n; i++)
        n += w->want.r[i].repair;
    return n;
}
