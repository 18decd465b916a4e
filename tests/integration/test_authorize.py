# SPDX-License-Identifier: Apache-2.0
"""tb-authorize against a control plane stand-in that answers what each test tells it to, over real TLS."""

import concurrent.futures
import datetime
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import resource
import secrets
import signal
import socket
import ssl
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant/lib"))
from tbsys import CA, Daemon, fetch_credential, free_port, program, read_json, unix_listener, wait_for  # noqa: E402

KEY = secrets.token_hex(32)
UUID = "4c4c4544-0000-2010-8020-80c04f202020"
HYDRATE, DECRYPT = "tb-hydrate.service", "tb-decrypt.service"


def utc(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def grant(lease=3600, n=0, sas_seconds=3600, **more):
    se = utc(sas_seconds)[:19].replace(":", "%3A") + "Z"
    body = {"status": "authorized", "decryption_key_hex": KEY,
            "sas_url": f"https://blob.example/models/a/model.tbenc?n={n}&se={se}&sig=SECRETSIGNATURE",
            "manifest_url": f"https://blob.example/models/a/model.manifest.json?n={n}&se={se}&sig=SECRETSIGNATURE"}
    if lease is not None:
        body["expires_at"] = utc(lease)
    body.update(more)
    return 200, {}, json.dumps(body).encode()


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
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with plane.lock:
            plane.requests.append((time.monotonic(), self.path, dict(self.headers), body))
            n = len(plane.requests)
        answer = plane.answer(n) if callable(plane.answer) else plane.answer
        if callable(answer):
            return answer(self)
        status, headers, data = answer
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

    def lease(self):
        return read_json(self.run / "lease.json")

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


BESIDE = {
    "loris": lambda n: slow_loris,
    "denied, then allowed": lambda n: denied("subscription_inactive") if n == 1 else grant(),
    "two failures": lambda n: (500, {}, b"") if n < 3 else grant(),
    "retry-after": lambda n: (429, {"Retry-After": "4"}, b"") if n == 1 else grant(),
}


@pytest.fixture(scope="module", autouse=True)
def beside(tmp_path_factory, ca):
    """Worlds whose tests take time run beside all the others; they are looked at last."""
    worlds = {name: World(tmp_path_factory.mktemp("beside"), ca, Plane(answer, ca.server).up()).start()
              for name, answer in BESIDE.items()}
    yield worlds
    for w in worlds.values():
        w.stop()


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


def read_all(s):
    data = b""
    while chunk := s.recv(65536):
        data += chunk
    s.close()
    return data


def test_authorized_machine_gets_each_credential_once_per_unit(world):
    sha = secrets.token_hex(32)
    w = world(grant(manifest_sha256=sha)).ready()
    assert w.key() == bytes.fromhex(KEY)
    assert w.fetch(HYDRATE, "sas-url").startswith(b"https://blob.example/models/a/model.tbenc?n=0&se=")
    assert w.fetch(HYDRATE, "manifest-url").startswith(b"https://blob.example/models/a/model.manifest.json?")
    assert w.fetch(HYDRATE, "manifest-sha256") == sha.encode() == w.fetch(DECRYPT, "manifest-sha256")
    lease = w.lease()
    assert lease["state"] == "authorized" and lease["contract_id"] == "contract-1" and lease["asset_id"] == "asset-1"
    boot_us = time.clock_gettime(time.CLOCK_BOOTTIME) * 1e6
    assert abs(lease["deadline_boottime_us"] - boot_us - (3600 + 86400) * 1e6) < 30e6
    assert w.flags() == (False, False)
    _, path, headers, body = w.plane.requests[0]
    assert path == "/api/v1/license/authorize" and headers["Content-Type"] == "application/json"
    assert body == {"contract_id": "contract-1", "asset_id": "asset-1", "hw_id": UUID,
                    "client_version": body["client_version"]} and body["client_version"].startswith("trustbridge/")
    assert f"released model-key to {DECRYPT}" in w.log() and f"released sas-url to {HYDRATE}" in w.log()
    assert w.daemon.notified("STATUS").startswith("Authorized until 2")
    assert len(w.plane.requests) == 1
    assert w.daemon.stop() == 0


def test_no_manifest_digest_is_none_and_no_expiry_no_deadline(world):
    w = world(grant(lease=None)).ready()
    assert w.fetch(DECRYPT, "manifest-sha256") == b"none"
    assert "deadline_boottime_us" not in w.lease() and "expires_at" not in w.lease()


def test_own_socket_is_for_root_only(world):
    w = world(grant(), listen=False).ready()
    path = w.dir / "r/tb-keys.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert fetch_credential(path, DECRYPT, "model-key") == bytes.fromhex(KEY)


def test_others_get_nothing(world):
    w = world(grant()).ready()
    for unit, name in ((HYDRATE, "model-key"), (DECRYPT, "sas-url"), ("tb-proxy.service", "model-key"),
                       ("tb-decrypt.servic", "model-key"), (DECRYPT, "model-key2")):
        assert w.fetch(unit, name) == b"", (unit, name)
        assert f"refused {name} to {unit}: this unit may not have it" in w.log()
    for name in (None, "\0garbage", "\0" + "f" * 40 + f"/unit/{DECRYPT}/model-key", f"\0ab/unit/{DECRYPT}/model-key/x",
                 f"\0AB/unit/{DECRYPT}/model-key", f"\0ab/unit/{DECRYPT}\0/model-key", str(w.dir / "client.sock"),
                 "\0" + "f" * 107):
        assert read_all(connect_from(w.sock_path, name)) == b"", name
    assert w.key() == bytes.fromhex(KEY)


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


def test_a_user_who_forges_the_name_gets_nothing(world, tmp_path):
    w = world(grant()).ready()

    def forge():
        return read_all(connect_from(w.sock_path, f"\0{secrets.token_hex(8)}/unit/{DECRYPT}/model-key"))

    for d in [w.dir, *w.dir.parents]:
        if d.stat().st_mode & 0o005 != 0o005 and "pytest" in str(d):
            d.chmod(0o755)
    assert as_nobody(forge) == b"error:PermissionError"  # the mode of the socket
    w.sock_path.chmod(0o666)
    assert as_nobody(forge) == b"ok:"  # and the check of the peer's uid
    assert "of user 65534 claims to be systemd" in w.log()
    assert f"refused model-key to {DECRYPT}: the peer is not root" in w.log()
    assert w.key() == bytes.fromhex(KEY)


def test_down_at_boot_waits_and_goes_on_trying(world):
    w = world(grant(), up=False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        s = connect_from(w.sock_path, f"\0{secrets.token_hex(8)}/unit/{DECRYPT}/model-key")
        s.shutdown(socket.SHUT_WR)  # as systemd does before it reads
        waiting = pool.submit(read_all, s)
        w.wait_state("pending")
        wait_for(lambda: (w.daemon.notified("STATUS") or "").startswith("Waiting for the control plane (try"), 20, "STATUS")
        assert w.daemon.notified("READY") is None and int(w.daemon.notified("EXTEND_TIMEOUT_USEC")) >= 20e6
        assert not waiting.done() and w.daemon.running() and w.flags() == (False, False)
        w.plane.up()
        w.ready()
        assert waiting.result(20) == bytes.fromhex(KEY)
    w.wait_state("authorized")


def test_a_waiting_client_survives_a_restart(world):
    w = world(grant(), up=False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(w.key)
        wait_for(lambda: "try 1 failed" in (w.daemon.notified("STATUS") or ""), 20, "a failed try")
        w.daemon.kill()
        w.plane.up()
        w.start().ready()
        assert waiting.result(20) == bytes.fromhex(KEY)


def test_clients_that_leave_do_no_harm(world):
    w = world(grant(), up=False)
    wait_for(lambda: "try 1 failed" in (w.daemon.notified("STATUS") or ""), 20, "a failed try")
    for _ in range(100):
        connect_from(w.sock_path, f"\0{secrets.token_hex(8)}/unit/{DECRYPT}/model-key").close()
    w.plane.up()
    w.ask_now()
    w.ready()
    assert w.key() == bytes.fromhex(KEY)


def test_many_at_once(world):
    w = world(grant(), up=False)
    wait_for(lambda: "try 1 failed" in (w.daemon.notified("STATUS") or ""), 20, "a failed try")
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        before = [pool.submit(w.key) for _ in range(100)]
        w.plane.up()
        w.ask_now()
        w.ready()
        after = [pool.submit(w.key) for _ in range(100)]
        assert all(f.result(30) == bytes.fromhex(KEY) for f in before + after)
    fds = len(os.listdir(f"/proc/{w.daemon.pid}/fd"))
    assert fds < 20, "descriptors leak"


def test_denied_at_boot_suspends(world):
    w = world(denied("subscription_inactive")).ready()
    assert w.wait_state("denied")["reason"] == "subscription_inactive"
    assert w.flags() == (True, True)
    assert read_json(w.run / "suspended")["reason"] == "subscription_inactive"
    assert w.key() == b"" and w.fetch(HYDRATE, "sas-url") == b""
    assert f"refused model-key to {DECRYPT}: subscription_inactive" in w.log()
    assert w.daemon.notified("STATUS").startswith("Suspended: subscription_inactive")


def test_revoked_while_serving_then_allowed_again(world):
    w = world(grant(lease=3)).ready()
    assert w.key() == bytes.fromhex(KEY)
    w.plane.answer = 403, {}, b'{"status":"denied","reason":"contract_inactive"}'
    w.wait_state("denied", 5)
    assert w.flags() == (True, True) and w.key() == b""
    w.plane.answer = grant()
    w.ask_now()
    w.wait_state("authorized")
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    assert w.key() == bytes.fromhex(KEY)


def test_the_end_of_the_marketplace_subscription_denies_whatever_the_control_plane_says(world):
    w = world(grant(lease=3)).ready()
    assert w.key() == bytes.fromhex(KEY)
    ended = w.dir / "s/tb-billing/ended"
    ended.parent.mkdir(parents=True)
    ended.write_text('{"reason": "ResourceNotActive"}')
    reason = w.wait_state("denied", 10)["reason"]
    assert reason == "the marketplace says that the subscription has ended: ResourceNotActive"
    assert w.flags() == (True, True) and w.key() == b""
    w.daemon.kill()
    w.plane.down()
    (w.run / "lease.json").unlink()
    w.start()
    w.wait_state("denied")
    w.plane.up()
    ended.unlink()
    w.ask_now()
    w.ready().wait_state("authorized")
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    assert w.key() == bytes.fromhex(KEY)


def test_renewals_carry_the_usage_report(world):
    w = world(lambda n: grant(lease=3))
    report = w.dir / "r/tb-billing/report.json"
    report.parent.mkdir(parents=True)
    report.write_text('{"at": "2026-01-02T00:00:00Z",\n "used": {"requests": 5}}\n')
    w.ready()
    wait_for(lambda: len(w.plane.requests) > 1, 10, "a renewal")
    first, second = (body for _, _, _, body in w.plane.requests[:2])
    assert "usage_report" not in first  # no key to sign it with yet
    assert second["usage_report"] == report.read_text()
    key = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
    assert second["usage_hmac"] == hmac.new(key, report.read_bytes(), hashlib.sha256).hexdigest()
    report.write_text("x" * 9000)
    n = len(w.plane.requests)
    wait_for(lambda: len(w.plane.requests) > n + 1, 10, "renewals without one")
    assert "usage_report" not in w.plane.requests[-1][3] and w.lease()["state"] == "authorized"


def test_terminal_statuses_deny_without_a_secret_in_the_reason(world):
    w = world((400, {}, f"bad\x1b[2J key={KEY} sig=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRS%3D ".encode() * 20)).ready()
    reason = w.wait_state("denied")["reason"]
    assert reason.startswith("HTTP 400: bad [2J [redacted]") and len(reason) <= 200 and KEY not in reason
    for status in (404, 302, 410):
        w.plane.answer = status, {"Location": "https://127.0.0.1:1/"}, b"gone"
        w.ask_now()
        w.wait_reason(f"HTTP {status}: gone")
        assert w.flags() == (True, True)
    w.plane.answer = 401, {}, b""
    w.ask_now()
    w.wait_reason("access denied (HTTP 401)")
    assert KEY not in w.log()


def test_answers_that_are_no_verdict_are_retried(world):
    w = world((503, {}, b""))
    w.wait_reason("HTTP 503")
    for answer, reason in (
            ((429, {}, b""), "HTTP 429"),
            ((200, {}, b"{"), "not valid JSON"),
            ((200, {}, b'{"status":"maybe"}'), "unknown status"),
            ((200, {}, b" " * (65 * 1024)), "larger than"),
            (grant(lease=-10), "in the past"),
            (grant(sas_url="http://blob.example/x"), '"sas_url"'),
            ((200, {"Content-Length": "500"}, b'{"status":'), "127.0.0.1")):
        w.plane.answer = answer
        w.ask_now()
        w.wait_reason(reason)
        assert w.lease()["state"] == "pending" and w.flags() == (False, False) and w.daemon.notified("READY") is None
    w.plane.answer = grant()
    w.ask_now()
    w.ready()
    assert KEY not in w.log()


def test_unreachable_serves_through_the_grace_then_suspends(world):
    w = world(grant(lease=2), env={"TB_LEASE_GRACE": "4s"}).ready()
    deadline = w.lease()["deadline_boottime_us"] / 1e6
    w.plane.down()
    w.wait_state("unreachable", 6)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) < deadline
    assert w.key() == bytes.fromhex(KEY) and w.flags() == (False, False)
    assert "cannot be reached" in w.daemon.notified("STATUS")
    w.wait_state("expired", 10)
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline
    assert w.flags() == (True, True) and w.key() == b""
    assert "expired" in w.lease()["reason"]
    w.plane.answer = grant()
    w.plane.up()
    w.ask_now()
    w.wait_state("authorized")
    assert w.key() == bytes.fromhex(KEY)


def test_a_suspension_survives_sigkill_and_a_dead_control_plane(world):
    w = world(denied("contract_invalid")).ready()
    w.wait_state("denied")
    w.daemon.kill()
    w.plane.down()
    (w.run / "suspended").unlink()  # the runtime directory is gone after a reboot
    (w.run / "lease.json").unlink()
    w.start()
    wait_for(lambda: "contract_invalid" in (w.daemon.notified("STATUS") or ""), 20, "the restored suspension")
    assert w.flags() == (True, True)
    assert read_json(w.run / "suspended")["reason"] == "contract_invalid"
    assert w.key() == b""
    wait_for(lambda: "try" in w.log() or "asking again" in w.log(), 20, "a try")
    assert w.flags() == (True, True) and w.lease()["state"] == "pending"
    w.plane.answer = grant()
    w.plane.up()
    w.ask_now()
    w.ready().wait_state("authorized")
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    assert w.key() == bytes.fromhex(KEY)


def test_the_right_to_serve_survives_sigkill(world):
    w = world(grant()).ready()
    deadline = w.lease()["deadline_boottime_us"]
    w.daemon.kill()
    w.plane.down()
    w.start().ready()  # no answer needed: the lease is known to run on
    lease = w.wait_state("unreachable")
    assert lease["deadline_boottime_us"] == deadline and w.flags() == (False, False)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(w.key)  # the key is gone with the process
        w.wait_reason("connect")
        assert not waiting.done()
        w.plane.up()
        assert waiting.result(20) == bytes.fromhex(KEY)


def test_sas_urls_are_renewed_when_handed_out_before(world):
    w = world(lambda n: grant(n=n)).ready()
    assert b"?n=1&" in w.fetch(HYDRATE, "sas-url") and b"?n=1&" in w.fetch(HYDRATE, "sas-url")
    assert len(w.plane.requests) == 1
    time.sleep(5.2)  # the age that makes a URL stale
    assert b"?n=2&" in w.fetch(HYDRATE, "sas-url")
    assert b"?n=2&" in w.fetch(HYDRATE, "manifest-url")
    assert w.key() == bytes.fromhex(KEY) and len(w.plane.requests) == 2
    time.sleep(5.2)
    w.plane.answer = 503, {}, b""
    assert b"?n=2&" in w.fetch(HYDRATE, "sas-url")  # better than none
    assert len(w.plane.requests) == 3 and w.lease()["state"] == "authorized"
    w.plane.answer = denied("contract_inactive")
    assert w.fetch(HYDRATE, "sas-url") == b""  # the renewal found the contract gone
    assert w.flags() == (True, True)


def test_a_sas_that_ends_soon_is_renewed(world):
    w = world(lambda n: grant(n=n, sas_seconds=62)).ready()
    gone = world(lambda n: grant(sas_seconds=62) if n == 1 else denied("contract_inactive")).ready()
    time.sleep(5.2)  # now they have less than a minute left
    assert b"?n=2&" in w.fetch(HYDRATE, "sas-url")
    assert gone.fetch(HYDRATE, "sas-url") == b"" and gone.flags() == (True, True)  # the renewal found the contract gone


def test_a_slow_control_plane_delays_no_release_and_no_stop(world):
    w = world(lambda n: grant(lease=1) if n == 1 else slow_loris).ready()
    wait_for(lambda: len(w.plane.requests) >= 2, 10, "the renewal")
    began = time.monotonic()
    for _ in range(20):
        assert w.key() == bytes.fromhex(KEY)
    assert time.monotonic() - began < 5
    began = time.monotonic()
    assert w.daemon.stop() == 0
    assert time.monotonic() - began < 5
    assert w.lease()["state"] in ("authorized", "unreachable")


def expired_certificate(ca, directory):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    import ipaddress
    issuer = x509.load_pem_x509_certificate(pathlib.Path(ca.cert).read_bytes())
    issuer_key = serialization.load_pem_private_key(pathlib.Path(ca.key).read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(issuer.subject).issuer_name(issuer.subject)
            .public_key(key.public_key()).serial_number(7)
            .not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(now - datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(issuer_key, hashes.SHA256()))
    cert_path, key_path = directory / "old.crt", directory / "old.key"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return str(cert_path), str(key_path)


@pytest.mark.parametrize("fault", ["other CA", "expired", "other name"])
def test_a_control_plane_that_cannot_prove_itself_is_not_asked(world, ca, tmp_path, fault):
    server = {"other CA": lambda: CA(tmp_path / "ca2", "Other CA").issue("server"),
              "expired": lambda: expired_certificate(ca, tmp_path),
              "other name": lambda: ca.issue("elsewhere", "DNS:elsewhere.example")}[fault]()
    w = world(grant(), server=server)
    wait_for(lambda: "certificate" in w.lease().get("reason", "").lower() or "subject name" in w.lease().get("reason", ""),
             20, f"a reason, have {w.lease()}")
    assert w.plane.requests == [] and w.lease()["state"] == "pending"
    assert w.daemon.running() and w.flags() == (False, False)


def test_client_certificate_from_settings_and_from_credentials(world, ca):
    cert, key = ca.issue("machine")
    w = world(grant(), client_ca=ca.cert)
    wait_for(lambda: w.lease().get("reason"), 20, "a refusal without a certificate")
    assert w.plane.requests == []
    w.daemon.stop()
    w.daemon.env.update({"TB_CLIENT_CERT_PATH": cert, "TB_CLIENT_KEY_PATH": key})
    w.start().ready()
    assert w.key() == bytes.fromhex(KEY)
    w.daemon.stop()
    del w.daemon.env["TB_CLIENT_CERT_PATH"], w.daemon.env["TB_CLIENT_KEY_PATH"]
    w.daemon.credentials.update({"client-cert": pathlib.Path(cert).read_bytes(), "client-key": pathlib.Path(key).read_bytes()})
    (w.run / "lease.json").unlink()
    w.start().ready()
    assert w.key() == bytes.fromhex(KEY)


def test_a_flag_that_cannot_be_written_is_written_later(world):
    w = world(grant()).ready()
    (w.state / "suspended").mkdir()  # in the way of the durable twin
    w.plane.answer = denied("contract_invalid")
    w.ask_now()
    wait_for(lambda: "cannot write the state of the lease" in w.log(), 20, "the complaint")
    assert (w.run / "suspended").is_file() and w.key() == b""
    (w.state / "suspended").rmdir()
    wait_for(lambda: (w.state / "suspended").is_file(), 10, "the twin")


def test_no_secret_leaves_but_by_the_socket(world):
    w = world(lambda n: grant(lease=2, n=n)).ready()
    assert w.key() == bytes.fromhex(KEY) and b"SECRETSIGNATURE" in w.fetch(HYDRATE, "sas-url")
    assert b"SECRETSIGNATURE" in w.fetch(HYDRATE, "manifest-url")
    wait_for(lambda: len(w.plane.requests) >= 2, 10, "a renewal")
    w.plane.answer = denied()
    w.wait_state("denied")
    places = [f"/proc/{w.daemon.pid}/environ", f"/proc/{w.daemon.pid}/cmdline", w.dir / "log"]
    places += [p for d in (w.run, w.state, w.dir / "r", w.dir / "s") for p in d.rglob("*") if p.is_file()]
    for place in places:
        data = pathlib.Path(place).read_bytes()
        for secret in (KEY.encode(), bytes.fromhex(KEY), b"SECRETSIGNATURE", b"sig="):
            assert secret not in data, (place, secret)
    assert not memory_holds(w.daemon.pid, bytes.fromhex(KEY))  # wiped once it is denied
    if b"__asan_init" not in pathlib.Path(program("tb-authorize")).read_bytes():  # which keeps freed memory as it was
        assert not memory_holds(w.daemon.pid, KEY.encode()) and not memory_holds(w.daemon.pid, b"SECRETSIGNATURE")


def memory_holds(pid, secret):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, perms, *_ = line.split()
            begin, end = (int(x, 16) for x in span.split("-"))
            if "rw" not in perms or "[v" in line or end - begin > 1 << 27:  # larger: a sanitizer's shadow
                continue
            try:
                mem.seek(begin)
                if secret in mem.read(end - begin):
                    return True
            except OSError:
                pass
    return False


def test_the_key_is_in_memory_while_it_may_be(world):
    """So that the check above can fail."""
    w = world(grant()).ready()
    assert memory_holds(w.daemon.pid, bytes.fromhex(KEY)) and memory_holds(w.daemon.pid, b"SECRETSIGNATURE")


def dumps_core(argv, **popen):
    import subprocess
    p = subprocess.Popen(argv, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)), **popen)
    time.sleep(0.3)
    os.kill(p.pid, signal.SIGABRT)
    _, status = os.waitpid(p.pid, 0)
    p.returncode = status
    return os.WCOREDUMP(status)


def test_memory_cannot_be_read_or_dumped(world, tmp_path):
    def drop():
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)

    w = world(grant(), start=False, preexec=drop)
    for d in (w.run, w.state, w.dir / "r", w.dir / "s"):
        d.mkdir(exist_ok=True)
        os.chown(d, 65534, 65534)
    for d in [w.dir, *w.dir.parents]:
        if "pytest" in str(d):
            d.chmod(0o755)
    w.daemon.credentials = None  # they would have to be readable to that user
    (w.dir / "ca.crt").write_bytes(pathlib.Path(w.daemon.env["TB_CA_FILE"]).read_bytes())
    w.daemon.env["TB_CA_FILE"] = str(w.dir / "ca.crt")
    w.start().ready()
    pid = w.daemon.pid
    # A process that is not dumpable belongs to root in /proc: its own user may not look into it.
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0
    assert as_nobody(lambda: open(f"/proc/{pid}/mem", "rb").read(1)) == b"error:PermissionError"
    assert "Max core file size        1 " in pathlib.Path(f"/proc/{pid}/limits").read_text()
    os.kill(pid, signal.SIGABRT)
    _, status = os.waitpid(pid, 0)
    w.daemon.proc.returncode = -6
    assert os.WIFSIGNALED(status) and not os.WCOREDUMP(status)
    if not dumps_core(["sleep", "60"], cwd=tmp_path):
        pytest.skip("this kernel dumps no core of anything, the check above proves little here")


