/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/exit.h"
#include "common/io.h"
#include "common/log.h"
#include "common/units.h"
#include "update/update.h"

#define LOOK_MS 200
#define HEARD_TRIES 50 /* ten seconds for tb-update to hear */

static void command_print(const struct tb_update *u)
{
    char at[TB_RFC3339_MAX];

    if (u->serving)
        printf("serving  version %llu\n", (unsigned long long)u->serving);
    else
        printf("serving  no version that is known\n");
    if (u->phase == TB_UPDATE_NONE)
        return;
    printf("next     version %llu: %s%s%s\n", (unsigned long long)u->next, tb_update_phase_name(u->phase),
           *u->reason ? ": " : "", u->reason);
    if (u->phase == TB_UPDATE_FAILED)
        printf("         not again until: tb-update retry\n");
    if (u->phase != TB_UPDATE_READY)
        return;
    if (*u->reason)
        printf("         when you say so: systemctl start tb-runtime.service\n");
    else if (u->switch_at_real_us)
        printf("         at %s, or: tb-update switch\n", tb_rfc3339_format(u->switch_at_real_us, 0, at));
    else if (strcmp(u->when, "restart") == 0)
        printf("         when the runtime next starts, or: tb-update switch\n");
    else
        printf("         when you say so: tb-update switch\n");
}

static int command_status(const char *run_dir, struct tb_update *ret)
{
    int r = tb_update_read(run_dir, ret);

    if (r == 0)
        return 0;
    tb_error("cannot read %s/" TB_UPDATE_FILE ": %s; is tb-update.service active?", run_dir, strerror(-r));
    return r == -ENOENT ? TB_EXIT_NOINPUT : TB_EXIT_IOERR;
}

static int command_ask(const char *run_dir, const char *verb)
{
    _cleanup_free_ char *path = tb_strf("%s/tb-update/" UPDATE_ASKED, run_dir);
    int r = path ? tb_write_file_atomic(path, verb, strlen(verb), 0600) : -ENOMEM;

    for (int i = 0; r == 0 && access(path, F_OK) == 0; i++) {
        if (i == HEARD_TRIES) {
            (void)unlink(path);
            tb_error("tb-update.service does not answer; see journalctl --namespace=trustbridge "
                     "-u tb-update");
            return TB_EXIT_TEMPFAIL;
        }
        tb_sleep_ms(LOOK_MS);
    }
    if (r == 0)
        return 0;
    tb_error("cannot write %s: %s%s", path ? path : "a file", strerror(-r),
             r == -EACCES || r == -EPERM ? "; be root" : "");
    return r == -EACCES || r == -EPERM ? TB_EXIT_NOPERM : TB_EXIT_IOERR;
}

/* Until it serves, has failed, or waits for somebody to start the runtime. */
static int command_follow(const char *run_dir, uint64_t next)
{
    struct tb_update u, last = {.phase = _TB_UPDATE_PHASE_MAX};

    for (;; tb_sleep_ms(LOOK_MS)) {
        int r = command_status(run_dir, &u);

        if (r != 0)
            return r;
        if (u.phase != last.phase || strcmp(u.reason, last.reason) != 0)
            command_print(&u);
        last = u;
        if (u.phase == TB_UPDATE_NONE && u.serving == next)
            return TB_EXIT_OK;
        if (u.phase == TB_UPDATE_FAILED || (u.phase == TB_UPDATE_READY && *u.reason) ||
            (u.phase == TB_UPDATE_NONE && u.serving))
            return TB_EXIT_TEMPFAIL;
    }
}

int update_command(const char *run_dir, const char *verb, bool no_wait)
{
    struct tb_update u;
    int r = command_status(run_dir, &u);

    if (r != 0)
        return r;
    if (strcmp(verb, "status") == 0 || u.phase == TB_UPDATE_NONE) {
        command_print(&u);
        if (u.phase == TB_UPDATE_NONE)
            printf("next     there is no other version\n");
        return TB_EXIT_OK;
    }
    r = command_ask(run_dir, verb);
    return r != 0 || no_wait || strcmp(verb, "retry") == 0 ? r : command_follow(run_dir, u.next);
}
