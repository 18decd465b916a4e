/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/chain_head.h"
#include "common/io.h"
#include "common/json.h"
#include "common/hex.h"
#include "proxy/audit/audit.h"
#include "proxy/audit/refusals.h"

static struct tb_audit_record *record(const char *path)
{
    struct tb_audit_record *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    tb_audit_record_set_path(r, path, strlen(path));
    strcpy(r->method, "GET");
    strcpy(r->client, "192.0.2.1");
    r->status = 200;
    r->req_complete = true;
    return r;
}

static void test_line_is_json(void **unused)
{
    struct tb_audit_record *r = record("/v1/\"\\\n\xff\x01");
    _cleanup_buf_ struct tb_buf b = {0};
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];

    r->start_realtime_us = 1767873600123000ULL;
    strcpy(r->key_name, "alice");
    assert_int_equal(tb_audit_format(r, "c-1", "a-1", &b), 0);
    assert_int_equal(tb_json_parse(b.data, b.len, 4096, &doc, err), 0);
    assert_non_null(
        memmem(b.data, b.len, "{\"ts\":\"2026-01-08T12:00:00.123Z\",\"contract_id\":\"c-1\",", 53));
    for (size_t i = 0; i < b.len; i++)
        assert_in_range(b.data[i], 0x20, 0x7e);
    free(r);
}

static void test_a_path_is_escaped_once_and_bounded(void **unused)
{
    _cleanup_free_ struct tb_audit_record *r = record("/v1/a%2Fb \"\\\x7f\xff\x9b");
    char path[6000];

    assert_string_equal(r->path, "/v1/a%2Fb%20%22%5C%7F%FF%9B");
    assert_string_equal(r->path_sha256, "");
    for (size_t len = 80; len < sizeof(path); len += 7) {
        uint8_t hash[TB_CHAIN_HASH_BYTES];
        char hex[65];

        memset(path, 0xff, len);
        path[0] = '/';
        tb_audit_record_set_path(r, path, len);
        assert_true(strlen(r->path) <= TB_AUDIT_PATH_MAX);
        assert_string_equal(r->path + strlen(r->path) - 3, "%FF"); /* not cut within an escape */
        assert_int_equal(tb_chain_hash(path, len, hash), 0);
        tb_hex_encode(hash, sizeof(hash), hex);
        assert_string_equal(r->path_sha256, 3 * (len - 1) + 1 > TB_AUDIT_PATH_MAX ? hex : "");
    }
}

static struct tb_audit_record *refusal(int status, const char *client, uint64_t n)
{
    struct tb_audit_record *r = record("/x");

    r->unidentified = true;
    r->status = status;
    r->start_realtime_us = n;
    r->bytes_in = 1;
    strcpy(r->client, client);
    return r;
}

#define SECOND 1000000ULL

/* 200 a second, of two kinds, for an hour: each is in a record, and the records are few. */
static void test_a_flood_of_refusals_adds_up(void **unused)
{
    struct tb_refusals f = {0};
    uint64_t now = 5 * SECOND, single = 0, counted = 0, records = 0, bytes = 0, last = 0;
    struct tb_audit_record *r;

    for (uint64_t i = 0; i < 200 * 3600; i++, now += SECOND / 200) {
        r = refusal(i % 2 ? 400 : 401, "192.0.2.1", i);
        if (tb_refusals_add(&f, r, now)) {
            single++;
            free(r);
        }
        while ((r = tb_refusals_take(&f, now, false))) {
            records++;
            counted += r->count;
            bytes += r->bytes_in;
            assert_true(r->last_realtime_us >= r->start_realtime_us && r->last_realtime_us <= i);
            assert_string_equal(r->client, "192.0.2.1");
            last = MAX(last, r->last_realtime_us);
            free(r);
        }
        if (i == 200 * 30 - 1)
            assert_true(single <= TB_REFUSALS_BURST + 4 && counted >= 2000);
    }
    assert_int_equal(single + counted + f.waiting, 200 * 3600);
    assert_int_equal(bytes, counted);
    assert_in_range(single, TB_REFUSALS_BURST, TB_REFUSALS_BURST + 361);
    assert_true(records < 2 * 70);
    while ((r = tb_refusals_take(&f, now, true))) {
        counted += r->count;
        free(r);
    }
    assert_int_equal(single + counted, 200 * 3600);
    assert_int_equal(f.waiting, 0);
    assert_int_equal(tb_refusals_due_us(&f), UINT64_MAX);
}

