# SPDX-License-Identifier: Apache-2.0
"""tb-decrypt and tb-load with their directories and the socket between them, and runtimes that write down what they see:
what the tests of the delivery share."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import secrets
import shutil
import socket
import struct
import sys
import threading

import pytest

import tbsys
from delivery_asset import ASSET, Asset

REQUEST, REPLY = struct.Struct("=8sII32s"), struct.Struct("=8sIIQ480s")
FIFO, DIR = 1, 2
BDI = pathlib.Path("/sys/class/bdi")  # how far the kernel reads each mount ahead

# Runs as the runtime: writes down what it sees, then ends, or stays while ARGV[3] exists.
PROBE = r'''
import hashlib, json, os, pathlib, resource, stat, sys, time
model, out, stay = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
def attempt(fn):
    try:
        fn()
        return "done"
    except OSError as e:
        return e.strerror
files = sorted(p for p in model.rglob("*") if p.is_file()) if model.is_dir() else [model]
facts = {
    "argv": sys.argv, "pid": os.getpid(), "environ": dict(os.environ),
    "files": {str(p.relative_to(model)) if model.is_dir() else p.name:
              [hashlib.sha256(p.read_bytes()).hexdigest(), oct(stat.S_IMODE(p.stat().st_mode))] for p in files},
    "write": attempt(lambda: open(files[0], "r+b")), "create": attempt(lambda: open(files[0].parent / "new", "wb")),
    "fds": sorted(int(f) for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}")),
    "core": resource.getrlimit(resource.RLIMIT_CORE), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
    "status": pathlib.Path("/proc/self/status").read_text(), "mounts": pathlib.Path("/proc/self/mountinfo").read_text(),
}
pathlib.Path(out + ".tmp").write_text(json.dumps(facts))
os.rename(out + ".tmp", out)
while stay.exists():
    time.sleep(0.02)
sys.exit(7)
'''

# Reads the FIFO slowly, so that a stream can be caught in the middle; gives its pid first.
SLOW = r'''
import os, sys, time
f = open(sys.argv[1], "rb", buffering=0)
f.read(4096)
open(sys.argv[2], "w").write(str(os.getpid()))
while True:
    time.sleep(0.05)
    f.read(1)
'''

# Reads the FIFO to its end and writes the hash to a new file each time.
READER = r'''
import hashlib, os, sys
h = hashlib.sha256()
with open(sys.argv[1], "rb", buffering=0) as f:
    while d := f.read(1 << 20):
        h.update(d)
open(sys.argv[2] + ".tmp", "w").write(h.hexdigest())
os.rename(sys.argv[2] + ".tmp", sys.argv[2])
'''

FILES = {"config.json": b'{"a": 1}\n', "empty": b"", "sub/deeper/weights.bin": random.Random(1).randbytes(300_001),
         "sub/tokenizer.json": b"t" * 4096}
NO_MOUNT = ("setpriv", "--bounding-set", "-sys_admin")


class Rig:
    """Directories, the decrypt socket as systemd would hold it, and both programs."""

    def __init__(self, tmp):
        self.tmp, self.target, self.run = tmp, tmp / "target", tmp / "run"
        self.run.mkdir()
        self.shm = pathlib.Path(f"/dev/shm/tb-test-{os.getpid()}-{secrets.token_hex(4)}")
        self.shm.mkdir(mode=0o700)
        self.pipe, self.signal, self.model = self.shm / "pipe", self.shm / "weights/ready.signal", self.shm / "model"
        self.out, self.stay = tmp / "out.json", tmp / "stay"
        self.listener = tbsys.unix_listener(self.run / "tb-decrypt.sock", "seqpacket")
        self.daemons = []

    def env(self, **more):
        return {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": "https://localhost", "TB_TARGET_DIR": self.target,
                "TB_RUN_DIR": self.run, "TB_STATE_DIR": self.tmp / "state", "TB_PIPE_PATH": self.pipe,
                "TB_READY_SIGNAL": self.signal, "TB_MODEL_DIR": self.model, **more}

    def script(self, name, text):
        path = self.tmp / name
        path.write_text(text)
        return path

    def daemon(self, argv, **kw):
        d = tbsys.Daemon(argv, log=self.tmp / f"log-{len(self.daemons)}", **kw)
        self.daemons.append(d)
        return d

    def decrypt(self, asset, key=None, bound="none", **env):
        creds = {"model-key": asset.key if key is None else key, "manifest-sha256": bound.encode()}
        return self.daemon([tbsys.program("tb-decrypt")], env=self.env(**env), listen={"decrypt": self.listener},
                           credentials={k: v for k, v in creds.items() if v is not False})

    def load(self, mode="dir", command=None, wrapper=(), env=None, preexec=None):
        """mode None: what is the default."""
        more = {**({"TB_DELIVERY": mode} if mode else {}), **(env or {})}
        if command:
            more["TB_RUNTIME_EXEC"] = command
        return self.daemon([*wrapper, tbsys.program("tb-load")], env=self.env(**more), preexec=preexec,
                           credentials={"decoy": b"not for the runtime"})

    def probe(self, **kw):
        return self.load(command=f"{sys.executable} '{self.script('probe.py', PROBE)}' {{model}} {self.out} \"{self.stay}\"", **kw)

    def reader(self, text=READER, out=None, **kw):
        script = self.script("reader.py", text)
        return self.load("fifo", f"{sys.executable} {script} {{model}} {out or self.out}", **kw)

    def progress(self):
        return tbsys.read_json(self.run / "tb-decrypt/progress.json")

    def delivery(self):
        return tbsys.read_json(self.run / "tb-runtime/delivery.json")

    def facts(self):
        def seen():
            ended = [d.log_text() for d in self.daemons[-2:] if d.rc]
            return self.out.exists() or ended
        assert tbsys.wait_for(seen, what="the probe's facts") is True, [d.log_text() for d in self.daemons[-2:]]
        return json.loads(self.out.read_text())

    def close(self):
        self.stay.unlink(missing_ok=True)
        for d in self.daemons:
            if d.proc:
                d.kill()
                d._cleanup()
        self.listener.close()
        shutil.rmtree(self.shm)

    def leftovers(self):
        """Everything below the memory directory but the directories themselves."""
        return [str(p) for p in self.shm.rglob("*") if not p.is_dir()]


@contextlib.contextmanager
def udev(rig):
    """udev's part, on a machine where it does not run: what the rule gives a mount that is made while the mark is there."""
    rule = re.search(r'SUBSYSTEM=="bdi", ACTION=="add", KERNEL=="0:\*", TEST=="/run/(.+?)", ATTR\{read_ahead_kb\}="(\d+)"',
                     (pathlib.Path(__file__).resolve().parents[2] / "units/90-trustbridge.rules").read_text())
    before, done = set(os.listdir(BDI)), threading.Event()

    def watch():
        while not done.wait(0.001):
            now = set(os.listdir(BDI))
            before.intersection_update(now)  # a number is given again
            for name in now - before:
                if name.startswith("0:") and (rig.run / rule[1]).exists():
                    with contextlib.suppress(OSError):  # a trial, that went meanwhile
                        (BDI / name / "read_ahead_kb").write_text(rule[2])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.fixture
