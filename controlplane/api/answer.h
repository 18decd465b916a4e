/* SPDX-License-Identifier: Apache-2.0 */
/* Answers, as every call makes them. */
#ifndef CP_ANSWER_H
#define CP_ANSWER_H

#include "controlplane/api/api.h"

/* members: name, value, ... up to a NULL name; a NULL value leaves its member out. */
void cp_answer_members(struct cp_reply *ret, unsigned status, const char *const *members);
#define cp_answer(ret, status, ...) cp_answer_members(ret, status, (const char *const[]){__VA_ARGS__, NULL})

/* Nothing secret in it: cJSON leaves copies behind. */
void cp_answer_json(struct cp_reply *ret, unsigned status, const cJSON *j);

/* 200 and the object, which may hold secrets. */
void cp_answer_object(struct cp_reply *ret, const cJSON *j);
/* 503 with Retry-After. reason: "busy", "unavailable", ... */
void cp_answer_later(struct cp_reply *ret, const char *reason, const char *message);
/* 429. who: for the log, at most once in ten seconds. */
void cp_answer_too_often(struct cp_reply *ret, unsigned seconds, const char *who, const char *what);
/* A failure of the store, which is logged: 503 when it passes by itself, else 500. */
void cp_answer_store_failure(const struct cp_store *s, const char *doing, int r, struct cp_reply *ret);
/* 500: what is stored does not fit this server. */
void cp_answer_misconfigured(struct cp_reply *ret);
/* The key service does not answer. */
void cp_answer_key_service(struct cp_reply *ret);

/* The path for a line of the log: whoever asks may have put anything into it. */
#define CP_LOG_PATH_MAX 200
const char *cp_log_path(const struct cp_request *rq, char out[static CP_LOG_PATH_MAX]);

/* Whether the token is good for this call; false: *ret is the answer. The first before the body. */
bool cp_answer_stranger(const struct cp_api *api, const struct cp_request *rq, struct cp_reply *ret);
bool cp_authenticate(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     enum cp_call_name call, struct cp_caller *ret_caller, struct cp_reply *ret);
/* 403: another scope is needed. */
void cp_answer_scope(const struct cp_caller *c, unsigned scopes, const char *what, struct cp_reply *ret);
/* 401, or 503, for a failure of cp_caller_identify() or cp_caller_recheck(). */
void cp_answer_caller(const struct cp_api *api, const struct cp_store *s, const struct cp_request *rq, int r,
                      const char *why, struct cp_reply *ret);

/* One function for each call. */
void cp_answer_register(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                        struct cp_reply *ret);
void cp_answer_enrol(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     struct cp_reply *ret);
void cp_answer_renew(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                     struct cp_reply *ret);
void cp_answer_purchase(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                        struct cp_reply *ret);
void cp_answer_authorize(const struct cp_api *api, struct cp_store *s, const struct cp_request *rq,
                         struct cp_reply *ret);

#endif
