/* SPDX-License-Identifier: Apache-2.0 */
/* tb-support: one archive for a ticket. See tb-support(8). */
#include <archive.h>
#include <archive_entry.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/exit.h"
#include "common/io.h"
#include "common/log.h"
#include "common/option.h"
#include "common/units.h"
#include "common/version.h"
#include "support/support.h"

static const char help_before[] = "Usage: tb-support [OPTION...] [FILE]\n"
                                  "Writes one archive (tar.gz) for a ticket: status, units, journals without "
                                  "audit records, settings, versions,\n"
                                  "disks, memory, clock, last errors. It has no secret and, unless asked, no "
                                  "id and no address. What cannot be\n"
                                  "collected is said in its README.txt. - is standard output.\n\n";
static const char help_after[] = "\nRead it before you send it. Exit status: 0 written; 64 usage; 74 it "
                                 "cannot be written; 77 not root. See "
                                 "tb-support(8).\n";

#define UNITS "tb-*", "trustbridge.target", "systemd-journald@trustbridge.service"
const struct support_part support_parts[] = {
    {"status.txt", NULL, {"tb-status", NULL}},
    {"status.json", NULL, {"tb-status", "--json", NULL}},
    {"units.txt", NULL, {"systemctl", "--no-pager", "--full", "--all", "list-units", UNITS, NULL}},
    {"units-properties.txt",
     NULL,
     {"systemctl", "--no-pager", "show", "--all", "-p",
      "Id,LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus,NRestarts,StatusText,"
      "MemoryCurrent,"
      "MemoryPeak,StateChangeTimestamp,ConditionResult,DropInPaths,UnitFileState,FragmentPath",
      UNITS, NULL}},
    {"journal.txt", support_write_journal, {NULL}},
    {"journal-system.txt", support_write_system_journal, {NULL}},
    {"settings.txt", support_write_settings, {NULL}},
    {"machine.txt", support_write_machine, {NULL}},
    {"disks.txt", support_write_disks, {NULL}},
    {"files.txt", support_write_files, {NULL}},
    {"metrics.txt", support_write_metrics, {NULL}},
    {"usage.txt", NULL, {"tb-billing", "unreported", NULL}},
    {"packages.txt",
     NULL,
     {"dpkg-query", "-W", "-f=${Package} ${Version} ${db:Status-Status}\\n", "trustbridge*", "libtbenc*",
      "tbpkg", "systemd", "libc6", "libcurl*4*", "libsqlite3-0", "libssl3*", NULL}},
    {"listeners.txt", NULL, {"ss", "-Hltn", NULL}},
    {"gpu.txt",
     NULL,
     {"nvidia-smi", "--query-gpu=index,name,driver_version,memory.total,memory.used,temperature.gpu",
      "--format=csv", NULL}},
    {0},
};

#define TB_OPTION_TARGET struct support_options
static const struct tb_option options[] = {
    TB_OPTION(0, "with-ids", NULL, TB_OPTION_FLAG, with_ids,
              "keep ids: contract, asset, names of API keys, UUIDs"),
    TB_OPTION(0, "with-addresses", NULL, TB_OPTION_FLAG, with_addresses, "keep addresses and names of hosts"),
    TB_OPTION(0, "with-runtime-output", NULL, TB_OPTION_FLAG, with_runtime_output,
              "also what the inference server printed; it may hold the text of requests"),
    TB_OPTION(0, "directory", "DIR", TB_OPTION_STRING, directory, "read the journal files in DIR"),
    TB_OPTION(0, "root", "DIR", TB_OPTION_DIR_NAME, root,
              "settings and state of the machine whose files are below DIR"),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "show this help"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, version, "show the version"),
    TB_OPTION_END,
};

struct bundle {
    struct archive *a;
    struct tb_buf out, readme;
    char name[64]; /* of the directory in it */
};

static la_ssize_t bundle_append(struct archive *a, void *b, const void *p, size_t n)
{
    return tb_buf_append(&((struct bundle *)b)->out, p, n) < 0 ? -1 : (la_ssize_t)n;
}

