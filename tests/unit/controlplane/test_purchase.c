/* SPDX-License-Identifier: Apache-2.0 */
/* Notifications as they are read, and what follows of what is known of an application. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "controlplane/purchase/arm.h"
#include "controlplane/purchase/notice.h"

#define NOW 1767873600000000ULL
#define HOUR (3600 * 1000000ULL)
#define ID                                                                                                   \
    "/subscriptions/0A1b2c3d-0000-4000-8000-00000000000F/resourceGroups/RG/providers/Microsoft.Solutions/"   \
    "applications/Llama"
#define USAGE_ID "4d3ab7e5-4da9-4f0b-a25d-9f7f9a1a1111"
#define HEAD                                                                                                 \
    "{\"eventType\":\"PUT\",\"applicationId\":\"" ID "\",\"eventTime\":\"2026-01-08T12:00:00.1707163Z\","    \
    "\"provisioningState\":"

static struct cp_notice parse(const char *body)
{
    char err[TB_JSON_ERR_MAX];
    struct cp_notice n;

    if (cp_notice_parse(body, strlen(body), NOW, &n, err) < 0)
        fail_msg("%s: %s", body, err);
    return n;
}

static void test_a_notification_of_the_marketplace(void **state)
{
    struct cp_notice n = parse(
        HEAD "\"Succeeded\",\"billingDetails\":{\"resourceUsageId\":\"" USAGE_ID "\"},\"plan\":{"
             "\"publisher\":\"Acme\",\"product\":\"Models-preview\",\"name\":\"Gold\",\"version\":\"1\"}}");

    assert_string_equal(n.event, "PUT Succeeded");
    assert_int_equal(n.event_us, NOW + 170716);
    assert_string_equal(n.source, "acme/models-preview/gold");
    assert_string_equal(n.resource_usage_id, USAGE_ID);
    assert_string_equal(n.detail, "");
    assert_memory_equal(n.application_id, "/subscriptions/0a1b", 19);
}

static void test_a_failure_of_a_service_catalog(void **state)
{
    struct cp_notice n =
        parse(HEAD "\"Failed\",\"applicationDefinitionId\":\"/subscriptions/x/D\",\"error\":{"
                   "\"code\":\"Code\",\"message\":\"one\\ntwo\\u001b[1m\",\"details\":[]}}");

    assert_string_equal(n.source, "/subscriptions/x/d");
    assert_string_equal(n.resource_usage_id, "");
    assert_string_equal(n.detail, "Code: one?two?[1m");
}

static void test_members_that_make_no_sense_are_not_there(void **state)
{
    struct cp_notice n =
        parse(HEAD "\"Succeeded\",\"billingDetails\":{\"resourceUsageId\":\"' OR 1\"},"
                   "\"plan\":{\"publisher\":\"a\",\"product\":\"b c\",\"name\":\"d\"},\"error\":1}");

    assert_string_equal(n.source, "");
    assert_string_equal(n.resource_usage_id, "");
    n = parse("{\"eventType\":\"PUT\",\"applicationId\":\"" ID "\",\"provisioningState\":\"Accepted\","
              "\"plan\":[],\"billingDetails\":[]}");
    assert_int_equal(n.event_us, NOW);
}

static void test_what_is_no_notification_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "x",
        "[]",
        "{}",
        HEAD "7}",
        HEAD "\"\"}",
        HEAD "\"a b\"}",
        HEAD "\"abcdefghijklmnopqrstuvwxyz\"}",
        HEAD "\"Succeeded\"} x",
        "{\"eventType\":\"PUT\",\"provisioningState\":\"Succeeded\",\"applicationId\":\"/x\"}",
        "{\"eventType\":\"PUT\",\"provisioningState\":\"Succeeded\"}",
    };
    char err[TB_JSON_ERR_MAX];
    struct cp_notice n;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        err[0] = '\0';
        assert_true(cp_notice_parse(bad[i], strlen(bad[i]), NOW, &n, err) < 0);
        assert_true(*err);
    }
}

static void test_an_application_of_resource_manager(void **state)
{
    static const char body[] = "{\"id\":\"x\",\"plan\":{\"publisher\":\"acme\",\"product\":\"models\","
                               "\"name\":\"gold\"},\"properties\":{"
                               "\"managedResourceGroupId\":\"/subscriptions/S/resourceGroups/"
                               "MRG\",\"provisioningState\":\"Succeeded\","
                               "\"billingDetails\":{\"resourceUsageId\":\"" USAGE_ID "\"},"
                               "\"parameters\":{\"contractId\":{\"type\":\"String\",\"value\":\"acme-1\"}}}}";
    char err[TB_JSON_ERR_MAX];
    struct cp_arm_application a;

    assert_int_equal(cp_arm_parse(body, strlen(body), &a, err), 0);
    assert_int_equal(a.existence, CP_EXISTENCE_FOUND);
    assert_string_equal(a.provisioning, "Succeeded");
    assert_string_equal(a.source, "acme/models/gold");
    assert_string_equal(a.resource_usage_id, USAGE_ID);
    assert_string_equal(a.managed_group, "/subscriptions/s/resourcegroups/mrg");
    assert_string_equal(a.contract_id, "acme-1");
    assert_true(cp_arm_parse("{\"id\":\"x\"}", 10, &a, err) < 0);
    assert_true(cp_arm_parse("[]", 2, &a, err) < 0);
}

static void test_judgement_by_resource_manager(void **state)
{
    static const struct {
        const char *event, *provisioning; /* NULL: gone */
        bool succeeded;
        uint64_t missing_hours;
        enum cp_wish wish;
    } rows[] = {
        {"PUT Accepted", "Accepted", false, 0, CP_WISH_GRANT},
        {"PUT Accepted", "Creating", false, 0, CP_WISH_GRANT},
        {"PUT Succeeded", "succeeded", true, 0, CP_WISH_GRANT},
        {"PUT Failed", "Failed", false, 0, CP_WISH_END},
        {"PUT Failed", "Failed", true, 0, CP_WISH_GRANT},
        {"PUT Failed", "Canceled", false, 0, CP_WISH_END},
        {"DELETE Deleting", "Deleting", true, 0, CP_WISH_END},
        {"PUT Succeeded", "Deleting", true, 0, CP_WISH_END},      /* the newest was lost */
        {"DELETE Deleting", "Succeeded", true, 0, CP_WISH_GRANT}, /* it is not so */
        {"DELETE Failed", "Failed", true, 0, CP_WISH_GRANT},
        {"DELETE Deleted", NULL, true, 0, CP_WISH_END},
        {"PUT Accepted", NULL, false, 0, CP_WISH_WAIT}, /* not everywhere yet */
        {"PUT Succeeded", NULL, true, 23, CP_WISH_WAIT},
        {"PUT Succeeded", NULL, true, 24, CP_WISH_END},
        {"DELETE Failed", NULL, true, 1, CP_WISH_WAIT},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct cp_application a = {.succeeded = rows[i].succeeded,
                                   .state = CP_APPLICATION_GRANTED,
                                   .missing_us = NOW - rows[i].missing_hours * HOUR};
        enum cp_existence e = rows[i].provisioning ? CP_EXISTENCE_FOUND : CP_EXISTENCE_GONE;

        strcpy(a.event, rows[i].event);
        assert_int_equal(cp_purchase_judge(&a, e, rows[i].provisioning ? rows[i].provisioning : "", NOW),
                         rows[i].wish);
    }
}

