/* SPDX-License-Identifier: Apache-2.0 */
/* An ARM template and the form of the portal that asks for its parameters (createUiDefinition.json): reading
 * them, giving parameters their defaults, and what a package must not hold. No I/O. Errors are one line that
 * names the parameter and never repeats a value. */
#ifndef TBPKG_PUBLISH_TEMPLATE_H
#define TBPKG_PUBLISH_TEMPLATE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#define TEMPLATE_FILE_MAX (4 << 20) /* Azure takes 4 MB */
#define TEMPLATE_ERR_MAX 256

/* A JSON object with nothing after it. -EBADMSG, -EFBIG, -ENOMEM. */
int template_parse(const char *buf, size_t len, cJSON **ret, char err[static TEMPLATE_ERR_MAX]);

/* The parameter, or NULL. */
const cJSON *template_parameter(const cJSON *template, const char *name);

/* Makes value, as a command line has it, the default of the parameter: converted to its type; within
 * allowedValues, minValue, maxValue, minLength, maxLength. -ENOENT no such parameter (err lists those there
 * are); -EINVAL a value it does not take; -EACCES a secret. */
int template_set(cJSON *template, const char *name, const char *value, char err[static TEMPLATE_ERR_MAX]);

/* Every output of the form is a parameter, and what has no default is asked by the form. -EINVAL. */
int template_check_form(const cJSON *template, const cJSON *form, char err[static TEMPLATE_ERR_MAX]);
/* Has the form ask for the parameter in a line of text, in its first step or, without steps, its basics. 0,
 * also where it does already; -EINVAL when there is no place for it, -ENOMEM. */
struct template_question {
    const char *name, *label, *tip, *regex, *message; /* message: when the answer does not match */
};
int template_ask(cJSON *form, const struct template_question *q, char err[static TEMPLATE_ERR_MAX]);
/* The form has an output of that name: what it says wins over the default. */
bool template_form_asks(const cJSON *form, const char *name);

/* What the form's text of that name says. -ENOENT: it has none. */
int template_form_text(cJSON *form, const char *name, const char *text);

/* What kind of secret this is ("a shared access signature"), or NULL. */
const char *template_secret_kind(const char *value);
/* Looks at every string of the document. -EACCES with its place in err. */
int template_check_secrets(const cJSON *doc, char err[static TEMPLATE_ERR_MAX]);

#endif
