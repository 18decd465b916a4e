# SPDX-License-Identifier: Apache-2.0
"""Remote administration: contracts, machines, codes, assets, usage, the log; on both databases."""

import concurrent.futures
import hashlib
import hmac
import json
import pathlib
import sqlite3
import subprocess
import threading
import time

import pytest

import postgresql
import tbsys
from controlplane_admin import Caller, add_token, key
from controlplane_fixtures import postgres
from controlplane_server import ASSET, KEY, Sealed, Server

OTHER, THIRD, FOURTH = Sealed("55" * 32), Sealed("66" * 32), Sealed("99" * 32)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory):
    postgres = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    with Server(tmp_path_factory.mktemp("cp") / "data", "--client-rate", "4294967295", database=postgres and postgres.create("admin")) as s:
        def sql(text):
            if postgres:
                return postgres.sql(text, "admin")
            with sqlite3.connect(s.data / "controlplane.db") as db:
                return db.executescript(text)
        s.sql = sql
        assert s.register()[0] == 201
        yield s


@pytest.fixture(scope="module")
def owner(server):
    return add_token(server, "owner", name="the-owner")


def verify_chain(owner, path):
    """The whole chain as it is exported, which tb-audit finds sound."""
    text, start = "", 1
    while True:
        status, part, headers = owner.raw("GET", f"/changes/export?from={start}")
        assert status == 200 and headers["Content-Type"] == "application/x-ndjson"
        if not part:
            break
        text += part
        start = json.loads(part.splitlines()[-1])["seq"] + 1
    path.write_text(text)
    r = subprocess.run([tbsys.program("tb-audit"), "verify", path], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    return [json.loads(line) for line in text.splitlines()]


# -- contracts -------------------------------------------------------------------------------------------------------

def test_a_contract_from_its_first_day_to_its_last(server, owner, tmp_path):
    status, body, headers = owner.call("POST", "/contracts", {"contract_id": "acme-1", "asset_id": "tb-asset-1", "max_hw": 2})
    assert status == 201 and headers["ETag"]
    contract = body["contract"]
    assert (contract["state"], contract["mode"], contract["lease_seconds"], contract["max_hw"], contract["machines"]) == ("active", "enrolled", 3600, 2, 0)
    assert body["enrolment"]["code"].startswith("tbe-") and body["enrolment"]["uses_left"] == 1
    assert owner.get("/contracts/acme-1") == contract
    edited = owner.do("PATCH", "/contracts/acme-1", {"mode": "open", "max_hw": None, "lease_seconds": 60, "expires_at": "2099-01-01T00:00:00Z"})
    assert edited["mode"] == "open" and "max_hw" not in edited and edited["lease_seconds"] == 60 and edited["expires_at"] == "2099-01-01T00:00:00Z"
    assert server.authorize("acme-1")[1]["decryption_key_hex"] == KEY
    assert owner.get("/contracts/acme-1")["machines"] == 1
    revoked = owner.do("POST", "/contracts/acme-1/revoke")
    assert (revoked["state"], revoked["reason"]) == ("revoked", "contract_revoked")
    assert server.denied("acme-1") == "contract_revoked"
    assert owner.do("POST", "/contracts/acme-1/revoke", {"reason": "unpaid"})["state"] == "denied"
    assert server.denied("acme-1") == "unpaid"
    assert owner.do("POST", "/contracts/acme-1/allow", {})["state"] == "active"
    assert server.authorize("acme-1")[1]["status"] == "authorized"
    assert owner.do("PATCH", "/contracts/acme-1", {"expires_at": "2020-01-01T00:00:00Z"})["state"] == "expired"
    assert server.denied("acme-1") == "contract_expired"
    changes = [c for c in verify_chain(owner, tmp_path / "changes") if c["object"] == "acme-1"]
    assert [c["action"] for c in changes] == ["contract.add", "contract.code", "contract.edit", "contract.revoke", "contract.deny", "contract.allow", "contract.edit"]
    assert all(c["actor"] == "token:the-owner" and c["scopes"] == "owner" for c in changes)
    assert changes[2]["before"]["mode"] == "enrolled" and changes[2]["after"]["mode"] == "open" and changes[2]["after"]["lease_seconds"] == 60
    assert body["enrolment"]["code"] not in (tmp_path / "changes").read_text()


def test_contracts_are_listed_in_pages_and_by_state(owner):
    for i in range(5):
        owner.do("POST", "/contracts", {"contract_id": f"page-{i}", "asset_id": "tb-asset-1", "mode": "open"}, 201)
    owner.do("POST", "/contracts/page-3/revoke")
    seen, after = [], ""
    while True:
        page = owner.get(f"/contracts?limit=2{after}")
        seen += [c["contract_id"] for c in page["contracts"]]
        assert len(page["contracts"]) <= 2
        if "next" not in page:
            break
        after = f"&after={page['next']}"
    assert seen == sorted(seen) and len(seen) == len(set(seen)) and {f"page-{i}" for i in range(5)} <= set(seen)
    assert [c["contract_id"] for c in owner.get("/contracts?state=revoked&asset_id=tb-asset-1")["contracts"]] == ["page-3"]
    assert owner.get("/contracts?asset_id=other")["contracts"] == []


def test_an_edit_of_what_somebody_else_changed_is_refused(owner):
    owner.do("POST", "/contracts", {"contract_id": "match", "asset_id": ASSET, "mode": "open"}, 201)
    etag = owner.call("GET", "/contracts/match")[2]["ETag"]
    _, _, head = owner.call("PATCH", "/contracts/match", {"max_hw": 3}, If_Match=etag)
    assert head["ETag"] != etag
    owner.refused(412, "contract_changed", "PATCH", "/contracts/match", {"max_hw": 4}, If_Match=etag)
    assert owner.get("/contracts/match")["max_hw"] == 3
    owner.do("PATCH", "/contracts/match", {"max_hw": 4}, If_Match=head["ETag"])
    owner.do("PATCH", "/contracts/match", {"max_hw": 5}, If_Match="*")


def test_what_is_wrong_is_named_and_nothing_is_done(owner):
    good = {"contract_id": "wrong", "asset_id": "tb-asset-1"}
    for change, word in (({"max_hv": 1}, "max_hw"), ({"max_hw": 0}, "max_hw"), ({"max_hw": "4"}, "max_hw"), ({"lease_seconds": 1.5}, "lease_seconds"),
                         ({"mode": "closed"}, "mode"), ({"expires_at": "soon"}, "expires_at"), ({"contract_id": "a b"}, "contract_id"),
                         ({"asset_id": ".."}, "asset_id"), ({"client_ca": "no PEM"}, "client_ca"), ({"code": {"uses": 0}}, "uses"),
                         ({"code": {"expires_at": "2020-01-01T00:00:00Z"}}, "expires_at"), ({"mode": "open", "code": {}}, "code"),
                         ({"asset_id": "*", "version": 1}, "version"), ({"lease_seconds": None}, "lease_seconds")):
        answer, _ = owner.refused(400, "invalid_request", "POST", "/contracts", {**good, **change})
        assert answer["message"].startswith(f"{word} ") or word in answer["message"].split(":")[-1] or word in ("version", "code"), answer
    owner.refused(422, "asset_unknown", "POST", "/contracts", {**good, "asset_id": "no-such"})
    owner.refused(422, "asset_unknown", "POST", "/contracts", {**good, "version": 99})
    for body in (None, "[]", "{", '{"contract_id":"a","contract_id":"b"}', "7", '{"a\\u0000b":1}'):
        owner.refused(400, "invalid_request", "POST", "/contracts", body)
    owner.refused(404, "contract_unknown", "GET", "/contracts/wrong")
    owner.refused(400, "invalid_request", "PATCH", "/contracts/page-1", {})
    for query in ("limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "limt=1", "state=paid", "after=", "limit", "&".join(f"x{i}=1" for i in range(20))):
        owner.refused(400, "invalid_request", "GET", f"/contracts?{query}")
    owner.refused(404, "not_found", "GET", "/nothing")
    _, head = owner.refused(405, "method_not_allowed", "DELETE", "/contracts/page-1")
    assert head["Allow"] == "GET, HEAD, PATCH"
    owner.do("POST", "/contracts", {"contract_id": "twice", "asset_id": ASSET, "mode": "open"}, 201)
    owner.refused(409, "contract_exists", "POST", "/contracts", {"contract_id": "twice", "asset_id": ASSET, "mode": "open"})


def test_a_ca_of_the_customers(owner, tmp_path):
    pem = pathlib.Path(tbsys.CA(tmp_path).cert).read_text()
    owner.do("POST", "/contracts", {"contract_id": "own-ca", "asset_id": ASSET, "mode": "certificate", "client_ca": pem}, 201)
    assert owner.get("/contracts/own-ca")["client_ca"] == pem
    assert "client_ca" not in owner.get("/contracts?after=own-c&limit=1")["contracts"][0]
    owner.refused(400, "invalid_request", "PATCH", "/contracts/own-ca", {"mode": "open"})
    assert "client_ca" not in owner.do("PATCH", "/contracts/own-ca", {"mode": "open", "client_ca": None})


# -- machines and codes ----------------------------------------------------------------------------------------------

def test_codes_are_made_listed_and_ended(owner):
    owner.do("POST", "/contracts", {"contract_id": "codes", "asset_id": ASSET, "code": {"uses": 5}}, 201)
    more = owner.do("POST", "/contracts/codes/codes", {"uses": 2, "expires_at": "2099-01-01T00:00:00Z"}, 201)
    listed = owner.get("/codes?contract_id=codes")["codes"]
    assert sorted(k["uses_left"] for k in listed) == [2, 5] and all("code" not in k for k in listed)
    first = owner.get("/codes?contract_id=codes&limit=1")
    assert owner.get(f"/codes?contract_id=codes&limit=1&after={first['next']}")["codes"][0] not in first["codes"]
    assert owner.do("DELETE", f"/codes/{more['code_id']}")["uses_left"] == 0
    assert [k["uses_left"] for k in owner.get("/codes?contract_id=codes")["codes"]] == [5]
    owner.refused(404, "code_unknown", "DELETE", "/codes/0123456789abcdef")
    owner.refused(409, "enrolment_not_used", "POST", "/contracts/match/codes")
    owner.refused(400, "invalid_request", "GET", "/codes?after=x")


def test_machines_are_removed_and_expelled(server, owner):
    owner.do("POST", "/contracts", {"contract_id": "fleet", "asset_id": ASSET, "mode": "open", "max_hw": 3}, 201)
    for hw in ("m/1", "m:2", "m3"):
        assert server.authorize("fleet", hw=hw)[1]["status"] == "authorized"
    page = owner.get("/machines?contract_id=fleet&limit=2")
    assert [m["hw_id"] for m in page["machines"]] == ["m/1", "m3"]
    assert [m["hw_id"] for m in owner.get("/machines?contract_id=fleet&after=" + page["next"])["machines"]] == ["m:2"]
    assert {m["state"] for m in page["machines"]} == {"active"} and page["machines"][0]["enrolled"] is False
    assert server.denied("fleet", hw="m4") == "hw_limit_reached"
    assert owner.do("POST", "/machines/remove", {"contract_id": "fleet", "hw_id": "m/1"})["hw_id"] == "m/1"
    assert server.authorize("fleet", hw="m4")[1]["status"] == "authorized"
    assert owner.do("POST", "/machines/expel", {"contract_id": "fleet", "hw_id": "m3"})["state"] == "expelled"
    assert server.denied("fleet", hw="m3") == "machine_expelled"
    owner.refused(409, "machine_expelled", "POST", "/machines/remove", {"contract_id": "fleet", "hw_id": "m3"})
    owner.refused(404, "machine_unknown", "POST", "/machines/expel", {"contract_id": "fleet", "hw_id": "m/1"})
    assert [m["hw_id"] for m in owner.get("/machines?state=expelled&contract_id=fleet")["machines"]] == ["m3"]


def test_an_asset_of_many_versions_is_deleted(server, owner):
    """Its answer and its lines in the chain have no size that it could be too large for."""
    n = 1500
    assert server.register(asset="many", promote=False)[0] == 201
    columns = ("ciphertext_url, manifest_url, chunk_bytes, plaintext_bytes, sha256_ciphertext, manifest_sha256, kek_id, wrapped_key, key_id,"
               " registered_us, updated_us")
    server.sql(f"INSERT INTO asset_versions(asset_id, version, {columns}) SELECT asset_id, k.n, {columns} FROM asset_versions,"
               f" (WITH RECURSIVE c(n) AS (SELECT 2 UNION ALL SELECT n+1 FROM c WHERE n<{n}) SELECT n FROM c) AS k"
               " WHERE asset_id='many' AND version=1;")
    owner.do("POST", "/assets/many/promote", {"version": n}, Idempotency_Key=key())
    for c in owner.get("/contracts?asset_id=*&state=active")["contracts"]:
        owner.do("POST", f"/contracts/{c['contract_id']}/revoke")
    again = key()
    gone = owner.do("DELETE", "/assets/many", Idempotency_Key=again)
    assert len(gone["versions"]) == n and owner.do("DELETE", "/assets/many", Idempotency_Key=again) == gone
    lines = [json.loads(line) for line in server.cli("changes").splitlines() if '"asset.delete"' in line and '"many"' in line]
    assert sorted(v["version"] for line in lines for v in line["before"]["versions"]) == list(range(1, n + 1))
    assert max(len(line) for line in server.cli("changes").splitlines()) < 65536
    owner.refused(404, "asset_unknown", "GET", "/assets/many")
    assert server.register(asset="many")[1]["version"] == n + 1


# -- assets ----------------------------------------------------------------------------------------------------------

def test_versions_are_shown_promoted_and_deleted(server, owner):
    publisher, replacer = add_token(server, "publisher"), add_token(server, "publisher", "replace")
    if server.authorize()[1]["status"] == "authorized":
        owner.do("POST", "/contracts/contract-allow/revoke")  # which a database of its own begins with, for every asset
    for sealed in (None, OTHER, THIRD):
        server.register(asset="model", **({"sealed": sealed, "promote": False} if sealed else {}))
    asset = publisher.get("/assets/model")
    assert (asset["current_version"], [v["version"] for v in asset["versions"]], asset["live_contracts"]) == (1, [3, 2, 1], 0)
    assert KEY not in json.dumps(asset) and asset["versions"][0]["key_id"]
    assert publisher.do("POST", "/assets/model/promote", {"version": 2})["current_version"] == 2  # nobody uses it
    owner.do("POST", "/contracts", {"contract_id": "uses-model", "asset_id": "model", "mode": "open"}, 201)
    answer, _ = publisher.refused(403, "scope_missing", "POST", "/assets/model/promote", {"version": 1})
    assert answer["details"] == "owner replace"
    publisher.do("POST", "/assets/model/promote", {"version": 2})  # changes nothing
    assert server.authorize("uses-model", asset="model")[1]["decryption_key_hex"] == OTHER.key
    assert replacer.do("POST", "/assets/model/promote", {"version": 1})["current_version"] == 1
    assert server.authorize("uses-model", asset="model", hw="new")[1]["decryption_key_hex"] == KEY
    replacer.refused(404, "asset_unknown", "POST", "/assets/model/promote", {"version": 4})
    publisher.refused(409, "asset_in_use", "DELETE", "/assets/model")
    publisher.refused(409, "version_in_use", "DELETE", "/assets/model/versions/1")
    assert [v["version"] for v in publisher.do("DELETE", "/assets/model/versions/3")["versions"]] == [2, 1]
    assert server.register(asset="model", sealed=THIRD, promote=False)[1]["version"] == 4  # no number is given twice
    # a contract for every asset names the current version of this one, whether or not a machine has it
    owner.do("POST", "/contracts", {"contract_id": "uses-all", "asset_id": "*", "mode": "open"}, 201)
    owner.do("PATCH", "/contracts/uses-model", {"asset_id": ASSET})
    assert owner.get("/assets/model")["live_contracts"] == 1 and not owner.get("/machines?contract_id=uses-all")["machines"]
    publisher.refused(403, "scope_missing", "POST", "/assets/model/promote", {"version": 2})
    assert server.register(asset="model", sealed=FOURTH)[1]["error"] == "asset_in_use"
    publisher.refused(409, "asset_in_use", "DELETE", "/assets/model")
    owner.do("PATCH", "/contracts/uses-all", {"expires_at": "2026-01-01T00:00:00Z"})
    assert owner.get("/assets/model")["live_contracts"] == 0
    publisher.do("POST", "/assets/model/promote", {"version": 2})
    for machine in owner.get("/machines?contract_id=uses-model")["machines"]:  # who serves it keeps it
        publisher.refused(409, "asset_in_use", "DELETE", "/assets/model")
        owner.do("POST", "/machines/remove", {"contract_id": "uses-model", "hw_id": machine["hw_id"]})
    assert len(publisher.do("DELETE", "/assets/model")["versions"]) == 3
    publisher.refused(404, "asset_unknown", "GET", "/assets/model")
    owner.do("PATCH", "/contracts/uses-all", {"expires_at": None})
    assert server.denied("uses-all", asset="model") == "asset_unknown"
    # it comes back with a number that no machine has seen
    status, body, _ = server.register(asset="model", sealed=THIRD)
    assert (status, body["version"]) == (201, 5)


def test_registration_by_token(server, owner):
    publisher, replacer, support = add_token(server, "publisher"), add_token(server, "publisher", "replace"), add_token(server, "support")
    status, body, _ = server.register(asset="by-token", token=support.token)
    assert (status, body["error"]) == (403, "scope_missing")
    assert server.register(asset="by-token", token=publisher.token)[0] == 201
    owner.do("POST", "/contracts", {"contract_id": "by-token", "asset_id": "by-token", "mode": "open"}, 201)
    status, body, _ = server.register(asset="by-token", sealed=OTHER, token=publisher.token, replace=True)
    assert (status, body["error"], body["details"]) == (403, "scope_missing", "owner replace")
    assert server.register(asset="by-token", sealed=OTHER, token=replacer.token)[1]["error"] == "asset_in_use"
    assert server.authorize("by-token", asset="by-token")[1]["decryption_key_hex"] == KEY
    assert server.register(asset="by-token", sealed=OTHER, token=replacer.token, replace=True)[0] == 200
    assert server.register(asset="by-token", token=owner.token, replace=True)[0] == 200
    assert server.register(asset="by-token", sealed=OTHER, replace=True)[0] == 200  # provider.token, as ever
    actors = [c["actor"] for c in owner.get("/changes?limit=1000")["changes"] if c["object"] == "by-token" and c["action"].startswith("asset")]
    assert [a.split("-")[0] for a in actors] == ["token:publisher", "token:publisher", "token:the", "provider.token"]


def test_what_is_no_text(server, owner, tmp_path):
    """A fault of the caller's, whatever the database thinks of it."""
    for query in ("/contracts?after=%ff", "/contracts?asset_id=%c3", "/machines?after=a:%ff", "/codes?after=a:%ed%a0%80", "/assets?after=%ff",
                  "/tokens?after=a%80"):
        owner.refused(400, "invalid_request", "GET", query)
    assert owner.get("/machines?after=zz%3A%C3%A9") == {"machines": []}
    pem = json.dumps(pathlib.Path(tbsys.CA(tmp_path / "ca").cert).read_text())[1:-1]
    owner.do("POST", "/contracts", {"contract_id": "text", "asset_id": "tb-asset-1", "mode": "open"}, 201)
    for junk in ("junk \xff ", "\xc3", "\xed\xa0\x80"):
        body = f'{{"mode":"certificate","client_ca":"{junk}\\n{pem}"}}'.encode("latin-1")
        owner.refused(400, "invalid_request", "PATCH", "/contracts/text", body)


# -- usage and log ---------------------------------------------------------------------------------------------------

def test_usage_is_added_up(server, owner):
    def report(contract, hw, ledger, total, hours):
        text = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "ledger": ledger, "used": {"requests": total},
                           "hours": [{"hour": h, "used": {"requests": n}} for h, n in hours]})
        derived = hmac.new(bytes.fromhex(KEY), b"trustbridge usage report v1", hashlib.sha256).digest()
        mac = hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()
        assert server.authorize(contract, hw=hw, more={"usage_report": text, "usage_hmac": mac})[1]["status"] == "authorized"

    for contract in ("used-1", "used-2"):
        owner.do("POST", "/contracts", {"contract_id": contract, "asset_id": "tb-asset-1", "mode": "open"}, 201)
    report("used-1", "=a", "l1", 10, [("2026-01-01T00:00:00Z", 4), ("2026-01-01T01:00:00Z", 6)])
    report("used-1", "b", "l2", 5, [("2026-01-01T01:00:00Z", 5)])
    report("used-2", "c", "l3", 7, [("2026-01-02T00:00:00Z", 7)])
    assert owner.get("/usage?contract_id=used-1")["usage"] == [{"contract_id": "used-1", "used": {"requests": 15}}]
    assert owner.get("/usage?contract_id=used-1&by=machine")["usage"] == [
        {"contract_id": "used-1", "hw_id": "=a", "used": {"requests": 10}}, {"contract_id": "used-1", "hw_id": "b", "used": {"requests": 5}}]
    assert owner.get("/usage?by=key&contract_id=used-2")["usage"] == [{"contract_id": "used-2", "asset_id": "tb-asset-1", "used": {"requests": 7}}]
    rows = owner.get("/usage?from=2026-01-01T01:00:00Z&to=2026-01-02T00:00:00Z")["usage"]
    assert rows == [{"contract_id": "used-1", "used": {"requests": 11}}]
    assert owner.get("/usage?from=2026-01-01T00:30:00Z&to=2026-01-01T00:40:00Z")["usage"] == []
    status, text, headers = owner.raw("GET", "/usage?by=machine&format=csv&contract_id=used-1")
    assert status == 200 and headers["Content-Type"].startswith("text/csv")
    assert text == "contract_id,hw_id,asset_id,counter,used\r\nused-1,\"'=a\",,requests,10\r\nused-1,b,,requests,5\r\n"
    for query in ("by=month", "format=xml", "from=monday", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "contract_id=a%20b"):
        owner.refused(400, "invalid_request", "GET", f"/usage?{query}")


