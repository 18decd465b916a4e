# SPDX-License-Identifier: Apache-2.0
"""What tb-proxy refuses: requests whose end is uncertain, other routes, bodies over the limit, unknown keys, old TLS, bad settings."""

import hashlib
import http.client
import socket

import pytest

from proxy_backend import read_head
from proxy_daemon import error_of, make, proxy  # noqa: F401
from tbsys import CA, takes_no_core, wait_for


@pytest.mark.parametrize("name,data,status", [
    ("two lengths", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", 400),
    ("two equal lengths", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    ("length and chunked", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("folded length", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 3\r\n\r\nabc", 400),
    ("folded second length", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\t0\r\n\r\nabc", 400),
    ("folded coding", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    ("length and chunked, own endpoint",
     b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("other coding", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    ("bad length", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
    ("space before colon", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc", 400),
    ("absolute form of another scheme", b"GET ftp://other/v1/x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("dot segments", b"GET /v1/../admin HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("encoded dots", b"GET /v1/%2e%2E/admin HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("encoded slash", b"GET /v1/..%2fadmin HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ("two hosts", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    ("websocket", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    ("trace", b"TRACE /v1/x HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ("other route", b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ("prefix only", b"GET /v1x HTTP/1.1\r\nHost: x\r\n\r\n", 404),
])
def test_refused_at_the_door(proxy, name, data, status):
    with proxy.raw(data + b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as s:
        head, _ = read_head(s)
    assert int(head.split()[1]) == status
    paths = [rq.path for rq in proxy.backend.requests]
    assert not [p for p in paths if p != "/v1/smuggled"]
    if b"ontent-Length" in data or b"Transfer" in data:
        assert paths == []  # the end of the body was uncertain: nothing behind it is a request
    wait_for(lambda: proxy.audit_file.exists() and proxy.records(), what="a record")
    assert proxy.records()[0]["status"] == status


def test_routes_limits_and_keys(make, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# comment\nalice:%s\n\nbob:%s\n" % tuple(hashlib.sha256(k).hexdigest() for k in (b"key-a", b"key-b")))
    p = make(TB_ROUTES="/v1/chat/*,/plaintext-hash", TB_MAX_BODY_BYTES="1000", TB_API_KEYS=keys).ready().start()
    good = {"Authorization": "Bearer key-b"}
    answer = p.ask("POST", "/v1/chat/x", b"x")
    assert error_of(answer) == (401, "invalid_api_key") and answer[2]["WWW-Authenticate"].startswith("Bearer")
    assert p.ask("POST", "/v1/chat/x", b"x", {"Authorization": "Bearer key-c"})[0] == 401
    assert p.ask("POST", "/v1/chat/x", b"x", good)[0] == 200
    assert "authorization" not in p.backend.requests[-1].headers
    assert p.ask("GET", "/plaintext-hash", headers=good)[0] == 200
    assert error_of(p.ask("GET", "/v1/models", headers=good)) == (404, "not_found")
    assert p.ask("POST", "/v1/chat/x", b"x" * 1000, good)[0] == 200
    assert error_of(p.ask("POST", "/v1/chat/x", b"x" * 1001, good)) == (413, "body_too_large")
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=20)
    c.request("POST", "/v1/chat/x", iter([b"x" * 600, b"x" * 600]), good, encode_chunked=True)
    assert c.getresponse().status == 413
    c.close()
    records = p.wait_records(8)
    assert [r["status"] for r in records] == [401, 401, 200, 200, 404, 200, 413, 413]
    assert [r.get("key_name") for r in records] == [None, None] + ["bob"] * 6
    assert records[-1]["req_sha256"] == hashlib.sha256(b"x" * 1200).hexdigest()
    text = p.audit_file.read_text() + p.daemon.log_text()
    assert takes_no_core(p.daemon.pid)
    assert "key-a" not in text and "key-b" not in text and "key-c" not in text


@pytest.mark.parametrize("env,word", [({"TB_TLS_CERT": "/nonexistent"}, "TB_TLS_KEY"), ({"TB_ROUTES": "v1"}, "TB_ROUTES"),
                                      ({"TB_API_KEYS": "/nonexistent"}, "TB_API_KEYS")])
def test_bad_configuration_is_refused_at_start(make, env, word):
    p = make(**env)
    p.daemon.start()
    assert p.daemon.wait() == 78
    assert word in p.daemon.log_text()


def test_tls(make, tmp_path):
    import ssl
    ca = CA(tmp_path / "ca")
    cert, key = ca.issue("proxy")
    p = make(TB_TLS_CERT=cert, TB_TLS_KEY=key).ready().start()
    ctx = ssl.create_default_context(cafile=str(ca.cert))
    for _ in range(3):
        c = http.client.HTTPSConnection("localhost", p.port, timeout=20, context=ctx)
        c.request("POST", "/v1/x", b"a" * 300000)
        assert c.getresponse().read() == f"{hashlib.sha256(b'a' * 300000).hexdigest()} 300000".encode()
        c.close()
    assert p.backend.requests[-1].headers["x-forwarded-proto"] == ["https"]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with socket.create_connection(("127.0.0.1", p.port), timeout=20) as s, old.wrap_socket(s):
            pass
