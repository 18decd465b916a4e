# SPDX-License-Identifier: Apache-2.0
"""Who may call what: tokens, their scopes, and guessing them; on both databases."""

import itertools
import json
import re
import threading

import pytest
import yaml

import tbsys
from controlplane_admin import SCOPES, Caller, add_token
from controlplane_fixtures import postgres
from controlplane_server import Server, until_limited

SPEC = yaml.safe_load((tbsys.repo / "docs" / "controlplane.openapi.yaml").read_text())
CALLS = [(method.upper(), path, op["operationId"], op["x-scopes"]) for path, item in SPEC["paths"].items()
         for method, op in item.items() if method in ("get", "post", "put", "patch", "delete") and "x-scopes" in op]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory):
    database = request.getfixturevalue("postgres").create("tokens") if request.param == "postgresql" else None
    with Server(tmp_path_factory.mktemp("cp") / "data", "--client-rate", "4294967295", database=database) as s:
        assert s.register()[0] == 201
        s.cli("contract", "add", "matrix", "--asset", "*")
        yield s


@pytest.fixture(scope="module")
def owner(server):
    return add_token(server, "owner", name="the-owner")


def test_the_table_is_the_one_of_the_description(tmp_path):
    """What `token scopes` prints, what the file says, and what its text says of every call."""
    s = Server(tmp_path / "data")
    s.data.mkdir()
    table = {(c["method"], c["path"], c["operation"]): set(c["scopes"]) for c in json.loads(s.cli("token", "scopes", "--json"))}
    assert table == {(m, re.sub(r"{\w+}", "{}", p), o): set(x) for m, p, o, x in CALLS}
    admin = {p for p in SPEC["paths"] if p.startswith("/api/v1/admin/")}
    assert {p for _, p, _, _ in CALLS} == admin | {"/api/v1/assets/register"}
    assert "owner" in s.cli("token", "scopes")


def test_every_call_with_every_scope(server, owner):
    """The matrix: a scope that is not in the table is refused, one that is gets past the door."""
    callers = {scope: add_token(server, scope) for scope in SCOPES}
    path_of = {"contract_id": "matrix", "asset_id": "no-such-asset", "version": "7", "name": "no-such-token", "code_id": "0123456789abcdef",
               "offer_id": "no-such-offer", "purchase_id": "no-such-purchase", "image": "no-such-image"}
    count = 0
    for (method, path, operation, scopes), scope in itertools.product(CALLS, SCOPES):
        before = owner.get("/changes?limit=1000")["changes"][-1]["seq"]
        target = re.sub(r"{(\w+)}", lambda m: path_of[m[1]], path)
        status, text, _ = callers[scope].raw(method, target, None if method == "GET" else {"no_such_member": 1})
        answer = json.loads(text) if status >= 400 else {}
        if scope in scopes:
            assert status in (200, 400, 404), (operation, scope, status, text)
        else:
            assert (status, answer["error"]) == (403, "scope_missing"), (operation, scope, status, text)
            assert set(answer["details"].split()) == set(scopes) and scope in answer["message"]
            assert owner.get("/changes?limit=1000")["changes"][-1]["seq"] == before
        count += 1
    assert count == len(CALLS) * len(SCOPES) == 44 * 7


