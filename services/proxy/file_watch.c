/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/file_watch.h"

#include <sys/inotify.h>

#include "common/log.h"
#include "common/macros.h"

#define CHANGES                                                                                              \
    (IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF |  \
     IN_ONLYDIR)

static void file_watch_event(struct tb_source *s, uint32_t events)
{
    struct tb_file_watch *w = container_of(s, struct tb_file_watch, src);
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

    while (read(w->fd, buf, sizeof(buf)) > 0)
        ;
    w->changed(w);
}

void tb_file_watch_open(struct tb_file_watch *w, struct tb_loop *l)
{
    w->src.fn = file_watch_event;
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (w->fd >= 0 && tb_loop_add(l, w->fd, EPOLLIN, &w->src) < 0)
        w->fd = tb_close(w->fd);
    if (w->fd < 0)
        tb_debug("no inotify: files are looked at by time alone");
}

bool tb_file_watch_add(struct tb_file_watch *w, const char *dir)
{
    return w->fd >= 0 && inotify_add_watch(w->fd, dir, CHANGES) >= 0;
}

void tb_file_watch_close(struct tb_file_watch *w)
{
    if (w->src.fn)
        w->fd = tb_close(w->fd);
}
