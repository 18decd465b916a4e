/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/template.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "common/io.h"
#include "common/json.h"
#include "common/macros.h"
#include "common/units.h"

#define DEPTH_MAX 200 /* of recursion over a document; cJSON itself stops at 1000 */

static int template_fail(int r, char err[static TEMPLATE_ERR_MAX], const char *fmt, ...) _printf_(3, 4);
static int template_fail(int r, char err[static TEMPLATE_ERR_MAX], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, TEMPLATE_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

int template_parse(const char *buf, size_t len, cJSON **ret, char err[static TEMPLATE_ERR_MAX])
{
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ cJSON *d = NULL;
    const cJSON *parameters;
    const char *end = NULL;

    if (len > TEMPLATE_FILE_MAX)
        return template_fail(-EFBIG, err, "is larger than %d bytes", TEMPLATE_FILE_MAX);
    if (memchr(buf, '\0', len))
        return template_fail(-EBADMSG, err, "is not JSON: it holds a NUL");
    text = strndup(buf, len);
    if (!text)
        return template_fail(-ENOMEM, err, "%s", strerror(ENOMEM));
    d = cJSON_ParseWithOpts(text, &end, true);
    if (!d)
        return template_fail(-EBADMSG, err, "is not JSON, at byte %td", end ? end - text : 0);
    if (!cJSON_IsObject(d))
        return template_fail(-EBADMSG, err, "is not a JSON object");
    parameters = cJSON_GetObjectItemCaseSensitive(d, "parameters");
    if (parameters && !cJSON_IsObject(parameters)) /* those of a list have no names */
        return template_fail(-EBADMSG, err, "has \"parameters\" that are not an object");
    *ret = TAKE_PTR(d);
    return 0;
}

const cJSON *template_parameter(const cJSON *template, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(template, "parameters"), name);
}

/* -- secrets ----------------------------------------------------------------------------------- */

static bool template_all_hex(const char *s, size_t n)
{
    return strlen(s) == n && strspn(s, "0123456789abcdefABCDEF") == n;
}

const char *template_secret_kind(const char *s)
{
    if (strcasestr(s, "sig=") && (strcasestr(s, "sv=") || strcasestr(s, "se=")))
        return "a shared access signature";
    if (strcasestr(s, "SharedAccessSignature="))
        return "a shared access signature";
    if (strcasestr(s, "AccountKey="))
        return "an account key";
    if (strstr(s, "PRIVATE KEY-----"))
        return "a private key";
    if (strncmp(s, "eyJ", 3) == 0 && strchr(s, '.'))
        return "a bearer token";
    if (template_all_hex(s, 64))
        return "64 hex digits, as a decryption key has them";
    return NULL;
}

