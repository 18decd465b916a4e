# SPDX-License-Identifier: Apache-2.0
"""tb-proxy's API keys as different clients bring them, web pages of other origins, and routes that no wildcard opens."""

import hashlib
import json
import threading
import time

import pytest

from patience import patient
from proxy_backend import simple
from proxy_daemon import error_of, make  # noqa: F401
from tbsys import wait_for

PAGE = {"Origin": "https://page.example"}
ASKS = {**PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}
BEARER = {"Authorization": "Bearer key-a"}


@pytest.fixture
def keyed(make, tmp_path):  # noqa: F811
    def build(**env):
        path = tmp_path / "keys"
        path.write_text("alice:%s rpm=100\n" % hashlib.sha256(b"key-a").hexdigest())
        p = make(TB_API_KEYS=path, **env).ready().start()
        p.keys_file = path
        return p
    return build


@pytest.mark.parametrize("headers", [
    {"Authorization": "Bearer key-a"}, {"authorization": "bearer  key-a"}, {"x-api-key": "key-a"}, {"Api-Key": "key-a"},
    {"api-key": "key-a", "Authorization": "Bearer key-a"}, {"Authorization": "Basic eDp5", "X-API-Key": "key-a"},
    {"Authorization": "Bearer ", "api-key": "key-a"}])
def test_a_key_in_any_field_is_known_and_kept_from_the_runtime(keyed, headers):
    p = keyed()
    assert p.ask("GET", "/v1/models", headers=headers)[0] == 200
    head = p.backend.requests[-1].head.lower()
    assert b"key-a" not in head and b"api-key" not in head and b"authorization" not in head
    assert p.wait_records(1)[0]["key_name"] == "alice"


@pytest.mark.parametrize("headers, want", [
    ({"Authorization": "Bearer key-a", "api-key": "other"}, (400, "conflicting_api_keys")),
    ({"x-api-key": "other", "api-key": "key-a"}, (400, "conflicting_api_keys")),
    ({"api-key": "other"}, (401, "invalid_api_key")), ({"x-api-key": ""}, (401, "invalid_api_key")),
    ({"Authorization": "Basic key-a"}, (401, "invalid_api_key"))])
def test_two_keys_or_a_wrong_one(keyed, headers, want):
    p = keyed()
    answer = p.ask("GET", "/v1/models", headers=headers)
    assert error_of(answer) == want and p.backend.requests == []
    assert b"other" not in answer[1] and b"key-a" not in answer[1]
    [record] = p.wait_records(1)
    assert record["error"] == want[1] and "key_name" not in record
    assert "key-a" not in p.audit_file.read_text()


def test_without_keys_of_ours_the_runtime_has_its_own(make):  # noqa: F811
    p = make().ready().start()
    assert p.ask("GET", "/v1/x", headers={"Authorization": "Bearer r", "x-api-key": "s", "api-key": "t"})[0] == 200
    got = p.backend.requests[-1].headers
    assert (got["authorization"], got["x-api-key"], got["api-key"]) == (["Bearer r"], ["s"], ["t"])


# --- pages of other origins ---------------------------------------------------------------------------------------------


def test_a_preflight_needs_no_key(keyed):
    p = keyed()
    status, body, headers = p.ask("OPTIONS", "/v1/chat/completions", headers=ASKS)
    assert (status, body) == (204, b"")
    assert headers["Access-Control-Allow-Origin"] == "*" and "Access-Control-Allow-Credentials" not in headers
    assert headers["Access-Control-Allow-Headers"] == ASKS["Access-Control-Request-Headers"]
    assert "POST" in headers["Access-Control-Allow-Methods"] and int(headers["Access-Control-Max-Age"]) > 0
    assert p.ask("OPTIONS", "/v1/x", headers=PAGE)[0] == 401  # no preflight: a request like any other
    assert p.backend.requests == []
    assert [(r["method"], r["status"]) for r in p.wait_records(2)] == [("OPTIONS", 204), ("OPTIONS", 401)]


def test_a_page_can_read_every_answer(keyed):
    p = keyed(TB_MAX_BODY_BYTES="1000")
    good = {**PAGE, **BEARER}

    def broken(conn, rq):
        return False
    p.backend.routes["/v1/broken"] = broken
    answers = [p.ask("GET", "/v1/x", headers=PAGE), p.ask("GET", "/v1/x", headers=good), p.ask("GET", "/admin", headers=good),
               p.ask("POST", "/v1/x", b"x" * 1001, good), p.ask("GET", "/v1/broken", headers=good),
               p.ask("GET", "/v1/../x", headers=good), p.ask("TRACE", "/v1/x", headers=good)]
    p.keys_file.write_text("alice:%s rpm=1\n" % hashlib.sha256(b"key-a").hexdigest())
    wait_for(lambda: p.ask("GET", "/v1/x", headers=good)[0] == 429, what="the new limit")
    answers.append(p.ask("GET", "/v1/x", headers=good))
    assert answers[-1][2]["Retry-After"]
    p.write("tb-authorize", "suspended", reason="denied")
    p.lease(state="denied", reason="denied")
    wait_for(lambda: p.ask("GET", "/v1/x", headers=good)[0] == 403, what="the suspension")
    answers.append(p.ask("GET", "/v1/x", headers=good))
    assert [a[0] for a in answers] == [401, 200, 404, 413, 502, 400, 405, 429, 403]
    for status, _, headers in answers:
        assert headers.get_all("Access-Control-Allow-Origin") == ["*"], status
        exposed = headers["Access-Control-Expose-Headers"].lower()
        assert "x-request-id" in exposed and "retry-after" in exposed and "x-ratelimit-remaining-tokens" in exposed
        assert "Origin" in headers["Vary"]
    assert p.ask("OPTIONS", "/v1/x", headers=ASKS)[0] == 204  # suspended: the page must get to see the 403


