/* SPDX-License-Identifier: Apache-2.0 */
/* JSON documents as people read them: a list as a table, or, where that is wider than the terminal, as a
 * block of lines for each row, so that a name is always whole and can be copied; one object as such a block.
 * Elsewhere than on a terminal it is a table whatever its width, for awk(1) and diff(1). */
#ifndef TBPKG_CLI_TABLE_H
#define TBPKG_CLI_TABLE_H

#include <cjson/cJSON.h>
#include <stdio.h>

enum table_kind {
    TABLE_TEXT,  /* a string, a number, true or false */
    TABLE_COUNT, /* a number, right-aligned; absent: 0 */
    TABLE_BYTES, /* "1.5 GiB" */
    TABLE_WORDS, /* an array of strings: "owner support" */
};

struct table_column {
    const char *title;  /* "CONTRACT" */
    const char *member; /* "contract_id"; "report.events" looks into an object */
    enum table_kind kind;
    const char *none; /* when the member is absent, null or empty; NULL: "-" */
};

/* Of standard output; INT_MAX where that is no terminal. */
int table_terminal_width(void);
/* Columns in which no row has anything are left out of a table. CLI_OK or CLI_FAILED. */
int table_print(const cJSON *rows, const struct table_column *columns, size_t n);
/* "Contract: acme-1" and so on; what is absent is left out. */
int table_print_object(const cJSON *object, const struct table_column *columns, size_t n);
/* The same rows as comma-separated values (RFC 4180) with a line of member names before them. */
int table_print_csv(const cJSON *rows, const struct table_column *columns, size_t n);

#endif
