# SPDX-License-Identifier: Apache-2.0
"""tb-proxy with a scripted runtime behind it and the domain files the other programs would write: what its tests share."""

import hashlib
import http.client
import json
import os
import pathlib
import re
import select
import socket
import struct
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant/lib"))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from proxy_backend import Backend  # noqa: E402
from tbsys import Daemon, build_dir, program, read_records, tcp_listener, wait_for  # noqa: E402

EMPTY = hashlib.sha256(b"").hexdigest()
ASAN = build_dir().name == "asan"


def boottime_us():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Proxy:
    def __init__(self, tmp, backend_sock=None, **env):
        self.tmp, self.run, self.state = tmp, tmp / "run", tmp / "state"
        self.http, self.health = tcp_listener(), tcp_listener()
        self.backend_sock = backend_sock or tcp_listener()
        self.backend = Backend(self.backend_sock)
        self.audit_file = tmp / "audit.jsonl"
        url = "http://127.0.0.1:%d" % self.backend_sock.getsockname()[1] if backend_sock is None else \
            "unix:" + backend_sock.getsockname()
        self.env = {"TB_CONTRACT_ID": "contract-1", "TB_ASSET_ID": "asset-1", "TB_EDC_ENDPOINT": "https://localhost:1",
                    "TB_RUN_DIR": self.run, "TB_STATE_DIR": self.state, "TB_RUNTIME_URL": url,
                    "TB_AUDIT_FILE": self.audit_file, **env}
        self.env = {k: v for k, v in self.env.items() if v is not None}
        self.daemon = Daemon([program("tb-proxy")], env=self.env, listen={"http": self.http, "health": self.health},
                             log=tmp / "proxy.log")

    @property
    def port(self):
        return self.http.getsockname()[1]

    def write(self, who, name, **doc):
        path = self.run / who / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / ".tmp").write_text(json.dumps(doc))
        os.rename(path.parent / ".tmp", path)

    def lease(self, state="authorized", **more):
        self.write("tb-authorize", "lease.json", state=state, contract_id="contract-1", asset_id="asset-1", **more)

    def ready(self):
        self.lease()
        self.write("tb-hydrate", "progress.json", state="complete", bytes_done=10, bytes_total=10)
        self.write("tb-decrypt", "progress.json", state="complete", bytes_done=9, bytes_total=9)
        self.write("tb-runtime", "delivery.json", state="delivered", mode="dir")
        return self

    def start(self, wait="Ready"):
        self.daemon.start()
        self.daemon.wait_notify("READY", "1")
        if wait:
            self.wait_state(wait)
        return self

    def stop(self):
        if self.daemon.running():
            assert self.daemon.stop() == 0, self.daemon.log_text()
        for s in (self.http, self.health, self.backend_sock):
            s.close()

    def ask(self, method, path, body=None, headers=None, port=None):
        c = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return r.status, r.read(), r.headers
        finally:
            c.close()

    def ask_health(self, path, method="GET"):
        return self.ask(method, path, port=self.health.getsockname()[1])

    def status(self):
        return json.loads(self.ask_health("/status")[1])

    def wait_state(self, state):
        wait_for(lambda: self.status()["state"] == state, what=f"state {state}")

    def raw(self, data=b""):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        if data:
            s.sendall(data)
        return s

    def records(self):
        return read_records(self.audit_file)

    def wait_records(self, n):
        wait_for(lambda: self.audit_file.exists() and len(self.records()) >= n, what=f"{n} audit records")
        records = self.records()
        assert len(records) == n
        assert [r["seq"] for r in records] == list(range(1, n + 1))
        return records


@pytest.fixture
def make(tmp_path):
    made = []

    def build(**kw):
        made.append(Proxy(tmp_path, **kw))
        return made[-1]
    yield build
    for p in made:
        p.stop()


@pytest.fixture
def proxy(make):
    return make().ready().start()


def error_of(answer):
    return answer[0], json.loads(answer[1])["error"]["code"]


def readable(sock):
    return bool(select.select([sock], [], [], 0)[0])


def queue_length(port):
    """Connections that a listener on 127.0.0.1 has not accepted yet."""
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        if field[1] == f"0100007F:{port:04X}" and field[3] == "0A":
            return int(field[4].split(":")[1], 16)
    raise AssertionError(f"nobody listens on port {port}")


def read_all(sock):
    data = b""
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def reset_while_waiting(p, path, headers=""):
    """A client that is reset while the runtime thinks about its request."""
    started = threading.Event()

    def route(conn, rq):
        started.set()
        conn.recv(1)
        return False
    p.backend.routes[path] = route
    s = p.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    assert started.wait(20)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST, as a crash would
    s.close()


def live_stream(p, path, last):
    """A stream of which the runtime has sent "ab"; `last` (chunks) goes out once the event that this returns is set."""
    go = threading.Event()

    def route(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        assert go.wait(20)
        conn.sendall(last)
    p.backend.routes[path] = route
    return go


def usage(p):
    text = p.ask_health("/metrics")[1].decode()
    return {m[1]: int(m[2]) for m in re.finditer(r'tb_usage_total\{dimension="(\w+)"\} (\d+)', text)}


def rss_peak(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) * 1024
