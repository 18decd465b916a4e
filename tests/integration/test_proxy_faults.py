# SPDX-License-Identifier: Apache-2.0
"""tb-proxy when things break: clients that leave, runtimes that die or break the rules, suspension under a request, huge heads."""

import threading

import pytest

from proxy_backend import read_head, simple
from proxy_daemon import boottime_us, error_of, make, proxy, read_all, reset_while_waiting  # noqa: F401
from tbsys import wait_for


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


def test_reset_by_the_client(proxy):
    reset_while_waiting(proxy, "/v1/r")
    assert proxy.wait_records(1)[0]["status"] == 499


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
    """A head may have 64 KiB in all, the client's and the runtime's: what is larger is said, and never by a closed connection."""
    seen = {}
    for ask in (100, 8000, 16000, 24000, 60000, 65000, 65500, 66000, 100_000):
        for fields in (1, 50):
            for answer in (10, 4000, 16000, 30000, 65000, 65500, 70_000):
                def route(conn, rq, answer=answer):
                    rq.sha256()
                    conn.sendall(simple(b"hi", extra=f"Connection: close\r\nX: {'a' * answer}\r\n"))
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
    assert {k: s for k, s in seen.items() if k[0] <= 60000 and k[2] <= 65000 and s != 200} == {}
    assert {k: s for k, s in seen.items() if k[0] >= 66000 and s != 431} == {}
    assert {k: s for k, s in seen.items() if k[0] <= 60000 and k[2] >= 70_000 and s != 502} == {}


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
    wait_for(lambda: p.ask("GET", "/health")[0] == 503, what="health to fall with the runtime")
    assert error_of(p.ask("GET", "/v1/x")) == (503, "not_ready")
    wait_for(lambda: p.records()[-1]["status"] == 503, what="the record of the refusal")
    assert answer[0] in [r["status"] for r in p.records()]


def test_runtime_down_before_a_probe_knows(make):
    """Who asks then is told that it cannot be reached. The probe is kept waiting for that, which it does for 3 s only: hence the second chance."""
    def refused():
        p = make().ready().start()
        answer, asked, over = p.backend._answer, threading.Event(), threading.Event()

        def probe_waits(conn, rq):
            if rq.path != "/health":
                return answer(conn, rq)
            asked.set()
            return over.wait(60) and False
        p.backend._answer = probe_waits
        assert asked.wait(30), "no probe"
        p.backend.stop_listening()
        told = p.ask("POST", "/v1/x", b"abc", {"Connection": "close"})
        over.set()
        p.backend.die()
        p.stop()
        return told[0] == 502 and (told, p.records()[-1])
    told, record = wait_for(refused, what="an answer before the probe's")
    assert error_of(told) == (502, "upstream_unreachable") == (record["status"], record["error"])
