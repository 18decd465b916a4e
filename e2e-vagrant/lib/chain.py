# SPDX-License-Identifier: Apache-2.0
"""The consumer's chain and the provider's side around it, as processes on one machine. Chain plays the units: it starts,
restarts, suspends and resumes the programs by the same rules (design section 3), with the runtime and the proxy in a
network namespace of their own."""

import http.client
import json
import os
import pathlib
import queue
import select
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request

import tbsys
from tbsys import Daemon, NetNamespace, fetch_credential, free_port, program, read_json, read_records, tcp_listener, unix_listener, wait_for

# Exit codes after which a unit is not restarted: data, permission and configuration do not heal by themselves.
NO_RESTART = {76, 77, 78}


class ControlPlane:
    """The development control plane. `storage` is an Azurite (or anything with .account and .key), or None: no SAS."""

    def __init__(self, directory, ca, storage=None, port=None, sas_seconds=3600):
        self.dir, self.ca, self.storage, self.port = pathlib.Path(directory), ca, storage, port or free_port()
        self.sas_seconds = sas_seconds
        self.options = []  # further ones of `tb-controlplane serve`
        self.env = {}
        self.daemon = None

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}"

    @property
    def token_file(self):
        return str(self.dir / "provider.token")

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        cert, key = self.ca.issue("controlplane")
        argv = [program("tb-controlplane"), "serve", "--data", self.dir, "--listen", f"127.0.0.1:{self.port}", "--tls-cert", cert,
                "--tls-key", key, *self.options]
        if self.storage:
            key_file = self.dir / "storage.key"
            key_file.touch(0o600)
            key_file.write_text(self.storage.key)
            argv += ["--storage-account", self.storage.account, "--storage-key-file", key_file, "--sas-seconds", self.sas_seconds,
                     "--storage-ca", self.ca.cert]
        self.daemon = Daemon(argv, self.env, log=self.dir / "controlplane.log").start().wait_notify("READY", "1")
        return self

    def ctl(self, *args):
        """One admin command, as an operator would type it; returns its output."""
        argv = [program("tb-controlplane"), *map(str, args), "--data", str(self.dir)]
        r = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, f"{' '.join(argv)}: {r.stderr}"
        return r.stdout

    def stop(self):
        if self.daemon:
            self.daemon.stop()


class Unit:
    """What the supervisor knows of one program."""

    def __init__(self, daemon, wanted=True, oneshot=False):
        self.daemon, self.wanted, self.oneshot = daemon, wanted, oneshot
        self.restarts, self.not_before, self.started, self.handled = 0, 0.0, False, True

    def start(self):
        self.started, self.handled = True, False
        self.daemon.start()


SYSTEMCTL = """#!/usr/bin/python3 -S
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect({path!r})
s.sendall(" ".join(sys.argv[1:]).encode())
s.shutdown(socket.SHUT_WR)
sys.exit(int(s.recv(16)))
"""


class Systemctl:
    """systemctl(1) for the programs of a Chain: what they ask of systemd, as (words, connection), for the supervisor to answer."""

    def __init__(self, directory):
        self.asked, path = queue.Queue(), str(directory / "systemctl.sock")
        self.listener = unix_listener(path)
        self.listener.listen(8)
        self.bin = directory / "bin"
        self.bin.mkdir(exist_ok=True)
        program = self.bin / "systemctl"
        program.write_text(SYSTEMCTL.format(path=path))
        program.chmod(0o755)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            text = b""
            while more := connection.recv(4096):
                text += more
            self.asked.put(([w for w in text.decode().split() if not w.startswith("--")], connection))

    @staticmethod
    def answer(connection, status):
        try:
            connection.sendall(str(status).encode())
        except OSError:  # who asked was killed
            pass
        connection.close()


def started(unit):
    """False: tb-authorize was killed before it had given all credentials, and systemd starts no unit without them."""
    try:
        unit.start()
    except (ConnectionError, TimeoutError):  # who waits for tb-authorize is who starts it again
        return False
    return True


