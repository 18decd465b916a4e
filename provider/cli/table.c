/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/table.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/buf.h"
#include "common/io.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "provider/cli/output.h"

#define TABLE_GAP 2

/* -- cells ------------------------------------------------------------------------------------- */

static const cJSON *table_member(const cJSON *o, const char *path)
{
    char name[64];

    while (o && *path) {
        size_t n = strcspn(path, ".");

        snprintf(name, sizeof(name), "%.*s", (int)n, path);
        o = tb_json_member(o, name);
        path += n + (path[n] == '.');
    }
    return o;
}

static char *table_number(const cJSON *v)
{
    double d = cJSON_GetNumberValue(v);

    return d >= 0 && d <= (double)TB_JSON_INT_MAX && d == (double)(uint64_t)d
               ? tb_strf("%llu", (unsigned long long)d)
               : tb_strf("%.15g", d);
}

static char *table_words(const cJSON *array)
{
    _cleanup_buf_ struct tb_buf b = {0};
    const cJSON *v;
    char *s;

    cJSON_ArrayForEach (v, array) {
        const char *word = cJSON_GetStringValue(v);

        if (word) {
            tb_buf_puts(&b, b.len > 0 ? " " : "");
            tb_buf_puts(&b, word);
        }
    }
    tb_buf_append(&b, "", 1);
    if (tb_buf_error(&b) < 0)
        return NULL;
    s = b.data;
    b = (struct tb_buf){0};
    return s;
}

/* Heap, "" for nothing; NULL: out of memory. */
static char *table_cell(const cJSON *row, const struct table_column *c)
{
    const cJSON *v = table_member(row, c->member);
    char size[32];

    if (!v || cJSON_IsNull(v))
        return strdup(c->kind == TABLE_COUNT ? "0" : "");
    if (cJSON_IsArray(v))
        return table_words(v);
    if (cJSON_IsBool(v))
        return strdup(cJSON_IsTrue(v) ? "yes" : "no");
    if (cJSON_IsNumber(v) && c->kind == TABLE_BYTES)
        return strdup(tb_bytes_format((uint64_t)cJSON_GetNumberValue(v), size, sizeof(size)));
    if (cJSON_IsNumber(v))
        return table_number(v);
    return strdup(cJSON_IsString(v) ? v->valuestring : "");
}

/* -- layout ------------------------------------------------------------------------------------ */

struct grid {
    const struct table_column *columns;
    size_t n, rows;
    char **cells; /* row by row */
    int *width;   /* of each column */
    bool *used;   /* whether any row has anything in it */
};

static void grid_clear(struct grid *g)
{
    for (size_t i = 0; g->cells && i < g->n * g->rows; i++)
        free(g->cells[i]);
    tb_freep(&g->cells);
    tb_freep(&g->width);
    tb_freep(&g->used);
}

static int table_text_width(const char *s)
{
    int n = 0;

    for (size_t step; *s; s += MAX(step, (size_t)1), n++)
        step = tb_utf8_char(s, NULL);
    return n;
}

static int grid_fill(struct grid *g, const cJSON *rows)
{
    const cJSON *row;
    size_t i = 0;

    g->rows = (size_t)cJSON_GetArraySize(rows);
    g->cells = calloc(MAX(g->n * g->rows, (size_t)1), sizeof(*g->cells));
    g->width = calloc(MAX(g->n, (size_t)1), sizeof(*g->width));
    g->used = calloc(MAX(g->n, (size_t)1), sizeof(*g->used));
    if (!g->cells || !g->width || !g->used)
        return -ENOMEM;
    cJSON_ArrayForEach (row, rows) {
        for (size_t c = 0; c < g->n; c++, i++) {
            g->cells[i] = table_cell(row, &g->columns[c]);
            if (!g->cells[i])
                return -ENOMEM;
            tb_text_plain(g->cells[i]);
            g->used[c] |= *g->cells[i] != '\0' || g->columns[c].none;
            g->width[c] = MAX(g->width[c], table_text_width(g->cells[i]));
        }
    }
    for (size_t c = 0; c < g->n; c++)
        g->width[c] = MAX(g->width[c], table_text_width(g->columns[c].title));
    return 0;
}

static const char *grid_text(const struct grid *g, size_t row, size_t c)
{
    const char *s = g->cells[row * g->n + c];

    return *s ? s : g->columns[c].none ? g->columns[c].none : "-";
}

static bool table_is_right(const struct table_column *c)
{
    return c->kind == TABLE_COUNT || c->kind == TABLE_BYTES;
}

