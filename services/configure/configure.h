/* SPDX-License-Identifier: Apache-2.0 */
/* tb-configure: what is in trustbridge.env, whether the programs and systemd can use it, and how it comes
 * into force. One copy of the file that was found good is in force until another is: a wrong line that
 * somebody has just written reaches no program.
 *
 *   FILE                   what the operator writes RUN/trustbridge.env    what programs get at their next
 *   start: FILE as it was when it was last good RUN/listeners.env      the same as of the last `systemctl
 *   restart tb-configure.service`; of it are made the
 *                          drop-ins of units, sockets above all, which are restarted then and at no other
 *                          time
 *   RUN/refused.env        FILE as it was when it was last found wrong, so that it is said once RUN/report
 *   what was found, for tb-configure.service RUN/asked              tb-configure.service waits for the
 *   answer, and says it. Not empty: check again though
 *                          FILE has not changed: files that it names may have
 * */
#ifndef TB_CONFIGURE_H
#define TB_CONFIGURE_H

#include <netinet/in.h>

#include "common/config.h"
#include "common/envfile.h"

#define CONFIGURE_RUN_DIR "/run/tb-configure"

struct tb_settings {
    const char *path;
    char *text;
    size_t len;
    struct tb_envfile file;
};
/* Reads and parses. 0; -ENOENT, -EFBIG and others of reading; -ENOMEM. */
int tb_settings_read(const char *path, struct tb_settings *ret);
void tb_settings_clear(struct tb_settings *s);
#define _cleanup_settings_ _cleanup_(tb_settings_clear)
/* The value that counts; NULL: unset or empty. */
const char *tb_settings_get(const struct tb_settings *s, const char *name);

/* check.c */
struct tb_check {
    const char *programs; /* directory of the daemons, which judge what is theirs */
    const char *run_dir;  /* what is in force there is not in the way of itself */
    bool unconfigured;    /* a file without a contract is in order: nothing is started with it */
    bool installed;       /* the units will read it: what they cannot see is an error */
};
/* Everything that a daemon or systemd would refuse, or take for something else than was meant, in the
 * order of the file. */
void tb_settings_check(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f);
/* Runs a program with the settings as its environment, and adds what it says. */
void tb_check_ask_program(const char *path, char *const *env, struct tb_findings *f);

/* listen.c: the two listeners, which systemd opens: numbers, not names, since there is no network yet. */
struct tb_listen {
    const char *setting, *unit, *fallback;
};
extern const struct tb_listen tb_listens[2];
/* What ListenStream= takes for host:port, [v6]:port and :port; and the address, with family AF_UNSPEC for
 * every one. -EINVAL. */
int tb_listen_parse(const char *value, char out[static 64], struct sockaddr_in6 *ret);
/* Addresses that are not this machine's, ports that both want or another program has. in_force: whose
 * ports systemd holds now, or NULL. At boot the network may not be up yet: then these are warnings. */
void tb_listen_check(const struct tb_settings *s, const struct tb_settings *in_force, bool booting,
                     struct tb_findings *f);

/* generate.c: the settings that systemd needs before it starts a unit, as drop-ins. */
struct tb_dropin {
    const char *unit;
    char *text; /* NULL: none */
};
#define TB_DROPINS 8
struct tb_dropins {
    struct tb_dropin v[TB_DROPINS];
};
/* An absolute path of letters, digits and /._@+-, which needs no quoting in a unit. */
bool tb_target_dir_plain(const char *dir);
/* Made of the file s->path, complaints into f: what cannot be used is left out, so that a socket rather
 * listens nowhere than elsewhere. 0 or -ENOMEM. */
int tb_dropins_make(const struct tb_settings *s, struct tb_dropins *ret, struct tb_findings *f);
void tb_dropins_clear(struct tb_dropins *d);
#define _cleanup_dropins_ _cleanup_(tb_dropins_clear)
int tb_dropins_write(const struct tb_dropins *d, const char *dir);
/* Is this what lies in the directory? */
bool tb_dropins_equal(const struct tb_dropins *d, const char *dir);

/* apply.c: exit codes. */
int configure_accept(const char *file, const struct tb_check *how);
int configure_apply(const char *file, const char *kept, const char *run_dir);
int configure_generate(const char *file, const char *run_dir, const char *out);

/* print.c */
/* To standard error, as a line that journald gives its priority, or with the program's name. Not by the
 * journal's own socket: of a process that has ended when journald reads, the unit is not known. */
void configure_say(int priority, const char *fmt, ...) _printf_(2, 3);
/* Lines that have a prefix: tb_findings_print(). Changes the text. */
void configure_say_report(char *text);
/* "FILE:LINE: error: NAME: text", one a line; prefix: with <3> and so on before it, for the journal. */
void tb_findings_print(const struct tb_findings *f, const char *path, bool prefix, FILE *out);
void tb_findings_print_json(const struct tb_findings *f, const struct tb_settings *s, FILE *out);

/* places.c: directories as the units see them, and variables that are systemd's. */
void tb_places_check(const struct tb_settings *s, const struct tb_check *how, struct tb_findings *f);

#endif
