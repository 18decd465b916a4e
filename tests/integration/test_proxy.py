# SPDX-License-Identifier: Apache-2.0
"""tb-proxy against a scripted runtime: states, streaming, refusals, the audit, restarts."""

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import threading
import time

import pytest

from proxy_backend import body_pieces, headers_of, read_head, simple
from proxy_daemon import (ASAN, EMPTY, boottime_us, error_of, make, proxy, queue_length,  # noqa: F401
                          read_all, readable, rss_peak, usage)
from tbsys import CA, Daemon, program, read_json, unix_listener, wait_for

# --- states ---------------------------------------------------------------------------------------------------------

def check_codes(p, state, health, readiness, api):
    p.wait_state(state)
    for port in (p.port, p.health.getsockname()[1]):
        assert p.ask("GET", "/health", port=port)[0] == health
        assert p.ask("GET", "/readiness", port=port)[0] == readiness
        assert p.ask("HEAD", "/status", port=port)[0] == 200
        doc = json.loads(p.ask("GET", "/status", port=port)[1])
        assert doc["state"] == state and doc["ready"] == (state == "Ready") and doc["suspended"] == (state == "Suspended")
    answer = p.ask("POST", "/v1/chat/completions", b"{}")
    assert answer[0] == api
    if api != 200:
        assert set(json.loads(answer[1])["error"]) == {"message", "type", "code"}
    if api == 503:
        assert int(answer[2]["Retry-After"]) > 0
    assert read_json(p.run / "tb-proxy/proxy.json")["state"] == state
    return answer


def test_states_on_both_ports(make):
    p = make().start(wait=None)
    check_codes(p, "Boot", 503, 503, 503)
    p.lease("pending")
    check_codes(p, "Authorize", 503, 503, 503)
    p.lease(expires_at="2030-01-01T00:00:00Z", deadline_boottime_us=boottime_us() + 3600 * 10**6)
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=5, bytes_total=10)
    check_codes(p, "Hydrate", 503, 503, 503)
    wait_for(lambda: p.status()["hydrate"].get("bytes_done") == 5, what="progress in /status")
    assert p.status()["lease_expires_at"] == "2030-01-01T00:00:00Z"
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=10, bytes_total=10)
    check_codes(p, "Decrypt", 503, 200, 503)
    p.backend.healthy = False
    p.write("tb-runtime", "delivery.json", state="delivered", mode="dir")
    check_codes(p, "Decrypt", 503, 200, 503)
    p.backend.healthy = True
    check_codes(p, "Ready", 200, 200, 200)
    p.backend.healthy = False
    check_codes(p, "Decrypt", 503, 200, 503)
    p.backend.healthy = True
    p.wait_state("Ready")
    p.write("tb-authorize", "suspended", reason="contract_revoked", since="2026-01-01T00:00:00Z")
    assert error_of(check_codes(p, "Suspended", 503, 503, 403)) == (403, "contract_revoked")
    (p.run / "tb-authorize/suspended").unlink()
    check_codes(p, "Ready", 200, 200, 200)
    p.lease("denied", reason="subscription_inactive")
    assert error_of(check_codes(p, "Suspended", 503, 503, 403)) == (403, "subscription_inactive")


def test_lease_deadline_is_checked_by_the_proxy_itself(make):
    p = make().ready()
    p.lease(deadline_boottime_us=boottime_us() + 2 * 10**6)
    p.start(wait=None)
    wait_for(lambda: p.ask("GET", "/v1/x")[0] == 200, what="service before the deadline")
    answer = wait_for(lambda: (a := p.ask("GET", "/v1/x"))[0] != 200 and a, what="refusal after the deadline")
    assert error_of(answer) == (403, "lease_expired")


def test_health_endpoints(proxy):
    assert proxy.ask("POST", "/health", b"x")[0] == 405
    status, body, headers = proxy.ask_health("/health", "DELETE")
    assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert error_of(proxy.ask_health("/nothing")) == (404, "not_found")
    assert proxy.ask("GET", "/metrics")[0] == 404
    assert proxy.ask_health("/health")[1] == b"OK"
    text = proxy.ask_health("/metrics")[1].decode()
    assert 'tb_state{state="Ready"} 1' in text and "tb_requests_in_flight 0" in text
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"\})? [0-9.]+', line), line