def test_watchdog_is_fed(world):
    w = world(grant(), start=False)
    w.daemon.env["WATCHDOG_USEC"] = "1000000"
    w.start().ready()
    wait_for(lambda: len(w.daemon.notify_values("WATCHDOG")) >= 3, 10, "three pings")


def test_configuration_errors_come_together(world):
    w = world(grant(), start=False)
    w.daemon.env.update({"TB_CONTRACT_ID": "a b", "TB_EDC_ENDPOINT": "http://127.0.0.1:1"})
    w.start()
    assert w.daemon.wait(10) == 78
    assert "TB_CONTRACT_ID" in w.log() and "TB_EDC_ENDPOINT" in w.log() and "TB_INSECURE_HTTP" in w.log()


def test_first_retries_come_after_2_and_4_seconds(beside):
    w = beside["two failures"].ready()
    t = [r[0] for r in w.plane.requests]
    assert 1.7 < t[1] - t[0] < 4 and 3.5 < t[2] - t[1] < 7


def test_retry_after_is_honoured(beside):
    w = beside["retry-after"].ready()
    t = [r[0] for r in w.plane.requests]
    assert len(t) == 2 and t[1] - t[0] >= 3.9


def test_a_denied_machine_asks_again_by_itself_and_resumes(beside):
    w = beside["denied, then allowed"]
    w.wait_state("authorized", 15)  # no signal, no restart
    wait_for(lambda: w.flags() == (False, False), 5, "the flags to go")
    t = [r[0] for r in w.plane.requests]
    assert t[1] - t[0] > 8 and w.key() == bytes.fromhex(KEY)
    assert "Suspended: subscription_inactive" in w.log()


def test_an_exchange_that_never_ends_is_ended(beside):
    w = beside["loris"]
    wait_for(lambda: w.lease().get("reason"), 45, "the time limit of 30 s")
    assert w.lease()["state"] == "pending" and w.daemon.running() and "READY" not in w.daemon._notified
    assert len(w.daemon.notify_values("EXTEND_TIMEOUT_USEC")) >= 3
