# SPDX-License-Identifier: Apache-2.0
"""The audit in a real journal: systemd-journald without a service manager, in a mount namespace with a /run of its own."""

import json
import pathlib
import subprocess

import pytest

from proxy_daemon import make  # noqa: F401
from tbsys import program, wait_for
from test_audit import Load, check_chain

WITH_JOURNALD = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal && exec setpriv --pdeathsig KILL /lib/systemd/systemd-journald
"""


class Journal:
    def __init__(self):
        self.proc = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", WITH_JOURNALD],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.root = pathlib.Path(f"/proc/{self.proc.pid}/root")
        wait_for(lambda: (self.root / "run/systemd/journal/socket").exists() and list(self.root.glob("run/log/journal/*/system.journal")),
                 what="systemd-journald")

    @property
    def directory(self):
        return next((self.root / "run/log/journal").iterdir())

    def take_in(self, daemon):
        daemon.argv = ["/usr/bin/nsenter", f"--mount=/proc/{self.proc.pid}/ns/mnt", *daemon.argv]

    def entries(self):
        out = subprocess.run(["journalctl", "--directory", self.directory, "-o", "json", "MESSAGE_ID=c1d7f3a95e1b4d3f8a60b7a2e94c5d12"],
                             capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in out.splitlines()]

    def stop(self):
        self.proc.kill()
        self.proc.wait()


@pytest.fixture
def journal():
    j = Journal()
    yield j
    j.stop()


def test_file_and_journal_get_the_same_lines(make, journal):  # noqa: F811
    p = make(JOURNAL_STREAM="1:1").ready()
    journal.take_in(p.daemon)
    p.start()
    for i in range(30):
        p.ask("POST", "/v1/x" if i % 3 else "/refused", b"%d" % i)
    p.wait_records(30)
    found = wait_for(lambda: len(e := journal.entries()) == 30 and e, what="30 entries")
    assert [e["MESSAGE"] for e in found] == p.audit_file.read_text().splitlines()
    for e, r in zip(found, check_chain([e["MESSAGE"].encode() for e in found])):
        assert (e["TB_SEQ"], e["TB_STATUS"], e["TB_REQ_SHA256"]) == (str(r["seq"]), str(r["status"]), r["req_sha256"])
    # Not a unit of a service manager: for the operator's tool these are somebody else's.
    r = subprocess.run([program("tb-audit"), "verify", "--json", "--no-head", "--journal", "--directory", journal.directory],
                       capture_output=True, text=True)
    assert r.returncode == 66 and "tb-proxy.service" in r.stderr


def test_kills_under_load_with_the_journal_alone(make, journal):  # noqa: F811
    """Nobody can ask the journal what it had got: what may be missing is declared, and is at most one record for each kill."""
    p = make(JOURNAL_STREAM="1:1", TB_AUDIT_FILE=None).ready()
    journal.take_in(p.daemon)
    p.start()
    with Load(p.port, 4) as load:
        for _ in range(4):
            load.wait(100)
            p.daemon.kill()
            p.start()
        load.wait(50)
    assert p.daemon.stop() == 0
    last = int(subprocess.run([program("tb-audit"), "head", "--head", p.state / "tb-proxy/audit-head"], capture_output=True,
                              text=True, check=True).stdout.split(":")[0])
    found = wait_for(lambda: (e := journal.entries()) and int(e[-1]["TB_SEQ"]) == last and e, what="the last record")
    records = check_chain([e["MESSAGE"].encode() for e in found])
    declared = [r for r in records if "lost_max" in r]
    assert last - 4 <= len(records) <= last and 1 <= len(declared) <= 4 and all(r["unsure"] <= 1 for r in declared)
    assert sum(load.answered) - sum(r["status"] == 200 for r in records) <= sum(r["lost_max"] + r["unsure"] for r in declared)
