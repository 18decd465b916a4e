/* SPDX-License-Identifier: Apache-2.0 */
/* The screen, as text. No I/O and no clock: everything comes from the snapshot. Plain ASCII of our own, for
 * serial consoles. */
#include <inttypes.h>
#include <string.h>

#include "common/attestation.h"
#include "common/picture.h"
#include "status/status.h"
#include "common/units.h"

#define BAR_WIDTH 20
#define BAR_NARROW 10 /* in a window of fewer columns than */
#define NARROW 60
#define OLD_US (5 * TB_USEC_PER_SEC) /* of a progress file: worth a word */
#define LABEL_WIDTH 12
#define HEADING_WIDTH 200
#define RED "\033[1;31m"
#define GREEN "\033[1;32m"
#define YELLOW "\033[1;33m"
#define BOLD "\033[1m"
#define PLAIN "\033[0m"

struct render_page {
    FILE *out;
    bool colour;
    int width;
    const struct tb_snapshot *s;
    const struct tb_conclusion *c;
};

static const char *render_paint(const struct render_page *p, const char *escape)
{
    return p->colour ? escape : "";
}

static const char *render_ago(const struct render_page *p, uint64_t then_us, char out[static TB_SPAN_MAX])
{
    return tb_span_format(p->s->realtime_us > then_us ? p->s->realtime_us - then_us : 0, out);
}

/* "22:58:01", in UTC like all times of the product. */
static const char *clock_time(uint64_t us, char out[static TB_RFC3339_MAX])
{
    tb_rfc3339_format(us, 0, out);
    memmove(out, out + 11, 8);
    out[8] = '\0';
    return out;
}

/* --- words over lines ----------------------------------------------------------------------------------- */

/* How many bytes of s go on a line of room columns: whole words where that works, whole characters always. */
static size_t wrap_bytes(const char *s, size_t room)
{
    size_t n = 0, columns = 0, word_end = 0;

    while (s[n] && columns < room) {
        if (s[n] == ' ')
            word_end = n;
        n++;
        while (((unsigned char)s[n] & 0xc0) == 0x80) /* the rest of a character */
            n++;
        columns++;
    }
    if (!s[n] || s[n] == ' ')
        return n;
    return word_end > 0 ? word_end : n;
}

/* text over as many lines as it needs; the first continues at column indent, the others begin there. */
static void render_wrap(const struct render_page *p, const char *text, int indent)
{
    size_t room = (size_t)MAX(p->width - indent, 20);

    for (bool first = true; first || *text; first = false) {
        size_t n = wrap_bytes(text, room);

        fprintf(p->out, "%*s%.*s\n", first ? 0 : indent, "", (int)n, text);
        for (text += n; *text == ' '; text++)
            ;
    }
}

static void render_label(const struct render_page *p, const char *name)
{
    fprintf(p->out, "  %-*s", LABEL_WIDTH - 2, name);
}

static void render_row(const struct render_page *p, const char *name, const char *value)
{
    if (!*value)
        return;
    render_label(p, name);
    render_wrap(p, value, LABEL_WIDTH);
}

/* --- the parts ------------------------------------------------------------------------------------------ */

static void render_heading(const struct render_page *p)
{
    const char *state = p->c->state, *reason = p->c->reason;
    const char *escape = strcmp(state, "Ready") == 0                                     ? GREEN
                         : strcmp(state, "Suspended") == 0 || strcmp(state, "Down") == 0 ? RED
                                                                                         : YELLOW;
    char now[TB_RFC3339_MAX];
    int room = MIN(p->width, HEADING_WIDTH) - 14 - (int)strlen(state);
    bool fits = room > (int)strlen(tb_rfc3339_format(p->s->realtime_us, 0, now));

    fprintf(p->out, "%sTrustBridge%s   %s%s%s%*s\n", render_paint(p, BOLD), render_paint(p, PLAIN),
            render_paint(p, escape), state, render_paint(p, PLAIN), fits ? room : 0, fits ? now : "");
    if (!fits)
        render_row(p, "time", now);
    render_row(p, "reason", reason);
}

static void render_since(const struct render_page *p)
{
    const char *from = p->s->proxy.came ? p->s->proxy.since : p->s->facts.suspended_since;
    char d[32], text[96];
    uint64_t us;

    if (tb_rfc3339_parse(from, &us) < 0)
        return;
    tb_rfc3339_format(us, 0, text);
    snprintf(text + strlen(text), sizeof(text) - strlen(text), ", %s ago", render_ago(p, us, d));
    render_row(p, "since", text);
}

