# SPDX-License-Identifier: Apache-2.0
"""tb-proxy between a client and a scripted runtime: headers, events, bodies of any size, answers without one, connections kept."""

import hashlib
import http.client
import os
import threading
import time

import pytest

from proxy_backend import body_pieces, headers_of, read_head, simple
from proxy_daemon import ASAN, EMPTY, make, proxy, read_all, rss_peak  # noqa: F401
from tbsys import unix_listener, wait_for


def test_headers_both_ways(proxy):
    def route(conn, rq):
        rq.sha256()
        conn.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n"
                     b"X-End: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\n\r\nok")
    proxy.backend.routes["/v1/h"] = route
    status, body, headers = proxy.ask("POST", "/v1/h?q=1&r=%2F", b"abc", {
        "Connection": "close, X-Secret-Hop", "X-Secret-Hop": "1", "TE": "trailers", "Proxy-Authorization": "x",
        "X-Forwarded-For": "192.0.2.1", "X-Request-Id": "req-42", "Authorization": "Bearer abc", "Host": "model.example"})
    assert (status, body) == (201, b"ok")
    assert headers["X-End"] == "2" and headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert "X-Hop" not in headers and "Keep-Alive" not in headers and headers["X-Request-Id"] == "req-42"
    rq = proxy.backend.requests[-1]
    assert rq.path == "/v1/h?q=1&r=%2F"
    for gone in ("x-secret-hop", "te", "proxy-authorization", "connection"):
        assert gone not in rq.headers
    assert rq.headers["x-forwarded-for"] == ["192.0.2.1, 127.0.0.1"]
    assert rq.headers["host"] == ["model.example"] and rq.headers["authorization"] == ["Bearer abc"]
    assert rq.headers["x-request-id"] == ["req-42"] and rq.headers["content-length"] == ["3"]
    [record] = proxy.wait_records(1)
    assert list(record)[:8] == ["ts", "contract_id", "asset_id", "method", "path", "req_sha256", "status", "latency_ms"]
    assert record["path"] == "/v1/h" and record["request_id"] == "req-42" and record["client"] == "127.0.0.1"
    assert record["req_sha256"] == hashlib.sha256(b"abc").hexdigest() and record["bytes_in"] == 3
    assert record["bytes_out"] == 2 and record["status"] == 201
    assert "Bearer" not in proxy.audit_file.read_text() + proxy.daemon.log_text()


