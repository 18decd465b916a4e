/* SPDX-License-Identifier: Apache-2.0 */
#include "audit.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>

#include "events.h"
#include "io.h"
#include "log.h"
#include "units.h"

#define RETRY_MS 250
#define LAST_LINE_MAX (64 * 1024)

struct tb_audit {
    char *contract_id, *asset_id, *file;
    int fd; /* -1: none */
    uint64_t *
        seq_map; /* shared mapping of the sequence file: survives SIGKILL without a call per record; or NULL */
    bool journal;
    size_t limit;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake, idle;
    struct tb_audit_record *head, **tail;
    size_t slots;
    uint64_t seq, written, dropped;
    bool broken, stop, give_up, reopen;
};

/* --- sinks, on the writer's thread ------------------------------------------------------------------------------- */

static int file_open(const char *path)
{
    int fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0640);

    return fd < 0 ? -errno : fd;
}

/* Appends one line by one write(). A short one (disk full) is taken back, so that no torn line stays. */
static int file_append(int fd, const char *line, size_t len)
{
    ssize_t n = write(fd, line, len);
    struct stat st;

    if (n == (ssize_t)len)
        return 0;
    if (n < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        (void)!ftruncate(fd, st.st_size - n);
    return -ENOSPC;
}

struct fields {
    struct iovec iov[20];
    size_t n;
    char *text[20];
};

static void field(struct fields *f, const char *name, const char *value)
{
    char *s = tb_strf("%s=%s", name, value);

    if (!s || f->n == ARRAY_SIZE(f->iov))
        return free(s);
    f->text[f->n] = s;
    f->iov[f->n++] = (struct iovec){s, strlen(s)};
}

static void field_uint(struct fields *f, const char *name, uint64_t v)
{
    char s[24];

    snprintf(s, sizeof(s), "%llu", (unsigned long long)v);
    field(f, name, s);
}

static int journal_send(const struct tb_audit *a, const struct tb_audit_record *r, const char *line)
{
    struct fields f = {0};
    int e;

    field(&f, "MESSAGE", line);
    field(&f, "MESSAGE_ID", TB_EVENT_AUDIT);
    field(&f, "PRIORITY", "6");
    field(&f, "SYSLOG_IDENTIFIER", "tb-proxy");
    field_uint(&f, "TB_SEQ", r->seq);
    field(&f, "TB_CONTRACT_ID", a->contract_id);
    field(&f, "TB_ASSET_ID", a->asset_id);
    field(&f, "TB_REQ_SHA256", r->req_sha256);
    field_uint(&f, "TB_STATUS", (uint64_t)r->status);
    field_uint(&f, "TB_LATENCY_MS", r->latency_ms);
    field_uint(&f, "TB_BYTES_IN", r->bytes_in);
    field_uint(&f, "TB_BYTES_OUT", r->bytes_out);
    field(&f, "TB_REQUEST_ID", r->request_id);
    field(&f, "TB_CLIENT", r->client);
    if (r->key_name[0])
        field(&f, "TB_KEY_NAME", r->key_name);
    e = sd_journal_sendv(f.iov, (int)f.n);
    for (size_t i = 0; i < f.n; i++)
        free(f.text[i]);
    return e;
}

/* sd_journal_sendv() reports success when there is no journal at all. */
static bool journal_there(void)
{
    return access("/run/systemd/journal/socket", F_OK) == 0;
}

/* *filed: the file has the line already; a retry for the journal's sake must not write it there again. */
static int write_record(struct tb_audit *a, const struct tb_audit_record *r, struct tb_buf *line, bool *filed)
{
    int e;

    line->len = 0;
    e = tb_audit_format(r, a->contract_id, a->asset_id, line);
    if (e >= 0)
        e = tb_buf_append(line, "\n", 2);
    if (e < 0)
        return e;
    line->len--;
    e = 0;
    if (a->fd >= 0 && !*filed)
        e = file_append(a->fd, line->data, line->len);
    else if (a->fd < 0 && !a->journal)
        e = tb_write_full(STDERR_FILENO, line->data, line->len);
    if (e < 0 || !a->journal)
        return e;
    *filed = true;
    line->data[line->len - 1] = '\0';
    return journal_there() ? journal_send(a, r, line->data) : -ENOENT;
}

static void remember_seq(const struct tb_audit *a)
{
    if (a->seq_map)
        __atomic_store_n(a->seq_map, a->seq, __ATOMIC_RELEASE);
}

/* --- the writer -------------------------------------------------------------------------------------------------- */

static void set_broken(struct tb_audit *a, int error)
{
    bool was;

    pthread_mutex_lock(&a->lock);
    was = a->broken;
    a->broken = error < 0;
    pthread_mutex_unlock(&a->lock);
    if (error < 0 && !was)
        tb_log_full(TB_LOG_ERR, TB_EVENT_AUDIT_BROKEN, NULL,
                    "audit: cannot write to %s: %s; requests are refused until it works again",
                    a->file      ? a->file
                    : a->journal ? "the journal"
                                 : "standard error",
                    strerror(-error));
    else if (error >= 0 && was)
        tb_info("audit: writing works again");
}

static void do_reopen(struct tb_audit *a)
{
    int fd = a->file ? file_open(a->file) : -1;

    if (fd >= 0) {
        tb_close(a->fd);
        a->fd = fd;
    } else if (a->file) {
        tb_error("audit: cannot open %s again: %s; still writing to the old file", a->file, strerror(-fd));
    }
}

/* Waits before trying a record again; false when it is time to give up. */
static bool wait_retry(struct tb_audit *a)
{
    struct timespec until;
    bool go_on;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += RETRY_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&a->lock);
    if (!a->give_up)
        pthread_cond_timedwait(&a->wake, &a->lock, &until);
    go_on = !a->give_up;
    pthread_mutex_unlock(&a->lock);
    return go_on;
}

