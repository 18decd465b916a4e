# SPDX-License-Identifier: Apache-2.0
"""A provider's month: everything that somebody with a URL and a token does from anywhere, by tbpkg alone, each exchange judged by
docs/controlplane.openapi.yaml. Beside the server only what is its operator's: the first token, its key-encryption key, its backup.
The month is the one before this: what machines report of it has its hours, as reports that were kept back have."""

import csv
import datetime
import hashlib
import hmac
import io
import json
import shutil
import sqlite3
import subprocess

import pytest

import tbsys
from controlplane_desk import Desk
from controlplane_server import BLOBS, Sealed, Server, tbenc_ref
from machine_identity import Machine
from recorder import Recorder

MODEL = "my-model"
FIRST, SECOND = (Sealed(b * 32, plaintext=text * 300) for b, text in (("0a", b"the first weights "), ("0b", b"the second weights ")))
NOW = datetime.datetime.now(datetime.timezone.utc)
END = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
BEGIN = (END - datetime.timedelta(days=1)).replace(day=1)


class Meter:
    """A customer's machine: it enrols, asks, and reports what it served. `served` is what will have to be on the bill."""

    def __init__(self, place, directory, name, contract, code):
        self.place, self.contract, self.ledger, self.total, self.hours = place, contract, f"ledger-{name}", 0, {}
        self.machine = Machine(directory, name)
        status, body = self.machine.enrol(place.server, contract, code)
        assert status == 200, body
        self.id = self.machine.id

    def serve(self, day, requests):
        hour = (BEGIN + datetime.timedelta(days=day - 1, hours=day % 24)).strftime("%Y-%m-%dT%H:00:00Z")
        self.total += requests
        self.hours[hour] = self.hours.get(hour, 0) + requests

    def ask(self, sealed=FIRST):
        """The next renewal, with a report. sealed: the version that the machine has had, whose key signs it."""
        at = (NOW - datetime.timedelta(seconds=max(0, 3600 - self.total))).strftime("%Y-%m-%dT%H:%M:%SZ")
        text = json.dumps({"at": at, "ledger": self.ledger, "used": {"requests": self.total},
                           "hours": [{"hour": h, "used": {"requests": n}} for h, n in sorted(self.hours.items())]})
        derived = hmac.new(bytes.fromhex(sealed.key), b"trustbridge usage report v1", hashlib.sha256).digest()
        status, body = self.machine.authorize(self.place.server, self.contract, asset=MODEL, more={
            "usage_report": text, "usage_hmac": hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()})
        assert status == 200
        return body

    def has(self, sealed, version, before=None):
        body = self.ask(before or sealed)
        return (body.get("decryption_key_hex"), body.get("asset_version")) == (sealed.key, version) or body

    def refused(self, reason, sealed=FIRST):
        body = self.ask(sealed)
        return (body["status"], body.get("reason")) == ("denied", reason) and "decryption_key_hex" not in body or body


class Place:
    """The server, wherever it is: what is in front of it stays."""

    def __init__(self, directory):
        self.directory, self.n, self.kek = directory, 0, None
        self.server = None

    def start(self, data="data"):
        self.n += 1
        self.server = Server(self.directory / data, "--client-rate", "4294967295", "--contract-rate", "100000", name=f"server-{self.n}")
        if self.kek:
            self.server.env = self.server.daemon.env = {"TBCP_KEK": f"file:{self.kek}"}
        self.server.start()
        return self.server

    def stop(self):
        self.server.daemon.stop()


@pytest.fixture
def place(tmp_path):
    p = Place(tmp_path)
    p.start()
    yield p
    p.stop()


def register(desk, sealed, name, *options):
    """As the provider's guide has it: ciphertext and manifest are in the storage, the key is in a file."""
    text = tbenc_ref.format_manifest({**sealed.manifest, "asset_id": MODEL}).encode()
    folder = f"/month/{name}/{MODEL}"
    BLOBS.files[f"{folder}/model.tbenc"], BLOBS.files[f"{folder}/model.manifest.json"] = sealed.ciphertext, text
    (desk.home / "m.json").write_bytes(text)
    (desk.home / "key").write_text(sealed.key)
    return json.loads(desk.tbpkg("register", "--asset-id", MODEL, "--manifest", "m.json", "--key-file", "key", "--insecure-http", "--blob-url",
                                 f"{BLOBS.url}/month/{name}", *options))