# --- forwarding -----------------------------------------------------------------------------------------------------

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

    def once(conn, rq):  # answers as if it kept the connection, then closes: the next request finds it dead
        conn.sendall(simple(rq.sha256()[0].encode()))
        return False
    p.backend.routes["/v1/once"] = once
    for i in range(20):
        assert p.ask("POST", "/v1/once", b"abc")[:2] == (200, hashlib.sha256(b"abc").hexdigest().encode())


# --- when things break ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", ["before the head", "in mid-answer", "in mid-upload"])
def test_client_disconnect_cancels_the_runtime(proxy, stage):
    cancelled, started = threading.Event(), threading.Event()

    def route(conn, rq):
        if stage == "in mid-answer":
            conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        started.set()
        try:
            if stage == "in mid-upload":
                rq.sha256()
            while conn.recv(1000):
                pass
        except (OSError, EOFError):
            pass
        cancelled.set()
        return False
    proxy.backend.routes["/v1/c"] = route
    length = 1000 if stage == "in mid-upload" else 2
    s = proxy.raw(f"POST /v1/c HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}".encode())
    assert started.wait(20)
    if stage == "in mid-answer":
        read_head(s)
    s.close()
    assert cancelled.wait(20), "the runtime was not told"
    [record] = proxy.wait_records(1)
    assert record["status"] == 499 and record["error"] == "client_closed"
    assert ("req_complete" in record) == (stage == "in mid-upload")
    assert proxy.ask("GET", "/v1/x")[0] == 200


@pytest.mark.parametrize("data", [
    b"POST /v1/c HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc",
    b"POST /v1/c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
], ids=["length", "chunked"])
def test_clients_that_leave_with_their_last_bytes(proxy, data):
    """The end of the connection is there when the bytes are read: it must not be overlooked."""
    for _ in range(30):
        proxy.raw(data).close()
    for record in proxy.wait_records(30):
        assert record["status"] == 499 and record["error"] == "client_closed"
    assert b"tb_requests_in_flight 0\n" in proxy.ask_health("/metrics")[1]


