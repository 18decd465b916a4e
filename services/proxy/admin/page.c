/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/page.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>

#include "proxy/admin/page_assets.h"
#include "common/attestation.h"
#include "common/picture.h"
#include "common/text.h"
#include "common/units.h"
#include "common/version.h"

#define FIELDS_MAX 64
#define SPARK_WIDTH 600
#define SPARK_HEIGHT 60

struct page_fields {
    struct {
        const char *name;
        char text[640];
    } f[FIELDS_MAX];
    size_t n;
    char spark[TB_RECENT_SECONDS * 16];
};

static void _printf_(3, 4) page_put(struct page_fields *p, const char *name, const char *fmt, ...)
{
    va_list ap;

    assert(p->n < FIELDS_MAX);
    va_start(ap, fmt);
    vsnprintf(p->f[p->n].text, sizeof(p->f[p->n].text), fmt, ap);
    va_end(ap);
    tb_text_plain(p->f[p->n].text); /* reasons are of foreign origin, and curl shows them on a terminal */
    p->f[p->n++].name = name;
}

static const char *page_time(uint64_t realtime_us, char out[static TB_RFC3339_MAX])
{
    tb_rfc3339_format(realtime_us, 0, out);
    out[10] = ' '; /* the T */
    snprintf(out + 19, 5, " UTC");
    return out;
}

/* --- the fields, a group each --------------------------------------------------------------------------- */

