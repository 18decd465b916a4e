# SPDX-License-Identifier: Apache-2.0
"""tb-backup: what it saves of daemons that serve is of one instant, credentials are encrypted, and the file
appears whole or not at all."""

import io
import os
import signal
import sqlite3
import stat
import struct
import subprocess
import tarfile
import threading
import time

from backup_place import KEY, SECRETS, Machine, booked, counters, new_root, run, same_members, saved, tree  # noqa: F401
from billing_daemon import COUNTERS
from tbsys import program, wait_for


# -- credentials -----------------------------------------------------------------------------------------------------------

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


# -- of one instant --------------------------------------------------------------------------------------------------------

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
        rq.sha256()  # a connection that closes over bytes it has not read is reset
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
        rq.sha256()  # a connection that closes over bytes it has not read is reset
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" +
                     30 * b'data: {"choices":[{"index":0,"delta":{"content":"four"}}]}\n\n')
        sent.release()
        go.acquire()
        conn.sendall(b'data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":30}}\n\ndata: [DONE]\n\n')
        return False
    m.proxy.backend.routes["/v1/chat/completions"] = stream
    answers = []

    def ask():
        answers.append(m.proxy.ask("POST", "/v1/chat/completions", b'{"messages": [], "stream": true}',
                                   {"Content-Type": "application/json", "Authorization": "Bearer " + KEY})[1])
    clients = [threading.Thread(target=ask) for _ in range(n)]
    flight = m.state / "tb-proxy/flight"
    for c in clients:
        c.start()
    wait_for(lambda: sum(c for _, c in flying(flight.read_bytes())) == 30 * n, what="all streams in flight")

    half = threading.Event()  # so many ended, and a backup was taken of that

    def end_them():
        for k in range(n):
            if k == n // 2:
                half.wait(60)
            go.release()
            time.sleep(0.004)
    ending = threading.Thread(target=end_them)
    ending.start()
    try:
        sums, i = [], 0
        while ending.is_alive() or i < 3:
            run("tb-backup", "--root", m.root, tmp_path / f"b{i}")
            i += 1
            if i == 1:
                wait_for(lambda: sum(c for _, c in flying(flight.read_bytes())) < 30 * n, what="the end of a stream")
            elif i == 2:
                half.set()
    finally:
        half.set()
        ending.join()
        for c in clients:
            c.join()
        m.stop()
    assert sum(a.endswith(b"data: [DONE]\n\n") for a in answers) == n, "all delivered"
    between = 0
    for k in range(i):
        with tarfile.open(tmp_path / f"b{k}") as t:
            counted = struct.unpack_from("=Q", t.extractfile("state/tb-proxy/usage").read(), 24 + 8 * COUNTERS.index("completion_tokens"))[0]
            flies = sum(c for _, c in flying(t.extractfile("state/tb-proxy/flight").read()))
        sums.append((counted, flies))
        between += 0 < counted < 30 * n
    assert all(a + b == 30 * n for a, b in sums), sums
    assert between > 0, sums


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
