/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <termios.h>

#include "common/io.h"
#include "common/secret.h"
#include "provider/cli/output.h"

/* Ctrl-C ends the line, too, so that the terminal gets its echo back before we end. */
static int passphrase_ask(int tty, const char *prompt, char line[static CLI_PASSPHRASE_MAX + 2])
{
    struct termios old, quiet;
    ssize_t n;

    if (tcgetattr(tty, &old) < 0)
        return -errno;
    quiet = old;
    quiet.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    quiet.c_cc[VEOL] = old.c_cc[VINTR];
    (void)tcsetattr(tty, TCSAFLUSH, &quiet);
    (void)tb_write_full(tty, prompt, strlen(prompt));
    n = read(tty, line, CLI_PASSPHRASE_MAX + 1);
    (void)tcsetattr(tty, TCSAFLUSH, &old);
    (void)tb_write_full(tty, "\n", 1);
    if (n < 0)
        return -errno;
    line[n] = '\0';
    return n > 0 && (unsigned char)line[n - 1] == old.c_cc[VINTR] ? -EINTR : 0;
}

static int passphrase_from_terminal(const char *what, const char *option, const char *prompt, bool twice,
                                    char *line)
{
    _cleanup_close_ int tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    _cleanup_secret_ char *again = tb_secret_alloc(CLI_PASSPHRASE_MAX + 2);
    int r;

    if (!again)
        return tbpkg_fail_errno(what, -ENOMEM);
    if (tty < 0)
        return tbpkg_failf(
            what, "a passphrase is needed and there is no terminal to ask for it; give it with %s", option);
    r = passphrase_ask(tty, prompt, line);
    if (r == 0 && twice)
        r = passphrase_ask(tty, "Once more: ", again);
    if (r == -EINTR)
        return tbpkg_fail("interrupted", what, NULL), CLI_INTERRUPTED;
    if (r < 0)
        return tbpkg_fail_errno("the terminal", r);
    if (twice && strcmp(line, again) != 0)
        return tbpkg_fail(what, "the two passphrases differ", "run the command again");
    return CLI_OK;
}

static int passphrase_from_file(const char *file, char *line)
{
    _cleanup_erase_string_ char *text = NULL;
    size_t len;
    int r = tb_read_file(file, 65536, &text, &len);

    if (r < 0)
        return tbpkg_fail_errno(strcmp(file, "-") == 0 ? "passphrase on standard input" : file, r);
    snprintf(line, CLI_PASSPHRASE_MAX + 2, "%s", text);
    return CLI_OK;
}

int cli_passphrase_read(const char *file, const char *what, const char *option, const char *prompt,
                        bool twice, char **ret)
{
    _cleanup_secret_ char *line = tb_secret_alloc(CLI_PASSPHRASE_MAX + 2);
    size_t n;
    int rc;

    if (!line)
        return tbpkg_fail_errno(what, -ENOMEM);
    rc =
        file ? passphrase_from_file(file, line) : passphrase_from_terminal(what, option, prompt, twice, line);
    if (rc != CLI_OK)
        return rc;
    n = strcspn(line, "\r\n");
    line[n] = '\0';
    if (n == 0)
        return tbpkg_fail(what, "the passphrase is empty", NULL);
    if (n > CLI_PASSPHRASE_MAX)
        return tbpkg_failf(what, "the passphrase has more than %d bytes", CLI_PASSPHRASE_MAX);
    *ret = TAKE_PTR(line);
    return CLI_OK;
}
