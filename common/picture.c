/* SPDX-License-Identifier: Apache-2.0 */
#include "common/picture.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/json.h"
#include "common/macros.h"
#include "common/text.h"
#include "common/units.h"

/* A writer that lives says something each second; what it said of its speed is not true for longer. */
#define PICTURE_FRESH_US (5 * TB_USEC_PER_SEC)
#define PICTURE_LEFT_MAX_S (30U * 24 * 3600) /* more is no forecast */

static bool part_is_fresh(const struct tb_step *s, uint64_t now_us)
{
    return s->written_boottime_us > 0 && now_us < s->written_boottime_us + PICTURE_FRESH_US;
}

static void part_make(const struct tb_step *s, uint64_t now_us, struct tb_picture_part *p)
{
    uint64_t left;

    *p = (struct tb_picture_part){.work = s->work, .word = s->phase, .total = s->bytes_total, .percent = -1};
    p->done = s->work == TB_WORK_COMPLETE ? s->bytes_total : MIN(s->bytes_done, s->bytes_total);
    if (p->total > 0)
        p->percent = (int)(100.0 * (double)p->done / (double)p->total);
    else if (s->work == TB_WORK_COMPLETE)
        p->percent = 100;
    if (p->done < p->total) /* of many bytes the last percent is not there yet */
        p->percent = MIN(p->percent, 99);
    p->moving = s->work == TB_WORK_RUNNING && s->has_rate && p->done < p->total && part_is_fresh(s, now_us);
    if (!p->moving)
        return;
    p->rate = s->bytes_per_second;
    left = p->rate > 0 ? (p->total - p->done) / p->rate + 1 : UINT64_MAX;
    p->has_left = left <= PICTURE_LEFT_MAX_S;
    p->left_s = p->has_left ? left : 0;
}

/* A reader has what it reads by tb-decrypt's leave; else all that was decrypted stays in memory. */
static void picture_make_memory(const struct tb_facts *f, struct tb_picture *p)
{
    const struct tb_reading *g = &f->reading;

    p->has_read = g->known;
    p->read_bytes = MIN(g->read_bytes, f->decrypt.bytes_total);
    p->served_bytes = g->served_bytes;
    p->has_memory = g->known || strcmp(p->mode, "dir") == 0;
    p->memory_bytes = g->known ? g->cached_bytes : p->decrypt.done;
    p->cache_bytes = g->cache_bytes;
}

void tb_picture_make(const struct tb_facts *f, uint64_t now_boottime_us, struct tb_picture *ret)
{
    *ret = (struct tb_picture){
        .source = &f->source, .mode = f->delivery.mode, .no_view = f->no_view, .repairs = &f->repairs};
    part_make(&f->hydrate, now_boottime_us, &ret->download);
    part_make(&f->decrypt, now_boottime_us, &ret->decrypt);
    part_make(&f->next, now_boottime_us, &ret->next);
    picture_make_memory(f, ret);
}

/* -- for people ------------------------------------------------------------------------------------------ */
static const char *picture_of(uint64_t n, uint64_t total, char *out)
{
    char a[32], b[32];

    snprintf(out, TB_PICTURE_TEXT_MAX, "%s of %s", tb_bytes_format(n, a, sizeof(a)),
             tb_bytes_format(total, b, sizeof(b)));
    return out;
}

static size_t picture_append(char *out, size_t n, const char *fmt, ...) _printf_(3, 4);
static size_t picture_append(char *out, size_t n, const char *fmt, ...)
{
    va_list ap;

    if (n >= TB_PICTURE_TEXT_MAX)
        return n;
    va_start(ap, fmt);
    n += (size_t)vsnprintf(out + n, TB_PICTURE_TEXT_MAX - n, fmt, ap);
    va_end(ap);
    return n;
}

const char *tb_picture_amount(const struct tb_picture_part *p, char out[static TB_PICTURE_TEXT_MAX])
{
    if (p->total > 0 && p->done == p->total)
        return tb_bytes_format(p->total, out, TB_PICTURE_TEXT_MAX);
    if (p->total > 0)
        return picture_of(p->done, p->total, out);
    snprintf(out, TB_PICTURE_TEXT_MAX, "%s", p->word);
    return out;
}

const char *tb_picture_speed(const struct tb_picture_part *p, char out[static TB_PICTURE_TEXT_MAX])
{
    char rate[32], left[TB_SPAN_MAX];

    out[0] = '\0';
    if (p->moving && p->rate == 0)
        snprintf(out, TB_PICTURE_TEXT_MAX, "no bytes are coming");
    else if (p->moving && p->has_left)
        snprintf(out, TB_PICTURE_TEXT_MAX, "%s/s, %s left", tb_bytes_format(p->rate, rate, sizeof(rate)),
                 tb_span_format(p->left_s * TB_USEC_PER_SEC, left));
    else if (p->moving)
        snprintf(out, TB_PICTURE_TEXT_MAX, "%s/s", tb_bytes_format(p->rate, rate, sizeof(rate)));
    return out;
}

