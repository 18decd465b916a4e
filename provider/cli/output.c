/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "common/text.h"
#include "common/units.h"

#define LINE_MAX_BYTES 2048 /* longest message, names included */

/* -- messages ---------------------------------------------------------------------------------- */

static int log_fd = -1;

/* One write for a line, so that runs side by side do not mix them. */
static void output_log(const char *fmt, ...) _printf_(1, 2);
static void output_log(const char *fmt, ...)
{
    char line[LINE_MAX_BYTES + 64], now[TB_RFC3339_MAX];
    va_list ap;
    int n, m;

    if (log_fd < 0)
        return;
    n = snprintf(line, sizeof(line), "%s ", tb_rfc3339_format(tb_now_realtime_us(), 1, now));
    va_start(ap, fmt);
    m = vsnprintf(line + n, sizeof(line) - (size_t)n, fmt, ap);
    va_end(ap);
    n = MIN(n + MAX(m, 0), (int)sizeof(line) - 1);
    line[n] = '\n';
    (void)tb_write_full(log_fd, line, (size_t)n + 1);
}

/* A file name may hold a newline or a terminal escape; a message stays one plain line. */
void cli_print_line(const char *prefix, char *line)
{
    cli_progress_break();
    fprintf(stderr, "%s%s\n", prefix, tb_text_plain(line));
    output_log("%s%s", prefix, line);
}

int cli_log_open(const char *path, int argc, char **argv)
{
    char words[LINE_MAX_BYTES] = "";
    size_t n = 0;

    if (log_fd >= 0) /* the command that runs this one has it */
        return CLI_OK;
    log_fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (log_fd < 0)
        return tbpkg_fail_errno(path, -errno);
    for (int i = 0; i < argc && n < sizeof(words); i++)
        if (i == 0 || strncmp(argv[i], "--", 2) == 0)
            n += (size_t)snprintf(words + n, sizeof(words) - n, " %.*s", (int)strcspn(argv[i], "="), argv[i]);
    output_log("tbpkg"
               "%s",
               tb_text_plain(words));
    return CLI_OK;
}

void cli_log_end(int rc)
{
    output_log("exit code %d", rc);
}

static struct cli_faults *faults;

void cli_capture_faults(struct cli_faults *to)
{
    faults = to;
}

bool cli_faults_are_captured(void)
{
    return faults;
}

void cli_faults_clear(struct cli_faults *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->v[i].object);
        free(f->v[i].reason);
        free(f->v[i].remedy);
    }
    free(f->v);
    *f = (struct cli_faults){0};
}

void cli_faults_add(struct cli_faults *f, int rc, const char *object, const char *reason, const char *remedy)
{
    struct cli_fault *v;

    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->v[i].object, object) == 0 && strcmp(f->v[i].reason, reason) == 0)
            return;
    v = reallocarray(f->v, f->n + 1, sizeof(*v));
    if (!v)
        abort(); /* an error must not be lost */
    f->v = v;
    f->v[f->n++] = (struct cli_fault){.rc = rc,
                                      .object = strdup(object),
                                      .reason = strdup(reason),
                                      .remedy = remedy ? strdup(remedy) : NULL};
    if (!f->v[f->n - 1].object || !f->v[f->n - 1].reason || (remedy && !f->v[f->n - 1].remedy))
        abort();
}

int cli_faults_rc(const struct cli_faults *f)
{
    int rc = f->n > 0 ? f->v[0].rc : CLI_OK;

    for (size_t i = 1; i < f->n; i++)
        rc = f->v[i].rc == rc ? rc : CLI_FAILED;
    return rc;
}

int tbpkg_fail_as(int rc, const char *object, const char *reason, const char *remedy)
{
    _cleanup_free_ char *line = NULL;

    if (faults) {
        cli_faults_add(faults, rc, object, reason, remedy);
        return rc;
    }
    line = tb_strf("%s: %s%s%s", object, reason, remedy ? "; " : "", remedy ? remedy : "");
    cli_print_line("tbpkg: ", line ? line : (char[]){"out of memory"});
    return rc;
}

int tbpkg_fail(const char *object, const char *reason, const char *remedy)
{
    return tbpkg_fail_as(CLI_FAILED, object, reason, remedy);
}

int tbpkg_failf(const char *object, const char *fmt, ...)
{
    char reason[LINE_MAX_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, sizeof(reason), fmt, ap);
    va_end(ap);
    return tbpkg_fail(object, reason, NULL);
}

int tbpkg_fail_errno(const char *object, int r)
{
    static const struct {
        int err;
        const char *remedy;
    } remedies[] = {
        {ENOENT, "check the path"},
        {EACCES, "check owner and permissions"},
        {EPERM, "check owner and permissions"},
        {EROFS, "choose another directory"},
        {ENOSPC, "free some space or choose another directory"},
        {EDQUOT, "free some space or choose another directory"},
        {EMFILE, "raise the limit of open files (ulimit -n)"},
    };
    const char *remedy = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(remedies); i++)
        if (remedies[i].err == -r)
            remedy = remedies[i].remedy;
    return tbpkg_fail_as(r == -ENOSPC || r == -EDQUOT ? CLI_NO_ROOM : CLI_FAILED, object, strerror(-r),
                         remedy);
}

void tbpkg_warn(const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    cli_print_line("tbpkg: warning: ", line);
}

void tbpkg_note(bool quiet, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;

    if (quiet)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    cli_print_line("", line);
}

/* -- stdout ------------------------------------------------------------------------------------ */

int cli_flush_stdout(void)
{
    static bool reported;

    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_OK;
    if (!reported)
        tbpkg_fail("standard output", strerror(errno ? errno : EIO), NULL);
    reported = true;
    return CLI_FAILED;
}

/* A terminal gets lines of plain text. */
static int output_print_lines(const char *text, size_t len)
{
    for (size_t n; len > 0; text += n, len -= n) {
        const char *end = memchr(text, '\n', len);
        size_t shown = end ? (size_t)(end - text) : len;
        _cleanup_free_ char *line = NULL;

        n = shown + (end ? 1 : 0);
        shown -= shown > 0 && text[shown - 1] == '\r';
        line = strndup(text, shown);
        if (!line)
            return tbpkg_fail_errno("standard output", -ENOMEM);
        puts(tb_text_plain(line));
    }
    return cli_flush_stdout();
}

int cli_print_text(const char *text, size_t len)
{
    if (isatty(STDOUT_FILENO))
        return output_print_lines(text, len);
    fwrite(text, 1, len, stdout);
    return cli_flush_stdout();
}

static cJSON **capture;

void cli_capture_json(cJSON **to)
{
    capture = to;
}

bool cli_json_is_captured(void)
{
    return capture;
}

int cli_print_json(const cJSON *doc)
{
    _cleanup_free_ char *text = NULL, *plain = NULL;

    if (capture) {
        cJSON_Delete(*capture);
        *capture = cJSON_Duplicate(doc, true);
        return *capture ? CLI_OK : tbpkg_fail_errno("JSON output", -ENOMEM);
    }
    text = cJSON_Print(doc);
    plain = text ? tb_text_plain_json(text) : NULL;
    if (!plain)
        return tbpkg_fail_errno("JSON output", -ENOMEM);
    puts(plain);
    return cli_flush_stdout();
}
