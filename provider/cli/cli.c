/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hex.h"
#include "common/text.h"
#include "common/units.h"

#define LINE_MAX_BYTES 2048 /* longest message, names included */
#define PROGRESS_AFTER_US (2 * TB_USEC_PER_SEC)

/* -- messages ------------------------------------------------------------------------------------------------------ */

/* A progress bar stands on the current line of the terminal. */
static bool bar_drawn;

/* A file name may hold a newline or a terminal escape; a message stays one plain line. */
static void print_line(const char *prefix, char *line)
{
    if (bar_drawn && isatty(STDERR_FILENO))
        fputc('\n', stderr);
    bar_drawn = false;
    fprintf(stderr, "%s%s\n", prefix, tb_text_plain(line));
}

int tbpkg_fail(const char *object, const char *reason, const char *remedy)
{
    char line[LINE_MAX_BYTES];

    snprintf(line, sizeof(line), "%s: %s%s%s", object, reason, remedy ? "; " : "", remedy ? remedy : "");
    print_line("tbpkg: ", line);
    return CLI_FAILED;
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
    return tbpkg_fail(object, strerror(-r), remedy);
}

void tbpkg_warn(const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    print_line("tbpkg: warning: ", line);
}

void tbpkg_note(const struct cli *c, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;

    if (c->quiet)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    print_line("", line);
}

/* -- options ------------------------------------------------------------------------------------------------------- */

int cli_usage(const struct cli *c, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    fprintf(stderr, "tbpkg %s: ", c->command->name);
    print_line("", line);
    fprintf(stderr, "Try 'tbpkg %s --help'.\n", c->command->name);
    return CLI_USAGE;
}

int cli_positional(const struct cli *c, int argc, char **argv, const char **in)
{
    if (argc - optind > 1)
        return cli_usage(c, "one file or directory at a time: '%s' is too much", argv[optind + 1]);
    if (optind < argc && *in)
        return cli_usage(c, "the input is given twice: '%s' and '%s'", *in, argv[optind]);
    if (optind < argc)
        *in = argv[optind];
    return CLI_OK;
}

int cli_parse_size(const char *s, uint64_t *ret)
{
    static const char units[] = "KMGT";
    char number[24];
    size_t n = strspn(s, "0123456789");
    unsigned shift = 0;
    uint64_t v;
    int r;

    if (n == 0 || n >= sizeof(number))
        return -EINVAL;
    memcpy(number, s, n);
    number[n] = '\0';
    r = tb_uint_parse(number, 0, UINT64_MAX, &v);
    if (r < 0)
        return r;
    s += n;
    if (*s) {
        const char *u = strchr(units, toupper((unsigned char)*s));

        if (!u)
            return -EINVAL;
        shift = 10 * (unsigned)(u - units + 1);
        s++;
        if (*s && strcasecmp(s, "iB") != 0)
            return -EINVAL;
    }
    if (v > UINT64_MAX >> shift)
        return -ERANGE;
    *ret = v << shift;
    return 0;
}

/* -- stdout -------------------------------------------------------------------------------------------------------- */

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

static cJSON **capture;