/* The reason, a word for programs, in words; but not where it only says again what the state says. */
static void page_put_sentence(struct page_fields *p, const char *sentence, const char *reason)
{
    static const char *const plain[] = {"",           "starting",  "downloading", "decrypting",
                                        "delivering", "streaming", "mending"};
    char words[TB_REASON_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
        if (strcmp(reason, plain[i]) == 0)
            return page_put(p, "sentence", "%s", sentence);
    snprintf(words, sizeof(words), "%s", reason);
    for (char *c = words; (c = strchr(c, '_')) && c < words + strcspn(words, ": ");)
        *c = ' ';
    page_put(p, "sentence", "%s Reason: %s.", sentence, words);
}

/* What a step that does not go on looks like from outside. */
static const char *page_sentence(const struct tb_verdict *v, const char *usual)
{
    if (v->failed)
        return v->state == TB_STATE_HYDRATE ? "The download of the encrypted model has failed."
                                            : "The model could not be decrypted or handed to the runtime.";
    if (v->state == TB_STATE_HYDRATE && strcmp(v->reason, "mending") == 0)
        return "Fetching damaged records of the encrypted model once more.";
    if (v->state == TB_STATE_DECRYPT && strcmp(v->reason, "runtime_not_answering") == 0)
        return "The runtime has the model, but does not answer.";
    return usual;
}

static void page_put_state(struct page_fields *p, const struct tb_server *s)
{
    static const char *const sentence[_TB_STATE_MAX] = {
        "The programs are starting.",
        "Asking the control plane whether this machine may serve.",
        "Downloading the encrypted model.",
        "Decrypting into memory and starting the runtime.",
        "Requests are served.",
        "Requests get 403 until the control plane allows this machine again.",
        "The model is loaded, but requests are refused with 503.",
    };
    static const char *const step[] = {"authorize", "hydrate", "decrypt", "ready"};
    static const char *const cls[] = {"step_authorize", "step_hydrate", "step_decrypt", "step_ready"};
    static const char *const cur[] = {"cur_authorize", "cur_hydrate", "cur_decrypt", "cur_ready"};
    const struct tb_verdict *v = &s->monitor.verdict;
    int at =
        v->state == TB_STATE_SUSPENDED ? -1 : (int)MIN(v->state, TB_STATE_READY) - (int)TB_STATE_AUTHORIZE;
    char text[TB_RFC3339_MAX], up[32];

    page_put(p, "state", "%s", tb_state_name(v->state));
    page_put_sentence(p, page_sentence(v, sentence[v->state]), v->reason);
    page_put(p, "since", "%s", page_time(s->monitor.since_realtime_us, text));
    page_put(p, "now", "%s", page_time(tb_now_realtime_us(), text));
    page_put(p, "uptime", "%s", tb_span_format(tb_now_monotonic_us() - s->started_us, up));
    page_put(p, "asset", "%s", s->config->asset_id);
    page_put(p, "version", "%s", TB_VERSION);
    for (int i = 0; i < (int)ARRAY_SIZE(step); i++) {
        bool done = i < at || v->state == TB_STATE_READY;

        page_put(p, cls[i], "%s", done ? "done" : i == at ? "now" : "");
        page_put(p, cur[i], "%s", !done && i == at ? "step" : "false");
    }
}

/* The names of a part's three fields go together. */
static void page_put_part(struct page_fields *p, const char *name, const char *percent, const char *more,
                          const struct tb_picture_part *part)
{
    char text[TB_PICTURE_TEXT_MAX];

    page_put(p, name, "%s", part->work == TB_WORK_ABSENT ? "not begun" : tb_picture_amount(part, text));
    page_put(p, percent, "%d", MAX(part->percent, 0));
    tb_picture_speed(part, text);
    page_put(p, more, "%s%s%s", part->total > 0 ? part->word : "", *text ? ", " : "", text);
}

/* "absent": what there is nothing to say of is not shown. */
static void page_put_model(struct page_fields *p, const struct tb_facts *f)
{
    char text[TB_PICTURE_TEXT_MAX], served[32];
    struct tb_picture m;

    tb_picture_make(f, tb_now_boottime_us(), &m);
    page_put_part(p, "hydrate", "hydrate_pct", "hydrate_more", &m.download);
    page_put_part(p, "decrypt", "decrypt_pct", "decrypt_more", &m.decrypt);
    page_put(p, "read_class", "%s", m.has_read ? "" : "absent");
    page_put(p, "read", "%s", tb_picture_read(&m, text));
    page_put(p, "read_more", "%s in all",
             tb_bytes_format(m.has_read ? m.served_bytes : 0, served, sizeof(served)));
    page_put(p, "memory_class", "%s", m.has_memory ? "" : "absent");
    page_put(p, "memory", "%s", tb_picture_memory(&m, text));
    page_put(p, "memory_more", "decrypted, for %s", tb_picture_mode(&m, text));
    tb_picture_source(&m, text);
    page_put(p, "source_class", "%s",
             !*text                                  ? "absent"
             : strcmp(m.source->mirror, "used") == 0 ? ""
                                                     : "wait");
    page_put(p, "source", "%s", tb_bytes_format(m.source->mirror_bytes, served, sizeof(served)));
    page_put(p, "source_more", "%s", text);
    tb_picture_repairs(&m, text);
    page_put(p, "records_class", "%s%s", m.repairs->n > 0 ? "wide" : "absent",
             m.repairs->waiting > 0 ? " wait" : "");
    page_put(p, "records", "%s", *text ? text : "none came");
    page_put(p, "records_more", "%s", tb_picture_records(&m, text));
}

static void page_put_spark(struct page_fields *p, const struct tb_recent *r)
{
    uint64_t each[TB_RECENT_SECONDS], most = 0;
    size_t len = 0;

    tb_recent_each(r, each);
    for (size_t i = 0; i < TB_RECENT_SECONDS; i++)
        most = MAX(most, each[i]);
    for (size_t i = 0; i < TB_RECENT_SECONDS && len < sizeof(p->spark) - 16; i++)
        len += (size_t)snprintf(p->spark + len, 16, "%s%zu,%u", i ? " " : "",
                                i * SPARK_WIDTH / (TB_RECENT_SECONDS - 1),
                                (unsigned)(SPARK_HEIGHT - 2 - each[i] * (SPARK_HEIGHT - 4) / MAX(most, 1U)));
    page_put(p, "spark_max", "%llu", (unsigned long long)most);
}

static void page_put_traffic(struct page_fields *p, const struct tb_server *s)
{
    struct tb_recent_totals sum;
    size_t seconds = tb_recent_sum(&s->recent, &sum);
    char text[TB_SPAN_MAX];
    double n = seconds > 0 ? (double)seconds : 1;

    page_put(p, "rate", "%.1f/s", (double)sum.requests / n);
    page_put(p, "out_rate", "%s/s",
             tb_bytes_format((uint64_t)((double)sum.bytes_out / n), text, sizeof(text)));
    page_put(p, "token_rate", "%.1f tokens/s", (double)sum.tokens / n);
    page_put(p, "in_flight", "%llu", (unsigned long long)s->metrics.in_flight);
    page_put_spark(p, &s->recent);
}

static void page_put_lease(struct page_fields *p, const struct tb_facts *f)
{
    uint64_t now = tb_now_boottime_us(), left = 0, expires;
    char text[TB_RFC3339_MAX], in[32];
    bool over = tb_lease_over(f, now), denied = f->lease == TB_LEASE_DENIED || f->suspended_flag;

    if (f->has_deadline && f->deadline_boottime_us > now)
        left = f->deadline_boottime_us - now;
    page_put(p, "lease_class", "%s",
             over || denied || f->lease == TB_LEASE_EXPIRED ? "bad"
             : f->lease == TB_LEASE_AUTHORIZED              ? "good"
                                                            : "wait");
    if (f->lease == TB_LEASE_ABSENT || f->lease == TB_LEASE_PENDING)
        page_put(p, "lease", "none yet");
    else if (denied)
        page_put(p, "lease", "denied");
    else if (over || f->lease == TB_LEASE_EXPIRED)
        page_put(p, "lease", "over");
    else if (f->has_deadline)
        page_put(p, "lease", "%s left", tb_span_format(left, in));
    else
        page_put(p, "lease", "valid");
    if (f->expires_at[0] && tb_rfc3339_parse(f->expires_at, &expires) == 0)
        page_put(p, "lease_more", "ends %s, then grace%s", page_time(expires, text),
                 f->lease == TB_LEASE_UNREACHABLE ? "; the control plane does not answer" : "");
    else
        page_put(p, "lease_more", "%s", "no end is set");
}

static void page_put_attestation(struct page_fields *p, const struct tb_facts *f)
{
    const char *refusal = tb_attestation_refusal(f), *level = tb_attestation_level(f);
    char image[TB_ATTESTATION_TEXT_MAX], at[TB_RFC3339_MAX];

    tb_attestation_image(f, image);
    page_put(p, "attested_class", "%s", refusal ? "bad" : *f->attested.level ? "good" : "");
    page_put(p, "attested", "%s%s", !refusal && *f->attested.level ? "level " : "",
             refusal  ? "refused"
             : *level ? level
                      : "not yet");
    if (refusal)
        page_put(p, "attested_more", "%s. Remedy: %s.", refusal, tb_attestation_remedy(refusal));
    else if (*f->attested.level)
        page_put(p, "attested_more", "%s%s%s", image, *image ? ", " : "",
                 page_time(f->attested.at_real_us, at));
    else
        page_put(p, "attested_more", "%s", *level ? "the contract asks for nothing" : "");
}

static void page_put_version(struct page_fields *p, const struct tb_facts *f)
{
    const struct tb_update *u = &f->update;
    char next[TB_REASON_MAX + 96];

    tb_update_describe(u, tb_next_percent(f), next);
    page_put(p, "asset_version_class", "%s", u->phase == TB_UPDATE_FAILED ? "wait" : "");
    if (u->serving)
        page_put(p, "asset_version", "%llu", (unsigned long long)u->serving);
    else
        page_put(p, "asset_version", "not known");
    page_put(p, "asset_version_more", "%s", *next ? next : "no other one is promoted");
}

static void page_put_accounting(struct page_fields *p, const struct tb_server *s)
{
    const struct tb_metrics *m = &s->metrics;
    uint64_t failed = tb_metrics_count(m, 500, 599), refused = tb_metrics_count(m, 400, 498);
    struct tb_audit_stats a;

    tb_audit_get_stats(s->audit, &a);
    page_put(p, "audit_class", "%s", a.broken ? "bad" : "good");
    page_put(p, "audit", a.broken ? "cannot be written" : "record %llu", (unsigned long long)a.seq);
    page_put(p, "audit_more", "%zu in flight or waiting, room for %zu; chain %.12s", a.slots, a.limit,
             a.head);
    page_put(p, "answered", "%llu", (unsigned long long)tb_server_requests(s));
    page_put(p, "answered_more", "by the runtime, since this start; %llu refused",
             (unsigned long long)refused);
    page_put(p, "failed_class", "%s", failed > 0 ? "wait" : "");
    page_put(p, "failed", "%llu", (unsigned long long)failed);
    page_put(p, "failed_more", "5xx; %llu clients left before their answer",
             (unsigned long long)tb_metrics_count(m, 499, 499));
}

static void page_fill(struct page_fields *p, const struct tb_server *s)
{
    p->n = 0;
    page_put_state(p, s);
    page_put_model(p, &s->monitor.facts);
    page_put_traffic(p, s);
    page_put_lease(p, &s->monitor.facts);
    page_put_attestation(p, &s->monitor.facts);
    page_put_accounting(p, s);
    page_put_version(p, &s->monitor.facts);
}

/* --- as HTML and as JSON -------------------------------------------------------------------------------- */

/* The five columns of a request: time, what, status, how long, class. */
static void page_row(const struct tb_recent_request *r, char t[static 5][48])
{
    char time[TB_RFC3339_MAX];

    tb_rfc3339_format(r->realtime_us, 0, time);
    snprintf(t[0], 48, "%.8s", time + 11);
    snprintf(t[1], 48, "%s %s", r->method, r->path);
    snprintf(t[2], 48, "%d", r->status);
    if (r->latency_us < 10000)
        snprintf(t[3], 48, "%.1f ms", (double)r->latency_us / 1e3);
    else if (r->latency_us < 10 * TB_USEC_PER_SEC)
        snprintf(t[3], 48, "%llu ms", (unsigned long long)(r->latency_us / 1000));
    else
        snprintf(t[3], 48, "%.1f s", (double)r->latency_us / 1e6);
    snprintf(t[4], 48, "s%d", r->status / 100);
}

static void page_write_html(struct tb_buf *o, const char *s)
{
    for (; *s; s++) {
        const char *entity = *s == '<'   ? "&lt;"
                             : *s == '>' ? "&gt;"
                             : *s == '&' ? "&amp;"
                             : *s == '"' ? "&quot;"
                                         : NULL;

        if (entity)
            tb_buf_puts(o, entity);
        else
            tb_buf_append(o, s, 1);
    }
}

static void page_write_rows_html(const struct tb_server *s, struct tb_buf *o)
{
    const struct tb_recent_request *q;
    char t[5][48];

    for (size_t i = 0; (q = tb_recent_get(&s->recent, i)); i++) {
        page_row(q, t); /* of fixed words and numbers: nothing to escape */
        tb_buf_printf(o,
                      "<tr class=\"%s\"><td>%s</td><td class=\"path\">%s</td><td><b>%s</b></td>"
                      "<td class=\"num\">%s</td></tr>\n",
                      t[4], t[0], t[1], t[2], t[3]);
    }
}

static void page_write_named(const struct tb_server *s, const struct page_fields *p, const char *name,
                             size_t len, struct tb_buf *o)
{
    size_t i = 0;

    if (len == 4 && memcmp(name, "rows", 4) == 0)
        return page_write_rows_html(s, o);
    if (len == 5 && memcmp(name, "spark", 5) == 0) {
        tb_buf_puts(o, p->spark);
        return;
    }
    while (i < p->n && (strlen(p->f[i].name) != len || memcmp(p->f[i].name, name, len) != 0))
        i++;
    assert(i < p->n); /* status.html and the fields above go together */
    page_write_html(o, p->f[i].text);
}

int tb_page_html(const struct tb_server *s, struct tb_buf *out)
{
    struct page_fields p;
    size_t len;
    const char *at = tb_page_template(&len), *end = at + len;

    page_fill(&p, s);
    for (;;) {
        const char *open = memmem(at, (size_t)(end - at), "{{", 2);
        const char *close = open ? memmem(open, (size_t)(end - open), "}}", 2) : NULL;

        if (!close)
            return tb_buf_append(out, at, (size_t)(end - at));
        tb_buf_append(out, at, (size_t)(open - at));
        page_write_named(s, &p, open + 2, (size_t)(close - open) - 2, out);
        at = close + 2;
    }
}

static void page_write_rows_json(const struct tb_server *s, struct tb_buf *o)
{
    const struct tb_recent_request *q;
    char t[5][48];

    for (size_t i = 0; (q = tb_recent_get(&s->recent, i)); i++) {
        page_row(q, t);
        tb_buf_printf(o, "%s[\"%s\",\"%s\",\"%s\",\"%s\",\"%s\"]", i ? "," : "", t[0], t[1], t[2], t[3],
                      t[4]);
    }
}

int tb_page_json(const struct tb_server *s, struct tb_buf *out)
{
    struct page_fields p;

    page_fill(&p, s);
    tb_buf_puts(out, "{\"fields\":{\"spark\":");
    tb_buf_json_string(out, p.spark, strlen(p.spark));
    for (size_t i = 0; i < p.n; i++) {
        tb_buf_printf(out, ",\"%s\":", p.f[i].name);
        tb_buf_json_string(out, p.f[i].text, strlen(p.f[i].text));
    }
    tb_buf_puts(out, "},\"rows\":[");
    page_write_rows_json(s, out);
    return tb_buf_puts(out, "]}");
}

void tb_page_tick(struct tb_server *s, uint64_t now_us)
{
    const struct tb_recent_totals now = {
        .requests = s->metrics.latency_count,
        .bytes_out = tb_usage_get(s->usage, TB_USAGE_BYTES_OUT),
        .tokens = tb_usage_get(s->usage, TB_USAGE_COMPLETION_TOKENS),
    };

    tb_recent_tick(&s->recent, now_us, &now);
}