static int bundle_begin(struct bundle *b)
{
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(b->name, sizeof(b->name), "tb-support-%Y%m%dT%H%M%SZ", &tm);
    b->a = archive_write_new();
    if (!b->a || archive_write_set_format_ustar(b->a) != ARCHIVE_OK ||
        archive_write_add_filter_gzip(b->a) != ARCHIVE_OK ||
        archive_write_open(b->a, b, NULL, bundle_append, NULL) != ARCHIVE_OK)
        return -ENOMEM;
    return 0;
}

static int bundle_add(struct bundle *b, const char *name, const struct tb_buf *text)
{
    struct archive_entry *e = archive_entry_new();
    char path[128];
    bool good;

    if (!e)
        return -ENOMEM;
    snprintf(path, sizeof(path), "%s/%s", b->name, name);
    archive_entry_set_pathname(e, path);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0600);
    archive_entry_set_size(e, (la_int64_t)text->len);
    archive_entry_set_mtime(e, time(NULL), 0);
    good = archive_write_header(b->a, e) == ARCHIVE_OK &&
           (text->len == 0 || archive_write_data(b->a, text->data, text->len) == (la_ssize_t)text->len);
    archive_entry_free(e);
    return good ? 0 : -ENOMEM;
}

static void bundle_clear(struct bundle *b)
{
    archive_write_free(b->a);
    tb_buf_free(&b->out);
    tb_buf_free(&b->readme);
}

static void bundle_head(struct bundle *b, const struct support_options *o)
{
    char now[TB_RFC3339_MAX];

    tb_buf_printf(&b->readme, "tb-support of TrustBridge %s, %s\n\n", TB_VERSION,
                  tb_rfc3339_format(tb_now_realtime_us(), 0, now));
    tb_buf_puts(&b->readme, "Taken out: <secret> always");
    tb_buf_printf(&b->readme, "%s%s. The same value has the same number.\n", o->with_ids ? "" : ", <id-N>",
                  o->with_addresses ? "" : ", <address-N>");
    tb_buf_puts(&b->readme, "Not in it: audit records, the usage ledger, keys, certificates, requests.\n\n");
}

/* A part that is not there is told, and is no error: half of the machine may be broken. */
static int support_add_part(struct bundle *b, const struct support_part *part, const struct support_places *p,
                            struct redactor *r, uint64_t until_us)
{
    _cleanup_buf_ struct tb_buf raw = {.secret = true}, text = {0};
    _cleanup_free_ char *note = NULL;
    uint64_t now = tb_now_boottime_us();
    int e;

    if (now >= until_us) {
        tb_buf_printf(&b->readme, "%-22s not collected: the others took too long\n", part->name);
        return 0;
    }
    e = support_part_run(part, p, (unsigned)MIN(SUPPORT_PART_MS, (until_us - now) / 1000 + 1), &raw, &note);
    if (e == 0 && raw.len > 0)
        e = redact_text(r, raw.data, raw.len, &text);
    if (e == -ENOMEM)
        return e;
    if (e < 0)
        tb_buf_printf(&b->readme, "%-22s not collected: %s\n", part->name, strerror(-e));
    else
        tb_buf_printf(&b->readme, "%-22s %zu bytes%s%s\n", part->name, text.len, note ? "; " : "",
                      note ? note : "");
    return e < 0 ? 0 : bundle_add(b, part->name, &text);
}

static int support_fill(struct bundle *b, const struct support_options *o, const struct support_places *p)
{
    _cleanup_redactor_ struct redactor r = {.keep_ids = o->with_ids, .keep_addresses = o->with_addresses};
    uint64_t until = tb_now_boottime_us() + SUPPORT_ALL_MS * 1000ULL;
    int e = support_know(p, &r);

    if (e == 0)
        e = bundle_begin(b);
    bundle_head(b, o);
    for (const struct support_part *part = support_parts; e == 0 && part->name; part++)
        e = support_add_part(b, part, p, &r, until);
    if (e == 0)
        e = bundle_add(b, "README.txt", &b->readme);
    if (b->a && archive_write_close(b->a) != ARCHIVE_OK && e == 0)
        e = -ENOMEM;
    return e < 0 ? e : tb_buf_error(&b->readme);
}

