/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/purchase/judge.h"

#include <string.h>
#include <strings.h>

#define REASON_DELETED "application_deleted"
#define REASON_FAILED "application_failed"

static bool judge_one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (strcasecmp(s, *words) == 0)
            return true;
    return false;
}

static bool judge_is_deletion(const char *event)
{
    return strncasecmp(event, "DELETE ", 7) == 0;
}

static bool judge_has_failed(const char *provisioning)
{
    return judge_one_of(provisioning, (const char *const[]){"Failed", "Canceled", NULL});
}

/* A deployment that fails takes nothing from a customer who is served; a first one gets nothing. A deletion
 * that fails leaves what was there. */
static enum cp_wish judge_failure(const struct cp_application *a)
{
    return a->succeeded ? CP_WISH_GRANT : CP_WISH_END;
}

static enum cp_wish judge_by_notice(const struct cp_application *a)
{
    const char *provisioning = strchr(a->event, ' ');

    provisioning = provisioning ? provisioning + 1 : "";
    if (judge_has_failed(provisioning))
        return judge_failure(a);
    return judge_is_deletion(a->event) ? CP_WISH_END : CP_WISH_GRANT;
}

enum cp_wish cp_purchase_judge(const struct cp_application *a, enum cp_existence e, const char *provisioning,
                               uint64_t now_us)
{
    bool going = strcasecmp(a->event, "DELETE Deleting") == 0 || strcasecmp(a->event, "DELETE Deleted") == 0;

    switch (e) {
    case CP_EXISTENCE_UNKNOWN:
        return judge_by_notice(a);
    case CP_EXISTENCE_GONE:
        if (going || a->state == CP_APPLICATION_ENDED)
            return CP_WISH_END;
        return a->missing_us && now_us - a->missing_us >= CP_MISSING_US ? CP_WISH_END : CP_WISH_WAIT;
    case CP_EXISTENCE_FOUND:
        break;
    }
    if (judge_one_of(provisioning, (const char *const[]){"Deleting", "Deleted", NULL}))
        return CP_WISH_END;
    return judge_has_failed(provisioning) ? judge_failure(a) : CP_WISH_GRANT;
}

const char *cp_purchase_end_reason(const struct cp_application *a, enum cp_existence e,
                                   const char *provisioning)
{
    if (e == CP_EXISTENCE_UNKNOWN)
        return judge_is_deletion(a->event) ? REASON_DELETED : REASON_FAILED;
    return e == CP_EXISTENCE_FOUND && judge_has_failed(provisioning) ? REASON_FAILED : REASON_DELETED;
}

bool cp_purchase_end_reason_is(const char *reason)
{
    return strcmp(reason, REASON_DELETED) == 0 || strcmp(reason, REASON_FAILED) == 0;
}