def test_tokens_are_made_shown_once_and_revoked(server, owner):
    made = owner.do("POST", "/tokens", {"name": "ci", "scopes": ["publisher", "replace"], "expires_at": "2026-12-01T00:00:00Z"}, 201)
    caller = Caller(server, made["token"])
    assert re.fullmatch("tbt_[0-9a-f]{64}", made["token"])
    me = caller.get("/whoami")
    assert (me["name"], me["kind"], me["scopes"], me["expires_at"]) == ("token:ci", "token", ["publisher", "replace"], "2026-12-01T00:00:00Z")
    row = next(t for t in owner.get("/tokens")["tokens"] if t["name"] == "ci")
    assert row["state"] == "active" and row["created_by"] == "token:the-owner" and row["last_used_at"] and "token" not in row
    assert owner.do("DELETE", "/tokens/ci")["state"] == "revoked"
    answer, head = caller.refused(401, "unauthorized", "GET", "/whoami")
    assert "was revoked" in answer["message"] and head["WWW-Authenticate"].startswith("Bearer")
    owner.refused(409, "token_exists", "POST", "/tokens", {"name": "ci", "scopes": ["owner"]})
    owner.refused(404, "token_unknown", "DELETE", "/tokens/nobody")
    page = owner.get("/tokens?limit=1")
    assert owner.get(f"/tokens?limit=1&after={page['next']}")["tokens"][0]["name"] > page["tokens"][0]["name"]
    for body in ({"name": "x"}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["root"]}, {"name": "x", "scopes": ["owner", "owner"]},
                 {"name": "x", "scopes": "owner"}, {"name": "x y", "scopes": ["owner"]}, {"name": "x", "scopes": ["owner support"]},
                 {"name": "x", "scopes": ["owner"], "expires_at": "2020-01-01T00:00:00Z"}, {"name": "x", "scopes": ["owner"], "expires_at": "2099-01-01T00:00:00Z"}):
        owner.refused(400, "invalid_request", "POST", "/tokens", body)


def test_tokens_on_the_server(server, owner):
    text = server.cli("token", "add", "by-hand", "--scope", "support", "--scope", "auditor", "--expires-in", "1h")
    assert Caller(server, text.strip()).get("/whoami")["scopes"] == ["support", "auditor"]
    row = next(t for t in json.loads(server.cli("token", "list", "--json")) if t["name"] == "by-hand")
    assert row["created_by"].startswith("cli:") and row["scopes"] == ["support", "auditor"]
    assert text.strip() not in server.cli("token", "list")
    server.cli("token", "revoke", "by-hand")
    Caller(server, text.strip()).refused(401, "unauthorized", "GET", "/whoami")
    assert "no token by-foot" in server.cli("token", "revoke", "by-foot", rc=66)
    for options in ((), ("--scope", "root"), ("--scope", "owner", "--expires-in", "401d"), ("--scope", "owner", "--expires", "2020-01-01T00:00:00Z")):
        server.cli("token", "add", "bad", *options, rc=64)
    assert "another name" in server.cli("token", "add", "by-hand", "--scope", "owner", rc=64)


def test_a_token_ends(server, owner):
    caller = add_token(server, "auditor", options=("--expires-in", "2s"))
    assert caller.get("/whoami")
    tbsys.wait_for(lambda: caller.call("GET", "/whoami")[0] == 401, 20, "the token to end")
    assert "is over" in caller.refused(401, "unauthorized", "GET", "/whoami")[0]["message"]


def test_the_token_of_old_is_a_publisher(server):
    old = Caller(server, server.token)
    assert (old.get("/whoami")["kind"], old.get("/whoami")["scopes"]) == ("provider_token", ["publisher", "replace"])
    old.refused(403, "scope_missing", "GET", "/contracts")


def test_no_token_and_what_looks_like_one(server):
    bad = ("", "x", "tbt_", "tbt_" + "0" * 64, "tbt_" + "0" * 63, "TBT_" + "0" * 64, "0" * 64, "a.b.c", "é", "x" * 5000)
    for token in bad:
        status, text, _ = Caller(server, token.encode().decode("latin-1")).raw("GET", "/whoami")
        assert (status, json.loads(text)["error"]) in ((401, "unauthorized"), (429, "too_many_requests")), token
    for value in ("Basic dGJ0Xw==", "Bearer", "Bearer ", "bearer"):
        assert Caller(server, None).raw("GET", "/whoami", headers={"Authorization": value})[0] in (401, 429)