def backup(server, directory):
    """What docs say of a backup: the database as it is at one instant, and the files beside it."""
    directory.mkdir()
    with sqlite3.connect(server.data / "controlplane.db") as source, sqlite3.connect(directory / "controlplane.db") as copy:
        source.backup(copy)
    for f in server.data.iterdir():
        if not f.name.startswith("controlplane.db"):
            shutil.copy2(f, directory)


def test_a_month(place, tmp_path):
    first = place.server.cli("token", "add", "owner", "--scope", "owner").strip()
    ca = shutil.copy(place.server.data / "ca.crt", tmp_path)
    front = Recorder(lambda: place.server.connection(), (place.server.data / "server.crt", place.server.data / "server.key"))
    with front:
        owner = Desk(tmp_path / "owner", front.url, ca, first)
        publisher = Desk(tmp_path / "publisher", front.url, ca, owner.tbpkg("token", "add", "ci", "--scope", "publisher", "--scope", "replace"))
        support = Desk(tmp_path / "support", front.url, ca, owner.tbpkg("token", "add", "desk", "--scope", "support"))

        # the first day: a model, two customers; an answer that is lost makes no second code
        assert register(publisher, FIRST, "v1")["version"] == 1
        front.lose = 1
        code = support.tbpkg("contract", "add", "acme-1", "--asset", MODEL, "--max-hw", "2", "--code-uses", "2")
        assert front.lost == 1 and [c["uses_left"] for c in support.json("enrol", "list", "--contract", "acme-1")["codes"]] == [2]
        other = support.tbpkg("contract", "add", "globex-1", "--asset", MODEL)
        a1, a2 = Meter(place, tmp_path / "m", "a1", "acme-1", code), Meter(place, tmp_path / "m", "a2", "acme-1", code)
        g1 = Meter(place, tmp_path / "m", "g1", "globex-1", other)
        for m, day, n in ((a1, 1, 100), (a2, 2, 40), (g1, 3, 7)):
            m.serve(day, n)
            assert m.has(FIRST, 1) is True
        assert support.json("contract", "show", "acme-1")["machines"] == 2

        # a version is made ready, promoted, rolled back, promoted again
        assert register(publisher, SECOND, "v2", "--no-promote")["version"] == 2
        a1.serve(9, 5)
        assert a1.has(FIRST, 1) is True
        assert [(v["version"], v["current"]) for v in publisher.json("asset", "promote", f"{MODEL}@2")["versions"]] == [(2, True), (1, False)]
        assert a1.has(SECOND, 2, before=FIRST) is True and g1.has(SECOND, 2, before=FIRST) is True
        publisher.tbpkg("asset", "promote", f"{MODEL}@1")
        assert a1.has(FIRST, 1, before=SECOND) is True
        publisher.tbpkg("asset", "promote", f"{MODEL}@2")
        for m in (a1, a2, g1):
            assert m.has(SECOND, 2, before=FIRST) is True
        assert "contract" in publisher.tbpkg("asset", "delete", MODEL, "--yes", rc=5)

        # a machine is lost: it is out for good, its customer has another
        a2.serve(14, 3)
        support.tbpkg("machine", "expel", "acme-1", "--machine", a2.id)
        assert a2.refused("machine_expelled", SECOND) is True
        a3 = Meter(place, tmp_path / "m", "a3", "acme-1", support.tbpkg("enrol", "acme-1"))
        a3.serve(15, 11)
        assert a3.has(SECOND, 2) is True
        assert {m["hw_id"]: m["state"] for m in support.json("machine", "list", "--contract", "acme-1")["machines"]} == {
            a1.id: "active", a2.id: "expelled", a3.id: "active"}

        # a customer does not pay; what it served until then counts; then it pays
        g1.serve(19, 2)
        support.tbpkg("contract", "revoke", "globex-1", "--reason", "unpaid")
        assert g1.refused("unpaid", SECOND) is True
        support.tbpkg("contract", "allow", "globex-1")
        assert g1.has(SECOND, 2) is True
        # and may have its model until a day that is over, then longer
        support.tbpkg("contract", "edit", "globex-1", "--expires", BEGIN.strftime("%Y-%m-%d"))
        assert g1.refused("contract_expired", SECOND) is True and support.json("contract", "show", "globex-1")["state"] == "expired"
        support.tbpkg("contract", "edit", "globex-1", "--expires-in", "720h")

        # the operator of the server: another key-encryption key, while it serves
        place.kek = tmp_path / "kek"
        place.kek.write_text("cd" * 32)
        place.kek.chmod(0o600)
        place.stop()
        place.start()
        # its custodian wraps everything anew from anywhere, with a token for that alone
        custodian = Desk(tmp_path / "custodian", front.url, ca, owner.tbpkg("token", "add", "keys", "--scope", "keys"))
        assert {k["current"] for k in custodian.json("kek", "list")["keks"]} == {False}
        assert "every key is under file:" in custodian.said("kek", "rewrap")
        assert [k["current"] for k in custodian.json("kek", "list")["keks"]] == [True]
        assert "one of the scopes" in custodian.tbpkg("contract", "list", rc=4)
        (place.server.data / "master.key").unlink()
        place.stop()
        place.start()
        g1.serve(22, 4)
        assert g1.has(SECOND, 2) is True and support.json("whoami")["scopes"] == ["support"]

        # a backup; the server is lost; what was done after the backup is, too
        backup(place.server, tmp_path / "restored")
        lost = support.tbpkg("enrol", "acme-1")
        assert len(support.json("enrol", "list")["codes"]) == 1
        place.stop()
        shutil.rmtree(place.server.data)
        place.start("restored")
        assert support.json("enrol", "list")["codes"] == []
        status, body = Machine(tmp_path / "m", "late").enrol(place.server, "acme-1", lost)
        assert (status, body["reason"]) == (403, "enrolment_code_invalid")
        a1.serve(27, 1000)
        for m in (a1, a3, g1):
            assert m.has(SECOND, 2) is True
        assert a2.refused("machine_expelled", SECOND) is True

        # the bill: what each machine served in the month, however it ended
        bill = list(csv.DictReader(io.StringIO(support.tbpkg("usage", "--from", BEGIN.strftime("%Y-%m-%d"), "--to", END.strftime("%Y-%m-%d"),
                                                             "--by", "machine", "--csv"))))
        assert {(r["contract_id"], r["hw_id"]): int(r["used"]) for r in bill if r["counter"] == "requests"} == {
            (m.contract, m.id): m.total for m in (a1, a2, a3, g1)}
        totals = {u["contract_id"]: u["used"]["requests"] for u in support.json("usage")["usage"]}
        assert totals == {"acme-1": a1.total + a2.total + a3.total, "globex-1": g1.total}

        # who did what: a chain without a gap
        (tmp_path / "changes").write_text(owner.tbpkg("changes") + "\n")
        assert subprocess.run([tbsys.program("tb-audit"), "verify", tmp_path / "changes"], capture_output=True).returncode == 0
        done = [(c["actor"], c["action"]) for c in map(json.loads, (tmp_path / "changes").read_text().splitlines())]
        assert done.count(("token:ci", "asset.promote")) == 3 and ("token:desk", "machine.expel") in done and done.count(("token:desk", "contract.add")) == 2
        assert "one of the scopes" in support.tbpkg("token", "list", rc=4)
        assert {e["reason"] for e in support.json("log", "--limit", "500")["log"]} >= {"", "machine_expelled", "unpaid", "contract_expired"}

        # the accounts: a contract is billed to its customer's resource, a plan is sold
        clerk = Desk(tmp_path / "clerk", front.url, ca, owner.tbpkg("token", "add", "clerk", "--scope", "billing"))
        clerk.tbpkg("contract", "bill", "acme-1", "--plan", "gold", "--dimensions", "requests", "--resource", "7d3e6c9c-0000-4000-8000-000000000001")
        assert clerk.json("contract", "bill", "acme-1")["by"] == "control_plane"
        clerk.tbpkg("offer", "add", "gold", "--plan", "acme/models/gold", "--asset", MODEL)
        assert clerk.json("purchase", "list")["purchases"] == [] and clerk.json("submitter", "status")["term"] == 0

        # the last day
        support.tbpkg("contract", "revoke", "globex-1")
        assert g1.refused("contract_revoked", SECOND) is True
        owner.tbpkg("token", "revoke", "ci")
        assert "tbpkg token add" in publisher.tbpkg("asset", "list", rc=4)
