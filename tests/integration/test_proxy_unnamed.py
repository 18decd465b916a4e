# SPDX-License-Identifier: Apache-2.0
"""Requests that libmicrohttpd refuses before it has read their first line, and says nothing of but a line for its log: they have an audit
record like any other."""

import collections
import concurrent.futures
import socket
import ssl
import subprocess
import time

import pytest

from proxy_backend import read_head
from proxy_daemon import make, read_all  # noqa: F401
from tbsys import CA, program, wait_for

UNNAMED = b"GET /v1/x\r\n\r\n"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_request_without_a_request_line_has_a_record(make, tmp_path, tls):  # noqa: F811
    """One each, with the address it came from: on a new connection, on a kept one, from a client that leaves at once; and none for
    one that only looks whether the port is open."""
    context = ssl._create_unverified_context() if tls else None
    cert, key = CA(tmp_path / "ca").issue("proxy") if tls else (None, None)
    p = make(**({"TB_TLS_CERT": cert, "TB_TLS_KEY": key} if tls else {})).ready().start()

    def connect(source):
        s = socket.create_connection(("127.0.0.1", p.port), source_address=(source, 0), timeout=20)
        return context.wrap_socket(s) if tls else s
    with connect("127.0.0.2") as s:
        s.sendall(UNNAMED)
        assert b"HTTP/1.1 400 " in read_all(s)
    with connect("127.0.0.3") as s:
        s.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")
        time.sleep(0.1)
        s.sendall(UNNAMED)
        assert b"HTTP/1.1 400 " in read_all(s)
    with connect("127.0.0.4") as s:
        s.sendall(UNNAMED)
    for _ in range(3):
        connect("127.0.0.5").close()
    with connect("127.0.0.6") as s:  # one with a line, refused by libmicrohttpd all the same
        s.sendall(b"GET /v1/x HTTP/1.1\r\n\r\n")
        assert b"HTTP/1.1 400 " in read_all(s)
    with connect("127.0.0.7") as s:  # and one in the middle of its body
        s.sendall(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert b"HTTP/1.1 400 " in read_all(s)
    wait_for(lambda: len(p.records()) >= 6, what="the records")
    time.sleep(2.5)  # until what could not be told apart would have been written, too
    found = collections.Counter((r["client"], r["status"], r["method"], r["path"], r.get("error")) for r in p.records())
    refused = (400, "-", "-", "malformed_request")
    assert found == {("127.0.0.2", *refused): 1, ("127.0.0.3", *refused): 1, ("127.0.0.3", 200, "GET", "/v1/x", None): 1, ("127.0.0.4", *refused): 1,
                     ("127.0.0.6", 400, "-", "/v1/x", "malformed_request"): 1, ("127.0.0.7", 400, "POST", "/v1/x", "malformed_request"): 1}
    assert subprocess.run([program("tb-audit"), "verify", "--no-head", p.audit_file], capture_output=True).returncode == 0


def test_each_of_many_has_a_record(make):  # noqa: F811
    """Refused and served ones on connections that come and go together."""
    p = make().ready().start()
    good, bad = 60, 60

    def ask(data, source):
        with socket.create_connection(("127.0.0.1", p.port), source_address=(source, 0), timeout=20) as s:
            s.sendall(data)
            return read_all(s)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(ask, *((UNNAMED, "127.0.0.9") if i % 2 else
                                   (b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "127.0.0.8"))) for i in range(good + bad)]
        assert {j.result().split()[1] for j in jobs} == {b"200", b"400"}
    wait_for(lambda: len(p.records()) >= good + bad, what="the records")
    time.sleep(2.5)
    found = collections.Counter((r["client"], r["status"]) for r in p.records())
    assert found == {("127.0.0.8", 200): good, ("127.0.0.9", 400): bad}