def test_guessing_is_slowed_and_counted(tmp_path):
    with Server(tmp_path / "data", "--metrics-listen", "127.0.0.1:0") as s:
        good, guesser = add_token(s, "auditor"), Caller(s, "tbt_" + "1" * 64)
        assert good.get("/whoami")
        assert until_limited(lambda _: guesser.raw("GET", "/contracts")[0]) == {401}
        # who guesses changes nothing meanwhile, whatever the token; a probe is not held up
        tbsys.wait_for(lambda: guesser.raw("GET", "/contracts") and Caller(s, good.token).raw("POST", "/machines/remove", {})[0] == 429,
                       what="a right token that is limited, too")
        assert s.call("GET", "/health")[0] == 200
        log = s.log.read_text()
        assert "there is no such token" in log and "too many requests" in log and "1" * 64 not in log and good.token not in log


def test_a_revoked_token_does_nothing_that_had_begun(server, owner):
    """Whoever asks while the token is revoked has either done it before, or not at all."""
    for i in range(6):
        caller = add_token(server, "owner", name=f"racing-{i}")
        answers = []

        def work():
            while 401 not in answers:  # no more: who guesses is slowed
                answers.append(caller.call("POST", "/contracts", {"contract_id": f"rev-{i}-{len(answers)}", "asset_id": "*", "mode": "open"})[0])

        t = threading.Thread(target=work)
        t.start()
        tbsys.wait_for(lambda: len(answers) > 3, 20, "some contracts")
        owner.do("DELETE", f"/tokens/racing-{i}")
        t.join()
    changes = []
    after = ""
    while True:
        page = owner.get(f"/changes?limit=1000{after}")
        changes += page["changes"]
        if "next" not in page:
            break
        after = f"&after={page['next']}"
    for i in range(6):
        revoked = next(c["seq"] for c in changes if c["action"] == "token.revoke" and c["object"] == f"racing-{i}")
        assert all(c["seq"] < revoked for c in changes if c["actor"] == f"token:racing-{i}")


def test_nobody_writes_lines_into_the_log(server, owner):
    """What a path holds, of a stranger's too, stays in its line."""
    for caller in (owner, Caller(server, None)):
        status, text, _ = caller.raw("DELETE", "/tokens/a%0Atb-controlplane:%20forged%1B[2J")
        assert status in (401, 404) and "\\u001b" not in text and "\\n" not in text
    log = server.log.read_text()
    assert "\x1b" not in log and "forged" in log and not any(line.startswith("tb-controlplane: forged") for line in log.splitlines())


def test_a_path_is_what_it_looks_like(server):
    """Who guards paths before the server guards what he sees: nothing is found under another spelling."""
    caller = add_token(server, "owner")
    status = {}
    for path in ("/api/v1/admin%2fwhoami", "/api/v1/admin%2Fwhoami", "/api%2fv1/admin/whoami", "/api/v1/%61dmin/whoami", "/%61pi/v1/admin/whoami",
                 "/api/v1/admin/whoami%00", "/api/v1/admin/whoami%00/x", "//api/v1/admin/whoami", "/api/v1//admin/whoami", "/api/v1/./admin/whoami",
                 "/API/v1/admin/whoami", "/api/v1/admin/whoami/", "/api/v1/admin/assets/..%2fwhoami", "/api/v1/admin/contracts/x%2Frevoke"):
        s = server.connection()
        s.connect()
        s.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {caller.token}\r\nConnection: close\r\n\r\n".encode())
        status[path] = s.sock.makefile("rb").readline().split()[1]
        s.close()
    assert set(status.values()) == {b"404"}, status
    # a parameter may hold what it likes, and a name anything else
    assert caller.get("/machines?after=a%3Ab%2Fc") == {"machines": []}
    caller.refused(404, "contract_unknown", "GET", "/contracts/a%2Db%20c")


def test_a_scope_is_one_word(server):
    caller = add_token(server, "owner")
    for scopes in (["auditor\towner"], ["auditor owner"], [" auditor"], ["auditor\t"], ["Owner"], ["owner", "owner"], [], {"0": "owner"}, ["owner", 1], [None]):
        caller.refused(400, "invalid_request", "POST", "/tokens", {"name": "worded", "scopes": scopes})
