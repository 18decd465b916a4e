# SPDX-License-Identifier: Apache-2.0
"""Who pays for what, from anywhere: offers, purchases, how a contract is billed and the submitter's events, by the admin API and by tbpkg;
on both databases, each exchange judged by docs/controlplane.openapi.yaml."""

import json
import secrets
import sqlite3

import pytest

import postgresql
import tbsys
from controlplane_admin import add_token, key
from controlplane_desk import Desk
from controlplane_server import ASSET, Server, signed_report

SUBSCRIPTION = "0a1b2c3d-0000-4000-8000-00000000000a"
USAGE_ID = "7d3e6c9c-0000-4000-8000-000000000001"
PLAN = "acme/models/gold"
TERMS = {"plan": "gold", "dimensions": "requests,tokens=ktok", "resource": USAGE_ID}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request, tmp_path_factory):
    """A control plane that takes notifications and believes them."""
    directory = tmp_path_factory.mktemp("cp")
    sig = secrets.token_urlsafe(24)
    (directory / "sig").write_text(sig + "\n")
    with postgresql.PostgreSQL() as pg:
        database = pg.create("billing") if request.param == "postgresql" else None
        with Server(directory / "data", "--purchase-sig-file", directory / "sig", "--purchase-verify", "false", "--client-rate", "4294967295",
                    database=database) as s:
            def sql(text):
                if database:
                    return pg.sql(text, "billing")
                with sqlite3.connect(s.data / "controlplane.db") as db:
                    db.executescript(text)
            s.sig, s.sql = sig, sql
            assert s.register()[0] == 201
            yield s


@pytest.fixture(scope="module")
def owner(place):
    return add_token(place, "owner")


@pytest.fixture(scope="module")
def desk(place, tmp_path_factory):
    """Whoever keeps the accounts."""
    return Desk(tmp_path_factory.mktemp("desk") / "home", f"https://127.0.0.1:{place.port}", place.data / "ca.crt",
                add_token(place, "billing").token)


def application(name):
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Solutions/applications/{name}"


def notify(place, name, plan=PLAN, event="PUT", state="Succeeded"):
    publisher, product, plan = plan.split("/")
    body = {"eventType": event, "applicationId": application(name), "eventTime": "2026-11-26T00:00:00Z", "provisioningState": state,
            "plan": {"publisher": publisher, "product": product, "name": plan, "version": "1.0.0"}, "billingDetails": {"resourceUsageId": USAGE_ID}}
    assert place.call("POST", f"/api/v1/purchases/resource?sig={place.sig}", json.dumps(body), {"Content-Type": "application/json"})[0] == 200


def changes(owner, action):
    return [c for c in owner.get("/changes?limit=1000")["changes"] if c["action"] == action]


def test_a_contract_is_billed_here_and_by_its_machines_again(owner, desk):
    owner.do("POST", "/contracts", {"contract_id": "bill-1", "asset_id": ASSET, "mode": "open"}, 201)
    assert owner.get("/contracts/bill-1/billing") == {"contract_id": "bill-1", "by": "machines"}
    again = key()
    first = owner.do("PUT", "/contracts/bill-1/billing", TERMS, Idempotency_Key=again)
    assert first == owner.get("/contracts/bill-1/billing") and {k: first[k] for k in TERMS} == TERMS and first["by"] == "control_plane"
    owner.do("PUT", "/contracts/bill-1/billing", {**TERMS, "plan": "silver"})
    status, text, head = owner.raw("PUT", "/contracts/bill-1/billing", TERMS, {"Idempotency-Key": again})
    assert (status, json.loads(text), head["Idempotent-Replay"]) == (200, first, "true")
    assert owner.get("/contracts/bill-1/billing")["plan"] == "silver"  # said again, not done again
    owner.refused(422, "idempotency_key_reused", "PUT", "/contracts/bill-1/billing", {**TERMS, "plan": "bronze"}, Idempotency_Key=again)
    log = [c for c in changes(owner, "contract.bill") if c["object"] == "bill-1"]
    assert [(c["before"].get("plan"), c["after"].get("plan")) for c in log] == [(None, "gold"), ("gold", "silver")]
    assert log[0]["before"]["by"] == "machines" and log[0]["idempotency"] != again

    table = desk.tbpkg("contract", "bill", "bill-1")
    assert "silver" in table and USAGE_ID in table and "control_plane" in table
    assert desk.json("contract", "bill", "bill-1", "--by-machines") == {"contract_id": "bill-1", "by": "machines"}
    assert "not billed here" in desk.tbpkg("contract", "bill", "bill-1", "--by-machines", rc=3)
    assert desk.json("contract", "bill", "bill-1", "--plan", "gold", "--dimensions", "requests")["by"] == "control_plane"
    assert "resource" not in desk.json("contract", "bill", "bill-1")  # held until it is known
    assert "no contract" in desk.tbpkg("contract", "bill", "bill-0", rc=3)
    for wrong in (["--plan", "gold"], ["--resource", "x"], ["--by-machines", "--plan", "gold", "--dimensions", "requests"]):
        assert "tbpkg contract bill --help" in desk.tbpkg("contract", "bill", "bill-1", *wrong, rc=2)


