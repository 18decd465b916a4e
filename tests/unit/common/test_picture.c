/* SPDX-License-Identifier: Apache-2.0 */
/* The model on its way, as figures and as words: whatever the files say, it makes sense. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/picture.h"
#include "common/rate.h"
#include "common/text.h"
#include "common/units.h"

#define S TB_USEC_PER_SEC
#define NOW (1000 * S)
#define MIB (1ULL << 20)

static void step(struct tb_step *s, const char *word, uint64_t done, uint64_t total, uint64_t rate)
{
    *s = (struct tb_step){.work = tb_work_from_string(word),
                          .bytes_done = done,
                          .bytes_total = total,
                          .has_rate = true,
                          .bytes_per_second = rate,
                          .written_boottime_us = NOW - S};
    snprintf(s->phase, sizeof(s->phase), "%s", word);
}

static void test_a_rate_is_of_the_last_seconds(void **unused)
{
    struct tb_rate r = {0};

    assert_int_equal(tb_rate_get(&r, NOW), 0);
    tb_rate_note(&r, 500 * MIB, NOW); /* what was there before was not fetched now */
    assert_int_equal(tb_rate_get(&r, NOW), 0);
    for (unsigned i = 1; i <= 100; i++)
        tb_rate_note(&r, 500 * MIB + i * MIB, NOW + i * S);
    assert_in_range(tb_rate_get(&r, NOW + 100 * S), MIB - 1, MIB);
    for (unsigned i = 101; i <= 140; i++) /* it stands */
        tb_rate_note(&r, 600 * MIB, NOW + i * S);
    assert_int_equal(tb_rate_get(&r, NOW + 140 * S), 0);
}

static void test_a_step_back_is_no_progress_twice(void **unused)
{
    struct tb_rate r = {0};

    tb_rate_note(&r, 100 * MIB, NOW);
    tb_rate_note(&r, 110 * MIB, NOW + S);
    tb_rate_note(&r, 20 * MIB, NOW + 2 * S);
    assert_int_equal(tb_rate_get(&r, NOW + 2 * S), 5 * MIB);
    tb_rate_note(&r, 110 * MIB, NOW + 4 * S);
    assert_int_equal(tb_rate_get(&r, NOW + 4 * S), 10 * MIB / 4);
    assert_int_equal(tb_rate_get(&r, NOW - S), 0); /* a clock that went back */
}

static void test_the_figures_of_a_step(void **unused)
{
    struct tb_facts f = {0};
    struct tb_picture p;

    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.download.percent, -1);
    assert_false(p.download.moving || p.has_read || p.has_memory);
    step(&f.hydrate, "downloading", 300 * MIB, 400 * MIB, 10 * MIB);
    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.download.percent, 75);
    assert_true(p.download.moving && p.download.has_left);
    assert_int_equal(p.download.left_s, 11);
    step(&f.hydrate, "downloading", 400 * MIB - 1, 400 * MIB, 0);
    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.download.percent, 99);
    assert_true(p.download.moving && !p.download.has_left);
    step(&f.hydrate, "downloading", TB_JSON_INT_MAX - 1, TB_JSON_INT_MAX, 0);
    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.download.percent, 99);
    step(&f.hydrate, "downloading", 900 * MIB, 400 * MIB, 5); /* nobody is over the end */
    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.download.percent, 100);
    assert_int_equal(p.download.done, 400 * MIB);
    assert_false(p.download.moving);
    step(&f.hydrate, "complete", 3, 400 * MIB, 5);
    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.download.done, 400 * MIB);
    step(&f.hydrate, "failed", 100 * MIB, 400 * MIB, 5);
    tb_picture_make(&f, NOW, &p);
    assert_true(p.download.percent == 25 && !p.download.moving);
}

static void test_a_speed_holds_as_long_as_its_writer_lives(void **unused)
{
    struct tb_facts f = {0};
    struct tb_picture p;

    step(&f.hydrate, "downloading", 1, 4, 1);
    tb_picture_make(&f, NOW + 60 * S, &p);
    assert_true(!p.download.moving && p.download.rate == 0 && !p.download.has_left);
    f.hydrate.written_boottime_us = 0; /* of a program that says neither when nor how fast */
    tb_picture_make(&f, NOW, &p);
    assert_false(p.download.moving);
    step(&f.hydrate, "downloading", 1, 4, 1);
    f.hydrate.has_rate = false;
    tb_picture_make(&f, NOW, &p);
    assert_false(p.download.moving);
    step(&f.hydrate, "downloading", 1, TB_JSON_INT_MAX, 1); /* in 285 million years */
    tb_picture_make(&f, NOW, &p);
    assert_true(p.download.moving && !p.download.has_left);
}

