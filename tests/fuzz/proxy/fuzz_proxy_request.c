/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets, header fields and the keys file. What passes as a target must not hold a dot segment once decoded. */
#include <stdlib.h>
#include <string.h>

#include "proxy/http/headers.h"
#include "proxy/gate/keys.h"
#include "proxy/gate/routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void one_target(const char *s)
{
    size_t n;

    if (tb_target_check(s, &n))
        return;
    if (s[0] != '/' || n > strlen(s) || strstr(s, "/../") == s)
        abort();
    if (tb_route_match_encoded("/v1/*,/a*b*c", s, n) != TB_ROUTE_NONE && memcmp(s, "/", 1) != 0)
        abort();
    for (const char *p = s; p < s + n; p++)
        if (strncmp(p, "/../", 4) == 0 && p + 3 < s + n)
            abort();
}

/* Lines of "name:value"; whatever is copied must be whole lines without stray line ends. */
static void fields(char *text)
{
    struct tb_request_head h = {0};
    char *save = NULL;

    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *colon = strchr(line, ':');

        if (!colon)
            continue;
        *colon = '\0';
        if (strcmp(line, "Connection") == 0)
            tb_request_connection(&h, colon + 1);
        if (tb_request_field(&h, line, (size_t)(colon - line), colon + 1, strlen(colon + 1)) < 0)
            abort();
    }
    (void)tb_request_check(&h);
    for (size_t i = 0; i < h.lines.len; i++) {
        if (h.lines.data[i] == '\r' && (i + 1 == h.lines.len || h.lines.data[i + 1] != '\n'))
            abort();
        if (h.lines.data[i] == '\n' && (i == 0 || h.lines.data[i - 1] != '\r'))
            abort();
    }
    tb_request_head_clear(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *s = malloc(size + 1), err[TB_API_KEYS_ERR_MAX];
    struct tb_api_keys keys = {0};

    memcpy(s, data, size);
    s[size] = '\0';
    one_target(s);
    if (tb_api_keys_parse(s, size, &keys, err) >= 0) {
        (void)tb_api_keys_find(&keys, s, size);
        tb_api_keys_clear(&keys);
    }
    fields(s);
    free(s);
    return 0;
}
