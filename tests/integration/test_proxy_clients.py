# SPDX-License-Identifier: Apache-2.0
"""tb-proxy and clients that are slow, many or out to confuse it; and requests that must not be done twice."""

import hashlib
import http.client
import signal
import socket
import subprocess
import threading
import time

import pytest

from proxy_backend import read_head, simple
from proxy_daemon import error_of, make, proxy, read_all  # noqa: F401
from tbsys import NetNamespace, tcp_listener, unix_listener, wait_for


def ended(sock):
    sock.settimeout(0.01)
    try:
        return sock.recv(65536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


SLOW = {
    "silent": b"",
    "request line": b"GET /v1/x",
    "head": b"GET /v1/x HTTP/1.1\r\nHost: x\r\nA: ",
    "body": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
    "chunked body": b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n",
}


def test_slow_clients_are_let_go(proxy):
    """All kinds at once, as each takes half a minute. Meanwhile others are served."""
    def route(conn, rq):
        rq.sha256()
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
        block = b"x" * 1000000
        for _ in range(200):
            conn.sendall(block)
    proxy.backend.routes["/v1/big"] = route
    socks = {name: proxy.raw(data) for name, data in SLOW.items()}
    reader = proxy.raw(b"GET /v1/big HTTP/1.1\r\nHost: x\r\n\r\n")
    read_head(reader)
    stop = threading.Event()

    def slow_runtime(conn, rq):  # no fault of its client
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stop.wait(5):
            conn.sendall(b"1\r\nx\r\n")
        conn.sendall(b"0\r\n\r\n")
    proxy.backend.routes["/v1/live"] = slow_runtime
    live = proxy.raw(b"GET /v1/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    steady = proxy.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 45000\r\n\r\n")
    start, gone, sent = time.monotonic(), {}, 0
    while len(gone) < len(socks) and time.monotonic() - start < 60:
        time.sleep(1)
        for name, s in socks.items():
            if name in gone:
                continue
            try:
                s.sendall(b"x")
            except OSError:
                pass
            if ended(s):
                gone[name] = time.monotonic() - start
        if sent < 45000:
            sent += 1000
            steady.sendall(b"x" * 1000)
        assert proxy.ask("GET", "/v1/y")[0] == 200
    assert set(gone) == set(SLOW)
    assert all(gone[k] < 30 for k in ("silent", "request line", "head")), gone
    assert all(25 < gone[k] < 50 for k in ("body", "chunked body")), gone
    wait_for(lambda: any(r["path"] == "/v1/big" for r in proxy.records()), 20, "the one that does not read to be let go")
    stop.set()
    assert read_all(live).endswith(b"0\r\n\r\n")
    while sent < 45000:
        sent += 1000
        steady.sendall(b"x" * 1000)
    assert read_head(steady)[0].startswith(b"HTTP/1.1 200")
    by_path = {r["path"]: r for r in proxy.records() if r["status"] != 200}
    assert by_path["/v1/big"]["status"] == 499 and by_path["/v1/big"]["error"] == "client_timeout"
    late = [r for r in proxy.records() if r["status"] == 408]
    assert len(late) == 5 and {r["error"] for r in late} == {"client_timeout"}  # both request lines, head and both bodies
    for s in (*socks.values(), reader, live, steady):
        s.close()


def served(p):
    try:
        return p.ask("GET", "/v1/x")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_connections_per_address(make):
    p = make(TB_CONNECTIONS_PER_ADDRESS="5").ready().start()
    socks = [p.raw() for _ in range(5)]
    for s in socks:
        s.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")
    with p.raw() as s:  # accepted and closed
        assert read_all(s) == b""
    with socket.create_connection(("127.0.0.1", p.port), source_address=("127.0.0.2", 0), timeout=20) as s:
        s.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(s).startswith(b"HTTP/1.1 200")
    socks.pop().close()
    wait_for(lambda: served(p), what="room again")
    for s in socks:
        s.close()


def test_an_ipv6_network_is_one_client(make):
    """One machine may take any of a network's 2^64 addresses. An IPv4 client on a listener for both is one IPv4 address."""
    net = NetNamespace()
    for address in ("fd00:0:0:1::1/64", "fd00:0:0:2::1/64"):
        net.run(lambda: subprocess.run(["ip", "-6", "addr", "add", address, "dev", "lo", "nodad"], check=True))
    net.run(lambda: subprocess.run(["ip", "-6", "route", "add", "local", "fd00::/48", "dev", "lo"], check=True))

    def listener():
        s = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
        return s

    def connect(source, target):
        s = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
        s.settimeout(20)
        s.setsockopt(socket.IPPROTO_IP, 15, 1)  # IP_FREEBIND: any address of the network
        s.bind((source, 0))
        s.connect((target, p.port))
        return s

    def answer(sock):
        try:
            sock.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
            return read_head(sock)[0][:12]
        except OSError:
            return b""
    p = make(TB_CONNECTIONS_PER_ADDRESS="2")
    p.http.close()
    p.health.close()
    p.http = p.daemon.listen["http"] = net.run(listener)
    p.health = p.daemon.listen["health"] = net.run(tcp_listener)
    p.ready().start(wait=None)
    wait_for(lambda: net.run(lambda: p.ask("GET", "/health")[0]) == 200, what="Ready")
    to6, to4 = "fd00:0:0:2::1", "127.0.0.1"
    cases = [("fd00:0:0:1::1", to6, True), ("fd00:0:0:1:1:2:3:4", to6, True), ("fd00:0:0:1:ffff::9", to6, False), ("fd00:0:0:2::1", to6, True),
             ("127.0.0.1", to4, True), ("127.0.0.1", to4, True), ("127.0.0.1", to4, False), ("127.0.0.2", to4, True)]
    socks = []
    for source, target, served_too in cases:
        socks.append(net.run(lambda: connect(source, target)))
        assert (answer(socks[-1]) == b"HTTP/1.1 200") == served_too, source
    for s in socks:
        s.close()
    net.close()
    clients = {r["client"] for r in p.wait_records(6)}
    assert clients == {"fd00:0:0:1::1", "fd00::1:1:2:3:4", "fd00:0:0:2::1", "127.0.0.1", "127.0.0.2"}


HEADS = [
    ("bare LF", b"GET /v1/x HTTP/1.1\nHost: x\n\n", (200, 400)),
    ("bare CR in a value", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nA: b\rContent-Length: 5\r\n\r\n", (400,)),
    ("NUL in a value", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", (200, 400)),
    ("obs-fold", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", (200, 400)),
    ("fold as first line", b"GET /v1/x HTTP/1.1\r\n Host: x\r\n\r\n", (400,)),
    ("no host", b"GET /v1/x HTTP/1.1\r\n\r\n", (200, 400)),
    ("chunked with space", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", (400,)),
    ("chunked twice", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400,)),
    ("coding identity", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", (400,)),
    ("xchunked", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400,)),
    ("vertical tab", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", (400,)),
    ("length list", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", (400,)),
    ("length in hex", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc", (400,)),
    ("negative length", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc", (400,)),
    ("huge length", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nabc", (400, 413)),
    ("bad chunk size", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", (400,)),
    ("huge chunk size", b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc", (400, 413)),
    ("authority form", b"GET x:80 HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("CONNECT", b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", (400, 405)),
    ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 405, 505)),
    ("HTTP/0.9", b"GET /v1/x\r\n\r\n", (400, 505)),
    ("dots at the end", b"GET /v1/.. HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("backslash", b"GET /v1/..\\admin HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("encoded backslash", b"GET /v1/..%5cadmin HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("encoded NUL", b"GET /v1/x%00/admin HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("double slash", b"GET //v1/x HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    ("fragment", b"GET /v1/x#y HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    ("many fields", b"GET /v1/x HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 2000 + b"\r\n", (400, 431)),
    ("long field", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 100_000 + b"\r\n\r\n", (400, 431)),
    ("long target", b"GET /v1/" + b"b" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", (400, 414, 431)),
    ("websocket", b"GET /v1/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", (400,)),
]


@pytest.mark.parametrize("name, data, status", HEADS, ids=[h[0] for h in HEADS])
def test_heads_that_two_readers_may_read_differently(proxy, name, data, status):
    """Refused, or read in the one way the runtime reads it too: the runtime never sees more requests than were answered, nor another
    path, nor a body."""
    marker = b"GET /v1/marker HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with proxy.raw() as s:
        try:
            s.sendall(data + marker)
        except OSError:
            pass  # refused before the end
        answers = read_all(s)
    codes = [int(line.split()[1]) for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    if codes or name not in ("many fields", "long field", "long target"):  # these may be cut by a reset
        assert codes and codes[0] in status, answers[:300]
    paths = [rq.path for rq in proxy.backend.requests]
    assert set(paths) <= {"/v1/x", "/v1/marker"} and paths.count("/v1/x") <= 1
    assert ("/v1/x" in paths) == (codes[:1] == [200])
    for rq in proxy.backend.requests:
        assert rq.rest == b"" and "content-length" not in rq.headers and b"\r\n " not in rq.head
        assert not set(rq.head) & {0, 11}
    proxy.wait_records(1 + ("/v1/marker" in paths))
    time.sleep(0.1)
    assert len(proxy.records()) == 1 + ("/v1/marker" in paths)


@pytest.mark.parametrize("method, again", [("POST", False), ("PATCH", False), ("GET", True), ("PUT", True)])
def test_what_may_have_been_seen_is_not_sent_twice(make, tmp_path, method, again):
    """The runtime takes a request on a kept connection and closes it without a byte."""
    p = make(backend_sock=unix_listener(tmp_path / "runtime.sock")).ready().start()
    seen = []

    def route(conn, rq):
        digest, n = rq.sha256()
        seen.append(n)
        if len(seen) > 1:
            conn.sendall(simple(b"done"))
            return True
        return False
    p.backend.routes["/v1/job"] = route
    with p.raw() as s:
        s.sendall(b"GET /v1/warm HTTP/1.1\r\nHost: x\r\n\r\n")  # leaves a kept connection
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")
    answer = p.ask(method, "/v1/job", b"" if method == "GET" else b"abc")
    if again:
        assert answer[:2] == (200, b"done") and len(seen) == 2
    else:
        assert error_of(answer) == (502, "upstream_error") and len(seen) == 1


def test_a_runtime_that_keeps_no_connection_gets_each_request_once(make, tmp_path):
    p = make(backend_sock=unix_listener(tmp_path / "runtime.sock")).ready().start()
    p.backend.routes["/v1/once"] = lambda conn, rq: conn.sendall(simple(rq.sha256()[0].encode())) and None or False
    p.ask("POST", "/v1/once", b"abc")
    time.sleep(0.3)
    for _ in range(50):
        assert p.ask("POST", "/v1/once", b"abc")[:2] == (200, hashlib.sha256(b"abc").hexdigest().encode())
    assert len([rq for rq in p.backend.requests if rq.path == "/v1/once"]) == 51


def test_an_end_that_comes_with_the_answer_is_noticed(make, tmp_path):
    """From then on no connection is kept, as on the next one a POST could be on its way when the end comes."""
    p = make(backend_sock=unix_listener(tmp_path / "runtime.sock")).ready().start()
    go, pause = threading.Event(), [0]

    def route(conn, rq):
        rq.sha256()
        go.wait(20)
        conn.sendall(simple(b"done"))
        time.sleep(pause[0])
        return False
    p.backend.routes["/v1/once"] = route
    with p.raw(b"POST /v1/once HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc") as s:
        wait_for(lambda: [rq for rq in p.backend.requests if rq.path == "/v1/once"], what="the request")
        p.daemon.kill(signal.SIGSTOP)  # answer and end arrive together
        go.set()
        time.sleep(0.2)
        p.daemon.kill(signal.SIGCONT)
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")
    pause[0] = 0.3
    for _ in range(3):
        assert p.ask("POST", "/v1/once", b"abc")[:2] == (200, b"done")


def test_head_and_continue_for_a_refused_key(make, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a:" + hashlib.sha256(b"k").hexdigest() + "\n")
    p = make(TB_API_KEYS=keys).ready().start()
    with p.raw(b"HEAD /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as s:
        data = read_all(s)
    assert data.startswith(b"HTTP/1.1 401") and data.endswith(b"\r\n\r\n")
    with p.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n") as s:
        assert read_all(s).startswith(b"HTTP/1.1 401")
