# SPDX-License-Identifier: Apache-2.0
"""docs/controlplane.openapi.yaml is what the server does: each path, method and status in it is provoked here, in one process, and each
route that the server has is in it. What is said and answered is judged by controlplane_server.Checked."""

import concurrent.futures
import contextlib
import json
import re
import secrets
import sqlite3
import subprocess
import threading
import urllib.request

import pytest

import postgresql
import tbsys
from controlplane_admin import Caller, add_token, key
from controlplane_server import ASSET, BLOBS, SEALED, Sealed, Server, signed_report
from machine_identity import Machine
from openapi import SPEC

OTHER = Sealed("77" * 32)
JSON = {"Content-Type": "application/json"}
MACHINES = ["/api/v1/license/authorize", "/api/v1/machines/enrol", "/api/v1/machines/renew", "/api/v1/assets/register",
            "/api/v1/purchases/resource"]
SEEN = set()


@pytest.fixture(autouse=True)
def judge():
    """What each test showed; the last one adds it up."""
    SPEC.seen.clear()
    yield
    SPEC.finish()
    SEEN.update(SPEC.seen)


@pytest.fixture(scope="module")
def sig(tmp_path_factory):
    path = tmp_path_factory.mktemp("sig") / "sig"
    path.write_text(secrets.token_urlsafe(24) + "\n")
    return path


def serve(directory, sig, *options, **kw):
    return Server(directory, "--purchase-sig-file", sig, "--purchase-verify", "false", "--seed", *options, **kw)


@pytest.fixture(scope="module")
def server(tmp_path_factory, sig):
    with serve(tmp_path_factory.mktemp("cp") / "data", sig, "--client-rate", "4294967295", "--contract-rate", "100000") as s:
        s.sig = sig.read_text().strip()
        yield s


@pytest.fixture(scope="module")
def owner(server):
    return add_token(server, "owner")


def notice():
    return {"eventType": "PUT", "applicationId": "/subscriptions/0a1b2c3d-0000-4000-8000-00000000000a/resourceGroups/rg/providers/"
            "Microsoft.Solutions/applications/a1", "eventTime": "2026-11-26T00:00:00Z", "provisioningState": "Accepted"}


# -- what is right -----------------------------------------------------------------------------------------------------

def test_machines_and_register(server, owner, tmp_path):
    assert server.register()[0] == 201 and server.register()[0] == 200
    assert server.authorize()[1]["status"] == "authorized" and server.denied("contract-deny")
    code = owner.do("POST", "/contracts", {"contract_id": "openapi-1", "asset_id": ASSET}, 201)["enrolment"]["code"]
    m = Machine(tmp_path)
    assert m.enrol(server, "openapi-1", code)[0] == 200 and m.renew(server)[0] == 200
    assert m.authorize(server, "openapi-1")[1]["status"] == "authorized"
    assert server.call("POST", f"/api/v1/purchases/resource?sig={server.sig}", notice(), JSON)[0] == 200
    for path in ("/api/v1/health", "/health"):
        assert server.call("GET", path)[0] == 200