def test_terms_that_are_none(owner):
    owner.do("POST", "/contracts", {"contract_id": "bill-2", "asset_id": ASSET, "mode": "open"}, 201)
    for wrong in ({}, {"plan": "gold"}, {"dimensions": "requests"}, {**TERMS, "plan": "a b"}, {**TERMS, "plan": ""}, {**TERMS, "dimensions": "sheep"},
                  {**TERMS, "dimensions": "requests,requests"}, {**TERMS, "dimensions": "requests," * 60}, {**TERMS, "dimensions": 7},
                  {**TERMS, "resource": "a b"}, {**TERMS, "resource": "/" + "x" * 1000}, {**TERMS, "resource": ""}, {**TERMS, "price": 1}, []):
        got, answer, _ = owner.call("PUT", "/contracts/bill-2/billing", wrong)
        assert (got, answer["error"]) == (400, "invalid_request"), wrong
    assert owner.get("/contracts/bill-2/billing")["by"] == "machines" and not [c for c in changes(owner, "contract.bill") if c["object"] == "bill-2"]
    for method in ("GET", "PUT", "DELETE"):
        owner.refused(404, "contract_unknown", method, "/contracts/bill-0/billing", TERMS if method == "PUT" else None)
    status, _, head = owner.raw("PATCH", "/contracts/bill-2/billing", TERMS)
    assert status == 405 and head["Allow"] == "GET, HEAD, PUT, DELETE"


def test_usage_that_was_reported_stays_billed_here(place, owner, desk):
    owner.do("POST", "/contracts", {"contract_id": "bill-3", "asset_id": ASSET, "mode": "open"}, 201)
    owner.do("PUT", "/contracts/bill-3/billing", TERMS)
    report = signed_report(at="2026-11-01T00:00:00Z", ledger="l-1", used={"requests": 5})
    assert place.authorize("bill-3", more=report)[1]["billed_by"] == "control_plane"
    owner.refused(409, "usage_reported", "DELETE", "/contracts/bill-3/billing")
    assert "tbpkg contract add" in desk.tbpkg("contract", "bill", "bill-3", "--by-machines", rc=5)


def test_offers(place, owner, desk):
    assert "gets a contract for" in desk.said("offer", "add", "gold", "--plan", "Acme/Models/Gold", "--asset", f"{ASSET}@1", "--max-hw", "3",
                                                  "--dimensions", "requests,tokens=ktok", "--mode", "open")
    offer = owner.get("/offers/gold")
    assert offer == desk.json("offer", "show", "gold") == owner.get("/offers")["offers"][0]
    assert (offer["source"], offer["version"], offer["max_hw"], offer["mode"], offer["lease_seconds"]) == (PLAN, 1, 3, "open", 3600)
    assert PLAN in desk.tbpkg("offer", "list")
    owner.refused(409, "plan_taken", "PUT", "/offers/other", {"plan": PLAN, "asset_id": ASSET})
    assert "tbpkg offer list" in desk.tbpkg("offer", "add", "other", "--plan", PLAN, "--asset", ASSET, rc=5)
    assert owner.do("PUT", "/offers/gold", {"plan": PLAN, "asset_id": ASSET, "mode": "open"})["created_at"] == offer["created_at"]
    assert "version" not in owner.get("/offers/gold")
    for n in range(3):
        owner.do("PUT", f"/offers/o{n}", {"definition": f"/subscriptions/x/o{n}", "asset_id": ASSET}, 201)
    page = owner.get("/offers?limit=2")
    assert [o["offer_id"] for o in page["offers"]] == ["gold", "o0"] and page["next"] == "o0"
    assert [o["offer_id"] for o in owner.get("/offers?limit=2&after=o0")["offers"]] == ["o1", "o2"]
    assert len(desk.json("offer", "list")["offers"]) == 4
    for n in range(3):
        owner.do("DELETE", f"/offers/o{n}")
    owner.refused(404, "offer_unknown", "DELETE", "/offers/o0")
    assert "did you mean 'gold'" in desk.tbpkg("offer", "show", "golf", rc=3)
    for wrong in ({"asset_id": ASSET}, {"plan": PLAN, "definition": "/x", "asset_id": ASSET}, {"plan": "a/b", "asset_id": ASSET},
                  {"plan": "a/b/c/d", "asset_id": ASSET}, {"plan": "/b/c", "asset_id": ASSET}, {"definition": "x", "asset_id": ASSET},
                  {"plan": PLAN, "asset_id": "*"}, {"plan": PLAN}, {"plan": PLAN, "asset_id": ASSET, "mode": "x"}, {"plan": "x" * 400, "asset_id": ASSET},
                  {"plan": PLAN, "asset_id": ASSET, "dimensions": "sheep"}, {"definition": "/x", "asset_id": ASSET, "dimensions": "requests"}):
        got, answer, _ = owner.call("PUT", "/offers/wrong", wrong)
        assert (got, answer["error"]) == (400, "invalid_request"), wrong
    owner.refused(400, "invalid_request", "PUT", "/offers/a.b", {"plan": PLAN, "asset_id": ASSET})
    owner.refused(422, "asset_unknown", "PUT", "/offers/wrong", {"plan": "a/b/c", "asset_id": "no-such"})
    owner.refused(422, "asset_unknown", "PUT", "/offers/wrong", {"plan": "a/b/c", "asset_id": ASSET, "version": 99})
    assert [o["offer_id"] for o in owner.get("/offers")["offers"]] == ["gold"]
    assert {c["object"] for c in changes(owner, "offer.remove")} == {"o0", "o1", "o2"}


