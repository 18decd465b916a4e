/* SPDX-License-Identifier: Apache-2.0 */
/* A file of NAME=value lines, read exactly as systemd's EnvironmentFile= reads it (parse_env_file_internal()
 * in src/basic/env-file.c; systemd.exec(5)): one setting on a line, blanks around name and value go away,
 * '...' and "..." around a value, a backslash takes the next character and joins lines, # and ; begin a
 * comment line. Variables are not expanded. Nothing is refused here; tb_envfile_check() says what systemd
 * would drop, or take for something else than was meant. No I/O. */
#ifndef TB_ENVFILE_H
#define TB_ENVFILE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/findings.h"

#define TB_ENVFILE_MAX (128 * 1024) /* bytes of a settings file */

struct tb_envfile_entry {
    char *name, *value; /* value NULL: a line without '=' */
    unsigned line;      /* where the name stands, from 1 */
    bool unclosed;      /* a quote is still open at the end of the file */
    bool joined;        /* something stands behind a closing quote and a blank: systemd removes the blank */
    bool several;       /* the value has more than one line */
};
struct tb_envfile {
    struct tb_envfile_entry *v;
    size_t n;
    unsigned comment_line; /* of a comment that ends with a backslash; 0: none */
    bool nul, not_utf8;    /* systemd then refuses the whole file */
    unsigned odd_line;     /* where */
};

/* 0 or -ENOMEM. */
int tb_envfile_parse(const char *text, size_t len, struct tb_envfile *ret);
void tb_envfile_clear(struct tb_envfile *e);
#define _cleanup_envfile_ _cleanup_(tb_envfile_clear)

/* true when systemd makes a variable of it: [A-Za-z_][A-Za-z0-9_]*. */
bool tb_envfile_name_valid(const char *name);
/* The entry that counts for a name, the last one; NULL when there is none. */
const struct tb_envfile_entry *tb_envfile_find(const struct tb_envfile *e, const char *name);
/* What of it reaches a program, as environ: "NAME=value" strings, NULL at the end. To be freed with
 * tb_envfile_free_environ(). NULL on ENOMEM. */
char **tb_envfile_environ(const struct tb_envfile *e);
void tb_envfile_free_environ(char **env);

/* Adds what is wrong with the form of the file. Lines are quoted only as far as the name reaches: what stands
 * behind it may be a secret. */
void tb_envfile_check(const struct tb_envfile *e, struct tb_findings *f);

#endif