const char *tb_picture_source(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX])
{
    static const char *const trouble[][2] = {
        {"fails", "the mirror fails, and the storage gives what it does not"},
        {"distrusted", "the mirror gave bytes that are not the model's, and the storage gives the rest"},
        {"left_out", "the mirror is not asked, as what came before was bad"}};
    const struct tb_download_source *s = p->source;
    char a[32], b[32];
    size_t n = 0;

    out[0] = '\0';
    if (!*s->mirror)
        return out;
    if (s->mirror_bytes > 0 || s->storage_bytes > 0)
        n = picture_append(out, n, "%s from the mirror, %s from the storage",
                           tb_bytes_format(s->mirror_bytes, a, sizeof(a)),
                           tb_bytes_format(s->storage_bytes, b, sizeof(b)));
    for (size_t i = 0; i < ARRAY_SIZE(trouble); i++)
        if (strcmp(s->mirror, trouble[i][0]) == 0 && p->download.work != TB_WORK_ABSENT)
            n = picture_append(out, n, "%s%s", n > 0 ? "; " : "", trouble[i][1]);
    return out;
}

const char *tb_picture_mode(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX])
{
    out[0] = '\0';
    if (*p->mode)
        snprintf(out, TB_PICTURE_TEXT_MAX, "mode %s%s%.200s", p->mode,
                 *p->no_view ? ", as no view can be had: " : "", p->no_view);
    return out;
}

const char *tb_picture_read(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX])
{
    out[0] = '\0';
    return p->has_read ? picture_of(p->read_bytes, p->decrypt.total, out) : out;
}

const char *tb_picture_memory(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX])
{
    char a[32], b[32];

    out[0] = '\0';
    if (!p->has_memory)
        return out;
    tb_bytes_format(p->memory_bytes, a, sizeof(a));
    if (p->cache_bytes > 0)
        snprintf(out, TB_PICTURE_TEXT_MAX, "%s of at most %s", a,
                 tb_bytes_format(p->cache_bytes, b, sizeof(b)));
    else
        snprintf(out, TB_PICTURE_TEXT_MAX, "%s", a);
    return out;
}

const char *tb_picture_repairs(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX])
{
    const struct tb_repairs *s = p->repairs;

    out[0] = '\0';
    if (s->waiting > 0 && s->fetched > 0)
        snprintf(out, TB_PICTURE_TEXT_MAX, "%" PRIu64 " being fetched once more, %" PRIu64 " were",
                 s->waiting, s->fetched);
    else if (s->waiting > 0)
        snprintf(out, TB_PICTURE_TEXT_MAX, "%" PRIu64 " being fetched once more", s->waiting);
    else if (s->fetched > 0)
        snprintf(out, TB_PICTURE_TEXT_MAX, "%" PRIu64 " fetched once more", s->fetched);
    return out;
}

const char *tb_picture_records(const struct tb_picture *p, char out[static TB_PICTURE_TEXT_MAX])
{
    static const char *const words[] = {
        [TB_REPAIR_WAITING] = "waiting", [TB_REPAIR_FETCHED] = "done", [TB_REPAIR_GIVEN_UP] = "given up"};
    const struct tb_repairs *s = p->repairs;
    char file[61];
    size_t n = 0;

    out[0] = '\0';
    for (size_t i = 0; i < s->n; i++) {
        const struct tb_repair_record *r = &s->r[i];

        snprintf(file, sizeof(file), "%s", r->file);
        n = picture_append(out, n, "%schunk %" PRIu64 " of %s (%s", i ? ", " : "", r->chunk,
                           tb_text_trim(file), words[r->state]);
        if (r->tries > 1)
            n = picture_append(out, n, ", try %u", r->tries);
        n = picture_append(out, n, ")");
    }
    return tb_text_trim(out);
}

/* -- for programs ---------------------------------------------------------------------------------------- */
int tb_picture_add_part(cJSON *o, const struct tb_picture_part *p)
{
    if ((p->percent >= 0 && tb_json_add_uint(o, "percent", (uint64_t)p->percent) < 0) ||
        (p->moving && tb_json_add_uint(o, "bytes_per_second", p->rate) < 0) ||
        (p->has_left && tb_json_add_uint(o, "seconds_left", p->left_s) < 0))
        return -ENOMEM;
    return 0;
}

int tb_picture_add_source(cJSON *o, const struct tb_picture *p)
{
    const struct tb_download_source *s = p->source;

    if (!*s->mirror)
        return 0;
    return cJSON_AddStringToObject(o, "mirror", s->mirror) &&
                   tb_json_add_uint(o, "mirror_bytes", s->mirror_bytes) == 0 &&
                   tb_json_add_uint(o, "storage_bytes", s->storage_bytes) == 0
               ? 0
               : -ENOMEM;
}

int tb_picture_add_delivery(cJSON *o, const struct tb_picture *p)
{
    if ((*p->no_view && !cJSON_AddStringToObject(o, "no_view", p->no_view)) ||
        (p->has_read && (tb_json_add_uint(o, "read_bytes", p->read_bytes) < 0 ||
                         tb_json_add_uint(o, "served_bytes", p->served_bytes) < 0)) ||
        (p->has_memory && tb_json_add_uint(o, "memory_bytes", p->memory_bytes) < 0) ||
        (p->cache_bytes > 0 && tb_json_add_uint(o, "cache_bytes", p->cache_bytes) < 0))
        return -ENOMEM;
    return 0;
}
