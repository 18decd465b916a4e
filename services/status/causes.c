/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong around the programs: disks, certificates, clock, ledger. No I/O. */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/units.h"
#include "status/status.h"

#define DAY_US (86400 * TB_USEC_PER_SEC)
#define CERTIFICATE_SOON_US (14 * DAY_US)
#define CLOCK_WRONG_S 30.0   /* Date has whole seconds, and an answer may be slow */
#define CLOCK_BREAKS_S 300.0 /* from here on leases and certificates do not hold */
#define LEDGER_OLD_US (15 * 60 * TB_USEC_PER_SEC)
#define SILENCE_LONG_S 300 /* a long answer that is not streamed comes at its end only */
#define LEDGER_LATE_S (6 * 3600)

struct tb_status_problem *tb_status_add(struct tb_conclusion *c, enum tb_status_level level, const char *fmt,
                                        ...)
{
    struct tb_status_problem *p = &c->problems[MIN(c->n_problems, (size_t)TB_STATUS_PROBLEMS_MAX - 1)];
    va_list ap;

    c->n_problems = MIN(c->n_problems + 1, (size_t)TB_STATUS_PROBLEMS_MAX);
    va_start(ap, fmt);
    vsnprintf(p->what, sizeof(p->what), fmt, ap);
    va_end(ap);
    p->level = level;
    p->remedy[0] = '\0';
    return p;
}

void tb_status_remedy(struct tb_status_problem *p, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(p->remedy, sizeof(p->remedy), fmt, ap);
    va_end(ap);
}

/* What runs before the journal of the namespace can be had has its log in the machine's: tb-configure.service
 * says why. What PID 1 says of sockets and targets is there, too. */
bool tb_status_in_namespace(const char *unit)
{
    static const char *const early[] = {"tb-configure.service", "tb-restore.service", "tb-settings.service",
                                        "tb-state.service"};

    for (size_t i = 0; i < ARRAY_SIZE(early); i++)
        if (strcmp(unit, early[i]) == 0)
            return false;
    return !strstr(unit, ".socket") && !strstr(unit, ".target");
}

const char *tb_status_logs(const char *unit, char out[static 96])
{
    snprintf(out, 96, "journalctl %s-u %s", tb_status_in_namespace(unit) ? "--namespace=trustbridge " : "",
             unit);
    return out;
}

/* --- disks ---------------------------------------------------------------------------------------------- */

bool tb_status_place_full(const struct tb_snapshot *s, enum tb_place_id id)
{
    return tb_place_is_full(&s->places[id]) || (s->places[id].known && s->places[id].read_only);
}

/* What does not work without room there. */
static const char *place_loss(enum tb_place_id id)
{
    static const char *const loss[_TB_PLACE_MAX] = {
        [TB_PLACE_AUDIT] = "no request can be recorded, so none is served",
        [TB_PLACE_JOURNAL] = "neither audit records nor messages are kept",
        [TB_PLACE_STATE] = "usage cannot be booked",
        [TB_PLACE_RUN] = "the programs cannot tell each other their state",
        [TB_PLACE_CIPHERTEXT] = "the model cannot be downloaded",
    };

    return loss[id];
}

static const char *place_remedy(enum tb_place_id id)
{
    static const char *const remedy[_TB_PLACE_MAX] = {
        [TB_PLACE_AUDIT] = "free space there, or rotate the audit: logrotate -f /etc/logrotate.d/trustbridge",
        [TB_PLACE_JOURNAL] = "free space there: journalctl --vacuum-size=200M shortens the machine's own "
                             "journal; apt-get clean",
        [TB_PLACE_STATE] = "free space there: apt-get clean, journalctl --vacuum-size=200M",
        [TB_PLACE_RUN] = "du -xsh /run/* shows what fills it",
        [TB_PLACE_CIPHERTEXT] = "free space there, or set another TB_TARGET_DIR and apply it",
    };

    return remedy[id];
}

/* Places on one file system fill together: the first of them stands for all. */
static bool place_told(const struct tb_snapshot *s, int id)
{
    for (int i = 0; i < id; i++)
        if (s->places[i].known && s->places[i].device == s->places[id].device && s->places[i].device != 0 &&
            (tb_place_is_low(&s->places[i]) || s->places[i].read_only))
            return true;
    return false;
}

static void place_describe(const struct tb_place *p, char *out, size_t size)
{
    char free_text[32], size_text[32];

    if (p->files > 0 && p->free_files < p->files / 50 && p->free_bytes >= p->low_bytes)
        snprintf(out, size, "%" PRIu64 " of %" PRIu64 " files (inodes) left", p->free_files, p->files);
    else
        snprintf(out, size, "%s of %s free", tb_bytes_format(p->free_bytes, free_text, sizeof(free_text)),
                 tb_bytes_format(p->size_bytes, size_text, sizeof(size_text)));
}

