# SPDX-License-Identifier: Apache-2.0
"""Requests that cannot be read: each gets a readable answer and has an audit record like any other, with the address it came from."""

import collections
import concurrent.futures
import json
import socket
import ssl
import subprocess
import time

import pytest

from proxy_backend import read_head
from proxy_daemon import make, read_all  # noqa: F401
from tbsys import CA, program, wait_for

NO_LINE = b"GET /v1/x\r\n\r\n"


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
        s.sendall(NO_LINE)
        assert b"HTTP/1.1 400 " in read_all(s)
    with connect("127.0.0.3") as s:
        s.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")
        time.sleep(0.1)
        s.sendall(NO_LINE)
        assert b"HTTP/1.1 400 " in read_all(s)
    with connect("127.0.0.4") as s:
        s.sendall(NO_LINE)
    for _ in range(3):
        connect("127.0.0.5").close()
    with connect("127.0.0.6") as s:  # one with a line, and without a Host
        s.sendall(b"GET /v1/x HTTP/1.1\r\n\r\n")
        assert b"HTTP/1.1 400 " in read_all(s)
    with connect("127.0.0.7") as s:  # and one in the middle of its body
        s.sendall(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert b"HTTP/1.1 400 " in read_all(s)
    wait_for(lambda: len(p.records()) >= 6, what="the records")
    time.sleep(2.5)  # no other follows
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
        jobs = [pool.submit(ask, *((NO_LINE, "127.0.0.9") if i % 2 else
                                   (b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "127.0.0.8"))) for i in range(good + bad)]
        assert {j.result().split()[1] for j in jobs} == {b"200", b"400"}
    wait_for(lambda: len(p.records()) >= good + bad, what="the records")
    time.sleep(2.5)
    found = collections.Counter((r["client"], r["status"]) for r in p.records())
    assert found == {("127.0.0.8", 200): good, ("127.0.0.9", 400): bad}


LINES = [
    ("tabs", b"GET\t/v1/models\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    ("two spaces", b"GET  /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("two spaces behind", b"GET /v1/models  HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("space at the end", b"GET /v1/models HTTP/1.1 \r\nHost: x\r\n\r\n"),
    ("NUL in the target", b"GET /v1/mo\0dels HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("NUL in a value", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n"),
    ("NUL in a name", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n"),
    ("bare LF", b"GET /v1/models HTTP/1.1\nHost: x\n\n"),
    ("bare CR", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n"),
    ("folded", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
    ("no colon", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n"),
    ("bad host", b"GET /v1/models HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ("coding in 1.0", b"POST /v1/models HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00"),
    ("long extension", b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 20000 + b"\r\nx\r\n0\r\n\r\n"),
    ("bad trailer", b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nA b\r\n\r\n"),
    ("chunk with LF", b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n"),
    ("chunk too long", b"POST /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize("name, data", LINES, ids=[line[0] for line in LINES])
def test_what_two_readers_may_read_differently_is_refused(make, name, data):  # noqa: F811
    p = make().ready().start()
    with p.raw(data) as s:
        answer = read_all(s)
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 ") and b"Connection: close" in head and b"application/json" in head
    assert json.loads(body)["error"]["code"] in ("malformed_request", "bad_request")
    [record] = p.wait_records(1)
    assert record["status"] == 400 and record["client"] == "127.0.0.1"
    assert all(rq.rest == b"" for rq in p.backend.requests)


@pytest.mark.parametrize("data", [b"G", b"GET /v1/x HT", b"GET /v1/x HTTP/1.1\r", b"GET /v1/x HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_ends_in_the_middle_is_refused(make, data):  # noqa: F811
    p = make().ready().start()
    with p.raw(data) as s:
        s.shutdown(socket.SHUT_WR)
        assert read_all(s).startswith(b"HTTP/1.1 400 ")
    [record] = p.wait_records(1)
    assert (record["status"], record["error"]) == (400, "malformed_request")


def test_a_malformed_head_request_gets_no_body(make):  # noqa: F811
    p = make().ready().start()
    with p.raw(b"HEAD /v1/x HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n") as s:
        answer = read_all(s)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.endswith(b"\r\n\r\n")


def test_heads_up_to_64_kib(make):  # noqa: F811
    p = make().ready().start()
    for name, size, status in (("Cookie", 20_000, 200), ("Cookie", 64_000, 200), ("Cookie", 66_000, 431)):
        with p.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s: %s\r\n\r\n" % (name.encode(), b"c" * size)) as s:
            assert int(read_head(s)[0].split()[1]) == status
    assert len(p.backend.requests[0].headers["cookie"][0]) == 20_000
    with p.raw(b"GET /v1/" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        assert read_head(s)[0].startswith(b"HTTP/1.1 414 ")
    assert [r["status"] for r in p.wait_records(4)] == [200, 200, 431, 414]