/* Without a name: here, or, when this disk is full or read-only, in memory. */
static int support_write(const struct bundle *b, const char *file, char **ret)
{
    static const char *const places[] = {".", "/run", "/dev/shm"};
    int r = -EIO;

    if (file && strcmp(file, "-") == 0)
        return tb_write_full(STDOUT_FILENO, b->out.data, b->out.len);
    if (file) {
        *ret = strdup(file);
        return *ret ? tb_write_file_atomic(file, b->out.data, b->out.len, 0600) : -ENOMEM;
    }
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        free(*ret);
        *ret = tb_strf("%s/%s.tar.gz", places[i], b->name);
        r = *ret ? tb_write_file_atomic(*ret, b->out.data, b->out.len, 0600) : -ENOMEM;
        if (r == 0)
            break;
    }
    return r;
}

static int support_places_init(struct support_places *p, const struct support_options *o)
{
    const char *root = o->root ? o->root : "", *state = getenv("TB_STATE_DIR"), *run = getenv("TB_RUN_DIR");

    *p = (struct support_places){.root = strdup(root),
                                 .env = tb_strf("%s/etc/trustbridge/trustbridge.env", root),
                                 .etc = tb_strf("%s/etc/trustbridge", root),
                                 .state = state && *state ? strdup(state) : tb_strf("%s/var/lib", root),
                                 .run = strdup(run && *run ? run : "/run"),
                                 .journal = o->directory,
                                 .runtime_output = o->with_runtime_output};
    return p->root && p->env && p->etc && p->state && p->run ? 0 : -ENOMEM;
}

static void support_places_clear(struct support_places *p)
{
    free(p->root);
    free(p->env);
    free(p->etc);
    free(p->state);
    free(p->run);
}

static int support_check(const struct support_options *o)
{
    struct stat st;

    if (geteuid() != 0) {
        tb_error(
            "run this as root: nobody else can tell what is a secret here, and so what must not be in it");
        return TB_EXIT_NOPERM;
    }
    if (o->file && strcmp(o->file, "-") == 0 && isatty(STDOUT_FILENO)) {
        tb_error("an archive is not for a terminal; name a file");
        return TB_EXIT_USAGE;
    }
    if (o->file && strcmp(o->file, "-") != 0 && lstat(o->file, &st) == 0 && !S_ISREG(st.st_mode)) {
        tb_error("%s: is there and no plain file; name another", o->file);
        return TB_EXIT_USAGE;
    }
    return 0;
}

static int support_run(const struct support_options *o)
{
    _cleanup_(bundle_clear) struct bundle b = {0};
    _cleanup_(support_places_clear) struct support_places p = {0};
    _cleanup_free_ char *written = NULL;
    int r = support_check(o);

    if (r != 0)
        return r;
    r = support_places_init(&p, o);
    if (r == 0)
        r = support_fill(&b, o, &p);
    if (r == 0)
        r = support_write(&b, o->file, &written);
    if (r < 0) {
        tb_error("%s: cannot be written: %s%s", written ? written : "the archive", strerror(-r),
                 r == -ENOSPC || r == -EROFS
                     ? "; name a place in memory, as /run, or pipe it: tb-support - | ssh ..."
                     : "");
        return TB_EXIT_IOERR;
    }
    fprintf(stderr, "%.*s", (int)b.readme.len, b.readme.data);
    if (written)
        printf("%s\n", written);
    return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
}

int main(int argc, char **argv)
{
    struct tb_options line = {.rows = options};
    struct support_options o = {0};

    umask(0077);
    tb_log_init("tb-support");
    if (tb_options_parse(&line, &o, argc, argv) < 0) {
        tb_error("%s; see tb-support --help", line.error);
        return TB_EXIT_USAGE;
    }
    if (o.help) {
        fputs(help_before, stdout);
        tb_options_help(options, stdout, NULL);
        fputs(help_after, stdout);
    }
    if (o.version)
        puts("tb-support " TB_VERSION);
    if (o.help || o.version)
        return fflush(stdout) == 0 ? TB_EXIT_OK : TB_EXIT_IOERR;
    if (argc - optind > 1) {
        tb_error("give one file; see tb-support --help");
        return TB_EXIT_USAGE;
    }
    o.file = argc > optind ? argv[optind] : NULL;
    return support_run(&o);
}
