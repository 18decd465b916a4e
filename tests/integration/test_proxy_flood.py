# SPDX-License-Identifier: Apache-2.0
"""What strangers can spoil: the audit under a flood of requests without a key, the health port under idle connections."""

import hashlib
import json
import socket
import subprocess
import time

import pytest

from patience import patient
from proxy_daemon import make, read_all  # noqa: F401
from tbsys import program, wait_for


def flood(p, data, seconds=10, rate=200):
    """Sends the request on a connection of its own, `rate` times a second. Returns how often."""
    start, n = time.monotonic(), 0
    while (now := time.monotonic()) < start + seconds:
        while n < (now - start) * rate:
            with p.raw(data) as s:
                assert read_all(s).startswith(b"HTTP/1.1 4")
            n += 1
        time.sleep(0.002)
    return n


def requests_recorded(p):
    return sum(r.get("count", 1) for r in p.records())


@pytest.mark.parametrize("path", [b"/" + b"\xff" * 6000, b"/v1/" + b"\x1b" * 6000, b"/" + b"%ff" * 2000, b"/v1/" + b"x" * 6000])
@pytest.mark.parametrize("keys", [True, False])
def test_a_flood_without_a_key_writes_little_and_leaves_nothing_out(make, tmp_path, path, keys):  # noqa: F811
    file = tmp_path / "keys"
    file.write_text("alice:%s\n" % hashlib.sha256(b"k").hexdigest())
    p = make(TB_API_KEYS=file if keys else None, TB_ROUTES="/v1/chat/*").ready().start()
    n = flood(p, b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path, seconds=4)
    assert n > 400
    wait_for(lambda: requests_recorded(p) == n, timeout=60, what="a record or a count for each request")
    lines = p.audit_file.read_bytes().splitlines()
    assert max(map(len, lines)) < 1200 and len(lines) < 300
    assert p.audit_file.stat().st_size < 300 * 1000 < n * len(path)  # bounded, whatever comes
    single = [json.loads(line) for line in lines[:5]]
    for r in single:
        assert len(r["path"]) <= 256 and len(r["path_sha256"]) == 64 and r["path"].isascii()
    shared = [r for r in p.records() if "count" in r]
    assert shared and all(r["last_ts"] >= r["ts"] and r["client"] == "127.0.0.1" for r in shared)
    assert p.ask("POST", "/v1/chat/x", b"{}", {"Authorization": "Bearer k"})[0] == 200  # an honest one has its own
    wait_for(lambda: requests_recorded(p) == n + 1, what="its record")
    assert p.records()[-1]["status"] == 200
    r = subprocess.run([program("tb-audit"), "verify", p.audit_file], capture_output=True, text=True)
    assert r.returncode == 0 and f"stand for {n + 1} requests" in r.stdout, r.stdout


def test_a_kill_leaves_gathered_requests_to_the_next_record(make):  # noqa: F811
    p = make(TB_ROUTES="/v1/chat/*").ready().start()
    flood(p, b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", seconds=3)
    wait_for(lambda: any("count" in r for r in p.records()), what="a shared record")
    more = flood(p, b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", seconds=0.5)
    before = requests_recorded(p)
    p.daemon.kill()
    p.daemon.wait()
    p.start()
    assert p.ask("GET", "/v1/chat/x")[0] == 200
    wait_for(lambda: p.records()[-1]["status"] == 200, what="the record")
    assert p.records()[-1]["lost_max"] >= more - max(0, requests_recorded(p) - 1 - before)


@pytest.mark.alone
@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx"])
def test_idle_connections_leave_room_for_a_probe(make, sent):  # noqa: F811
    """Three hundred that say nothing, half a request, one request, or half a body, and do not go."""
    p = make().ready().start()
    idle = []
    try:
        for i in range(300):
            s = socket.create_connection(("127.0.0.1", p.health.getsockname()[1]), timeout=20)
            s.sendall(sent)
            idle.append(s)
            if i % 25 == 24:
                start = time.monotonic()
                assert p.ask_health("/health")[0] == 200
                assert time.monotonic() - start < 2
    finally:
        for s in idle:
            s.close()


def test_viewers_are_not_closed_to_make_room(make):  # noqa: F811
    p = make().ready().start()
    address = ("127.0.0.1", p.health.getsockname()[1])
    with socket.create_connection(address, timeout=20) as viewer:
        viewer.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert viewer.recv(65536).startswith(b"HTTP/1.1 200")
        idle = [socket.create_connection(address, timeout=20) for _ in range(200)]
        time.sleep(1.5)
        assert p.ask_health("/health")[0] == 200
        seen, end = b"", time.monotonic() + patient(10)
        while seen.count(b"data: ") < 3 and time.monotonic() < end:
            data = viewer.recv(65536)
            assert data
            seen += data
        for s in idle:
            s.close()
