# SPDX-License-Identifier: Apache-2.0
"""A client that closes its side behind its request and waits for the answer (RFC 9112, 9.6), beside one that is gone: the two send the same
until something is sent to them."""

import json
import re
import socket
import ssl
import threading
import time

import pytest

from proxy_backend import simple
from proxy_daemon import make, proxy, read_all  # noqa: F401
from tbsys import CA, wait_for
from test_proxy_tokens import HEAD, chunk, delta, sse

CHAT = "/v1/chat/completions"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def post(body, minor=1, path=CHAT):
    return f"POST {path} HTTP/1.{minor}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def half_closed(p, data):
    s = p.raw(data)
    s.shutdown(socket.SHUT_WR)
    return s


def waiting(p, path, answer=None, before=b""):
    """A runtime that sends `before`, then waits until it is told to go on; (go, gone): to be set; its connection has ended."""
    go, gone = threading.Event(), threading.Event()

    def route(conn, rq):
        b"".join(rq.pieces())
        conn.sendall(before)
        conn.settimeout(0.05)
        while not go.is_set():
            try:
                if conn.recv(1) == b"":
                    gone.set()
                    return False
            except TimeoutError:
                pass
        conn.settimeout(20)
        conn.sendall(answer)
        return None
    p.backend.routes[path] = route
    return go, gone


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("length", [False, True])
def test_it_is_answered(proxy, minor, length):
    body = json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()
    whole = simple(body, extra="Content-Type: application/json\r\n")
    if not length:
        whole = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n"
    proxy.backend.routes[CHAT] = lambda conn, rq: (b"".join(rq.pieces()), conn.sendall(whole))[1]
    with half_closed(proxy, post(b"{}", minor)) as s:
        got = read_all(s)
    assert re.match(rb"HTTP/1\.1 200 ", got) and body in got
    [record] = proxy.wait_records(1)
    assert record["status"] == 200 and record["completion_tokens"] == 4 and "error" not in record


def test_each_of_several_requests_is_answered(proxy):
    with half_closed(proxy, b"GET /v1/a HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/b HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        assert read_all(s).count(b"HTTP/1.1 200 OK") == 2
    assert [(r["path"], r["status"]) for r in proxy.wait_records(2)] == [("/v1/a", 200), ("/v1/b", 200)]


def test_a_slow_answer_is_waited_for(proxy):
    """It is asked whether it is there by an interim answer, which every client of HTTP/1.1 must be able to read (RFC 9110, 15.2)."""
    go, gone = waiting(proxy, CHAT, simple(b"{}"))
    with half_closed(proxy, post(b"{}")) as s:
        got = b""
        while got.count(CONTINUE) < 2:
            got += s.recv(65536)
        go.set()
        got += read_all(s)
    assert got.replace(CONTINUE, b"").startswith(b"HTTP/1.1 200 OK\r\n") and not gone.is_set()
    assert proxy.wait_records(1)[0]["status"] == 200


def test_a_silent_stream_is_waited_for(proxy):
    """What asks is a comment between the events."""
    first, last = sse(delta("a")), sse(delta("b"), b"[DONE]")
    go, gone = waiting(proxy, CHAT, chunk(last) + b"0\r\n\r\n", HEAD + chunk(first))
    with half_closed(proxy, post(b'{"stream":true}')) as s:
        got = b""
        while got.count(b"2\r\n:\n\r\n") < 2:
            got += s.recv(65536)
        go.set()
        got += read_all(s)
    body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)", got.split(b"\r\n\r\n", 1)[1], re.S))
    assert body.replace(b":\n", b"") == first + last
    assert not gone.is_set() and proxy.wait_records(1)[0]["status"] == 200


@pytest.mark.parametrize("minor, before", [
    (1, b""), (0, b""), (1, HEAD + chunk(sse(delta("a")))), (1, HEAD + chunk(sse(delta("a"))[:-1])),
    (1, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")], ids=["waiting", "HTTP/1.0", "events", "mid-event", "length"])
def test_one_that_is_gone_is_noticed(proxy, minor, before):
    """Its work at the runtime ends though the runtime sends nothing."""
    go, gone = waiting(proxy, CHAT, b"", before)
    s = proxy.raw(post(b'{"stream":true}', minor))
    wait_for(lambda: proxy.backend.requests, what="the request at the runtime")
    if before:
        assert s.recv(12) == b"HTTP/1.1 200"
        time.sleep(0.2)
        s.setblocking(False)
        s.recv(65536)
    s.close()
    assert gone.wait(20), "the runtime was not told"
    [record] = proxy.wait_records(1)
    assert record["status"] == 499 and record["error"] == "client_closed"


def test_one_that_leaves_later_is_noticed(proxy):
    go, gone = waiting(proxy, CHAT, b"")
    with half_closed(proxy, post(b"{}")) as s:
        assert s.recv(65536) == CONTINUE
        assert not gone.is_set()
    assert gone.wait(20), "the runtime was not told"
    assert proxy.wait_records(1)[0]["status"] == 499


def test_over_tls(make, tmp_path):
    """Both ends of a TLS connection close by themselves, too."""
    ca = CA(tmp_path / "ca")
    cert, key = ca.issue("localhost")
    p = make(TB_TLS_CERT=cert, TB_TLS_KEY=key).ready().start()
    go, gone = waiting(p, CHAT, simple(b"{}"))
    context = ssl.create_default_context(cafile=ca.cert)
    raw = p.raw()
    with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=True) as s:
        s.sendall(post(b"{}"))
        wait_for(lambda: p.backend.requests, what="the request at the runtime")
        socket.socket.shutdown(s, socket.SHUT_WR)
        got = s.recv(65536)
        assert got == CONTINUE
        go.set()
        got = s.recv(65536)
        assert got.replace(CONTINUE, b"").startswith(b"HTTP/1.1 200 OK\r\n")
    assert p.wait_records(1)[0]["status"] == 200
