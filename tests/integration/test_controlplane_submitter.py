# SPDX-License-Identifier: Apache-2.0
"""The submitter: usage of contracts that the control plane bills reaches the marketplace once, whoever dies. The property itself, over
hundreds of seeds, is tests/unit/controlplane/test_submitter.c; here are the real programs and the strict stand-in of the marketplace."""

import datetime
import hashlib
import hmac
import json
import os
import random
import re
import signal
import subprocess
import time
import urllib.request

import pytest
from metering_standin import Standin
from tbsys import free_port, repo, wait_for

import postgresql
from controlplane_server import ASSET, KEY, Server

USAGE_ID = "7d3e6c9c-0000-4000-8000-000000000001"


@pytest.fixture
def azure():
    standin = Standin(dimensions=("requests", "ktok"))
    yield standin
    standin.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request):
    if request.param == "sqlite":
        yield None
    else:
        with postgresql.PostgreSQL() as pg:
            yield pg.create("submitter")


def hour_text(ago):
    at = datetime.datetime.now(datetime.timezone.utc).replace(minute=0, second=0, microsecond=0) - datetime.timedelta(hours=ago)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


class Machine:
    """What tb-billing's report says of one ledger: totals, and those of hours that are over."""

    def __init__(self, server, name, contract):
        self.server, self.name, self.contract = server, name, contract
        self.used, self.hours, self.image, self.more = {}, {}, 0, {}

    def use(self, ago, **counters):
        for name, n in counters.items():
            self.used[name] = self.used.get(name, 0) + n
            hour = self.hours.setdefault(ago, {})
            hour[name] = hour.get(name, 0) + n

    def reimage(self):
        self.used, self.hours, self.image = {}, {}, self.image + 1

    def report(self, server=None):
        text = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "ledger": f"{self.name}-{self.image}",
                           "used": self.used, "hours": [{"hour": hour_text(a), "used": u} for a, u in self.hours.items()], **self.more})
        derived = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
        signed = {"usage_report": text, "usage_hmac": hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()}
        return (server or self.server).authorize(self.contract, hw=self.name, more=signed)


def submitting(tmp_path, azure, name, database=None, data=None):
    s = Server(data or tmp_path / "cp", "--submit", "--metering", azure.url, "--submit-interval", "1", "--submit-after", "300",
                  "--metrics-listen", f"127.0.0.1:{submitting.ports.setdefault(name, free_port())}", tls=False, database=database,
                  name=name)
    s.daemon.env["AZURE_POD_IDENTITY_AUTHORITY_HOST"] = azure.url
    return s


submitting.ports = {}


def metrics(name):
    with urllib.request.urlopen(f"http://127.0.0.1:{submitting.ports[name]}/metrics", timeout=10) as r:
        return {line.rsplit(" ", 1)[0].removeprefix("trustbridge_controlplane_"): float(line.rsplit(" ", 1)[1])
                for line in r.read().decode().splitlines() if not line.startswith("#")}


def bill(server, contract="fleet", resource=USAGE_ID, dimensions="requests,tokens=ktok"):
    server.cli("contract", "add", contract, "--asset", ASSET, "--mode", "open")
    server.cli("contract", "bill", contract, "--plan", "plan-1", "--dimensions", dimensions, *(["--resource", resource] if resource else []))


def status(server):
    return json.loads(server.cli("submitter", "status", "--json"))


def events(server):
    return json.loads(server.cli("submitter", "events", "--all", "--json"))


def test_one_of_two_servers_bills_each_unit_once_whoever_is_killed(tmp_path, azure, database):
    a, b = submitting(tmp_path, azure, "one", database), submitting(tmp_path, azure, "two", database)
    chance = random.Random(7)
    served = {"requests": 0, "tokens": 0}
    with a, b:
        assert a.register()[0] == 201
        bill(a)
        machines = [Machine(a, f"m{i}", "fleet") for i in range(8)]
        wait_for(lambda: metrics("one")["submitter_active"] + metrics("two")["submitter_active"] == 1, what="one to be active")
        for step in range(12):
            azure.faults += [chance.choice(list(Standin.FAULTS)) for _ in range(chance.randrange(3))]
            for m in machines:
                n, t = chance.randrange(1, 900), chance.randrange(5000)
                m.use(chance.randrange(2, 15), requests=n, prompt_tokens=t, completion_tokens=1)
                m.report(chance.choice((a, b)))
                served["requests"] += n
                served["tokens"] += t + 1
            if chance.random() < 0.3:
                chance.choice(machines).reimage()
            if step % 3 == 0:
                active = a if metrics("one")["submitter_active"] else b
                os.kill(active.daemon.proc.pid, signal.SIGKILL)
                active.daemon.proc.wait()
                active.start()
        azure.faults.clear()

        def together():
            held = {"requests": 0, "ktok": 0}
            for e in events(a):
                if e["state"] != "ACCEPTED":
                    held[e["dimension"]] += e["quantity"]
            return azure.quantity("requests") + held["requests"], azure.quantity("ktok") + held["ktok"]

        wait_for(lambda: together() == (served["requests"], served["tokens"]), 60, "all usage to be accepted or held")
        wait_for(lambda: status(a)["sent"] == 0 and status(a)["frozen"] == 0, 60, "every event of a past hour to be answered")
        assert together() == (served["requests"], served["tokens"])
        assert not [p for p in azure.problems]
        assert azure.quantity("requests") > 0 and status(a)["term"] >= 3


