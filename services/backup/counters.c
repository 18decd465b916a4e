/* SPDX-License-Identifier: Apache-2.0 */
/* An answer's cost moves from its slot in `flight` into the counters when it ends: the slot is given back,
 * then the tokens are added. Read one after the other the two files could show it twice, or not at all.
 * So: the slots, the counters, the keys, the counters and the slots again, and all of it once more until
 * no slot was given back and no token was added meanwhile. tb-proxy is not stopped for it; what is read
 * takes microseconds. What would prove this wrong: a backup under load from which fewer or more tokens
 * come back than were counted and in flight (tests/integration/test_backup_archive.py). */
#include "backup/counters.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/in_flight_slot.h"
#include "common/io.h"

#define USAGE_FILE_BYTES 4096
#define USAGE_MAGIC_TEXT "TBUSAGE1"
#define USAGE_TOKENS_AT (24 + 3 * 8) /* common/usage.h: of prompt_tokens; four counters of tokens follow */
#define USAGE_TOKENS_BYTES (4 * 8)
#define KEYS_MAGIC_TEXT "TBKEYS01"
#define KEY_RECORD_BYTES 256
#define SLOTS_MORE 64 /* behind the last one taken: others begin meanwhile */

struct counters_map {
    const char *p; /* NULL: there is no such file */
    size_t len;
};

static void counters_unmap(struct counters_map *m)
{
    if (m->p)
        munmap((void *)m->p, m->len);
}
#define _cleanup_counters_ _cleanup_(counters_unmap)

static int counters_map(const char *dir, const char *name, const char *magic, size_t exactly,
                        struct counters_map *ret)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);
    _cleanup_close_ int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    struct stat st;
    void *p;

    if (fd < 0)
        return path && errno == ENOENT ? 0 : path ? -errno : -ENOMEM;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size < 8 || (uint64_t)st.st_size > BACKUP_MEMBER_MAX ||
        (exactly && (uint64_t)st.st_size != exactly))
        return -EBADMSG;
    p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    *ret = (struct counters_map){.p = p, .len = (size_t)st.st_size};
    return memcmp(p, magic, 8) == 0 ? 0 : -EBADMSG;
}

/* Where the slots that are taken end, and some more. */
static size_t counters_slots_used(const struct counters_map *flight)
{
    size_t n = flight->len / sizeof(struct tb_in_flight_slot), used = 0;

    for (size_t i = 1; i < n; i++)
        if (((const volatile struct tb_in_flight_slot *)flight->p)[i].taken)
            used = i;
    return MIN(n, used + 1 + SLOTS_MORE);
}

/* Names of keys come one after the other; the rest of the file is a hole. */
static size_t counters_keys_used(const struct counters_map *keys)
{
    size_t at = KEY_RECORD_BYTES;

    while (at + KEY_RECORD_BYTES <= keys->len && keys->p[at] != '\0')
        at += KEY_RECORD_BYTES;
    return MIN(at, keys->len);
}

/* No answer has ended: what was in flight is, and has cost no less. */
static bool counters_all_still_fly(const struct tb_in_flight_slot *was, const struct tb_in_flight_slot *is,
                                   size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (was[i].taken && (!is[i].taken || is[i].key != was[i].key || is[i].prompt < was[i].prompt ||
                             is[i].completion < was[i].completion || is[i].cached < was[i].cached ||
                             is[i].ours < was[i].ours))
            return false;
    return true;
}

/* The compiler must read again what another process writes. */
static void counters_copy(void *to, const char *from, size_t n)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    memcpy(to, from, n);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

struct counters_copies {
    char *usage, *keys;
    struct tb_in_flight_slot *before, *flight;
    size_t keys_len, slots;
};

static void counters_free(struct counters_copies *c)
{
    free(c->usage);
    free(c->keys);
    free(c->before);
    free(c->flight);
}

/* One try. True when nothing moved. */
static bool counters_look(const struct counters_map *usage, const struct counters_map *keys,
                          const struct counters_map *flight, struct counters_copies *c)
{
    char again[USAGE_FILE_BYTES];
    size_t bytes = c->slots * sizeof(struct tb_in_flight_slot);

    if (flight->p)
        counters_copy(c->before, flight->p, bytes);
    if (usage->p)
        counters_copy(c->usage, usage->p, USAGE_FILE_BYTES);
    if (keys->p)
        counters_copy(c->keys, keys->p, c->keys_len);
    if (usage->p)
        counters_copy(again, usage->p, USAGE_FILE_BYTES);
    if (flight->p)
        counters_copy(c->flight, flight->p, bytes);
    return (!usage->p ||
            memcmp(c->usage + USAGE_TOKENS_AT, again + USAGE_TOKENS_AT, USAGE_TOKENS_BYTES) == 0) &&
           (!flight->p || counters_all_still_fly(c->before, c->flight, c->slots));
}

static int counters_take(const struct counters_map *usage, const struct counters_map *keys,
                         const struct counters_map *flight, struct counters_copies *c)
{
    uint64_t give_up = tb_now_boottime_us() + BACKUP_COUNTERS_WAIT_US;

    for (;;) {
        c->keys_len = keys->p ? counters_keys_used(keys) : 0;
        c->slots = flight->p ? counters_slots_used(flight) : 0;
        free(c->keys);
        free(c->before);
        free(c->flight);
        c->keys = calloc(1, c->keys_len + 1);
        c->before = calloc(c->slots + 1, sizeof(*c->before));
        c->flight = calloc(c->slots + 1, sizeof(*c->flight));
        if (!c->usage)
            c->usage = calloc(1, USAGE_FILE_BYTES);
        if (!c->usage || !c->keys || !c->before || !c->flight)
            return -ENOMEM;
        for (int i = 0; i < 100; i++)
            if (counters_look(usage, keys, flight, c))
                return 0;
        if (tb_now_boottime_us() > give_up)
            return -EBUSY;
        tb_sleep_ms(1);
    }
}

int backup_counters_add(struct backup_set *s, const char *dir, const char **ret_bad)
{
    _cleanup_counters_ struct counters_map usage = {0}, keys = {0}, flight = {0};
    _cleanup_(counters_free) struct counters_copies c = {0};
    int r;

    *ret_bad = "usage";
    r = counters_map(dir, "usage", USAGE_MAGIC_TEXT, USAGE_FILE_BYTES, &usage);
    if (r == 0) {
        *ret_bad = "keys";
        r = counters_map(dir, "keys", KEYS_MAGIC_TEXT, 0, &keys);
    }
    if (r == 0) {
        *ret_bad = "flight";
        r = counters_map(dir, "flight", TB_IN_FLIGHT_MAGIC, 0, &flight);
    }
    if (r == 0)
        r = counters_take(&usage, &keys, &flight, &c);
    if (r == 0 && usage.p)
        r = backup_set_add(s, BACKUP_USAGE, 0640, TAKE_PTR(c.usage), USAGE_FILE_BYTES);
    if (r == 0 && keys.p)
        r = backup_set_add(s, BACKUP_KEYS, 0640, TAKE_PTR(c.keys), c.keys_len);
    if (r == 0 && flight.p)
        r = backup_set_add(s, BACKUP_FLIGHT, 0640, (char *)TAKE_PTR(c.flight),
                           c.slots * sizeof(struct tb_in_flight_slot));
    return r;
}