static bool write_until_done(struct tb_audit *a, struct tb_audit_record *r, struct tb_buf *line)
{
    bool filed = false;

    r->seq = a->seq + 1;
    for (;;) {
        int e = write_record(a, r, line, &filed);

        if (e == -EAGAIN)
            continue;
        set_broken(a, e);
        if (e >= 0)
            break;
        if (!wait_retry(a))
            return false;
    }
    a->seq = r->seq;
    remember_seq(a);
    return true;
}

/* Waits for records; takes all of them. NULL when the audit is being closed and nothing is left. */
static struct tb_audit_record *take_batch(struct tb_audit *a, bool *ret_reopen)
{
    struct tb_audit_record *batch;

    pthread_mutex_lock(&a->lock);
    while (!a->head && !a->stop && !a->reopen)
        pthread_cond_wait(&a->wake, &a->lock);
    batch = a->head;
    a->head = NULL;
    a->tail = &a->head;
    *ret_reopen = a->reopen;
    a->reopen = false;
    pthread_mutex_unlock(&a->lock);
    return batch;
}

static void *writer(void *arg)
{
    struct tb_audit *a = arg;
    _cleanup_buf_ struct tb_buf line = {0};
    bool ok = true, reopen;

    for (;;) {
        struct tb_audit_record *r = take_batch(a, &reopen), *next;

        if (reopen)
            do_reopen(a);
        if (!r && reopen)
            continue;
        if (!r)
            return NULL;
        for (; r; r = next) {
            next = r->next;
            ok = ok && write_until_done(a, r, &line);
            tb_audit_record_free(r);
            pthread_mutex_lock(&a->lock);
            if (ok) {
                a->slots--;
                a->written++;
            }
            pthread_mutex_unlock(&a->lock);
        }
        if (a->fd >= 0)
            (void)fdatasync(a->fd);
    }
}

/* --- opening and closing ----------------------------------------------------------------------------------------- */