static void test_refusals_of_many_kinds_and_clients(void **unused)
{
    struct tb_refusals f = {.ahead_us = UINT64_MAX / 2};
    struct tb_audit_record *r;
    uint64_t counted = 0, groups = 0;

    for (int i = 0; i < 300; i++)
        assert_false(
            tb_refusals_add(&f, refusal(400 + i % 30, i % 60 < 30 ? "192.0.2.1" : "192.0.2.2", 1), SECOND));
    assert_int_equal(tb_refusals_due_us(&f), 2 * SECOND);
    while ((r = tb_refusals_take(&f, 2 * SECOND, false))) {
        counted += r->count;
        groups++;
        assert_string_equal(r->client, "-");
        assert_string_equal(r->error, groups == TB_REFUSALS_GROUPS ? "various" : "");
        free(r);
    }
    assert_int_equal(counted, 300);
    assert_int_equal(groups, TB_REFUSALS_GROUPS);
    tb_refusals_clear(&f);
}

static void test_refusals_hold_no_slot_and_are_written_at_the_end(void **unused)
{
    char dir[] = "/tmp/tb-audit-XXXXXX";
    _cleanup_free_ char *file = NULL, *head = NULL, *text = NULL;
    struct tb_audit_config c = {.contract_id = "c", .asset_id = "a", .queue = 1000};
    struct tb_audit_stats stats;
    struct tb_audit *a;
    const char *count;
    size_t len;

    assert_non_null(mkdtemp(dir));
    c.file = file = tb_path_join(dir, "audit");
    c.head_file = head = tb_path_join(dir, "head");
    assert_int_equal(tb_audit_open(&c, &a), 0);
    for (int i = 0; i < 20000; i++) {
        assert_int_not_equal(tb_audit_admit(a), TB_ADMIT_DROP);
        tb_audit_submit(a, refusal(401, "192.0.2.1", 1));
    }
    tb_audit_get_stats(a, &stats);
    assert_int_equal(stats.aggregated, 20000 - TB_REFUSALS_BURST);
    assert_true(stats.slots <= TB_REFUSALS_BURST);
    assert_int_equal(tb_audit_close(a, 5000), 0);
    assert_int_equal(tb_read_file(file, 1 << 20, &text, &len), 0);
    count = strstr(text, "\"count\":");
    assert_non_null(count);
    assert_int_equal(atoi(count + 8), 20000 - TB_REFUSALS_BURST);
    assert_non_null(strstr(count, "\"last_ts\":\"1970-"));
    unlink(file);
    unlink(head);
    rmdir(dir);
}

/* Slots are taken by requests in flight: nothing needs to be slow for the queue to be full. */
static void test_full_queue_refuses_then_drops(void **unused)
{
    struct tb_audit_config c = {.contract_id = "c", .asset_id = "a", .file = "/dev/null", .queue = 2};
    struct tb_audit_stats stats;
    struct tb_audit *a;

    assert_int_equal(tb_audit_open(&c, &a), 0);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT_REFUSE);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT_REFUSE);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT_DROP);
    for (int i = 0; i < 4; i++)
        tb_audit_submit(a, record("/x"));
    do {
        usleep(1000);
        tb_audit_get_stats(a, &stats);
    } while (stats.slots > 0);
    assert_int_equal(stats.written, 4);
    assert_int_equal(stats.dropped, 1);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT); /* and it recovers */
    tb_audit_submit(a, record("/x"));
    assert_int_equal(tb_audit_close(a, 5000), 0);
}