static const char *const lease_words[] = {
    [TB_LEASE_ABSENT] = "none: tb-authorize has not said anything yet",
    [TB_LEASE_PENDING] = "pending",
    [TB_LEASE_AUTHORIZED] = "authorized",
    [TB_LEASE_UNREACHABLE] = "authorized, control plane unreachable",
    [TB_LEASE_DENIED] = "denied",
    [TB_LEASE_EXPIRED] = "expired, grace over",
};

/* "authorized, expires in 42 min (23:41:00), grace ends 24 h 42 min from now" */
static void render_lease(const struct render_page *p)
{
    const struct tb_facts *f = &p->s->facts;
    char text[256], d[32], t[TB_RFC3339_MAX];
    uint64_t us;
    size_t n;

    n = (size_t)snprintf(text, sizeof(text), "%s", lease_words[f->lease]);
    if (f->lease == TB_LEASE_AUTHORIZED || f->lease == TB_LEASE_UNREACHABLE) {
        if (tb_rfc3339_parse(f->expires_at, &us) < 0)
            n += (size_t)snprintf(text + n, sizeof(text) - n, ", without an end");
        else if (us > p->s->realtime_us)
            n += (size_t)snprintf(text + n, sizeof(text) - n, ", expires in %s (%s)",
                                  tb_span_format(us - p->s->realtime_us, d), clock_time(us, t));
        else
            n += (size_t)snprintf(text + n, sizeof(text) - n, ", EXPIRED %s ago (%s)", render_ago(p, us, d),
                                  clock_time(us, t));
        if (f->has_deadline && f->deadline_boottime_us > p->s->boottime_us)
            n += (size_t)snprintf(text + n, sizeof(text) - n, ", grace ends in %s",
                                  tb_span_format(f->deadline_boottime_us - p->s->boottime_us, d));
        else if (f->has_deadline)
            n += (size_t)snprintf(text + n, sizeof(text) - n, ", grace over");
    }
    if (tb_rfc3339_parse(f->renewed_at, &us) == 0)
        snprintf(text + n, sizeof(text) - n, "; renewed %s ago", render_ago(p, us, d));
    render_row(p, "lease", text);
}

/* "level tpm, shown 2 min ago" */
static void render_attestation(const struct render_page *p)
{
    const struct tb_facts *f = &p->s->facts;
    const char *level = tb_attestation_level(f);
    char text[2 * TB_ATTESTATION_TEXT_MAX], image[TB_ATTESTATION_TEXT_MAX], d[TB_SPAN_MAX];

    if (!*level)
        return;
    tb_attestation_image(f, image);
    snprintf(text, sizeof(text), "level %s%s%s%s%s%s", level, *image ? ", image " : "", image,
             *f->attested.level ? ", shown " : "",
             *f->attested.level ? render_ago(p, f->attested.at_real_us, d) : "",
             *f->attested.level ? " ago" : "");
    render_row(p, "attested", text);
}

/* "failed: the TPM does not give the key ..." */
static void render_volume(const struct render_page *p)
{
    const struct tb_facts *f = &p->s->facts;
    char text[sizeof(f->volume) + sizeof(f->volume_text) + 2];

    if (!*f->volume)
        return;
    snprintf(text, sizeof(text), "%s: %s", f->volume, f->volume_text);
    render_row(p, "state volume", text);
}

/* "[#####...............]  25 %  " */
static void render_bar(const struct render_page *p, const struct tb_picture_part *part, char *out,
                       size_t size)
{
    int width = p->width < NARROW ? BAR_NARROW : BAR_WIDTH;
    double share = part->total ? (double)part->done / (double)part->total : 0;
    char bar[BAR_WIDTH + 1];

    for (int i = 0; i < width; i++)
        bar[i] = i < (int)(share * width) ? '#' : '.';
    bar[width] = '\0';
    snprintf(out, size, "[%s] %3d %%  ", bar, part->percent);
}

/* How old the file is, where that is worth a word. */
static void render_step_age(const struct render_page *p, const struct tb_step *s, const char *unit)
{
    uint64_t age = tb_status_step_age(p->s, s);
    char d[TB_SPAN_MAX];

    if (tb_status_writer_dead(p->s, s, unit)) {
        render_label(p, "");
        fprintf(p->out, "%sleft by a dead writer%s %s ago\n", render_paint(p, RED), render_paint(p, PLAIN),
                tb_span_format(age, d));
    } else if (s->work == TB_WORK_RUNNING && age > OLD_US) {
        render_label(p, "");
        fprintf(p->out, "last written %s ago\n", tb_span_format(age, d));
    }
}

/* A bar with its writer's word for what it does; how fast stands below it, so that nothing moves for who
 * watches. */
