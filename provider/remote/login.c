/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/remote/login.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/io.h"
#include "common/percent.h"
#include "common/secret.h"
#include "provider/cli/output.h"

#define LOGIN_LINE_MAX 4096 /* of a terminal */

/* -- where ------------------------------------------------------------------------------------- */

char *login_endpoint(const char *endpoint)
{
    char *s = strdup(endpoint);
    size_t n, authority;

    if (!s)
        return NULL;
    n = strlen(s);
    while (n > 0 && s[n - 1] == '/')
        s[--n] = '\0';
    authority = strstr(s, "://") ? (size_t)(strstr(s, "://") + 3 - s) : 0;
    authority += strcspn(s + authority, "/");
    for (size_t i = 0; i < authority; i++)
        s[i] = (char)tolower((unsigned char)s[i]);
    if (strncmp(s, "https://", 8) == 0 && authority > 12 && strncmp(s + authority - 4, ":443", 4) == 0)
        memmove(s + authority - 4, s + authority, strlen(s + authority) + 1);
    return s;
}

static char *login_dir(void)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

    if (xdg && *xdg == '/')
        return tb_strf("%s/trustbridge/tokens", xdg);
    return home && *home ? tb_strf("%s/.config/trustbridge/tokens", home) : NULL;
}

int login_path(const char *endpoint, char **ret)
{
    _cleanup_free_ char *url = login_endpoint(endpoint), *dir = login_dir();
    _cleanup_buf_ struct tb_buf b = {0};
    const char *s;

    if (!dir)
        return tbpkg_fail("token", "there is no directory for it: neither XDG_CONFIG_HOME nor HOME is set",
                          "set HOME, or give --token-file");
    if (!url)
        return tbpkg_fail_errno("token", -ENOMEM);
    tb_buf_puts(&b, dir);
    tb_buf_puts(&b, "/");
    for (s = strncmp(url, "https://", 8) == 0 ? url + 8 : url; *s; s++) {
        char out[TB_PERCENT_CHAR_MAX];

        tb_buf_append(&b, out, tb_percent_encode_char(*s, "", out));
    }
    tb_buf_append(&b, ".token", sizeof(".token"));
    if (tb_buf_error(&b) < 0)
        return tbpkg_fail_errno("token", tb_buf_error(&b));
    *ret = b.data;
    b = (struct tb_buf){0};
    return CLI_OK;
}

/* -- reading ----------------------------------------------------------------------------------- */

static int login_check_owner(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode))
        return CLI_OK; /* reading it tells */
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return tbpkg_fail(path, "is another user's file", "run tbpkg login anew");
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return tbpkg_fail(path, "can be read by others", "run chmod 600, and tbpkg login with a new token");
    return CLI_OK;
}

/* What is typed is not shown. Ctrl-C ends the line, too, so that the terminal gets its echo back before we
 * end. */
static int login_read_terminal(char **ret)
{
    struct termios old, quiet;
    ssize_t n;

    *ret = calloc(1, LOGIN_LINE_MAX + 1);
    if (!*ret)
        return -ENOMEM;
    if (tcgetattr(STDIN_FILENO, &old) < 0)
        return -errno;
    quiet = old;
    quiet.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    quiet.c_cc[VEOL] = old.c_cc[VINTR];
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    fputs("Token: ", stderr);
    n = read(STDIN_FILENO, *ret, LOGIN_LINE_MAX);
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
    fputc('\n', stderr);
    if (n < 0)
        return -errno;
    return n > 0 && (unsigned char)(*ret)[n - 1] == old.c_cc[VINTR] ? -EINTR : 0;
}

int login_read(const char *path, bool private, char **ret)
{
    _cleanup_erase_string_ char *text = NULL;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    size_t len;
    int r;

    if (private && login_check_owner(path) != CLI_OK)
        return CLI_FAILED;
    r = name != path && isatty(STDIN_FILENO) ? login_read_terminal(&text)
                                             : tb_read_file(path, REMOTE_TOKEN_MAX, &text, &len);
    if (r == -ENOENT)
        return r;
    if (r == -EINTR)
        return tbpkg_fail("interrupted", name, NULL), CLI_INTERRUPTED;
    if (r < 0)
        return tbpkg_fail_errno(name, r);
    for (len = strlen(text); len > 0 && strchr(" \t\r\n", text[len - 1]); len--)
        text[len - 1] = '\0';
    if (len == 0)
        return tbpkg_fail(name, "holds no bearer token", NULL);
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] >= 0x7f)
            return tbpkg_fail(name, "holds more than one bearer token",
                              "it must be one line without white space");
    *ret = tb_secret_alloc(len + 1);
    if (!*ret)
        return tbpkg_fail_errno(name, -ENOMEM);
    memcpy(*ret, text, len);
    return CLI_OK;
}

/* -- writing ----------------------------------------------------------------------------------- */

int login_write(const char *path, const char *token)
{
    _cleanup_free_ char *dir = tb_strf("%.*s", (int)(strrchr(path, '/') - path), path);
    _cleanup_secret_ char *line = NULL;
    size_t n = strlen(token);
    int r = dir ? tb_mkdir_p(dir, 0700) : -ENOMEM;

    if (r < 0)
        return tbpkg_fail_errno(dir ? dir : path, r);
    line = tb_secret_alloc(n + 2);
    if (!line)
        return tbpkg_fail_errno(path, -ENOMEM);
    memcpy(line, token, n);
    line[n] = '\n';
    r = tb_write_file_atomic(path, line, n + 1, 0600);
    return r < 0 ? tbpkg_fail_errno(path, r) : CLI_OK;
}
