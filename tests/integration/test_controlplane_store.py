# SPDX-License-Identifier: Apache-2.0
"""The control plane's database: PostgreSQL and SQLite give the same, replicas share it, and no kill makes it lie."""

import collections
import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest

import postgresql
import tbsys
from controlplane_server import ASSET, KEY, Server

SLOTS = 6


@pytest.fixture(scope="module")
def postgres():
    with postgresql.PostgreSQL() as server:
        yield server


@pytest.mark.parametrize("unit", ["test_store", "test_assets", "test_machines", "test_usage", "test_admin"])
def test_the_store_on_postgresql(postgres, unit):
    """All that these tests in tests/unit/controlplane/ ask of SQLite."""
    env = dict(os.environ, TBCP_DATABASE=postgres.create(unit))
    r = subprocess.run([tbsys.program(f"unit/controlplane/{unit}")], env=env, capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr


def test_the_submitters_ledger_on_postgresql(postgres):
    """The property of tests/unit/controlplane/test_submitter.c, with fewer seeds."""
    env = dict(os.environ, TBCP_DATABASE=postgres.create("submitter"), TB_SEEDS="6")
    r = subprocess.run([tbsys.program("unit/controlplane/test_submitter")], env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, r.stdout + r.stderr


class Clients:
    """Machines that ask all the time, of either server, and note each key that they got."""

    def __init__(self, servers, machines):
        self.servers, self.stopping = servers, threading.Event()
        self.keys, self.lock, self.other = collections.Counter(), threading.Lock(), collections.Counter()
        self.threads = [threading.Thread(target=self.ask_on, args=(f"m{i}",)) for i in range(machines)]
        for t in self.threads:
            t.start()

    def ask_on(self, hw):
        chance = random.Random(hw)
        while not self.stopping.is_set():
            try:
                status, body = chance.choice(self.servers).authorize("kills", hw=hw)
                answer = body.get("status") or body.get("reason")
            except (OSError, ValueError, AssertionError, http.client.HTTPException) as e:  # killed in the middle
                status, body, answer = 0, {}, type(e).__name__
            with self.lock:
                self.keys[hw] += body.get("decryption_key_hex") == KEY
                self.other[f"{status} {answer}"] += 1
            if status != 200:
                self.stopping.wait(0.05)

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(60)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_kills_release_no_key_without_its_entry_and_no_slot_too_many(tmp_path, kind):
    chance = random.Random(13)
    database = postgresql.PostgreSQL().start() if kind == "postgresql" else None
    try:
        url = database.create("kills") if database else f"sqlite:{tmp_path / 'shared.db'}"
        one, two = (Server(tmp_path / "data", name=f"s{i}", database=url) for i in range(2))
        one.cli("contract", "add", "kills", "--asset", ASSET, "--mode", "open", "--max-hw", str(SLOTS))
        one.start(), two.start()
        assert one.register()[0] == 201
        clients = Clients([one, two], 3 * SLOTS)
        for _ in range(8):
            time.sleep(chance.uniform(0.1, 0.5))
            victim = chance.choice([one, two, database or two])
            if victim is database:
                database.kill()
                time.sleep(chance.uniform(0, 0.3))
                database.start()
            else:
                victim.daemon.kill(signal.SIGKILL)
                victim.start()
        before = sum(clients.keys.values())
        tbsys.wait_for(lambda: sum(clients.keys.values()) > before + 20, 60, "keys after the last kill")
        clients.stop()
        rows = json.loads(one.cli("log", "--json", "--limit", "1000000"))
        logged = collections.Counter(r["hw_id"] for r in rows if r["status"] == "authorized" and r["contract_id"] == "kills")
        assert all(clients.keys[hw] <= logged[hw] for hw in clients.keys), (clients.keys, logged)
        assert 0 < len([hw for hw in clients.keys if clients.keys[hw]]) <= SLOTS, clients.keys
        assert len(logged) <= SLOTS, logged
        held = [m for m in json.loads(one.cli("machine", "list", "--json")) if m["contract_id"] == "kills"]
        assert {m["hw_id"] for m in held} == set(logged)
        assert clients.other["200 denied"] > 0, clients.other
        one.daemon.stop(), two.daemon.stop()
    finally:
        if database:
            database.close()


def test_a_database_that_is_away_is_a_503_and_comes_back(tmp_path):
    with postgresql.PostgreSQL() as database, Server(tmp_path / "data", "--seed", database=database.create("away")) as s:
        assert s.register()[0] == 201
        assert s.authorize()[1]["status"] == "authorized"
        database.kill()
        status, body, headers = s.call("POST", "/api/v1/license/authorize", {"contract_id": "contract-allow", "asset_id": ASSET, "hw_id": "h"})
        assert (status, body["reason"], headers["Retry-After"]) == (503, "unavailable", "1")
        assert s.call("GET", "/api/v1/health")[0] == 503
        assert "cannot open database (PostgreSQL)" in s.cli("contract", "list", rc=75)
        database.start()
        assert s.authorize()[1]["status"] == "authorized"
        assert s.call("GET", "/api/v1/health")[:2] == (200, {"status": "ok"})


def test_a_restart_of_the_database_is_not_noticed(tmp_path):
    """Connections that the server closed while they were idle are made again before anybody is told."""
    with postgresql.PostgreSQL() as database, Server(tmp_path / "data", "--seed", database=database.create("restart")) as s:
        assert s.register()[0] == 201
        for _ in range(3):
            database.kill()
            database.start()
            assert s.call("GET", "/api/v1/health")[0] == 200
            assert s.authorize()[1]["status"] == "authorized"


def test_passwords_of_the_database_are_nowhere(tmp_path):
    url = "postgresql://me:pa55word@127.0.0.1:1/db"
    s = Server(tmp_path / "data", database=url)
    err = s.cli("contract", "list", rc=75)
    assert "cannot open database (PostgreSQL)" in err and "pa55word" not in err
    bad = Server(tmp_path / "data", database="postgresql://me:pa55word@[/db").cli("contract", "list", rc=64)
    assert "postgresql://USER@HOST/DATABASE" in bad and "pa55word" not in bad
