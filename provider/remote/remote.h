/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of a control plane: who we are, the exchange with its retries, and a refusal in our words. The API is
 * docs/controlplane.openapi.yaml.
 *
 * A call that changes something carries an idempotency key, the same in each try: a server that did it
 * already answers as it did then, so an answer that was lost costs nothing. Wrong would be proved by two
 * contracts, codes or tokens of one command. */
#ifndef TBPKG_REMOTE_REMOTE_H
#define TBPKG_REMOTE_REMOTE_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/http.h"
#include "provider/cli/command.h"

#define REMOTE_ANSWER_MAX (16U << 20) /* of the admin API */
#define REMOTE_ADMIN "/api/v1/admin/"

#define REMOTE_ENDPOINT_MISSING                                                                              \
    "--edc-endpoint is missing: the URL of the control plane; TB_EDC_ENDPOINT or controlplane.endpoint in "  \
    "tbpkg.ini may hold it"

struct remote {
    const struct cli *cli; /* for messages */
    const char *endpoint, *token_file, *cert, *cert_key, *ca_file;
    const char *idempotency_key; /* --idempotency-key, or NULL: one is made for each change */
    bool insecure;               /* http:// to a loopback address is allowed */
    /* private */
    char *base;          /* the endpoint without '/' at its end */
    char *authorization; /* secret: a header line, or NULL */
    char *token_from;    /* the file it comes from */
};
void remote_clear(struct remote *r);

/* Judges --edc-endpoint, the client certificate and the idempotency key. CLI_OK or CLI_USAGE. */
int remote_check(struct remote *r);
/* https, or http to a loopback address when that was asked for. what: the option's name. */
int remote_check_url(const struct cli *c, bool insecure, const char *what, const char *url);
/* Before any call. token: reads it: --token-file and its settings, else what tbpkg login kept for this
 * control plane, else none. CLI_OK, CLI_FAILED or CLI_INTERRUPTED. */
int remote_open(struct remote *r, bool token);
/* The second half of remote_open(). */
int remote_find_token(struct remote *r);
/* Takes this one instead of another. from: where it comes from, for messages. CLI_OK or CLI_FAILED. */
int remote_use_token(struct remote *r, const char *token, const char *from);

/* Says that there is no token. CLI_DENIED. */
int remote_no_token(const struct remote *r);

/* -- the exchange ------------------------------------------------------------------------------ */

struct remote_call {
    const char *method; /* NULL: GET */
    const char *path;   /* "/api/v1/...", encoded */
    const char *body;   /* JSON, or NULL */
    size_t body_len;
    size_t answer_max; /* bytes; 0: TB_HTTP_RESPONSE_MAX */
    bool change;       /* gets an idempotency key */
};
/* One call, tried again while the control plane does not answer. CLI_OK with an answer of any status; else
 * the reason is reported and CLI_FAILED or CLI_UNAVAILABLE returned. */
int remote_exchange(const struct remote *r, const struct remote_call *call, struct tb_http_response *ret);

/* -- the admin API ----------------------------------------------------------------------------- */

/* What a call is about, for a refusal: "contract acme-1". */
struct remote_object {
    const char *kind;     /* "contract" */
    const char *name;     /* NULL: none */
    const char *contract; /* of a machine */
};

/* "contracts/acme%2F1/revoke", from path segments up to a NULL. Heap, or NULL on ENOMEM. */
char *remote_path_of(const char *const *segments);
#define remote_path(...) remote_path_of((const char *const[]){__VA_ARGS__, NULL})
/* Adds "?name=value" or "&name=value", unless value is NULL. Takes and returns the heap string; NULL on
 * ENOMEM, and for NULL. */
char *remote_query(char *path, const char *name, const char *value);

/* What is below /api/v1/admin/: reads it. CLI_OK with a JSON object; else reported. */
int remote_get(const struct remote *r, const char *path, const struct remote_object *object, cJSON **ret);
/* All pages of a listing, as one {"MEMBER": [...]}. */
int remote_list(const struct remote *r, const char *path, const char *member, cJSON **ret);
/* Reads what is no JSON document: CSV, lines of a hash chain. */
int remote_get_text(const struct remote *r, const char *path, struct tb_http_response *ret);
/* Changes something, once. body NULL: none. */
int remote_change(const struct remote *r, const char *method, const char *path, const cJSON *body,
                  const struct remote_object *object, cJSON **ret);

/* -- refusals ---------------------------------------------------------------------------------- */

/* ": message: details" of an error answer, whichever are there; else "". */
void remote_describe(const struct tb_http_response *answer, char *out, size_t size);
/* Reports an answer of the admin API that is no success. Returns CLI_DENIED, CLI_NOT_FOUND, CLI_REFUSED,
 * CLI_UNAVAILABLE or CLI_FAILED. */
int remote_refused(const struct remote *r, const struct remote_object *object,
                   const struct tb_http_response *answer);
/* A name of that kind that is nearly the object's; heap, or NULL: there is none, or it may not be looked
 * up. */
char *remote_near(const struct remote *r, const struct remote_object *object);

#endif
