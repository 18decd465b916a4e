/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of an issuer that are fetched: a list that lacks a name is believed late, and any number of issuers
 * has its keys. The issuer is a server of this program. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base64.h"
#include "common/io.h"
#include "common/text.h"
#include "common/units.h"
#include "controlplane/access/issuer.h"
#include "controlplane/attest/maa_keys.h"

#define HOUR_US (3600 * TB_USEC_PER_SEC)
#define INSTANCES 300 /* more than are kept at once */
#define THREADS 3     /* one that asks, and as many as may wait for it */
#define ASKED_EACH 200

/* What /certs answers: keys of these names, or another status. */
static struct {
    int fd;
    pthread_t thread;
    pthread_mutex_t lock;
    char kids[200];
    int status;
    atomic_uint asked;
    char modulus[400];
} server;

/* Without padding, for URLs. */
static void encode_number(const BIGNUM *n, char *out)
{
    uint8_t raw[256];
    int len = BN_bn2bin(n, raw);

    tb_base64_encode(raw, (size_t)len, out);
    out[strcspn(out, "=")] = '\0';
    for (char *s = out; *s; s++)
        *s = *s == '+' ? '-' : *s == '/' ? '_' : *s;
}

static int answer_with_keys(char *out, size_t size)
{
    _cleanup_free_ char *kids = NULL;
    char body[4096] = "{\"keys\":[", *rest;
    const char *kid;
    int status;

    pthread_mutex_lock(&server.lock);
    kids = strdup(server.kids);
    status = server.status;
    pthread_mutex_unlock(&server.lock);
    rest = kids;
    for (bool first = true; (kid = strsep(&rest, " ")); first = false)
        snprintf(body + strlen(body), sizeof(body) - strlen(body),
                 "%s{\"kty\":\"RSA\",\"kid\":\"%s\",\"e\":\"AQAB\",\"n\":\"%s\"}", first ? "" : ",", kid,
                 server.modulus);
    strcat(body, "]}");
    return snprintf(out, size, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status,
                    strlen(body), body);
}

static void *serve(void *arg)
{
    char question[4096], answer[8192];

    for (;;) {
        _cleanup_close_ int fd = accept(server.fd, NULL, NULL);
        size_t n = 0;
        ssize_t r = 1;

        if (fd < 0)
            return NULL;
        while (r > 0 && n < sizeof(question) - 1 && (n < 4 || memcmp(question + n - 4, "\r\n\r\n", 4) != 0)) {
            r = read(fd, question + n, sizeof(question) - 1 - n);
            n += r > 0 ? (size_t)r : 0;
        }
        question[n] = '\0';
        if (strstr(question, "/certs "))
            server.asked++;
        (void)tb_write_full(fd, answer, (size_t)answer_with_keys(answer, sizeof(answer)));
    }
}

static int start(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    EVP_PKEY *key = EVP_RSA_gen(2048);
    BIGNUM *n = NULL;

    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n), 1);
    encode_number(n, server.modulus);
    BN_free(n);
    EVP_PKEY_free(key);
    pthread_mutex_init(&server.lock, NULL);
    server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return bind(server.fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(server.fd, 64) == 0 &&
                   pthread_create(&server.thread, NULL, serve, NULL) == 0
               ? 0
               : -1;
}

static int stop(void **state)
{
    shutdown(server.fd, SHUT_RDWR);
    pthread_join(server.thread, NULL);
    close(server.fd);
    return 0;
}

static void set(const char *kids, int status)
{
    pthread_mutex_lock(&server.lock);
    snprintf(server.kids, sizeof(server.kids), "%s", kids);
    server.status = status;
    pthread_mutex_unlock(&server.lock);
    server.asked = 0;
}

static void url_of(char *out, size_t size, const char *rest)
{
    struct sockaddr_in a;
    socklen_t n = sizeof(a);

    assert_int_equal(getsockname(server.fd, (struct sockaddr *)&a, &n), 0);
    snprintf(out, size, "http://127.0.0.1:%d%s", ntohs(a.sin_port), rest);
}

/* One that may be asked as often as wanted. */
static struct cp_issuer *make(uint64_t confirm_us)
{
    struct cp_issuer *i = NULL;
    char url[100];
    struct cp_issuer_settings s = {.url = url, .burst = 1, .refill_us = 1, .confirm_us = confirm_us};

    url_of(url, sizeof(url), "");
    assert_int_equal(cp_issuer_new(&s, &i), 0);
    return i;
}

static int find(struct cp_issuer *i, const char *kid)
{
    struct cp_jwt t = {.alg = CP_JWT_RS256};
    struct cp_jwk key = {0};
    int r;

    snprintf(t.kid, sizeof(t.kid), "%s", kid);
    r = cp_issuer_find(i, &t, &key);
    assert_int_equal(r == 0, key.key != NULL);
    EVP_PKEY_free(key.key);
    return r;
}

static void test_one_list_refuses_where_one_is_enough(void **state)
{
    struct cp_issuer *i = make(0);

    set("a", 200);
    assert_int_equal(find(i, "b"), -EACCES);
    assert_int_equal(find(i, "a"), 0);
    cp_issuer_free(i);
}

