/* SPDX-License-Identifier: Apache-2.0 */
/* A peer that is known is answered as one that is judged: for the same CAs and the same chain, no longer than
 * each certificate is good. */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <dlfcn.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/units.h"
#include "controlplane/identity/peers.h"

#define NOW_S 1800000000
#define NOW_US (NOW_S * TB_USEC_PER_SEC)
#define S TB_USEC_PER_SEC
#define LONG_S 864000

/* How often a chain was verified: this one is before libcrypto's. */
static atomic_uint verified;

int X509_verify_cert(X509_STORE_CTX *c)
{
    static _Atomic(void *) real;

    if (!real)
        real = dlsym(RTLD_NEXT, "X509_verify_cert");
    verified++;
    return ((int (*)(X509_STORE_CTX *))(void *)real)(c);
}

struct signer {
    X509 *x;
    EVP_PKEY *key;
};

static void extend(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_int_equal(X509_add_ext(x, e, -1), 1);
    X509_EXTENSION_free(e);
}

/* by NULL: by itself. Good from a day before NOW_S until `seconds` after. */
static struct signer make(const char *name, bool ca, long seconds, const struct signer *by)
{
    static long serial;
    struct signer m = {X509_new(), EVP_EC_gen("P-256")};
    X509_NAME *n = X509_get_subject_name(m.x);

    by = by ? by : &m;
    X509_set_version(m.x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(m.x), ++serial);
    ASN1_TIME_set(X509_getm_notBefore(m.x), NOW_S - 86400);
    ASN1_TIME_set(X509_getm_notAfter(m.x), NOW_S + seconds);
    X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(m.x, X509_get_subject_name(by->x));
    X509_set_pubkey(m.x, m.key);
    extend(m.x, NID_basic_constraints, ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (!ca)
        extend(m.x, NID_ext_key_usage, "clientAuth");
    assert_true(X509_sign(m.x, by->key, EVP_sha256()) > 0);
    return m;
}

static void drop(struct signer *m)
{
    X509_free(m->x);
    EVP_PKEY_free(m->key);
}

static char *pem_of(const struct signer *m)
{
    BIO *b = BIO_new(BIO_s_mem());
    char *text, *copy;
    long n;

    assert_int_equal(PEM_write_bio_X509(b, m->x), 1);
    n = BIO_get_mem_data(b, &text);
    copy = strndup(text, (size_t)n);
    BIO_free(b);
    return copy;
}

static void show(struct cp_peer *p, const struct signer *m)
{
    unsigned char *at = p->cert[p->n].der;

    assert_true(i2d_X509(m->x, NULL) <= CP_PEER_DER_MAX);
    p->cert[p->n++].len = (size_t)i2d_X509(m->x, &at);
}

/* Two CAs, and what the first one signed. */
struct fixture {
    struct signer ca, other, leaf;
    char *ca_pem, *other_pem;
    struct cp_peer shown; /* the leaf */
    struct cp_peers *s;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->ca = make("CA", true, LONG_S, NULL);
    f->other = make("CA", true, LONG_S, NULL); /* of the same name */
    f->leaf = make("machine", false, LONG_S, &f->ca);
    f->ca_pem = pem_of(&f->ca);
    f->other_pem = pem_of(&f->other);
    show(&f->shown, &f->leaf);
    f->s = cp_peers_new();
    verified = 0;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    drop(&f->ca);
    drop(&f->other);
    drop(&f->leaf);
    free(f->ca_pem);
    free(f->other_pem);
    cp_peers_free(f->s);
    free(f);
    return 0;
}

/* The answer, which is the one that cp_peer_verify() gives, and how often a chain was verified for it. */
static int ask(struct cp_peers *s, const struct cp_peer *p, const char *ca, uint64_t now_us, unsigned *ret_n)
{
    struct cp_identity id = {0}, want = {0};
    unsigned before = verified;
    int r = cp_peers_identify(s, p, ca, now_us, &id);

    *ret_n = verified - before;
    assert_int_equal(r, cp_peer_verify(p, ca, false, now_us, &want));
    assert_string_equal(id.name, want.name);
    assert_string_equal(id.key_sha256, want.key_sha256);
    return r;
}

#define assert_asked(s, p, ca, now_us, want_r, want_n)                                                       \
    do {                                                                                                     \
        unsigned n_;                                                                                         \
        assert_int_equal(ask((s), (p), (ca), (now_us), &n_), want_r);                                        \
        assert_int_equal(n_, want_n);                                                                        \
    } while (0)

static void test_a_known_peer_is_not_verified_again(void **state)
{
    struct fixture *f = *state;

    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US, 0, 1);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US, 0, 0);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US + CP_PEER_KEPT_US - 1, 0, 0);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US + CP_PEER_KEPT_US, 0, 1);
    assert_asked(NULL, &f->shown, f->ca_pem, NOW_US, 0, 1);
    assert_asked(NULL, &f->shown, f->ca_pem, NOW_US, 0, 1);
}

static void test_what_is_not_good_is_judged_each_time(void **state)
{
    struct fixture *f = *state;
    struct signer old = make("machine", false, -1, &f->ca);
    static const struct cp_peer nobody;
    struct cp_peer p = {0}, broken = f->shown;
    struct cp_identity id;

    show(&p, &old);
    assert_int_equal(cp_peer_verify(&p, f->ca_pem, true, 0, &id), 0);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US, 0, 1);
    broken.cert[0].der[broken.cert[0].len - 1] ^= 1; /* in its signature */
    for (int i = 0; i < 2; i++) {
        assert_asked(f->s, &p, f->ca_pem, NOW_US, -EKEYEXPIRED, 1);
        assert_asked(f->s, &f->shown, f->other_pem, NOW_US, -EKEYREJECTED, 1);
        assert_asked(f->s, &broken, f->ca_pem, NOW_US, -EKEYREJECTED, 1);
        assert_asked(f->s, &f->shown, "none", NOW_US, -EKEYREJECTED, 0);
        assert_asked(f->s, &nobody, f->ca_pem, NOW_US, -ENOENT, 0);
    }
    drop(&old);
}