def test_what_the_runtime_says_is_not_doubled(keyed):
    p = keyed()
    p.backend.routes["/v1/x"] = lambda conn, rq: conn.sendall(simple(b"{}", extra=(
        "Access-Control-Allow-Origin: https://other.example\r\nAccess-Control-Allow-Credentials: true\r\n"
        "access-control-expose-headers: x\r\nVary: Accept\r\n")))
    headers = p.ask("GET", "/v1/x", headers={**PAGE, **BEARER})[2]
    assert headers.get_all("Access-Control-Allow-Origin") == ["*"] and len(headers.get_all("Access-Control-Expose-Headers")) == 1
    assert "Access-Control-Allow-Credentials" not in headers
    assert {v.strip() for line in headers.get_all("Vary") for v in line.split(",")} == {"Accept", "Origin"}


def test_named_origins_only(keyed):
    p = keyed(TB_CORS_ORIGINS="https://a.example, https://page.example")
    assert p.ask("OPTIONS", "/v1/x", headers=ASKS)[2]["Access-Control-Allow-Origin"] == "https://page.example"
    answer = p.ask("OPTIONS", "/v1/x", headers={**ASKS, "Origin": "https://evil.example"})
    assert error_of(answer) == (403, "origin_not_allowed") and "Access-Control-Allow-Origin" not in answer[2]
    status, _, headers = p.ask("GET", "/v1/x", headers={**BEARER, "Origin": "https://evil.example"})
    assert status == 200 and "Access-Control-Allow-Origin" not in headers and headers["Vary"] == "Origin"
    assert p.ask("GET", "/v1/x", headers=BEARER)[2]["Vary"] == "Origin"


def test_no_origin_at_all(keyed):
    p = keyed(TB_CORS_ORIGINS="none")
    p.backend.routes["/v1/x"] = lambda conn, rq: conn.sendall(simple(b"{}", extra="Access-Control-Allow-Origin: *\r\n"))
    assert error_of(p.ask("OPTIONS", "/v1/x", headers=ASKS)) == (403, "origin_not_allowed")
    assert "Access-Control-Allow-Origin" not in p.ask("GET", "/v1/x", headers={**PAGE, **BEARER})[2]


def test_without_keys_the_runtime_says_who_may(make):  # noqa: F811
    p = make().ready().start()

    def route(conn, rq):
        conn.sendall(simple(b"", "204 No Content" if rq.method == "OPTIONS" else "200 OK", "Access-Control-Allow-Origin: https://r.example\r\n"))
    p.backend.routes["/v1/x"] = route
    for method in ("OPTIONS", "GET"):
        headers = p.ask(method, "/v1/x", headers=ASKS)[2]
        assert headers.get_all("Access-Control-Allow-Origin") == ["https://r.example"] and "Vary" not in headers
    assert "Access-Control-Allow-Origin" not in p.ask("GET", "/admin", headers=PAGE)[2]


@pytest.mark.parametrize("value", ["example.com", "https://a.example/path", "*,https://a.example"])
def test_an_origin_that_is_none_is_refused_at_start(make, value):  # noqa: F811
    p = make(TB_CORS_ORIGINS=value)
    p.daemon.start()
    assert p.daemon.wait() == 78
    assert "TB_CORS_ORIGINS" in p.daemon.log_text()


def test_a_page_can_read_the_status(keyed):
    p = keyed()
    for path in ("/status", "/health", "/readiness"):
        assert p.ask("OPTIONS", path, headers={**ASKS, "Access-Control-Request-Method": "GET"})[0] == 204
        status, _, headers = p.ask("GET", path, headers={**PAGE, **BEARER})
        assert status == 200 and headers.get_all("Access-Control-Allow-Origin") == ["*"]


