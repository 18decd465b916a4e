# SPDX-License-Identifier: Apache-2.0
"""docs/controlplane-backup.md: its commands, as they stand there, on SQLite and PostgreSQL; and what a backup that is older does."""

import hashlib
import hmac
import json
import os
import re
import shutil
import subprocess

import pytest

import postgresql
import tbsys
from controlplane_admin import add_token
from controlplane_server import ASSET, KEY, Server
from machine_identity import Machine
from test_controlplane_enrolment import key_of, reason

PAGE = (tbsys.repo / "docs/controlplane-backup.md").read_text()


@pytest.fixture(scope="module")
def postgres():
    with postgresql.PostgreSQL() as server:
        yield server


def report(ledger, requests):
    text = json.dumps({"ledger": ledger, "at": "2026-01-02T00:00:00Z", "used": {"requests": requests}})
    derived = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
    return {"usage_report": text, "usage_hmac": hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()}


class Operator:
    """Types commands of the page, with its places moved to a directory."""

    def __init__(self, directory, database):
        self.directory, self.database = directory, database
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        for name in ("tb-controlplane", "tb-audit"):
            (self.bin / name).symlink_to(tbsys.program(name))
        for name in ("backup", "backup-keys", "backup-log"):
            (directory / name).mkdir()

    def types(self, data, part):
        """The command of the page that has this in it."""
        command, = [line[4:] for line in PAGE.splitlines() if line.startswith("    ") and part in line]
        for old, new in (("/var/lib/tb-controlplane", str(data)), ("/backup", f"{self.directory}/backup")):
            command = command.replace(old, new)
        env = dict(os.environ, PATH=f"{self.bin}:{postgresql.programs()}:{os.environ['PATH']}", TBCP_DATA=str(data))
        if self.database:
            env["TBCP_DATABASE"] = self.database
        p = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, env=env, timeout=60)
        assert p.returncode == 0, (command, p.stdout, p.stderr)
        return p.stdout


def test_the_last_change_is_told_however_long_its_line_is(tmp_path):
    with Server(tmp_path / "data") as s:
        name, asset = "c" * 100, "a" * 100
        s.cli("contract", "add", name, "--asset", "*", "--mode", "open")
        s.register(asset=asset)
        owner = add_token(s, "owner")
        owner.do("PATCH", f"/contracts/{name}", {"asset_id": asset, "expires_at": "2099-01-01T00:00:00Z"})
        owner.do("PATCH", f"/contracts/{name}", {"lease_seconds": 60})
        last = s.cli("changes").splitlines()[-1]
        assert len(last) > 1024 and json.loads(last)["action"] == "contract.edit"
        assert f"until change {json.loads(last)['seq']}, of {json.loads(last)['ts']}.\n" in s.cli("restored")


def test_every_command_is_one_of_these():
    commands = [line[4:] for line in PAGE.splitlines() if line.startswith("    ")]
    known = ("sqlite3 ", "pg_dump ", "tar ", "tb-controlplane ", "tb-audit ", "systemctl ", "cp ", "chown ", "pg_restore ", "tail ")
    assert len(commands) == 15 and all(c.startswith(known) for c in commands), commands


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_backup_and_restore(tmp_path, kind, request):
    postgres = request.getfixturevalue("postgres") if kind == "postgresql" else None
    database = postgres.create("before") if postgres else None
    op = Operator(tmp_path / "op", database)
    s = Server(tmp_path / "data", database=database)
    with s:
        assert s.register()[0] == 201
        code = s.cli("contract", "add", "fleet", "--asset", ASSET, "--code-uses", "3", "--max-hw", "2").strip()
        for name in ("kept", "revoked"):
            s.cli("contract", "add", name, "--asset", ASSET, "--mode", "open")
        early, lost, late = (Machine(tmp_path, n) for n in ("early", "lost", "late"))
        assert early.enrol(s, "fleet", code)[0] == lost.enrol(s, "fleet", code)[0] == 200
        assert key_of(early.authorize(s, "fleet")) == KEY
        # the backup, while it serves
        if postgres:
            op.types(s.data, "pg_dump")
        else:
            op.types(s.data, ".backup")
            assert op.types(s.data, "integrity_check") == "ok\n"
        op.types(s.data, "controlplane-keys.tar --exclude")
        # what no backup knows
        assert late.enrol(s, "fleet", code)[0] == 200
        s.cli("machine", "expel", "fleet", "--machine", lost.id)
        s.cli("contract", "revoke", "revoked")
        ledger = "5c1c1a1b7a1e4f0e9d5e000000000001"
        early.authorize(s, "fleet", more=report(ledger, 700))
        op.types(s.data, "changes > ")
        assert "intact" in op.types(s.data, "tb-audit verify").lower()
        before = json.loads(s.cli("usage", "--json"))
    # a new host
    if postgres:
        database = op.database = postgres.create("after")
    new = Server(tmp_path / "new" / "data", database=database)
    new.data.mkdir(parents=True)
    op.types(new.data, "-xf")
    if postgres:
        op.types(new.data, "pg_restore")
    else:
        op.types(new.data, "cp /backup/controlplane.db")
    said = op.types(new.data, "tb-controlplane restored")
    n = int(re.search(r"until change (\d+)", said)[1])
    assert "All enrolment codes are over" in said
    missing = [json.loads(line) for line in op.types(new.data, "tail -n").splitlines()]
    assert missing[0]["seq"] == n + 1 and missing[0]["action"] == "machine.enrol"
    assert {("machine.expel", "fleet"), ("contract.revoke", "revoked")} <= {(c["action"], c["object"]) for c in missing}
    for c in missing:  # done again
        if c["action"] == "contract.revoke":
            new.cli("contract", "revoke", c["object"])
        elif c["action"] == "machine.expel":
            new.cli("machine", "expel", c["object"], "--machine", c["machine"])
    op.types(new.data, "kek check")
    with new:
        assert key_of(early.authorize(new, "fleet")) == KEY and key_of(new.authorize("kept")) == KEY
        assert reason(new.authorize("revoked")) == "contract_revoked"
        assert reason(lost.authorize(new, "fleet")) == "machine_expelled"
        assert reason(late.authorize(new, "fleet")) == "machine_unknown"
        assert reason(late.enrol(new, "fleet", code)) == "enrolment_code_used"  # the backup had uses left
        assert late.enrol(new, "fleet", new.cli("contract", "code", "fleet").strip())[0] == 200
        # usage: behind, and whole again with the next report
        early.authorize(new, "fleet", more=report(ledger, 705))
        after = json.loads(new.cli("usage", "--json"))
        assert [u["used"]["requests"] for u in before] == [700] and [u["used"]["requests"] for u in after] == [705]
        assert '"database.restored"' in new.cli("changes")
        new.cli("asset", "list")
    shutil.rmtree(op.directory)