static void test_judgement_by_notifications(void **state)
{
    static const struct {
        const char *event;
        bool succeeded;
        enum cp_wish wish;
        const char *reason;
    } rows[] = {
        {"PUT Accepted", false, CP_WISH_GRANT, NULL},
        {"PUT Succeeded", false, CP_WISH_GRANT, NULL},
        {"PATCH Succeeded", true, CP_WISH_GRANT, NULL},
        {"PUT Failed", false, CP_WISH_END, "application_failed"},
        {"PUT Failed", true, CP_WISH_GRANT, NULL},
        {"DELETE Deleting", true, CP_WISH_END, "application_deleted"},
        {"DELETE Deleted", true, CP_WISH_END, "application_deleted"},
        {"DELETE Failed", true, CP_WISH_GRANT, NULL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct cp_application a = {.succeeded = rows[i].succeeded};

        strcpy(a.event, rows[i].event);
        assert_int_equal(cp_purchase_judge(&a, CP_EXISTENCE_UNKNOWN, "", NOW), rows[i].wish);
        if (rows[i].reason)
            assert_string_equal(cp_purchase_end_reason(&a, CP_EXISTENCE_UNKNOWN, ""), rows[i].reason);
    }
    assert_true(cp_purchase_end_reason_is("application_deleted"));
    assert_true(cp_purchase_end_reason_is("application_failed"));
    assert_false(cp_purchase_end_reason_is("contract_revoked"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_notification_of_the_marketplace),
        cmocka_unit_test(test_a_failure_of_a_service_catalog),
        cmocka_unit_test(test_members_that_make_no_sense_are_not_there),
        cmocka_unit_test(test_what_is_no_notification_is_refused),
        cmocka_unit_test(test_an_application_of_resource_manager),
        cmocka_unit_test(test_judgement_by_resource_manager),
        cmocka_unit_test(test_judgement_by_notifications),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