def test_late_usage_goes_into_the_open_hour_and_old_hours_are_not_sent(tmp_path, azure):
    with submitting(tmp_path, azure, "late") as s:
        assert s.register()[0] == 201
        bill(s)
        m = Machine(s, "m", "fleet")
        m.use(3, requests=10)
        m.report()
        wait_for(lambda: azure.quantity("requests") == 10, what="the hour to be accepted")
        m.use(3, requests=5)  # the same hour, which the marketplace has
        m.use(40, requests=7)  # which it would not take
        m.report()
        [still] = wait_for(lambda: [e for e in events(s) if e["state"] == "OPEN" and e["quantity"] == 12], what="it to be booked")
        assert (still["hour"], still["since"]) == (hour_text(0), hour_text(40))
        assert azure.quantity("requests") == 10 and len(azure.accepted) == 1


def test_usage_is_held_until_the_resource_is_known(tmp_path, azure):
    with submitting(tmp_path, azure, "held") as s:
        assert s.register()[0] == 201
        bill(s, resource=None)
        m = Machine(s, "m", "fleet")
        m.use(3, requests=10)
        m.report()
        wait_for(lambda: metrics("held").get('metering_held_sources{why="no_resource"}') == 1, what="the metric")
        assert events(s) == [] and "usage of 1 machines" in s.cli("submitter", "status")
        s.cli("contract", "bill", "fleet", "--plan", "plan-1", "--dimensions", "requests", "--resource", USAGE_ID)
        wait_for(lambda: azure.quantity("requests") == 10, what="it to be accepted")


def test_a_machine_that_bills_by_itself_is_not_billed_here(tmp_path, azure):
    with submitting(tmp_path, azure, "self") as s:
        assert s.register()[0] == 201
        bill(s)
        old, new = Machine(s, "old", "fleet"), Machine(s, "new", "fleet")
        old.more = {"events": {"open": 1, "accepted": 4}}
        old.use(3, requests=100)
        old.report()
        new.more = {"events": {"open": 1, "accepted": 4}, "self_billed": {"requests": 30}}
        new.use(4, requests=30)
        new.use(3, requests=11)
        assert new.report()[1]["billed_by"] == "control_plane"
        wait_for(lambda: azure.quantity("requests") == 11, what="the rest of the new one")
        old.use(2, requests=100)
        old.report()
        assert status(s)["self_billing"] == 1
        old.more = {"events": {"open": 1, "accepted": 4}, "self_billed": {"requests": 250}}  # it was upgraded
        old.use(5, requests=51)
        old.report()
        wait_for(lambda: azure.quantity("requests") == 12, what="what it did not bill")
        assert status(s)["self_billing"] == 0


def test_an_ended_subscription_refuses_its_contracts_until_it_is_taken_again(tmp_path, azure):
    with submitting(tmp_path, azure, "ended") as s:
        assert s.register()[0] == 201
        bill(s)
        bill(s, "other", "7d3e6c9c-0000-4000-8000-000000000002")
        m = Machine(s, "m", "fleet")
        azure.active = False
        m.use(3, requests=10)
        m.report()
        wait_for(lambda: m.report()[1].get("reason") == "subscription_ended", what="the contract to be refused")
        assert Machine(s, "o", "other").report()[1]["status"] == "authorized"
        m.use(4, requests=1)
        m.report()  # counted though it is refused
        azure.active = True
        wait_for(lambda: m.report()[1]["status"] == "authorized", what="it to be allowed again")
        wait_for(lambda: any(e["quantity"] == 1 and e["state"] == "ACCEPTED" for e in events(s)), what="what was used meanwhile")


def test_an_event_in_doubt_is_resolved_by_a_person(tmp_path, azure):
    with submitting(tmp_path, azure, "doubt") as s:
        assert s.register()[0] == 201
        s.cli("submitter", "resolve", "--resource", USAGE_ID, "--dimension", "requests", "--hour", hour_text(1), "--verdict", "maybe", rc=64)
        err = s.cli("submitter", "resolve", "--resource", USAGE_ID, "--dimension", "requests", "--hour", hour_text(1), "--verdict",
                    "missing", rc=66)
        assert "no parked event in doubt" in err


def test_alert_rules_name_metrics_that_there_are(tmp_path, azure):
    path = repo / "controlplane/system/trustbridge-controlplane.rules.yml"
    r = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    with submitting(tmp_path, azure, "rules"):
        wait_for(lambda: metrics("rules").get("submitter_active") == 1, what="the submitter")
        there = {name.split("{")[0] for name in metrics("rules")}
    assert set(re.findall(r"trustbridge_controlplane_(\w+)", path.read_text())) <= there


def test_settings_are_checked(tmp_path, azure):
    s = Server(tmp_path / "cp", tls=False)
    with s:
        s.cli("contract", "bill", "none", "--plan", "p", "--dimensions", "requests", rc=66)
        s.cli("contract", "add", "c", "--asset", ASSET, "--mode", "open")
        for words in (["--plan", "p"], ["--plan", "p", "--dimensions", "requests,requests"], ["--plan", "p", "--dimensions", "gold"],
                      ["--plan", "p", "--dimensions", "requests", "--resource", "a b"], ["--by-machines", "--plan", "p"]):
            s.cli("contract", "bill", "c", *words, rc=64)
        s.cli("contract", "bill", "c", "--plan", "p", "--dimensions", "requests")
        s.cli("contract", "bill", "c", "--by-machines")
        s.cli("contract", "bill", "c", "--by-machines", rc=66)
        assert '"contract.bill"' in s.cli("changes")
    for words in (["--metering", "http://example.org"], ["--metering-tenant", "t"]):
        assert "--metering" in s.cli("serve", "--http", "--listen", "127.0.0.1:0", "--submit", *words, rc=64)
