# SPDX-License-Identifier: Apache-2.0
"""tb-restore of damaged and foreign archives, over what a daemon put in its way, and killed at each step."""

import hashlib
import io
import json
import os
import random
import subprocess
import tarfile

from backup_place import new_root, run, same_members, saved, tree  # noqa: F401
from tbsys import Daemon, program


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


# -- links and kills -------------------------------------------------------------------------------------------------------

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