bool tb_status_add_full_disks(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    bool audit = false;

    for (int i = 0; i < _TB_PLACE_MAX; i++) {
        const struct tb_place *p = &s->places[i];
        enum tb_status_level level = i == TB_PLACE_CIPHERTEXT && s->facts.hydrate.work == TB_WORK_COMPLETE
                                         ? TB_STATUS_WARNING
                                         : TB_STATUS_CRITICAL;
        char left[96];

        if (!tb_place_is_full(p) && !(p->known && p->read_only))
            continue;
        audit = audit || i == TB_PLACE_AUDIT || i == TB_PLACE_JOURNAL;
        if (place_told(s, i))
            continue;
        if (p->read_only) {
            tb_status_remedy(
                tb_status_add(c, level, "the file system of %.120s is read-only: %s", p->path, place_loss(i)),
                "journalctl --no-pager -b -k shows why; when that is mended, mount -o remount,rw "
                "$(findmnt -n -o TARGET -T %.120s)",
                p->path);
            continue;
        }
        place_describe(p, left, sizeof(left));
        tb_status_remedy(
            tb_status_add(c, level, "the disk of %.120s is full (%s): %s", p->path, left, place_loss(i)),
            "%s; df -h %.120s", place_remedy(i), p->path);
    }
    return audit;
}

void tb_status_add_low_disks(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    for (int i = 0; i < _TB_PLACE_MAX; i++) {
        const struct tb_place *p = &s->places[i];
        char left[96];

        /* The disk of the model is as large as the model: once it is there, nothing more is needed. */
        if (!tb_place_is_low(p) || tb_place_is_full(p) || place_told(s, i) ||
            (i == TB_PLACE_CIPHERTEXT && s->facts.hydrate.work == TB_WORK_COMPLETE))
            continue;
        place_describe(p, left, sizeof(left));
        tb_status_remedy(tb_status_add(c, TB_STATUS_WARNING,
                                       "the disk of %.120s is getting full (%s); when it is full, %s",
                                       p->path, left, place_loss(i)),
                         "%s; df -h %.120s", place_remedy(i), p->path);
    }
}

/* --- certificates --------------------------------------------------------------------------------------- */

/* Where this machine's clock and the control plane's differ, one of them is wrong, and what only one of them
 * says of a certificate is a consequence of that. */
static void certificates_now(const struct tb_snapshot *s, uint64_t *ret_early, uint64_t *ret_late)
{
    uint64_t other = s->realtime_us;
    double off;

    if (tb_contact_clock_offset(&s->facts.contact, s->realtime_us, s->boottime_us, &off) &&
        (off >= CLOCK_WRONG_S || off <= -CLOCK_WRONG_S))
        other = (uint64_t)((double)s->realtime_us - off * 1e6);
    *ret_early = MIN(s->realtime_us, other);
    *ret_late = MAX(s->realtime_us, other);
}

/* A control plane that has not been reached in this boot, as dates do not fit: then the clock is in doubt,
 * and what it says of other certificates as well. */
static bool dates_are_doubtful(const struct tb_snapshot *s)
{
    const struct tb_contact *c = &s->facts.contact;

    return c->known && !c->reachable && c->date_real_us == 0 &&
           (strstr(c->reason, "not yet valid") || strstr(c->reason, "has expired"));
}

static void add_certificate(const struct tb_snapshot *s, struct tb_conclusion *c,
                            const struct tb_certificate *x, const char *name, const char *loss,
                            const char *remedy)
{
    uint64_t early, late;
    char when[TB_RFC3339_MAX], d[TB_SPAN_MAX], path[TB_CERTIFICATE_PATH_MAX];

    certificates_now(s, &early, &late);
    tb_certificate_source(x->path, path);
    if (!x->path[0] || (!x->error[0] && dates_are_doubtful(s)))
        return;
    if (x->error[0])
        tb_status_remedy(tb_status_add(c, TB_STATUS_CRITICAL, "%s %.120s %s: %s", name, path, x->error,
                                       x == &s->proxy.server
                                           ? "tb-proxy goes on with what it read before, and cannot start "
                                             "again once it was stopped"
                                           : loss),
                         "%s", remedy);
    else if (x->until_us > 0 && x->until_us <= early)
        tb_status_remedy(tb_status_add(c, TB_STATUS_CRITICAL, "%s %.120s has expired on %s: %s", name, path,
                                       tb_rfc3339_format(x->until_us, 0, when), loss),
                         "%s", remedy);
    else if (x->from_us > late)
        tb_status_remedy(tb_status_add(c, TB_STATUS_CRITICAL,
                                       "%s %.120s is not yet valid, it begins on %s: %s", name, path,
                                       tb_rfc3339_format(x->from_us, 0, when), loss),
                         "compare this machine's clock: timedatectl; if it is right, %s", remedy);
    else if (x->until_us > 0 && x->until_us - early < CERTIFICATE_SOON_US)
        tb_status_remedy(tb_status_add(c, TB_STATUS_WARNING, "%s %.120s expires in %s, on %s", name, path,
                                       tb_span_format(x->until_us - early, d),
                                       tb_rfc3339_format(x->until_us, 0, when)),
                         "%s", remedy);
}