static void test_what_is_in_memory_depends_on_the_delivery(void **unused)
{
    struct tb_facts f = {0};
    struct tb_picture p;
    char text[TB_PICTURE_TEXT_MAX];

    step(&f.decrypt, "decrypting", 100 * MIB, 400 * MIB, 1);
    strcpy(f.delivery.mode, "dir");
    tb_picture_make(&f, NOW, &p);
    assert_true(p.has_memory && !p.has_read && p.memory_bytes == 100 * MIB);
    assert_string_equal(tb_picture_memory(&p, text), "100.0 MiB");
    assert_string_equal(tb_picture_read(&p, text), "");
    strcpy(f.delivery.mode, "fifo");
    tb_picture_make(&f, NOW, &p);
    assert_false(p.has_memory || p.has_read);
    assert_string_equal(tb_picture_memory(&p, text), "");
    strcpy(f.delivery.mode, "view");
    f.reading = (struct tb_reading){true, 500 * MIB, 900 * MIB, 96 * MIB, 128 * MIB};
    tb_picture_make(&f, NOW, &p);
    assert_int_equal(p.read_bytes, 400 * MIB);
    assert_string_equal(tb_picture_read(&p, text), "400.0 MiB of 400.0 MiB");
    assert_string_equal(tb_picture_memory(&p, text), "96.0 MiB of at most 128.0 MiB");
}

static void test_where_the_bytes_come_from(void **unused)
{
    struct tb_facts f = {0};
    struct tb_picture p;
    char text[TB_PICTURE_TEXT_MAX];

    step(&f.hydrate, "downloading", 100 * MIB, 400 * MIB, 1);
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_source(&p, text),
                        ""); /* without a mirror there is nothing to tell apart */
    strcpy(f.source.mirror, "used");
    assert_string_equal(tb_picture_source(&p, text), "");
    f.source.mirror_bytes = 90 * MIB, f.source.storage_bytes = 10 * MIB;
    assert_string_equal(tb_picture_source(&p, text), "90.0 MiB from the mirror, 10.0 MiB from the storage");
    strcpy(f.source.mirror, "fails");
    assert_string_equal(tb_picture_source(&p, text),
                        "90.0 MiB from the mirror, 10.0 MiB from the storage; the mirror fails, and the "
                        "storage gives what it does not");
    strcpy(f.source.mirror, "distrusted");
    assert_non_null(strstr(tb_picture_source(&p, text), "; the mirror gave bytes that are not the model's"));
    f.source.mirror_bytes = f.source.storage_bytes = 0;
    strcpy(f.source.mirror, "left_out");
    assert_string_equal(tb_picture_source(&p, text), "the mirror is not asked, as what came before was bad");
    strcpy(f.source.mirror, "?");
    assert_string_equal(tb_picture_source(&p, text), "");
}

static void test_why_it_is_no_view(void **unused)
{
    struct tb_facts f = {0};
    struct tb_picture p;
    char text[TB_PICTURE_TEXT_MAX];

    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_mode(&p, text), "");
    strcpy(f.delivery.mode, "dir");
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_mode(&p, text), "mode dir");
    strcpy(f.no_view, "user namespaces are forbidden (Operation not permitted)");
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_mode(&p, text),
                        "mode dir, as no view can be had: user namespaces are forbidden (Operation not "
                        "permitted)");
}

static void test_the_words(void **unused)
{
    struct tb_facts f = {0};
    struct tb_picture p;
    char text[TB_PICTURE_TEXT_MAX];

    step(&f.hydrate, "downloading", MIB, 4 * MIB, MIB);
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_amount(&p.download, text), "1.0 MiB of 4.0 MiB");
    assert_string_equal(tb_picture_speed(&p.download, text), "1.0 MiB/s, 4 s left");
    f.hydrate.bytes_per_second = 0;
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_speed(&p.download, text), "no bytes are coming");
    step(&f.hydrate, "complete", 4 * MIB, 4 * MIB, 0);
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_amount(&p.download, text), "4.0 MiB");
    assert_string_equal(tb_picture_speed(&p.download, text), "");
    step(&f.hydrate, "manifest", 0, 0, 0);
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_amount(&p.download, text), "manifest");
    assert_string_equal(tb_picture_repairs(&p, text), "");
    assert_string_equal(tb_picture_records(&p, text), "");
}

