/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/base64.h"
#include "provider/azure/blob.h"
#include "provider/azure/blob_client.h"
#include "provider/azure/xml.h"

#define DATE "Sun, 22 Nov 2026 03:23:17 GMT"

static const struct blob_request put_block = {
    .method = "PUT",
    .path = "c/a/m x.tbenc",
    .query = {{"comp", "block"}, {"blockid", "dGIx+/=="}},
    .headers = {{"x-ms-meta-sha256", "ab"},
                {"Content-Type", "application/octet-stream"},
                {"If-None-Match", "*"},
                {"Content-MD5", "XrY7u+Ae7tCTyyK7j1rNww=="}},
    .body = "hello",
    .body_len = 5,
};

static void test_shared_key(void **state)
{
    struct blob_service s = {.account = (char *)"acct", .url = (char *)"http://127.0.0.1:10000/acct"};
    _cleanup_free_ char *text = NULL, *value = NULL;
    uint8_t key[32];

    for (unsigned i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)i;
    assert_int_equal(blob_string_to_sign(&s, &put_block, DATE, &text), 0);
    assert_string_equal(text, "PUT\n\n\n5\nXrY7u+Ae7tCTyyK7j1rNww==\napplication/octet-stream\n\n\n\n*\n\n\n"
                              "x-ms-date:" DATE "\nx-ms-meta-sha256:ab\nx-ms-version:2024-11-04\n"
                              "/acct/acct/c/a/m%20x.tbenc\nblockid:dGIx+/==\ncomp:block");
    assert_int_equal(blob_authorization(&s, &put_block, DATE, key, sizeof(key), &value), 0);
    /* computed with Python's hmac */
    assert_string_equal(value, "SharedKey acct:2mKVEtNZ2gohRU9epmHshqNsp9Du2QPfwo5M0EvWsVM=");
}

static void test_shared_key_of_an_empty_body(void **state)
{
    struct blob_service s = {.account = (char *)"acct", .url = (char *)"https://acct.blob.core.windows.net"};
    const struct blob_request rq = {.method = "HEAD", .path = "c/b"};
    _cleanup_free_ char *text = NULL;

    assert_int_equal(blob_string_to_sign(&s, &rq, DATE, &text), 0);
    assert_string_equal(text,
                        "HEAD\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:" DATE "\nx-ms-version:2024-11-04\n/acct/c/b");
}

static void test_request_url(void **state)
{
    struct blob_service s = {.account = (char *)"acct", .url = (char *)"https://acct.blob.core.windows.net"};
    const struct blob_request plain = {.method = "GET", .path = "c/b"};
    char *url;

    assert_int_equal(blob_request_url(&s, &put_block, NULL, &url), 0);
    assert_string_equal(
        url, "https://acct.blob.core.windows.net/c/a/m%20x.tbenc?comp=block&blockid=dGIx%2B%2F%3D%3D");
    free(url);
    assert_int_equal(blob_request_url(&s, &put_block, "sv=1&sig=x%3D", &url), 0);
    assert_string_equal(url, "https://acct.blob.core.windows.net/c/a/"
                             "m%20x.tbenc?comp=block&blockid=dGIx%2B%2F%3D%3D&sv=1&sig=x%3D");
    free(url);
    assert_int_equal(blob_request_url(&s, &plain, "sv=1", &url), 0);
    assert_string_equal(url, "https://acct.blob.core.windows.net/c/b?sv=1");
    free(url);
}

static void test_names(void **state)
{
    assert_true(blob_account_valid("abc"));
    assert_true(blob_account_valid("devstoreaccount1"));
    assert_false(blob_account_valid("ab"));
    assert_false(blob_account_valid("abcdefghijklmnopqrstuvwxy")); /* 25 */
    assert_false(blob_account_valid("Abc"));
    assert_false(blob_account_valid("a.b/c"));
    assert_true(blob_container_valid("models"));
    assert_true(blob_container_valid("a-1"));
    assert_false(blob_container_valid("ab"));
    assert_false(blob_container_valid("-ab"));
    assert_false(blob_container_valid("ab-"));
    assert_false(blob_container_valid("a--b"));
    assert_false(blob_container_valid("a_b"));
    assert_false(blob_container_valid("a/b"));
}

static void check_service(const char *endpoint, bool allow_http, const char *want)
{
    _cleanup_blob_service_ struct blob_service s = {0};
    char err[BLOB_ERR_MAX] = "";
    int r = blob_service_init("acct", endpoint, allow_http, &s, err);

    if (want) {
        assert_int_equal(r, 0);
        assert_string_equal(s.url, want);
        assert_string_equal(s.account, "acct");
    } else {
        assert_int_equal(r, -EINVAL);
        assert_true(err[0] != '\0');
        assert_null(strstr(err, "SECRET"));
        assert_null(s.url);
    }
}

