/* SPDX-License-Identifier: Apache-2.0 */
/* The screen and the JSON as functions of what is known: text and conclusions, never a machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "status/status.h"

#define S TB_USEC_PER_SEC
#define NOW (1767866400ULL * S) /* 2026-01-08T10:00:00Z */

static struct tb_unit *add_unit(struct tb_snapshot *s, const char *name, const char *active, const char *sub)
{
    struct tb_unit *u = &s->units[s->n_units++];

    *u = (struct tb_unit){.exit_code = -1, .since_realtime_us = NOW - 100 * S};
    snprintf(u->name, sizeof(u->name), "%s", name);
    snprintf(u->load, sizeof(u->load), "loaded");
    snprintf(u->active, sizeof(u->active), "%s", active);
    snprintf(u->sub, sizeof(u->sub), "%s", sub);
    return u;
}

static void set_step(struct tb_step *step, const char *phase, uint64_t done, uint64_t total)
{
    *step = (struct tb_step){.work = tb_work_from_string(phase),
                             .bytes_done = done,
                             .bytes_total = total,
                             .written_realtime_us = NOW - S};
    snprintf(step->phase, sizeof(step->phase), "%s", phase);
}

/* A machine in the middle of its download: proxy, bus and journal all answer. */
static struct tb_snapshot *hydrating(void)
{
    static struct tb_snapshot s;

    s = (struct tb_snapshot){
        .realtime_us = NOW, .boottime_us = 1000 * S, .units_known = true, .errors_known = true};
    s.facts.lease = TB_LEASE_AUTHORIZED;
    strcpy(s.facts.contract_id, "contract-1");
    strcpy(s.facts.asset_id, "asset-1");
    strcpy(s.facts.expires_at, "2026-01-08T10:42:30Z");
    strcpy(s.facts.renewed_at, "2026-01-08T09:59:00Z");
    s.facts.has_deadline = true;
    s.facts.deadline_boottime_us = (1000 + 3600 * 24) * S;
    set_step(&s.facts.hydrate, "downloading", 3ULL << 30, 12ULL << 30);
    s.proxy = (struct tb_status_answer){.came = true,
                                        .has_requests = true,
                                        .requests = 7,
                                        .uptime_s = 120,
                                        .state = "Hydrate",
                                        .reason = "downloading"};
    strcpy(s.proxy.since, "2026-01-08T09:58:00Z");
    s.configured = true;
    add_unit(&s, "tb-authorize.service", "active", "running");
    add_unit(&s, "tb-billing.service", "active", "running");
    add_unit(&s, "tb-hydrate.service", "activating", "start");
    add_unit(&s, "tb-keys.socket", "active", "running");
    add_unit(&s, "tb-proxy.service", "active", "running");
    add_unit(&s, "trustbridge.target", "active", "active");
    return &s;
}

static struct tb_unit *unit(struct tb_snapshot *s, const char *name)
{
    return (struct tb_unit *)tb_status_unit(s, name);
}

static char *screen(const struct tb_snapshot *s, bool colour, int width)
{
    struct tb_conclusion c;
    char *text;

    tb_status_conclude(s, &c);
    text = tb_status_render(s, &c, colour, width);
    assert_non_null(text);
    return text;
}

/* Where lines are broken is another test's question. */
static void squeeze(char *text)
{
    char *to = text;

    for (char *from = text; *from; from++) {
        bool space = *from == ' ' || *from == '\n';

        if (!space || to == text || to[-1] != ' ')
            *to++ = space ? ' ' : *from;
    }
    *to = '\0';
}

static void shows(const struct tb_snapshot *s, const char *want)
{
    _cleanup_free_ char *text = screen(s, false, 80);

    squeeze(text);
    if (!strstr(text, want))
        fail_msg("\"%s\" is not in:\n%s", want, text);
}