def test_sse_events_leave_when_they_arrive(proxy):
    seen = threading.Semaphore(0)

    def route(conn, rq):
        rq.sha256()
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert seen.acquire(timeout=20)  # the client has the head before there is any body
        for i in range(20):
            event = f"data: {i}\n\n".encode()
            conn.sendall(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            assert seen.acquire(timeout=20), "the client did not get the event"
        conn.sendall(b"0\r\n\r\n")
    proxy.backend.routes["/v1/sse"] = route
    with proxy.raw(b"POST /v1/sse HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}") as s:
        head, rest = read_head(s)
        assert head.startswith(b"HTTP/1.1 200")
        seen.release()
        got = b""
        for piece in body_pieces(s, headers_of(head), rest):
            got += piece
            while got.endswith(b"\n\n") and got.count(b"\n\n") > getattr(seen, "count", 0):
                seen.count = getattr(seen, "count", 0) + 1
                seen.release()
        assert got == b"".join(f"data: {i}\n\n".encode() for i in range(20))
    [record] = proxy.wait_records(1)
    assert record["bytes_out"] == len(got)


def test_large_bodies_in_constant_memory(proxy):
    block = os.urandom(1 << 20)
    want = hashlib.sha256(block * 64).hexdigest()
    c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    c.request("POST", "/v1/up", (block for _ in range(64)), {"Content-Length": str(64 << 20)})
    assert c.getresponse().read() == f"{want} {64 << 20}".encode()
    c.request("POST", "/v1/up", (block for _ in range(64)), encode_chunked=True)  # the same connection
    assert c.getresponse().read() == f"{want} {64 << 20}".encode()
    assert "transfer-encoding" in proxy.backend.requests[-1].headers

    def down(conn, rq):
        conn.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {64 << 20}\r\n\r\n".encode())
        for _ in range(64):
            conn.sendall(block)
    proxy.backend.routes["/v1/down"] = down
    c.request("GET", "/v1/down")
    r, h = c.getresponse(), hashlib.sha256()
    time.sleep(0.5)  # a client that does not read yet must not fill the proxy
    while piece := r.read(1 << 20):
        h.update(piece)
    assert h.hexdigest() == want
    c.close()
    records = proxy.wait_records(3)
    assert [r["req_sha256"] for r in records] == [want, want, EMPTY]
    assert [r["bytes_in"] for r in records] == [64 << 20, 64 << 20, 0]
    if not ASAN:
        assert rss_peak(proxy.daemon.pid) < 64 << 20


def test_slow_runtime_holds_the_client_back(proxy):
    go = threading.Event()

    def route(conn, rq):
        assert go.wait(30)
        digest, n = rq.sha256()
        conn.sendall(simple(digest.encode()))
    proxy.backend.routes["/v1/slow"] = route
    body = os.urandom(32 << 20)
    with proxy.raw(f"POST /v1/slow HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()) as s:
        s.setblocking(False)
        sent = 0
        while True:
            try:
                sent += s.send(body[sent:sent + 65536])
            except BlockingIOError:
                time.sleep(0.3)
                try:
                    sent += s.send(body[sent:sent + 65536])
                except BlockingIOError:
                    break  # nobody reads any more: pressure has come through
        assert sent < len(body)
        go.set()
        s.settimeout(30)
        s.sendall(body[sent:])
        head, rest = read_head(s)
        assert b"".join(body_pieces(s, headers_of(head), rest)).decode() == hashlib.sha256(body).hexdigest()


def test_expect_continue_and_head(proxy):
    with proxy.raw(b"POST /v1/e HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n") as s:
        head, _ = read_head(s)
        assert head.startswith(b"HTTP/1.1 100")
        s.sendall(b"abc")
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")
    assert "expect" not in proxy.backend.requests[-1].headers
    # a body that would be refused is not asked for
    with proxy.raw(b"POST /admin HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n") as s:
        assert read_head(s)[0].startswith(b"HTTP/1.1 404")
    c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    c.request("HEAD", "/v1/head")
    r = c.getresponse()
    assert (r.status, r.headers["Content-Length"], r.headers["X-Kept"], r.read()) == (200, "66", "yes", b"")
    c.request("GET", "/v1/after")  # the connection is still in step
    assert c.getresponse().read() == f"{EMPTY} 0".encode()
    c.close()


@pytest.mark.parametrize("method, answer", [
    ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
])
def test_answers_without_a_body_have_none(proxy, method, answer):
    """Not a byte of one: a client would take it for the start of the next answer."""
    proxy.backend.routes["/v1/x"] = lambda conn, rq: conn.sendall(answer) and None or False
    with proxy.raw(f"{method} /v1/x HTTP/1.1\r\nHost: x\r\n\r\n".encode()) as s:
        head, rest = read_head(s)
        assert head.split(b" ")[1] == answer.split(b" ")[1]
        h = headers_of(head)
        assert "transfer-encoding" not in h
        assert h.get("content-length") == headers_of(answer[:-2]).get("content-length")
        if "connection" not in h:
            s.sendall(b"GET /v1/zzz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        rest += read_all(s)
    assert rest == b"" if "connection" in h else rest.startswith(b"HTTP/1.1 200 ")


def test_keep_alive_on_both_sides(proxy):
    c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    c.request("GET", "/v1/x")
    c.getresponse().read()
    sock = c.sock
    for i in range(50):
        c.request("POST", "/v1/x", b"x" * i)
        assert c.getresponse().read().endswith(f" {i}".encode())
    assert c.sock is sock
    c.close()
    upstream = {rq.conn for rq in proxy.backend.requests}
    assert len(upstream) <= 3


def test_unix_socket_upstream_and_stale_connection(make, tmp_path):
    p = make(backend_sock=unix_listener(tmp_path / "runtime.sock")).ready().start()

    used = []

    def once(conn, rq):  # answers as if it kept the connection, then closes: the next request finds it dead
        conn.sendall(simple(rq.sha256()[0].encode()))
        used.append(conn)
        return False
    p.backend.routes["/v1/once"] = once
    for i in range(20):
        assert p.ask("POST", "/v1/once", b"abc")[:2] == (200, hashlib.sha256(b"abc").hexdigest().encode())
        wait_for(lambda: len(used) > i and used[-1].fileno() == -1, what="the runtime to close the connection")
