# SPDX-License-Identifier: Apache-2.0
"""The audit of tb-proxy: one record for each request whatever becomes of it, and a hash chain that outlives kills and rotation.
The chain is checked here by hand; test_tb_audit.py holds the program that does it for operators."""

import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import threading
import types

import pytest

from proxy_backend import simple
from proxy_daemon import Proxy, make, proxy, read_all, reset_while_waiting  # noqa: F401
from tbsys import wait_for


def lines_of(*paths):
    data = b"".join(pathlib.Path(p).read_bytes() for p in paths)
    assert data.endswith(b"\n") or not data
    return data.split(b"\n")[:-1]


def check_chain(lines):
    """Returns the records; a record that declares doubt may follow a gap of that many."""
    prev, seq, out = b"", 0, []
    for line in lines:
        r = json.loads(line)
        gap = r["seq"] - seq - 1
        assert 0 <= gap <= r.get("unsure", 0), (seq, r)
        if gap == 0:
            assert r["prev"] == (hashlib.sha256(prev).hexdigest() if seq else "0" * 64)
        prev, seq = line, r["seq"]
        out.append(r)
    return out


def settle(p, n):
    wait_for(lambda: p.audit_file.exists() and p.audit_file.read_bytes().count(b"\n") >= n, what=f"{n} audit records")
    return check_chain(lines_of(p.audit_file))


# --- one record for each way a request can end -----------------------------------------------------------------------

KEY = {"Authorization": "Bearer k"}


def abort_upload(p):
    p.raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\nabc").close()


def abort_wait(p):
    reset_while_waiting(p, "/v1/wait", "Authorization: Bearer k\r\n")


def abort_answer(p):
    p.backend.routes["/v1/die"] = lambda conn, rq: conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") and None or False
    with p.raw(b"GET /v1/die HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\r\n") as s:
        read_all(s)


def nonsense_from_runtime(p):
    p.backend.routes["/v1/bad"] = lambda conn, rq: conn.sendall(b"nonsense\r\n\r\n") and None or False
    assert p.ask("GET", "/v1/bad", headers=KEY)[0] == 502


def suspended(p):
    p.write("tb-authorize", "suspended", reason="contract_revoked", since="2026-01-01T00:00:00Z")
    p.wait_state("Suspended")
    assert p.ask("GET", "/v1/x", headers=KEY)[0] == 403
    (p.run / "tb-authorize/suspended").unlink()
    p.wait_state("Ready")


def not_ready(p):
    (p.run / "tb-authorize/lease.json").unlink()
    p.wait_state("Boot")
    assert p.ask("GET", "/v1/x", headers=KEY)[0] == 503
    p.lease()
    p.wait_state("Ready")


def raw(data):
    def send(p):
        with p.raw(data) as s:
            read_all(s)
    return send


def plain(status, *args, **kw):
    def send(p):
        assert p.ask(*args, **kw)[0] == status
    return send


