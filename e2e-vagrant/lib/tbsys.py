# SPDX-License-Identifier: Apache-2.0
"""What systemd does for a TrustBridge program, under a plain shell: inherited listeners (LISTEN_FDS), credentials fetched
from the release socket ($CREDENTIALS_DIRECTORY), $NOTIFY_SOCKET, runtime and state directories, restarts and the
suspension switch. Stands in for PID 1 where there is none; the demo and the tests drive the real programs with it.
Standard library only."""

import atexit
import base64
import contextlib
import ctypes
import fcntl
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

from patience import PATIENCE

repo = pathlib.Path(__file__).resolve().parents[2]


def build_dir():
    return pathlib.Path(os.environ.get("TB_BUILD") or repo / "build").resolve()


def program(name):
    return str(build_dir() / name)


def program_in(directory, name):
    """A copy, for a user who may not go to where the build lies, as below /root."""
    return shutil.copy(program(name), directory)


_claims, _claiming = [], threading.Lock()


def _claim_ports():
    """Ports that no other process is given: they are claimed in blocks, and a process has those whose name it holds in the abstract
    namespace, until it ends. Below the range of which the kernel gives connections their local ports: one of those, or a listener on
    port 0, could have it by then."""
    low, block = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]), 32
    firsts = range(low // 2, low - block + 1, block)
    for first in random.sample(firsts, len(firsts)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0trustbridge-test-ports-{first}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        yield from range(first, first + block)


_ports = _claim_ports()


def free_port():
    """For a program that binds it itself, later."""
    with _claiming:
        for port in _ports:
            with socket.socket() as s:
                try:
                    s.bind(("127.0.0.1", port))
                except OSError:
                    continue
            return port
    raise AssertionError("no port is free below the kernel's own range")


def wait_for(fn, timeout=20, what="condition", every=0.05):
    """Polls fn until it returns something truthy and returns that; AssertionError naming `what` after timeout seconds."""
    timeout *= PATIENCE
    end = time.monotonic() + timeout
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"timed out after {timeout} s waiting for {what}")
        time.sleep(every)


def unix_listener(path, kind="stream"):
    path = str(path)
    if os.path.exists(path):
        os.unlink(path)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if kind == "seqpacket" else socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        s.bind(path)
    finally:
        os.umask(old)
    s.listen(128)
    return s


def tcp_listener(port=0):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", port))
    s.listen(512)
    return s


def _pour(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def relay(a, b):
    """What comes on one connection goes out on the other, both ways, until both have ended."""
    back = threading.Thread(target=_pour, args=(b, a), daemon=True)
    back.start()
    _pour(a, b)
    back.join()


def fetch_credential(sock_path, unit, name, timeout=30):
    """Connects as systemd does for LoadCredential=: from an abstract address that names the unit and the credential."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        s.bind(f"\0{secrets.token_hex(8)}/unit/{unit}/{name}")
        s.connect(str(sock_path))
        data = b""
        while chunk := s.recv(65536):
            data += chunk
        return data


def _die_with_parent():
    """Of the thread, not the process: a Daemon is stopped by the thread that started it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# The same for a program that runs no Python first: a child that does is a copy of this process, and where page tables are the hypervisor's the
# copy, and each page that is written to after it, cost more than what most tests do: 280 ms of processor time, and 13 without.
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


class Daemon:
    """One program run as its unit would run it. The environment is PATH plus `env`. `listen` maps names to listening
    sockets; `credentials` maps names to bytes, or is a callable that returns such a map at each start; `preexec` is called in the
    child and is slow, see DIES_WITH_PARENT."""

    def __init__(self, argv, env=None, listen=None, credentials=None, runtime_dir=None, state_dir=None, log=None,
                 notify=True, cwd=None, preexec=None, inside=None):
        self.argv = [str(a) for a in argv]
        self.name = os.path.basename(self.argv[0])
        self.env, self.listen, self.credentials = dict(env or {}), listen or {}, credentials
        self.runtime_dir, self.state_dir, self.cwd, self.preexec, self.inside = runtime_dir, state_dir, cwd, preexec, inside
        self.log = pathlib.Path(log) if log else None
        self.use_notify = notify
        self.proc = None
        self._notified, self._notify_log, self._sock, self._cred_dir = {}, [], None, None
        self.stored = {}  # what it has had systemd keep

    def _environ(self):
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        for k in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"):
            if k in os.environ:
                env[k] = os.environ[k]
        env.update({k: str(v) for k, v in self.env.items()})
        for key, value in (("RUNTIME_DIRECTORY", self.runtime_dir), ("STATE_DIRECTORY", self.state_dir)):
            if value:
                os.makedirs(value, exist_ok=True)
                env[key] = str(value)
        return env

    def _make_credentials(self, env):
        creds = self.credentials() if callable(self.credentials) else self.credentials
        if creds is None:
            return
        # tmpfs, as systemd has it: a secret never reaches a disk.
        self._cred_dir = f"/dev/shm/tb-cred-{os.getpid()}-{secrets.token_hex(4)}"
        os.mkdir(self._cred_dir, 0o700)
        # Also when nobody waits for the program in the end.
        atexit.register(shutil.rmtree, self._cred_dir, ignore_errors=True)
        for name, value in creds.items():
            fd = os.open(f"{self._cred_dir}/{name}", os.O_WRONLY | os.O_CREAT, 0o400)
            os.write(fd, value)
            os.close(fd)
        env["CREDENTIALS_DIRECTORY"] = self._cred_dir

    def _open_notify(self, env):
        # A path, not an abstract name: those belong to one network namespace, and the runtime has its own.
        self._notify_path = f"/tmp/tb-notify-{os.getpid()}-{secrets.token_hex(6)}"
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self._notify_path)
        os.chmod(self._notify_path, 0o777)
        env["NOTIFY_SOCKET"] = self._notify_path
        self._reader = threading.Thread(target=self._read_notify, args=(self._sock,), daemon=True)
        self._reader.start()

    def _read_notify(self, sock):
        while (got := socket.recv_fds(sock, 8192, 8))[0]:
            data, fds = got[:2]
            self._keep(dict(line.partition("=")[::2] for line in data.decode(errors="replace").splitlines()), fds)
            for line in data.decode(errors="replace").splitlines():
                key, _, value = line.partition("=")
                self._notified[key] = value
                self._notify_log.append((time.monotonic(), key, value))

    def _keep(self, said, fds):
        """FDSTORE=1 and FDSTOREREMOVE=1, over restarts of this program."""
        if "FDSTOREREMOVE" in said:
            self.stored.pop(said["FDNAME"], None)
        for fd in fds:
            if "FDSTORE" in said:
                self.stored[said["FDNAME"]] = os.fdopen(fd, "rb")
            else:
                os.close(fd)

    def start(self):
        assert self.proc is None or self.proc.poll() is not None, f"{self.name} is running"
        self._cleanup()
        self._notified, self._notify_log = {}, []
        env = self._environ()
        self._make_credentials(env)
        if self.use_notify:
            self._open_notify(env)
        inherited = {**self.listen, **self.stored}
        argv, fds = [*DIES_WITH_PARENT, *self.argv], [fcntl.fcntl(s, fcntl.F_DUPFD_CLOEXEC, 200) for s in inherited.values()]
        if fds:
            env["LISTEN_FDS"] = str(len(fds))
            env["LISTEN_FDNAMES"] = ":".join(inherited)
            # LISTEN_PID must be the pid of the program: the shell that sets it becomes the program. Bash, as others know no descriptor above 9.
            moved = " ".join(f"{i}<&{fd} {fd}<&-" for i, fd in enumerate(fds, 3))
            argv = ["bash", "-c", f'LISTEN_PID=$$ exec "$@" {moved}', "bash", *argv]
        if self.inside:
            argv = [*self.inside.enters(), *argv]
        out = open(self.log, "ab") if self.log else subprocess.DEVNULL
        self.proc = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.cwd, pass_fds=fds,
                                     preexec_fn=self.preexec, start_new_session=True)
        for f in fds:
            os.close(f)
        if self.log:
            out.close()
        return self

    @property
    def pid(self):
        return self.proc.pid if self.proc else None

    @property
    def rc(self):
        return self.proc.poll() if self.proc else None

    def running(self):
        return self.proc is not None and self.proc.poll() is None

    def wait(self, timeout=30):
        try:
            rc = self.proc.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout} s:\n{self.log_text()[-3000:]}") from None
        self._cleanup()
        return rc

    def kill(self, sig=signal.SIGKILL):
        if self.running():
            os.kill(self.proc.pid, sig)
            if sig == signal.SIGKILL:
                self.wait()

    def stop(self, timeout=15):
        """SIGTERM, then SIGKILL after timeout; returns the exit code."""
        if self.proc is None:
            return None
        if self.running():
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(timeout)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        self._cleanup()
        return self.proc.returncode

    def _cleanup(self):
        if self._sock:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                s.sendto(b"", self._notify_path)  # queued after what the program sent, and the reader's end
            self._reader.join()
            self._sock.close()
            self._sock = None
            os.unlink(self._notify_path)
        if self._cred_dir:
            shutil.rmtree(self._cred_dir, ignore_errors=True)
            self._cred_dir = None

    def log_text(self):
        return self.log.read_text(errors="replace") if self.log and self.log.exists() else ""

    def notified(self, key):
        return self._notified.get(key)

    def notify_values(self, key):
        return [v for _, k, v in self._notify_log if k == key]

    def wait_notify(self, key, value=None, timeout=30):
        def seen():
            values = self.notify_values(key)
            if values and (value is None or value in values):
                return True
            if not self.running():
                raise AssertionError(f"{self.name} exited {self.rc} before {key}:\n{self.log_text()[-3000:]}")
            return False
        wait_for(seen, timeout, f"{self.name} to notify {key}={value or ''}")
        return self


