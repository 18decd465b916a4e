# SPDX-License-Identifier: Apache-2.0
"""tb-backup and tb-restore over what real daemons wrote, while they serve; to another machine; damaged archives, and a kill at each step."""

import hashlib
import io
import json
import os
import pathlib
import random
import signal
import sqlite3
import stat
import struct
import subprocess
import tarfile
import threading
import time

import pytest
from billing_daemon import COUNTERS
from proxy_backend import simple
from proxy_daemon import Proxy
from tbsys import Daemon, program, wait_for

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


# -- what comes back -------------------------------------------------------------------------------------------------------

def test_another_machine_goes_on_where_the_first_was(saved, tmp_path):
    root, backup = saved
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    there = new_root(tmp_path / "two")
    r = run("tb-restore", "--root", there, backup)
    assert "another machine" in r.stdout and "hardware id" in r.stdout and "client certificate" in r.stdout
    assert "It is suspended" in r.stdout
    was, now = tree(root), tree(there)
    for name in ("etc/trustbridge/trustbridge.env", "var/lib/tb-proxy/usage", "var/lib/tb-proxy/audit-head", "var/lib/tb-authorize/suspended"):
        assert now[name] == was[name], name
    assert booked(there / "var/lib/tb-billing/ledger.db") == booked(root / "var/lib/tb-billing/ledger.db")
    assert now["var/lib/tb-billing/ledger.db"][0] == 0o600
    assert not [n for n in now if "credstore" in n or n.endswith((".conf", "password", ".tb-restore"))]

    two = Machine(there, tmp_path / "work").start()
    try:
        two.ask()
        wait_for(lambda: two.counted()["requests"] == 8, what="the eighth request")
        two.billing.kill(signal.SIGHUP)
        wait_for(lambda: {c: v for (e, c), v in two.booked().items()}["requests"] == 8, what="the booking")
        # Key accounts and the audit chain go on: the first record here is the ninth or tenth of the chain.
        wait_for(lambda: two.proxy.records(), what="a record")
        assert two.proxy.records()[0]["seq"] == 8
        account = (there / "var/lib/tb-proxy/keys").read_bytes()[256:512]
        assert account.startswith(b"alice\0") and struct.unpack_from("=Q", account, 72)[0] == 8
    finally:
        two.stop()


def test_credentials_are_encrypted_and_come_back(saved, tmp_path):
    root, plain = saved
    assert not any(line in plain.read_bytes() for data in SECRETS.values() for line in data.splitlines() if len(line) > 20)
    run("tb-backup", "--root", root, "--credentials", tmp_path / "no", rc=64)
    assert not (tmp_path / "no").exists()
    (tmp_path / "pass").write_text("correct horse battery\n")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "cert",
                    "-subj", "/CN=backup"], check=True, capture_output=True)
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-out", tmp_path / "other"], check=True, capture_output=True)
    for seal, unseal, wrong in ((("--passphrase-file", tmp_path / "pass"), ("--passphrase-file", tmp_path / "pass"), tmp_path / "wrong"),
                                (("--recipient", tmp_path / "cert"), ("--identity", tmp_path / "key"), tmp_path / "other")):
        run("tb-backup", "--root", root, "--credentials", *seal, tmp_path / "b")
        data = (tmp_path / "b").read_bytes()
        for secret in SECRETS.values():
            assert not any(line in data for line in secret.splitlines() if len(line) > 20 and not line.startswith(b"-----"))
        there = new_root(tmp_path / f"there{seal[0]}")
        (tmp_path / "wrong").write_text("wrong horse battery\n")
        before = tree(there)
        r = run("tb-restore", "--root", there, unseal[0], wrong, tmp_path / "b", rc=77)
        assert "not for this" in r.stderr and tree(there) == before
        run("tb-restore", "--root", there, *unseal, tmp_path / "b")
        now = tree(there)
        for name, secret in SECRETS.items():
            assert now[name] == (0o600, secret), name
        # Without the key the rest comes back, and it says so.
        there = new_root(tmp_path / f"less{seal[0]}")
        assert "credentials were not restored" in run("tb-restore", "--root", there, tmp_path / "b").stdout


