/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/secret.h"

int mirror_init(struct mirror *m, const char *base, bool shows_query, const char *blob_url, uint64_t n_ranges)
{
    const char *host = strstr(blob_url, "://"), *path;
    size_t base_len, path_len;

    *m = (struct mirror){.rest = {.base_ms = MIRROR_REST_BASE_MS, .cap_ms = MIRROR_REST_CAP_MS},
                         .n_ranges = n_ranges};
    if (!base || !host)
        return 0;
    base_len = strlen(base);
    while (base_len > 0 && base[base_len - 1] == '/')
        base_len--;
    path = host + 3 + strcspn(host + 3, "/?#");
    path_len = shows_query ? strlen(path) : strcspn(path, "?#");
    m->url = tb_secret_alloc(base_len + path_len + 1);
    m->gave = calloc(1, (size_t)(n_ranges / 8 + 1));
    if (!m->url || !m->gave) {
        mirror_clear(m);
        return -ENOMEM;
    }
    memcpy(m->url, base, base_len);
    memcpy(m->url + base_len, path, path_len);
    tb_url_redact(m->url, m->where, sizeof(m->where));
    return 0;
}

void mirror_clear(struct mirror *m)
{
    tb_secret_free(m->url);
    free(m->gave);
    m->url = NULL;
    m->gave = NULL;
}

bool mirror_may_ask(const struct mirror *m, uint64_t now_us)
{
    if (!m->url || m->distrusted)
        return false;
    return m->rest.attempt == 0 || (now_us >= m->rest_until_us && m->asked == 0);
}

void mirror_ask(struct mirror *m)
{
    m->asked++;
}

static void mirror_mark(struct mirror *m, uint64_t range)
{
    m->gave[range / 8] |= (uint8_t)(1U << (range % 8));
}

void mirror_gave(struct mirror *m, uint64_t range, uint64_t bytes)
{
    mirror_mark(m, range);
    m->bytes += bytes;
}

void mirror_answer(struct mirror *m)
{
    m->asked--;
    m->rest.attempt = 0;
}

void mirror_fail(struct mirror *m, uint64_t range, bool kept, const char *why, uint64_t now_us)
{
    uint64_t delay_ms;

    m->asked--;
    if (kept)
        mirror_mark(m, range);
    if (m->distrusted || (m->rest.attempt > 0 && now_us < m->rest_until_us))
        return; /* one of several that were on their way */
    delay_ms = tb_backoff_next_ms(&m->rest, -1);
    m->rest_until_us = now_us + delay_ms * 1000;
    tb_warn("the mirror of TB_BLOB_MIRROR fails: %s; the storage gives the range, and the mirror is tried "
            "again in %llu ms",
            why, (unsigned long long)delay_ms);
}

void mirror_doubt(struct mirror *m, uint64_t first, uint64_t last)
{
    if (!m->url || m->distrusted)
        return;
    for (uint64_t i = first; i <= last && i < m->n_ranges; i++)
        if (m->gave[i / 8] >> (i % 8) & 1)
            m->distrusted = true;
    if (m->distrusted)
        tb_warn("the mirror of TB_BLOB_MIRROR gave bytes that are not the model's: %s; the storage gives the "
                "rest. Empty the mirror's cache",
                m->where);
}

const char *mirror_state(const struct mirror *m)
{
    if (!m->url)
        return "left_out";
    if (m->distrusted)
        return "distrusted";
    return m->rest.attempt > 0 ? "fails" : "used";
}