void cli_capture_json(cJSON **to)
{
    capture = to;
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

/* -- keys ---------------------------------------------------------------------------------------------------------- */

int cli_key_arg_hex(struct cli_key_arg *k, char *argv_value)
{
    size_t n = strlen(argv_value);

    cli_key_arg_clear(k);
    k->hex = tb_secret_alloc(n + 1);
    if (k->hex)
        memcpy(k->hex, argv_value, n);
    tb_erase(argv_value, n);
    if (!k->hex)
        return -ENOMEM;
    tbpkg_warn("--key-hex puts the key into the shell history and, for a moment, where every user of this "
               "machine can "
               "read it; use --key-file");
    return 0;
}

static const char *key_path(const struct cli_key_arg *k)
{
    const char *env = getenv("TBPKG_KEY_FILE");

    if (k->file)
        return k->file;
    return env && *env ? env : NULL;
}

bool cli_key_arg_given(const struct cli_key_arg *k)
{
    return k->hex || key_path(k);
}

int cli_key_arg_read(const struct cli *c, const struct cli_key_arg *k, struct tb_key *ret)
{
    const char *path = key_path(k);
    int r;

    if (k->hex && k->file)
        return cli_usage(c, "--key-file and --key-hex exclude each other");
    if (k->hex) {
        if (tb_hex_decode(k->hex, strlen(k->hex), ret->b, TB_KEY_BYTES) < 0)
            return cli_usage(c, "--key-hex: a key is 64 hex digits");
        return CLI_OK;
    }
    if (!path)
        return cli_usage(c, "a key is needed: give --key-file, or name the file in TBPKG_KEY_FILE");
    r = tb_key_read_file(path, ret);
    if (r == -EINVAL)
        return tbpkg_fail(strcmp(path, "-") == 0 ? "key on standard input" : path,
                          "is neither 64 hex digits nor 32 bytes", "give the file that --key-out wrote");
    if (r < 0)
        return tbpkg_fail_errno(path, r);
    return CLI_OK;
}

int cli_check_inputs(const struct cli *c, const char *in, const char *manifest, const struct cli_key_arg *k)
{
    const char *key = k && !k->hex ? key_path(k) : NULL;
    int from_stdin = 0;

    from_stdin += in && strcmp(in, "-") == 0;
    from_stdin += manifest && strcmp(manifest, "-") == 0;
    from_stdin += key && strcmp(key, "-") == 0;
    if (from_stdin > 1)
        return cli_usage(c, "only one of ciphertext, manifest and key can come from standard input");
    if (in && strcmp(in, "-") == 0 && !manifest)
        return cli_usage(c, "ciphertext from standard input needs --manifest");
    if (manifest && strcmp(manifest, "-") == 0 && !in)
        return cli_usage(c, "a manifest from standard input needs --in");
    return CLI_OK;
}

/* -- progress, temporary files, interrupts ------------------------------------------------------------------------- */

struct tb_progress cli_progress_start(const struct cli *c, const char *verb, uint64_t total)
{
    struct tb_progress p = {.verb = verb, .total = total, .quiet = c->quiet};

    bar_drawn = !c->quiet;
    tb_progress_update(&p, 0); /* the rate counts from here */
    return p;
}

/* Short work leaves no lines in a log. */
static bool worth_telling(const struct tb_progress *p)
{
    return isatty(STDERR_FILENO) || tb_now_monotonic_us() - p->start_us >= PROGRESS_AFTER_US;
}

int cli_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct tb_progress *p = ctx;

    if (p->total == 0)
        p->total = total;
    if (worth_telling(p))
        tb_progress_update(p, done);
    return 0;
}

void cli_progress_finish(struct tb_progress *p, uint64_t done)
{
    if (worth_telling(p))
        tb_progress_finish(p, done);
    bar_drawn = false;
}

struct temp {
    struct temp *next;
    char path[];
};
/* Read by the signal handler: a node is complete before it is published. */
static struct temp *volatile temps;
static const char *volatile interrupt_note;
static unsigned block_depth;

static void write_stderr(const char *s)
{
    if (write(STDERR_FILENO, s, strlen(s)) < 0)
        return; /* nowhere to complain */
}

/* Only async-signal-safe calls: the interrupted thread may hold any lock. */
static void on_signal(int sig)
{
    for (const struct temp *t = temps; t; t = t->next)
        if (unlink(t->path) < 0 && errno == EISDIR)
            (void)rmdir(t->path);
    if (isatty(STDERR_FILENO))
        write_stderr("\n");
    write_stderr("tbpkg: interrupted\n");
    if (interrupt_note) {
        write_stderr("tbpkg: ");
        write_stderr(interrupt_note);
        write_stderr("\n");
    }
    _exit(CLI_INTERRUPTED);
}

static void interrupts(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

void cli_signals_init(void)
{
    static const int sigs[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa = {.sa_handler = on_signal}, old;

    interrupts(&sa.sa_mask);
    for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
        /* nohup and background jobs of a plain shell ignore these: leave it so */
        if (sigaction(sigs[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(sigs[i], &sa, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error like a full disk */
}

void cli_signals_block(void)
{
    sigset_t set;

    interrupts(&set);
    if (block_depth++ == 0)
        (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void cli_signals_unblock(void)
{
    sigset_t set;

    interrupts(&set);
    if (--block_depth == 0)
        (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int cli_temp_add(const char *path)
{
    size_t n = strlen(path) + 1;
    struct temp *t = malloc(sizeof(*t) + n);

    if (!t)
        return -ENOMEM;
    memcpy(t->path, path, n);
    t->next = temps;
    temps = t;
    return 0;
}

int cli_newfile_open(struct tb_newfile *f, const char *path, mode_t mode)
{
    mode_t mask = umask(0);
    int r;

    (void)umask(mask);
    cli_signals_block();
    r = tb_newfile_open(f, path, mode & ~mask);
    if (r == 0) {
        r = cli_temp_add(f->tmp_path);
        if (r < 0)
            tb_newfile_abort(f);
    }
    cli_signals_unblock();
    return r;
}

void cli_temp_forget_all(void)
{
    struct temp *t = temps;

    temps = NULL;
    while (t) {
        struct temp *next = t->next;

        free(t);
        t = next;
    }
}

void cli_interrupt_note(const char *line)
{
    interrupt_note = line;
}
