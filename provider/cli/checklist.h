/* SPDX-License-Identifier: Apache-2.0 */
/* A list of things that were looked at before any work, and what came of each. Nothing is printed while they
 * are looked at: all that is wrong is told together. */
#ifndef TBPKG_CLI_CHECKLIST_H
#define TBPKG_CLI_CHECKLIST_H

#include "provider/cli/output.h"

#define CHECKS_MAX 24

enum check_state {
    CHECK_OK,
    CHECK_WARNING,
    CHECK_UNKNOWN, /* could not be looked at */
    CHECK_FAILED,
};

struct finding {
    const char *name; /* static: "container" */
    enum check_state state;
    char *detail; /* what is there, or why it is not known; NULL when it failed */
    struct cli_faults faults;
};

struct checklist {
    struct finding v[CHECKS_MAX];
    size_t n;
};
void checklist_clear(struct checklist *l);
#define _cleanup_checklist_ _cleanup_(checklist_clear)

/* Between the two, errors are kept in the check. checklist_end() returns rc; with an rc other than CLI_OK, or
 * an error that was kept, the check has failed, else it is of that state with that detail. */
struct finding *checklist_begin(struct checklist *l, const char *name);
int checklist_end(struct finding *k, int rc, enum check_state state, const char *fmt, ...) _printf_(4, 5);
/* Of a thing that needed no looking at. */
void checklist_note(struct checklist *l, const char *name, enum check_state state, const char *fmt, ...)
    _printf_(4, 5);

/* The check of that name, or NULL. */
const struct finding *checklist_find(const struct checklist *l, const char *name);
/* CLI_OK, or the exit code that those which failed share, else CLI_FAILED. */
int checklist_rc(const struct checklist *l);
/* Prints what is wrong, each error once, then the warnings. Returns checklist_rc(). */
int checklist_report(const struct checklist *l);
/* A table of all on standard output. CLI_OK or CLI_FAILED. */
int checklist_print(const struct checklist *l);
/* [{"check", "state", "detail", "problems": [{"object", "reason", "remedy"}]}] */
cJSON *checklist_json(const struct checklist *l);

#endif