static void test_the_whole_chain_counts(void **state)
{
    struct fixture *f = *state;
    struct signer between = make("between", true, LONG_S, &f->ca),
                  leaf = make("machine", false, LONG_S, &between);
    struct cp_peer whole = {0}, alone = {0};

    show(&whole, &leaf);
    show(&alone, &leaf);
    show(&whole, &between);
    assert_asked(f->s, &whole, f->ca_pem, NOW_US, 0, 1);
    assert_asked(f->s, &alone, f->ca_pem, NOW_US, -EKEYREJECTED, 1);
    assert_asked(f->s, &whole, f->ca_pem, NOW_US, 0, 0);
    drop(&between);
    drop(&leaf);
}

static void test_another_ca_is_asked_anew(void **state)
{
    struct fixture *f = *state;
    struct signer third = make("third", true, LONG_S, NULL);
    _cleanup_free_ char *pem = pem_of(&third), *both = tb_strf("%s%s", pem, f->ca_pem);

    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US, 0, 1);
    assert_asked(f->s, &f->shown, f->other_pem, NOW_US, -EKEYREJECTED, 1);
    assert_asked(f->s, &f->shown, both, NOW_US, 0, 1);
    assert_asked(f->s, &f->shown, both, NOW_US, 0, 0);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US, 0, 0);
    assert_asked(f->s, &f->shown, pem, NOW_US, -EKEYREJECTED, 1);
    drop(&third);
}

/* Leaf, intermediate and CA end 10 s after NOW_US in turn, the others much later. */
static void test_an_end_is_kept_to(void **state)
{
    struct fixture *f = *state;

    for (int which = 0; which < 3; which++) {
        struct signer ca = make("CA", true, which == 2 ? 10 : LONG_S, NULL),
                      between = make("between", true, which == 1 ? 10 : LONG_S, &ca),
                      leaf = make("machine", false, which == 0 ? 10 : LONG_S, &between);
        _cleanup_free_ char *pem = pem_of(&ca);
        struct cp_peer p = {0};

        show(&p, &leaf);
        show(&p, &between);
        assert_asked(f->s, &p, pem, NOW_US, 0, 1);
        assert_asked(f->s, &p, pem, NOW_US + 10 * S - 1, 0, 0);
        assert_asked(f->s, &p, pem, NOW_US + 10 * S, -EKEYEXPIRED, 1);
        drop(&ca);
        drop(&between);
        drop(&leaf);
    }
}

static void test_a_clock_that_was_set_back(void **state)
{
    struct fixture *f = *state;

    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US, 0, 1);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US - 1, 0, 1);
    assert_asked(f->s, &f->shown, f->ca_pem, NOW_US - 86401 * S, -EKEYEXPIRED, 1);
}

/* Each text behind the same CA makes another entry. One that is asked again as long as there is room for it
 * is known; of more than there is room for the rest is verified again, and right. */
static void test_a_full_table_stays_right(void **state)
{
    enum { MORE = CP_PEERS_MAX / 2, ALL = CP_PEERS_MAX + MORE };
    struct fixture *f = *state;
    struct cp_identity id;

    for (int pass = 0; pass < 2; pass++) {
        verified = 0;
        for (int i = 0; i < ALL; i++) {
            _cleanup_free_ char *ca = tb_strf("%s\n%d\n", f->ca_pem, i);

            assert_int_equal(cp_peers_identify(f->s, &f->shown, ca, NOW_US + (uint64_t)i, &id), 0);
            assert_int_equal(cp_peers_identify(f->s, &f->shown, ca, NOW_US + (uint64_t)i, &id), 0);
            assert_string_equal(id.name, "machine");
        }
        assert_in_range(verified, pass == 0 ? ALL : MORE, ALL);
    }
    assert_asked(f->s, &f->shown, f->other_pem, NOW_US, -EKEYREJECTED, 1);
}

static void *ask_often(void *arg)
{
    struct fixture *f = arg;
    struct cp_identity id = {0};
    uintptr_t wrong = 0;

    for (unsigned i = 0; i < 300; i++) {
        wrong += cp_peers_identify(f->s, &f->shown, f->ca_pem, NOW_US + i % 100 * S, &id) != 0;
        wrong += strcmp(id.name, "machine") != 0 || strlen(id.key_sha256) != CP_IDENTITY_KEY_HEX;
        wrong += cp_peers_identify(f->s, &f->shown, f->other_pem, NOW_US, &id) != -EKEYREJECTED;
    }
    return (void *)wrong;
}

static void test_threads(void **state)
{
    pthread_t t[2];
    void *wrong;

    for (size_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(pthread_create(&t[i], NULL, ask_often, *state), 0);
    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        assert_int_equal(pthread_join(t[i], &wrong), 0);
        assert_null(wrong);
    }
}

#define T(x) cmocka_unit_test_setup_teardown(x, set_up, tear_down)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        T(test_a_known_peer_is_not_verified_again),
        T(test_what_is_not_good_is_judged_each_time),
        T(test_the_whole_chain_counts),
        T(test_another_ca_is_asked_anew),
        T(test_an_end_is_kept_to),
        T(test_a_clock_that_was_set_back),
        T(test_a_full_table_stays_right),
        T(test_threads),
    };

    return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