def test_each_call_of_administration(server, owner, tmp_path):
    publisher = add_token(server, "publisher")
    for path in ("/whoami", "/contracts", "/contracts?asset_id=*&state=active&limit=1", "/codes", "/machines?state=active", "/assets", "/tokens",
                 "/log", "/changes", "/usage?by=machine&from=2026-01-01T00:00:00Z"):
        owner.get(path)
    assert owner.raw("GET", "/usage?format=csv")[0] == owner.raw("GET", "/changes/export")[0] == 200
    made = owner.do("POST", "/contracts", {"contract_id": "openapi-2", "asset_id": ASSET, "code": {"uses": 3}}, 201, Idempotency_Key=key())
    owner.get("/contracts/openapi-2")
    etag = owner.call("GET", "/contracts/openapi-2")[2]["ETag"]
    owner.do("PATCH", "/contracts/openapi-2", {"max_hw": 3, "expires_at": None}, If_Match=etag)
    owner.refused(412, "contract_changed", "PATCH", "/contracts/openapi-2", {"max_hw": 4}, If_Match=etag)
    owner.refused(409, "contract_exists", "POST", "/contracts", {"contract_id": "openapi-2", "asset_id": ASSET})
    owner.refused(422, "asset_unknown", "POST", "/contracts", {"contract_id": "openapi-3", "asset_id": "no-such-asset"})
    code = owner.do("POST", "/contracts/openapi-2/codes", {"uses": 1}, 201)
    owner.do("DELETE", f"/codes/{code['code_id']}")
    for name, what in (("m1", "remove"), ("m2", "expel")):
        m = Machine(tmp_path, name)
        assert m.enrol(server, "openapi-2", made["enrolment"]["code"])[0] == 200
        m.authorize(server, "openapi-2")
        owner.do("POST", f"/machines/{what}", {"contract_id": "openapi-2", "hw_id": m.id})
    owner.do("POST", "/contracts/openapi-2/revoke")
    owner.do("POST", "/contracts/openapi-2/allow")
    owner.do("POST", "/contracts/contract-allow/revoke")  # which is for every asset
    for sealed in (SEALED, OTHER):
        assert server.register(asset="openapi-asset", sealed=sealed, token=publisher.token)[0] in (200, 201)
    assert [v["version"] for v in owner.get("/assets/openapi-asset")["versions"]] == [2, 1]
    publisher.do("POST", "/assets/openapi-asset/promote", {"version": 1})
    publisher.do("DELETE", "/assets/openapi-asset/versions/2")
    publisher.do("DELETE", "/assets/openapi-asset")
    owner.do("POST", "/contracts/contract-allow/allow")
    owner.do("POST", "/tokens", {"name": "openapi", "scopes": ["auditor"]}, 201)
    owner.do("DELETE", "/tokens/openapi")


def test_each_call_of_images(owner):
    doc = {"format": "trustbridge-image/v1", "image": "openapi", "version": "1.0", "pcrs": {n: ["0" * 64] for n in ("4", "11", "12", "13", "14")}, "debug": False}
    owner.do("POST", "/images", doc, 201)
    owner.do("POST", "/images", doc)
    owner.refused(409, "image_exists", "POST", "/images", {**doc, "debug": True})
    owner.get("/images?limit=1")
    contract = {"contract_id": "openapi-image", "asset_id": "*", "mode": "open", "attest": {"level": "image", "images": ["openapi@1.0"], "secure_boot": True}}
    owner.do("POST", "/contracts", contract, 201)
    owner.refused(422, "image_unknown", "PATCH", "/contracts/openapi-image", {"attest": {"level": "image", "images": ["other"]}})
    owner.do("POST", "/images/openapi/versions/1.0/revoke")
    owner.refused(409, "image_revoked", "POST", "/images", doc)
    owner.refused(404, "image_unknown", "POST", "/images/openapi/versions/2.0/revoke")


def test_each_call_of_the_accounts(server, owner):
    plan = {"plan": "acme/models/openapi", "asset_id": ASSET}
    owner.do("POST", "/keks/rewrap")
    for path in ("/keks", "/offers", "/purchases?state=held", "/submitter", "/submitter/events?state=all"):
        owner.get(path)
    owner.do("PUT", "/offers/openapi", plan, 201)
    owner.do("PUT", "/offers/openapi", plan)
    owner.get("/offers/openapi")
    owner.refused(409, "plan_taken", "PUT", "/offers/other", plan)
    owner.refused(422, "asset_unknown", "PUT", "/offers/openapi", {**plan, "asset_id": "no-such-asset"})
    owner.do("DELETE", "/offers/openapi")
    owner.do("POST", "/contracts", {"contract_id": "openapi-bill", "asset_id": ASSET, "mode": "open"}, 201)
    owner.get("/contracts/openapi-bill/billing")
    owner.do("PUT", "/contracts/openapi-bill/billing", {"plan": "p", "dimensions": "requests"})
    owner.do("DELETE", "/contracts/openapi-bill/billing")
    owner.refused(404, "billing_unknown", "DELETE", "/contracts/openapi-bill/billing")
    owner.do("PUT", "/contracts/openapi-bill/billing", {"plan": "p", "dimensions": "requests"})
    assert server.authorize("openapi-bill", more=signed_report(at="2026-11-01T00:00:00Z", ledger="l", used={"requests": 1}))[0] == 200
    owner.refused(409, "usage_reported", "DELETE", "/contracts/openapi-bill/billing")
    with sqlite3.connect(server.data / "controlplane.db") as db:
        db.execute("INSERT INTO billing_events VALUES('r', 'requests', 490000, 'p', 5, 1, 'PARKED', 1, 490000, 1, -1, '')")
    doubt = {"resource": "r", "dimension": "requests", "hour": "2025-11-24T16:00:00Z", "verdict": "accepted"}
    owner.do("POST", "/submitter/resolve", doubt)
    owner.refused(404, "event_unknown", "POST", "/submitter/resolve", doubt)
    owner.do("POST", "/contracts/openapi-bill/await", {"subscription": None})
    assert server.call("POST", f"/api/v1/purchases/resource?sig={server.sig}", notice(), JSON)[0] == 200
    owner.get(f"/purchases/{owner.get('/purchases')['purchases'][0]['purchase_id']}")


