# SPDX-License-Identifier: Apache-2.0
"""The public port: forms of a target, its one spelling, connections that are kept, pipelined, looked after; how it sleeps."""

import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import time

import pytest

from proxy_backend import body_pieces, headers_of, read_head, simple
from proxy_daemon import error_of, make, proxy, read_all  # noqa: F401
from tbsys import CA, Daemon, free_port, program, wait_for


def answer_of(sock, buf=b""):
    head, rest = read_head(sock, buf)
    h = headers_of(head)
    body = b"".join(body_pieces(sock, h, rest[:int(h["content-length"][0])]))
    return int(head.split()[1]), body, rest[len(body):]


def test_absolute_form(proxy):
    for target, path in ((b"http://h/v1/models", "/v1/models"), (b"HTTP://h:80/v1/x?y=http://z/", "/v1/x?y=http://z/"), (b"https://[::1]/v1/x", "/v1/x")):
        with proxy.raw(b"GET %s HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n" % target) as s:
            assert read_all(s).startswith(b"HTTP/1.1 200")
        rq = proxy.backend.requests[-1]
        assert rq.path == path and rq.headers["host"] == [re.match(rb"(?i)https?://([^/]*)", target)[1].decode()]
    for bad in (b"ftp://h/v1/x", b"http:///v1/x", b"http://u@h/v1/x", b"http://h/v1/../x"):
        with proxy.raw(b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % bad) as s:
            assert read_all(s).startswith(b"HTTP/1.1 400")


def test_a_path_has_one_spelling(proxy):
    """What is matched, recorded and forwarded is the same."""
    for raw, path in (("/v1/completion%73", "/v1/completions"), ("/%76%31/x%2dy", "/v1/x-y"), ("/v1/a%20b%c3%a9", "/v1/a%20b%C3%A9"),
                      ("/v1/m%3Ax", "/v1/m:x"), ("/v1/%2573", "/v1/%2573")):
        assert proxy.ask("GET", raw + "?q=%73")[0] == 200
        assert proxy.backend.requests[-1].path == path + "?q=%73"
    for raw, status in (("/v1/%ff", 400), ("/v1/%c0%af", 400), ("/v1/%0d%0aX", 400), ("/v1//x", 404), ("/v1/./x", 400), ("/v1/x%2f..", 400)):
        assert proxy.ask("GET", raw)[0] == status
    assert len(proxy.backend.requests) == 5
    wait_for(lambda: len(proxy.records()) == 11, what="the records")
    assert [r["path"] for r in proxy.records()][:5] == ["/v1/completions", "/v1/x-y", "/v1/a%20b%C3%A9", "/v1/m:x", "/v1/%2573"]


def test_pipelined_requests_are_answered_in_order(proxy):
    proxy.backend.routes["/v1/slow"] = lambda conn, rq: (time.sleep(0.3), conn.sendall(simple(b"slow")))[1]
    proxy.backend.routes["/v1/fast"] = lambda conn, rq: conn.sendall(simple(rq.sha256()[0][:8].encode()))
    data = b"GET /v1/slow HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(20):
        data += b"POST /v1/fast HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc\r\n"  # and a line end that does not belong there
    with proxy.raw(data) as s:
        status, body, rest = answer_of(s)
        assert (status, body) == (200, b"slow")
        for _ in range(20):
            while rest.count(b"\r\n\r\n") == 0 or len(rest.split(b"\r\n\r\n", 1)[1]) < 8:
                rest += s.recv(65536)
            status, body, rest = answer_of(s, rest)
            assert (status, body) == (200, b"ba7816bf")
    assert len(proxy.wait_records(21)) == 21


def test_http_1_0(proxy):
    with proxy.raw(b"GET /v1/x HTTP/1.0\r\n\r\n") as s:
        assert read_all(s).startswith(b"HTTP/1.1 200 OK\r\n")  # and closed
    with proxy.raw(b"GET /v1/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") as s:
        head, _ = read_head(s)
        assert "keep-alive" in headers_of(head)["connection"]
        s.sendall(b"GET /v1/y HTTP/1.0\r\n\r\n")
        assert b"HTTP/1.1 200" in read_all(s)

    def route(conn, rq):  # of unknown length
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")
    proxy.backend.routes["/v1/c"] = route
    with proxy.raw(b"GET /v1/c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") as s:
        data = read_all(s)
    assert data.endswith(b"\r\n\r\nab") and b"chunked" not in data