@pytest.mark.parametrize("kind", ["chunked", "length"])
def test_runtime_that_dies_in_mid_answer_is_seen_by_the_client(proxy, kind):
    def route(conn, rq):
        framing = "Transfer-Encoding: chunked" if kind == "chunked" else "Content-Length: 100"
        piece = b"5\r\nhello\r\n" if kind == "chunked" else b"hello"
        conn.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + piece)
        return False
    proxy.backend.routes["/v1/die"] = route
    with proxy.raw(b"GET /v1/die HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        data = read_all(s)
    assert b"hello" in data and not data.endswith(b"0\r\n\r\n")
    [record] = proxy.wait_records(1)
    assert record["status"] == 502 and record["error"] == "upstream_aborted"


@pytest.mark.parametrize("how", ["flag", "deadline"])
def test_suspension_under_a_request_is_told_to_its_client(proxy, how):
    """The runtime is stopped in the middle of a request: not its fault, and no reason to try again."""
    def route(conn, rq):
        if how == "flag":
            proxy.write("tb-authorize", "suspended", reason="contract_revoked", since="2026-01-08T12:00:00Z")
        else:
            proxy.lease(expires_at="2026-01-08T12:00:00Z", deadline_boottime_us=boottime_us())
        return False
    proxy.backend.routes["/v1/long"] = route
    reason = "contract_revoked" if how == "flag" else "lease_expired"
    status, body, headers = proxy.ask("POST", "/v1/long", b"{}")
    assert error_of((status, body)) == (403, reason)
    [record] = proxy.wait_records(1)
    assert record["status"] == 403 and record["error"] == reason


@pytest.mark.parametrize("body", [b"", b"x" * 300_000])
def test_heads_of_any_size_get_an_answer(proxy, body):
    """Request and answer share a limited memory: what does not fit is said, and never by a closed connection."""
    seen = {}
    for ask in (100, 8000, 16000, 20000, 22000, 23000, 23700, 60000):
        for fields in (1, 50):
            for answer in (10, 4000, 8000, 16000, 22000, 30000):
                def route(conn, rq, answer=answer):
                    rq.sha256()
                    conn.sendall(simple(b"hi", extra=f"X: {'a' * answer}\r\n"))
                    return False
                proxy.backend.routes["/v1/x"] = route
                head = "".join(f"A{i}: {'a' * (ask // fields)}\r\n" for i in range(fields))
                with proxy.raw(f"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode()) as s:
                    try:
                        s.sendall(body)
                    except OSError:
                        pass  # refused before the body
                    status = read_head(s)[0].split(b" ")[1:2]
                seen[ask, fields, answer] = status and int(status[0])
    assert {s or 0 for s in seen.values()} == {200, 431, 502}, [k for k, v in seen.items() if not v]
    assert seen[100, 50, 16000] == seen[8000, 1, 8000] == seen[16000, 1, 4000] == 200
    assert seen[100, 1, 30000] == seen[16000, 50, 22000] == 502


def test_runtime_that_breaks_the_rules(proxy):
    answers = {"/v1/a": b"nonsense\r\n\r\n", "/v1/b": b"", "/v1/c": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
               "/v1/d": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"}
    for path, answer in answers.items():
        proxy.backend.routes[path] = lambda conn, rq, answer=answer: conn.sendall(answer) and None or False
        assert error_of(proxy.ask("GET", path)) == (502, "upstream_error")
    assert [r["status"] for r in proxy.wait_records(4)] == [502] * 4


def test_runtime_down(make):
    p = make().ready().start()
    p.backend.die()
    answer = wait_for(lambda: (a := p.ask("POST", "/v1/x", b"abc"))[0] in (502, 503) and a, what="an error")
    if answer[0] == 502:
        assert error_of(answer) == (502, "upstream_unreachable")
    wait_for(lambda: p.ask("GET", "/health")[0] == 503, what="health to fall with the runtime")
    assert error_of(p.ask("GET", "/v1/x")) == (503, "not_ready")
    wait_for(lambda: p.records()[-1]["status"] == 503, what="the record of the refusal")
    assert 502 in [r["status"] for r in p.records()]


# --- refusals -------------------------------------------------------------------------------------------------------

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
    ("absolute form", b"GET http://other/v1/x HTTP/1.1\r\nHost: x\r\n\r\n", 400),
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


# --- the books ------------------------------------------------------------------------------------------------------

def test_audit_that_cannot_be_written_refuses_requests(make):
    p = make(TB_AUDIT_FILE="/dev/full").ready().start()
    answer = wait_for(lambda: (a := p.ask("GET", "/v1/x"))[0] == 503 and a, what="refusal")
    assert error_of(answer) == (503, "audit_unavailable")
    assert p.ask("GET", "/health")[0] == 200
    assert "audit: cannot write" in p.daemon.log_text()
    assert p.daemon.stop(timeout=20) == 0


def test_audit_has_one_record_for_each_request(proxy):
    def work(k):
        c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        for i in range(50):
            c.request("POST", "/v1/x" if i % 5 else "/refused", b"%d" % (k * 1000 + i))
            c.getresponse().read()
        c.close()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    records = proxy.wait_records(400)
    assert {r["req_sha256"] for r in records} == {hashlib.sha256(b"%d" % (k * 1000 + i)).hexdigest()
                                                  for k in range(8) for i in range(50)}
    assert len({r["request_id"] for r in records}) == 400
    assert sum(r["status"] == 404 for r in records) == 80
    assert proxy.status()["requests_processed"] == 320
    assert (os.stat(proxy.audit_file).st_mode & 0o777) == 0o640


def test_rotation_on_hangup(proxy):
    proxy.ask("GET", "/v1/a")
    proxy.wait_records(1)
    old = proxy.audit_file.with_suffix(".1")
    proxy.audit_file.rename(old)
    os.kill(proxy.daemon.pid, signal.SIGHUP)
    wait_for(proxy.audit_file.exists, what="a new file")
    proxy.ask("GET", "/v1/b")
    wait_for(lambda: proxy.audit_file.read_text(), what="a record in the new file")
    assert proxy.records()[0]["seq"] == 2 and len(old.read_text().splitlines()) == 1


def test_sigkill_loses_no_count_and_no_sequence(proxy):
    for i in range(10):
        proxy.ask("POST", "/v1/x", b"abc")
    proxy.wait_records(10)
    before = usage(proxy)
    assert before["requests"] == 10 and before["bytes_in"] == 30 and before["bytes_out"] == 660
    proxy.daemon.kill()
    proxy.daemon.wait()
    proxy.start()
    assert usage(proxy) == before
    proxy.ask("POST", "/v1/x", b"abc")
    assert usage(proxy)["requests"] == 11
    assert proxy.wait_records(11)[-1]["seq"] == 11


# --- restarts -------------------------------------------------------------------------------------------------------

def test_restarts_under_load_lose_no_request(proxy):
    stop, failures, done = threading.Event(), [], [0] * 6

    def work(k):
        c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
        while not stop.is_set():
            try:
                c.request("POST", "/v1/x", b"x" * 1000)
                r = c.getresponse()
                body = r.read()
                if r.status == 200 and body.endswith(b" 1000"):
                    done[k] += 1
                else:
                    failures.append((r.status, body))
            except (OSError, http.client.HTTPException) as e:
                failures.append(repr(e))
                c.close()
        c.close()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for _ in range(3):
        before = sum(done)
        wait_for(lambda: sum(done) > before + 100, what="load")
        assert proxy.daemon.stop(timeout=20) == 0
        proxy.start()
    stop.set()
    for t in threads:
        t.join()
    assert failures == []
    proxy.wait_records(sum(done))


def test_a_restart_waits_for_a_busy_runtime(proxy):
    """Clients wait in the listener's queue until the runtime has said that it is well; none is told 503."""
    assert proxy.ask("GET", "/v1/x")[0] == 200
    assert proxy.daemon.stop() == 0
    proxy.backend.health_delay = 2.5
    proxy.daemon.start()
    assert proxy.ask("GET", "/v1/x")[0] == 200
    assert proxy.daemon.notified("READY")


def test_a_proxy_that_stops_takes_no_new_connection(proxy):
    """They stay in the listener's queue for the next process: one that came at the very end would be lost."""
    go = threading.Event()

    def route(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        assert go.wait(20)
        conn.sendall(b"0\r\n\r\n")
    proxy.backend.routes["/v1/live"] = route
    with proxy.raw(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n") as live:
        read_head(live)
        os.kill(proxy.daemon.pid, signal.SIGTERM)
        wait_for(lambda: "finishing 1 requests" in proxy.daemon.log_text(), what="the proxy to drain")
        heir = Daemon([program("tb-proxy")], env={**proxy.env, "TB_STATE_DIR": proxy.tmp / "heir", "TB_AUDIT_FILE": proxy.tmp / "heir.jsonl"},
                      listen=proxy.daemon.listen, log=proxy.tmp / "heir.log")
        with proxy.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n") as queued:
            wait_for(lambda: queue_length(proxy.port) == 1 or readable(queued), what="the connection to be queued")
            heir.start().wait_notify("READY", "1")
            # The one that stops marks each of its answers as its connection's last.
            assert "connection" not in headers_of(read_head(queued)[0])
        go.set()
        assert proxy.daemon.wait(20) == 0
        assert heir.stop() == 0


def test_stop_finishes_a_live_stream(proxy):
    go = threading.Event()

    def route(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        assert go.wait(20)
        conn.sendall(b"2\r\ncd\r\n0\r\n\r\n")
    proxy.backend.routes["/v1/live"] = route
    with proxy.raw(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        head, rest = read_head(s)
        os.kill(proxy.daemon.pid, signal.SIGTERM)
        wait_for(lambda: proxy.daemon.notified("STOPPING"), what="STOPPING=1")
        go.set()
        assert b"".join(body_pieces(s, headers_of(head), rest)) == b"abcd"
    assert proxy.daemon.wait() == 0


def test_malformed_head_is_audited(proxy):
    with proxy.raw(b"GET /v1/x HTTP/1.1\r\nno colon here\r\n\r\n") as s:
        assert read_all(s).startswith(b"HTTP/1.1 400")
    [record] = proxy.wait_records(1)
    assert record["status"] == 400


def test_reset_by_the_client(proxy):
    started = threading.Event()

    def route(conn, rq):
        started.set()
        conn.recv(1)
        return False
    proxy.backend.routes["/v1/r"] = route
    s = proxy.raw(b"GET /v1/r HTTP/1.1\r\nHost: x\r\n\r\n")
    assert started.wait(20)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    assert proxy.wait_records(1)[0]["status"] == 499
