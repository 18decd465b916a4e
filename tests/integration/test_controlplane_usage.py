# SPDX-License-Identifier: Apache-2.0
"""Usage as machines report it with their requests."""

import hashlib
import hmac
import json

from controlplane_fixtures import plain, postgres
from controlplane_server import KEY


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