def test_metrics(tmp_path, sig):
    port = tbsys.free_port()
    with serve(tmp_path / "data", sig, "--metrics-listen", f"127.0.0.1:{port}"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as r:
            SPEC.check("GET", "/metrics", {}, b"", r.status, dict(r.headers.items()), r.read())


# -- what is wrong -----------------------------------------------------------------------------------------------------

def post(server, path, body, **tls):
    if "purchases" in path:
        path += f"?sig={server.sig}"
    headers = {**JSON, "Authorization": f"Bearer {server.token}"} if "register" in path else JSON
    return server.call("POST", path, body, headers, **tls)[0]


@pytest.mark.parametrize("path", MACHINES)
def test_bodies_that_are_none_or_too_large(server, path):
    assert post(server, path, "{") == 400
    assert post(server, path, json.dumps({"x": "x" * 70000})) == 413


def test_who_may_not(server, owner, tmp_path, sig):
    m = Machine(tmp_path)
    assert m.enrol(server, "contract-allow", "tbe-" + "0" * 26)[0] == 403 and m.renew(server, cert=False)[0] == 403
    assert server.register(token="0" * 64)[0] == 401
    assert server.register(token=add_token(server, "auditor").token)[0] == 403
    assert server.call("POST", f"/api/v1/purchases/resource?sig={'x' * 20}", notice(), JSON)[0] == 403
    owner.do("POST", "/contracts", {"contract_id": "openapi-live", "asset_id": ASSET}, 201)
    assert server.register(sealed=OTHER)[0] == 409
    assert server.register(BLOBS.put(OTHER, "openapi-odd"), asset="openapi-odd", key="11" * 32)[0] == 422
    administration = [op for op in SPEC.operations if "admin" in op.text["tags"]]
    for n in range(0, len(administration), 25):  # who guesses more often is slowed
        with Server(tmp_path / f"guessed-{n}") as s:
            for op in administration[n:n + 25]:
                path = re.sub(r"{\w+}", "x", op.template.replace("{version}", "7").replace("{code_id}", "0123456789abcdef"))
                Caller(s, "tbt_" + "0" * 64).refused(401, "unauthorized", op.method, path)
    with Server(tmp_path / "strict", "--client-auth") as s:
        s.register()
        assert s.authorize()[0] == 401
        foreign = tbsys.CA(tmp_path / "foreign").issue("gpu-1")
        assert s.authorize(cert=foreign)[0] == 403
        assert s.call("POST", "/api/v1/purchases/resource?sig=" + "x" * 20, notice(), JSON)[0] == 404  # it takes none


HEALTH = ["/health", "/api/v1/health"]


def every_call(server, paths=(*HEALTH, *MACHINES)):
    """A status for each, all at the same time."""
    def ask(path):
        if path in HEALTH:
            return server.call("GET", path)[0]
        return server.machine.renew(server)[0] if "renew" in path else post(server, path, server.bodies[path])
    with concurrent.futures.ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(ask, paths))