static void says(const struct tb_snapshot *s, const char *state, int exit_code, size_t problems)
{
    struct tb_conclusion c;

    tb_status_conclude(s, &c);
    assert_string_equal(c.state, state);
    assert_int_equal(c.exit_code, exit_code);
    if (c.n_problems != problems)
        fail_msg("%zu problems; the first: %s", c.n_problems, c.problems[0].what);
}

static void test_a_whole_screen(void **unused)
{
    static const char want[] =
        "TrustBridge   Hydrate                                       2026-01-08T10:00:00Z\n"
        "  reason    downloading\n"
        "  since     2026-01-08T09:58:00Z, 2 min ago\n"
        "  contract  contract-1\n"
        "  asset     asset-1\n"
        "  lease     authorized, expires in 42 min (10:42:30), grace ends in 1 d 0 h;\n"
        "            renewed 1 min ago\n"
        "  attested  level none\n"
        "  download  [#####...............]  25 %  3.0 GiB of 12.0 GiB, downloading\n"
        "  weights   not in memory\n"
        "  requests  7 since tb-proxy started 2 min ago\n"
        "\n"
        "Units\n"
        "  tb-authorize.service  active (running)          1 min\n"
        "  tb-billing.service    active (running)          1 min\n"
        "  tb-hydrate.service    activating (start)        1 min, 1 restart\n"
        "                        Downloading 3.0 GiB of 12.0 GiB (25 %), 310.0 MiB/s\n"
        "  tb-proxy.service      active (running)          1 min\n"
        "\n"
        "Last warnings and errors (journalctl --namespace=trustbridge -p warning)\n"
        "  09:59:50  tb-hydrate: the connection broke, trying again (4 times)\n";
    struct tb_snapshot *s = hydrating();
    struct tb_error_line *e = &s->errors[s->n_errors++];
    _cleanup_free_ char *text = NULL;

    unit(s, "tb-hydrate.service")->restarts = 1;
    strcpy(unit(s, "tb-hydrate.service")->text, "Downloading 3.0 GiB of 12.0 GiB (25 %), 310.0 MiB/s");
    *e = (struct tb_error_line){
        .realtime_us = NOW - 10 * S, .priority = 4, .times = 4, .program = "tb-hydrate"};
    strcpy(e->message, "the connection broke, trying again");
    text = screen(s, false, 80);
    assert_string_equal(text, want);
    says(s, "Hydrate", 3, 0);
}

static void test_ready_is_zero_and_nothing_else_is(void **unused)
{
    struct tb_snapshot *s = hydrating();

    strcpy(s->proxy.state, "Ready");
    s->proxy.reason[0] = '\0';
    says(s, "Ready", 0, 0);
    strcpy(s->proxy.state, "Dreaming"); /* of a newer tb-proxy */
    says(s, "Unknown", 3, 0);
}

static void test_files_alone_are_never_ready(void **unused)
{
    struct tb_snapshot *s = hydrating();

    s->proxy = (struct tb_status_answer){.error = "http://127.0.0.1:8001/status: refused"};
    says(s, "Hydrate", 3, 1);
    set_step(&s->facts.hydrate, "complete", 12, 12);
    set_step(&s->facts.delivery, "delivered", 0, 0);
    says(s, "Down", 3, 1);
    s->facts.runtime_healthy = true; /* nobody can know that */
    says(s, "Down", 3, 1);
    shows(s, "! tb-proxy does not answer: http://127.0.0.1:8001/status: refused -> systemctl status "
             "tb-proxy");
}

static void test_a_machine_without_it_is_unknown(void **unused)
{
    static struct tb_snapshot s;

    s = (struct tb_snapshot){.realtime_us = NOW, .units_known = true};
    says(&s, "Unknown", 4, 0);
    add_unit(&s, "tb-proxy.service", "inactive", "dead");
    says(&s, "Boot", 3, 1);
    shows(&s, "! no contract is configured, so nothing is started");
    shows(&s, "systemctl restart tb-configure.service");
    s.configured = true;
    says(&s, "Boot", 3, 2); /* tb-proxy does not answer, trustbridge.target is not started */
    shows(&s, "-> systemctl start trustbridge.target");
}

