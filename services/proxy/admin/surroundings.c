/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/surroundings.h"

#include <string.h>

#include "common/facts.h"
#include "common/log.h"
#include "common/macros.h"
#include "common/text.h"
#include "common/units.h"

#define LOOK_S 10
#define LOOK_FULL_S 1 /* while a disk is full requests are refused: somebody waits for its room */
#define UNITS_EVERY 3 /* looks: PID 1 is asked less often */
#define JOIN_US TB_USEC_PER_SEC

/* The place where records end up, if it cannot take another one. */
static bool surroundings_bars(const struct tb_surroundings *s, const struct tb_surroundings_seen *seen,
                              char *out, size_t size)
{
    const struct tb_place *file = &seen->places[TB_PLACE_AUDIT], *journal = &seen->places[TB_PLACE_JOURNAL];

    out[0] = '\0';
    if (file->known && (tb_place_is_full(file) || file->read_only))
        snprintf(out, size, "audit_unavailable: %s in %.120s",
                 file->read_only ? "the file system is read-only" : "no space is left for records",
                 file->path);
    /* journald drops what it cannot store, and tells nobody. From inside the unit's sandbox its file system
     * always looks read-only. */
    else if (s->journal && !s->config->audit_file && tb_place_is_full(journal))
        snprintf(out, size, "audit_unavailable: no space is left for the journal in %.120s", journal->path);
    return out[0];
}

static void surroundings_read_units(const struct tb_surroundings *s, struct tb_surroundings_seen *seen)
{
    static struct tb_unit_list list; /* of this one thread */
    struct tb_facts facts = {0};

    tb_facts_read(s->config->run_dir, &facts);
    seen->n_units = 0;
    seen->lost = NULL;
    if (tb_unit_list_read(&list) < 0)
        return;
    seen->lost = tb_facts_lost(&facts, list.unit, list.n, tb_now_realtime_us());
    for (size_t i = 0; i < list.n && seen->n_units < TB_SURROUNDINGS_UNITS_MAX; i++) {
        const struct tb_unit *u = &list.unit[i];

        if (strcmp(u->load, "loaded") != 0 ||
            (!tb_text_ends_with(u->name, ".service") && !tb_text_ends_with(u->name, ".socket")))
            continue;
        snprintf(seen->unit[seen->n_units].name, sizeof(seen->unit[0].name), "%.47s", u->name);
        seen->unit[seen->n_units].active = tb_unit_runs(u);
        seen->unit[seen->n_units++].restarts = u->restarts;
    }
}

/* The pair that was read before stays in use when a file is replaced by one that does not fit: until the next
 * start. */
static void surroundings_read_certificate(const struct tb_surroundings *s, struct tb_certificate *ret)
{
    const struct tb_config *c = s->config;
    char error[TB_CERTIFICATE_ERR_MAX], source[TB_CERTIFICATE_PATH_MAX];

    if (!c->tls_cert || tb_certificate_read(c->tls_cert, false, tb_now_realtime_us(), ret) < 0 || !c->tls_key)
        return;
    if (tb_certificate_key(c->tls_key, error) < 0)
        snprintf(ret->error, sizeof(ret->error), "has no key: %.80s %.60s",
                 tb_certificate_source(c->tls_key, source), error);
    else if (tb_certificate_match(c->tls_cert, c->tls_key, error) < 0)
        snprintf(ret->error, sizeof(ret->error), "does not go with the key in %.80s",
                 tb_certificate_source(c->tls_key, source));
}

/* In the unit's sandbox all is read-only but its own directories: of the state the one that it writes to
 * tells whether the disk is. */
static void surroundings_judge_read_only(const struct tb_surroundings *s, struct tb_surroundings_seen *seen)
{
    for (int i = 0; i < _TB_PLACE_MAX; i++)
        if (i != TB_PLACE_AUDIT)
            seen->places[i].read_only = false;
    if (s->state_dir)
        seen->places[TB_PLACE_STATE].read_only = tb_place_read_only(s->state_dir);
}

static bool surroundings_look(struct tb_surroundings *s, struct tb_surroundings_seen *seen, bool units)
{
    char why[TB_AUDIT_TROUBLE_MAX];
    bool barred;

    tb_places_measure(seen->places, s->config->disk_low_bytes);
    surroundings_judge_read_only(s, seen);
    surroundings_read_certificate(s, &seen->server);
    if (units)
        surroundings_read_units(s, seen);
    barred = surroundings_bars(s, seen, why, sizeof(why));
    pthread_mutex_lock(&s->lock);
    s->seen = *seen;
    if (!s->stop) /* later the audit may be gone */
        tb_audit_bar(s->audit, why);
    pthread_mutex_unlock(&s->lock);
    return barred;
}

static bool surroundings_wait(struct tb_surroundings *s, unsigned seconds)
{
    struct timespec until;
    bool stop;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&s->lock);
    while (!s->stop && pthread_cond_timedwait(&s->wake, &s->lock, &until) == 0)
        ;
    stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    return !stop;
}

static void *surroundings_thread(void *arg)
{
    struct tb_surroundings *s = arg;
    struct tb_surroundings_seen seen = s->seen;
    bool barred;

    for (unsigned i = 0;; i++) {
        barred = surroundings_look(s, &seen, s->systemd && i % UNITS_EVERY == 0);
        if (!surroundings_wait(s, barred ? LOOK_FULL_S : LOOK_S))
            return NULL;
    }
}

int tb_surroundings_start(struct tb_surroundings *s)
{
    struct tb_surroundings_seen seen = {0};
    pthread_condattr_t attr;

    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    tb_places_init(seen.places, s->config);
    (void)surroundings_look(s, &seen, false);
    s->started = pthread_create(&s->thread, NULL, surroundings_thread, s) == 0;
    return s->started ? 0 : -EAGAIN;
}

void tb_surroundings_get(struct tb_surroundings *s, struct tb_surroundings_seen *ret)
{
    pthread_mutex_lock(&s->lock);
    *ret = s->seen;
    pthread_mutex_unlock(&s->lock);
}

void tb_surroundings_ask_stop(struct tb_surroundings *s)
{
    if (!s->started || s->stop_us > 0)
        return;
    s->stop_us = tb_now_monotonic_us();
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

bool tb_surroundings_stop(struct tb_surroundings *s)
{
    struct timespec until;
    uint64_t until_us;

    if (!s->started)
        return true;
    tb_surroundings_ask_stop(s);
    until_us = s->stop_us + JOIN_US;
    until = (struct timespec){.tv_sec = (time_t)(until_us / TB_USEC_PER_SEC),
                              .tv_nsec = (long)(until_us % TB_USEC_PER_SEC * 1000)};
    s->started = false;
    return pthread_clockjoin_np(s->thread, NULL, CLOCK_MONOTONIC, &until) == 0;
}