/* The sequence number in the last line of an audit file: the file knows better than our own note after a SIGKILL. */
static uint64_t last_seq_in_file(int fd)
{
    _cleanup_free_ char *text = malloc(LAST_LINE_MAX + 1);
    struct stat st;
    uint64_t seq = 0;
    ssize_t n;

    if (!text || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return 0;
    n = tb_pread_full(fd, text, LAST_LINE_MAX,
                      st.st_size > LAST_LINE_MAX ? (uint64_t)st.st_size - LAST_LINE_MAX : 0);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    for (char *p = text; (p = strstr(p, ",\"seq\":"));) {
        p += 7;
        seq = strtoull(p, NULL, 10);
    }
    return seq;
}

static int open_sinks(struct tb_audit *a, const struct tb_audit_config *c)
{
    _cleanup_close_ int seq_fd = -1;
    uint64_t *map;

    if (c->file) {
        a->fd = file_open(c->file);
        if (a->fd < 0)
            return a->fd;
        a->seq = last_seq_in_file(a->fd);
    }
    if (!c->seq_file)
        return 0;
    seq_fd = open(c->seq_file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (seq_fd < 0 || ftruncate(seq_fd, sizeof(*map)) < 0)
        return -errno;
    map = mmap(NULL, sizeof(*map), PROT_READ | PROT_WRITE, MAP_SHARED, seq_fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    a->seq_map = map;
    a->seq = MAX(a->seq, *map);
    return 0;
}

static void audit_free(struct tb_audit *a)
{
    tb_close(a->fd);
    if (a->seq_map)
        munmap(a->seq_map, sizeof(*a->seq_map));
    free(a->contract_id);
    free(a->asset_id);
    free(a->file);
    free(a);
}

int tb_audit_open(const struct tb_audit_config *c, struct tb_audit **ret)
{
    struct tb_audit *a = calloc(1, sizeof(*a));
    pthread_condattr_t attr;
    int r;

    if (!a)
        return -ENOMEM;
    a->fd = -1;
    a->journal = c->journal;
    a->limit = c->queue;
    a->tail = &a->head;
    a->contract_id = strdup(c->contract_id);
    a->asset_id = strdup(c->asset_id);
    a->file = c->file ? strdup(c->file) : NULL;
    r = !a->contract_id || !a->asset_id || (c->file && !a->file) ? -ENOMEM : open_sinks(a, c);
    if (r < 0) {
        audit_free(a);
        return r;
    }
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&a->wake, &attr);
    pthread_condattr_destroy(&attr);
    r = pthread_create(&a->thread, NULL, writer, a);
    if (r > 0) {
        audit_free(a);
        return -r;
    }
    *ret = a;
    return 0;
}

enum tb_admission tb_audit_admit(struct tb_audit *a)
{
    enum tb_admission r;

    pthread_mutex_lock(&a->lock);
    if (a->slots >= 2 * a->limit) {
        a->dropped++;
        r = TB_ADMIT_DROP;
    } else {
        r = a->broken || a->slots >= a->limit ? TB_ADMIT_REFUSE : TB_ADMIT;
        a->slots++;
    }
    pthread_mutex_unlock(&a->lock);
    return r;
}

void tb_audit_submit(struct tb_audit *a, struct tb_audit_record *r)
{
    pthread_mutex_lock(&a->lock);
    r->next = NULL;
    if (!a->head)
        pthread_cond_signal(&a->wake);
    *a->tail = r;
    a->tail = &r->next;
    pthread_mutex_unlock(&a->lock);
}

void tb_audit_reopen(struct tb_audit *a)
{
    pthread_mutex_lock(&a->lock);
    a->reopen = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

static bool join_within(pthread_t thread, unsigned timeout_ms)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    if (deadline.tv_nsec >= 1000000000L) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000L;
    }
    return pthread_timedjoin_np(thread, NULL, &deadline) == 0;
}

size_t tb_audit_close(struct tb_audit *a, unsigned timeout_ms)
{
    size_t left;
    bool joined;

    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    joined = join_within(a->thread, timeout_ms);
    if (!joined) {
        pthread_mutex_lock(&a->lock);
        a->give_up = true;
        pthread_cond_signal(&a->wake);
        pthread_mutex_unlock(&a->lock);
        joined = join_within(a->thread, 1000);
    }
    pthread_mutex_lock(&a->lock);
    left = a->slots;
    pthread_mutex_unlock(&a->lock);
    if (joined)
        audit_free(
            a); /* else the writer hangs in a write to a stopped journald; the process is about to end */
    return left;
}

void tb_audit_get_stats(struct tb_audit *a, struct tb_audit_stats *ret)
{
    pthread_mutex_lock(&a->lock);
    *ret = (struct tb_audit_stats){
        .written = a->written, .dropped = a->dropped, .slots = a->slots, .broken = a->broken};
    pthread_mutex_unlock(&a->lock);
}