static void test_a_dead_writer_is_named(void **unused)
{
    struct tb_snapshot *s = hydrating();

    s->facts.hydrate.written_realtime_us = NOW - 7200 * S;
    says(s, "Hydrate", 3, 1);
    shows(s, "was last written 2 h 0 min ago: its writer is dead or stuck");
    strcpy(unit(s, "tb-hydrate.service")->active, "inactive");
    says(s, "Hydrate", 3, 1);
    shows(s, "left by a dead writer 2 h 0 min ago");
    shows(s, "says \"downloading\", but tb-hydrate.service does not run");
    s->units_known = false; /* nobody to ask: the age is what there is */
    shows(s, "last written 2 h 0 min ago");
    assert_false(tb_status_writer_dead(s, &s->facts.hydrate, "tb-hydrate.service"));
}

static void test_a_failed_unit_comes_with_its_exit_code(void **unused)
{
    struct tb_snapshot *s = hydrating();
    struct tb_unit *u = unit(s, "tb-hydrate.service");

    strcpy(u->active, "failed");
    strcpy(u->result, "exit-code");
    u->exit_code = 76;
    set_step(&s->facts.hydrate, "failed", 3, 12);
    strcpy(s->facts.hydrate.reason, "model.tbenc: SHA-256 is not the manifest's");
    says(s, "Hydrate", 3, 1); /* one entry for one cause: the step's word, not its unit's death as well */
    shows(s, "tb-hydrate.service: model.tbenc: SHA-256 is not the manifest's");
    u->exit_code = 78;
    shows(s, "-> correct /etc/trustbridge/trustbridge.env");
    u->exit_code = 76;
    s->facts.hydrate = (struct tb_step){0}; /* it has left nothing but its exit code */
    says(s, "Hydrate", 3, 1);
    shows(s, "tb-hydrate.service has failed: exit 76, integrity");
    strcpy(u->text, "Waiting");
    shows(s, "it said: Waiting");
    strcpy(u->said, "model.tbenc: 12 bytes are missing");
    shows(s, "it said: model.tbenc: 12 bytes are missing");
    u->exit_code = 78;
    shows(s, "-> correct /etc/trustbridge/trustbridge.env");
    u->exit_code = -1;
    u->killed_by = 9;
    strcpy(u->active, "activating");
    strcpy(u->sub, "auto-restart");
    shows(s, "tb-hydrate.service is restarted again and again: killed by signal 9 (SIGKILL)");
    set_step(&s->facts.hydrate, "downloading", 3, 12);
    u->restarts = 3;
    strcpy(u->active, "active"); /* between two deaths */
    strcpy(u->sub, "running");
    says(s, "Hydrate", 3, 1);
    shows(s, "tb-hydrate.service has been restarted 3 times, the last time 1 min ago");
    u->since_realtime_us = NOW - 600 * S;
    says(s, "Hydrate", 3, 0);
}

static void test_wrong_settings_are_one_problem_that_stops_nothing(void **unused)
{
    struct tb_snapshot *s = hydrating();
    static const char *const units[] = {"tb-configure.service", "tb-settings.service"};

    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        struct tb_unit *u = add_unit(s, units[i], "failed", "failed");

        strcpy(u->result, "exit-code");
        u->exit_code = 78;
    }
    says(s, "Hydrate", 3, 1);
    shows(s, "! /etc/trustbridge/trustbridge.env has errors; what was in force before still is -> "
             "tb-configure --check");
    strcpy(s->settings_error, "TB_LEASE_GRACE: 'soon' is no time");
    says(s, "Hydrate", 3, 1);
    shows(s, "still is. The first: TB_LEASE_GRACE: 'soon' is no time -> tb-configure --check");
}

