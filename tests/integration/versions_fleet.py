# SPDX-License-Identifier: Apache-2.0
"""A provider, a machine with tb-update and an inference server that says what it serves: what the tests of promotions share. systemd is
played by Chain (e2e-vagrant/lib/chain.py)."""

import contextlib
import hashlib
import http.client
import os
import signal
import threading
import types

import pytest

from chain import Chain
from controlplane_server import BLOBS, Sealed, Server
from fake_systemd import FakeSystemd
from tbsys import read_json, wait_for

RUNTIME = '''
import hashlib, http.server, os, sys, time
data = open(sys.argv[1], "rb").read()
if data.startswith(b"will not start"):
    sys.exit(3)
if data.startswith(b"is slow"):
    time.sleep(1.5)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.reply(503 if data.startswith(b"is never well") and self.path == "/health" else 200)
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(float(body or b"0"))
        self.reply(200)
    def reply(self, status):
        text = hashlib.sha256(data).hexdigest().encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *args):
        pass
class Httpd(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
Httpd(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
'''


class Fleet:
    """A provider with versions of one asset, and one machine of a customer's."""

    def __init__(self, tmp, plane):
        self.tmp, self.plane, self.sha, self.n, self.chain = tmp, plane, {}, 0, None
        self.contract = f"c-{tmp.name}"[:60].replace("[", "-").replace("]", "")
        self.asset = f"a-{hashlib.sha256(str(tmp).encode()).hexdigest()[:12]}"
        plane.cli("contract", "add", self.contract, "--asset", self.asset, "--mode", "open", "--lease", "3600")
        self.script = tmp / "runtime.py"
        self.script.write_text(RUNTIME)

    def publish(self, text, **wrong):
        """Registers and promotes the next version."""
        self.n += 1
        plain = text + b" weights" * 20000 + str(self.n).encode()
        sealed = Sealed(hashlib.sha256(self.asset.encode() + bytes([self.n])).hexdigest(), plain, asset_id=self.asset)
        self.sha[self.n] = hashlib.sha256(plain).hexdigest()
        path = f"{self.asset}-{self.n}"
        status, body, _ = self.plane.register(BLOBS.put(sealed, path), asset=self.asset, sealed=sealed, replace=True,
                                              manifest_sha256=sealed.manifest_sha256)
        assert status in (200, 201), body
        return self.n

    def promote(self, n):
        self.plane.cli("asset", "promote", self.asset, "--version", str(n))

    def start(self, policy="manual", bus=None, **env):
        ca = types.SimpleNamespace(cert=self.plane.data / "ca.crt")
        self.chain = Chain(self.tmp / "machine", ca, f"https://localhost:{self.plane.port}", self.contract, self.asset,
                           runtime_exec=f"/usr/bin/python3 {self.script} {{model}} 8081", billing=False, updates=True, bus=bus,
                           env={"TB_INSECURE_HTTP": "true", "TB_UPDATE": policy, "TB_ROUTES": "/v1/*", "TB_LOG_LEVEL": "debug",
                                "TB_SWITCH_DRAIN": "20s", "TB_SWITCH_HOLD": "60s", **env}).start()
        self.chain.wait_state("Ready")
        return self.chain

    def ask_now(self):
        os.kill(self.chain.pid("tb-authorize"), signal.SIGHUP)

    def update(self):
        return read_json(self.chain.run / "tb-update" / "update.json")

    def serving(self):
        return read_json(self.chain.target / "serving.json")

    def wait_update(self, state, timeout=40, **more):
        def reached():
            u = self.update()
            return u.get("state") == state and all(u.get(k) == v for k, v in more.items())
        try:
            wait_for(reached, timeout, f"update {state} {more}")
        except AssertionError as e:
            raise AssertionError(f"{e}: {self.update()} {self.serving()} {self.chain.status()}\n{self.chain.logs(40)}") from None

    def wait_held(self, state):
        """wait_update(), until tb-proxy has heard of it, too: from then on, who comes waits."""
        self.wait_update(state)
        wait_for(lambda: self.chain.status().get("asset_version", {}).get("state") == state, what=f"tb-proxy, which knows of {state}")

    def tell(self, word):
        path = self.chain.run / "tb-update" / "asked"
        path.with_suffix(".new").write_text(word)
        path.with_suffix(".new").rename(path)

    def served(self, seconds=0, timeout=90):
        """(status, version that answered)"""
        c = http.client.HTTPConnection("127.0.0.1", self.chain.public_port, timeout=timeout)
        try:
            c.request("POST", "/v1/echo", str(seconds) if seconds else "0")
            r = c.getresponse()
            text = r.read().decode()
            return r.status, {v: k for k, v in self.sha.items()}.get(text, text)
        finally:
            c.close()


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("plane") / "data", "--seed") as s:
        yield s


@pytest.fixture
def fleet(tmp_path, plane):
    f = Fleet(tmp_path, plane)
    f.publish(b"one")
    with contextlib.ExitStack() as stack:
        f.bus = FakeSystemd(tmp_path)
        stack.callback(f.bus.close)
        stack.callback(lambda: f.chain and f.chain.stop())
        yield f


class Clients:
    """Who asks all the time, and takes note of each answer."""

    def __init__(self, fleet, n=3):
        self.fleet, self.answers, self.stopping = fleet, [], threading.Event()
        self.threads = [threading.Thread(target=self._ask_on) for _ in range(n)]
        for t in self.threads:
            t.start()

    def _ask_on(self):
        while not self.stopping.wait(0.02):
            self.answers.append(self.fleet.served(0.05))

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(120)
        return self.answers


def metrics(fleet):
    c = http.client.HTTPConnection("127.0.0.1", fleet.chain.health_port, timeout=10)
    c.request("GET", "/metrics")
    return c.getresponse().read().decode()
