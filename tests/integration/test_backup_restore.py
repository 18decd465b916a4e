# SPDX-License-Identifier: Apache-2.0
"""tb-restore: another machine goes on where the first was, and what a restore would lose is refused."""

import signal
import sqlite3
import stat
import struct

from backup_place import Machine, booked, new_root, run, saved, tree  # noqa: F401
from tbsys import program_in, wait_for


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
    assert "run this as root" in run(program_in(tmp_path, "tb-restore"), "--root", there, open_to_all, rc=77, **user).stderr
    root.chmod(0o755)
    assert "run this as root" in run(program_in(tmp_path, "tb-backup"), "--root", root, tmp_path / "mine", rc=77, **user).stderr


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
