# SPDX-License-Identifier: Apache-2.0
"""The audit in a real journal: systemd-journald without a service manager, in a mount namespace with a /run of its own."""

import hashlib
import json
import pathlib
import subprocess

from proxy_daemon import make  # noqa: F401
from tbsys import program, wait_for

# The shell becomes tb-proxy, so journald ends with it.
WITH_JOURNALD = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal || exit 1
setpriv --pdeathsig KILL /lib/systemd/systemd-journald >/dev/null 2>&1 &
while [ ! -S /run/systemd/journal/socket ]; do sleep 0.05; done
exec "$@"
"""


def test_file_and_journal_get_the_same_lines(make):  # noqa: F811
    p = make(JOURNAL_STREAM="1:1").ready()
    p.daemon.argv = ["/usr/bin/unshare", "-m", "--propagation", "private", "/bin/sh", "-c", WITH_JOURNALD, "sh", program("tb-proxy")]
    p.start()
    run = pathlib.Path(f"/proc/{p.daemon.pid}/root/run/log/journal")
    for i in range(30):
        p.ask("POST", "/v1/x" if i % 3 else "/refused", b"%d" % i)
    p.wait_records(30)
    wait_for(lambda: p.status()["audit"]["seq"] == 30, what="the writer")

    def entries():
        out = subprocess.run(["journalctl", "--directory", next(run.iterdir()), "-o", "json", "MESSAGE_ID=c1d7f3a95e1b4d3f8a60b7a2e94c5d12"],
                             capture_output=True, text=True, check=True).stdout
        return [json.loads(line) for line in out.splitlines()]
    found = wait_for(lambda: len(e := entries()) == 30 and e, what="30 entries")
    lines = p.audit_file.read_text().splitlines()
    assert [e["MESSAGE"] for e in found] == lines
    prev = "0" * 64
    for e in found:
        r = json.loads(e["MESSAGE"])
        assert r["prev"] == prev
        prev = hashlib.sha256(e["MESSAGE"].encode()).hexdigest()
        assert (e["TB_SEQ"], e["TB_STATUS"], e["TB_REQ_SHA256"]) == (str(r["seq"]), str(r["status"]), r["req_sha256"])
    # Not a unit of a service manager: for the operator's tool these are somebody else's.
    r = subprocess.run([program("tb-audit"), "verify", "--json", "--no-head", "--journal", "--directory", next(run.iterdir())],
                       capture_output=True, text=True)
    assert r.returncode == 66 and "tb-proxy.service" in r.stderr