static void test_service(void **state)
{
    check_service(NULL, false, "https://acct.blob.core.windows.net");
    check_service("https://acct.privatelink.example/", false, "https://acct.privatelink.example");
    check_service("http://127.0.0.1:10000/acct", false, "http://127.0.0.1:10000/acct");
    check_service("http://127.0.0.1:10000//", false, "http://127.0.0.1:10000/acct");
    check_service("http://localhost:1", false, "http://localhost:1/acct");
    check_service("http://[::1]:1", false, "http://[::1]:1/acct");
    check_service("https://10.0.0.4", false, "https://10.0.0.4/acct");
    check_service("http://10.0.0.4", true, "http://10.0.0.4/acct");
    check_service("http://10.0.0.4", false, NULL);
    check_service("http://127.0.0.1.example/x", false, NULL);
    check_service("http://localhost.example/x", false, NULL);
    check_service("http://127.0.0.1@evil.example/x", false, NULL);
    check_service("https://h/?sig=SECRET", false, NULL);
    check_service("https://h/#SECRET", false, NULL);
    check_service("https://user:SECRET@h/", false, NULL);
    check_service("https://", false, NULL);
    check_service("https:///x", false, NULL);
    check_service("https://[::1", false, NULL);
    check_service("ftp://h/", false, NULL);
    check_service("https://h/ x", false, NULL);
    check_service("https://h/\r\nX: y", false, NULL);
}