def test_the_status_tells_strangers_state_and_progress_only(keyed):
    p = keyed()
    for headers in ({}, {"x-api-key": "other"}, {**BEARER, "api-key": "other"}):
        status, body, _ = p.ask("GET", "/status", headers=headers)
        doc = json.loads(body)
        assert (status, doc["state"], doc["hydrate"]["bytes_total"]) == (200, "Ready", 10)
        assert not {"contract_id", "asset_id", "lease_expires_at", "audit", "requests_processed"} & set(doc)
        assert b"contract-1" not in body and b"asset-1" not in body
    known = json.loads(p.ask("GET", "/status", headers={"api-key": "key-a"})[1])
    assert (known["contract_id"], known["asset_id"]) == ("contract-1", "asset-1") and "seq" in known["audit"]
    assert p.status()["contract_id"] == "contract-1"  # the health port, which is not public


# --- routes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/load%5Flora_adapter", "/v1/Load_lora_adapter",
                                  "/v1/sleep", "/v1/chat/completions/control?x=1"])
def test_the_default_routes_do_not_administer(make, path):  # noqa: F811
    p = make().ready().start()
    answer = p.ask("POST", path, b"{}")
    assert error_of(answer) == (404, "not_found") and b"exact path" in answer[1]
    assert p.backend.requests == []


def test_administration_is_opened_by_its_exact_path(make):  # noqa: F811
    p = make(TB_ROUTES="/*,/v1/load_lora_adapter").ready().start()
    assert p.ask("POST", "/v1/load_lora_adapter", b"{}")[0] == 200
    for path in ("/v1/unload_lora_adapter", "/collective_rpc", "/flush_cache", "/v2/repository/models/m/unload", "/slots/0?action=erase"):
        assert p.ask("POST", path, b"{}")[0] == 404
    assert p.ask("POST", "/generate", b"{}")[0] == 200


# --- slips in the file ------------------------------------------------------------------------------------------------


def test_a_key_under_two_names_is_refused(make, keyed, tmp_path):  # noqa: F811
    """Whose use it would be depends on the order of lines."""
    sha = hashlib.sha256(b"key-a").hexdigest()
    two = f"# keys\nalice:{sha} rpm=100\nbob:{sha.upper()} rpm=100\n"
    path = tmp_path / "keys"
    path.write_text(two)
    p = make(TB_API_KEYS=path)
    p.daemon.start()
    assert p.daemon.wait() == 78
    assert "line 2 and line 3 give one key two names" in p.daemon.log_text() and sha not in p.daemon.log_text().lower()
    p.stop()
    p = keyed()
    p.keys_file.write_text(two)
    wait_for(lambda: "two names" in p.daemon.log_text(), what="the error")
    assert p.ask("GET", "/v1/models", headers=BEARER)[0] == 200  # the keys read before
    assert p.wait_records(1)[0]["key_name"] == "alice"


def test_two_keys_of_one_name_are_told(keyed):
    p = keyed()
    first = p.keys_file.read_text()
    p.keys_file.write_text(first + "bob:%s\nalice:%s rpm=100\n" % (("b" * 64), ("c" * 64)))
    wait_for(lambda: "read again, 3 keys" in p.daemon.log_text(), what="three keys")
    assert "line 3 of" in p.daemon.log_text() and "same name as line 1" in p.daemon.log_text()
    p.keys_file.write_text(first + "bob:%s\n" % ("b" * 64) + first)
    wait_for(lambda: p.daemon.log_text().count("read again, 3 keys") == 2, what="three keys again")
    assert "has the same key as line 1" in p.daemon.log_text()
    assert not any(word in p.daemon.log_text() for word in ("b" * 64, "c" * 64, hashlib.sha256(b"key-a").hexdigest()))


# --- many keys ------------------------------------------------------------------------------------------------------------


def test_reading_10000_keys_again_does_not_hold_up_a_stream(keyed):
    p = keyed()
    stop = threading.Event()

    def stream(conn, rq):
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stop.is_set():
            text = b"data: %d\n\n" % time.monotonic_ns()
            conn.sendall(b"%x\r\n%s\r\n" % (len(text), text))
            time.sleep(0.002)
        conn.sendall(b"0\r\n\r\n")
    p.backend.routes["/v1/stream"] = stream
    many = "".join(f"name-{i}:{hashlib.sha256(b'k%d' % i).hexdigest()} rpm=60 tpm=1000 budget=100000\n" for i in range(9999))
    alice = p.keys_file.read_text()
    with p.raw(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-a\r\n\r\n") as s:
        file = s.makefile("rb")
        worst = 0
        for n in range(3):
            p.keys_file.write_text(many + alice if n % 2 == 0 else alice)
            end = time.monotonic() + patient(20)
            while p.daemon.log_text().count("TB_API_KEYS: read again") <= n and time.monotonic() < end:
                for _ in range(100):
                    line = file.readline()
                    if line.startswith(b"data: "):
                        worst = max(worst, time.monotonic_ns() - int(line[6:]))
            assert time.monotonic() < end
        assert p.ask("GET", "/v1/x", headers={"x-api-key": "k9998"})[0] == 200
        stop.set()
    assert worst < 0.25 * 10**9  # seconds of standstill before; the rest is this machine's
