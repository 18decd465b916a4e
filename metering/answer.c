/* SPDX-License-Identifier: Apache-2.0 */
#include "metering/answer.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "common/buf.h"
#include "common/io.h"
#include "common/json.h"
#include "common/secret.h"

#define ANSWER_TEXT_MAX 110 /* of one text of the API in a reason */
#define ANSWER_DETAILS_MAX 4

/* -- the request ----------------------------------------------------------------------------------------- */

/* The one place where a quantity is not an integer. Exact nonetheless: a unit is a power of two, quantities
 * are far below 2^53, and 17 digits read back as the same double. cJSON's own printing stops at 15 when the
 * last bit is all that differs. */
static bool request_add_quantity(cJSON *o, const struct tb_metering_event *e)
{
    char text[40];

    snprintf(text, sizeof(text), "%.17g", (double)e->quantity / (double)e->unit);
    return cJSON_AddRawToObject(o, "quantity", text) != NULL;
}

char *tb_metering_answer_request(const struct tb_metering_batch *b)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(o, "request");
    char start[TB_RFC3339_MAX];

    for (unsigned i = 0; i < b->n; i++) {
        const struct tb_metering_event *of = &b->event[i];
        cJSON *e = cJSON_CreateObject();

        if (!e || !cJSON_AddItemToArray(list, e) ||
            !cJSON_AddStringToObject(e, *of->resource == '/' ? "resourceUri" : "resourceId", of->resource) ||
            !request_add_quantity(e, of) || !cJSON_AddStringToObject(e, "dimension", of->dimension) ||
            !cJSON_AddStringToObject(e, "effectiveStartTime", tb_metering_hour_text(of->hour, start)) ||
            !cJSON_AddStringToObject(e, "planId", of->plan))
            return NULL;
    }
    return cJSON_PrintUnformatted(o);
}

/* -- the answer ------------------------------------------------------------------------------------------ */

static _printf_(2, 3) void answer_say(char out[static TB_METERING_REASON_MAX], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(out, TB_METERING_REASON_MAX, fmt, ap);
    va_end(ap);
    for (; *out; out++)
        if (*out < ' ' || *out > '~')
            *out = '.';
}

static const char *answer_text(const cJSON *o, const char *name)
{
    const cJSON *m = tb_json_member(o, name);

    return cJSON_IsString(m) ? m->valuestring : "";
}

static bool answer_one_of(const char *s, const char *const *list)
{
    for (; *list; list++)
        if (strcasecmp(s, *list) == 0)
            return true;
    return false;
}

/* The subscription is over, and nothing that this machine does will change it. */
static bool answer_means_ended(const char *code)
{
    static const char *const codes[] = {"ResourceNotActive",     "SubscriptionNotFound",
                                        "SubscriptionSuspended", "SubscriptionInactive",
                                        "Unsubscribed",          NULL};

    return answer_one_of(code, codes);
}

/* Adds ": TEXT" or the like, when there is a text. */
static void answer_add(struct tb_buf *b, const char *before, const char *text)
{
    if (!*text)
        return;
    tb_buf_puts(b, before);
    tb_buf_append(b, text, strnlen(text, ANSWER_TEXT_MAX));
}

/* What an error of the API says: its message, and of each detail what it is about and its message. The
 * message of the whole is often "One or more errors have occurred", and only the details tell the cause. */
static void answer_explain(const cJSON *error, struct tb_buf *b)
{
    const char *message = answer_text(error, "message");
    const cJSON *d;
    int n = 0;

    answer_add(b, ": ", message);
    cJSON_ArrayForEach (d, tb_json_member(error, "details")) {
        const char *target = answer_text(d, "target"), *code = answer_text(d, "code"),
                   *text = answer_text(d, "message");

        if (n++ == ANSWER_DETAILS_MAX)
            break;
        answer_add(b, "; ", *target ? target : code);
        if (strcmp(text, message) != 0)
            answer_add(b, *target || *code ? ": " : "; ", text);
    }
}

static void event_refuse(struct tb_metering_verdict *v, const char *code, const cJSON *error)
{
    _cleanup_buf_ struct tb_buf b = {0};

    tb_buf_append(&b, code, strnlen(code, ANSWER_TEXT_MAX));
    answer_explain(error, &b);
    v->outcome = answer_means_ended(code) ? TB_METERING_ENDED : TB_METERING_REFUSED;
    if (tb_buf_error(&b) < 0)
        answer_say(v->reason, "%s", code);
    else
        answer_say(v->reason, "%.*s", (int)b.len, b.data ? b.data : "");
}

static void event_refuse_words(struct tb_metering_verdict *v, const char *reason)
{
    v->outcome = TB_METERING_REFUSED;
    answer_say(v->reason, "%s", reason);
}

