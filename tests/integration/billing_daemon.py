# SPDX-License-Identifier: Apache-2.0
"""tb-billing, its ledger, the proxy's counter file and the stand-in of Azure: what the tests about money share."""

import datetime
import json
import mmap
import sqlite3
import struct
import subprocess
import time
import uuid

import pytest
from metering_standin import APPLICATION, Standin
from tbsys import Daemon, program

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
    left = 3600 - time.time() % 3600
    if left < 60:  # a test's hours are the clock's: none begins in the middle of it
        time.sleep(left)
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


UNITS = {"requests": 1, "tokens": 1, "bytes": 1, "gb_transferred": 2**30}


@pytest.fixture
def azure():
    s = Standin()
    yield s
    s.close()
    assert s.problems == []


def metered(env, azure, dimensions="requests", **more):
    return {**env, "TB_INSECURE_HTTP": "true", "TB_BILLING_ENABLED": "true", "TB_BILLING_DIMENSION": dimensions, "TB_BILLING_PLAN_ID": "plan-1",
            "TB_BILLING_RESOURCE_ID": APPLICATION, "TB_METERING_ENDPOINT": azure.url, "TB_IMDS_ENDPOINT": azure.url,
            "TB_ARM_ENDPOINT": azure.url, **more}


def now_hour():
    return int(time.time() // 3600)


def hour_text(hour):
    return datetime.datetime.fromtimestamp(hour * 3600, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Book:
    """The ledger of a tb-billing that ran in earlier hours: its process makes the tables, and usage of hours that are over is put there
    as it would have been booked in them."""

    def __init__(self, env, tmp_path):
        self.env, self.path = env, tmp_path / "state/tb-billing/ledger.db"
        d = Daemon([program("tb-billing")], env=env, log=tmp_path / "billing.log").start().wait_notify("READY", "1")
        assert d.stop() == 0

    def use(self, hours_ago, dimension, quantity, state="OPEN", doubt=0):
        with sqlite3.connect(self.path, timeout=20) as db:
            hour = now_hour() - hours_ago
            db.execute("INSERT INTO event (hour, dimension, quantity, since, state, doubt, request_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                       (hour, dimension, quantity, hour, state, doubt, None if state == "OPEN" else str(uuid.uuid4())))
        db.close()

    def age(self, hours):
        """As if the open events had been booked so many hours ago."""
        with sqlite3.connect(self.path, timeout=20) as db:
            db.execute("UPDATE event SET hour = ?1, since = ?1 WHERE state = 'OPEN'", (now_hour() - hours,))
        db.close()

    def events(self):
        r = subprocess.run([program("tb-billing"), "ledger", "--json"], env={k: str(v) for k, v in self.env.items()}, text=True,
                           capture_output=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return json.loads(r.stdout)["events"]

    def states(self):
        found = {}
        for e in self.events():
            found.setdefault(e["state"], []).append(e)
        return found

    def cli(self, *args):
        return subprocess.run([program("tb-billing"), *map(str, args)], env={k: str(v) for k, v in self.env.items()}, text=True,
                              capture_output=True, timeout=30)
