# SPDX-License-Identifier: Apache-2.0
"""tb-audit over what a real tb-proxy wrote: whole, tampered with, rotated, in files and in journal files."""

import hashlib
import json
import os
import random
import shutil
import subprocess

import pytest

from proxy_daemon import ASAN, Proxy, make, proxy  # noqa: F401
from tbsys import program, repo, wait_for
from test_audit import Load, lines_of, settle

MESSAGE_ID = "c1d7f3a95e1b4d3f8a60b7a2e94c5d12"
REMOTE = "/lib/systemd/systemd-journal-remote"


def run(*args, state=None, stdin=None):
    env = {"PATH": "/usr/bin:/bin", **({"TB_STATE_DIR": str(state)} if state else {})}
    env.update({k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")})
    r = subprocess.run([program("tb-audit"), *map(str, args)], capture_output=True, text=True, env=env, input=stdin, timeout=60)
    assert "Sanitizer" not in r.stderr, r.stderr
    return r


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(lines of an audit file of 12 records, directory with the head that goes with it)."""
    d = tmp_path_factory.mktemp("written")
    p = Proxy(d).ready().start()
    for i in range(12):
        p.ask("POST", "/v1/x" if i % 3 else "/refused", b"%d" % i)
    settle(p, 12)
    p.stop()
    return lines_of(p.audit_file), p.state


def verify(written, data, tmp_path, *args):
    f = tmp_path / "audit.jsonl"
    f.write_bytes(data)
    r = run("verify", "--json", "--first", 1, *args, f, state=written[1])
    return r.returncode, json.loads(r.stdout)


def join(lines):
    return b"".join(line + b"\n" for line in lines)


def kinds(doc):
    return [(p["kind"], p["seq"], p.get("line")) for p in doc["problems"]]


def test_whole(written, tmp_path):
    lines, state = written
    rc, doc = verify(written, join(lines), tmp_path)
    assert rc == 0 and doc["intact"] and doc["end_checked"] and doc["records"] == 12 and doc["problems"] == []
    assert doc["first"]["seq"] == 1 and doc["last"] == {"seq": 12, "ts": json.loads(lines[-1])["ts"]}
    head = run("head", state=state).stdout.strip()
    assert head == "12:" + doc["head"] == "12:" + hashlib.sha256(lines[-1]).hexdigest()
    r = run("verify", "--no-head", "--expect", head, tmp_path / "audit.jsonl")
    assert r.returncode == 0 and r.stdout.startswith("intact: 12 records, 1 to 12, 20")
    r = run("verify", "--no-head", tmp_path / "audit.jsonl")
    assert r.returncode == 0 and "whether the end was cut off is not known" in r.stdout


def test_tampering_is_told_with_its_place(written, tmp_path):
    lines, _ = written
    other = lines[4].replace(b'"status":200', b'"status":403')
    assert other != lines[4]
    for what, data, want in [
            ("edit", lines[:4] + [other] + lines[5:], ("changed", 5, 6)),
            ("edit of the last", lines[:-1] + [lines[-1].replace(b"200", b"403")], ("changed", 12, 12)),
            ("drop", lines[:4] + lines[5:], ("missing", 5, 5)),
            ("drop of the first", lines[1:], ("missing", 1, 1)),
            ("cut", lines[:9], ("cut", 10, None)),
            ("everything cut", [], ("cut", 1, None)),
            ("swap", lines[:4] + [lines[5], lines[4]] + lines[6:], ("order", 5, 6)),
            ("repeat", lines[:5] + [lines[4]] + lines[5:], ("duplicate", 5, 6)),
            ("insert", lines[:5] + [b'{"note":"hello"}'] + lines[5:], ("damaged", 0, 6))]:
        rc, doc = verify(written, join(data), tmp_path)
        assert rc == 76 and not doc["intact"] and want in kinds(doc), (what, doc)
    r = run("verify", tmp_path / "audit.jsonl", state=written[1])
    assert r.returncode == 76 and "NOT INTACT: 12 records" in r.stdout.splitlines()[-1]
    assert r.stdout.startswith(f"{tmp_path}/audit.jsonl:6: damaged: ")


def test_any_byte_and_any_cut(written, tmp_path):
    """A sample of a real file; the unit test does all of a small one."""
    data = join(written[0])
    rnd = random.Random(1)
    for i in sorted(rnd.sample(range(len(data)), 20 if ASAN else 80)) + [0, len(data) - 1]:
        bad = bytearray(data)
        bad[i] ^= 1 << rnd.randrange(8)
        assert verify(written, bytes(bad), tmp_path)[0] == 76, i
        assert verify(written, data[:i], tmp_path)[0] == 76, i


def test_what_cannot_be_read(written, tmp_path):
    assert run("verify", tmp_path / "none").returncode == 66
    assert "none: No such file" in run("verify", tmp_path / "none").stderr
    assert run("verify", tmp_path, "--no-head").returncode == 74
    (tmp_path / "empty").write_bytes(b"")
    assert run("verify", "--no-head", tmp_path / "empty").returncode == 66
    (tmp_path / "head").write_bytes(b"x" * 4096)
    r = run("verify", "--head", tmp_path / "head", tmp_path / "empty")
    assert r.returncode == 74 and "--no-head" in r.stderr
    assert run("head", state=tmp_path).returncode == 66
    assert run("head", "--head", tmp_path / "nowhere").returncode == 66
    for args in ([], ["verify"], ["nonsense"], ["verify", "--expect", "12"], ["verify", "--expect", "0:" + "0" * 64, "x"],
                 ["verify", "--journal", "x"], ["verify", "--first", "x", "y"], ["verify", "--since", "x", "--journal"], ["head", "x"]):
        r = run(*args)
        assert r.returncode == 64 and "tb-audit --help" in r.stderr, args


# --- a file that is rotated -------------------------------------------------------------------------------------------

def test_rotation_by_logrotate_under_load(proxy, tmp_path):  # noqa: F811
    """The packaged configuration, its place and the signal's way replaced by the test's own; then all parts together, and while
    tb-proxy goes on writing."""
    logs = tmp_path / "logs"
    logs.mkdir()
    assert proxy.daemon.stop() == 0
    proxy.daemon.env["TB_AUDIT_FILE"] = proxy.audit_file = logs / "audit.jsonl"
    shutil.rmtree(proxy.state)
    proxy.start()
    text = (repo / "debian/trustbridge.logrotate").read_text()
    for theirs, ours in (("/var/log/trustbridge/*.jsonl", f"{logs}/*.jsonl"),
                         ("systemctl --quiet kill --signal=HUP --kill-who=main tb-proxy.service", f"kill -HUP {proxy.daemon.pid}")):
        assert theirs in text
        text = text.replace(theirs, ours)
    (tmp_path / "rotate.conf").write_text(text)
    with Load(proxy.port, 4) as load:
        for i in range(3):
            load.wait(50)
            wait_for(lambda: proxy.audit_file.stat().st_size, what="records in the file")  # an empty one is not rotated
            subprocess.run(["logrotate", "-f", "-s", tmp_path / "status", tmp_path / "rotate.conf"], check=True)
            wait_for(lambda: proxy.audit_file.exists() and proxy.audit_file.stat().st_size, what="records in the new file")
            parts = sorted(logs.iterdir(), reverse=i % 2 == 0)
            assert len(parts) == i + 2
            r = run("verify", "--first", 1, *parts, state=proxy.state)
            assert r.returncode == 0, r.stdout
    r = run("verify", "--first", 1, *logs.iterdir(), state=proxy.state)
    assert r.returncode == 0, r.stdout
    middle = logs / "audit.jsonl.2"
    r = run("verify", *(f for f in logs.iterdir() if f != middle), state=proxy.state)
    assert r.returncode == 76 and "are missing" in r.stdout
    whole = join(lines_of(logs / "audit.jsonl.3")).decode()
    r = run("verify", "--first", 1, "-", logs / "audit.jsonl", middle, logs / "audit.jsonl.1", state=proxy.state, stdin=whole)
    assert r.returncode == 0, r.stdout


def test_kills_are_excused_as_declared(proxy):  # noqa: F811
    with Load(proxy.port, 8) as load:
        for _ in range(3):
            load.wait(100)
            proxy.daemon.kill()
            r = run("verify", "--first", 1, proxy.audit_file, state=proxy.state)
            assert r.returncode == 0 or "the line was cut off" in r.stdout, r.stdout
            proxy.start()
        load.wait(50)
    assert proxy.daemon.stop() == 0
    doc = json.loads(run("verify", "--json", "--first", 1, proxy.audit_file, state=proxy.state).stdout)
    assert doc["intact"] and 1 <= doc["stops"] <= 3


# --- the journal ------------------------------------------------------------------------------------------------------

def entry(n, line, unit="tb-proxy.service", **fields):
    r = json.loads(line) if line.startswith(b"{") else {}
    f = {"__REALTIME_TIMESTAMP": str(1767873600000000 + n * 1000), "__MONOTONIC_TIMESTAMP": str(1000000 + n * 1000),
         "_BOOT_ID": "0" * 31 + "1", "_MACHINE_ID": "0" * 31 + "2", "_SYSTEMD_UNIT": unit, "MESSAGE_ID": MESSAGE_ID,
         "MESSAGE": line.decode()}
    for name, member in (("SEQ", "seq"), ("CONTRACT_ID", "contract_id"), ("ASSET_ID", "asset_id"), ("REQ_SHA256", "req_sha256"),
                         ("STATUS", "status"), ("LATENCY_MS", "latency_ms"), ("BYTES_IN", "bytes_in"), ("BYTES_OUT", "bytes_out"),
                         ("REQUEST_ID", "request_id"), ("CLIENT", "client")):
        f["TB_" + name] = str(r.get(member, ""))
    f.update(fields)
    return "".join(f"{k}={v}\n" for k, v in f.items()) + "\n"


@pytest.fixture
def journal(tmp_path):
    """Makes journal files as systemd-journald writes them, from entries."""
    def build(entries):
        d = tmp_path / "journal"
        shutil.rmtree(d, ignore_errors=True)
        d.mkdir()
        r = subprocess.run([REMOTE, "-o", d / "remote.journal", "-"], input="".join(entries), text=True, capture_output=True)
        assert r.returncode == 0, r.stderr
        return d
    return build


def test_journal(written, journal):
    lines, state = written

    def look(entries, *args):
        r = run("verify", "--journal", "--json", "--directory", journal(entries), *args, state=state)
        return r.returncode, json.loads(r.stdout or "{}")
    whole = [entry(i, line) for i, line in enumerate(lines)]
    rc, doc = look(whole)
    assert rc == 0 and doc["records"] == 12 and doc["foreign"] == 0 and doc["end_checked"]
    # what others write under this id neither counts nor harms
    rc, doc = look(whole[:6] + [entry(6, lines[3], unit="evil.service"), entry(6, b"nonsense", unit="evil.service")] + whole[6:])
    assert rc == 0 and doc["records"] == 12 and doc["foreign"] == 2
    rc, doc = look(whole[:6] + whole[7:])
    assert rc == 76 and kinds(doc) == [("missing", 7, None)]
    rc, doc = look(whole[:-2])
    assert rc == 76 and kinds(doc) == [("cut", 11, None)]
    rc, doc = look(whole[:4] + [entry(4, lines[4], TB_STATUS="403")] + whole[5:])
    assert rc == 76 and kinds(doc) == [("changed", 5, None)] and "TB_STATUS" in doc["problems"][0]["text"]
    edited = lines[4].replace(b'"status":200', b'"status":403')
    rc, doc = look(whole[:4] + [entry(4, edited)] + whole[5:])
    assert rc == 76 and kinds(doc) == [("changed", 5, None)]
    rc, doc = look([entry(i, line, unit="other.service") for i, line in enumerate(lines)], "--no-head")
    assert rc == 66
    rc, doc = look(whole, "--since", "2026-01-08T12:00:00.005Z")
    assert rc == 0 and doc["first"]["seq"] == 6


def test_a_pattern_that_the_shell_left_alone(written, tmp_path):
    """As typed by somebody whose shell may not read the directory, and where there is no file."""
    lines, state = written
    (tmp_path / "audit.jsonl").write_bytes(join(lines[6:]))
    (tmp_path / "audit.jsonl.1").write_bytes(join(lines[:6]))
    r = run("verify", "--first", 1, tmp_path / "audit.jsonl*", state=state)
    assert r.returncode == 0 and "intact: 12 records" in r.stdout, r
    r = run("verify", tmp_path / "nothing.jsonl*", state=state)
    assert r.returncode == 66 and "nothing.jsonl*: no file has such a name" in r.stderr and "tb-audit verify --journal" in r.stderr
    r = run("verify", tmp_path / "nothing.jsonl", state=state)
    assert r.returncode == 66 and "No such file" in r.stderr
    (tmp_path / "odd[1]*").write_bytes(join(lines))  # a file of that name is that file
    r = run("verify", "--first", 1, tmp_path / "odd[1]*", state=state)
    assert r.returncode == 0 and "intact: 12 records" in r.stdout, r
