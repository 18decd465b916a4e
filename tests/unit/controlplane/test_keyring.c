/* SPDX-License-Identifier: Apache-2.0 */
/* Keyrings: files, and a token of SoftHSM that this test makes in a directory of its own. The key services over
 * HTTPS are spoken to in tests/integration/test_controlplane_kek.py. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/io.h"
#include "controlplane/keys/keyring.h"
#include "controlplane/keys/remote.h"
#include "controlplane/keys/token_pkcs11.h"

#define MODULE "/usr/lib/softhsm/libsofthsm2.so"
#define THREADS 8
#define ROUNDS 200

static char place[] = "/tmp/tb-keyring.XXXXXX";
static char err[CP_KEYRING_ERR_MAX];
static const struct cp_keyring_access no_access;

static void write_file(const char *name, const char *text)
{
    _cleanup_free_ char *path = tb_path_join(place, name);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_token(void **state)
{
    char text[200];

    assert_non_null(mkdtemp(place));
    snprintf(text, sizeof(text),
             "directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n", place);
    write_file("softhsm2.conf", text);
    write_file("pin", "1234\n");
    write_file("wrong-pin", "4321\n");
    snprintf(text, sizeof(text), "mkdir %s/tokens", place);
    assert_int_equal(system(text), 0);
    snprintf(text, sizeof(text), "%s/softhsm2.conf", place);
    setenv("SOFTHSM2_CONF", text, 1);
    assert_int_equal(
        system(
            "softhsm2-util --init-token --free --label 'tb test' --so-pin 5678 --pin 1234 >/dev/null 2>&1"),
        0);
    return 0;
}

static int remove_token(void **state)
{
    char text[100];

    snprintf(text, sizeof(text), "rm -rf %s", place);
    return system(text);
}

/* The URI of object in the token, its PIN from `pin`. */
static const char *uri_of(const char *object, const char *pin, char out[static 600])
{
    snprintf(out, 600, "pkcs11:token=tb%%20test;%s?module-path=" MODULE "&pin-source=%s/%s", object, place,
             pin);
    return out;
}

static void assert_round_trip(struct cp_keyring *k)
{
    struct tb_key key, again;
    struct cp_wrapped w, other;

    tb_random(key.b, sizeof(key.b));
    assert_int_equal(cp_keyring_wrap(k, "my-model", &key, &w), 0);
    assert_int_equal(cp_keyring_unwrap(k, "my-model", &w, &again), 0);
    assert_memory_equal(key.b, again.b, sizeof(key.b));
    for (size_t i = 0; i + sizeof(key.b) <= w.len; i++)
        assert_memory_not_equal(w.b + i, key.b, sizeof(key.b));
    memset(&again, 7, sizeof(again));
    assert_int_equal(cp_keyring_unwrap(k, "other", &w, &again), -EBADMSG);
    for (size_t i = 0; i < w.len; i++) {
        other = w;
        other.b[i] ^= 0x10;
        assert_int_equal(cp_keyring_unwrap(k, "my-model", &other, &again), -EBADMSG);
    }
    other = w;
    other.len--;
    assert_int_equal(cp_keyring_unwrap(k, "my-model", &other, &again), -EBADMSG);
    for (size_t i = 0; i < sizeof(again.b); i++)
        assert_int_equal(again.b[i], 7); /* nothing is given out by a failure */
    assert_int_equal(cp_keyring_check(k, other.kek_id), 0);
    assert_string_equal(other.kek_id, w.kek_id);
}

static void test_file(void **state)
{
    _cleanup_keyring_ struct cp_keyring *k = NULL, *other = NULL;
    char text[200], hex[2 * TB_KEY_BYTES + 1];
    struct cp_wrapped w;
    struct tb_key key = {{1}};

    memset(hex, 'a', sizeof(hex) - 1);
    hex[sizeof(hex) - 1] = '\0';
    write_file("kek", hex);
    snprintf(text, sizeof(text), "file:%s/kek", place);
    assert_int_equal(cp_keyring_open(text, &no_access, &k, err), 0);
    assert_round_trip(k);
    hex[0] = 'b';
    write_file("kek", hex);
    assert_int_equal(cp_keyring_open(text, &no_access, &other, err), 0);
    assert_int_equal(cp_keyring_wrap(k, "a", &key, &w), 0);
    assert_int_equal(cp_keyring_unwrap(other, "a", &w, &key), -ENOKEY);
    /* the older one opens what it wrapped, and the newer one wraps */
    assert_int_equal(cp_keyring_join(other, TAKE_PTR(k)), 0);
    assert_int_equal(cp_keyring_unwrap(other, "a", &w, &key), 0);
    assert_round_trip(other);
    write_file("kek", "short");
    assert_int_equal(cp_keyring_open(text, &no_access, &k, err), -EINVAL);
    assert_non_null(strstr(err, "32 bytes in hexadecimal"));
}

