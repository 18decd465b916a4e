# SPDX-License-Identifier: Apache-2.0
"""Remote administration while its server, or its database, is killed: what was asked with a key is done once."""

import http.client
import json
import random
import signal
import subprocess
import threading

import pytest

import postgresql
import tbsys
from controlplane_admin import add_token
from controlplane_server import Server

RETRY = (OSError, http.client.HTTPException)


class Work:
    """Changes, one after the other, each asked for until it is answered."""

    def __init__(self, caller, name):
        self.caller, self.name, self.done, self.wrong = caller, name, 0, []
        self.stopping, self.replays = threading.Event(), 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stopping.is_set() and not self.wrong:
            i = self.done
            self.ask("POST", "/contracts", {"contract_id": f"{self.name}-{i}", "asset_id": "*"}, 201, f"key-of-a-test-{self.name}-add-{i}")
            self.ask("POST", f"/contracts/{self.name}-{i}/revoke", None, 200, f"key-of-a-test-{self.name}-rev-{i}")
            self.done += 1

    def ask(self, method, path, body, wanted, key):
        while True:
            try:
                status, answer, headers = self.caller.call(method, path, body, Idempotency_Key=key)
            except RETRY:
                if self.stopping.wait(0.05):
                    return
                continue
            if status == 503:
                self.stopping.wait(0.05)
                continue
            if status != wanted:
                self.wrong.append((method, path, status, answer))
            self.replays += headers.get("Idempotent-Replay") == "true"
            return

    def stop(self):
        self.stopping.set()
        self.thread.join()
        assert not self.wrong, self.wrong


def judge(server, caller, works, tmp_path):
    """One line for each change that was answered, and none twice."""
    text = caller.raw("GET", "/changes/export")[1]
    (tmp_path / "changes").write_text(text)
    r = subprocess.run([tbsys.program("tb-audit"), "verify", tmp_path / "changes"], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout
    changes = [json.loads(line) for line in text.splitlines()]
    assert [c["seq"] for c in changes] == list(range(1, len(changes) + 1))
    lines = [(c["action"], c["object"]) for c in changes if c["action"] in ("contract.add", "contract.code", "contract.revoke")]
    assert len(lines) == len(set(lines))
    for w in works:
        for i in range(w.done):
            for action in ("contract.add", "contract.code", "contract.revoke"):
                assert (action, f"{w.name}-{i}") in lines
    listed = {c["contract_id"] for c in json.loads(server.cli("contract", "list", "--json"))} - {"contract-allow", "contract-deny"}
    assert listed == {o for a, o in lines if a == "contract.add"}


def make_progress(works, n):
    start = [w.done for w in works]
    tbsys.wait_for(lambda: all(w.wrong or w.done >= s + n for w, s in zip(works, start)), 60, "changes")


def test_the_server_is_killed(tmp_path):
    rng = random.Random(7)
    with tbsys.tcp_listener() as sock:
        s = Server(tmp_path / "data", "--client-rate", "4294967295", listen={"http": sock})
        with s:
            caller = add_token(s, "owner")
            works = [Work(caller, f"w{i}") for i in range(4)]
            try:
                for _ in range(6):
                    make_progress(works, 2)
                    make_progress(works[:rng.randrange(4)], 1)
                    s.daemon.kill(signal.SIGKILL)
                    s.start()
                make_progress(works, 2)
            finally:
                for w in works:
                    w.stop()
            judge(s, caller, works, tmp_path)


@pytest.mark.parametrize("rounds", [4])
def test_the_database_is_killed(tmp_path, rounds):
    with postgresql.PostgreSQL() as pg:
        database = pg.create("admin")
        with Server(tmp_path / "a", "--client-rate", "4294967295", database=database) as a, \
                Server(tmp_path / "b", "--client-rate", "4294967295", database=database) as b:
            caller = add_token(a, "owner")
            other = type(caller)(b, caller.token)
            works = [Work(caller, "a0"), Work(caller, "a1"), Work(other, "b0"), Work(other, "b1")]
            try:
                for _ in range(rounds):
                    make_progress(works, 2)
                    pg.kill()
                    tbsys.wait_for(lambda: caller.call("GET", "/contracts?limit=1")[0] == 503, 20, "a 503")
                    pg.start()
                make_progress(works, 2)
            finally:
                for w in works:
                    w.stop()
            judge(a, caller, works, tmp_path)
