# SPDX-License-Identifier: Apache-2.0
"""tb-state's verdict on a partition, without device mapper: a file or a directory stands for it, a program of the test's own for the TPM. Volumes: make
check-attested."""

import os
import pathlib
import subprocess

import pytest

import tbsys

SCRIPT = pathlib.Path(tbsys.repo) / "units/tb-state"
NONCE = "0123456789abcdef" * 2
MAGIC = "TrustBridge state v1"


@pytest.fixture
def judge(tmp_path):
    """The script's functions alone, then the verdict."""
    functions = SCRIPT.read_text().split("[ $# -ge 2 ] ||")[0]
    (tmp_path / "judge").write_text(f"{functions}\nrun={tmp_path}/run approval=x\nmkdir -p \"$run\"\njudge \"$1\"\necho \"$verdict\"\n")
    (tmp_path / "tpm").write_text("#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\necho mark-of-$1\n")
    (tmp_path / "tpm").chmod(0o755)

    def run(content, rc=0):
        path = tmp_path / "partition"
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        p = subprocess.run(["sh", tmp_path / "judge", path], env={**os.environ, "TB_STATEKEY": str(tmp_path / "tpm")}, capture_output=True, text=True, timeout=60,
                           check=False)
        assert p.returncode == rc, p
        return p.stdout.strip() if rc == 0 else p.stderr
    return run


def header(nonce, mark):
    return f"{MAGIC}\n{nonce} {mark}\n".encode().ljust(8192, b"\0")


@pytest.mark.parametrize("content, verdict", [
    (header(NONCE, f"mark-of-{NONCE}"), "ours"), (header(NONCE, "mark-of-" + "0" * 32), "foreign"), (header("0" * 32, f"mark-of-{NONCE}"), "foreign"),
    (header(NONCE, ""), "foreign"), (header("x" * 32, f"mark-of-{'x' * 32}"), "foreign"), (b"x" + header(NONCE, f"mark-of-{NONCE}"), "foreign"),
    (b"LUKS\xba\xbe".ljust(8192, b"\0"), "foreign"), (bytes(1080) + b"\x53\xef" + bytes(8000), "foreign"),  # LUKS, plain ext4
    (bytes(8192), "empty"), (bytes(100), "foreign"), (b"", "foreign")])
def test_whose_it_is(judge, content, verdict):
    assert judge(content) == verdict


def test_what_cannot_be_read_is_replaced_by_nobody(judge):
    """It may be this machine's state: neither foreign, which is made anew, nor empty."""
    assert "partition cannot be read: " in judge(None, rc=74)