def test_an_answer_begins_before_the_body_is_complete(proxy):
    def route(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        digest, n = rq.sha256()
        conn.sendall(b"%x\r\n%d\r\n0\r\n\r\n" % (len(str(n)), n))
    proxy.backend.routes["/v1/both"] = route
    with proxy.raw(b"POST /v1/both HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\nx") as s:
        head, rest = read_head(s)
        assert head.startswith(b"HTTP/1.1 200")
        while b"begun" not in rest:
            rest += s.recv(100)
        s.sendall(b"x" * 199_999)
        while not rest.endswith(b"0\r\n\r\n"):
            rest += s.recv(100)
        assert b"200000" in rest
        s.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200" in read_all(s)
    assert proxy.wait_records(2)[0]["bytes_in"] == 200000


def test_plain_http_on_the_tls_port_is_told(make, tmp_path):
    cert, key = CA(tmp_path / "ca").issue("localhost")
    p = make(TB_TLS_CERT=cert, TB_TLS_KEY=key).ready().start()
    for method in ("GET", "DELETE", "\r\nGET", "get"):
        with p.raw(f"{method} /v1/x HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as s:
            answer = read_all(s)
        assert answer.startswith(b"HTTP/1.1 400 ") and b"https" in answer
    assert not p.backend.requests
    assert [(r["status"], r["error"]) for r in p.wait_records(4)] == [(400, "plain_http")] * 4
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", p.port), timeout=20)) as s:
        assert s.selected_alpn_protocol() == "http/1.1"
        s.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(s).startswith(b"HTTP/1.1 200")  # ended by TLS as well: no error


def test_connections_are_kept_alive_by_tcp(proxy):
    with proxy.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        read_head(s)
        out = subprocess.run(["ss", "-tno", "state", "established", f"( sport = :{proxy.port} )"], capture_output=True, text=True, check=True).stdout
    assert "timer:(keepalive" in out, out


def test_a_port_alone_is_both_families(tmp_path):
    port = free_port()
    env = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://localhost:1", "TB_RUN_DIR": tmp_path / "run",
           "TB_STATE_DIR": tmp_path / "state", "TB_TARGET_DIR": tmp_path, "TB_PUBLIC_ADDR": f":{port}", "TB_HEALTH_ADDR": f"127.0.0.1:{free_port()}"}
    d = Daemon([program("tb-proxy")], env=env, log=tmp_path / "log").start()
    d.wait_notify("READY", "1")
    for host in ("127.0.0.1", "::1") if os.path.exists("/proc/net/if_inet6") else ("127.0.0.1",):
        c = http.client.HTTPConnection(host, port, timeout=10)
        c.request("GET", "/v1/x")
        assert c.getresponse().status == 503
        c.close()
    assert d.stop() == 0


def switches(pid):
    """Times the threads of a process have gone to sleep and been woken."""
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (t / "status").read_text(), re.M)[1])
               for t in pathlib.Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.alone
def test_idle_it_sleeps(proxy):
    """At most two wake-ups a second, connections and all; and a change of the domain files is seen at once all the same."""
    with proxy.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        read_head(s)
        time.sleep(2)
        before = switches(proxy.daemon.pid)
        time.sleep(10)
        assert switches(proxy.daemon.pid) - before <= 20
        start = time.monotonic()
        proxy.write("tb-authorize", "suspended", reason="contract_revoked", since="2026-01-08T12:00:00Z")
        while proxy.ask("GET", "/health")[0] == 200:
            assert time.monotonic() - start < 1
        assert error_of(proxy.ask("GET", "/v1/x")) == (403, "contract_revoked")


def test_expectations(proxy):
    with proxy.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: something\r\n\r\nabc") as s:
        assert answer_of(s)[0] == 417
    with proxy.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc") as s:
        assert answer_of(s)[0] == 200  # the body is there: nobody waits to be told to go on


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_a_preflight_that_expects_is_answered_once(make, tmp_path, body):  # noqa: F811
    """Without 100 Continue; the connection closes, as nobody can tell whether the body comes."""
    path = tmp_path / "keys"
    path.write_text("alice:%s\n" % ("a" * 64))
    p = make(TB_API_KEYS=path).ready().start()
    with p.raw(b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n"
               b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n" + body) as s:
        answer = read_all(s)
    assert answer.startswith(b"HTTP/1.1 204 ") and b"\r\nConnection: close\r\n" in answer and answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in answer and p.backend.requests == []
    assert p.wait_records(1)[0]["status"] == 204


def test_expectations_of_our_own_endpoints(proxy):
    """The client may leave the body out now: what it sends next is no request that one could be sure of."""
    with proxy.raw(b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n") as s:
        answer = read_all(s)
    assert answer.startswith(b"HTTP/1.1 405 ") and b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("framing, rest", [("Content-Length: 4010", b""), ("Transfer-Encoding: chunked", b"zz\r\n"), ("Transfer-Encoding: chunked", b"")],
                         ids=["the client leaves", "rubbish behind it", "the client leaves a chunk"])
def test_an_answer_that_did_not_wait_for_the_body_stands(proxy, framing, rest):
    """What the client has had is what the record says."""
    proxy.backend.routes["/v1/early"] = lambda conn, rq: conn.sendall(simple(b"gone", "404 Not Found"))
    with proxy.raw(b"POST /v1/early HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n3\r\nabc\r\n" % framing.encode()) as s:
        assert answer_of(s)[:2] == (404, b"gone")
        s.sendall(rest)
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b""
    [record] = proxy.wait_records(1)
    assert (record["status"], record.get("error"), record["req_complete"]) == (404, None, False)


@pytest.mark.parametrize("path", ["/health", "/nowhere"])
def test_a_body_that_nobody_reads_has_an_end(proxy, path):
    sent, chunk = 0, b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with proxy.raw(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode()) as s:
        with pytest.raises(OSError):
            while sent < 100 * len(chunk) * 10:
                s.sendall(chunk)
                sent += len(chunk)
    assert 8_000_000 < sent < 20_000_000


def test_a_stranger_to_a_kept_connection_is_not_answered_for_another(proxy):
    """A client that closes in the middle of an answer takes nothing of the next one with it."""
    proxy.backend.routes["/v1/big"] = lambda conn, rq: conn.sendall(simple(b"x" * 3_000_000))
    for _ in range(20):
        with proxy.raw(b"GET /v1/big HTTP/1.1\r\nHost: x\r\n\r\n") as s:
            s.recv(1000)
        assert json.loads(json.dumps(proxy.ask("GET", "/v1/x")[0])) == 200


@pytest.mark.parametrize("path", ["/health", "/status", "/readiness"])
def test_own_endpoints_keep_the_connection(proxy, path):
    with proxy.raw(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET %s HTTP/1.1\r\nHost: x\r\n\r\n" % (path.encode(), path.encode())) as s:
        status, _, rest = answer_of(s)
        assert status == 405
        assert answer_of(s, rest)[0] == 200
