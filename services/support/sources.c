/* SPDX-License-Identifier: Apache-2.0 */
/* Parts that no program of the system prints. They run in a child, write to standard output, and say what
 * they cannot find out. */
#include <ctype.h>
#include <glob.h>
#include <mntent.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>

#include "common/http.h"
#include "common/io.h"
#include "common/units.h"
#include "common/version.h"
#include "support/support.h"
#include "support/words.h"

#define FILE_MAX (256UL * 1024)

static void source_copy(const char *path)
{
    _cleanup_free_ char *text = NULL;
    size_t n;
    int r = tb_read_file(path, FILE_MAX, &text, &n);

    printf("== %s\n", path);
    if (r < 0)
        printf("(%s)\n", strerror(-r));
    else
        printf("%s%s", text, n > 0 && text[n - 1] == '\n' ? "" : "\n");
}

/* -- settings -------------------------------------------------------------------------------------------- */

/* Of a command line: the program, its options, and values that say nothing about anybody. */
static void source_command(const char *value)
{
    _cleanup_free_ char *copy = strdup(value);
    bool first = true;

    for (char *save, *word = copy ? strtok_r(copy, " \t", &save) : NULL; word;
         word = strtok_r(NULL, " \t", &save)) {
        size_t n = strcspn(word, "=");
        const char *v = word[0] == '-' ? (word[n] ? word + n + 1 : "") : word;
        bool plain = first || *v == '\0' || *v == '/' || strcmp(v, "{model}") == 0 ||
                     v[strspn(v, "0123456789.")] == '\0' || word_is_local(v, strlen(v));

        if (word[0] == '-')
            printf(" %.*s%s%s", (int)n, word, word[n] ? "=" : "", *v ? (plain ? v : "<removed>") : "");
        else
            printf("%s%s", first ? "" : " ", plain ? v : "<removed>");
        first = false;
    }
    putchar('\n');
}

static void source_setting(void *arg, const char *name, const char *value)
{
    /* Paths of secrets are shown, never their contents; what is not ours may be anything. */
    bool ours = strncmp(name, "TB_", 3) == 0;

    printf("%s=", name);
    if (strcmp(name, "TB_RUNTIME_EXEC") == 0)
        source_command(value);
    else if (!ours || (word_names_secret(name, strlen(name)) && *value != '/'))
        printf("%s\n", *value ? "<removed>" : "");
    else
        printf("%s\n", value);
}

/* A drop-in: what it sets is of interest, but not what it puts into an environment, on however many lines. */
static void source_drop_in(const char *path)
{
    _cleanup_free_ char *text = NULL;
    bool goes_on = false;
    size_t n;

    printf("== %s\n", path);
    if (tb_read_file(path, FILE_MAX, &text, &n) < 0)
        return;
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        bool remark, behind = goes_on, hidden;
        size_t name, len;

        line += strspn(line, " \t\r");
        name = strcspn(line, "=");
        len = strcspn(line, "\r");
        remark = *line == '#' || *line == ';';
        if (!remark) /* in the middle of a value it is skipped */
            goes_on = len > 0 && line[len - 1] == '\\';
        if (remark || behind || (!line[name] && line[0] != '['))
            continue;
        hidden = strncmp(line, "Environment", 11) == 0 || strncmp(line, "Exec", 4) == 0 ||
                 strncmp(line, "SetCredential", 13) == 0;
        printf("%.*s%s\n", (int)(hidden ? name : strcspn(line, "\r")), line, hidden ? "=<removed>" : "");
    }
}

void support_write_settings(const struct support_places *p)
{
    _cleanup_free_ char *text = NULL, *pattern = NULL;
    glob_t g;
    size_t n;
    int r = tb_read_file(p->env, FILE_MAX, &text, &n);

    printf("== %s\n", p->env);
    if (r < 0)
        printf("(%s)\n", strerror(-r));
    else
        support_each_setting(text, source_setting, NULL);
    pattern = tb_strf("%s/etc/systemd/system/{tb-,trustbridge}*.d/*.conf", p->root);
    if (!pattern || glob(pattern, GLOB_BRACE, NULL, &g) != 0)
        return;
    for (size_t i = 0; i < g.gl_pathc; i++)
        source_drop_in(g.gl_pathv[i]);
    globfree(&g);
}

/* -- the machine ----------------------------------------------------------------------------------------- */