void tb_status_add_keys(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    if (s->proxy.keys_trouble[0])
        tb_status_remedy(
            tb_status_add(c, TB_STATUS_CRITICAL,
                          "the API keys (TB_API_KEYS) cannot be used: %.160s; those of before are in force",
                          s->proxy.keys_trouble),
            "tb-configure --check names the file and the line; correct it, then systemctl restart "
            "tb-proxy.service");
}

void tb_status_add_certificates(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    add_certificate(s, c, &s->proxy.server, "the certificate of the public port", "clients refuse it",
                    "replace it and its key; tb-proxy reads them again by itself, from /etc/credstore after "
                    "systemctl restart tb-proxy.service");
    add_certificate(s, c, &s->facts.contact.client, "the client certificate", "the control plane refuses it",
                    "ask the provider for a new one and replace it and its key; systemctl restart "
                    "tb-authorize.service reads them from /etc/credstore");
    add_certificate(s, c, &s->facts.contact.ca, "TB_CA_FILE", "the control plane cannot be trusted",
                    "put the present authority into that file; it is read at each try");
}

/* --- clock, ledger -------------------------------------------------------------------------------------- */

bool tb_status_add_clock(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    char d[TB_SPAN_MAX], should[TB_RFC3339_MAX];
    double off = (double)s->facts.clock_off_s, far; /* without a Date, what tb-billing knows */
    bool date = tb_contact_clock_offset(&s->facts.contact, s->realtime_us, s->boottime_us, &off);

    far = off < 0 ? -off : off;
    if (far < CLOCK_WRONG_S)
        return false;
    tb_rfc3339_format((uint64_t)((double)s->realtime_us - off * 1e6), 0, should);
    tb_status_remedy(tb_status_add(c, TB_STATUS_WARNING,
                                   "the clock of this machine is %s %s %s; usage is booked by the boot clock",
                                   tb_span_format((uint64_t)(far + 0.5) * TB_USEC_PER_SEC, d),
                                   off > 0 ? "ahead of" : "behind",
                                   date ? "the control plane's" : "what it was"),
                     "timedatectl set-ntp true, if a time service is installed; else date -u -s %s; then "
                     "systemctl kill -s HUP "
                     "tb-authorize.service",
                     should);
    return far >= CLOCK_BREAKS_S;
}

void tb_status_add_silence(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    char d[TB_SPAN_MAX], logs[96];

    if (s->proxy.came && s->proxy.silent_s >= SILENCE_LONG_S)
        tb_status_remedy(tb_status_add(c, TB_STATUS_WARNING,
                                       "the inference server has said nothing for %s to requests that wait",
                                       tb_span_format(s->proxy.silent_s * TB_USEC_PER_SEC, d)),
                         "systemctl restart tb-runtime.service, if it hangs; %s",
                         tb_status_logs("tb-runtime.service", logs));
}

void tb_status_add_ledger(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    char d[TB_SPAN_MAX], logs[96];

    if (!s->ledger.known)
        return;
    if (s->ledger.age_us > LEDGER_OLD_US)
        tb_status_remedy(tb_status_add(c, TB_STATUS_WARNING, "usage has not been booked for %s",
                                       tb_span_format(s->ledger.age_us, d)),
                         "systemctl restart tb-billing.service; %s",
                         tb_status_logs("tb-billing.service", logs));
    if (s->ledger.late_s > LEDGER_LATE_S)
        tb_status_remedy(
            tb_status_add(c, TB_STATUS_WARNING, "the marketplace has not accepted usage that is %s old",
                          tb_span_format(s->ledger.late_s * TB_USEC_PER_SEC, d)),
            "/usr/lib/trustbridge/tb-billing ledger; %s", tb_status_logs("tb-billing.service", logs));
}