def rig(tmp_path):
    r = Rig(tmp_path)
    yield r
    r.close()


def expected(files, modes):
    return {p: [hashlib.sha256(d).hexdigest(), modes[p]] for p, d in files.items()}


def both(rig, asset, load, **kw):
    d = rig.decrypt(asset, **kw).start()
    load.start()
    return d


def slow_start(rig, asset=None):
    asset = asset or Asset(bytes(64 << 20), chunk_bytes=1 << 20).write(rig.target)
    load = rig.reader(SLOW)
    decrypt = both(rig, asset, load)
    reader = int(tbsys.wait_for(lambda: rig.out.exists() and rig.out.read_text(), what="the slow reader"))
    tbsys.wait_for(lambda: rig.progress().get("state") == "decrypting", what="decrypting")
    return decrypt, load, reader


class Server:
    """tb-decrypt played by the test: takes one request, and what comes then is up to the test."""

    def __init__(self, rig):
        rig.listener.settimeout(30)
        self.conn, _ = rig.listener.accept()
        data, self.fds, _, _ = socket.recv_fds(self.conn, 4096, 253)
        self.magic, self.mode, self.n, self.sha = REQUEST.unpack(data)

    def reply(self, status, count=0, message="", magic=b"TBDONE01"):
        self.conn.send(REPLY.pack(magic, status, 0, count, message.encode()))

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []
