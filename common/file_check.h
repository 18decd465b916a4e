/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a file that a setting names is one that a program can use: there, a file, readable for the user
 * that the program runs as. */
#ifndef TB_FILE_CHECK_H
#define TB_FILE_CHECK_H

#include <stdbool.h>

#include "common/findings.h"

/* The operator's secrets: root's, and passed on by systemd (LoadCredential=). */
#define TB_FILE_CREDSTORE "/etc/credstore/"

/* user: whom the program runs as; one that this machine does not have, or NULL, may read everything. true
 * when the file can be read here; else a finding says why not. */
bool tb_file_check(const char *setting, const char *path, const char *user, struct tb_findings *f);
/* The same of what is no secret, a certificate. */
bool tb_file_check_open(const char *setting, const char *path, const char *user, struct tb_findings *f);
/* A private key: the same, and a warning when everybody may read it. */
bool tb_file_check_key(const char *setting, const char *path, const char *user, struct tb_findings *f);
/* A program that user will execute. */
void tb_file_check_program(const char *setting, const char *path, const char *user, struct tb_findings *f);
/* A file that user will write, and make when it is not there. */
void tb_file_check_writable(const char *setting, const char *path, const char *user, struct tb_findings *f);

#endif
