/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/select.h"

#include <errno.h>
#include <fnmatch.h>
#include <string.h>

int select_add(struct select *s, const char *pattern, bool keep)
{
    struct select_rule r = {.keep = keep}, *rules;
    size_t n = strlen(pattern);

    while (n > 0 && pattern[n - 1] == '/') {
        r.dirs_only = true;
        n--;
    }
    r.from_top = memchr(pattern, '/', n);
    while (n > 0 && *pattern == '/')
        pattern++, n--;
    if (n == 0)
        return -EINVAL;
    r.pattern = strndup(pattern, n);
    rules = r.pattern ? reallocarray(s->rules, s->n + 1, sizeof(*rules)) : NULL;
    if (!rules) {
        free(r.pattern);
        return -ENOMEM;
    }
    s->rules = rules;
    s->rules[s->n++] = r;
    return 0;
}

int select_defaults(struct select *s)
{
    static const char *const patterns[] = {
        ".git",
        ".gitattributes",
        ".gitignore",
        ".gitmodules",
        ".hg",
        ".svn",
        ".cache",
        ".huggingface",
        "__pycache__",
        "*.pyc",
        ".ipynb_checkpoints",
        ".pytest_cache",
        ".venv",
        "*.lock",
        "*.incomplete",
        ".env",
        ".env.*",
        ".envrc",
        ".netrc",
        ".ssh",
        ".aws",
        ".azure",
        ".npmrc",
        ".pypirc",
        ".git-credentials",
        ".*_history",
        ".gnupg",
        ".docker",
        ".kube",
        "id_rsa",
        "id_dsa",
        "id_ecdsa*",
        "id_ed25519*",
        "*.key",
        "*.key.age",
        "*.key.gpg",
        "*.pem",
        "*.p12",
        "*.pfx",
        "*~",
        "*.swp",
        "*.swo",
        "*.tmp",
        "*.bak",
        ".idea",
        ".vscode",
        ".DS_Store",
        "._*",
        "Thumbs.db",
        "desktop.ini",
    };
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(patterns); i++)
        r = select_add(s, patterns[i], false);
    return r;
}

int select_add_lines(struct select *s, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\r\n"), len = n;
        const char *p = text;
        bool keep = *p == '!';
        _cleanup_free_ char *pattern = NULL;
        int r;

        text += n + (text[n] != '\0');
        while (len > 0 && (p[len - 1] == ' ' || p[len - 1] == '\t'))
            len--;
        if (keep)
            p++, len--;
        if (len == 0 || *p == '#')
            continue;
        pattern = strndup(p, len);
        r = pattern ? select_add(s, pattern, keep) : -ENOMEM;
        if (r == -ENOMEM)
            return r;
    }
    return 0;
}

bool select_leaves_out(const struct select *s, const char *path, bool is_dir)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;

    for (size_t i = s->n; i > 0; i--) {
        const struct select_rule *r = &s->rules[i - 1];

        if ((is_dir || !r->dirs_only) && fnmatch(r->pattern, r->from_top ? path : name, FNM_PATHNAME) == 0)
            return !r->keep;
    }
    return false;
}

void select_clear(struct select *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->rules[i].pattern);
    tb_freep(&s->rules);
    s->n = 0;
}
