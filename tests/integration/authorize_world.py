# SPDX-License-Identifier: Apache-2.0
"""tb-authorize with its directories and socket, and a control plane stand-in that answers what each test tells it to, over real
TLS: what its tests share."""

import datetime
import hashlib
import http.server
import json
import os
import pathlib
import signal
import socket
import ssl
import threading
import time

import pytest

from openapi import SPEC
from tbsys import CA, Daemon, fetch_credential, free_port, program, read_json, unix_listener, wait_for

KEY = hashlib.sha256(b"authorize test key").hexdigest()  # the same in each process that collects the tests: ids show it
UUID = "4c4c4544-0000-2010-8020-80c04f202020"
HYDRATE, DECRYPT = "tb-hydrate.service", "tb-decrypt.service"


def utc(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def grant(lease=3600, n=0, sas_seconds=3600, **more):
    """An answer whose times count from when it is sent: a slow machine must not be granted a lease that is over."""
    def body():
        se = utc(sas_seconds)[:19].replace(":", "%3A") + "Z"
        body = {"status": "authorized", "decryption_key_hex": KEY,
                "sas_url": f"https://blob.example/models/a/model.tbenc?n={n}&se={se}&sig=SECRETSIGNATURE",
                "manifest_url": f"https://blob.example/models/a/model.manifest.json?n={n}&se={se}&sig=SECRETSIGNATURE"}
        if lease is not None:
            body["expires_at"] = utc(lease)
        body.update(more)
        return json.dumps(body).encode()

    return 200, {}, body


def sent(answer):
    status, headers, body = answer
    return status, headers, body() if callable(body) else body


def denied(reason="contract_invalid"):
    return 200, {}, json.dumps({"status": "denied", "reason": reason}).encode()


def slow_loris(handler):
    """A body that never ends, a byte at a time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.5)
    except OSError:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def setup(self):
        self.request.do_handshake()
        super().setup()

    def do_POST(self):
        plane = self.server.plane
        text = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(text)
        SPEC.note_request("POST", self.path, dict(self.headers), text)
        with plane.lock:
            plane.requests.append((time.monotonic(), self.path, dict(self.headers), body))
            n = len(plane.requests)
        answer = plane.answer(n) if callable(plane.answer) else plane.answer
        if callable(answer):
            return answer(self)
        status, headers, data = sent(answer)
        self.send_response(status)
        for k, v in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request, client_address):
        pass  # failed handshakes and clients that leave are what some tests are about


class Plane:
    """answer: (status, headers, body), or a function of the request's number that returns one or a handler function."""

    def __init__(self, answer, cert, client_ca=None):
        self.answer, self.cert, self.client_ca = answer, cert, client_ca
        self.port, self.server, self.requests, self.lock = free_port(), None, [], threading.Lock()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    def up(self):
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.load_cert_chain(*self.cert)
        if self.client_ca:
            ctx.load_verify_locations(self.client_ca)
            ctx.verify_mode = ssl.CERT_REQUIRED
        self.server = Server(("127.0.0.1", self.port), Handler)
        self.server.plane = self
        self.server.socket = ctx.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def down(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class World:
    """One tb-authorize with its directories and socket, and its control plane."""

    def __init__(self, directory, ca, plane, **options):
        self.dir, self.plane = pathlib.Path(directory), plane
        self.dir.mkdir(exist_ok=True)
        self.sock_path = self.dir / "keys.sock"
        self.run, self.state = self.dir / "run", self.dir / "state"
        self.listener = None
        env = {"TB_CONTRACT_ID": "contract-1", "TB_ASSET_ID": "asset-1", "TB_EDC_ENDPOINT": plane.url,
               "TB_CA_FILE": ca.cert, "TB_RUN_DIR": self.dir / "r", "TB_STATE_DIR": self.dir / "s",
               "TB_LOG_LEVEL": "debug"}
        env.update(options.pop("env", {}))
        credentials = {"product-uuid": UUID.upper().encode() + b"\n", **options.pop("credentials", {})}
        if options.pop("listen", True):
            self.listener = unix_listener(self.sock_path)
            self.listener.listen(512)
            options["listen"] = {"keys": self.listener}
        self.daemon = Daemon([program("tb-authorize")], env=env, credentials=credentials, runtime_dir=self.run,
                             state_dir=self.state, log=self.dir / "log", **options)

    def start(self):
        self.daemon.start()
        return self

    def ready(self):
        self.daemon.wait_notify("READY", "1", 20)
        return self

    def stop(self):
        self.daemon.stop()
        self.plane.down()
        if self.listener:
            self.listener.close()
        SPEC.finish()

    def lease(self):
        return read_json(self.run / "lease.json")

    def contact(self):
        return read_json(self.run / "control-plane.json")

    def wait_state(self, state, timeout=20):
        return wait_for(lambda: self.lease().get("state") == state and self.lease(), timeout,
                        f"state {state}, have {self.lease()}")

    def wait_reason(self, text, timeout=20):
        wait_for(lambda: text in self.lease().get("reason", ""), timeout, f"reason {text!r}, have {self.lease()}")

    def fetch(self, unit, name, timeout=25):
        return fetch_credential(self.sock_path, unit, name, timeout)

    def key(self):
        return self.fetch(DECRYPT, "model-key")

    def flags(self):
        return (self.run / "suspended").exists(), (self.state / "suspended").exists()

    def log(self):
        return self.daemon.log_text()

    def ask_now(self):
        self.daemon.kill(signal.SIGHUP)


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    authority = CA(tmp_path_factory.mktemp("ca"))
    authority.server = authority.issue("server")
    return authority


@pytest.fixture
def world(tmp_path, ca):
    made = []

    def make(answer, up=True, start=True, server=None, client_ca=None, **options):
        plane = Plane(answer, server or ca.server, client_ca)
        if up:
            plane.up()
        w = World(tmp_path / f"w{len(made)}", ca, plane, **options)
        made.append(w)
        return w.start() if start else w

    yield make
    for w in made:
        w.stop()


def connect_from(path, name):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(20)
    if name is not None:
        s.bind(name)
    s.connect(str(path))
    return s


def as_nobody(fn):
    """Runs fn in a child with uid 65534; returns what it returned (bytes)."""
    r, wr = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(wr, b"ok:" + fn())
        except BaseException as e:
            os.write(wr, b"error:" + type(e).__name__.encode())
        os._exit(0)
    os.close(wr)
    with os.fdopen(r, "rb") as f:
        data = f.read()
    os.waitpid(pid, 0)
    return data
