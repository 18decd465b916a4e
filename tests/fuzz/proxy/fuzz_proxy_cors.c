/* SPDX-License-Identifier: Apache-2.0 */
/* TB_CORS_ORIGINS and the fields of a browser's request: lines, the first one the setting, the others "Name: value". An origin is
 * allowed only if the setting says so; what a client sent gets into the answer only where it may, and never with credentials. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/macros.h"
#include "proxy/gate/cors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The origin is one of the setting's words. */
static bool listed(const char *setting, const char *origin)
{
    size_t n = strlen(origin);

    for (const char *p = setting; *p; p++) {
        bool begins = p == setting || strchr(", \t", p[-1]);

        if (begins && strncasecmp(p, origin, n) == 0 && (p[n] == '\0' || strchr(", \t", p[n])))
            return true;
    }
    return false;
}

static void check_fields(const struct tb_cors_policy *p, const struct tb_cors_request *rq,
                         const char *setting, bool preflight)
{
    struct tb_cors_field field[TB_CORS_FIELDS_MAX];
    size_t n = tb_cors_fields(p, rq, preflight, field);

    if (n > TB_CORS_FIELDS_MAX || ((p->mode == TB_CORS_RUNTIME || p->mode == TB_CORS_NONE) && n > 0))
        abort();
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(field[i].name, "Access-Control-Allow-Credentials") == 0 || !field[i].value)
            abort();
        if (strcmp(field[i].name, "Access-Control-Allow-Origin") != 0)
            continue;
        if (strcmp(field[i].value, "*") != 0 && (p->mode != TB_CORS_LIST || !listed(setting, field[i].value)))
            abort();
        if (strcmp(field[i].value, "*") == 0 && p->mode != TB_CORS_ANY)
            abort();
    }
    for (size_t i = 0; i < n; i++) /* the runtime's own never stand beside ours */
        if (strncasecmp(field[i].name, "Access-Control-", 15) == 0 && !tb_cors_replaces(p, field[i].name))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *save = NULL, *setting, *method;
    struct tb_cors_request rq = {0};
    struct tb_cors_policy policy;

    memcpy(text, data, size);
    text[size] = '\0';
    setting = strtok_r(text, "\n", &save);
    method = strtok_r(NULL, "\n", &save);
    for (char *line; (line = strtok_r(NULL, "\n", &save));) {
        char *colon = strchr(line, ':');

        if (colon) {
            *colon = '\0';
            tb_cors_field(&rq, line, colon + 1);
        }
    }
    if (!tb_cors_parse(setting, size % 2, &policy)) {
        enum tb_cors_verdict v = tb_cors_judge(&policy, &rq, method ? method : "");

        if (v != TB_CORS_PASS && (!method || strcmp(method, "OPTIONS") != 0 || !rq.origin || !rq.method))
            abort();
        if (v == TB_CORS_PREFLIGHT && policy.mode == TB_CORS_LIST && !listed(setting, rq.origin))
            abort();
        if (v == TB_CORS_PREFLIGHT && policy.mode != TB_CORS_LIST && policy.mode != TB_CORS_ANY)
            abort();
        check_fields(&policy, &rq, setting ? setting : "", false);
        check_fields(&policy, &rq, setting ? setting : "", true);
    }
    free(text);
    return 0;
}