static void test_repairs_go_through_a_file(void **unused)
{
    struct tb_repairs in = {.waiting = 1,
                            .fetched = 2,
                            .n = 3,
                            .r = {{"b/model.gguf", 17, 2, TB_REPAIR_WAITING},
                                  {"a", 3, 1, TB_REPAIR_FETCHED},
                                  {"a", 9, 3, TB_REPAIR_GIVEN_UP}}};
    _cleanup_json_ cJSON *o = cJSON_CreateObject(), *bare = cJSON_CreateObject(),
                         *none = cJSON_CreateObject();
    _cleanup_json_ cJSON *again = NULL;
    _cleanup_free_ char *text_of = NULL;
    struct tb_facts f = {0};
    struct tb_picture p;
    char text[TB_PICTURE_TEXT_MAX];

    assert_int_equal(tb_repairs_add(o, &in, true), 0);
    text_of = cJSON_Print(o);
    again = cJSON_Parse(text_of);
    tb_repairs_read(again, &f.repairs);
    assert_int_equal(f.repairs.n, 3);
    tb_picture_make(&f, NOW, &p);
    assert_string_equal(tb_picture_repairs(&p, text), "1 being fetched once more, 2 were");
    assert_string_equal(tb_picture_records(&p, text),
                        "chunk 17 of b/model.gguf (waiting, try 2), chunk 3 of a (done), "
                        "chunk 9 of a (given up, try 3)");
    assert_int_equal(tb_repairs_add(bare, &in, false), 0);
    assert_null(tb_json_member(tb_json_member(bare, "repairs"), "records"));
    assert_int_equal(tb_repairs_add(none, &(struct tb_repairs){0}, true), 0);
    assert_null(tb_json_member(none, "repairs"));
}

static void test_what_makes_no_sense_reads_as_nothing(void **unused)
{
    static const char *const texts[] = {
        "{}", "{\"repairs\":7}", "{\"repairs\":{\"waiting\":-1,\"records\":{\"file\":\"x\"}}}",
        "{\"repairs\":{\"records\":[1,{},{\"file\":\"x\"},{\"file\":\"x\",\"state\":\"?\"}]}}"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        _cleanup_json_ cJSON *o = cJSON_Parse(texts[i]);
        struct tb_repairs r = {.n = 5};

        tb_repairs_read(o, &r);
        assert_true(r.n == 0 && r.waiting == 0 && r.fetched == 0);
    }
}

static void test_names_of_any_length_fit(void **unused)
{
    struct tb_facts f = {.repairs = {.waiting = UINT64_MAX, .fetched = UINT64_MAX, .n = TB_REPAIRS_MAX}};
    char text[TB_PICTURE_TEXT_MAX];
    struct tb_picture p;

    for (size_t i = 0; i < TB_REPAIRS_MAX; i++) {
        memset(f.repairs.r[i].file, 'x', sizeof(f.repairs.r[i].file) - 1);
        f.repairs.r[i].chunk = UINT64_MAX;
        f.repairs.r[i].tries = 3;
    }
    tb_picture_make(&f, NOW, &p);
    assert_in_range(strlen(tb_picture_records(&p, text)), 100, TB_PICTURE_TEXT_MAX - 1);
    assert_in_range(strlen(tb_picture_repairs(&p, text)), 40, TB_PICTURE_TEXT_MAX - 1);
}

static bool is_utf8(const char *s)
{
    while (*s && tb_utf8_char(s, NULL) > 0)
        s += tb_utf8_char(s, NULL);
    return *s == '\0';
}

/* Wherever a name is cut. */
static void test_no_character_is_cut_through(void **unused)
{
    for (size_t before = 0; before < 4; before++) {
        _cleanup_json_ cJSON *doc = cJSON_CreateObject();
        struct tb_facts f = {0};
        char name[200] = "", text[TB_PICTURE_TEXT_MAX];
        cJSON *records = cJSON_AddArrayToObject(cJSON_AddObjectToObject(doc, "repairs"), "records"), *one;
        struct tb_picture p;

        memset(name, 'x', before);
        while (strlen(name) + 3 < sizeof(name))
            strcat(name, "\xe2\x82\xac");
        for (size_t i = 0; i < TB_REPAIRS_MAX; i++) {
            one = cJSON_CreateObject();
            cJSON_AddItemToArray(records, one);
            cJSON_AddStringToObject(one, "file", name);
            cJSON_AddStringToObject(one, "state", "waiting");
        }
        tb_repairs_read(doc, &f.repairs);
        assert_int_equal(f.repairs.n, TB_REPAIRS_MAX);
        assert_true(strlen(f.repairs.r[0].file) > TB_REPAIRS_FILE_MAX - 5 && is_utf8(f.repairs.r[0].file));
        tb_picture_make(&f, NOW, &p);
        assert_true(is_utf8(tb_picture_records(&p, text)));
        assert_in_range(strlen(text), TB_PICTURE_TEXT_MAX - 5, TB_PICTURE_TEXT_MAX - 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_rate_is_of_the_last_seconds),
        cmocka_unit_test(test_a_step_back_is_no_progress_twice),
        cmocka_unit_test(test_the_figures_of_a_step),
        cmocka_unit_test(test_a_speed_holds_as_long_as_its_writer_lives),
        cmocka_unit_test(test_what_is_in_memory_depends_on_the_delivery),
        cmocka_unit_test(test_where_the_bytes_come_from),
        cmocka_unit_test(test_why_it_is_no_view),
        cmocka_unit_test(test_the_words),
        cmocka_unit_test(test_repairs_go_through_a_file),
        cmocka_unit_test(test_what_makes_no_sense_reads_as_nothing),
        cmocka_unit_test(test_names_of_any_length_fit),
        cmocka_unit_test(test_no_character_is_cut_through),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
