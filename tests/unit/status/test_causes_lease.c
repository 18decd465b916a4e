/* SPDX-License-Identifier: Apache-2.0 */
/* The lease, the control plane, the clock and the certificates. */
#include "causes_testing.h"

static void not_yet_valid(void)
{
    unreachable();
    strcpy(s.facts.contact.reason, "https://cp: SSL certificate problem: certificate is not yet valid");
}

/* Booted with a clock of long ago: nothing has been reached that could tell the time. */
static void booted_in_the_past(void)
{
    proxy_says("Authorize", "https://cp: SSL certificate problem: certificate is not yet valid");
    s.facts.lease = TB_LEASE_PENDING;
    strcpy(s.facts.lease_reason, "https://cp: SSL certificate problem: certificate is not yet valid");
    not_yet_valid();
    s.facts.contact.date_real_us = 0;
    s.facts.contact.client.from_us = s.facts.contact.ca.from_us = s.proxy.server.from_us = NOW + 900 * DAY;
    s.facts.contact.client.until_us = s.facts.contact.ca.until_us = s.proxy.server.until_us = NOW + 999 * DAY;
    s.facts.hydrate.work = s.facts.decrypt.work = s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-runtime.service", "inactive", "dead");
}

static void clock_a_year_ahead(void)
{
    s.realtime_us += 365 * DAY;
    s.facts.hydrate.written_realtime_us = NOW;
}

/* The certificates are new, and by the other clock have not begun. */
static void clock_off_with_new_certificates(void)
{
    s.facts.contact.date_real_us -= DAY;
    s.facts.contact.client.from_us = s.facts.contact.ca.from_us = s.proxy.server.from_us = NOW - 60 * S;
}

static void client_garbage(void)
{
    s.facts.contact.client = (struct tb_certificate){.path = "/etc/c.pem", .error = "holds no certificate"};
    unreachable();
}

static void server_expired(void)
{
    s.proxy.server.until_us = NOW - S;
}

static const struct row rows[] = {
    {{unreachable},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the control plane does not answer: https://cp",
     "firewall"},
    {{unreachable_long},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the control plane does not answer: https://cp",
     "serving goes on until the grace ends"},
    {{not_yet_valid}, TB_STATUS_WARNING, TB_STATUS_READY, 1, "certificate is not yet valid", "clock"},
    {{clock_off},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine is 1 d 0 h ahead of",
     "date -u -s 2026-01-07T10:00:0"},
    {{clock_off_a_little}, TB_STATUS_WARNING, TB_STATUS_READY, 1, "is 1 min ahead of", "timedatectl"},
    {{clock_off, not_yet_valid},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine",
     "date -u -s"},
    {{booted_in_the_past}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "no lease yet: https://cp", "date -u"},
    {{clock_off_with_new_certificates},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine",
     NULL},
    {{clock_a_year_ahead},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine is 365 d 0 h ahead",
     "date -u -s 2026-01-08T"},
    {{client_garbage},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "the client certificate /etc/c.pem holds no certificate",
     "systemctl restart tb-authorize.service"},
    {{server_expired},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "/tls has expired on 2026-01-08",
     "replace it"},
    {{client_expires}, TB_STATUS_WARNING, TB_STATUS_READY, 1, "/c expires in 3 d 0 h", "ask the provider"},
    {{suspended},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "refuses this contract: contract_revoked",
     "resumes by itself"},
};

static void test_each_condition(void **unused)
{
    check_rows(rows, ARRAY_SIZE(rows));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_condition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