static void render_step(const struct render_page *p, const char *name, const struct tb_step *s,
                        const struct tb_picture_part *part, const char *unit)
{
    char text[2 * TB_PICTURE_TEXT_MAX] = "", more[TB_PICTURE_TEXT_MAX];
    size_t n;

    if (s->work == TB_WORK_ABSENT)
        return;
    if (part->total > 0) {
        render_bar(p, part, text, sizeof(text));
        n = strlen(text);
        snprintf(text + n, sizeof(text) - n, "%s, ", tb_picture_amount(part, more));
    }
    n = strlen(text);
    snprintf(text + n, sizeof(text) - n, "%s", part->word);
    render_label(p, name);
    fputs(render_paint(p, s->work == TB_WORK_FAILED ? RED : ""), p->out);
    render_wrap(p, text, LABEL_WIDTH);
    fputs(render_paint(p, s->work == TB_WORK_FAILED ? PLAIN : ""), p->out);
    render_row(p, "", tb_picture_speed(part, more));
    render_step_age(p, s, unit);
}

static void render_version(const struct render_page *p)
{
    const struct tb_update *u = &p->s->facts.update;
    char text[TB_REASON_MAX + 96];

    if (u->serving == 0)
        return;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)u->serving);
    render_row(p, "version", text);
    tb_update_describe(u, tb_next_percent(&p->s->facts), text);
    if (*text)
        render_row(p, "next", text);
}

static void render_weights(const struct render_page *p, const struct tb_picture *picture)
{
    const struct tb_step *s = &p->s->facts.delivery;
    char text[TB_PICTURE_TEXT_MAX + 96], mode[TB_PICTURE_TEXT_MAX];

    if (s->work == TB_WORK_ABSENT)
        return render_row(p, "weights", "not in memory");
    tb_picture_mode(picture, mode);
    snprintf(text, sizeof(text), "%s%s%s", s->phase, *mode ? ", " : "", mode);
    if (tb_status_writer_dead(p->s, s, "tb-runtime.service"))
        strcat(text, " - left by a dead writer");
    render_row(p, "weights", text);
}

/* What the runtime has of the model, and what was mended. */
static void render_reading(const struct render_page *p, const struct tb_picture *picture)
{
    char text[2 * TB_PICTURE_TEXT_MAX + 2], more[TB_PICTURE_TEXT_MAX];

    if (!tb_status_writer_dead(p->s, &p->s->facts.decrypt, "tb-decrypt.service")) {
        render_row(p, "read", tb_picture_read(picture, text));
        render_row(p, "memory", tb_picture_memory(picture, text));
    }
    tb_picture_repairs(picture, text);
    tb_picture_records(picture, more);
    if (*more)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", *text ? ": " : "", more);
    render_row(p, "records", text);
}

static void render_model(const struct render_page *p)
{
    const struct tb_facts *f = &p->s->facts;
    struct tb_picture picture;
    char text[TB_PICTURE_TEXT_MAX];

    tb_picture_make(f, p->s->boottime_us, &picture);
    render_step(p, "download", &f->hydrate, &picture.download, "tb-hydrate.service");
    render_row(p, "source", tb_picture_source(&picture, text));
    if (strcmp(p->c->state, "Suspended") == 0) /* it tells of weights that are gone */
        return render_weights(p, &picture);
    render_step(p, "decrypt", &f->decrypt, &picture.decrypt, "tb-decrypt.service");
    render_weights(p, &picture);
    render_reading(p, &picture);
}

static void render_requests(const struct render_page *p)
{
    char text[96], d[32];

    if (!p->s->proxy.has_requests)
        return;
    snprintf(text, sizeof(text), "%" PRIu64 " since tb-proxy started %s ago", p->s->proxy.requests,
             tb_span_format(p->s->proxy.uptime_s * TB_USEC_PER_SEC, d));
    render_row(p, "requests", text);
}

static void render_problems(const struct render_page *p)
{
    if (p->c->n_problems == 0)
        return;
    fprintf(p->out, "\n%sWhat is wrong%s\n", render_paint(p, BOLD), render_paint(p, PLAIN));
    for (size_t i = 0; i < p->c->n_problems; i++) {
        fprintf(p->out, "  %s!%s ", render_paint(p, RED), render_paint(p, PLAIN));
        render_wrap(p, p->c->problems[i].what, 4);
        if (p->c->problems[i].remedy[0]) {
            fputs("    -> ", p->out);
            render_wrap(p, p->c->problems[i].remedy, 7);
        }
    }
}

/* Services, and whatever else has failed. */
static bool unit_shown(const struct tb_unit *u)
{
    const char *dot = strrchr(u->name, '.');

    return (dot && strcmp(dot, ".service") == 0 && strcmp(u->load, "loaded") == 0) ||
           strcmp(u->active, "failed") == 0;
}