def test_purchases(place, owner, desk):
    owner.do("PUT", "/offers/gold", {"plan": PLAN, "asset_id": ASSET, "mode": "open", "dimensions": "requests"}, 200)
    for name in ("one", "two"):
        notify(place, name)
    notify(place, "odd", plan="acme/models/silver")
    rows = tbsys.wait_for(lambda: (rows := owner.get("/purchases")["purchases"]) and len([r for r in rows if r["state"] in ("granted", "held")]) == 3 and rows,
                          what="three purchases that are looked at")
    by = {r["application_id"].rsplit("/", 1)[1]: r for r in rows}
    assert by["one"]["contract_id"] == by["one"]["purchase_id"] and by["odd"]["contract_id"] == ""
    shown = desk.json("purchase", "show", by["one"]["purchase_id"])
    assert shown["terms"][0]["resource_usage_id"] == USAGE_ID and "to" not in shown["terms"][0]
    assert owner.get(f"/contracts/{by['one']['contract_id']}/billing")["plan"] == "gold"
    assert PLAN in desk.tbpkg("purchase", "show", by["two"]["contract_id"])
    held = desk.json("purchase", "list", "--state", "held")["purchases"]
    assert [h["purchase_id"] for h in held] == [by["odd"]["purchase_id"]] and "offer add" in held[0]["problem"]
    assert desk.json("purchase", "show", held[0]["purchase_id"])["state"] == "held"
    assert [p["purchase_id"] for p in desk.json("purchase", "list", "--contract", by["two"]["contract_id"])["purchases"]] == [by["two"]["purchase_id"]]
    page = owner.get("/purchases?limit=2")
    rest = owner.get(f"/purchases?limit=2&after={page['next']}")
    assert page["purchases"] + rest["purchases"] == rows and "next" not in rest
    desk.tbpkg("offer", "add", "silver", "--plan", "acme/models/silver", "--asset", ASSET, "--mode", "open")
    tbsys.wait_for(lambda: desk.json("purchase", "show", held[0]["purchase_id"])["state"] == "granted", what="the one that waited for its offer")
    owner.refused(404, "purchase_unknown", "GET", "/purchases/app-0")
    for after in ("x", ":", "x:y", "1", "-1:x", "1" * 30 + ":x"):
        owner.refused(400, "invalid_request", "GET", f"/purchases?after={after}")


def test_a_contract_awaits_a_purchase(owner, desk):
    owner.do("POST", "/contracts", {"contract_id": "await-1", "asset_id": ASSET}, 201)
    assert SUBSCRIPTION in desk.said("contract", "await", "await-1", "--subscription", SUBSCRIPTION)
    assert desk.json("contract", "await", "await-1", "--subscription", "none") == {"contract_id": "await-1"}
    desk.tbpkg("contract", "await", "await-1", rc=2)
    for wrong in ({}, {"subscription": "x"}, {"subscription": SUBSCRIPTION + "0"}, {"subscription": 3}):
        owner.refused(400, "invalid_request", "POST", "/contracts/await-1/await", wrong)
    owner.refused(404, "contract_unknown", "POST", "/contracts/await-0/await", {"subscription": SUBSCRIPTION})
    assert [c.get("after", {}).get("subscription") for c in changes(owner, "contract.await")] == [SUBSCRIPTION, None]