class Chain:
    """tb-authorize, tb-hydrate, tb-decrypt, tb-load with the runtime, tb-proxy and tb-billing over one directory.

    env: TB_* settings that are added to (and win over) the ones made from directory and ports. runtime_exec: TB_RUNTIME_EXEC.
    updates: with tb-update and what it starts; bus: a FakeSystemd that tells it how the runtime is."""

    def __init__(self, directory, ca, edc, contract="contract-allow", asset="tb-asset-e2e-001", env=None, runtime_exec=None,
                 public_port=0, health_port=0, runtime_port=8081, product_uuid=b"4c4c4544-0000-1111-2222-333344445555\n",
                 billing=True, enrolment_code=None, updates=False, bus=None):
        d = self.dir = pathlib.Path(directory)
        self.run, self.state, self.target, self.log_dir = d / "run", d / "state", d / "target", d / "log"
        for p in (self.run, self.state, self.target, self.log_dir):
            p.mkdir(parents=True, exist_ok=True)
        self.shm = pathlib.Path(f"/dev/shm/tb-chain-{os.getpid()}-{time.monotonic_ns()}")
        self.shm.mkdir(0o700)
        self.http, self.health = tcp_listener(public_port), tcp_listener(health_port)
        self.public_port, self.health_port = self.http.getsockname()[1], self.health.getsockname()[1]
        self.runtime_port = runtime_port
        self.env = {
            "TB_CONTRACT_ID": contract, "TB_ASSET_ID": asset, "TB_EDC_ENDPOINT": edc, "TB_CA_FILE": ca.cert,
            "TB_TARGET_DIR": self.target, "TB_RUN_DIR": self.run, "TB_STATE_DIR": self.state,
            "TB_RUNTIME_URL": f"http://127.0.0.1:{runtime_port}", "TB_PIPE_PATH": self.shm / "model-pipe",
            "TB_READY_SIGNAL": self.shm / "weights/ready.signal", "TB_MODEL_DIR": self.shm / "model",
            "TB_PUBLIC_ADDR": f"127.0.0.1:{self.public_port}", "TB_HEALTH_ADDR": f"127.0.0.1:{self.health_port}",
            "TB_AUDIT_FILE": d / "audit.jsonl",
        }
        if runtime_exec:
            self.env["TB_RUNTIME_EXEC"] = runtime_exec
        self.env.update(env or {})
        self.audit_file = pathlib.Path(self.env["TB_AUDIT_FILE"])
        self.product_uuid, self.enrolment_code = product_uuid, enrolment_code
        self.netns = NetNamespace()
        self.keys = unix_listener(self.run / "tb-keys.sock")
        self.decrypt = unix_listener(self.run / "tb-decrypt.sock", "seqpacket")
        self.units = {
            "tb-proxy": self._unit("tb-proxy", listen={"http": self.http, "health": self.health}, private=True),
            "tb-authorize": self._unit("tb-authorize", listen={"keys": self.keys}, creds=self._own_credentials),
            "tb-hydrate": self._unit("tb-hydrate", wanted=False, oneshot=True,
                                     creds=self._fetch("tb-hydrate", "asset-version", "base-urls", "manifest-sha256", "manifest-url", "sas-url")),
            "tb-decrypt": self._unit("tb-decrypt", wanted=False, listen={"decrypt": self.decrypt},
                                     creds=self._fetch("tb-decrypt", "model-key", "manifest-sha256")),
            "tb-runtime": self._unit("tb-runtime", wanted=False, binary="tb-load", private=True),
        }
        if billing:
            self.units["tb-billing"] = self._unit("tb-billing")
        self.systemctl, self.bus, self.runtime_stopped, self.waits_for_next = None, bus, False, []
        if updates:
            self._add_updates()
        self._stopping = threading.Event()
        self._thread = None
        self.error = None

    def _unit(self, name, wanted=True, oneshot=False, binary=None, listen=None, creds=None, private=False):
        d = Daemon([program(binary or name)], env=self.env, listen=listen, credentials=creds, runtime_dir=self.run / name,
                   state_dir=self.state / name, log=self.log_dir / f"{name}.log",
                   inside=self.netns if private else None)
        return Unit(d, wanted, oneshot)

    def _own_credentials(self):
        return {"product-uuid": self.product_uuid, **({"enrolment-code": self.enrolment_code.encode() + b"\n"} if self.enrolment_code else {})}

    def _add_updates(self):
        self.systemctl = Systemctl(self.dir)
        update = {**self.env, "PATH": f"{self.systemctl.bin}:{os.environ['PATH']}"}
        if self.bus:
            update["DBUS_SYSTEM_BUS_ADDRESS"] = self.bus.address
        self.units["tb-update"] = Unit(Daemon([program("tb-update"), "run"], env=update, runtime_dir=self.run / "tb-update",
                                              state_dir=self.state / "tb-update", log=self.log_dir / "tb-update.log"))
        self.next = Daemon([program("tb-hydrate"), "next"], env=self.env, runtime_dir=self.run / "tb-next",
                           state_dir=self.state / "tb-next", log=self.log_dir / "tb-next.log",
                           credentials=self._fetch("tb-next", "asset-version", "base-urls", "manifest-sha256", "manifest-url", "sas-url"))
        self.switch = Daemon([program("tb-hydrate"), "switch"], env=self.env, log=self.log_dir / "tb-switch.log")

    def _fetch(self, unit, *names):
        def fetch():
            return {n: fetch_credential(self.run / "tb-keys.sock", f"{unit}.service", n) for n in names}
        return fetch

    # -- the supervisor ---------------------------------------------------------------------------------------------
    def start(self):
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()
        return self

    def _supervise(self):
        try:
            while not self._stopping.wait(0.02):
                self._tick()
        except Exception as e:  # shown by wait_state and stop
            self.error = e
        # Here and not in stop(): the programs die with the thread that started them.
        if self.systemctl:
            self.next.stop()
        for name in ("tb-update", "tb-proxy", "tb-runtime", "tb-decrypt", "tb-hydrate", "tb-billing", "tb-authorize"):
            if name in self.units:
                self.units[name].daemon.stop()

    def _suspended(self):
        return (self.run / "tb-authorize" / "suspended").exists()

    def _tick(self):
        u = self.units
        authorized = u["tb-authorize"].daemon.notified("READY") == "1" and u["tb-authorize"].daemon.running()
        if self._suspended():
            if self.systemctl and self.next.running():
                self.next.stop()
            for name in ("tb-hydrate", "tb-decrypt", "tb-runtime"):
                self._halt(name)
        elif authorized:
            u["tb-hydrate"].wanted = True
            done = u["tb-hydrate"].started and u["tb-hydrate"].daemon.rc == 0
            u["tb-runtime"].wanted = done and not self.runtime_stopped
            self._activate_decrypt()
        if self.systemctl:
            self._serve_systemctl()
        for name, unit in u.items():
            self._reap(name, unit)
            self._begin(name, unit)

    # -- what tb-update asks of systemd -------------------------------------------------------------------------------
    def _tell_bus(self):
        if self.bus:
            unit, hydrate = self.units["tb-runtime"], self.units["tb-hydrate"]
            ended = unit.handled and not unit.daemon.running()
            active = "failed" if unit.started and ended else "inactive" if self.runtime_stopped and ended else "active"
            self.bus.units["tb-runtime.service"] = {"active": active, "restarts": unit.restarts}
            self.bus.units["tb-hydrate.service"] = {"active": "active" if hydrate.started and hydrate.daemon.rc == 0 else "activating"}

    def _serve_systemctl(self):
        self._tell_bus()
        if self.waits_for_next and not self.next.running():
            for connection in self.waits_for_next:
                Systemctl.answer(connection, self.next.wait())
            self.waits_for_next = []
        while not self.systemctl.asked.empty():
            words, connection = self.systemctl.asked.get()
            status = self._systemctl(words, connection)
            if status is not None:
                self._reap("tb-runtime", self.units["tb-runtime"])
                self._tell_bus()  # who was answered and asks how things are is told what is
                Systemctl.answer(connection, status)

    def by_hand(self, *words):
        """systemctl, as an operator says it."""
        subprocess.run([self.systemctl.bin / "systemctl", *words], check=True, timeout=60)

    def by_hand_meanwhile(self, *words):
        """The same, while systemd does something: for the thread that plays it."""
        assert self._systemctl(list(words), None) == 0

    def fail_meanwhile(self, name):
        """The unit ends and is not started again, while systemd is asked for something: for the thread that plays it."""
        unit = self.units[name]
        unit.daemon.stop()
        shutil.rmtree(self.run / name, ignore_errors=True)
        unit.handled = True

    def _systemctl(self, words, connection):
        runtime = self.units["tb-runtime"]
        if words == ["start", "tb-next.service"]:
            if not self.next.running() and not started(self.next):
                return 1
            self.waits_for_next.append(connection)
            return None
        if words == ["stop", "tb-next.service"]:
            self.next.stop()
        elif words == ["start", "tb-switch.service"]:
            return self.switch.start().wait(30)
        elif words == ["stop", "tb-runtime.service"]:
            self.runtime_stopped = True
            self._halt("tb-runtime")
        elif words == ["start", "tb-runtime.service"]:
            self.runtime_stopped, runtime.restarts = False, 0
            if not runtime.daemon.running():
                runtime.started, runtime.not_before = False, 0.0
        elif words == ["try-restart", "tb-runtime.service"]:
            if runtime.daemon.running() or not (self.runtime_stopped or runtime.started):  # it runs, or waits to be started again
                self._halt("tb-runtime")
                runtime.restarts = 0
        elif words != ["reset-failed", "tb-runtime.service"]:
            return 4
        return 0

    def _activate_decrypt(self):
        """Socket activation: a queued connection starts the service; it serves one and exits."""
        d = self.units["tb-decrypt"]
        if not d.daemon.running() and select.select([self.decrypt], [], [], 0)[0]:
            started(d)

    def _reap(self, name, unit):
        if not unit.started or unit.handled or unit.daemon.running():
            return
        unit.handled = True
        unit.daemon.wait()
        if name == "tb-runtime":
            shutil.rmtree(self.run / name, ignore_errors=True)  # RuntimeDirectory= goes with its service
        if name == "tb-decrypt":
            return
        rc = unit.daemon.rc
        if rc in NO_RESTART or (unit.oneshot and rc == 0) or (name == "tb-runtime" and rc == 0):
            return
        unit.restarts += 1
        unit.started, unit.not_before = False, time.monotonic() + 0.5

    def _begin(self, name, unit):
        if unit.wanted and not unit.started and time.monotonic() >= unit.not_before and name != "tb-decrypt" and not started(unit):
            unit.started, unit.handled, unit.not_before = False, True, time.monotonic() + 0.5

    def _halt(self, name):
        unit = self.units[name]
        unit.wanted = False
        if unit.started:
            # Suspension takes the weights out of memory within a second, whatever the runtime is busy with.
            unit.daemon.stop(timeout=0.5)
            shutil.rmtree(self.run / name, ignore_errors=True)
            unit.started, unit.handled, unit.not_before = False, True, 0.0

    def stop(self):
        self._stopping.set()
        if self._thread:
            self._thread.join(120)
        for s in (self.http, self.health, self.keys, self.decrypt, *([self.systemctl.listener] if self.systemctl else [])):
            s.close()
        self.netns.close()
        shutil.rmtree(self.shm, ignore_errors=True)
        if self.error:
            raise self.error

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.stop()

    # -- looking at it from outside -----------------------------------------------------------------------------------
    def url(self, path, health=False):
        return f"http://127.0.0.1:{self.health_port if health else self.public_port}{path}"

    def status(self):
        try:
            return http_json(self.url("/status", health=True), timeout=5)[1]
        except (OSError, ValueError):
            return {}

    def wait_state(self, state, timeout=60):
        def reached():
            if self.error:
                raise self.error
            return self.status().get("state") == state
        try:
            wait_for(reached, timeout, f"state {state}", every=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}; status: {self.status()}\n{self.logs()}") from None
        return self

    def logs(self, lines=25):
        out = []
        for f in sorted(self.log_dir.glob("*.log")):
            out.append(f"--- {f.name}\n" + "\n".join(f.read_text(errors="replace").splitlines()[-lines:]))
        return "\n".join(out)

    def audit(self):
        try:
            return read_records(self.audit_file)
        except OSError:
            return []

    def pid(self, name):
        return self.units[name].daemon.pid

    def reachable_inside(self, port):
        """Does something listen on the loopback of the runtime's namespace?"""
        import socket

        def connect():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0
        return self.netns.run(connect)


