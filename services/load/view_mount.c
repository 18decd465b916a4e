/* SPDX-License-Identifier: Apache-2.0 */
#include "load/view_mount.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/log.h"
#include "common/macros.h"
#include "common/text.h"
#include "common/units.h"
#include "load/model_dir.h"

#define VIEW_READ_MAX (1024 * 1024) /* bytes of one request: as much as the kernel has pages for */

#define VIEW_AHEAD_WAIT_US TB_USEC_PER_SEC
#define VIEW_AHEAD_POLL_MS 5
#define READAHEAD_TEXT_MAX 4096 /* as long as sysfs says that its files are */

/* How far it came, for the sentence that says why it went no further. */
enum view_step { VIEW_USERS, VIEW_MAP, VIEW_DEVICE, VIEW_MOUNTED, VIEW_DONE };

static int view_write(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    return fd < 0 ? -errno : tb_write_full(fd, text, strlen(text));
}

/* Every user and group is itself in there, as far as there are any: the own. */
static int view_map_ids(uid_t uid, gid_t gid)
{
    char text[64];
    int r = view_write("/proc/self/setgroups", "deny");

    if (r == 0) {
        snprintf(text, sizeof(text), "%u %u 1", (unsigned)uid, (unsigned)uid);
        r = view_write("/proc/self/uid_map", text);
    }
    if (r == 0) {
        snprintf(text, sizeof(text), "%u %u 1", (unsigned)gid, (unsigned)gid);
        r = view_write("/proc/self/gid_map", text);
    }
    return r;
}

static int view_unshare(bool own_users, enum view_step *step)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();

    *step = VIEW_USERS;
    if (unshare(CLONE_NEWNS | (own_users ? CLONE_NEWUSER : 0)) < 0)
        return -errno;
    *step = VIEW_MAP;
    return own_users ? view_map_ids(uid, gid) : 0;
}

/* The device is opened inside: a mount takes only one of its own user namespace. */
static int view_try(const char *dir, bool own_users, enum view_step *step)
{
    _cleanup_close_ int fd = -1;
    char options[160];
    int r = view_unshare(own_users, step);

    if (r < 0)
        return r;
    *step = VIEW_DEVICE;
    fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *step = VIEW_MOUNTED;
    r = own_users ? 0 : tb_model_dir_stop_propagation(dir);
    if (r < 0)
        return r;
    /* A container engine gives its containers other users. */
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=%o,user_id=%u,group_id=%u,default_permissions,max_read=%d%s", fd, S_IFDIR,
             (unsigned)geteuid(), (unsigned)getegid(), VIEW_READ_MAX, own_users ? "" : ",allow_other");
    if (mount("tb-view", dir, "fuse.trustbridge", MS_RDONLY | MS_NODEV | MS_NOSUID | MS_NOEXEC, options) < 0)
        return -errno;
    *step = VIEW_DONE;
    return TAKE_FD(fd);
}

static void view_explain(enum view_step step, int r, char why[static TB_VIEW_WHY_MAX])
{
    static const char *const what[] = {[VIEW_USERS] = "user namespaces are forbidden",
                                       [VIEW_MAP] = "the user cannot be mapped into a namespace",
                                       [VIEW_DEVICE] = "/dev/fuse cannot be opened",
                                       [VIEW_MOUNTED] = "a FUSE file system cannot be mounted"};

    snprintf(why, TB_VIEW_WHY_MAX, "%s (%s)", what[MIN(step, VIEW_MOUNTED)], strerror(-r));
}

bool tb_view_possible(const struct tb_load *l, char why[static TB_VIEW_WHY_MAX])
{
    struct {
        enum view_step step;
        int r;
    } found = {VIEW_USERS, -EIO};
    _cleanup_close_ int in = -1, out = -1;
    int p[2], r = tb_mkdir_p(l->config->model_dir, 0700);
    pid_t pid = -1;

    if (r == 0 && pipe2(p, O_CLOEXEC) < 0)
        r = -errno;
    if (r < 0) {
        snprintf(why, TB_VIEW_WHY_MAX, "%s cannot be made (%s)", l->config->model_dir, strerror(-r));
        return false;
    }
    in = p[0];
    out = p[1];
    pid = fork();
    if (pid == 0) {
        found.r = view_try(l->config->model_dir, !tb_model_dir_may_mount(), &found.step);
        _exit(tb_write_full(out, &found, sizeof(found)) < 0);
    }
    out = tb_close(out);
    if (pid > 0 && tb_read_full(in, &found, sizeof(found)) != (ssize_t)sizeof(found))
        found.r = -EIO;
    if (pid > 0)
        (void)waitpid(pid, NULL, 0);
    if (found.step == VIEW_DONE)
        return true;
    view_explain(found.step, found.r, why);
    return false;
}

/* Of a mount that is being made, for udev; NULL: nowhere. The caller's. */
static char *view_mark(const struct tb_load *l)
{
    return l->run_dir ? tb_strf("%s/mounting", l->run_dir) : NULL;
}

int tb_view_mount(struct tb_load *l)
{
    _cleanup_free_ char *mark = view_mark(l);
    enum view_step step;

    l->own_users = !tb_model_dir_may_mount();
    if (mark)
        (void)tb_close(open(mark, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    return view_try(l->config->model_dir, l->own_users, &step);
}

/* -- readahead ------------------------------------------------------------------------------------------- */
/* Only root may set it, and udev has the event when the mount is made. 90-trustbridge.rules looks for the
 * mark: the event does not say whose mount it is. Bytes; 0: not known. */
static uint64_t view_readahead(const char *dir)
{
    _cleanup_free_ char *text = NULL;
    uint64_t kib = 0;
    char path[80];
    size_t n;
    struct statx st;

    if (statx(AT_FDCWD, dir, AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &st) < 0)
        return 0;
    snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", st.stx_dev_major, st.stx_dev_minor);
    if (tb_read_file(path, READAHEAD_TEXT_MAX, &text, &n) < 0 || n == 0 || text[n - 1] != '\n')
        return 0;
    text[n - 1] = '\0';
    if (tb_uint_parse(text, 0, UINT32_MAX, &kib) < 0)
        return 0;
    return kib * 1024;
}

static bool view_is_short(uint64_t readahead)
{
    return readahead > 0 && readahead < VIEW_READ_MAX;
}

void tb_view_await_readahead(struct tb_load *l)
{
    _cleanup_free_ char *mark = view_mark(l);
    const char *dir = l->config->model_dir;
    uint64_t bytes = view_readahead(dir), until = tb_now_monotonic_us() + VIEW_AHEAD_WAIT_US;
    struct pollfd p = {.fd = l->signal_fd, .events = POLLIN};
    bool udev = getenv("INVOCATION_ID"); /* is there */

    while (udev && view_is_short(bytes) && !l->stopped_by && tb_now_monotonic_us() < until) {
        if (poll(&p, 1, VIEW_AHEAD_POLL_MS) > 0)
            (void)tb_load_signal(l);
        bytes = view_readahead(dir);
    }
    if (udev && view_is_short(bytes) && !l->stopped_by)
        tb_info("the kernel reads %s ahead by %" PRIu64
                " KiB: udev has not applied 90-trustbridge.rules, and loading takes longer",
                dir, bytes / 1024);
    if (mark)
        (void)unlink(mark);
}
