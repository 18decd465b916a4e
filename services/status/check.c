/* SPDX-License-Identifier: Apache-2.0 */
/* One line for a monitoring system, as its plugins have it: a word, a sentence, figures. No I/O. */
#include <string.h>

#include "common/units.h"
#include "status/conclude.h"

#define CERTIFICATE_RANGE "s;1209600:;1:" /* two weeks */

static const char *const check_words[] = {"OK", "WARNING", "CRITICAL", "UNKNOWN"};

static enum tb_status_level check_level(const struct tb_snapshot *s, const struct tb_conclusion *c)
{
    enum tb_status_level level = TB_STATUS_OK;

    if (c->exit_code == TB_STATUS_UNKNOWN)
        return TB_STATUS_UNSURE;
    /* On its way, with nothing wrong: not served yet, and no alarm. */
    if (c->exit_code != TB_STATUS_READY && !tb_status_requests_wait(s, c))
        level = c->n_problems > 0 || strcmp(c->state, "Suspended") == 0 || strcmp(c->state, "Down") == 0
                    ? TB_STATUS_CRITICAL
                    : TB_STATUS_WARNING;
    for (size_t i = 0; i < c->n_problems; i++)
        level = MAX(level, c->problems[i].level);
    return level;
}

/* How long until then; negative: since then. */
static long long check_seconds(uint64_t then_us, uint64_t now_us)
{
    return ((long long)then_us - (long long)now_us) / (long long)TB_USEC_PER_SEC;
}

/* 'name'=value, unit, and the ranges of warning and critical. */
static void check_put(FILE *out, const char *name, long long value, const char *rest)
{
    fprintf(out, " %s=%lld%s", name, value, rest);
}

static void check_place(FILE *out, enum tb_place_id id, const struct tb_place *p)
{
    char name[32], rest[96];

    if (!p->known)
        return;
    snprintf(name, sizeof(name), "free_%s", tb_place_name(id));
    snprintf(rest, sizeof(rest), "B;%llu:;%d:;0;%llu", (unsigned long long)p->low_bytes, TB_PLACE_FULL_BYTES,
             (unsigned long long)p->size_bytes);
    check_put(out, name, (long long)p->free_bytes, rest);
}

static void check_figures(const struct tb_snapshot *s, const struct tb_conclusion *c, FILE *out)
{
    const struct tb_facts *f = &s->facts;
    double off;
    uint64_t us;

    if (s->proxy.has_requests)
        check_put(out, "requests", (long long)s->proxy.requests, "c");
    if (tb_rfc3339_parse(f->expires_at, &us) == 0)
        check_put(out, "lease", check_seconds(us, s->realtime_us), "s");
    if (f->has_deadline)
        check_put(out, "grace", MAX(check_seconds(f->deadline_boottime_us, s->boottime_us), 0), "s;3600:;1:");
    if (f->contact.known)
        check_put(out, "control_plane_failures", (long long)f->contact.failures, ";0");
    if (tb_contact_clock_offset(&f->contact, s->realtime_us, s->boottime_us, &off))
        check_put(out, "clock", (long long)off, "s;-30:30");
    if (s->ledger.known)
        check_put(out, "ledger_age", (long long)(s->ledger.age_us / TB_USEC_PER_SEC), "s;900");
    for (int i = 0; i < _TB_PLACE_MAX; i++)
        check_place(out, i, &s->places[i]);
    if (s->proxy.server.until_us > 0)
        check_put(out, "cert_server", check_seconds(s->proxy.server.until_us, s->realtime_us),
                  CERTIFICATE_RANGE);
    if (f->contact.client.until_us > 0)
        check_put(out, "cert_client", check_seconds(f->contact.client.until_us, s->realtime_us),
                  CERTIFICATE_RANGE);
    if (f->contact.ca.until_us > 0)
        check_put(out, "cert_ca", check_seconds(f->contact.ca.until_us, s->realtime_us), CERTIFICATE_RANGE);
}

static void check_sentence(const struct tb_snapshot *s, const struct tb_conclusion *c, FILE *out)
{
    size_t more = c->n_problems > 0 ? c->n_problems - 1 : 0;
    char d[TB_SPAN_MAX];

    fprintf(out, "%s", c->state);
    if (c->n_problems > 0) {
        fprintf(out, ", %s", c->problems[0].what);
        if (c->problems[0].remedy[0])
            fprintf(out, " -> %s", c->problems[0].remedy);
        if (more > 0)
            fprintf(out, " (and %zu more: tb-status)", more);
        return;
    }
    if (c->reason[0])
        fprintf(out, ", %s", c->reason);
    if (s->proxy.has_requests)
        fprintf(out, ", %llu requests", (unsigned long long)s->proxy.requests);
    if (s->facts.has_deadline && s->facts.deadline_boottime_us > s->boottime_us)
        fprintf(out, ", may serve for %s", tb_span_format(s->facts.deadline_boottime_us - s->boottime_us, d));
}

/* A bar ends the sentence, a line end the output. */
static void check_tame(char *text)
{
    for (; *text; text++)
        if (*text == '|' || *text == '\n')
            *text = '/';
}

static char *check_text(const struct tb_snapshot *s, const struct tb_conclusion *c,
                        void (*write)(const struct tb_snapshot *, const struct tb_conclusion *, FILE *))
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return NULL;
    write(s, c, f);
    if (fclose(f) != 0)
        tb_freep(&text);
    if (text)
        check_tame(text);
    return text;
}

char *tb_status_check(const struct tb_snapshot *s, const struct tb_conclusion *c, enum tb_status_level *ret)
{
    _cleanup_free_ char *sentence = check_text(s, c, check_sentence),
                        *figures = check_text(s, c, check_figures);
    char *line = NULL;

    *ret = check_level(s, c);
    if (!sentence || !figures ||
        asprintf(&line, "TRUSTBRIDGE %s: %s%s%s", check_words[*ret], sentence, *figures ? " |" : "",
                 figures) < 0)
        return NULL;
    return line;
}