WAYS = {
    "served": (200, plain(200, "POST", "/v1/x", b"abc", KEY)),
    "head": (200, plain(200, "HEAD", "/v1/x", headers=KEY)),
    "no key": (401, plain(401, "POST", "/v1/x", b"abc")),
    "suspended": (403, suspended),
    "other route": (404, plain(404, "GET", "/admin", headers=KEY)),
    "method": (405, plain(405, "FOO", "/v1/x", headers=KEY)),
    "body by length": (413, plain(413, "POST", "/v1/x", b"x" * 1001, KEY)),
    "body by chunks": (413, raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nConnection: close\r\n"
                                b"Transfer-Encoding: chunked\r\n\r\n" + (b"258\r\n" + b"x" * 600 + b"\r\n") * 2 + b"0\r\n\r\n")),
    "large head": (431, plain(431, "GET", "/v1/x", headers={**KEY, "X": "x" * 65500})),
    "huge head": (431, raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")),
    "two lengths": (400, raw(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
    "field without colon": (400, raw(b"GET /v1/x HTTP/1.1\r\nno colon here\r\n\r\n")),
    "path with dots": (400, raw(b"GET /v1/../x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")),
    "websocket": (400, raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")),
    "nonsense from the runtime": (502, nonsense_from_runtime),
    "runtime breaks off": (502, abort_answer),
    "not ready": (503, not_ready),
    "client leaves in its upload": (499, abort_upload),
    "client leaves while it waits": (499, abort_wait),
}


@pytest.fixture
def keyed(make, tmp_path):  # noqa: F811
    keys = tmp_path / "keys"
    keys.write_text("alice:%s\n" % hashlib.sha256(b"k").hexdigest())
    return make(TB_API_KEYS=keys, TB_MAX_BODY_BYTES="1000").ready().start()


def test_exactly_one_record_whatever_becomes_of_a_request(keyed):
    """A request that reached the parser has a record, one. Own endpoints have none."""
    for n, (name, (status, send)) in enumerate(WAYS.items(), 1):
        send(keyed)
        records = settle(keyed, n)
        assert len(records) == n, name
        assert records[-1]["status"] == status, (name, records[-1])
    for path in ("/health", "/readiness", "/status"):
        keyed.ask("GET", path)
    keyed.ask("GET", "/v1/last", headers=KEY)
    assert [r["path"] for r in settle(keyed, n + 1)[n:]] == ["/v1/last"]
    assert keyed.daemon.stop() == 0
    assert len(settle(keyed, n + 1)) == n + 1


def test_unreachable_runtime_has_its_record(make):  # noqa: F811
    p = make().ready().start()
    p.backend.die()
    wait_for(lambda: p.ask("GET", "/v1/x")[0] in (502, 503), what="an error")
    assert settle(p, 1)[0]["status"] in (502, 503)


def test_runtime_that_accepts_no_connection_has_its_record(make):  # noqa: F811
    p = make().ready()
    answer, stuck, deaf = p.backend._answer, threading.Event(), threading.Event()

    def close_after_health(conn, rq):  # no connection is kept: the request needs a new one
        if rq.path != "/health":
            return answer(conn, rq)
        conn.sendall(simple(b"ok", extra="Connection: close\r\n"))
        return False
    p.backend._answer = close_after_health
    p.start()
    listener = p.backend.sock
    p.backend.sock = types.SimpleNamespace(accept=lambda: deaf.set() or stuck.wait(60) and listener.accept())
    with socket.create_connection(listener.getsockname()):  # for the accept() that waits already
        assert deaf.wait(20)
    listener.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for s in fillers:
        s.setblocking(False)
        s.connect_ex(listener.getsockname())
    assert p.ask("GET", "/v1/x")[0] == 504
    [record] = settle(p, 1)
    assert (record["status"], record["error"]) == (504, "upstream_timeout")
    for s in fillers:
        s.close()
    listener.close()
    stuck.set()


# --- the chain -------------------------------------------------------------------------------------------------------

class Load:
    """Clients that ask as fast as they can, and count what was answered."""

    def __init__(self, port, n):
        self.port, self.stop, self.answered = port, threading.Event(), [0] * n
        self.threads = [threading.Thread(target=self._work, args=(k,), daemon=True) for k in range(n)]

    def _work(self, k):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stop.is_set():
            try:
                c.request("POST", "/v1/x", b"x" * 100)
                r = c.getresponse()
                if r.read() and r.status == 200:
                    self.answered[k] += 1
            except (OSError, http.client.HTTPException):
                c.close()

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *a):
        self.stop.set()
        for t in self.threads:
            t.join()

    def wait(self, n):
        before = sum(self.answered)
        wait_for(lambda: sum(self.answered) > before + n, what="load")


def test_kills_under_load(proxy):  # noqa: F811
    """The chain goes on, and what has no record is no more than the next record says."""
    with Load(proxy.port, 8) as load:
        for _ in range(6):
            load.wait(150)
            proxy.daemon.kill()
            proxy.start()
        load.wait(50)
    assert proxy.daemon.stop() == 0
    records = check_chain(lines_of(proxy.audit_file))
    assert [r["seq"] for r in records] == list(range(1, len(records) + 1))
    declared = [r for r in records if "lost_max" in r]
    assert 1 <= len(declared) <= 6
    served = sum(r["status"] == 200 for r in records)
    lost = sum(load.answered) - served
    assert lost <= sum(r["lost_max"] for r in declared)
    print(f"{len(records)} records, {sum(load.answered)} answers, {max(lost, 0)} lost of {sum(r['lost_max'] for r in declared)} declared")


def test_clean_restarts_declare_nothing(proxy):  # noqa: F811
    for n in range(1, 4):
        proxy.ask("GET", "/v1/x")
        assert proxy.daemon.stop() == 0
        proxy.start()
        line = lines_of(proxy.audit_file)[-1]
        assert proxy.status()["audit"] == {"seq": n, "head": hashlib.sha256(line).hexdigest()}
    proxy.ask("GET", "/v1/x")
    assert not [r for r in settle(proxy, 4) if "lost_max" in r]


def test_line_torn_by_a_kill_is_removed(proxy):  # noqa: F811
    for _ in range(3):
        proxy.ask("GET", "/v1/x")
    settle(proxy, 3)
    proxy.daemon.kill()
    whole = proxy.audit_file.read_bytes()
    proxy.audit_file.write_bytes(whole + whole.splitlines()[-1][:40])
    proxy.start()
    proxy.ask("GET", "/v1/x")
    assert [r["seq"] for r in settle(proxy, 4)] == [1, 2, 3, 4]


def test_a_cut_file_is_not_glossed_over(proxy):  # noqa: F811
    for _ in range(3):
        proxy.ask("GET", "/v1/x")
    lines = settle(proxy, 3) and lines_of(proxy.audit_file)
    assert proxy.daemon.stop() == 0
    proxy.audit_file.write_bytes(lines[0] + b"\n")
    proxy.start()
    proxy.ask("GET", "/v1/x")
    wait_for(lambda: len(lines_of(proxy.audit_file)) == 2, what="a record")
    last = json.loads(lines_of(proxy.audit_file)[-1])
    assert last["seq"] == 4 and last["prev"] == hashlib.sha256(lines[2]).hexdigest() and "unsure" not in last
    assert "does not end with record 3" in proxy.daemon.log_text()


@pytest.mark.parametrize("how", ["hangup", "renamed", "removed"])
def test_rotation_under_load(proxy, how):  # noqa: F811
    """A file that lost its name is noticed within a second even when nobody says so; no record is lost or written twice."""
    parts = []
    with Load(proxy.port, 4) as load:
        for i in range(3):
            load.wait(50)
            if how == "removed":  # what a careless administrator does: the link keeps the records for this test
                os.link(proxy.audit_file, proxy.tmp / f"old.{i}")
                proxy.audit_file.unlink()
            else:
                proxy.audit_file.rename(proxy.tmp / f"old.{i}")
            parts.append(proxy.tmp / f"old.{i}")
            if how == "hangup":
                os.kill(proxy.daemon.pid, signal.SIGHUP)
            wait_for(proxy.audit_file.exists, what="a new file")
    assert proxy.daemon.stop() == 0
    records = check_chain(lines_of(*parts, proxy.audit_file))
    assert [r["seq"] for r in records] == list(range(1, sum(load.answered) + 1))


def test_two_proxies_do_not_share_a_file(make, tmp_path):  # noqa: F811
    p = make().ready().start()
    p.ask("GET", "/v1/x")
    other = Proxy(tmp_path, TB_STATE_DIR=tmp_path / "other", TB_AUDIT_FILE=p.audit_file)
    other.daemon.start()
    assert other.daemon.wait() == 74
    assert "another process is writing it" in other.daemon.log_text()
    other.stop()


def test_damaged_head_is_set_aside_and_the_chain_goes_on(proxy):  # noqa: F811
    proxy.ask("GET", "/v1/x")
    settle(proxy, 1)
    assert proxy.daemon.stop() == 0
    head = proxy.state / "tb-proxy/audit-head"
    head.write_bytes(b"x" * 10)
    proxy.start()
    proxy.ask("GET", "/v1/x")
    assert [r["seq"] for r in settle(proxy, 2)] == [1, 2]
    assert list(head.parent.glob("audit-head.corrupt-*"))