static void test_a_list_that_lacks_a_name_is_no_refusal(void **state)
{
    struct cp_issuer *i = make(HOUR_US);

    set("a", 200);
    for (int n = 1; n < 6; n++) {
        assert_int_equal(find(i, "new"), -EAGAIN);
        assert_int_equal(server.asked, n);
    }
    assert_int_equal(find(i, "a"), 0);
    set("a new", 200);
    assert_int_equal(find(i, "new"), 0);
    cp_issuer_free(i);
}

static void test_lists_that_lack_it_long_enough_are_one(void **state)
{
    struct cp_issuer *i = make(TB_USEC_PER_SEC / 20);
    int r;

    set("a", 200);
    assert_int_equal(find(i, "b"), -EAGAIN);
    while ((r = find(i, "b")) == -EAGAIN)
        usleep(5000);
    assert_int_equal(r, -EACCES);
    /* Not what was fetched before the question, and not what could not be fetched. */
    set("a", 500);
    assert_int_equal(find(i, "b"), -EAGAIN);
    assert_int_equal(find(i, "a"), 0);
    /* Nor another name. */
    set("a", 200);
    assert_int_equal(find(i, "c"), -EAGAIN);
    cp_issuer_free(i);
}

static void test_a_name_that_came_and_went_is_missed_anew(void **state)
{
    struct cp_issuer *i = make(1000);

    set("a", 200);
    assert_int_equal(find(i, "b"), -EAGAIN);
    set("a b", 200);
    assert_int_equal(find(i, "b"), 0);
    set("a", 200);
    usleep(2000);
    assert_int_equal(find(i, "x"), -EAGAIN);
    assert_int_equal(find(i, "b"), -EAGAIN);
    cp_issuer_free(i);
}

static void test_names_that_somebody_makes_up_refuse_nobody(void **state)
{
    struct cp_issuer *i = make(1000);
    char kid[20];

    set("a", 200);
    assert_int_equal(find(i, "b"), -EAGAIN);
    for (int n = 0; n < 40; n++) {
        snprintf(kid, sizeof(kid), "made-up-%d", n);
        assert_int_equal(find(i, kid), -EAGAIN);
    }
    assert_int_equal(find(i, "b"), -EAGAIN);
    cp_issuer_free(i);
}

/* -- many -------------------------------------------------------------------------------------- */
static int find_instance(struct cp_maa_keys *k, unsigned n)
{
    struct cp_jwt t = {.alg = CP_JWT_RS256, .kid = "a"};
    struct cp_jwk key = {0};
    char rest[20], url[100];
    int r;

    snprintf(rest, sizeof(rest), "/%u", n);
    url_of(url, sizeof(url), rest);
    r = cp_maa_keys_find(k, url, &t, &key);
    EVP_PKEY_free(key.key);
    return r;
}

static struct cp_maa_keys *make_keys(void)
{
    struct cp_maa_keys *k = NULL;
    char err[CP_JWT_ERR_MAX];

    assert_int_equal(cp_maa_keys_new(NULL, NULL, &k, err), 0);
    return k;
}

static void test_any_number_of_instances(void **state)
{
    struct cp_maa_keys *k = make_keys();

    set("a", 200);
    for (unsigned n = 0; n < INSTANCES; n++)
        assert_int_equal(find_instance(k, n), 0);
    assert_int_equal(server.asked, INSTANCES);
    /* Who was asked last is known, who was asked first is asked again. */
    assert_int_equal(find_instance(k, INSTANCES - 1), 0);
    assert_int_equal(server.asked, INSTANCES);
    assert_int_equal(find_instance(k, 0), 0);
    assert_int_equal(server.asked, INSTANCES + 1);
    cp_maa_keys_free(k);
}

static void *ask_many(void *arg)
{
    struct cp_maa_keys *k = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self();
    uintptr_t wrong = 0;

    for (unsigned n = 0; n < ASKED_EACH; n++)
        wrong += find_instance(k, (unsigned)rand_r(&seed) % INSTANCES) != 0;
    return (void *)wrong;
}

/* An instance that gives way while somebody waits for its keys would be one that is freed. */
static void test_many_at_once(void **state)
{
    struct cp_maa_keys *k = make_keys();
    pthread_t threads[THREADS];
    void *wrong;

    set("a", 200);
    for (unsigned n = 0; n < INSTANCES; n++)
        assert_int_equal(find_instance(k, n), 0);
    for (unsigned n = 0; n < THREADS; n++)
        assert_int_equal(pthread_create(&threads[n], NULL, ask_many, k), 0);
    for (unsigned n = 0; n < THREADS; n++) {
        assert_int_equal(pthread_join(threads[n], &wrong), 0);
        assert_null(wrong);
    }
    cp_maa_keys_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_list_refuses_where_one_is_enough),
        cmocka_unit_test(test_a_list_that_lacks_a_name_is_no_refusal),
        cmocka_unit_test(test_lists_that_lack_it_long_enough_are_one),
        cmocka_unit_test(test_a_name_that_came_and_went_is_missed_anew),
        cmocka_unit_test(test_names_that_somebody_makes_up_refuse_nobody),
        cmocka_unit_test(test_any_number_of_instances),
        cmocka_unit_test(test_many_at_once),
    };

    return cmocka_run_group_tests_name("issuer", tests, start, stop);
}