static void test_broken_sink_keeps_records_and_refuses(void **unused)
{
    struct tb_audit_config c = {.contract_id = "c", .asset_id = "a", .file = "/dev/full", .queue = 10};
    char why[TB_AUDIT_TROUBLE_MAX];
    struct tb_audit_stats stats;
    struct tb_audit *a;

    assert_int_equal(tb_audit_open(&c, &a), 0);
    assert_false(tb_audit_trouble(a, why));
    assert_int_equal(tb_audit_admit(a), TB_ADMIT);
    tb_audit_submit(a, record("/x"));
    do {
        usleep(1000);
        tb_audit_get_stats(a, &stats);
    } while (!stats.broken);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT_REFUSE);
    tb_audit_submit(a, record("/y"));
    assert_true(tb_audit_trouble(a, why));
    assert_string_equal(why, "audit_unavailable: /dev/full cannot be written: No space left on device");
    assert_int_equal(tb_audit_close(a, 300), 2); /* both are reported as not written */
}

/* What is said about the audit and what it does are one: each obstacle in turn. */
static void test_trouble_is_what_admission_goes_by(void **unused)
{
    char file[] = "/tmp/tb-audit-XXXXXX", why[TB_AUDIT_TROUBLE_MAX];
    struct tb_audit_config c = {.contract_id = "c", .asset_id = "a", .file = file, .queue = 2};
    _cleanup_close_ int fd = mkstemp(file);
    struct tb_audit *a;

    assert_int_equal(tb_audit_open(&c, &a), 0);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT);
    tb_audit_bar(a, "audit_unavailable: full");
    assert_true(tb_audit_trouble(a, why));
    assert_string_equal(why, "audit_unavailable: full");
    assert_int_equal(tb_audit_admit(a), TB_ADMIT_REFUSE); /* with it the queue is full */
    tb_audit_bar(a, "");
    assert_true(tb_audit_trouble(a, why));
    assert_non_null(strstr(why, "too many records"));
    assert_int_equal(tb_audit_admit(a), TB_ADMIT_REFUSE);
    for (int i = 0; i < 3; i++)
        tb_audit_submit(a, record("/x"));
    while (tb_audit_trouble(a, why))
        usleep(1000);
    assert_string_equal(why, "");
    assert_int_equal(tb_audit_admit(a), TB_ADMIT);
    tb_audit_submit(a, record("/x"));
    assert_int_equal(tb_audit_close(a, 5000), 0);
    unlink(file);
}

/* No journal on the machine of this test, whatever it has. */
static unsigned journal_asked;
int access(const char *path, int mode)
{
    if (strcmp(path, "/run/systemd/journal/socket") != 0)
        return faccessat(AT_FDCWD, path, mode, 0);
    __atomic_fetch_add(&journal_asked, 1, __ATOMIC_RELAXED);
    errno = ENOENT;
    return -1;
}

static void test_lost_journal_does_not_repeat_lines_in_the_file(void **unused)
{
    char file[] = "/tmp/tb-audit-XXXXXX", *second;
    struct tb_audit_config c = {
        .contract_id = "c", .asset_id = "a", .file = file, .queue = 10, .journal = true};
    _cleanup_close_ int fd = mkstemp(file);
    _cleanup_free_ char *text = NULL;
    struct tb_audit *a;
    size_t len;

    assert_true(fd >= 0);
    assert_int_equal(tb_audit_open(&c, &a), 0);
    assert_int_equal(tb_audit_admit(a), TB_ADMIT);
    tb_audit_submit(a, record("/x"));
    while (__atomic_load_n(&journal_asked, __ATOMIC_RELAXED) < 3) /* two retries */
        usleep(10000);
    assert_int_equal(tb_audit_close(a, 0), 1);
    assert_int_equal(tb_read_file(file, 65536, &text, &len), 0);
    second = strchr(text, '\n');
    assert_non_null(second);
    assert_string_equal(second + 1, "");
    unlink(file);
}

