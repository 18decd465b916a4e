# SPDX-License-Identifier: Apache-2.0
"""tb-billing against a counter file written as tb-proxy writes it (common/usage.h), with SIGKILL at random instants."""

import json
import mmap
import random
import signal
import struct
import subprocess
import time

import pytest
from tbsys import Daemon, program, wait_for

COUNTERS = ["requests", "bytes_in", "bytes_out", "prompt_tokens", "completion_tokens", "cached_tokens", "estimated_tokens"]


class Usage:
    """The writer's side of the shared mapping."""

    def __init__(self, path, epoch=b"0123456789abcdef"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((b"TBUSAGE1" + epoch).ljust(4096, b"\0"))
        self.file = open(path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), 4096)
        self.value = dict.fromkeys(COUNTERS, 0)

    def add(self, name, n):
        self.value[name] += n
        at = 24 + 8 * COUNTERS.index(name)
        self.map[at:at + 8] = struct.pack("=Q", self.value[name])


@pytest.fixture
def env(tmp_path):
    return {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://cp.example", "TB_STATE_DIR": tmp_path / "state",
            "TB_RUN_DIR": tmp_path / "run", "TB_BILLING_INTERVAL": "1s", "PATH": "/usr/bin:/bin"}


def ledger(env):
    r = subprocess.run([program("tb-billing"), "ledger", "--json"], env={k: str(v) for k, v in env.items()}, capture_output=True,
                       text=True, timeout=30)
    assert r.returncode == 0, r.stderr
    total = dict.fromkeys(COUNTERS, 0)
    for row in json.loads(r.stdout)["used"]:
        total[row["counter"]] += row["quantity"]
    return total


def billing(env, tmp_path):
    return Daemon([program("tb-billing")], env=env, log=tmp_path / "billing.log")


def test_usage_is_booked_once_whoever_is_killed(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    rng = random.Random(7)
    d = billing(env, tmp_path)
    for _ in range(12):
        d.start().wait_notify("READY", "1")
        end = time.monotonic() + rng.random() * 0.3
        while time.monotonic() < end:
            usage.add(rng.choice(COUNTERS), rng.randrange(1, 1000))
            d.kill(signal.SIGHUP)  # book now, so that kills land inside bookings
            time.sleep(0.002)
        d.kill()
    d.start().wait_notify("READY", "1")
    usage.add("requests", 1)
    assert d.stop() == 0  # books once more
    assert ledger(env) == usage.value


def test_waits_for_a_proxy_that_never_ran(env, tmp_path):
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    wait_for(lambda: "Waiting" in (d.notified("STATUS") or ""), what="STATUS")
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 3)
    wait_for(lambda: ledger(env)["requests"] == 3, what="the booking")
    assert d.stop() == 0


def test_a_new_counter_file_is_a_new_epoch(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 10)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    usage = Usage(tmp_path / "state/tb-proxy/usage", epoch=b"fedcba9876543210")
    usage.add("requests", 4)
    assert d.stop() == 0
    assert ledger(env)["requests"] == 14


def test_a_damaged_ledger_is_named_and_left_alone(env, tmp_path):
    db = tmp_path / "state/tb-billing/ledger.db"
    db.parent.mkdir(parents=True)
    db.write_bytes(b"Z" * 8192)
    d = billing(env, tmp_path).start()
    assert d.wait() == 76
    assert str(db) in d.log_text()
    assert db.read_bytes() == b"Z" * 8192


def test_counters_that_go_back_stop_billing(env, tmp_path):
    usage = Usage(tmp_path / "state/tb-proxy/usage")
    usage.add("requests", 10)
    d = billing(env, tmp_path).start().wait_notify("READY", "1")
    usage.add("requests", -5)
    d.kill(signal.SIGHUP)
    assert d.wait() == 76
    assert "went back" in d.log_text()
    assert ledger(env)["requests"] == 10


def test_disk_full_is_an_io_error_and_loses_nothing(env, tmp_path):
    small = tmp_path / "state/tb-billing"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], check=True)
    try:
        usage = Usage(tmp_path / "state/tb-proxy/usage")
        usage.add("requests", 5)
        d = billing(env, tmp_path).start().wait_notify("READY", "1")
        assert d.stop() == 0
        fill = open(small / "fill", "wb", buffering=0)
        with pytest.raises(OSError):
            while True:
                fill.write(b"x" * 4096)
                fill.flush()
        usage.add("requests", 2)
        assert d.start().wait() == 74
        fill.close()
        (small / "fill").unlink()
        d.start().wait_notify("READY", "1")
        assert d.stop() == 0
        assert ledger(env)["requests"] == 7
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("args,rc", [(["--help"], 0), (["--version"], 0), (["ledger", "--bogus"], 64), (["bogus"], 64)])
def test_command_line(env, args, rc):
    r = subprocess.run([program("tb-billing"), *args], env={k: str(v) for k, v in env.items()}, capture_output=True, text=True)
    assert r.returncode == rc


def test_bad_settings_are_reported_together(tmp_path):
    r = subprocess.run([program("tb-billing")], env={"PATH": "/bin", "TB_ASSET_ID": "a b", "TB_STATE_DIR": "x"}, capture_output=True,
                       text=True)
    assert r.returncode == 78
    for name in ("TB_ASSET_ID", "TB_STATE_DIR", "TB_CONTRACT_ID", "TB_EDC_ENDPOINT"):
        assert name in r.stderr