def http_json(url, body=None, timeout=30, headers=None, ca=None, method=None):
    """Returns (status, parsed JSON or text). Error statuses are returned, not raised; an answer that ends too soon is a ConnectionError."""
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    h = {"Content-Type": "application/json"} if data is not None else {}
    h.update(headers or {})
    ctx = ssl.create_default_context(cafile=ca) if url.startswith("https") else None
    try:
        try:
            answer = urllib.request.urlopen(urllib.request.Request(url, data, h, method=method), timeout=timeout, context=ctx)
        except urllib.error.HTTPError as e:
            answer = e
        with answer as r:
            status, text = r.status, r.read().decode(errors="replace")
    except http.client.HTTPException as e:
        raise ConnectionError(f"{url}: {e!r}") from e
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def tbpkg(*args, env=None, check=True, stdin=None):
    """Runs tbpkg; returns the CompletedProcess with text output."""
    e = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": os.environ.get("HOME", "/root")}
    for k in ("ASAN_OPTIONS", "UBSAN_OPTIONS"):
        if k in os.environ:
            e[k] = os.environ[k]
    e.update(env or {})
    r = subprocess.run([program("tbpkg"), *map(str, args)], capture_output=True, text=True, env=e, timeout=300, input=stdin)
    if check:
        assert r.returncode == 0, f"tbpkg {' '.join(map(str, args))}: exit {r.returncode}\n{r.stderr}"
    return r