static void source_clock(void)
{
    struct timex t = {0};
    int state = adjtimex(&t);
    uint64_t up = tb_now_boottime_us();
    char now[TB_RFC3339_MAX], span[TB_SPAN_MAX];

    printf("== clock\nnow %s, up %s\n", tb_rfc3339_format(tb_now_realtime_us(), 1, now),
           tb_span_format(up, span));
    printf("synchronised: %s (maximal error %ld us, estimated %ld us)\n",
           state == TIME_ERROR || t.status & STA_UNSYNC ? "no" : "yes", t.maxerror, t.esterror);
}

void support_write_machine(const struct support_places *p)
{
    _cleanup_free_ char *os = tb_strf("%s/etc/os-release", p->root);
    struct utsname u;

    printf("== versions\ntrustbridge %s\n", TB_VERSION);
    if (uname(&u) == 0)
        printf("%s %s %s %s\n", u.sysname, u.release, u.version, u.machine);
    printf("%s\nSQLite %s\n%s\n", OpenSSL_version(OPENSSL_VERSION), sqlite3_libversion(), curl_version());
    source_clock();
    if (os)
        source_copy(os);
    source_copy("/proc/meminfo");
    source_copy("/proc/swaps");
    source_copy("/proc/loadavg");
    source_copy("/proc/pressure/cpu");
    source_copy("/proc/pressure/memory");
    source_copy("/proc/pressure/io");
}

static void source_disk(const char *place, const char *type)
{
    struct statvfs v;
    char size[32], left[32];

    if (statvfs(place, &v) < 0) {
        printf("%-40s %-8s (%s)\n", place, type, strerror(errno));
        return;
    }
    printf("%-40s %-8s %10s %10s free, inodes %llu of %llu free%s\n", place, type,
           tb_bytes_format((uint64_t)v.f_blocks * v.f_frsize, size, sizeof(size)),
           tb_bytes_format((uint64_t)v.f_bavail * v.f_frsize, left, sizeof(left)),
           (unsigned long long)v.f_favail, (unsigned long long)v.f_files,
           v.f_flag & ST_RDONLY ? ", read-only" : "");
    fflush(stdout); /* the next one may hang */
}

void support_write_disks(const struct support_places *p)
{
    static const char *const places[] = {
        "/",    "/etc",     "/var/lib", "/var/log",      "/var/log/journal",
        "/run", "/dev/shm", "/tmp",     "/mnt/resource", "/mnt/resource/trustbridge"};
    FILE *f;

    for (size_t i = 0; i < ARRAY_SIZE(places); i++)
        if (access(places[i], F_OK) == 0)
            source_disk(places[i], "");
    printf("== mounts\n");
    f = setmntent("/proc/self/mounts", "re");
    for (struct mntent *m; f && (m = getmntent(f));)
        if (m->mnt_fsname[0] == '/' || strcmp(m->mnt_type, "tmpfs") == 0 ||
            strncmp(m->mnt_type, "nfs", 3) == 0)
            source_disk(m->mnt_dir, m->mnt_type);
    if (f)
        endmntent(f);
}

/* -- what the programs left ------------------------------------------------------------------------------ */

void support_write_files(const struct support_places *p)
{
    _cleanup_free_ char *domain = tb_strf("%s/tb-*/*", p->run), *state = tb_strf("%s/tb-*/*", p->state);
    const char *patterns[] = {domain, state};

    for (size_t k = 0; k < ARRAY_SIZE(patterns); k++) {
        glob_t g;

        if (!patterns[k] || glob(patterns[k], 0, NULL, &g) != 0)
            continue;
        for (size_t i = 0; i < g.gl_pathc; i++) {
            const char *path = g.gl_pathv[i], *dot = strrchr(path, '.');
            bool text = (dot && strcmp(dot, ".json") == 0) || strstr(path, "/suspended") ||
                        strstr(path, "/allowed") || strstr(path, "/ended");

            if (text)
                source_copy(path);
            else
                printf("== %s\n(not shown)\n", path);
        }
        globfree(&g);
    }
}

void support_write_metrics(const struct support_places *p)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    const char *addr = getenv("TB_HEALTH_ADDR");
    const char *port = addr ? strrchr(addr, ':') : NULL;
    struct tb_http_tls tls = {.allow_http = true};
    char url[128], err[TB_HTTP_ERR_MAX];
    struct tb_http_request rq = {
        .url = url, .direct = true, .tls = &tls, .timeout_ms = 5000, .max_response = 4UL << 20};

    snprintf(url, sizeof(url), "http://127.0.0.1%s/metrics", port ? port : ":8001");
    if (tb_http_do(&rq, &rs, err) < 0)
        printf("(tb-proxy does not answer: %s)\n", err);
    else
        printf("%s", rs.body);
}