static void render_units(const struct render_page *p)
{
    fprintf(p->out, "\n%sUnits%s\n", render_paint(p, BOLD), render_paint(p, PLAIN));
    if (!p->s->units_known) {
        fputs("  ", p->out);
        render_wrap(p, p->s->units_note, 2);
        return;
    }
    for (size_t i = 0; i < p->s->n_units; i++) {
        const struct tb_unit *u = &p->s->units[i];
        bool bad = strcmp(u->active, "failed") == 0 || strncmp(u->sub, "auto-restart", 12) == 0;
        char state[48], restarts[32] = "", d[32];
        int used;

        if (!unit_shown(u))
            continue;
        snprintf(state, sizeof(state), "%s (%s)", u->active, u->sub);
        if (u->restarts && (bad || strcmp(p->c->state, "Ready") != 0 || tb_status_restless(p->s, p->c, u)))
            snprintf(restarts, sizeof(restarts), ", %" PRIu32 " restart%s", u->restarts,
                     u->restarts == 1 ? "" : "s");
        used = fprintf(p->out, "  %-21s ", u->name);
        fprintf(p->out, "%s%-25s%s", bad ? render_paint(p, RED) : "", state,
                bad ? render_paint(p, PLAIN) : "");
        fprintf(p->out, " %s%s\n",
                u->since_realtime_us ? render_ago(p, u->since_realtime_us, d) : "never started", restarts);
        if (!u->text[0] || strcmp(u->active, "inactive") == 0) /* then it is what was true once */
            continue;
        fprintf(p->out, "%*s", used, "");
        render_wrap(p, u->text, used);
    }
}

static void render_errors(const struct render_page *p)
{
    fprintf(p->out, "\n%sLast warnings and errors%s (journalctl --namespace=trustbridge -p warning)\n",
            render_paint(p, BOLD), render_paint(p, PLAIN));
    if (!p->s->errors_known) {
        fputs("  ", p->out);
        render_wrap(p, p->s->errors_note, 2);
    } else if (p->s->n_errors == 0) {
        fputs("  none since this machine was booted\n", p->out);
    }
    for (size_t i = 0; p->s->errors_known && i < p->s->n_errors; i++) {
        const struct tb_error_line *e = &p->s->errors[i];
        char t[TB_RFC3339_MAX], text[sizeof(e->message) + 80];

        snprintf(text, sizeof(text), "%s: %s", e->program, e->message);
        if (e->times > 1)
            snprintf(text + strlen(text), sizeof(text) - strlen(text), " (%u times)", e->times);
        fprintf(p->out, "  %s%s%s  ", e->priority <= 3 ? render_paint(p, RED) : "",
                clock_time(e->realtime_us, t), e->priority <= 3 ? render_paint(p, PLAIN) : "");
        render_wrap(p, text, 12);
    }
}

static void render_page(const struct render_page *p)
{
    const struct tb_snapshot *s = p->s;

    render_heading(p);
    if (p->c->exit_code == TB_STATUS_UNKNOWN)
        return;
    render_since(p);
    render_row(p, "contract", s->proxy.contract_id[0] ? s->proxy.contract_id : s->facts.contract_id);
    render_row(p, "asset", s->proxy.asset_id[0] ? s->proxy.asset_id : s->facts.asset_id);
    render_version(p);
    render_lease(p);
    render_attestation(p);
    render_volume(p);
    render_model(p);
    render_requests(p);
    render_problems(p);
    render_units(p);
    render_errors(p);
}

char *tb_status_render(const struct tb_snapshot *s, const struct tb_conclusion *c, bool colour, int width)
{
    struct render_page p = {.colour = colour, .width = MAX(width, 40), .s = s, .c = c};
    char *text = NULL;
    size_t len;
    bool bad;

    p.out = open_memstream(&text, &len);
    if (!p.out)
        return NULL;
    render_page(&p);
    bad = ferror(p.out);
    if (fclose(p.out) == 0 && !bad)
        return text;
    free(text);
    return NULL;
}

char *tb_status_line(const struct tb_snapshot *s, const struct tb_conclusion *c)
{
    char progress[TB_PICTURE_TEXT_MAX] = "", speed[TB_PICTURE_TEXT_MAX] = "";
    const struct tb_picture_part *part;
    struct tb_picture picture;
    char *text = NULL;

    tb_picture_make(&s->facts, s->boottime_us, &picture);
    part = strcmp(c->state, "Decrypt") == 0 ? &picture.decrypt : &picture.download;
    if ((strcmp(c->state, "Hydrate") == 0 || strcmp(c->state, "Decrypt") == 0) && part->total > 0) {
        tb_picture_amount(part, progress);
        tb_picture_speed(part, speed);
    }
    if (asprintf(&text, "%s%s%s%s%s%s%s%s", c->state, *progress ? " " : "", progress, *speed ? ", " : "",
                 speed, *c->reason ? " (" : "", c->reason, *c->reason ? ")" : "") < 0)
        return NULL;
    return text;
}
