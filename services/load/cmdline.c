/* SPDX-License-Identifier: Apache-2.0 */
#include "load/cmdline.h"

#include <stdbool.h>
#include <string.h>

#include "common/macros.h"

static void cmdline_argv_freep(char ***argv)
{
    *argv = tb_argv_free(*argv);
}

char **tb_argv_free(char **argv)
{
    for (char **a = argv; a && *a; a++)
        free(*a);
    free(argv);
    return NULL;
}

static bool cmdline_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Reads one word from *p (not blank) into out, which has room for all of the line. */
static int cmdline_read_word(const char **p, const char *end, char *out, char err[static TB_CMDLINE_ERR_MAX])
{
    char quote = 0;

    for (; *p < end && (quote || !cmdline_blank(**p)); (*p)++) {
        char c = **p;

        if (c == '\0') {
            snprintf(err, TB_CMDLINE_ERR_MAX, "it contains a NUL byte");
            return -EINVAL;
        }
        if (quote ? c == quote : (c == '"' || c == '\'')) {
            quote = quote ? 0 : c;
            continue;
        }
        if (c == '\\' && quote != '\'') {
            bool last = *p + 1 == end;

            if (last && !quote) {
                snprintf(err, TB_CMDLINE_ERR_MAX, "it ends with a backslash");
                return -EINVAL;
            }
            if (!quote || (!last && ((*p)[1] == '"' || (*p)[1] == '\\')))
                c = *++*p;
            if (c == '\0') {
                snprintf(err, TB_CMDLINE_ERR_MAX, "it contains a NUL byte");
                return -EINVAL;
            }
        }
        *out++ = c;
    }
    *out = '\0';
    if (quote) {
        snprintf(err, TB_CMDLINE_ERR_MAX, "a %c quote is not closed", quote);
        return -EINVAL;
    }
    return 0;
}

int tb_cmdline_split(const char *buf, size_t len, char ***ret, char err[static TB_CMDLINE_ERR_MAX])
{
    _cleanup_(cmdline_argv_freep) char **argv = calloc(TB_CMDLINE_ARGS_MAX + 1, sizeof(*argv));
    _cleanup_free_ char *word = NULL;
    const char *p = buf, *end = buf + len;
    size_t n = 0;

    if (len > TB_CMDLINE_MAX) {
        snprintf(err, TB_CMDLINE_ERR_MAX, "it is longer than %d bytes", TB_CMDLINE_MAX);
        return -EINVAL;
    }
    word = malloc(len + 1);
    if (!argv || !word)
        return -ENOMEM;
    for (;;) {
        int r;

        while (p < end && cmdline_blank(*p))
            p++;
        if (p == end)
            break;
        if (n == TB_CMDLINE_ARGS_MAX) {
            snprintf(err, TB_CMDLINE_ERR_MAX, "it has more than %d words", TB_CMDLINE_ARGS_MAX);
            return -EINVAL;
        }
        r = cmdline_read_word(&p, end, word, err);
        if (r < 0)
            return r;
        argv[n] = strdup(word);
        if (!argv[n++])
            return -ENOMEM;
    }
    if (n == 0 || argv[0][0] == '\0') {
        snprintf(err, TB_CMDLINE_ERR_MAX, "it names no program");
        return -EINVAL;
    }
    *ret = TAKE_PTR(argv);
    return 0;
}

/* The first of either mark, and its length. NULL: there is none. */
static const char *cmdline_mark(const char *word, size_t *ret_len)
{
    const char *model = strstr(word, TB_CMDLINE_MODEL), *s3 = strstr(word, TB_CMDLINE_S3);
    bool is_model = model && (!s3 || model < s3);

    *ret_len = is_model ? strlen(TB_CMDLINE_MODEL) : strlen(TB_CMDLINE_S3);
    return is_model ? model : s3;
}

static char *cmdline_replace(const char *word, const char *model)
{
    size_t mark, model_len = strlen(model), n = 0;
    const char *hit;
    char *out, *o;

    for (hit = word; (hit = cmdline_mark(hit, &mark)); hit += mark)
        n++;
    o = out = malloc(strlen(word) + n * model_len + 1);
    if (!out)
        return NULL;
    for (; (hit = cmdline_mark(word, &mark)); word = hit + mark) {
        o = mempcpy(o, word, (size_t)(hit - word));
        o = mempcpy(o, model, model_len);
    }
    strcpy(o, word);
    return out;
}

bool tb_cmdline_has(char *const *argv, const char *mark)
{
    for (; argv && *argv; argv++)
        if (strstr(*argv, mark))
            return true;
    return false;
}

int tb_cmdline_substitute(char **argv, const char *model)
{
    for (char **a = argv; *a; a++) {
        char *new = cmdline_replace(*a, model);

        if (!new)
            return -ENOMEM;
        free(*a);
        *a = new;
    }
    return 0;
}