def prepare(server, tmp_path):
    """The requests of every_call(): good ones."""
    m = SEALED.manifest
    ciphertext = BLOBS.put(SEALED, "openapi-every")
    server.machine = Machine(tmp_path)
    code = server.cli("contract", "add", "openapi-every", "--asset", "*", "--code-uses", "100").strip().splitlines()[-1]
    assert server.machine.enrol(server, "openapi-every", code)[0] == 200
    server.bodies = dict(zip(MACHINES, (
        {"contract_id": "contract-allow", "asset_id": ASSET, "hw_id": "h1"},
        {"contract_id": "openapi-every", "code": code, "csr": Machine(tmp_path, "other").csr()}, None,
        {"asset_id": "openapi-every", "decryption_key_hex": SEALED.key, "blob_urls": {"ciphertext": ciphertext, "manifest": ciphertext + ".json"},
         "metadata": {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": m["chunk_bytes"],
                      "plaintext_bytes": m["plaintext_bytes"], "sha256_ciphertext": SEALED.sha256}}, notice())))


@contextlib.contextmanager
def asked_all_the_time(server):
    """However slow one call is here, another client of this address asks more often than once a second."""
    end = threading.Event()

    def ask():
        while not end.is_set():
            server.call("GET", "/health")
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        yield
    finally:
        end.set()
        for t in threads:
            t.join(30)


def test_a_client_that_asks_too_often(tmp_path, sig):
    with serve(tmp_path / "data", sig, "--client-rate", "1") as s:
        s.sig = sig.read_text().strip()
        prepare(s, tmp_path)
        with asked_all_the_time(s):
            for path in (*HEALTH, *MACHINES):
                tbsys.wait_for(lambda path=path: every_call(s, [path]) == [429], 60, f"429 of {path}", every=0)


def test_a_database_that_is_away(tmp_path, sig):
    with postgresql.PostgreSQL() as db, serve(tmp_path / "data", sig, "--client-rate", "4294967295", database=db.create("openapi")) as s:
        s.sig = sig.read_text().strip()
        prepare(s, tmp_path)
        db.kill()
        assert every_call(s) == [503] * 7


def test_a_database_that_is_damaged(tmp_path, sig):
    """Tables that are gone. A server that finds its database so opens it anew, which makes a 503 of it where no version can be read."""
    with serve(tmp_path / "data", sig, "--client-rate", "4294967295", "--workers", "1") as s:
        def sql(text):
            return subprocess.run(["sqlite3", s.data / "controlplane.db"], input=text, capture_output=True, text=True, check=True).stdout.split()
        s.sig = sig.read_text().strip()
        prepare(s, tmp_path)
        for path in HEALTH:
            sql("ALTER TABLE schema_version RENAME TO lost;")
            assert s.call("GET", path)[0] == 500
            sql("ALTER TABLE lost RENAME TO schema_version;")
            tbsys.wait_for(lambda path=path: s.call("GET", path)[0] == 200, what="a sound database")
        tables = sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name != 'schema_version'")
        sql("".join(f"ALTER TABLE {t} RENAME TO lost_{t};" for t in tables))
        assert every_call(s, MACHINES) == [500] * 5


# -- the whole ---------------------------------------------------------------------------------------------------------

def test_each_status_of_the_file_was_seen():
    missing = []
    for op in SPEC.operations:
        statuses = {status for method, template, status in SEEN if (method, template) == (op.method, op.template)}
        for status in op.text["responses"]:
            if status == "default" and not any(s >= 400 for s in statuses):
                missing.append(f"{op}: any error")
            elif status != "default" and int(status) not in statuses:
                missing.append(f"{op}: {status}")
    assert not missing, "\n".join(missing)


def test_each_route_of_the_server_is_in_the_file_and_none_else(tmp_path):
    """The table that the server answers by, and what `token scopes` prints of its other one."""
    table = re.search(r"routes\[\] = {(.*?)^};", (tbsys.repo / "controlplane/api/api.c").read_text(), re.S | re.M)[1]
    routes = {("POST" if post == "true" else "GET", path.replace("//", "/")) for path, post in re.findall(r'{"([^"]+)", \w+, (true|false)}', table)}
    assert len(routes) >= 7
    s = Server(tmp_path / "data")
    s.data.mkdir()
    routes |= {(c["method"], c["path"]) for c in json.loads(s.cli("token", "scopes", "--json"))}
    in_file = {(op.method, re.sub(r"{\w+}", "{}", op.template)) for op in SPEC.operations}
    assert routes | {("GET", "/metrics")} == in_file  # which is another listener's
