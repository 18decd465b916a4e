/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/answer.h"

#include <stdatomic.h>

#include "common/log.h"
#include "controlplane/api/metrics.h"
#include "common/units.h"

#define LOG_EVERY_US (10 * TB_USEC_PER_SEC)
/* Larger than any answer, so that cJSON never reallocates a buffer with a key in it. */
#define ANSWER_MAX (4 * CP_DEALT_MAX * CP_SAS_URL_MAX + 4096)

void cp_reply_clear(struct cp_reply *r)
{
    tb_erase_string(r->body);
    *r = (struct cp_reply){0};
}

void cp_answer_members(struct cp_reply *ret, unsigned status, const char *const *members)
{
    _cleanup_secret_json_ cJSON *j = cJSON_CreateObject();
    bool ok = j;

    for (; ok && members[0]; members += 2)
        ok = !members[1] || cJSON_AddStringToObject(j, members[0], members[1]);
    *ret = (struct cp_reply){.status = status, .body = ok ? cJSON_PrintBuffered(j, ANSWER_MAX, 0) : NULL};
}

void cp_answer_json(struct cp_reply *ret, unsigned status, const cJSON *j)
{
    *ret = (struct cp_reply){.status = status, .body = j ? cJSON_PrintUnformatted(j) : NULL};
}

void cp_answer_object(struct cp_reply *ret, const cJSON *j)
{
    *ret = (struct cp_reply){.status = 200, .body = cJSON_PrintBuffered(j, ANSWER_MAX, 0)};
}

void cp_api_too_large(struct cp_reply *ret)
{
    cp_answer(ret, 413, "error", "payload_too_large", "message", "the body is larger than 64 KiB");
}

void cp_answer_later(struct cp_reply *ret, const char *reason, const char *message)
{
    cp_answer(ret, 503, "error", reason, "reason", reason, "message", message);
    ret->retry_s = 1;
}

void cp_answer_too_often(struct cp_reply *ret, unsigned seconds, const char *who, const char *what)
{
    static _Atomic uint64_t last_us;
    uint64_t now = tb_now_monotonic_us(), last = last_us;

    if (now - last > LOG_EVERY_US && atomic_compare_exchange_strong(&last_us, &last, now))
        tb_error("too many requests: %s %s; refused for %u s", who, what, seconds);
    cp_answer(ret, 429, "error", "too_many_requests", "reason", "too_many_requests", "message",
              "too many requests; try again later");
    ret->retry_s = seconds;
}

void cp_api_unavailable(struct cp_reply *ret, const char *message)
{
    cp_answer_later(ret, "unavailable", message);
}

/* Clients retry a 5xx. */
void cp_answer_store_failure(const struct cp_store *s, const char *doing, int r, struct cp_reply *ret)
{
    cp_metric_add(CP_METRIC_FAILED_STORE);
    if (r == -EBUSY) {
        tb_error("%s: the database is busy: held by another process, or too many wrote the same", doing);
        cp_answer_later(ret, "busy", "the database is busy; try again");
    } else if (r == -ENOTCONN) {
        tb_error("%s: the database does not answer: %s", doing, cp_store_error(s));
        cp_answer_later(ret, "unavailable", "the database does not answer; try again");
    } else {
        tb_error("%s: error of the database: %s", doing, cp_store_error(s));
        cp_answer(ret, 500, "error", "internal_error", "reason", "internal_error", "message",
                  "internal error; see the log of the control plane");
    }
}

void cp_answer_misconfigured(struct cp_reply *ret)
{
    cp_metric_add(CP_METRIC_FAILED_SETTINGS);
    cp_answer(ret, 500, "error", "server_configuration_error", "reason", "server_configuration_error",
              "message", "the control plane is not set up for this asset; see its log");
}

void cp_answer_key_service(struct cp_reply *ret)
{
    cp_metric_add(CP_METRIC_FAILED_KEY_SERVICE);
    cp_answer_later(ret, "key_service_unavailable", "the key service does not answer; try again");
}
