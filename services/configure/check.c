/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#include "common/buf.h"
#include "common/file_check.h"
#include "common/io.h"
#include "configure/configure.h"

#define CHECK_OUTPUT_MAX (256 * 1024)
/* What systemd gives a service that sets none. */
#define CHECK_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define CREDENTIALS "/run/credentials/"

/* Each judges what it alone reads; what they all read is judged once, before. */
static const char *const check_programs[] = {"tb-authorize", "tb-hydrate", "tb-decrypt",
                                             "tb-load",      "tb-proxy",   "tb-billing"};

/* --- the programs --------------------------------------------------------------------------------------- */

static int check_spawn(const char *path, char *const *env, int out, pid_t *ret)
{
    char *argv[] = {(char *)path, (char *)"--check", NULL};
    posix_spawn_file_actions_t actions;
    int r = posix_spawn_file_actions_init(&actions);

    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn(ret, path, &actions, NULL, argv, env);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

static void check_read_output(int fd, struct tb_findings *f)
{
    _cleanup_buf_ struct tb_buf b = {.max = CHECK_OUTPUT_MAX};

    while (tb_buf_reserve(&b, 4096) == 0) {
        ssize_t n = tb_read_full(fd, b.data + b.len, 4096);

        if (n <= 0)
            break;
        b.len += (size_t)n;
    }
    tb_findings_read(f, b.data ? b.data : "", b.len);
}

void tb_check_ask_program(const char *path, char *const *env, struct tb_findings *f)
{
    int fds[2] = {-1, -1}, status = -1;
    unsigned before = f->errors;
    pid_t pid;
    int r = pipe2(fds, O_CLOEXEC) < 0 ? -errno : check_spawn(path, env, fds[1], &pid);

    tb_close(fds[1]);
    if (r == 0) {
        check_read_output(fds[0], f);
        (void)waitpid(pid, &status, 0);
    }
    tb_close(fds[0]);
    if (r < 0)
        tb_findings_add(f, TB_FINDING_ERROR, 0, "", "cannot run %s --check: %s; install the package again",
                        path, strerror(-r));
    else if (status != 0 && f->errors == before && !WIFEXITED(status))
        tb_findings_add(f, TB_FINDING_ERROR, 0, "", "%s --check was killed by signal %d", path,
                        WTERMSIG(status));
}

/* A credential is there only while its unit runs, and then as it was at its start. systemd makes it of a
 * file in the operator's store: LoadCredential=NAME:trustbridge.NAME. Heap, NULL: no credential. */
static char *check_credential_source(const char *value)
{
    const char *name = strncmp(value, CREDENTIALS, strlen(CREDENTIALS)) == 0 ? strrchr(value, '/') : NULL;

    return name ? tb_strf(TB_FILE_CREDSTORE "trustbridge.%s", name + 1) : NULL;
}

static void check_translate_credentials(char **env)
{
    for (; *env; env++) {
        const char *value = strchr(*env, '=') + 1;
        _cleanup_free_ char *source = check_credential_source(value);
        char *entry = source ? tb_strf("%.*s%s", (int)(value - *env), *env, source) : NULL;

        if (entry) {
            free(*env);
            *env = entry;
        }
    }
}

static bool check_has_path(char *const *env)
{
    for (; *env; env++)
        if (strncmp(*env, "PATH=", 5) == 0)
            return true;
    return false;
}

static void check_ask_programs(const struct tb_check *how, char **env, struct tb_findings *f)
{
    _cleanup_free_ char **full = NULL;
    size_t n = 0;

    while (env[n])
        n++;
    full = calloc(n + 2, sizeof(*full));
    if (!full)
        return;
    memcpy(full, env, n * sizeof(*full));
    if (!check_has_path(env))
        full[n++] = (char *)CHECK_PATH;
    for (size_t i = 0; i < ARRAY_SIZE(check_programs); i++) {
        _cleanup_free_ char *path = tb_path_join(how->programs, check_programs[i]);

        if (path)
            tb_check_ask_program(path, full, f);
    }
}

/* --- what only the units know --------------------------------------------------------------------------- */

/* ProtectHome= and PrivateTmp= of every unit. */
static const char *check_hidden(const char *path)
{
    static const char *const hidden[] = {"/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/", "/dev/shm/"};

    for (size_t i = 0; i < ARRAY_SIZE(hidden); i++)
        if (strncmp(path, hidden[i], strlen(hidden[i])) == 0)
            return hidden[i];
    return NULL;
}

static void check_visible(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f)
{
    static const char *const files[] = {"TB_PROVIDER_KEY",    "TB_CA_FILE",    "TB_CLIENT_CERT_PATH",
                                        "TB_CLIENT_KEY_PATH", "TB_TLS_CERT",   "TB_TLS_KEY",
                                        "TB_API_KEYS",        "TB_AUDIT_FILE", "TB_RUNTIME_EXEC"};

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        const char *v = tb_settings_get(s, files[i]), *where = v ? check_hidden(v) : NULL;
        /* A drop-in may open a directory to the inference server. */
        bool must = how->installed && strcmp(files[i], "TB_RUNTIME_EXEC") != 0;

        if (where)
            tb_findings_add(
                f, must ? TB_FINDING_ERROR : TB_FINDING_WARNING, 0, files[i],
                "the units do not see %s of this machine; put the file elsewhere, as in /etc/trustbridge",
                where);
    }
}