static void event_accept(struct tb_metering_verdict *v, const struct tb_metering_event *e, int64_t accepted,
                         bool duplicate)
{
    v->outcome = TB_METERING_ACCEPTED;
    v->accepted = accepted;
    v->duplicate = duplicate;
    if (accepted != e->quantity)
        answer_say(v->reason, "the marketplace has %lld of this hour, we sent %lld", (long long)accepted,
                   (long long)e->quantity);
}

/* A quantity of the API in what the counters count. false: it is none. */
static bool answer_quantity(const cJSON *o, const struct tb_metering_event *e, int64_t *ret)
{
    const cJSON *m = tb_json_member(o, "quantity");
    double q = cJSON_IsNumber(m) ? m->valuedouble * (double)e->unit : -1;

    if (!(q >= 0 && q <= (double)TB_JSON_INT_MAX))
        return false;
    *ret = llround(q);
    return true;
}

/* `error` of a Duplicate, or the body of a 409: what was accepted for this hour before. */
static void answer_judge_duplicate(const cJSON *error, const struct tb_metering_event *e,
                                   struct tb_metering_verdict *v)
{
    const cJSON *info = tb_json_member(error, "additionalInfo"),
                *was = tb_json_member(info, "acceptedMessage");
    int64_t had;

    /* The specification has its members in additionalInfo itself, the documentation one level deeper. */
    if (!was)
        was = info;
    if (strcasecmp(answer_text(was, "status"), "Expired") == 0)
        v->outcome = TB_METERING_EXPIRED;
    else if (answer_quantity(was, e, &had))
        event_accept(v, e, had, true);
    else
        event_refuse_words(
            v, "Duplicate: the marketplace has another event of this hour and does not say how much");
}

static void answer_judge_item(const cJSON *item, const struct tb_metering_event *e,
                              struct tb_metering_verdict *v)
{
    static const char *const transient[] = {"", "Error", "NotProcessed", NULL};
    const char *status = answer_text(item, "status");
    const cJSON *error = tb_json_member(item, "error");

    if (strcasecmp(status, "Accepted") == 0)
        event_accept(v, e, e->quantity, false);
    else if (strcasecmp(status, "Duplicate") == 0)
        answer_judge_duplicate(error, e, v);
    else if (strcasecmp(status, "Expired") == 0)
        v->outcome = TB_METERING_EXPIRED;
    else if (!answer_one_of(status, transient))
        event_refuse(v, status, error);
}

/* Whether the batch has another event that differs in its resource alone. */
static bool batch_has_twin(const struct tb_metering_batch *b, const struct tb_metering_event *e)
{
    for (unsigned i = 0; i < b->n; i++)
        if (&b->event[i] != e && b->event[i].hour == e->hour &&
            strcmp(b->event[i].dimension, e->dimension) == 0)
            return true;
    return false;
}

/* An item repeats what was sent. One that names no resource is taken for the event that it can only be. */
static bool answer_item_is_of(const cJSON *item, const struct tb_metering_batch *b,
                              const struct tb_metering_event *e)
{
    const char *resource = answer_text(item, *e->resource == '/' ? "resourceUri" : "resourceId");
    uint64_t start;

    return strcmp(answer_text(item, "dimension"), e->dimension) == 0 &&
           (*resource ? strcasecmp(resource, e->resource) == 0 : !batch_has_twin(b, e)) &&
           tb_rfc3339_parse(answer_text(item, "effectiveStartTime"), &start) == 0 &&
           tb_metering_hour(start) == e->hour;
}

static void answer_judge_items(const cJSON *o, const struct tb_metering_batch *b,
                               struct tb_metering_answer *ret)
{
    const cJSON *list = tb_json_member(o, "result"), *item;

    for (unsigned i = 0; i < b->n; i++) {
        cJSON_ArrayForEach (item, list)
            if (answer_item_is_of(item, b, &b->event[i])) {
                answer_judge_item(item, &b->event[i], &ret->verdict[i]);
                break;
            }
        if (ret->verdict[i].outcome == TB_METERING_UNKNOWN) {
            ret->again = true;
            ret->split |= batch_has_twin(b, &b->event[i]); /* alone it cannot be taken for another */
            answer_say(ret->reason, "no verdict on %s", b->event[i].dimension);
        }
    }
}

static bool answer_says_expired(const cJSON *o)
{
    const cJSON *d;

    if (strcasecmp(answer_text(o, "code"), "Expired") == 0)
        return true;
    cJSON_ArrayForEach (d, tb_json_member(o, "details"))
        if (strcasecmp(answer_text(d, "code"), "Expired") == 0)
            return true;
    return false;
}

/* 4xx, which are verdicts on the request as a whole. */
static void answer_judge_refusal(long status, const cJSON *o, const struct tb_metering_batch *b,
                                 struct tb_metering_answer *ret)
{
    const cJSON *inner = tb_json_member(o, "error"), *error = cJSON_IsObject(inner) ? inner : o;
    const char *code = answer_text(error, "code");
    char number[24];

