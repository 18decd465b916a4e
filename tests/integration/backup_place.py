# SPDX-License-Identifier: Apache-2.0
"""A machine with tb-proxy and tb-billing whose files are below a directory, and what its backup is held
against: what the tests of tb-backup, tb-restore and tb-support share."""

import hashlib
import io
import json
import os
import sqlite3
import stat
import struct
import subprocess
import tarfile

import pytest
from billing_daemon import COUNTERS
from proxy_backend import simple
from proxy_daemon import Proxy
from tbsys import Daemon, program

ANSWER = json.dumps({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}).encode()
KEY = "sk-of-a-client-0123456789"
SECRETS = {"etc/credstore/trustbridge.client-key": b"-----BEGIN PRIVATE KEY-----\nMIIEvverysecret\n-----END PRIVATE KEY-----\n",
           "etc/credstore/trustbridge.api-keys": b"alice:" + hashlib.sha256(KEY.encode()).hexdigest().encode() + b"\n",
           "etc/trustbridge/proxy-password": b"hunter2-hunter2-hunter2\n",
           "etc/systemd/system/tb-runtime.service.d/gpu.conf": b"[Service]\nEnvironment=HF_TOKEN=hf_verysecret\n"}


def run(name, *args, rc=0, **kw):
    env = {"PATH": "/usr/bin:/bin", **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}
    r = subprocess.run([program(name), *map(str, args)], capture_output=True, text=True, env=env, timeout=120, **kw)
    assert "Sanitizer" not in r.stderr, r.stderr
    assert rc is None or r.returncode == rc, (r.returncode, r.stdout, r.stderr)
    return r


def new_root(path):
    (path / "etc/trustbridge").mkdir(parents=True)
    (path / "etc/machine-id").write_text(hashlib.md5(str(path).encode()).hexdigest() + "\n")
    return path


class Machine:
    """tb-proxy and tb-billing of one machine, whose files are below root."""

    def __init__(self, root, work):
        self.root, self.state = root, root / "var/lib"
        work.mkdir(exist_ok=True)
        keys = work / "keys"
        keys.write_bytes(SECRETS["etc/credstore/trustbridge.api-keys"])
        self.proxy = Proxy(work, TB_STATE_DIR=str(self.state), TB_API_KEYS=str(keys))
        self.proxy.backend.routes["/v1/chat/completions"] = self.answer
        env = {**self.proxy.env, "TB_BILLING_INTERVAL": "1s"}
        self.billing = Daemon([program("tb-billing")], env=env, log=work / "billing.log")

    @staticmethod
    def answer(conn, rq):
        rq.sha256()
        conn.sendall(simple(ANSWER, extra="Content-Type: application/json\r\n"))

    def start(self):
        self.proxy.ready().start()
        self.billing.start().wait_notify("READY", "1")
        return self

    def ask(self):
        r = self.proxy.ask("POST", "/v1/chat/completions", b'{"messages": []}',
                           {"Content-Type": "application/json", "Authorization": "Bearer " + KEY})
        assert r[:2] == (200, ANSWER), r
        return r

    def stop(self):
        if self.billing.running():
            assert self.billing.stop() == 0, self.billing.log_text()
        self.proxy.stop()

    def counted(self):
        return counters(self.state / "tb-proxy/usage")[1]

    def booked(self):
        return booked(self.state / "tb-billing/ledger.db")


def counters(path):
    data = path.read_bytes()
    return data[8:24].hex(), dict(zip(COUNTERS, struct.unpack_from(f"={len(COUNTERS)}Q", data, 24)))


def booked(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        return {(e, c): v for e, c, v in db.execute("SELECT epoch, counter, value FROM booked")}


def tree(root):
    """{path: (mode, bytes)} of what a restore may touch, without what it leaves of itself and of SQLite."""
    found = {}
    for p in sorted(root.rglob("*")):
        name = str(p.relative_to(root))
        if p.is_file() and not name.startswith("var/lib/tb-restore/") and not name.endswith(("-shm", "-wal")):
            found[name] = (stat.S_IMODE(p.stat().st_mode), p.read_bytes())
    return found


def same_members(a, b):
    def members(d):
        with tarfile.open(fileobj=io.BytesIO(d)) as t:
            return [(m.name, t.extractfile(m).read()) for m in t]
    return members(a) == members(b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(root of a machine that has served and was stopped, its backup)."""
    d = tmp_path_factory.mktemp("saved")
    root = new_root(d / "one")
    for name, data in SECRETS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        (root / name).chmod(0o600)
    (root / "etc/trustbridge/trustbridge.env").write_text("TB_CONTRACT_ID=contract-1\nTB_PUBLIC_ADDR=203.0.113.7:8000\n")
    (root / "etc/trustbridge/trustbridge.env").chmod(0o640)
    m = Machine(root, d / "work").start()
    for _ in range(7):
        m.ask()
    (m.state / "tb-authorize").mkdir()
    (m.state / "tb-authorize/suspended").write_text('{"reason":"contract_revoked","since":"2026-01-01T00:00:00Z"}')
    m.stop()
    run("tb-backup", "--root", root, d / "backup")
    return root, d / "backup"