static void test_sequence_goes_on_after_a_restart(void **unused)
{
    char dir[] = "/tmp/tb-audit-XXXXXX";
    _cleanup_free_ char *file = NULL, *seq = NULL, *text = NULL;
    size_t len;

    assert_non_null(mkdtemp(dir));
    file = tb_path_join(dir, "audit");
    seq = tb_path_join(dir, "seq");
    for (int run = 0; run < 3; run++) {
        struct tb_audit_config c = {.contract_id = "c",
                                    .asset_id = "a",
                                    .file = file,
                                    .queue = 10,
                                    .head_file =
                                        run < 2 ? seq : NULL}; /* the last run has only the file to go by */
        struct tb_audit *a;

        assert_int_equal(tb_audit_open(&c, &a), 0);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(tb_audit_admit(a), TB_ADMIT);
            tb_audit_submit(a, record("/x,\"seq\":999"));
        }
        assert_int_equal(tb_audit_close(a, 5000), 0);
    }
    assert_int_equal(tb_read_file(file, 65536, &text, &len), 0);
    for (int i = 1; i <= 6; i++) {
        char want[32];

        snprintf(want, sizeof(want), ",\"seq\":%d,", i);
        assert_non_null(strstr(text, want));
    }
    unlink(file);
    unlink(seq);
    rmdir(dir);
}

/* Writes n records and closes. Returns the file's text. */
static char *write_records(const struct tb_audit_config *c, int n)
{
    struct tb_audit *a;
    char *text;
    size_t len;

    assert_int_equal(tb_audit_open(c, &a), 0);
    for (int i = 0; i < n; i++) {
        assert_int_equal(tb_audit_admit(a), TB_ADMIT);
        tb_audit_submit(a, record("/x"));
    }
    assert_int_equal(tb_audit_close(a, 5000), 0);
    assert_int_equal(tb_read_file(c->file, 65536, &text, &len), 0);
    return text;
}

static const char *line_start(const char *text, int n)
{
    while (n-- > 0)
        text = strchr(text, '\n') + 1;
    return text;
}

/* A power failure takes lines that were written but not synced: the next record says how many. A file that was cut shorter than
 * that, or after a clean stop, is not excused. */
static void test_what_a_power_failure_takes_is_declared(void **unused)
{
    for (int synced = 2; synced <= 5; synced++) {
        char dir[] = "/tmp/tb-audit-XXXXXX";
        _cleanup_free_ char *text = NULL, *after = NULL, *head = NULL, *file = NULL;
        struct tb_audit_config c = {.contract_id = "c", .asset_id = "a", .queue = 10};
        struct tb_chain_point p = {.seq = (uint64_t)synced};
        struct tb_chain_head *h;
        const char *line;
        bool aside;

        assert_non_null(mkdtemp(dir));
        c.head_file = head = tb_path_join(dir, "head");
        c.file = file = tb_path_join(dir, "audit");
        text = write_records(&c, 5);
        line = line_start(text, synced - 1);
        assert_int_equal(tb_chain_hash(line, strcspn(line, "\n"), p.hash), 0);
        assert_int_equal(tb_chain_head_open(head, &h, &aside), 0);
        tb_chain_head_set_synced(h, &p);
        tb_chain_head_close(h);
        assert_int_equal(truncate(file, line_start(text, 3) - text), 0);
        after = write_records(&c, 1);
        line = line_start(after, 3);
        assert_non_null(strstr(line, "\"seq\":6,"));
        assert_int_equal(strstr(line, "\"unsure\":2}") != NULL, synced <= 3);
        unlink(head);
        unlink(file);
        rmdir(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_is_json),
        cmocka_unit_test(test_a_path_is_escaped_once_and_bounded),
        cmocka_unit_test(test_a_flood_of_refusals_adds_up),
        cmocka_unit_test(test_refusals_of_many_kinds_and_clients),
        cmocka_unit_test(test_refusals_hold_no_slot_and_are_written_at_the_end),
        cmocka_unit_test(test_full_queue_refuses_then_drops),
        cmocka_unit_test(test_broken_sink_keeps_records_and_refuses),
        cmocka_unit_test(test_trouble_is_what_admission_goes_by),
        cmocka_unit_test(test_lost_journal_does_not_repeat_lines_in_the_file),
        cmocka_unit_test(test_sequence_goes_on_after_a_restart),
        cmocka_unit_test(test_what_a_power_failure_takes_is_declared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
