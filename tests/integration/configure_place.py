# SPDX-License-Identifier: Apache-2.0
"""A file of settings, in order but for what a test changes, and what tb-configure says of it."""

import re
import subprocess

import pytest
from tbsys import free_port, program

GOOD = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://cp.example", "TB_RUNTIME_EXEC": "/bin/sleep 1"}
PORTS = {"TB_PUBLIC_ADDR": None, "TB_HEALTH_ADDR": None}  # chosen when they are first needed


def base(**more):
    """Lines that are in order. The listeners are where nobody else's are."""
    if None in PORTS.values():
        PORTS.update({name: f"127.0.0.1:{free_port()}" for name in PORTS})
    return [f"{k}={v}" for k, v in {**GOOD, **PORTS, **more}.items() if v is not None]


def run(*argv, **kw):
    return subprocess.run([program("tb-configure"), *map(str, argv)], capture_output=True, text=True, timeout=60, **kw)


class Settings:
    def __init__(self, tmp):
        self.path, self.run_dir = tmp / "trustbridge.env", tmp / "run"
        self.run_dir.mkdir()

    def check(self, text):
        """(exit status, [(line or None, level, name, message)])"""
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        r = run("--check", "--run-dir", self.run_dir, self.path)
        assert r.stderr == "", r.stderr
        *lines, last = r.stdout.splitlines()
        found = [re.fullmatch(rf"{re.escape(str(self.path))}(?::(\d+))?: (error|warning|note): (?:((?:TB|tb)_\w+|credential [\w-]+|\w*): )?(.*)", line)
                 for line in lines]
        assert all(found), r.stdout
        found = [(int(m[1]) if m[1] else None, m[2], m[3] or "", m[4]) for m in found]
        errors = sum(level == "error" for _, level, _, _ in found)
        assert r.returncode == (78 if errors else 0) and (f"{errors} error" in last or "in order" in last), r.stdout
        return r.returncode, found

    def one(self, line, **unset):
        """What is said of one line behind good ones, but for notes."""
        _, found = self.check("\n".join([*base(**unset), line]) + "\n")
        return [x for x in found if x[1] != "note"]


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path)
