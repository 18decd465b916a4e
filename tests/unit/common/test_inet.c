/* SPDX-License-Identifier: Apache-2.0 */
#include "common/inet.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "common/macros.h"

static void test_addresses_are_taken_apart(void **state)
{
    static const struct {
        const char *addr, *host, *port;
    } good[] = {
        {"127.0.0.1:8000", "127.0.0.1", "8000"},
        {"localhost:0", "localhost", "0"},
        {":65535", "", "65535"},
        {"[::1]:80", "::1", "80"},
        {"[::]:1", "::", "1"},
    };
    static const char *const bad[] = {"",     "x",      "127.0.0.1", "h:",      "h:65536", "h:-1",
                                      "h:8x", "::1:80", "[]:80",     "[::1:80", "[::1]80"};
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(tb_inet_split(good[i].addr, host, port), 0);
        assert_string_equal(host, good[i].host);
        assert_string_equal(port, good[i].port);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (tb_inet_split(bad[i], host, port) != -EINVAL)
            fail_msg("%s is taken", bad[i]);
}

static int reach(int listener, int family)
{
    _cleanup_close_ int fd = socket(family, SOCK_STREAM, 0);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_storage own;
    socklen_t n = sizeof(own);

    assert_int_equal(getsockname(listener, (struct sockaddr *)&own, &n), 0);
    v4.sin_port = v6.sin6_port = ((struct sockaddr_in *)&own)->sin_port; /* at the same place in both */
    return connect(fd, family == AF_INET ? (struct sockaddr *)&v4 : (struct sockaddr *)&v6,
                   family == AF_INET ? sizeof(v4) : sizeof(v6)) < 0
               ? -errno
               : 0;
}

static void test_a_port_alone_takes_both_families(void **state)
{
    char err[TB_INET_ERR_MAX];
    _cleanup_close_ int fd = tb_inet_listen(":0", 8, err), one = tb_inet_listen("127.0.0.1:0", 8, err);
    _cleanup_close_ int v6 = socket(AF_INET6, SOCK_STREAM, 0);

    assert_true(fd >= 0 && one >= 0);
    assert_int_equal(reach(fd, AF_INET), 0);
    assert_int_equal(reach(one, AF_INET), 0);
    if (v6 >= 0 && reach(fd, AF_INET6) != -EADDRNOTAVAIL)
        assert_int_equal(reach(fd, AF_INET6), 0);
}

static void test_the_reason_names_the_address(void **state)
{
    char err[TB_INET_ERR_MAX];

    assert_int_equal(tb_inet_listen("nonsense", 8, err), -EINVAL);
    assert_string_equal(err, "nonsense is not host:port, [v6]:port or :port");
    assert_int_equal(tb_inet_listen("192.0.2.1:80", 8, err), -EADDRNOTAVAIL);
    assert_string_equal(err, "cannot listen on 192.0.2.1:80: Cannot assign requested address");
    assert_int_equal(tb_inet_listen("no such host:80", 8, err), -EHOSTUNREACH);
    assert_non_null(strstr(err, "no such host:80: "));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_are_taken_apart),
        cmocka_unit_test(test_a_port_alone_takes_both_families),
        cmocka_unit_test(test_the_reason_names_the_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