static void test_base64(void **state)
{
    static const char *const bad[] = {"A",    "AA",      "AAA",  "A===",     "====",     "AA=A",
                                      "A A=", "AAA\xff", "=AAA", "AA==AAAA", "aGVsbG9=", "/x=="};
    uint8_t out[64];
    char text[16];

    tb_base64_encode("", 0, text);
    assert_string_equal(text, "");
    tb_base64_encode("hello", 5, text);
    assert_string_equal(text, "aGVsbG8=");
    assert_int_equal(tb_base64_decode("aGVsbG8=", 8, out), 5);
    assert_memory_equal(out, "hello", 5);
    assert_int_equal(tb_base64_decode("aGVsbA==", 8, out), 4);
    assert_int_equal(tb_base64_decode("+/+/", 4, out), 3);
    assert_int_equal(tb_base64_decode("", 0, out), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(tb_base64_decode(bad[i], strlen(bad[i]), out), -EINVAL);
}

static void test_block_ids(void **state)
{
    char a[BLOB_ID_CHARS + 1], b[BLOB_ID_CHARS + 1];
    uint8_t md5[BLOB_MD5_BYTES];

    assert_int_equal(blob_md5("hello", 5, md5), 0);
    blob_block_id(7, NULL, md5, a);
    assert_string_equal(a, "dGIxLTAwMDA3LTVkNDE0MDJhYmM0YjJhNzZiOTcxOWQ5MTEwMTdjNTky");
    blob_block_id(49999, NULL, md5, b);
    assert_int_equal(strlen(b), BLOB_ID_CHARS);
    assert_string_not_equal(a, b);
    md5[15] ^= 1;
    blob_block_id(7, NULL, md5, b);
    assert_string_not_equal(a, b);
}

static void test_block_ids_of_a_session(void **state)
{
    char a[BLOB_ID_CHARS + 1], b[BLOB_ID_CHARS + 1];
    uint8_t md5[BLOB_MD5_BYTES];
    size_t index = 0;

    assert_int_equal(blob_md5("hello", 5, md5), 0);
    blob_block_id(42, "0123456789abcdef", md5, a);
    assert_int_equal(strlen(a), BLOB_ID_CHARS);
    assert_true(blob_block_id_parse(a, "012345678", &index));
    assert_int_equal(index, 42);
    assert_false(blob_block_id_parse(a, "012345679", &index));
    for (unsigned i = 0; i < 8 * BLOB_MD5_BYTES; i++) { /* each bit of the contents is in the id */
        md5[i / 8] ^= (uint8_t)(1 << i % 8);
        blob_block_id(42, "0123456789abcdef", md5, b);
        assert_string_not_equal(a, b);
        md5[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    blob_block_id(42, NULL, md5, b);
    assert_false(blob_block_id_parse(b, "012345678", &index)); /* of a file */
    a[BLOB_ID_CHARS - 1] = '\0';
    assert_false(blob_block_id_parse(a, "012345678", &index));
}

static void test_block_bytes(void **state)
{
    const uint64_t mib = 1 << 20;

    assert_int_equal(blob_block_bytes_for(1, 65536), 65536);
    assert_int_equal(blob_block_bytes_for(65536ULL * 50000, 65536), 65536);
    assert_int_equal(blob_block_bytes_for(65536ULL * 50000 + 1, 65536), mib);
    assert_int_equal(blob_block_bytes_for(8 * mib * 50000 + 1, 8 * mib), 9 * mib);
    assert_int_equal(blob_block_bytes_for(256 * mib * 50000, 8 * mib), 256 * mib);
    assert_int_equal(blob_block_bytes_for(256 * mib * 50000 + 1, 8 * mib), 0);
    assert_int_equal(blob_block_bytes_for(UINT64_MAX / 2, 8 * mib), 0);
}

static void test_block_list_body(void **state)
{
    char ids[2][BLOB_ID_CHARS + 1] = {"b2", "b1"};
    _cleanup_free_ char *text = NULL;
    size_t len;

    assert_int_equal(blob_block_list_format(ids, 2, &text, &len), 0);
    assert_string_equal(text,
                        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList><Uncommitted>b2</Uncommitted>"
                        "<Uncommitted>b1</Uncommitted></BlockList>");
    assert_int_equal(len, strlen(text));
}

/* -- XML
 * ----------------------------------------------------------------------------------------------------------- */

static void test_xml_error(void **state)
{
    static const char text[] =
        "\xef\xbb\xbf<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server &amp; "
        "you &lt;x&gt;\x01"
        "\nRequestId:1</Message><AuthenticationErrorDetail>d</AuthenticationErrorDetail></Error>";
    char code[BLOB_CODE_MAX], message[BLOB_MESSAGE_MAX];

    assert_int_equal(blob_xml_error(text, sizeof(text) - 1, code, message), 0);
    assert_string_equal(code, "AuthenticationFailed");
    assert_string_equal(message, "Server & you <x>?");
    for (size_t n = 0; n < sizeof(text) - 1; n++)
        assert_int_equal(blob_xml_error(text, n, code, message), -EBADMSG);
}

static void test_xml_error_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "<html><body>x</body></html>",
        "<Error></Error>",
        "<Error><Code/></Error>",
        "<Error><Code>x</Error></Code>",
        "<!DOCTYPE x [<!ENTITY a \"b\">]><Error><Code>&a;</Code></Error>",
        "<x><Error><Code>c</Code></Error></x>",
        "<a><a><a><a><a><a><a><a><a></a></a></a></a></a></a></a></a></a>",
        "</Error>",
        "< Error>",
        "<Error",
    };
    char code[BLOB_CODE_MAX], message[BLOB_MESSAGE_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(blob_xml_error(bad[i], strlen(bad[i]), code, message), -EBADMSG);
}

#define ID1 "dGIxLTAwMDA3LTVkNDE0MDJhYmM0YjJhNzZiOTcxOWQ5MTEwMTdjNTky"
#define ID0 "dGIxLTAwMDA2LTVkNDE0MDJhYmM0YjJhNzZiOTcxOWQ5MTEwMTdjNTky"

static void test_xml_block_list(void **state)
{
    static const char text[] =
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<BlockList><CommittedBlocks><Block><Name>" ID1
        "</Name><Size>9</Size></Block></CommittedBlocks><UncommittedBlocks><!-- c --><Block><Name>" ID1
        "</Name><Size>5</Size></Block><Block><Name>Zm9yZWlnbg==</Name><Size>1</Size></Block><Block><Name>" ID0
        "</Name><Size>6</Size></Block></UncommittedBlocks></BlockList>";
    _cleanup_staged_set_ struct blob_staged_set s = {0};

    assert_int_equal(blob_xml_block_list(text, sizeof(text) - 1, BLOB_LIST_UNCOMMITTED, &s), 0);
    assert_int_equal(s.n, 2);
    assert_int_equal(s.n_foreign, 1);
    assert_non_null(blob_staged_find(&s, ID1));
    assert_int_equal(blob_staged_find(&s, ID1)->size, 5);
    assert_int_equal(blob_staged_find(&s, ID0)->size, 6);
    assert_null(blob_staged_find(&s, "x"));
}

static void test_xml_block_list_odd(void **state)
{
    static const char empty[] = "<BlockList><CommittedBlocks /><UncommittedBlocks/></BlockList>";
    static const char *const bad[] = {
        "",
        "<Other/>",
        "<BlockList><UncommittedBlocks><Block><Name>x</Name><Size>-1</Size></Block></UncommittedBlocks></"
        "BlockList>",
        "<BlockList><UncommittedBlocks><Block><Name>x</Name></Block></UncommittedBlocks></BlockList>",
        "<BlockList><UncommittedBlocks>",
    };
    _cleanup_staged_set_ struct blob_staged_set s = {0};

    assert_int_equal(blob_xml_block_list(empty, sizeof(empty) - 1, BLOB_LIST_UNCOMMITTED, &s), 0);
    assert_int_equal(s.n, 0);
    assert_null(blob_staged_find(&s, ID1));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(blob_xml_block_list(bad[i], strlen(bad[i]), BLOB_LIST_UNCOMMITTED, &s), -EBADMSG);
}

/* -- what is worth another try, and what people are told
 * ----------------------------------------------------------- */

static void test_retryable(void **state)
{
    struct blob_reply r = {.status = 503};

    assert_true(blob_retryable(0, &r));
    r.status = 403;
    assert_false(blob_retryable(0, &r));
    r = (struct blob_reply){.status = 400, .code = "Md5Mismatch"};
    assert_true(blob_retryable(0, &r));
    r = (struct blob_reply){.status = 400, .code = "InvalidHeaderValue"};
    assert_false(blob_retryable(0, &r));
    assert_true(blob_retryable(-ETIMEDOUT, &r));
    assert_true(blob_retryable(-ECONNREFUSED, &r));
    assert_false(blob_retryable(-EKEYREJECTED, &r));
    assert_false(blob_retryable(-EHOSTUNREACH, &r));
}

static void test_explain(void **state)
{
    struct blob_service s = {.account = (char *)"acct"};
    struct azure_auth auth = {.kind = AZURE_AUTH_BEARER, .source = "the Azure CLI"};
    struct blob_client c = {.service = &s, .auth = &auth, .container = "models"};
    struct blob_reply r = {.status = 404, .code = "ContainerNotFound"};
    struct blob_fault f;

    blob_explain(&c, 0, &r, "", &f);
    assert_non_null(strstr(f.reason, "container 'models' does not exist"));
    assert_non_null(strstr(f.remedy, "az storage container create --account-name acct --name models"));
    r = (struct blob_reply){.status = 403, .code = "AuthorizationPermissionMismatch"};
    blob_explain(&c, 0, &r, "", &f);
    assert_non_null(strstr(f.remedy, "Storage Blob Data Contributor"));
    auth.kind = AZURE_AUTH_SAS;
    blob_explain(&c, 0, &r, "", &f);
    assert_non_null(strstr(f.remedy, "sp=rcw"));
    r = (struct blob_reply){
        .status = 400, .code = "InvalidBlobOrBlock", .request_id = "rid-1", .message = "m"};
    blob_explain(&c, 0, &r, "", &f);
    assert_non_null(strstr(f.reason, "rid-1"));
    assert_non_null(strstr(f.remedy, "uncommitted"));
}

static void test_list_of_blobs(void **state)
{
    static const char text[] =
        "<?xml version=\"1.0\"?><EnumerationResults "
        "ContainerName=\"m\"><Blobs><Blob><Name>a/model.tbenc</Name>"
        "<Properties><Last-Modified>Sun, 22 Nov 2026 03:23:17 GMT</Last-Modified><Etag>0x8D</Etag>"
        "<Content-Length>1000</Content-Length></Properties></Blob><Blob><Name>b&amp;c</Name><Properties/></"
        "Blob>"
        "<Blob><Name>n\xc3\xa4</Name></Blob></Blobs><NextMarker>2!92</NextMarker></EnumerationResults>";
    struct blob_entries e = {0};
    char next[BLOB_MARKER_MAX] = "x";

    assert_int_equal(blob_xml_list(text, strlen(text), &e, next), 0);
    assert_string_equal(next, "2!92");
    assert_int_equal(e.n, 2); /* a name that is not ASCII is none of ours */
    assert_string_equal(e.v[0].name, "a/model.tbenc");
    assert_int_equal(e.v[0].size, 1000);
    assert_string_equal(e.v[0].etag, "0x8D");
    assert_string_equal(e.v[0].modified, "Sun, 22 Nov 2026 03:23:17 GMT");
    assert_string_equal(e.v[1].name, "b&c");
    assert_int_equal(e.v[1].size, 0);
    assert_string_equal(e.v[1].etag, "");
    for (size_t n = 0; n < strlen(text); n++) /* cut anywhere: refused, and what was added is freed */
        assert_int_equal(blob_xml_list(text, n, &e, next), -EBADMSG);
    blob_entries_clear(&e);
    assert_int_equal(blob_xml_list("<a/>", 4, &e, next), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_of_blobs),
        cmocka_unit_test(test_shared_key),
        cmocka_unit_test(test_shared_key_of_an_empty_body),
        cmocka_unit_test(test_request_url),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_service),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_block_ids),
        cmocka_unit_test(test_block_ids_of_a_session),
        cmocka_unit_test(test_block_bytes),
        cmocka_unit_test(test_block_list_body),
        cmocka_unit_test(test_xml_error),
        cmocka_unit_test(test_xml_error_refused),
        cmocka_unit_test(test_xml_block_list),
        cmocka_unit_test(test_xml_block_list_odd),
        cmocka_unit_test(test_retryable),
        cmocka_unit_test(test_explain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