static int template_check_value(const cJSON *v, const char *place, unsigned depth,
                                char err[static TEMPLATE_ERR_MAX])
{
    const char *kind = cJSON_IsString(v) ? template_secret_kind(v->valuestring) : NULL;
    const cJSON *child;
    int r = 0;

    if (kind)
        return template_fail(-EACCES, err, "%.60s: holds %s", place, kind);
    if (depth == 0)
        return template_fail(-EACCES, err, "%.60s: is nested too deeply", place);
    cJSON_ArrayForEach (child, v) {
        r = template_check_value(child, child->string ? child->string : place, depth - 1, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int template_check_secrets(const cJSON *doc, char err[static TEMPLATE_ERR_MAX])
{
    return template_check_value(doc, "the file", DEPTH_MAX, err);
}

/* -- defaults ---------------------------------------------------------------------------------- */

static bool template_is_type(const cJSON *parameter, const char *type)
{
    const cJSON *t = cJSON_GetObjectItemCaseSensitive(parameter, "type");

    return cJSON_IsString(t) && strcasecmp(t->valuestring, type) == 0;
}

static int template_convert(const cJSON *p, const char *value, cJSON **ret, const char **ret_want)
{
    char *end;
    double n;

    if (template_is_type(p, "bool")) {
        *ret_want = "true or false";
        *ret = strcmp(value, "true") == 0    ? cJSON_CreateTrue()
               : strcmp(value, "false") == 0 ? cJSON_CreateFalse()
                                             : NULL;
    } else if (template_is_type(p, "int")) {
        *ret_want = "an integer";
        errno = 0;
        n = (double)strtol(value, &end, 10);
        if (errno == 0 && *value && !*end && fabs(n) <= INT32_MAX)
            *ret = cJSON_CreateNumber(n);
    } else if (template_is_type(p, "object") || template_is_type(p, "array")) {
        *ret_want = template_is_type(p, "array") ? "a JSON array" : "a JSON object";
        *ret = cJSON_ParseWithOpts(value, NULL, true);
        if (*ret && !(template_is_type(p, "array") ? cJSON_IsArray(*ret) : cJSON_IsObject(*ret))) {
            cJSON_Delete(*ret);
            *ret = NULL;
        }
    } else if (template_is_type(p, "string")) {
        *ret_want = "a text that does not begin with '[', which begins an expression";
        *ret = value[0] == '[' ? NULL : cJSON_CreateString(value);
    } else {
        *ret_want = "no default, because its type is a secret or unknown";
    }
    return *ret ? 0 : -EINVAL;
}

/* A bound of the parameter; false: there is none. */
static bool template_bound(const cJSON *p, const char *name, double *ret)
{
    const cJSON *b = cJSON_GetObjectItemCaseSensitive(p, name);

    if (cJSON_IsNumber(b))
        *ret = b->valuedouble;
    return cJSON_IsNumber(b);
}

static int template_check_bounds(const cJSON *p, const char *name, const cJSON *v,
                                 char err[static TEMPLATE_ERR_MAX])
{
    const cJSON *allowed = cJSON_GetObjectItemCaseSensitive(p, "allowedValues"), *a;
    char list[TEMPLATE_ERR_MAX - 80] = "";
    double n, b = 0;

    if (cJSON_IsArray(allowed)) {
        cJSON_ArrayForEach (a, allowed) {
            size_t at = strlen(list);

            if (cJSON_Compare(a, v, true))
                return 0;
            if (cJSON_IsString(a))
                snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "", a->valuestring);
        }
        return template_fail(-EINVAL, err, "%.40s: not one of the allowed values: %s", name, list);
    }
    n = cJSON_IsNumber(v) ? v->valuedouble : cJSON_IsString(v) ? (double)strlen(v->valuestring) : 0;
    if (cJSON_IsNumber(v) || cJSON_IsString(v)) {
        const char *what = cJSON_IsNumber(v) ? "" : " characters";

        if (template_bound(p, cJSON_IsNumber(v) ? "minValue" : "minLength", &b) && n < b)
            return template_fail(-EINVAL, err, "%.40s: at least %g%s, not %g", name, b, what, n);
        if (template_bound(p, cJSON_IsNumber(v) ? "maxValue" : "maxLength", &b) && n > b)
            return template_fail(-EINVAL, err, "%.40s: at most %g%s, not %g", name, b, what, n);
    }
    return 0;
}

static int template_unknown_parameter(const cJSON *template, const char *name,
                                      char err[static TEMPLATE_ERR_MAX])
{
    const cJSON *p;
    size_t n = (size_t)snprintf(err, TEMPLATE_ERR_MAX, "%.60s: no such parameter; there are", name);

    cJSON_ArrayForEach (p, cJSON_GetObjectItemCaseSensitive(template, "parameters"))
        if (n + strlen(p->string) + 2 < TEMPLATE_ERR_MAX)
            n += (size_t)snprintf(err + n, TEMPLATE_ERR_MAX - n, " %s", p->string);
    return -ENOENT;
}

int template_set(cJSON *template, const char *name, const char *value, char err[static TEMPLATE_ERR_MAX])
{
    cJSON *p = (cJSON *)template_parameter(template, name);
    const char *kind = template_secret_kind(value), *want = NULL;
    _cleanup_json_ cJSON *v = NULL;
    int r;

    if (!cJSON_IsObject(p))
        return template_unknown_parameter(template, name, err);
    if (kind)
        return template_fail(-EACCES, err, "%.40s: the value holds %s, and everyone can read a package", name,
                             kind);
    if (template_convert(p, value, &v, &want) < 0)
        return template_fail(-EINVAL, err, "%.40s: takes %s", name, want);
    r = template_check_bounds(p, name, v, err);
    if (r < 0)
        return r;
    cJSON_DeleteItemFromObjectCaseSensitive(p, "defaultValue");
    return cJSON_AddItemToObject(p, "defaultValue", TAKE_PTR(v))
               ? 0
               : template_fail(-ENOMEM, err, "out of memory");
}

/* -- the form ---------------------------------------------------------------------------------- */

static const cJSON *template_form_outputs(const cJSON *form)
{
    return cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(form, "parameters"), "outputs");
}

/* Outputs that the service itself takes; of managed applications. */
static bool template_of_service(const char *name)
{
    static const char *const names[] = {"applicationResourceName", "jitAccessPolicy", "managedIdentity",
                                        "managedResourceGroupId"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (strcasecmp(names[i], name) == 0)
            return true;
    return false;
}

bool template_form_asks(const cJSON *form, const char *name)
{
    return cJSON_GetObjectItem(template_form_outputs(form), name); /* names are the same in any case */
}

/* An element, somewhere within. */
static cJSON *template_find_named(cJSON *in, const char *name, unsigned depth)
{
    const cJSON *n = cJSON_IsObject(in) ? cJSON_GetObjectItemCaseSensitive(in, "name") : NULL;
    cJSON *i, *found = cJSON_IsString(n) && strcmp(n->valuestring, name) == 0 ? in : NULL;

    if (found || depth == DEPTH_MAX)
        return found;
    cJSON_ArrayForEach (i, in)
        if (!found)
            found = template_find_named(i, name, depth + 1);
    return found;
}

int template_form_text(cJSON *form, const char *name, const char *text)
{
    cJSON *e = template_find_named(form, name, 0), *options = cJSON_GetObjectItemCaseSensitive(e, "options");
    cJSON *value = cJSON_CreateString(text);

    if (!value)
        return -ENOMEM;
    if (!cJSON_ReplaceItemInObjectCaseSensitive(options, "text", value)) {
        cJSON_Delete(value);
        return -ENOENT;
    }
    return 0;
}

int template_check_form(const cJSON *template, const cJSON *form, char err[static TEMPLATE_ERR_MAX])
{
    const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(template, "parameters"), *i;

    if (!cJSON_IsObject(template_form_outputs(form)))
        return template_fail(-EINVAL, err, "has no parameters.outputs");
    cJSON_ArrayForEach (i, template_form_outputs(form))
        if (!cJSON_GetObjectItem(parameters, i->string) && !template_of_service(i->string))
            return template_fail(-EINVAL, err, "output '%.60s' is not a parameter of the template",
                                 i->string);
    cJSON_ArrayForEach (i, parameters)
        if (!cJSON_GetObjectItemCaseSensitive(i, "defaultValue") && !template_form_asks(form, i->string))
            return template_fail(
                -EINVAL, err,
                "does not ask for parameter '%.60s', which has no default; give it one with --set",
                i->string);
    return 0;
}

static bool template_fill_question(cJSON *e, const struct template_question *q)
{
    cJSON *c;

    if (!cJSON_AddStringToObject(e, "name", q->name) ||
        !cJSON_AddStringToObject(e, "type", "Microsoft.Common.TextBox") ||
        !cJSON_AddStringToObject(e, "label", q->label) || !cJSON_AddStringToObject(e, "toolTip", q->tip) ||
        !cJSON_AddStringToObject(e, "defaultValue", ""))
        return false;
    c = cJSON_AddObjectToObject(e, "constraints");
    return cJSON_AddTrueToObject(c, "required") && cJSON_AddStringToObject(c, "regex", q->regex) &&
           cJSON_AddStringToObject(c, "validationMessage", q->message) && cJSON_AddTrueToObject(e, "visible");
}

int template_ask(cJSON *form, const struct template_question *q, char err[static TEMPLATE_ERR_MAX])
{
    cJSON *p = cJSON_GetObjectItemCaseSensitive(form, "parameters"),
          *step = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(p, "steps"), 0),
          *outputs = cJSON_GetObjectItemCaseSensitive(p, "outputs"), *elements, *e;
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(step, "name");
    _cleanup_free_ char *from = NULL;

    if (template_form_asks(form, q->name))
        return 0;
    if (step)
        elements = cJSON_GetObjectItemCaseSensitive(step, "elements");
    else
        elements = cJSON_GetObjectItemCaseSensitive(p, "basics");
    if ((step && !cJSON_IsString(name)) || !cJSON_IsArray(elements) || !cJSON_IsObject(outputs))
        return template_fail(-EINVAL, err, "has no step that could ask for '%.60s'", q->name);
    e = cJSON_CreateObject();
    from =
        step ? tb_strf("[steps('%s').%s]", name->valuestring, q->name) : tb_strf("[basics('%s')]", q->name);
    if (!cJSON_AddItemToArray(elements, e)) {
        cJSON_Delete(e);
        return template_fail(-ENOMEM, err, "%s", strerror(ENOMEM));
    }
    if (!from || !template_fill_question(e, q) || !cJSON_AddStringToObject(outputs, q->name, from))
        return template_fail(-ENOMEM, err, "%s", strerror(ENOMEM));
    return 0;
}