static int grid_total_width(const struct grid *g)
{
    int total = 0;

    for (size_t c = 0; c < g->n; c++)
        if (g->used[c])
            total += (total > 0 ? TABLE_GAP : 0) + g->width[c];
    return total;
}

/* No blanks at the end of a line. */
static void grid_print_line(const struct grid *g, const char *(*text)(const struct grid *, size_t, size_t),
                            size_t row)
{
    int owed = 0;

    for (size_t c = 0; c < g->n; c++) {
        const char *s = g->used[c] ? text(g, row, c) : "";
        int pad = g->width[c] - table_text_width(s);

        if (!g->used[c])
            continue;
        if (table_is_right(&g->columns[c])) {
            printf("%*s%s", owed + pad, "", s);
            owed = TABLE_GAP;
        } else {
            printf("%*s%s", owed, "", s);
            owed = pad + TABLE_GAP;
        }
    }
    putchar('\n');
}

static const char *grid_title(const struct grid *g, size_t row, size_t c)
{
    return g->columns[c].title;
}

/* "Slot until:", of "SLOT UNTIL" */
static void table_print_label(const char *title, int width)
{
    int n = printf("%c", title[0]);

    for (const char *s = title + 1; *s; s++)
        n += printf("%c", tolower((unsigned char)*s));
    printf(":%*s", MAX(width - n, 0) + 1, "");
}

static void grid_print_block(const struct grid *g, size_t row)
{
    int width = 0;

    for (size_t c = 0; c < g->n; c++)
        if (g->used[c])
            width = MAX(width, (int)strlen(g->columns[c].title));
    for (size_t c = 0; c < g->n; c++)
        if (*g->cells[row * g->n + c]) {
            table_print_label(g->columns[c].title, width);
            printf("%s\n", grid_text(g, row, c));
        }
}

int table_terminal_width(void)
{
    const char *columns = getenv("COLUMNS");
    struct winsize w;
    uint64_t n;

    if (!isatty(STDOUT_FILENO))
        return INT_MAX;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0)
        return w.ws_col;
    return columns && tb_uint_parse(columns, 1, INT_MAX, &n) == 0 ? (int)n : 80;
}

int table_print(const cJSON *rows, const struct table_column *columns, size_t n)
{
    _cleanup_(grid_clear) struct grid g = {.columns = columns, .n = n};

    if (grid_fill(&g, rows) < 0)
        return tbpkg_fail_errno("table", -ENOMEM);
    if (g.rows > 0 && grid_total_width(&g) > table_terminal_width()) {
        for (size_t i = 0; i < g.rows; i++) {
            if (i > 0)
                putchar('\n');
            grid_print_block(&g, i);
        }
        return cli_flush_stdout();
    }
    for (size_t c = 0; c < n; c++)
        g.used[c] |= g.rows == 0;
    grid_print_line(&g, grid_title, 0);
    for (size_t i = 0; i < g.rows; i++)
        grid_print_line(&g, grid_text, i);
    return cli_flush_stdout();
}

int table_print_object(const cJSON *object, const struct table_column *columns, size_t n)
{
    _cleanup_(grid_clear) struct grid g = {.columns = columns, .n = n};
    _cleanup_json_ cJSON *rows = cJSON_CreateArray();

    if (!rows || !cJSON_AddItemReferenceToArray(rows, (cJSON *)object) || grid_fill(&g, rows) < 0)
        return tbpkg_fail_errno("table", -ENOMEM);
    grid_print_block(&g, 0);
    return cli_flush_stdout();
}

/* -- CSV --------------------------------------------------------------------------------------- */

static void table_print_csv_cell(const char *s)
{
    if (!strpbrk(s, ",\"\r\n")) {
        fputs(s, stdout);
        return;
    }
    putchar('"');
    for (; *s; s++) {
        if (*s == '"')
            putchar('"');
        putchar(*s);
    }
    putchar('"');
}

int table_print_csv(const cJSON *rows, const struct table_column *columns, size_t n)
{
    _cleanup_(grid_clear) struct grid g = {.columns = columns, .n = n};

    if (grid_fill(&g, rows) < 0)
        return tbpkg_fail_errno("CSV", -ENOMEM);
    for (size_t c = 0; c < n; c++)
        printf("%s%s", c > 0 ? "," : "", columns[c].member);
    fputs("\n", stdout);
    for (size_t i = 0; i < g.rows; i++) {
        for (size_t c = 0; c < n; c++) {
            if (c > 0)
                putchar(',');
            table_print_csv_cell(g.cells[i * n + c]);
        }
        fputs("\n", stdout);
    }
    return cli_flush_stdout();
}
