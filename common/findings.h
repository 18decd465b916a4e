/* SPDX-License-Identifier: Apache-2.0 */
/* What a check found: each finding names a setting, says what is wrong with it and what to do. No secret
 * goes into its text. Lists grow without limit and never fail: what does not fit into memory is left out,
 * but counted. */
#ifndef TB_FINDINGS_H
#define TB_FINDINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/macros.h"

enum tb_finding_level {
    TB_FINDING_ERROR,   /* a program would refuse it, or do something else than was meant */
    TB_FINDING_WARNING, /* it works now, or here, and may not for long or for somebody else */
    TB_FINDING_NOTE,    /* nothing is wrong, and it is good to know */
};

struct tb_finding {
    enum tb_finding_level level;
    unsigned line; /* of the settings file; 0: unknown */
    char *name;    /* of the setting; "" when it is about the file as a whole */
    char *text;    /* one line: what is wrong; what to do */
};

struct tb_findings {
    struct tb_finding *v;
    size_t n;
    unsigned errors, warnings;
};

void tb_findings_add(struct tb_findings *f, enum tb_finding_level level, unsigned line, const char *name,
                     const char *fmt, ...) _printf_(5, 6);
void tb_findings_clear(struct tb_findings *f);
#define _cleanup_findings_ _cleanup_(tb_findings_clear)

/* "error", "warning", "note". */
const char *tb_finding_level_name(enum tb_finding_level level);

/* One line each, "error: TB_NAME: text"; what tb_findings_read() takes. */
void tb_findings_write(const struct tb_findings *f, FILE *out);
/* Adds the lines of a text of this form to f, but for what is in it already; other lines are skipped. */
void tb_findings_read(struct tb_findings *f, const char *text, size_t len);

#endif
