/* SPDX-License-Identifier: Apache-2.0 */
/* tb-support: what a ticket needs of a machine, whatever of it still works. Each part is made by a child
 * process with a time of its own and a size, so that a hung disk, a dead bus or a crash costs one part and
 * is said. */
#ifndef TB_SUPPORT_SUPPORT_H
#define TB_SUPPORT_SUPPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "common/buf.h"
#include "support/redact.h"

#define SUPPORT_PART_MAX (4UL << 20)   /* bytes of a part, before secrets are taken out */
#define SUPPORT_PART_MS 10000U         /* for a part */
#define SUPPORT_ALL_MS 90000U          /* for all of them */
#define SUPPORT_ENTRIES 4000U          /* of a journal */
#define SUPPORT_ENTRIES_LOOKED 400000U /* at most, audit records included */

struct support_options {
    const char *file, *root, *directory;
    bool with_ids, with_addresses, with_runtime_output, help, version;
};

struct support_places {
    char *root; /* "" or DIR */
    char *env, *etc, *state, *run;
    const char *journal; /* directory of journal files, or NULL */
    bool runtime_output;
};

/* A part is a program, or a function that writes to standard output in the child. */
struct support_part {
    const char *name; /* of its file */
    void (*make)(const struct support_places *p);
    const char *argv[24];
};
/* Ends with a row without a name. */
extern const struct support_part support_parts[];

/* Runs the part, for at most ms, and appends what it wrote; *ret_note: what went wrong, heap, or NULL.
 * -ENOMEM or -errno only when nothing can be run at all. */
int support_part_run(const struct support_part *part, const struct support_places *p, unsigned ms,
                     struct tb_buf *out, char **ret_note);

/* sources.c */
void support_write_settings(const struct support_places *p);
void support_write_machine(const struct support_places *p);
void support_write_disks(const struct support_places *p);
void support_write_files(const struct support_places *p);
void support_write_metrics(const struct support_places *p);
/* journal.c */
void support_write_journal(const struct support_places *p);
void support_write_system_journal(const struct support_places *p);

/* known.c: what is secret, an id or an address here. 0 or -ENOMEM. */
int support_know(const struct support_places *p, struct redactor *r);
/* known_settings.c: the values of a file of settings, as they stand on their lines, and as a program gets
 * them. */
void support_know_settings(struct redactor *r, const char *text);
/* Values of the settings file: calls fn for each NAME=VALUE, unquoted. */
void support_each_setting(const char *text, void (*fn)(void *arg, const char *name, const char *value),
                          void *arg);
/* known_units.c: what drop-ins of our units put into an environment. */
void support_know_units(const struct support_places *p, struct redactor *r);

#endif