    snprintf(number, sizeof(number), "status %ld", status);
    if (b->n > 1) {
        for (unsigned i = 0; i < b->n; i++)
            ret->verdict[i].outcome = TB_METERING_UNSENT;
        ret->split = true;
    } else if (status == 409) {
        answer_judge_duplicate(error, &b->event[0], &ret->verdict[0]);
    } else if (status == 400 && answer_says_expired(error)) {
        ret->verdict[0].outcome = TB_METERING_EXPIRED;
    } else {
        event_refuse(&ret->verdict[0], *code ? code : number, error);
    }
    answer_say(ret->reason, "status %ld %s", status, code);
}

static void answer_all_transient(struct tb_metering_answer *ret, const struct tb_metering_batch *b,
                                 bool arrived, const char *reason)
{
    for (unsigned i = 0; i < b->n; i++)
        ret->verdict[i].outcome = arrived ? TB_METERING_UNKNOWN : TB_METERING_UNSENT;
    ret->transient = true;
    answer_say(ret->reason, "%s", reason);
}

void tb_metering_answer_none(bool reached, const char *reason, const struct tb_metering_batch *b,
                             struct tb_metering_answer *ret)
{
    *ret = (struct tb_metering_answer){0};
    answer_all_transient(ret, b, reached, reason);
}

void tb_metering_answer_judge(long status, const char *body, size_t len, const struct tb_metering_batch *b,
                              struct tb_metering_answer *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX], number[24];
    int r = tb_json_parse(body, len, TB_METERING_ANSWER_MAX, &o, why);

    *ret = (struct tb_metering_answer){0};
    snprintf(number, sizeof(number), "status %ld", status);
    if (status == 401 || status == 429) {
        answer_all_transient(ret, b, false, number);
        ret->token = status == 401;
    } else if (status == 200 && r == 0) {
        answer_judge_items(o, b, ret);
    } else if (status >= 400 && status < 500 && status != 408) {
        answer_judge_refusal(status, o, b, ret);
    } else {
        answer_all_transient(ret, b, true, status == 200 ? "an answer that is not JSON" : number);
    }
}

/* -- other services -------------------------------------------------------------------------------------- */

static bool answer_plain_text(const char *s, size_t max)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f)
            return false;
    return n > 0 && n <= max;
}

/* A number, or digits in a string, as the managed identity endpoint writes them. */
static uint64_t answer_number(const cJSON *o, const char *name)
{
    const cJSON *m = tb_json_member(o, name);
    uint64_t v;

    if (cJSON_IsNumber(m) && m->valuedouble >= 0 && m->valuedouble < 1e9)
        return (uint64_t)m->valuedouble;
    return cJSON_IsString(m) && tb_uint_parse(m->valuestring, 0, 1000000000, &v) == 0 ? v : 0;
}

int tb_metering_answer_token(const char *body, size_t len, char **ret, uint64_t *ret_seconds)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX], *token;
    cJSON *m;

    if (tb_json_parse(body, len, 64 * 1024, &o, why) < 0)
        return -EBADMSG;
    m = cJSON_GetObjectItemCaseSensitive(o, "access_token");
    if (!cJSON_IsString(m))
        return -EBADMSG;
    token = answer_plain_text(m->valuestring, 16 * 1024) ? strdup(m->valuestring) : NULL;
    tb_erase(m->valuestring, strlen(m->valuestring));
    if (!token)
        return -EBADMSG;
    *ret = token;
    *ret_seconds = answer_number(o, "expires_in");
    return 0;
}

/* A part of a path of an Azure id. */
static bool answer_id_part(const char *s)
{
    static const char may[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.()";

    return answer_plain_text(s, 90) && strspn(s, may) == strlen(s) && strcmp(s, ".") != 0 &&
           strcmp(s, "..") != 0;
}

int tb_metering_answer_instance(const char *body, size_t len, char **ret_subscription, char **ret_group)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *subscription, *group;

    if (tb_json_parse(body, len, 64 * 1024, &o, why) < 0)
        return -EBADMSG;
    subscription = answer_text(o, "subscriptionId");
    group = answer_text(o, "resourceGroupName");
    if (!answer_id_part(subscription) || !answer_id_part(group))
        return -EBADMSG;
    *ret_subscription = strdup(subscription);
    *ret_group = strdup(group);
    return *ret_subscription && *ret_group ? 0 : -ENOMEM;
}

int tb_metering_answer_managed_by(const char *body, size_t len, char **ret)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *id;

    if (tb_json_parse(body, len, TB_METERING_ANSWER_MAX, &o, why) < 0 || !cJSON_IsObject(o))
        return -EBADMSG;
    id = answer_text(o, "managedBy");
    if (*id == '\0')
        return -ENOENT;
    if (*id != '/' || !answer_plain_text(id, 1000))
        return -EBADMSG;
    *ret = strdup(id);
    return *ret ? 0 : -ENOMEM;
}