class NetNamespace:
    """A network namespace with only loopback, kept by a descriptor: what PrivateNetwork=yes gives a unit. It is for Daemon(inside=...);
    run() makes a call inside it from a thread of its own."""

    CLONE_NEWNET = 0x40000000

    def __init__(self):
        self.fd = None
        self._in_thread(self._make)

    @staticmethod
    def _in_thread(fn):
        box = {}

        def call():
            try:
                box["value"] = fn()
            except BaseException as e:  # handed to the caller
                box["error"] = e
        t = threading.Thread(target=call)
        t.start()
        t.join()
        if "error" in box:
            raise box["error"]
        return box["value"]

    def _make(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(self.CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        with socket.socket() as s:
            fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
        self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self.fd, self.CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def enters(self):
        """What is put before a command that is to run inside."""
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.fd}"]

    def run(self, fn):
        def call():
            self.enter()
            return fn()
        return self._in_thread(call)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class BootClock:
    """A time namespace, for Daemon(inside=...): there, the machine was started `ahead` seconds earlier. What is written for programs inside
    as of long ago is in their past on a machine, too, that was started a minute before the test."""

    def __init__(self, ahead):
        self.ahead = ahead
        self.holder = subprocess.Popen([*DIES_WITH_PARENT, "unshare", "--time", "--boottime", str(ahead), "sleep", "infinity"])
        comm = pathlib.Path(f"/proc/{self.holder.pid}/comm")
        wait_for(lambda: comm.read_text() == "sleep\n", what="a time namespace")

    def now_us(self):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000 + self.ahead * 10**6

    def enters(self):
        return ["nsenter", f"--time=/proc/{self.holder.pid}/ns/time_for_children"]

    def close(self):
        self.holder.kill()
        self.holder.wait()


class CA:
    """A certificate authority made with the openssl command line."""

    def __init__(self, directory, name="TrustBridge test CA"):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.cert, self.key = str(self.dir / "ca.crt"), str(self.dir / "ca.key")
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.key,
                      "-out", self.cert, "-subj", f"/CN={name}", "-days", "90")

    def _openssl(self, *args):
        subprocess.run(["openssl", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def issue(self, name, sans="DNS:localhost,IP:127.0.0.1,IP:10.0.2.2", days="60"):
        """Returns (certificate path, key path), both PEM. 10.0.2.2 is this machine as a QEMU guest sees it."""
        cert, key, csr, ext = (str(self.dir / f"{name}.{e}") for e in ("crt", "key", "csr", "ext"))
        pathlib.Path(ext).write_text(f"subjectAltName={sans}\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", csr,
                      "-subj", f"/CN={name}")
        self._openssl("x509", "-req", "-in", csr, "-CA", self.cert, "-CAkey", self.key, "-CAcreateserial", "-out", cert,
                      "-days", days, "-extfile", ext)
        return cert, key


def azurite_command():
    """The azurite-blob command that `make deps` installed."""
    for c in (os.environ.get("TB_AZURITE"), repo / "build/npm/node_modules/.bin/azurite-blob", shutil.which("azurite-blob")):
        if c and os.path.exists(c):
            return str(c)
    raise RuntimeError("azurite-blob is not installed; run `make deps`")


class Azurite:
    """A real Azurite blob service on loopback. .endpoint has no trailing slash: http(s)://127.0.0.1:PORT/ACCOUNT"""

    def __init__(self, directory, tls=None, port=None, account="tbaccount", oauth=False, others=()):
        self.dir, self.tls, self.port, self.account = pathlib.Path(directory), tls, port or free_port(), account
        self.oauth, self.others = oauth, others  # tokens of Entra ID, with TLS alone; further accounts, with the same key
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        self.proc = None

    @property
    def endpoint(self):
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/{self.account}"

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        argv = [*DIES_WITH_PARENT, azurite_command(), "--silent", "--disableTelemetry", "--location", str(self.dir), "--blobHost", "127.0.0.1",
                "--blobPort", str(self.port)]
        if self.tls:
            argv += ["--cert", self.tls[0], "--key", self.tls[1]]
        if self.oauth:
            argv += ["--oauth", "basic"]
        env = dict(os.environ, AZURITE_ACCOUNTS=";".join(f"{name}:{self.key}" for name in (self.account, *self.others)))
        self.log = open(self.dir / "azurite.log", "ab")
        self.proc = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                     start_new_session=True)
        wait_for(self._listening, 60, "Azurite")
        return self

    @contextlib.contextmanager
    def of(self, account):
        """Requests are of this account."""
        before, self.account = self.account, account
        try:
            yield
        finally:
            self.account = before

    def _listening(self):
        assert self.proc.poll() is None, f"Azurite exited: {(self.dir / 'azurite.log').read_text()}"
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        if self.proc and self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        if self.proc:
            self.log.close()

    def request(self, method, path, body=b"", headers=None, query=None):
        """A Shared Key request; returns (status, headers, body). path begins with the container."""
        import email.utils
        import hashlib
        import hmac
        import http.client
        import ssl
        h = {k.lower(): v for k, v in (headers or {}).items()}
        h.update({"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2024-11-04"})
        length = str(len(body)) if body else ""
        canonical = "".join(f"{k}:{h[k]}\n" for k in sorted(h) if k.startswith("x-ms-"))
        resource = f"/{self.account}/{self.account}/{path}"
        for k in sorted(query or {}):
            resource += f"\n{k}:{query[k]}"
        to_sign = "\n".join([method, "", "", length, h.get("content-md5", ""), h.get("content-type", ""), "", "", "", "", "",
                             h.get("range", "")]) + "\n" + canonical + resource
        mac = hmac.new(base64.b64decode(self.key), to_sign.encode(), hashlib.sha256).digest()
        h["authorization"] = f"SharedKey {self.account}:{base64.b64encode(mac).decode()}"
        h["content-length"] = str(len(body))
        if self.tls:
            conn = http.client.HTTPSConnection("127.0.0.1", self.port, context=ssl._create_unverified_context(), timeout=60)
        else:
            conn = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        url = f"/{self.account}/{path}" + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else "")
        conn.request(method, url, body=body or None, headers=h)
        r = conn.getresponse()
        data = r.read()
        conn.close()
        return r.status, dict(r.getheaders()), data

    def create_container(self, name):
        status, _, body = self.request("PUT", name, query={"restype": "container"})
        assert status in (201, 409), (status, body)

    def put_blob(self, path, body):
        status, _, text = self.request("PUT", path, body, {"x-ms-blob-type": "BlockBlob", "content-type": "application/octet-stream"})
        assert status == 201, (status, text)

    def get_blob(self, path):
        status, _, body = self.request("GET", path)
        return body if status == 200 else None


def takes_no_core(pid):
    """By its limit, which is 1: one of 0 does not count where cores go to a program."""
    return "Max core file size        1 " in pathlib.Path(f"/proc/{pid}/limits").read_text()


def read_records(path):
    """The JSON lines of a file that may be in the middle of being written: a line without its end is not one yet."""
    text = pathlib.Path(path).read_text()
    return [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]


def read_json(path):
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return {}