class Desk:
    """Somebody of the provider's, anywhere: a home, and for the control plane its URL, its CA and a token. No file of the server's."""

    def __init__(self, directory, url, ca):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.env = {"HOME": str(self.dir), "TB_EDC_ENDPOINT": url, "TB_CA_FILE": shutil.copy(ca, self.dir)}

    def tbpkg(self, *args, **kw):
        return tbpkg(*args, env=self.env, **kw)


class Provider:
    """The provider's half of a run: Azurite over TLS, the control plane, and tbpkg against both."""

    def __init__(self, directory, blob_port=None, controlplane_port=None, container="models", sas_seconds=3600):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.ca = tbsys.CA(self.dir / "ca")
        self.container, self.name, self.versions = container, "model", 1
        self.azurite = tbsys.Azurite(self.dir / "azurite", tls=self.ca.issue("azurite"), port=blob_port)
        self.controlplane = ControlPlane(self.dir / "controlplane", self.ca, self.azurite, controlplane_port, sas_seconds)

    def start(self):
        self.azurite.start()
        self.azurite.create_container(self.container)
        self.controlplane.start()
        return self

    def stop(self):
        self.controlplane.stop()
        self.azurite.stop()

    def next_version(self):
        """What is encrypted, uploaded and registered from now on: beside the version before, here and in the storage."""
        self.versions += 1
        self.name = f"model-{self.versions}"
        self.container = f"{self.container.rstrip('-0123456789')}-{self.versions}"
        self.azurite.create_container(self.container)

    def _file(self, suffix):
        return self.dir / f"{self.name}.{suffix}"

    # The commands of the provider guide, as argument lists.
    def encrypt_args(self, source, asset, chunk=None):
        args = ["encrypt", "--asset-id", asset, "--in", source, "--out", self._file("tbenc"), "--manifest",
                self._file("manifest.json"), "--key-out", self._file("key")]
        return args + (["--chunk-bytes", chunk] if chunk else [])

    def upload_args(self, asset):
        return ["upload", "--storage-account", self.azurite.account, "--container", self.container, "--asset-id", asset,
                "--encrypted-file", self._file("tbenc"), "--manifest", self._file("manifest.json"), "--endpoint",
                self.azurite.endpoint]

    def register_args(self, asset):
        return ["register", "--edc-endpoint", self.controlplane.url, "--asset-id", asset, "--manifest",
                self._file("manifest.json"), "--key-file", self._file("key"), "--blob-url",
                f"{self.azurite.endpoint}/{self.container}"]

    def env(self):
        return {"TB_CA_FILE": self.ca.cert, "AZURE_STORAGE_KEY": self.azurite.key, "TB_EDC_TOKEN_FILE": self.controlplane.token_file}

    def publish(self, source, asset, chunk=None):
        for args in (self.encrypt_args(source, asset, chunk), self.upload_args(asset), self.register_args(asset)):
            tbpkg(*args, env=self.env())
