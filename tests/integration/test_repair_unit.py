# SPDX-License-Identifier: Apache-2.0
"""tb-repair, the script, with systemd played by a script."""

import json
import subprocess

import pytest

from tbsys import repo


class Repair:
    """The script of tb-repair.service: what it asks of systemd after tb-runtime has ended with a status."""

    def __init__(self, tmp):
        self.tmp, self.decryption = tmp, tmp / "decrypt"
        self.decryption.mkdir()
        (tmp / "run").mkdir()
        self.active, self.asked = 0, tmp / "asked"
        (tmp / "bin").mkdir()
        fake = tmp / "bin/systemctl"
        fake.write_text(f'#!/bin/sh\ncase "$1 $2" in\n"show --property=ActiveEnterTimestampMonotonic") cat {tmp}/active ;;\n'
                        f'"show --property=ExecMainStartTimestampMonotonic") echo 100 ;;\n'
                        f'"show --property=ActiveState") tr " " "\\n" <{tmp}/hydrate ;;\n*) echo "$*" >>{self.asked} ;;\nesac\n')
        fake.chmod(0o755)

    def says(self, **progress):
        (self.decryption / "progress.json").write_text(json.dumps(progress, separators=(",", ":")))

    def after(self, status, active=0, hydrate="active exited", **env):
        (self.tmp / "active").write_text(f"{active}\n")
        (self.tmp / "hydrate").write_text(f"{hydrate}\n")
        self.asked.unlink(missing_ok=True)
        r = subprocess.run([repo / "units/tb-repair", self.decryption], capture_output=True, text=True,
                           env={"PATH": f"{self.tmp}/bin:/usr/bin:/bin", "MONITOR_EXIT_STATUS": str(status), "RUNTIME_DIRECTORY": self.tmp / "run", **env})
        return r.returncode, self.asked.read_text().splitlines()[-1:] if self.asked.exists() else []

    def called(self, sub):
        """By tb-wish.path."""
        fake = self.tmp / "bin/systemctl"
        fake.write_text(f'#!/bin/sh\ncase $1 in show) echo {sub} ;; *) echo "$*" >>{self.asked} ;; esac\n')
        subprocess.run([repo / "units/tb-repair", self.decryption, "--wish"], check=True, env={"PATH": f"{self.tmp}/bin:/usr/bin:/bin"})
        return self.asked.read_text().splitlines() if self.asked.exists() else []


LOOK = ["--no-block restart tb-hydrate.service"]
START = ["--no-block start tb-runtime.service"]


@pytest.mark.parametrize("status,active,damaged,asked", [
    (66, 0, False, LOOK), (76, 0, True, LOOK), (76, 0, False, LOOK), (76, 200, True, LOOK), (76, 200, False, []), (66, 200, False, START),
    (78, 0, False, []), (74, 0, True, []), (77, 0, False, []), (1, 200, False, []), ("KILL", 200, False, [])])
def test_what_the_failure_of_the_runtime_leads_to(tmp_path, status, active, damaged, asked):
    r = Repair(tmp_path)
    r.says(state="failed", **({"damaged": {"inode": 1}} if damaged else {}))
    assert r.after(status, active) == (0, asked)


@pytest.mark.parametrize("hydrate,damaged,asked", [("activating auto-restart", True, []), ("activating start", False, START), ("activating start", True, LOOK),
                                                   ("failed failed", True, []), ("inactive dead", True, LOOK), ("active running", True, START)])
def test_a_download_under_way_is_left_alone(tmp_path, hydrate, damaged, asked):
    """But one that fetched a piece in vain looks at the whole: as often as any, then no more."""
    r = Repair(tmp_path)
    r.says(state="failed", **({"damaged": {"inode": 1}} if damaged else {}))
    assert r.after(76 if damaged else 66, hydrate=hydrate) == (0, asked)
    if (hydrate, damaged) == ("activating start", True):
        assert [r.after(76, hydrate=hydrate)[0] for _ in range(10)] == [0] * 9 + [1]


@pytest.mark.parametrize("sub,asked", [("exited", LOOK), ("running", []), ("auto-restart", []), ("failed", [])])
def test_a_wish_wakes_a_download_that_has_ended(tmp_path, sub, asked):
    assert Repair(tmp_path).called(sub) == asked


def test_what_cannot_be_mended_is_not_looked_at_for_ever(tmp_path):
    r = Repair(tmp_path)
    assert [r.after(66) for _ in range(10)] == [(0, LOOK)] * 10  # nobody has written any progress yet
    assert r.after(66) == (1, [])
    r.says(state="complete", delivered_boottime_us=123456)
    assert [r.after(66) for _ in range(10)] == [(0, LOOK)] * 10
    assert r.after(66) == (1, []) and r.after(66) == (1, [])
    r.says(state="failed", damaged={}, delivered_boottime_us=200000)
    assert r.after(76) == (0, LOOK)


@pytest.mark.parametrize("mode,decrypt,said,runtime,asked", [
    ("view", "failed", "failed", "active", True), ("s3", "failed", "failed", "active", True), ("view", "failed", "streaming", "active", True),
    ("view", "inactive", "failed", "active", True), ("view", "failed", "failed", "activating", False), ("view", "inactive", "ended", "active", True), ("view", "inactive", "complete", "active", False),
    ("view", "active", "failed", "active", False), ("dir", "failed", "failed", "active", False), ("fifo", "failed", "failed", "active", False),
    ("", "failed", "failed", "active", False)])
def test_a_runtime_that_outlives_its_view_is_started_again(tmp_path, mode, decrypt, said, runtime, asked):
    r = Repair(tmp_path)
    r.says(state=said, damaged={"inode": 1})
    if mode:
        (tmp_path / "tb-runtime").mkdir()
        (tmp_path / "tb-runtime/delivery.json").write_text('{"state":"streaming","mode":"%s"}' % mode)
    (tmp_path / "bin/systemctl").write_text(
        f'#!/bin/sh\ncase "$*" in\n"show --property=ActiveState --value tb-decrypt.service") echo {decrypt} ;;\n'
        f'"show --property=ActiveState --value tb-runtime.service") echo {runtime} ;;\n*) echo "$*" >>{r.asked} ;;\nesac\n')
    subprocess.run([repo / "units/tb-repair", r.decryption, "--lost"], check=True, stdout=subprocess.DEVNULL, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"})
    assert (r.asked.read_text().splitlines() if r.asked.exists() else []) == ["--no-block restart tb-runtime.service"] * asked
