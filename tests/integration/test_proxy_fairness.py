# SPDX-License-Identifier: Apache-2.0
"""One client with much to send, or to take, does not slow the others: what a neighbour waits for, beside clients that keep the proxy busy."""

import http.client
import subprocess
import sys
import time

import pytest

from proxy_daemon import make  # noqa: F401
from tbsys import wait_for

pytestmark = pytest.mark.alone("what a neighbour waits for is the proxy's doing, and not that of other tests")
CHAT = "/v1/chat/completions"
# Seconds. The fault was a wait of many seconds; what a turn of the loop costs is some milliseconds, and four uploaders share two processors.
SOON = 0.5
# A process of its own: it must not wait for this one's interpreter.
UPLOAD = """
import socket, sys
port, path, piece = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
s = socket.create_connection(("127.0.0.1", port))
s.sendall(b"POST %s HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n8\\r\\n{\\"x\\":[0,\\r\\n" % path.encode())
block = piece * (65536 // len(piece))
block = b"%x\\r\\n%s\\r\\n" % (len(block), block)
while True:
    s.sendall(block)
"""
DOWNLOAD = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /v1/big HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
while s.recv(1 << 20):
    pass
"""


def waits(p, seconds=2):
    """Times of a neighbour's short requests, sorted: of a hundred at least, however long a busy machine takes for them."""
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=60)
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 100:
        start = time.monotonic()
        c.request("GET", "/v1/models")
        assert c.getresponse().read()
        times.append(time.monotonic() - start)
        time.sleep(0.002)
    c.close()
    return sorted(times)


def beside(p, script, *args, clients):
    """The neighbour's times beside so many clients, and the bytes of theirs that passed in the meantime."""
    busy = [subprocess.Popen([sys.executable, "-c", script, str(p.port), *args], stderr=subprocess.DEVNULL) for _ in range(clients)]
    try:
        wait_for(lambda: p.passed > (1 << 20) * clients, timeout=60, what="the busy clients")
        before = p.passed
        return waits(p), p.passed - before
    finally:
        for b in busy:
            b.kill()
            b.wait()


@pytest.fixture
def counted(make):  # noqa: F811
    p = make().ready().start()
    p.passed = 0

    def sink(conn, rq):
        while data := conn.recv(1 << 20):
            p.passed += len(data)
        return False

    def source(conn, rq):
        block = bytes(1 << 20)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while True:
            conn.sendall(block)
            p.passed += len(block)
    p.backend.routes.update({CHAT: sink, "/v1/other": sink, "/v1/big": source})
    return p


@pytest.mark.parametrize("path, piece, clients", [("/v1/other", "0,", 2), (CHAT, "0,", 1), (CHAT, '"a",', 4), (CHAT, '"\\n",', 4)])
def test_uploads_do_not_slow_a_neighbour(counted, path, piece, clients):
    quiet = waits(counted, 0.5)
    times, passed = beside(counted, UPLOAD, path, piece, clients=clients)
    assert passed > 1 << 20  # and they go on
    assert times[len(times) * 99 // 100] < SOON + 2 * quiet[-1], times[-5:]


def test_downloads_do_not_slow_a_neighbour(counted):
    quiet = waits(counted, 0.5)
    times, passed = beside(counted, DOWNLOAD, clients=3)
    assert passed > 1 << 20
    assert times[len(times) * 99 // 100] < SOON + 2 * quiet[-1], times[-5:]