def test_verdicts_are_listed_the_newest_first(server, owner):
    owner.do("POST", "/contracts", {"contract_id": "logged", "asset_id": ASSET, "mode": "open"}, 201)
    for hw in ("one", "two", "three"):
        server.authorize("logged", hw=hw)
    page = owner.get("/log?contract_id=logged&limit=2")
    assert [e["hw_id"] for e in page["log"]] == ["three", "two"]
    assert [e["hw_id"] for e in owner.get(f"/log?contract_id=logged&after={page['next']}")["log"]] == ["one"]
    assert owner.get("/log?limit=1")["log"][0]["hw_id"] == "three"
    assert (page["log"][0]["status"], page["log"][0]["version"]) == ("authorized", 1)


def test_changes_are_listed_in_pages(owner):
    for name in "abc":  # the owner's token is a change of its own
        owner.do("POST", "/contracts", {"contract_id": f"page-{name}", "asset_id": ASSET, "mode": "open"}, 201)
    first = owner.get("/changes?limit=3")
    assert [c["seq"] for c in first["changes"]] == [1, 2, 3]
    assert owner.get(f"/changes?limit=1&after={first['next']}")["changes"][0]["seq"] == 4


# -- idempotency -----------------------------------------------------------------------------------------------------

def test_a_request_said_again_is_answered_again_and_done_once(server, owner, tmp_path):
    body, again = {"contract_id": "once", "asset_id": "*"}, key()
    first = owner.call("POST", "/contracts", body, Idempotency_Key=again)
    second = owner.call("POST", "/contracts", body, Idempotency_Key=again)
    assert first[:2] == second[:2] and first[0] == 201 and first[1]["enrolment"]["code"]
    assert "Idempotent-Replay" not in first[2] and second[2]["Idempotent-Replay"] == "true" and first[2]["ETag"] == second[2]["ETag"]
    owner.refused(422, "idempotency_key_reused", "POST", "/contracts", {**body, "max_hw": 2}, Idempotency_Key=again)
    owner.refused(422, "idempotency_key_reused", "POST", "/contracts/once/revoke", None, Idempotency_Key=again)
    # of another caller it is another key
    add_token(server, "owner").refused(409, "contract_exists", "POST", "/contracts", body, Idempotency_Key=again)
    # who was refused may ask again
    refused = key()
    owner.refused(404, "contract_unknown", "POST", "/contracts/later/revoke", None, Idempotency_Key=refused)
    owner.do("POST", "/contracts", {"contract_id": "later", "asset_id": ASSET, "mode": "open"}, 201)
    owner.do("POST", "/contracts/later/revoke", Idempotency_Key=refused)
    for bad in ("short", "x" * 101, "0123456789 abcdef"):
        owner.refused(400, "invalid_request", "POST", "/contracts/later/revoke", None, Idempotency_Key=bad)
    changes = [c for c in verify_chain(owner, tmp_path / "changes") if c["object"] == "once"]
    assert [c["action"] for c in changes] == ["contract.add", "contract.code"] and len(changes[0]["idempotency"]) == 64
    assert again not in (tmp_path / "changes").read_text()


