# SPDX-License-Identifier: Apache-2.0
"""Usage as machines report it with their requests."""

import hashlib
import hmac
import json

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controlplane_fixtures import plain, postgres
from controlplane_server import ASSET, KEY
from machine_identity import Machine
from test_controlplane_enrolment import issue


def usage_report(at, requests, key=KEY):
    text = json.dumps({"at": at, "used": {"requests": requests}, "events": {"parked": 2}, "late_seconds": 7})
    return signed(text, key)


def signed(text, key=KEY):
    derived = hmac.new(bytes.fromhex(key), b"trustbridge usage report v1", hashlib.sha256).digest()
    return {"usage_report": text, "usage_hmac": hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()}


def test_signed_usage_reports_are_counted(plain):
    def reported(contract="contract-allow"):
        return [r["used"].get("requests") for r in json.loads(plain.cli("usage", "--json"))
                if (r["hw_id"], r["contract_id"]) == ("meter", contract)]

    def send(contract="contract-allow", **more):
        status, body = plain.authorize(contract, hw="meter", more=more)
        assert (status, body["status"]) == (200, "denied" if contract == "contract-deny" else "authorized")
        return reported(contract)

    good = usage_report("2026-01-02T00:00:00Z", 5)
    assert send(**usage_report("2026-01-02T00:00:00Z", 4, key="00" * 32)) == []
    assert send(**usage_report("no time", 4)) == [] and send(usage_report=good["usage_report"]) == []
    assert send(usage_report=7, usage_hmac=[]) == []
    assert send(**good) == [5]
    assert send(**usage_report("2026-01-01T00:00:00Z", 3)) == [5]  # an older one, sent again
    assert send(**good | {"usage_report": good["usage_report"].replace("5", "6")}) == [5]
    assert send(**usage_report("2026-01-03T00:00:00Z", 9)) == [9]
    assert send("contract-deny", **usage_report("2026-01-03T00:00:00Z", 7)) == [7]  # what was served was served
    assert "meter" in plain.cli("usage")
    row = [r for r in json.loads(plain.cli("usage", "--json")) if (r["hw_id"], r["contract_id"]) == ("meter", "contract-allow")][0]
    assert (row["flagged"], row["flags"], row["report"]["used"]["requests"]) == (1, "late", 9)


def test_usage_by_ledger_only_grows(plain):
    def send(requests, at, ledger, hw="fleet-1", contract="contract-allow"):
        text = json.dumps({"at": f"2026-02-01T00:00:{at:02}Z", "ledger": ledger, "used": {"requests": requests},
                           "hours": [{"hour": "2026-02-01T00:00:00Z", "used": {"requests": requests}}]})
        assert plain.authorize(contract, hw=hw, more=signed(text))[0] == 200
        rows = [r for r in json.loads(plain.cli("usage", "--json")) if r["hw_id"].startswith("fleet-")]
        return sum(r["used"]["requests"] for r in rows), sorted(r["flags"] for r in rows if r["flagged"])

    assert send(1000, 1, "one") == (1000, [])
    assert send(5, 2, "two") == (1005, [])  # reimaged
    assert send(300, 3, "one") == (1005, ["back"])  # a disk that was set back
    assert send(1100, 4, "one") == (1105, ["back"])
    assert send(1150, 5, "one", hw="fleet-2") == (1155, ["back", "clone"])
    assert send(1200, 6, "one", contract="contract-deny") == (1205, ["back", "clone", "clone"])  # once, whatever the contract


def test_only_the_machines_of_a_contract_raise_its_bill(plain, tmp_path):
    """Every customer of an asset has the key that signs reports, and a contract id is no secret."""
    codes = {n: plain.cli("contract", "add", n, "--asset", ASSET, "--code-uses", "3").strip() for n in ("victim", "envious")}
    own, gone, lost, other = (Machine(tmp_path, n) for n in ("own", "gone", "lost", "other"))
    assert {m.enrol(plain, "victim", codes["victim"])[0] for m in (own, gone, lost)} == {200} == {other.enrol(plain, "envious", codes["envious"])[0]}

    def tell(requests, ledger, machine=None):
        more = signed(json.dumps({"at": "2026-03-01T00:00:00Z", "ledger": ledger, "used": {"requests": requests}}))
        body = (machine.authorize(plain, "victim", more=more) if machine else plain.authorize("victim", hw=own.id, more=more))[1]
        return body.get("reason")

    def rows():
        return [r for r in json.loads(plain.cli("usage", "--json")) if r["contract_id"] == "victim"]

    def bill():
        return sum(r["used"].get("requests", 0) for r in rows())

    assert [tell(10, "own", own), tell(20, "gone", gone), tell(30, "lost", lost)] == [None] * 3 and bill() == 60
    assert tell(10 ** 6, "envious", other) == "machine_unknown" and tell(10 ** 6, "nobody") == "enrolment_required" and tell(10 ** 6, "own") == "enrolment_required"
    assert bill() == 60
    assert [(r["hw_id"], r["flagged"], r["flags"], r["report"]["ledger"]) for r in rows() if r["flagged"]] == [("", 3, "stranger", "own")]
    assert "stranger" in plain.cli("usage")
    # what these served was served
    plain.cli("machine", "remove", "victim", "--machine", gone.id)
    plain.cli("machine", "expel", "victim", "--machine", lost.id)
    assert (tell(21, "gone", gone), tell(32, "lost", lost)) == ("machine_unknown", "machine_expelled") and bill() == 63
    issue((x509.load_pem_x509_certificate((plain.data / "ca.crt").read_bytes()),
           serialization.load_pem_private_key((plain.data / "ca.key").read_bytes(), None)), own, own.id, since=-40, until=-30)
    assert tell(13, "own", own) == "client_certificate_expired" and bill() == 66
    plain.cli("contract", "revoke", "victim")
    assert tell(14, "own", own) == "contract_revoked" and bill() == 67
    assert tell(10 ** 6, "more", other) == "contract_revoked" and bill() == 67
