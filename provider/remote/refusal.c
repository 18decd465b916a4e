/* SPDX-License-Identifier: Apache-2.0 */
/* What a control plane refused, in words that say what to do and who can. */
#include <stdio.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "provider/remote/remote.h"

#define REFUSAL_MAX 1024

struct refusal {
    char code[64], message[400], details[400];
};

static void refusal_take(const cJSON *d, const char *name, char *out, size_t size)
{
    const char *s = NULL;
    char why[TB_JSON_ERR_MAX];

    if (tb_json_get_string(d, name, &s, why) == 0)
        snprintf(out, size, "%s", s);
}

static void refusal_read(const struct tb_http_response *rs, struct refusal *ret)
{
    _cleanup_json_ cJSON *d = NULL;
    char why[TB_JSON_ERR_MAX];

    *ret = (struct refusal){.code = ""};
    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &d, why) < 0)
        return;
    refusal_take(d, "error", ret->code, sizeof(ret->code));
    refusal_take(d, "message", ret->message, sizeof(ret->message));
    if (!*ret->message)
        refusal_take(d, "reason", ret->message, sizeof(ret->message));
    refusal_take(d, "details", ret->details, sizeof(ret->details));
}

void remote_describe(const struct tb_http_response *rs, char *out, size_t size)
{
    struct refusal f;
    bool both;

    refusal_read(rs, &f);
    both = *f.message && *f.details;
    snprintf(out, size, "%s%.300s%s%.300s", *f.message || *f.details ? ": " : "", f.message, both ? ": " : "",
             f.details);
}

/* -- remedies ---------------------------------------------------------------------------------- */

/* What is wrong, without the remedy behind it, which speaks to whoever calls the API by hand. */
static void refusal_cut(const struct refusal *f, char *out, size_t size)
{
    snprintf(out, size, "%.*s", (int)strcspn(f->message, ";"), f->message);
}

static int refusal_unauthorized(const struct remote *r, const struct refusal *f)
{
    char why[sizeof(f->message)], reason[REFUSAL_MAX];

    refusal_cut(f, why, sizeof(why));
    snprintf(reason, sizeof(reason), "does not take the token in %s%s%s%s%s",
             r->token_from ? r->token_from : "(none)", *why ? ": " : "", why, *f->details ? ": " : "",
             f->details);
    return tbpkg_fail_as(
        CLI_DENIED, r->base, reason,
        "if it has ended or was revoked, an owner makes another by tbpkg token add, and tbpkg login keeps "
        "it");
}

/* details: the scopes that would do; the narrowest is what to ask for. */
static int refusal_scope(const struct remote *r, const char *object, const struct refusal *f)
{
    const char *scope = strncmp(f->details, "owner ", 6) == 0 ? f->details + 6 : f->details;
    char reason[REFUSAL_MAX], remedy[REFUSAL_MAX];

    if (strcmp(f->code, "scope_missing") != 0)
        return tbpkg_fail_as(CLI_DENIED, object,
                             *f->message ? f->message : "the control plane refuses it (403)", NULL);
    snprintf(reason, sizeof(reason), "the token in %s may not do this: it needs one of the scopes %s",
             r->token_from ? r->token_from : "(none)", f->details);
    snprintf(remedy, sizeof(remedy),
             "an owner makes a token with it: tbpkg token add NAME --scope %.*s; tbpkg whoami shows yours",
             (int)strcspn(scope, " "), scope);
    return tbpkg_fail_as(CLI_DENIED, object, reason, remedy);
}

static int refusal_not_found(const struct remote *r, const struct remote_object *o, const char *object,
                             const struct refusal *f)
{
    _cleanup_free_ char *near = NULL, *remedy = NULL;
    char why[sizeof(f->message)];

    if (strcmp(f->code, "not_found") == 0 || !*f->code)
        return tbpkg_fail_as(CLI_NOT_FOUND, r->base,
                             "has no such call: it is no control plane, or an older one",
                             "check --edc-endpoint: it is the base URL, without /api/v1");
    refusal_cut(f, why, sizeof(why));
    near = remote_near(r, o);
    if (near && strcmp(near, o->name) != 0)
        remedy = tb_strf("did you mean '%s'?", near);
    else if (near)
        remedy = tb_strf("tbpkg %s show %s tells what it has", o->kind, near);
    else if (o->kind)
        remedy =
            tb_strf("tbpkg %s list names what there is", strcmp(o->kind, "code") == 0 ? "enrol" : o->kind);
    return tbpkg_fail_as(CLI_NOT_FOUND, object, *why ? why : "is not there", remedy);
}

static const struct {
    const char *code, *remedy;
} refusal_remedies[] = {
    {"contract_exists", "tbpkg contract edit changes it, tbpkg enrol makes a code for more of its machines"},
    {"token_exists", "take another name: that of a token that is over stays with it, for the log"},
    {"asset_in_use", "tbpkg contract list --asset names the contracts; one that is over counts, too"},
    {"plan_taken", "tbpkg offer list names the offer that has it"},
    {"usage_reported", "tbpkg contract add makes a new one"},
    {"contract_changed", "somebody else was faster: look at it and run the command again"},
};

static const char *refusal_remedy(const char *code)
{
    for (size_t i = 0; i < ARRAY_SIZE(refusal_remedies); i++)
        if (strcmp(refusal_remedies[i].code, code) == 0)
            return refusal_remedies[i].remedy;
    return NULL;
}

int remote_refused(const struct remote *r, const struct remote_object *o, const struct tb_http_response *rs)
{
    _cleanup_free_ char *object =
        o->kind ? tb_strf("%s%s%s", o->kind, o->name ? " " : "", o->name ? o->name : "") : strdup(r->base);
    char reason[REFUSAL_MAX];
    struct refusal f;

    refusal_read(rs, &f);
    if (rs->status == 401)
        return refusal_unauthorized(r, &f);
    if (rs->status == 403)
        return refusal_scope(r, object ? object : r->base, &f);
    if (rs->status == 404)
        return refusal_not_found(r, o, object ? object : r->base, &f);
    if (*f.message)
        snprintf(reason, sizeof(reason), "%s%s%s", f.message, *f.details ? ": " : "", f.details);
    else
        snprintf(reason, sizeof(reason), "the control plane answered %ld", rs->status);
    if (tb_http_status_retryable(rs->status))
        return tbpkg_fail_as(CLI_UNAVAILABLE, object ? object : r->base, reason,
                             "run the command again later");
    if (rs->status >= 300 && rs->status < 400)
        return tbpkg_fail_as(CLI_FAILED, r->base, reason,
                             "check --edc-endpoint: it is the base URL, without /api/v1");
    if (*f.message && refusal_remedy(f.code))
        refusal_cut(&f, reason, sizeof(reason));
    return tbpkg_fail_as(rs->status == 409 || rs->status == 412 || rs->status == 422 ? CLI_REFUSED
                                                                                     : CLI_FAILED,
                         object ? object : r->base, reason, refusal_remedy(f.code));
}