def test_what_is_kept_for_a_replay_tells_nobody_the_token(server, owner):
    again = key()
    token = owner.do("POST", "/tokens", {"name": "kept", "scopes": ["auditor"]}, 201, Idempotency_Key=again)["token"]
    assert owner.do("POST", "/tokens", {"name": "kept", "scopes": ["auditor"]}, 201, Idempotency_Key=again)["token"] == token
    database = server.env.get("TBCP_DATABASE")
    if database:
        dump = subprocess.run([postgresql.programs() / "pg_dump", database], capture_output=True).stdout
    else:
        dump = b"".join(p.read_bytes() for p in server.data.glob("controlplane.db*"))
    assert b"kept" in dump
    for secret in (token, token[4:], again):
        assert secret.encode() not in dump
        assert secret not in server.log.read_text()


def test_racing_requests_of_one_key_are_one(server, owner, tmp_path):
    """And racing changes are a chain without a gap."""
    def one(i):
        return owner.call("POST", "/contracts", {"contract_id": f"race-{i // 4}", "asset_id": ASSET}, Idempotency_Key=f"race-of-keys-{i // 4:04}")

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(48)))
    for i in range(12):
        group = answers[4 * i:4 * i + 4]
        done = [a for a in group if a[0] == 201]
        assert done and all(a[0] in (201, 503) for a in group), [a[:2] for a in group]
        assert len({json.dumps(a[1]) for a in done}) == 1 and sum("Idempotent-Replay" not in a[2] for a in done) == 1
    changes = verify_chain(owner, tmp_path / "changes")
    assert [c["seq"] for c in changes] == list(range(1, len(changes) + 1))
    assert sum(c["action"] == "contract.add" and c["object"].startswith("race-") for c in changes) == 12


def test_replicas_write_one_chain(postgres, tmp_path):
    database = postgres.create("replicas")
    with Server(tmp_path / "a", database=database) as a, Server(tmp_path / "b", database=database) as b:
        first = add_token(a, "owner", name="both")
        callers, failed = [first, Caller(b, first.token)], []

        def work(n):
            for i in range(8):
                for _ in range(50):
                    status, body, _ = callers[n % 2].call("POST", "/contracts", {"contract_id": f"r{n}-{i}", "asset_id": "*", "mode": "open"},
                                                          Idempotency_Key=f"of-two-replicas-{n}-{i}")
                    if status != 503:
                        break
                if status != 201:
                    failed.append((status, body))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failed, failed
        changes = verify_chain(first, tmp_path / "changes")
        assert [c["seq"] for c in changes] == list(range(1, len(changes) + 1))
        assert sum(c["action"] == "contract.add" for c in changes) == 48