def test_openssl_opens_the_credentials_too(saved, tmp_path):
    root, _ = saved
    (tmp_path / "pass").write_text("correct horse battery\n")
    run("tb-backup", "--root", root, "--credentials", "--passphrase-file", tmp_path / "pass", tmp_path / "b")
    with tarfile.open(tmp_path / "b") as t:
        (tmp_path / "cms").write_bytes(t.extractfile("credentials.cms").read())
    inner = subprocess.run(["openssl", "cms", "-decrypt", "-inform", "DER", "-in", tmp_path / "cms", "-pwri_password", "correct horse battery"],
                           check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(inner)) as t:
        assert t.extractfile("credstore/trustbridge.client-key").read() == SECRETS["etc/credstore/trustbridge.client-key"]


class Load:
    """Clients that ask all the time."""

    def __init__(self, machine, n=6):
        self.machine, self.answers, self.stopping = machine, 0, False
        self.threads = [threading.Thread(target=self.work) for _ in range(n)]
        for t in self.threads:
            t.start()

    def work(self):
        while not self.stopping:
            self.machine.ask()
            self.answers += 1

    def stop(self):
        self.stopping = True
        for t in self.threads:
            t.join()


def flying(data):
    """What the slots of a flight file hold: [(prompt, completion)]."""
    slots = [struct.unpack_from("=6Q", data, at) for at in range(48, len(data) - 47, 48)]
    return [(s[2], s[3]) for s in slots if s[0]]


def test_a_backup_under_load_is_of_one_instant(tmp_path):
    """Each request costs 10 and 5 tokens, booked when it ends. In each backup the counters are those of whole requests, and no less than
    what the ledger in it has booked; restored, the proxy counts what was in flight, and the ledger takes all of it once."""
    m = Machine(new_root(tmp_path / "one"), tmp_path / "work").start()
    load = Load(m)
    try:
        wait_for(lambda: load.answers > 50, what="load")
        last = 0
        for i in range(12):
            before = m.counted()["prompt_tokens"]
            run("tb-backup", "--root", m.root, tmp_path / f"b{i}")
            after = m.counted()["prompt_tokens"]
            there = new_root(tmp_path / f"there{i}")
            run("tb-restore", "--root", there, tmp_path / f"b{i}")
            epoch, c = counters(there / "var/lib/tb-proxy/usage")
            assert c["prompt_tokens"] == 2 * c["completion_tokens"], c
            assert before <= c["prompt_tokens"] <= after and last <= c["prompt_tokens"]
            last = c["prompt_tokens"]
            for (e, name), value in booked(there / "var/lib/tb-billing/ledger.db").items():
                assert e == epoch and value <= c[name], (name, value, c)
        asked = load.answers
        wait_for(lambda: load.answers > asked + 20, what="load goes on")
    finally:
        load.stop()
        m.stop()
    there = tmp_path / "there11"
    flight = flying((there / "var/lib/tb-proxy/flight").read_bytes())
    two = Machine(there, tmp_path / "work2").start()
    try:
        want = last + sum(p for p, _ in flight)
        assert two.counted()["prompt_tokens"] == want
        two.billing.kill(signal.SIGHUP)
        wait_for(lambda: {c: v for (e, c), v in two.booked().items()}["prompt_tokens"] == want, what="the booking")
        with sqlite3.connect(there / "var/lib/tb-billing/ledger.db") as db:
            assert db.execute("SELECT sum(quantity) FROM used WHERE counter = 'prompt_tokens'").fetchone()[0] == want
    finally:
        two.stop()