static void test_a_runtime_that_does_not_answer(void **unused)
{
    struct tb_snapshot *s = hydrating();

    set_step(&s->facts.hydrate, "complete", 12, 12);
    set_step(&s->facts.delivery, "delivered", 0, 0);
    strcpy(s->proxy.state, "Decrypt");
    strcpy(s->proxy.reason, "runtime_not_answering");
    says(s, "Decrypt", 3, 1);
    shows(s, "-> a large model takes its time; else compare the address in TB_RUNTIME_EXEC");
}

static void test_leases(void **unused)
{
    struct tb_snapshot *s = hydrating();

    s->realtime_us = NOW + 3600 * S;
    s->facts.hydrate.written_realtime_us = s->realtime_us;
    s->facts.lease = TB_LEASE_UNREACHABLE;
    strcpy(s->facts.lease_reason, "https://cp: connection refused");
    shows(s, "lease authorized, control plane unreachable, EXPIRED 17 min ago (10:42:30)");
    shows(s, "! the control plane does not answer: https://cp: connection refused");
    s->boottime_us = s->facts.deadline_boottime_us;
    shows(s, "grace over");
    s->facts.expires_at[0] = '\0';
    s->facts.has_deadline = false;
    shows(s, "unreachable, without an end; renewed");
    strcpy(s->proxy.state, "Suspended");
    s->facts.lease = TB_LEASE_DENIED;
    strcpy(s->facts.lease_reason, "contract_revoked");
    says(s, "Suspended", 3, 1);
    shows(s, "! the control plane refuses this contract: contract_revoked -> check TB_CONTRACT_ID");
}

static void test_a_suspended_machine_has_its_target_stopped(void **unused)
{
    struct tb_snapshot *s = hydrating();

    strcpy(unit(s, "trustbridge.target")->active, "inactive");
    says(s, "Hydrate", 3, 1);
    strcpy(s->proxy.state, "Suspended");
    says(s, "Suspended", 3, 1); /* the suspension itself */
    strcpy(unit(s, "tb-authorize.service")->active, "inactive");
    says(s, "Suspended", 3, 2); /* and that nobody asks again */
}

static void test_what_cannot_be_read_says_so(void **unused)
{
    struct tb_snapshot *s = hydrating();

    s->units_known = s->errors_known = false;
    strcpy(s->units_note, "systemd does not answer: no bus");
    strcpy(s->errors_note, "not readable for this user");
    s->facts.broken = "tb-authorize/lease.json";
    s->facts.broken_error = -EBADMSG;
    says(s, "Hydrate", 3, 1);
    shows(s, "Units systemd does not answer: no bus ");
    shows(s, "not readable for this user ");
    shows(s, "! tb-authorize/lease.json cannot be read: Bad message");
}

static void test_lines_keep_to_the_width(void **unused)
{
    struct tb_snapshot *s = hydrating();
    struct tb_error_line *e = &s->errors[s->n_errors++];

    strcpy(e->program, "tb-hydrate");
    e->times = 1;
    for (int i = 0; i < 60; i++)
        strcat(e->message, i % 7 ? "gr\xc3\xbc\xc3\x9f" : "x ");
    for (int width = 40; width <= 200; width += 8) {
        _cleanup_free_ char *text = screen(s, false, width);
        char *message = strstr(text, "tb-hydrate: ");

        for (char *line = strtok(message, "\n"); line; line = strtok(NULL, "\n")) {
            size_t columns = 0;

            for (const char *p = line; *p; p++)
                columns += ((unsigned char)*p & 0xc0) != 0x80;
            assert_true(columns <= (size_t)width);
            assert_true(((unsigned char)line[strspn(line, " ")] & 0xc0) != 0x80);
        }
    }
}

static void test_colours_only_when_asked(void **unused)
{
    struct tb_snapshot *s = hydrating();
    _cleanup_free_ char *plain = screen(s, false, 80), *coloured = screen(s, true, 80);

    assert_null(strchr(plain, '\033'));
    assert_non_null(strstr(coloured, "\033[1;33mHydrate\033[0m"));
}

