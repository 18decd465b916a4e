/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps clients out: the listener, tb-proxy itself, its keys. */
#include "causes_testing.h"

static void refused(void)
{
    s.client.answered = false;
    strcpy(s.client.error, "http://127.0.0.1:8000/health: Failed to connect");
}

static void proxy_dies(void)
{
    unit("tb-proxy.service", "activating", "auto-restart")->exit_code = 74;
    strcpy(unit("tb-proxy.service", "activating", "auto-restart")->said,
           "cannot open /var/lib/tb-proxy/usage");
    s.proxy = (struct tb_status_answer){.error = "refused"};
    s.client.answered = false;
}

static void proxy_silent(void)
{
    s.proxy = (struct tb_status_answer){.error = "timed out"};
    s.client.answered = false;
}

static void proxy_stopped(void)
{
    unit("tb-proxy.service", "inactive", "dead");
    s.proxy = (struct tb_status_answer){.error = "refused"};
    s.client.answered = false;
}

/* Those who watch cannot get in; clients can. */
static void health_port_silent(void)
{
    s.proxy = (struct tb_status_answer){.error = "timed out"};
    s.client.serves = true;
}

static void keys_wrong(void)
{
    strcpy(s.proxy.keys_trouble, "line 2 is no key");
}

static const struct row rows[] = {
    {{socket_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy.socket has failed: nobody listens on 0.0.0.0:8000",
     "systemctl start tb-proxy.socket tb-proxy.service"},
    {{refused},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "clients cannot connect to 0.0.0.0:8000: http://",
     "systemctl start tb-proxy.socket"},
    {{proxy_dies},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "it said: cannot open /var/lib/tb-proxy/usage",
     "journalctl --namespace=trustbridge -u tb-proxy.service"},
    {{proxy_silent},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy does not answer: timed out",
     "systemctl status tb-proxy.service"},
    {{proxy_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy.service is stopped",
     "systemctl start tb-proxy.service"},
    {{socket_down, proxy_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy.socket has failed",
     "ss -ltnp"},
    {{health_port_silent},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "requests are served, but the health port does not",
     "tb-proxy-health.socket"},
    {{keys_wrong}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "cannot be used: line 2", "tb-configure --check"},
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