def test_events_and_what_a_person_says_of_them(place, owner, desk):
    place.sql("".join(f"INSERT INTO billing_events VALUES('{r}','requests',{h},'gold',5,1,'{state}',{doubt},{h},1,-1,'because');"
                      for r, h, state, doubt in ((USAGE_ID, 490000, "PARKED", 1), (USAGE_ID, 490001, "PARKED", 1), ("/x/" + "y" * 990, 490001, "ACCEPTED", 0),
                                                 ("z", 490001, "OPEN", 0), ("z", 490002, "PARKED", 0))))
    hour = "2025-11-24T16:00:00Z"
    rows = desk.json("submitter", "events")["events"]
    assert [(e["hour"], e["state"], e["doubt"]) for e in rows] == [(hour, "PARKED", True), ("2025-11-24T17:00:00Z", "PARKED", True),
                                                                    ("2025-11-24T17:00:00Z", "OPEN", False), ("2025-11-24T18:00:00Z", "PARKED", False)]
    everything, after = [], ""
    while after is not None:
        page = owner.get("/submitter/events?state=all&limit=1" + (f"&after={after}" if after else ""))
        everything += page["events"]
        after = page.get("next")
    assert len(everything) == 5 == len(desk.json("submitter", "events", "--all")["events"])
    status = desk.json("submitter", "status")
    assert (status["parked"], status["in_doubt"], status["accepted"], status["open"], status["term"]) == (3, 2, 1, 1, 0)
    assert "In doubt" in desk.tbpkg("submitter", "status")

    this = ["--resource", USAGE_ID, "--dimension", "requests", "--hour"]
    assert "counts as accepted" in desk.said("submitter", "resolve", *this, hour, "--verdict", "accepted")
    assert "sent again" in desk.said("submitter", "resolve", *this, "2025-11-24T17:00:00Z", "--verdict", "missing")
    assert "no parked event in doubt" in desk.tbpkg("submitter", "resolve", *this, hour, "--verdict", "missing", rc=3)
    assert {(e["hour"], e["resource"]): e["state"] for e in owner.get("/submitter/events?state=all")["events"]}[hour, USAGE_ID] == "ACCEPTED"
    desk.tbpkg("submitter", "resolve", *this, hour, rc=2)
    good = {"resource": USAGE_ID, "dimension": "requests", "hour": hour, "verdict": "missing"}
    for wrong in ({"hour": "2025-11-24T16:00:01Z"}, {"verdict": "maybe"}, {"resource": ""}, {"dimension": "a b"}, {"hour": "1969-01-01T00:00:00Z"}):
        owner.refused(400, "invalid_request", "POST", "/submitter/resolve", {**good, **wrong})
    for after in ("x", "1", "1:", "x:y:z", "1:" + "d" * 200 + ":z"):
        owner.refused(400, "invalid_request", "GET", f"/submitter/events?after={after}")
    assert [c["after"]["verdict"] for c in changes(owner, "submitter.resolve")] == ["accepted", "missing"]


def test_who_keeps_the_accounts_does_nothing_else(place, desk):
    clerk = add_token(place, "billing")
    for method, path in (("POST", "/contracts"), ("POST", "/contracts/bill-1/revoke"), ("POST", "/contracts/bill-1/codes"), ("GET", "/machines"),
                         ("GET", "/changes"), ("POST", "/tokens"), ("DELETE", f"/assets/{ASSET}")):
        clerk.refused(403, "scope_missing", method, path)
    assert desk.json("contract", "list")["contracts"] and desk.json("usage") is not None
    assert "billing" in desk.tbpkg("whoami")
    for who in ("support", "auditor", "publisher", "replace"):
        other = add_token(place, who)
        for method, path, body in (("PUT", "/contracts/bill-1/billing", TERMS), ("DELETE", "/contracts/bill-1/billing", None),
                                   ("PUT", "/offers/x", {"plan": "a/b/c", "asset_id": ASSET}), ("POST", "/submitter/resolve", {}),
                                   ("POST", "/contracts/bill-1/await", {})):
            other.refused(403, "scope_missing", method, path, body)