static void test_a_line_for_a_pipe(void **unused)
{
    struct tb_snapshot *s = hydrating();
    struct tb_conclusion c;
    _cleanup_free_ char *line = NULL;

    tb_status_conclude(s, &c);
    line = tb_status_line(s, &c);
    assert_string_equal(line, "Hydrate 3.0 GiB of 12.0 GiB (downloading)");
}

static void test_json_is_the_same(void **unused)
{
    struct tb_snapshot *s = hydrating();
    struct tb_conclusion c;
    _cleanup_free_ char *text = NULL;
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *word;
    uint64_t n;

    unit(s, "tb-hydrate.service")->exit_code = 75;
    tb_status_conclude(s, &c);
    text = tb_status_json(s, &c, true);
    assert_null(strchr(text, '\n'));
    assert_int_equal(tb_json_parse(text, strlen(text), 1 << 20, &doc, err), 0);
    assert_int_equal(tb_json_get_string(doc, "state", &word, err), 0);
    assert_string_equal(word, "Hydrate");
    assert_int_equal(tb_json_get_uint(tb_json_member(doc, "hydrate"), "bytes_total", UINT64_MAX, &n, err), 0);
    assert_int_equal(n, 12ULL << 30);
    assert_int_equal(
        tb_json_get_uint(tb_json_member(doc, "lease"), "grace_ends_in_seconds", UINT64_MAX, &n, err), 0);
    assert_int_equal(n, 86400);
    assert_int_equal(cJSON_GetArraySize(tb_json_member(doc, "units")), 6);
    assert_int_equal(tb_json_get_uint(cJSON_GetArrayItem(tb_json_member(doc, "units"), 2), "exit_code",
                                      UINT64_MAX, &n, err),
                     0);
    assert_int_equal(n, 75);
    assert_null(tb_json_member(doc, "decrypt"));
    s->units_known = false;
    free(TAKE_PTR(text));
    text = tb_status_json(s, &c, true);
    assert_non_null(strstr(text, "\"units\":null"));
}

static void test_addresses(void **unused)
{
    static const char *const pairs[][2] = {{"0.0.0.0:8001", "127.0.0.1:8001"},
                                           {":8001", "127.0.0.1:8001"},
                                           {"[::]:8001", "[::1]:8001"},
                                           {"10.0.0.4:81", "10.0.0.4:81"}};
    char out[96];

    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
        tb_status_connect_address(pairs[i][0], out, sizeof(out));
        assert_string_equal(out, pairs[i][1]);
    }
}

static void test_answers_of_somebody_else(void **unused)
{
    static const char *const bad[] = {"", "[]", "{}", "{\"state\":1}", "<html>", "{\"state\":\"Ready\"} x"};
    struct tb_status_answer a = {0};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(tb_status_parse_answer(bad[i], strlen(bad[i]), &a), -EBADMSG);
    assert_int_equal(tb_status_parse_answer("{\"state\":\"Ready\"}", 17, &a), 0);
    assert_false(a.has_requests);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_screen),
        cmocka_unit_test(test_ready_is_zero_and_nothing_else_is),
        cmocka_unit_test(test_files_alone_are_never_ready),
        cmocka_unit_test(test_a_machine_without_it_is_unknown),
        cmocka_unit_test(test_a_dead_writer_is_named),
        cmocka_unit_test(test_a_failed_unit_comes_with_its_exit_code),
        cmocka_unit_test(test_wrong_settings_are_one_problem_that_stops_nothing),
        cmocka_unit_test(test_a_runtime_that_does_not_answer),
        cmocka_unit_test(test_leases),
        cmocka_unit_test(test_a_suspended_machine_has_its_target_stopped),
        cmocka_unit_test(test_what_cannot_be_read_says_so),
        cmocka_unit_test(test_lines_keep_to_the_width),
        cmocka_unit_test(test_colours_only_when_asked),
        cmocka_unit_test(test_a_line_for_a_pipe),
        cmocka_unit_test(test_json_is_the_same),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_answers_of_somebody_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
