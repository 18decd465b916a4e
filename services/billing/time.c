/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's look at its clocks: what goes in, and what people are told. */
#include <sys/timerfd.h>

#include "billing/billing.h"
#include "billing/clock_rows.h"
#include "common/contact.h"
#include "common/domain_file.h"
#include "common/events.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"

static const char *const event_names[] = {[BILLING_CLOCK_STEPPED] = "stepped",
                                          [BILLING_CLOCK_RIGHT] = "right",
                                          [BILLING_CLOCK_MOVED] = "corrected"};

static bool time_file_there(const char *dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);

    return path && access(path, F_OK) == 0;
}

static void time_read_input(const struct tb_billing *b, struct billing_clock_input *in)
{
    struct tb_contact contact;

    *in = (struct billing_clock_input){.real_us = tb_now_realtime_us(), .boot_us = tb_now_boottime_us()};
    (void)tb_boot_id(in->boot_id);
    in->kept = time_file_there(b->cfg->run_dir, "systemd/timesync/synchronized");
    if (tb_contact_read(b->cfg->run_dir, TB_CONTACT_FILE, &contact) < 0 || contact.date_real_us == 0)
        return;
    in->has_date = true;
    in->date_us = contact.date_real_us + TB_USEC_PER_SEC / 2; /* it has whole seconds */
    in->date_boot_us = contact.date_boot_us;
}

/* "ahead by 1 d 0 h" */
static void time_describe(int64_t off_us, char *out, size_t size)
{
    char span[TB_SPAN_MAX];

    snprintf(out, size, "%s %s", tb_span_format((uint64_t)(off_us < 0 ? -off_us : off_us), span),
             off_us < 0 ? "behind" : "ahead");
}

static void time_log(enum billing_clock_event event, uint64_t now_us, int64_t off_us)
{
    char how[TB_SPAN_MAX + 16], now[TB_RFC3339_MAX], field[48];
    const char *const fields[] = {field, NULL};

    time_describe(off_us, how, sizeof(how));
    snprintf(field, sizeof(field), "TB_CLOCK_OFF=%lld", (long long)(off_us / (int64_t)TB_USEC_PER_SEC));
    tb_rfc3339_format(now_us, 0, now);
    if (event == BILLING_CLOCK_STEPPED)
        tb_log_full(TB_LOG_WARN, TB_EVENT_CLOCK_STEPPED, fields,
                    "the clock of this machine is %s: it is %s; usage is booked by the boot clock and goes "
                    "to its own hours",
                    how, now);
    else if (event == BILLING_CLOCK_RIGHT)
        tb_log_full(TB_LOG_INFO, TB_EVENT_CLOCK_RIGHT, fields,
                    "the clock of this machine is right again: it is %s", now);
    else
        tb_log_full(TB_LOG_WARN, TB_EVENT_CLOCK_STEPPED, fields,
                    "the time by which usage was booked was wrong: it is %s, that is %s of what it was", now,
                    how);
}

static void time_write_file(const struct tb_billing *b, uint64_t now_us)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char now[TB_RFC3339_MAX];

    cJSON_AddStringToObject(o, "at", tb_rfc3339_format(now_us, 0, now));
    (void)tb_json_add_uint(o, "at_boottime_us", tb_now_boottime_us());
    cJSON_AddStringToObject(o, "source", billing_clock_source_name(b->clock.anchor.source));
    cJSON_AddNumberToObject(o, "off_seconds", (double)(b->clock.off_us / (int64_t)TB_USEC_PER_SEC));
    (void)tb_state_write(b->run_dir, "clock.json", o, 0);
}

/* Before the control plane has answered in this boot nothing can have been served in it: what is not
 * booked yet is of an earlier boot, and waits until the time is known. */
static bool time_awaits_date(const struct tb_billing *b)
{
    struct tb_lease_record l;
    int r = tb_lease_record_read(b->cfg->run_dir, TB_LEASE_FILE, &l);

    if (b->clock.anchor.source != BILLING_CLOCK_FOUND)
        return false;
    return r == 0 ? l.state == TB_LEASE_PENDING : time_file_there(b->cfg->run_dir, "tb-configure/contract");
}

int tb_billing_look(struct tb_billing *b, bool *ret_book)
{
    struct billing_clock_input in;
    enum billing_clock_event event;
    int64_t moved_us;
    uint64_t now_us;
    bool save;
    int r = 0;

    time_read_input(b, &in);
    event = billing_clock_look(&b->clock, &in, &now_us, &moved_us, &save);
    if (save)
        r = billing_anchor_write(b->l, &b->clock.anchor);
    if (r == 0 && event != BILLING_CLOCK_QUIET) {
        int64_t off_us = event == BILLING_CLOCK_MOVED ? moved_us : b->clock.off_us;

        time_log(event, now_us, off_us);
        r = billing_step_add(b->l, event_names[event], now_us, off_us);
    }
    time_write_file(b, now_us);
    *ret_book = !time_awaits_date(b);
    return r;
}

uint64_t tb_billing_now(const struct tb_billing *b)
{
    return billing_clock_at(&b->clock, tb_now_boottime_us());
}

int tb_billing_time_start(struct tb_billing *b)
{
    int r = billing_anchor_read(b->l, &b->clock.anchor);

    b->clock.anchored = r == 0 && *b->clock.anchor.boot_id;
    return r;
}

void tb_billing_watch_steps(struct tb_billing *b)
{
    static const struct itimerspec never = {.it_value.tv_sec = INT32_MAX};

    /* A new one each time: one that was cancelled stays so. */
    b->step_fd = tb_close(b->step_fd);
    b->step_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (b->step_fd >= 0 &&
        timerfd_settime(b->step_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) < 0)
        b->step_fd = tb_close(b->step_fd);
}