def test_what_is_in_flight_is_counted_once(tmp_path):
    """A stream of which the client has had a part when the backup is taken: restored, that part counts, as estimated."""
    m = Machine(new_root(tmp_path / "one"), tmp_path / "work").start()
    go = threading.Event()

    def stream(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for _ in range(30):
            conn.sendall(b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n')
        assert go.wait(60)
        conn.sendall(b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":30}}\n\ndata: [DONE]\n\n')
        return False
    m.proxy.backend.routes["/v1/chat/completions"] = stream
    client = threading.Thread(target=m.proxy.ask, args=("POST", "/v1/chat/completions", b'{"messages": [], "stream": true}',
                              {"Content-Type": "application/json", "Authorization": "Bearer " + KEY}))
    client.start()
    try:
        flight = m.state / "tb-proxy/flight"
        wait_for(lambda: any(c >= 30 for _, c in flying(flight.read_bytes())), what="30 tokens in flight")
        run("tb-backup", "--root", m.root, tmp_path / "b")
    finally:
        go.set()
        client.join()
        m.stop()
    assert m.counted()["completion_tokens"] == 30
    there = new_root(tmp_path / "two")
    run("tb-restore", "--root", there, tmp_path / "b")
    assert counters(there / "var/lib/tb-proxy/usage")[1]["completion_tokens"] == 0
    two = Machine(there, tmp_path / "work2").start()
    try:
        assert two.counted()["completion_tokens"] == 30 and two.counted()["estimated_tokens"] >= 30
    finally:
        two.stop()
    # And the machine that was saved has more than the backup.
    assert "30 completion_tokens counted" in run("tb-restore", "--root", m.root, tmp_path / "b", rc=77).stderr


def test_an_answer_that_ends_meanwhile_is_neither_lost_nor_double(tmp_path):
    """60 streams of 30 tokens each, all delivered; they end one after the other while backups are taken. At each instant what is counted and
    what is in flight is the same sum."""
    m = Machine(new_root(tmp_path / "one"), tmp_path / "work").start()
    n, sent, go = 60, threading.Semaphore(0), threading.Semaphore(0)

    def stream(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" +
                     30 * b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n')
        sent.release()
        go.acquire()
        conn.sendall(b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":30}}\n\ndata: [DONE]\n\n')
        return False
    m.proxy.backend.routes["/v1/chat/completions"] = stream
    clients = [threading.Thread(target=m.proxy.ask, args=("POST", "/v1/chat/completions", b'{"messages": [], "stream": true}',
                                {"Content-Type": "application/json", "Authorization": "Bearer " + KEY})) for _ in range(n)]
    flight = m.state / "tb-proxy/flight"
    for c in clients:
        c.start()
    wait_for(lambda: sum(c for _, c in flying(flight.read_bytes())) == 30 * n, what="all streams in flight")

    def end_them():
        for _ in range(n):
            go.release()
            time.sleep(0.004)
    ending = threading.Thread(target=end_them)
    ending.start()
    try:
        sums, i = [], 0
        while ending.is_alive() or i < 3:
            run("tb-backup", "--root", m.root, tmp_path / f"b{i}")
            i += 1
    finally:
        ending.join()
        for c in clients:
            c.join()
        m.stop()
    between = 0
    for k in range(i):
        with tarfile.open(tmp_path / f"b{k}") as t:
            counted = struct.unpack_from("=Q", t.extractfile("state/tb-proxy/usage").read(), 24 + 8 * COUNTERS.index("completion_tokens"))[0]
            flies = sum(c for _, c in flying(t.extractfile("state/tb-proxy/flight").read()))
        sums.append((counted, flies))
        between += 0 < counted < 30 * n
    assert all(a + b == 30 * n for a, b in sums), sums
    assert between > 0, sums


# -- what is refused -------------------------------------------------------------------------------------------------------

def test_a_newer_ledger_is_not_lost(tmp_path):
    m = Machine(new_root(tmp_path / "one"), tmp_path / "work").start()
    m.ask()
    assert "nothing to finish" in run("tb-restore", "--root", m.root, "--finish").stdout
    run("tb-backup", "--root", m.root, tmp_path / "old")
    r = run("tb-restore", "--root", m.root, tmp_path / "old", rc=75)
    assert "is running; stop it first: systemctl stop trustbridge-apply.target" in r.stderr
    for _ in range(3):
        m.ask()
    wait_for(lambda: m.counted()["requests"] == 4, what="the counting")
    m.stop()
    before = tree(m.root)
    r = run("tb-restore", "--root", m.root, tmp_path / "old", rc=77)
    assert "newer than the backup of" in r.stderr and "3 requests counted" in r.stderr and "requests booked" in r.stderr
    assert "3 audit records" in r.stderr and "--force" in r.stderr
    assert tree(m.root) == before
    # By force: what was here is kept, and comes back by force.
    r = run("tb-restore", "--root", m.root, "--force", tmp_path / "old")
    assert m.counted()["requests"] == 1
    kept = next((m.state / "tb-restore").glob("before-*.backup"))
    assert str(kept) in r.stdout
    run("tb-restore", "--root", m.root, "--force", kept)
    assert m.counted()["requests"] == 4 and {c: v for (e, c), v in m.booked().items()}["requests"] == 4
    # The same again loses nothing, and needs no force.
    run("tb-restore", "--root", m.root, kept)


def test_what_the_marketplace_was_told_is_newer(saved, tmp_path):
    root, backup = saved
    there = new_root(tmp_path / "two")
    run("tb-restore", "--root", there, backup)
    with sqlite3.connect(there / "var/lib/tb-billing/ledger.db") as db:
        db.execute("INSERT INTO event (hour, dimension, quantity, state, since) VALUES (490000, 'requests', 3, 'SENT', 490000)")
    r = run("tb-restore", "--root", there, backup, rc=77)
    assert "1 events that the marketplace was told of" in r.stderr


def test_a_restore_never_clears_a_suspension(saved, tmp_path):
    root, _ = saved
    calm = new_root(tmp_path / "calm")
    (calm / "etc/trustbridge/trustbridge.env").write_text("TB_CONTRACT_ID=c\n")
    run("tb-backup", "--root", calm, tmp_path / "calm.backup")
    there = new_root(tmp_path / "there")
    flag = there / "var/lib/tb-authorize/suspended"
    flag.parent.mkdir(parents=True)
    flag.write_text('{"reason":"x"}')
    run("tb-restore", "--root", there, tmp_path / "calm.backup")
    assert flag.read_text() == '{"reason":"x"}'


def test_a_user_is_told_to_be_root(saved, tmp_path):
    root, backup = saved
    open_to_all = tmp_path / "b"
    open_to_all.write_bytes(backup.read_bytes())
    for p in (tmp_path, *tmp_path.parents):
        if p.owner() == "root" and str(p).startswith("/tmp/"):
            p.chmod(p.stat().st_mode | 0o755)
    there = new_root(tmp_path / "there")
    user = dict(user=65534, group=65534, extra_groups=[])
    assert "run this as root" in run("tb-restore", "--root", there, open_to_all, rc=77, **user).stderr
    root.chmod(0o755)
    assert "run this as root" in run("tb-backup", "--root", root, tmp_path / "mine", rc=77, **user).stderr


def test_a_lost_ledger_goes_on_with_the_counters(tmp_path):
    m = Machine(new_root(tmp_path / "one"), tmp_path / "work").start()
    m.ask()
    wait_for(lambda: m.counted()["requests"] == 1, what="the counting")
    run("tb-backup", "--root", m.root, tmp_path / "old")
    m.ask()
    wait_for(lambda: m.counted()["requests"] == 2, what="the counting")
    m.stop()
    ledger = m.state / "tb-billing/ledger.db"
    ledger.write_bytes(b"SQLite format 3\0" + b"rot" * 3000)
    r = run("tb-backup", "--root", m.root, tmp_path / "new", rc=76)
    assert "ledger.db" in r.stderr and not (tmp_path / "new").exists()
    r = run("tb-restore", "--root", m.root, tmp_path / "old", rc=77)
    assert "the ledger here is damaged" in r.stderr and "--keep-counters" in r.stderr and "--force" in r.stderr
    r = run("tb-restore", "--root", m.root, "--keep-counters", tmp_path / "old")
    assert "1 requests counted" in r.stdout and (m.state / "tb-restore/ledger.db.damaged").exists()
    assert m.counted()["requests"] == 2
    d = m.billing.start().wait_notify("READY", "1")
    wait_for(lambda: {c: v for (e, c), v in m.booked().items()}["requests"] == 2, what="the booking")
    assert d.stop() == 0
    run("tb-restore", "--root", m.root, "--keep-counters", tmp_path / "old", rc=64)


# -- damaged and foreign archives ------------------------------------------------------------------------------------------

def refused(data, tmp_path, there):
    (tmp_path / "bad").write_bytes(data)
    before = tree(there)
    r = run("tb-restore", "--root", there, tmp_path / "bad", rc=76)
    assert r.stderr.startswith("tb-restore: error: ") and "Nothing was changed" in r.stderr, r.stderr
    assert tree(there) == before
    return r.stderr


def test_no_damage_goes_unnoticed(saved, tmp_path):
    data = saved[1].read_bytes()
    there = new_root(tmp_path / "there")
    rng = random.Random(1)
    for n in [0, 1, 511, 512, 1024, len(data) - 1024, len(data) - 1, *(rng.randrange(len(data)) for _ in range(25))]:
        refused(data[:n], tmp_path, there)
    headers = range(0, 512)
    for at in [*rng.sample(headers, 15), *(rng.randrange(len(data)) for _ in range(60))]:
        bad = bytearray(data)
        bad[at] ^= 1 << rng.randrange(8)
        (tmp_path / "bad").write_bytes(bad)
        r = run("tb-restore", "--check", tmp_path / "bad", rc=None)
        # Bytes of tar that stand for nothing (padding, times, owner names) have a checksum only in the header.
        assert r.returncode in (0, 76), r
        if r.returncode == 0:
            assert bytes(bad).rstrip(b"\0") != data.rstrip(b"\0")
            assert same_members(bytes(bad), data), at
    refused(data + b"more", tmp_path, there)
    refused(data[:-1024] + data, tmp_path, there)


def same_members(a, b):
    def members(d):
        with tarfile.open(fileobj=io.BytesIO(d)) as t:
            return [(m.name, t.extractfile(m).read()) for m in t]
    return members(a) == members(b)


def archive(members, change=lambda ti: None, manifest=None):
    """An archive as tb-backup would write it, but for what the test changes."""
    text = json.dumps(manifest or {"format": "trustbridge-backup/1", "created": "2026-01-01T00:00:00Z", "version": "0", "machine": "",
                                   "members": [{"name": n, "mode": 0o600, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()}
                                               for n, d in members]}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for name, data in (("trustbridge-backup.json", text), *members, ("end", hashlib.sha256(text).hexdigest().encode())):
            ti = tarfile.TarInfo(name)
            ti.size = len(data)
            change(ti)
            t.addfile(ti, io.BytesIO(data))
    return out.getvalue()


def test_foreign_archives(tmp_path):
    there = new_root(tmp_path / "there")
    good = [("settings/trustbridge.env", b"TB_CONTRACT_ID=c\n")]
    for name in ("../../etc/passwd", "/etc/passwd", "state/tb-proxy/../../x", "state/tb-proxy/.hidden", "state/tb-other/usage",
                 "state/tb-proxy/a/b", "settings/other.env", "units/ssh.service.d/x.conf", "credstore/trustbridge.tls-key", "state/tb-proxy/"):
        assert "belongs to no backup" in refused(archive([(name, b"x")]), tmp_path, there), name

    def link(kind):
        def change(ti):
            if ti.name.startswith("settings/"):
                ti.type, ti.linkname, ti.size = kind, "/etc/shadow", 0
        return change
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        refused(archive(good, link(kind)), tmp_path, there)

    def huge(ti):
        if ti.name.startswith("settings/"):
            ti.size = 7 << 30
    assert "larger than all of it" in refused(huge_header(good), tmp_path, there)
    m = {"format": "trustbridge-backup/1", "created": "", "version": "", "machine": ""}
    row = {"name": "settings/trustbridge.env", "mode": 0o600, "bytes": 1 << 62, "sha256": "0" * 64}
    refused(archive(good, manifest={**m, "members": [row]}), tmp_path, there)
    refused(archive(good, manifest={**m, "members": "none"}), tmp_path, there)
    refused(archive(good * 2), tmp_path, there)
    assert "newer TrustBridge" in refused(archive(good, manifest={**m, "format": "trustbridge-backup/2", "members": []}), tmp_path, there)
    refused(archive(good, manifest={**m, "format": "something", "members": []}), tmp_path, there)
    for data in (b"PK\3\4" + b"x" * 2000, b"\x1f\x8b" + b"x" * 2000, os.urandom(4096), b"\0" * 10240):
        assert "not a backup of TrustBridge" in refused(data, tmp_path, there)
    run("tb-restore", "--root", there, tmp_path / "none", rc=66)
    r = run("tb-restore", "--root", there, tmp_path, rc=74)
    assert "Is a directory" in r.stderr
    # Nothing of it reaches the terminal as it is.
    text = b"TB_CA_FILE=/x\x1b[31m\n"
    row = {"name": "settings/trustbridge.env", "mode": 0o600, "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    (tmp_path / "loud").write_bytes(archive([("settings/trustbridge.env", text)], manifest={
        **m, "created": "\x1b]0;owned\x07", "version": "\x9b31m", "members": [row]}))
    (tmp_path / "loud-root").mkdir()
    for args in (("--check",), ("--root", new_root(tmp_path / "loud-root/r"))):
        r = run("tb-restore", *args, tmp_path / "loud")
        assert "\x1b" not in r.stdout + r.stderr and "\x07" not in r.stdout, r
    # A ledger that is none.
    r = archive([("state/tb-billing/ledger.db", b"SQLite format 3\0" + b"x" * 5000)])
    (tmp_path / "bad").write_bytes(r)
    assert "the ledger in it" in run("tb-restore", "--root", there, tmp_path / "bad", rc=76).stderr
    # And the same archive without a fault is taken.
    (tmp_path / "good").write_bytes(archive(good))
    run("tb-restore", "--root", there, tmp_path / "good")
    assert (there / "etc/trustbridge/trustbridge.env").read_text() == "TB_CONTRACT_ID=c\n"


def huge_header(members):
    data = bytearray(archive(members))
    at = data.index(b"settings/trustbridge.env\0")
    data[at + 124:at + 136] = b"70000000000\0"
    data[at + 148:at + 156] = b" " * 8
    data[at + 148:at + 156] = b"%06o\0 " % sum(data[at:at + 512])
    return bytes(data)


# -- writing ---------------------------------------------------------------------------------------------------------------

def test_the_file_appears_whole_or_not_at_all(saved, tmp_path):
    root, backup = saved
    for bad, words in (("/dev/null", "no plain file"), (tmp_path, "no plain file"), (tmp_path / "no/such/dir", "No such file")):
        r = run("tb-backup", "--root", root, bad, rc=None)
        assert r.returncode in (64, 74) and words in r.stderr, r
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], check=True)
    try:
        (small / "b").write_text("the one of yesterday")
        r = run("tb-backup", "--root", root, small / "b", rc=74)
        assert "No space left" in r.stderr and "free space" in r.stderr
        assert [p.name for p in small.iterdir()] == ["b"] and (small / "b").read_text() == "the one of yesterday"
    finally:
        subprocess.run(["umount", small], check=True)
    empty = new_root(tmp_path / "empty")
    assert "nothing to save" in run("tb-backup", "--root", empty, tmp_path / "e", rc=66).stderr
    r = subprocess.run([program("tb-backup"), "--root", root, "-"], capture_output=True)
    assert r.returncode == 0 and same_members(r.stdout, backup.read_bytes()) is False  # another time
    (tmp_path / "piped").write_bytes(r.stdout)
    run("tb-restore", "--check", tmp_path / "piped")


def test_what_a_daemon_put_there_is_not_followed(saved, tmp_path):
    """tb-proxy owns its directory: a link in it leads a backup, which root runs, nowhere, and a restore writes nothing through one."""
    root, backup = saved
    there = new_root(tmp_path / "there")
    run("tb-restore", "--root", there, backup)
    (tmp_path / "shadow").write_text("root:secret")
    state = there / "var/lib/tb-proxy"
    (state / "extra").symlink_to(tmp_path / "shadow")
    os.mkfifo(state / "pipe")
    r = run("tb-backup", "--root", there, tmp_path / "b")
    assert "extra: not in the backup: not a plain file" in r.stderr and "pipe: not in the backup" in r.stderr
    assert b"root:secret" not in (tmp_path / "b").read_bytes()
    (state / ".usage.tb-restore").symlink_to(tmp_path / "shadow")
    run("tb-restore", "--root", there, backup)
    assert (tmp_path / "shadow").read_text() == "root:secret"
    (state / "usage").unlink()
    (state / "usage").symlink_to(tmp_path / "shadow")
    assert "usage" in run("tb-backup", "--root", there, tmp_path / "b2", rc=None).stderr


def test_a_kill_at_any_step_leaves_the_old_or_the_new(saved, tmp_path):
    """SIGKILL at each system call that changes a file, in turn. Either everything is as it was, or the restore is decided: then no daemon
    starts, and the next run completes it."""
    root, backup = saved
    old = new_root(tmp_path / "old")
    (old / "etc/trustbridge/trustbridge.env").write_text("TB_CONTRACT_ID=before\n")
    (old / "var/lib/tb-authorize").mkdir(parents=True)
    (old / "var/lib/tb-billing").mkdir(parents=True)
    (old / "var/lib/tb-billing/ended").write_text("{}")
    wanted = new_root(tmp_path / "wanted")
    run("tb-restore", "--root", wanted, backup)
    new = {n: v for n, v in tree(wanted).items() if n != "etc/machine-id"}
    seen = set()
    for calls in ("rename,renameat,renameat2", "unlink,unlinkat", "fsync", "fchmod", "mkdir"):
        for step in range(1, 100):
            there = tmp_path / f"{calls[:6]}{step}"
            subprocess.run(["cp", "-a", old, there], check=True)
            before = {n: v for n, v in tree(there).items() if n != "etc/machine-id"}
            r = subprocess.run(["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={step}",
                                program("tb-restore"), "--root", str(there), str(backup)], capture_output=True, text=True)
            if r.returncode == 0:
                break
            seen.add(what_a_kill_left(there, before, new, backup, tmp_path, step))
            assert {n: v for n, v in tree(there).items() if n != "etc/machine-id"} == new, (calls, step)
        assert step > 3, calls
    assert seen >= {"old", "decided"}, seen


def what_a_kill_left(there, before, new, backup, tmp_path, step):
    now = {n: v for n, v in tree(there).items() if n != "etc/machine-id" and not n.endswith(".tb-restore")}
    if (there / "var/lib/tb-restore/plan").exists():
        d = Daemon([program("tb-billing")], log=tmp_path / "d.log", notify=False,
                   env={"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://cp.example",
                        "TB_STATE_DIR": there / "var/lib", "TB_RUN_DIR": tmp_path / "run"}).start()
        assert d.wait() == 74 and "tb-restore --finish" in d.log_text(), d.log_text()
        again = ("--finish",) if step % 2 else (backup,)
        assert "interrupted restore was completed" in run("tb-restore", "--root", there, *again).stdout
        return "decided"
    if now == before:
        run("tb-restore", "--root", there, backup)
        return "old"
    assert now == new, step
    return "new"