static void test_names_that_are_none(void **state)
{
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"vault", "file:, pkcs11:, keyvault: or transit:"},
        {"file:/nowhere/key", "No such file"},
        {"pkcs11:token=a;object=b", "module-path"},
        {"pkcs11:token=a;object=b?module-path=" MODULE "&pin-value=1234", "pin-source"},
        {"pkcs11:token=a;object=b?module-path=/nowhere.so", "cannot be loaded"},
        {"pkcs11:token=a;object=b?module-path=" MODULE "&pin-source=/nowhere", "/nowhere: No such file"},
        {"pkcs11:token=none%20such;object=b?module-path=" MODULE, "no token"},
        {"pkcs11:token", "RFC 7512"},
        {"pkcs11:colour=red?module-path=" MODULE, "unknown"},
        {"keyvault:http://vault.example/keys/a", "plain http"},
        {"keyvault:https://vault.example/secrets/a", "identifier of a key"},
        {"keyvault:https://vault.example/keys/a/b/c", "identifier of a key"},
        {"keyvault:https://u@vault.example/keys/a", "has a character"},
        {"keyvault:https://vault.example/keys/a?x=y", "has a character"},
        {"keyvault:vault.example/keys/a", "https://"},
        {"transit:https://bao.example:8200/transit", "does not name a key"},
        {"transit:https://bao.example:8200/transit/a", "TBCP_KEK_TOKEN_FILE"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        struct cp_keyring *k = NULL;

        assert_true(cp_keyring_open(wrong[i].text, &no_access, &k, err) < 0);
        assert_null(k);
        if (!strstr(err, wrong[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", wrong[i].text, err, wrong[i].says);
    }
}

static void test_token(void **state)
{
    _cleanup_keyring_ struct cp_keyring *k = NULL, *newer = NULL;
    char id[CP_KEK_ID_MAX + 1], id2[CP_KEK_ID_MAX + 1], text[600], object[400];
    struct cp_wrapped w;
    struct tb_key key = {{1}}, again;

    assert_int_equal(cp_keyring_open(uri_of("object=kek", "pin", text), &no_access, &k, err), -ENOKEY);
    assert_non_null(strstr(err, "kek create"));
    assert_int_equal(cp_keyring_open(uri_of("object=kek", "wrong-pin", text), &no_access, &k, err), -EACCES);
    assert_null(strstr(err, "4321"));
    assert_int_equal(cp_kek_create_pkcs11(uri_of("object=kek", "pin", text), id, err), 0);
    assert_non_null(strstr(id, "pkcs11:token=tb%20test;"));
    assert_int_equal(cp_keyring_open(text, &no_access, &k, err), 0);
    assert_round_trip(k);
    assert_int_equal(cp_keyring_wrap(k, "a", &key, &w), 0);
    assert_string_equal(w.kek_id, id);
    /* a second key of that name: the id tells which one is meant, and the first one still opens */
    assert_int_equal(cp_kek_create_pkcs11(text, id2, err), 0);
    assert_string_not_equal(id, id2);
    assert_int_equal(cp_keyring_open(text, &no_access, &newer, err), -ENOTUNIQ);
    snprintf(object, sizeof(object), "object=kek;%s", strstr(id2, "id="));
    assert_int_equal(cp_keyring_open(uri_of(object, "pin", text), &no_access, &newer, err), 0);
    assert_int_equal(cp_keyring_unwrap(newer, "a", &w, &again), 0);
    assert_memory_equal(again.b, key.b, sizeof(key.b));
    assert_int_equal(cp_keyring_wrap(newer, "a", &key, &w), 0);
    assert_string_equal(w.kek_id, id2);
    strcpy(w.kek_id, "pkcs11:token=tb%20test;id=%01%02");
    assert_int_equal(cp_keyring_unwrap(newer, "a", &w, &again), -ENOKEY);
    strcpy(w.kek_id, "pkcs11:token=another;id=%01%02");
    assert_int_equal(cp_keyring_unwrap(newer, "a", &w, &again), -ENOKEY);
}

/* What could be read out of the token is refused. */
static void test_extractable_key(void **state)
{
    struct cp_keyring *k = NULL;
    struct cp_p11_token t = {0};
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ATTRIBUTE soft[] = {
        {CKA_CLASS, &class, sizeof(class)},   {CKA_KEY_TYPE, &type, sizeof(type)},
        {CKA_TOKEN, &yes, sizeof(yes)},       {CKA_SENSITIVE, &no, sizeof(no)},
        {CKA_EXTRACTABLE, &yes, sizeof(yes)}, {CKA_LABEL, (char[]){"soft"}, 4},
        {CKA_ID, (char[]){"7"}, 1},           {CKA_VALUE, (char[]){"0123456789abcdef0123456789abcdef"}, 32}};
    CK_SESSION_HANDLE s;
    CK_OBJECT_HANDLE key;
    char text[600];

    assert_int_equal(cp_p11_open(uri_of("object=soft", "pin", text), true, &t, &s, err), 0);
    assert_int_equal(t.module->C_CreateObject(s, soft, ARRAY_SIZE(soft), &key), CKR_OK);
    cp_p11_close(&t);
    assert_int_equal(cp_keyring_open(text, &no_access, &k, err), -EPERM);
    assert_non_null(strstr(err, "read out"));
}

/* Tokens lock themselves after a few wrong ones: a PIN that was refused is not tried again. */
static void test_a_wrong_pin_is_tried_once(void **state)
{
    struct cp_p11_token t = {0};
    CK_SESSION_HANDLE s;
    unsigned epoch;
    char text[600];

    assert_int_equal(cp_p11_open(uri_of("object=any", "pin", text), true, &t, &s, err), 0);
    t.module->C_CloseSession(s); /* the last one: the token logs out */
    *t.pin ^= 1;
    assert_int_equal(cp_p11_take(&t, &s, &epoch), CKR_PIN_INCORRECT);
    *t.pin ^= 1;
    assert_int_equal(cp_p11_take(&t, &s, &epoch), CKR_PIN_INCORRECT);
    cp_p11_close(&t);
}

static void *use_often(void *arg)
{
    struct tb_key key, again;
    struct cp_wrapped w;

    for (int i = 0; i < ROUNDS; i++) {
        tb_random(key.b, sizeof(key.b));
        if (cp_keyring_wrap(arg, "a", &key, &w) != 0 || cp_keyring_unwrap(arg, "a", &w, &again) != 0 ||
            memcmp(key.b, again.b, sizeof(key.b)) != 0)
            return arg;
    }
    return NULL;
}

static void test_token_by_many_threads(void **state)
{
    _cleanup_keyring_ struct cp_keyring *k = NULL;
    char id[CP_KEK_ID_MAX + 1], text[600];
    pthread_t t[THREADS];
    void *failed;

    assert_int_equal(cp_kek_create_pkcs11(uri_of("object=many", "pin", text), id, err), 0);
    assert_int_equal(cp_keyring_open(text, &no_access, &k, err), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use_often, k), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
}

static void test_base64(void **state)
{
    uint8_t in[CP_REMOTE_DEK_MAX], out[CP_REMOTE_DEK_MAX];
    char text[2 * CP_WRAPPED_MAX];
    size_t n;

    tb_random(in, sizeof(in));
    for (size_t len = 1; len <= sizeof(in); len++)
        for (int url = 0; url < 2; url++) {
            cp_remote_encode(in, len, url, text);
            assert_int_equal(cp_remote_decode(text, out, sizeof(out), &n), 0);
            assert_int_equal(n, len);
            assert_memory_equal(in, out, len);
        }
    cp_remote_encode(in, 33, true, text);
    assert_int_equal(cp_remote_decode(text, out, 32, &n), -EBADMSG);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(
            cp_remote_decode((const char *[]){"", "A", "AA=A", "A b=", "AAAA*AAA"}[i], out, 32, &n),
            -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_names_that_are_none),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_extractable_key),
        cmocka_unit_test(test_a_wrong_pin_is_tried_once),
        cmocka_unit_test(test_token_by_many_threads),
        cmocka_unit_test(test_base64),
    };

    return cmocka_run_group_tests(tests, make_token, remove_token);
}