/* --- all of it ------------------------------------------------------------------------------------------ */

/* Without a contract nothing starts, so nothing else is required. */
static void check_forgive(struct tb_findings *f)
{
    size_t n = 0;

    for (size_t i = 0; i < f->n; i++) {
        if (strcmp(f->v[i].text, TB_CONFIG_REQUIRED) == 0) {
            f->errors--;
            free(f->v[i].name);
            free(f->v[i].text);
        } else {
            f->v[n++] = f->v[i];
        }
    }
    f->n = n;
}

static void check_number_lines(const struct tb_settings *s, struct tb_findings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct tb_envfile_entry *e = f->v[i].line == 0 ? tb_envfile_find(&s->file, f->v[i].name) : NULL;

        if (e)
            f->v[i].line = e->line;
    }
}

/* In the order of the file, what has no line last; otherwise as found. */
static void check_sort(struct tb_findings *f)
{
    for (size_t i = 1; i < f->n; i++)
        for (size_t j = i; j > 0 && f->v[j - 1].line - 1 > f->v[j].line - 1; j--) {
            struct tb_finding t = f->v[j];

            f->v[j] = f->v[j - 1];
            f->v[j - 1] = t;
        }
}

/* A quote that is not closed was said, and takes in the lines behind: what stands on its own line is
 * judged. */
static void check_cut_unclosed(const struct tb_settings *s, char **env)
{
    for (; *env; env++) {
        _cleanup_free_ char *name = strndup(*env, strcspn(*env, "="));
        const struct tb_envfile_entry *e = name ? tb_envfile_find(&s->file, name) : NULL;

        if (e && e->unclosed)
            (*env)[strcspn(*env, "\n")] = '\0';
    }
}

static void check_values(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f)
{
    char **env = tb_envfile_environ(&s->file);
    _cleanup_config_ struct tb_config c = {0};

    if (!env)
        return;
    check_cut_unclosed(s, env);
    check_translate_credentials(env);
    tb_config_read(env, &c, f);
    check_ask_programs(how, env, f);
    tb_envfile_free_environ(env);
}

void tb_settings_check(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f)
{
    _cleanup_free_ char *path = tb_path_join(how->run_dir, "listeners.env");
    _cleanup_settings_ struct tb_settings in_force = {0};
    bool known = path && tb_settings_read(path, &in_force) == 0;

    tb_envfile_check(&s->file, f);
    for (size_t i = 0; i < s->file.n; i++)
        if (s->file.v[i].value && tb_envfile_name_valid(s->file.v[i].name))
            (void)tb_config_check_name(s->file.v[i].name, s->file.v[i].line, TB_FINDING_ERROR, f);
    check_values(s, how, f);
    check_visible(s, how, f);
    tb_places_check(s, how, f);
    tb_listen_check(s, known ? &in_force : NULL, how->unconfigured && !known, f);
    if (how->unconfigured && !tb_settings_get(s, "TB_CONTRACT_ID"))
        check_forgive(f);
    check_number_lines(s, f);
    check_sort(f);
}
