# SPDX-License-Identifier: Apache-2.0
"""A directory of LogsDirectory= that is there and is not tb-proxy's yet, as the volume of tb-state(8) is when the settings are judged: systemd gives it
to tb-proxy when that starts. What systemd does not mend is said."""

import pathlib
import shlex
import subprocess

import pytest

from tbsys import program

UID = 61234


@pytest.fixture
def check(tmp_path):
    """`make` is done in /var/log, which is of the check alone, as are the users of the machine: tb-proxy is one."""
    for name, line in (("passwd", f"tb-proxy:x:{UID}:{UID}::/:/bin/false\n"), ("group", f"tb-proxy:x:{UID}:\n")):
        own = [text for text in pathlib.Path("/etc", name).read_text().splitlines(True) if not text.startswith("tb-proxy:")]
        (tmp_path / name).write_text("".join(own) + line)

    def run(make, file="/var/log/trustbridge/audit.jsonl"):
        (tmp_path / "env").write_text(f"TB_CONTRACT_ID=c\nTB_ASSET_ID=a\nTB_EDC_ENDPOINT=https://cp.test\nTB_AUDIT_FILE={file}\n")
        script = (f"mount --bind {tmp_path}/passwd /etc/passwd && mount --bind {tmp_path}/group /etc/group && mount -t tmpfs tmpfs /var/log && {make} && "
                  f"exec {shlex.join([program('tb-configure'), '--check', str(tmp_path / 'env')])}")
        r = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        assert "warning" in r.stdout + r.stderr or r.returncode in (0, 78), r
        return [line for line in (r.stdout + r.stderr).splitlines() if "TB_AUDIT_FILE" in line]
    return run


@pytest.mark.parametrize("make", [
    "true", "mkdir -m 700 /var/log/trustbridge", f"mkdir -m 500 /var/log/trustbridge && chown {UID + 1} /var/log/trustbridge",
    f"mkdir -m 700 /var/log/trustbridge && : >/var/log/trustbridge/audit.jsonl && chown -R {UID + 1} /var/log/trustbridge",
    f"mkdir -m 750 /var/log/trustbridge && chown {UID} /var/log/trustbridge"], ids=["none", "root's", "of another image", "with a file", "its own"])
def test_what_systemd_gives_to_the_proxy(check, make):
    assert check(make) == []


@pytest.mark.parametrize("make, said", [
    ("mkdir -p /var/log/trustbridge/audit.jsonl", "is a directory"),
    (": >/var/log/trustbridge", "is no directory"),
    (f"mkdir /var/log/trustbridge && : >/var/log/trustbridge/audit.jsonl && chown {UID} /var/log/trustbridge", "may not write to it")])
def test_what_it_does_not_mend(check, make, said):
    [line] = check(make)
    assert said in line


def test_a_directory_of_somebody_else(check):
    [line] = check("mkdir -m 700 /var/log/other", "/var/log/other/audit.jsonl")
    assert "may not make files in its directory" in line
