/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/audit/sink.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>

#include "common/events.h"
#include "common/io.h"
#include "common/units.h"

/* --- the file ------------------------------------------------------------------------------------------- */

static int sink_open_file(const char *path, bool *ret_regular)
{
    _cleanup_close_ int fd =
        open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0640);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    *ret_regular = S_ISREG(st.st_mode);
    /* Two writers would each go on from the same record. */
    if (*ret_regular && flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int tb_audit_sink_open(struct tb_audit_sink *s, const char *contract_id, const char *asset_id,
                       const char *file, bool journal)
{
    *s = (struct tb_audit_sink){.fd = -1,
                                .journal = journal,
                                .contract_id = strdup(contract_id),
                                .asset_id = strdup(asset_id),
                                .file = file ? strdup(file) : NULL};
    pthread_mutex_init(&s->sync_lock, NULL);
    if (!s->contract_id || !s->asset_id || (file && !s->file))
        return -ENOMEM;
    if (!s->file)
        return 0;
    s->fd = sink_open_file(s->file, &s->regular);
    return s->fd < 0 ? s->fd : 0;
}

void tb_audit_sink_close(struct tb_audit_sink *s)
{
    s->fd = tb_close(s->fd);
    free(s->contract_id);
    free(s->asset_id);
    free(s->file);
}

const char *tb_audit_sink_name(const struct tb_audit_sink *s)
{
    return s->file ? s->file : s->journal ? "the journal" : "standard error";
}

int tb_audit_sink_tail(const struct tb_audit_sink *s, size_t max, char **ret, size_t *ret_len)
{
    _cleanup_free_ char *text = NULL;
    uint64_t from = 0, size;
    const char *nl;
    struct stat st;
    ssize_t n;

    *ret = NULL;
    *ret_len = 0;
    if (s->fd < 0 || !s->regular)
        return 0;
    if (fstat(s->fd, &st) < 0)
        return -errno;
    size = (uint64_t)st.st_size;
    if (size > max)
        from = size - max;
    text = malloc(size - from + 1);
    if (!text)
        return -ENOMEM;
    n = tb_pread_full(s->fd, text, size - from, from);
    if (n < 0)
        return (int)n;
    if (from > 0) {
        nl = memchr(text, '\n', (size_t)n);
        from = nl ? (uint64_t)(nl - text) + 1 : (uint64_t)n;
        memmove(text, text + from, (size_t)n - from);
        n -= (ssize_t)from;
    }
    *ret_len = (size_t)n;
    *ret = TAKE_PTR(text);
    return 0;
}

int tb_audit_sink_trim(const struct tb_audit_sink *s, size_t n)
{
    struct stat st;

    if (fstat(s->fd, &st) < 0 || ftruncate(s->fd, st.st_size - (off_t)n) < 0)
        return -errno;
    return 0;
}

/* By one write(). A short one (disk full) is taken back, so that no torn line stays. */
static int sink_append_file(const struct tb_audit_sink *s, const char *lines, size_t len)
{
    ssize_t n = write(s->fd, lines, len);

    if (n < 0)
        return -errno;
    if ((size_t)n < len) {
        if (s->regular)
            (void)!tb_audit_sink_trim(s, (size_t)n);
        return -ENOSPC;
    }
    return 0;
}

int tb_audit_sink_append(struct tb_audit_sink *s, const char *lines, size_t len)
{
    if (s->fd >= 0)
        return sink_append_file(s, lines, len);
    return s->journal ? 0 : tb_write_full(STDERR_FILENO, lines, len);
}

int tb_audit_sink_sync(struct tb_audit_sink *s)
{
    int r;

    pthread_mutex_lock(&s->sync_lock);
    r = s->regular && fdatasync(s->fd) < 0 ? -errno : 0;
    pthread_mutex_unlock(&s->sync_lock);
    return r;
}

static bool sink_is_moved(const struct tb_audit_sink *s)
{
    struct stat now, there;

    return stat(s->file, &there) < 0 || fstat(s->fd, &now) < 0 || now.st_dev != there.st_dev ||
           now.st_ino != there.st_ino;
}

bool tb_audit_sink_is_removed(struct tb_audit_sink *s)
{
    struct stat st;
    bool removed;

    pthread_mutex_lock(&s->sync_lock);
    removed = s->regular && fstat(s->fd, &st) == 0 && st.st_nlink == 0;
    pthread_mutex_unlock(&s->sync_lock);
    return removed;
}

int tb_audit_sink_reopen(struct tb_audit_sink *s)
{
    bool regular;
    int fd;

    if (!s->file || !sink_is_moved(s))
        return 0;
    fd = sink_open_file(s->file, &regular);
    if (fd < 0)
        return fd;
    (void)tb_audit_sink_sync(s);
    pthread_mutex_lock(&s->sync_lock);
    tb_close(s->fd);
    s->fd = fd;
    s->regular = regular;
    pthread_mutex_unlock(&s->sync_lock);
    return 0;
}

/* --- the journal ---------------------------------------------------------------------------------------- */

struct journal_fields {
    struct iovec iov[32];
    size_t n;
};

static void journal_field(struct journal_fields *f, const char *name, const char *value)
{
    char *s = tb_strf("%s=%s", name, value);

    if (!s || f->n == ARRAY_SIZE(f->iov))
        return free(s);
    f->iov[f->n++] = (struct iovec){s, strlen(s)};
}

static void journal_field_uint(struct journal_fields *f, const char *name, uint64_t v)
{
    char s[24];

    snprintf(s, sizeof(s), "%llu", (unsigned long long)v);
    journal_field(f, name, s);
}

/* sd_journal_sendv() reports success when there is no journal at all. */
static bool journal_there(void)
{
    return access("/run/systemd/journal/socket", F_OK) == 0;
}

int tb_audit_sink_journal(const struct tb_audit_sink *s, const struct tb_audit_record *r, const char *line,
                          size_t len)
{
    struct journal_fields f = {0};
    char *message;
    int e;

    if (!journal_there())
        return -ENOENT;
    message = tb_strf("MESSAGE=%.*s", (int)len, line);
    if (!message)
        return -ENOMEM;
    f.iov[f.n++] = (struct iovec){message, strlen(message)};
    journal_field(&f, "MESSAGE_ID", TB_EVENT_AUDIT);
    journal_field(&f, "PRIORITY", "6");
    journal_field(&f, "SYSLOG_IDENTIFIER", "tb-proxy");
    journal_field_uint(&f, "TB_SEQ", r->seq);
    journal_field(&f, "TB_CONTRACT_ID", s->contract_id);
    journal_field(&f, "TB_ASSET_ID", s->asset_id);
    journal_field(&f, "TB_REQ_SHA256", r->req_sha256);
    journal_field_uint(&f, "TB_STATUS", (uint64_t)r->status);
    journal_field_uint(&f, "TB_LATENCY_MS", r->latency_ms);
    journal_field_uint(&f, "TB_BYTES_IN", r->bytes_in);
    journal_field_uint(&f, "TB_BYTES_OUT", r->bytes_out);
    journal_field(&f, "TB_REQUEST_ID", r->request_id);
    journal_field(&f, "TB_CLIENT", r->client);
    if (r->has_tokens) {
        journal_field_uint(&f, "TB_PROMPT_TOKENS", r->prompt_tokens);
        journal_field_uint(&f, "TB_COMPLETION_TOKENS", r->completion_tokens);
        journal_field_uint(&f, "TB_CACHED_TOKENS", r->cached_tokens);
        journal_field_uint(&f, "TB_TOKENS_ESTIMATED", r->estimated);
    }
    if (r->key_name[0])
        journal_field(&f, "TB_KEY_NAME", r->key_name);
    if (r->count > 0)
        journal_field_uint(&f, "TB_COUNT", r->count);
    e = sd_journal_sendv(f.iov, (int)f.n);
    for (size_t i = 0; i < f.n; i++)
        free(f.iov[i].iov_base);
    return e;
}
