# SPDX-License-Identifier: Apache-2.0
"""tb-proxy's limits of API keys: requests and tokens a minute, requests at once, budgets that parallel requests cannot overspend."""

import concurrent.futures
import hashlib
import json
import os
import signal
import threading
import time

import pytest

from proxy_backend import read_head, simple
from proxy_daemon import error_of, make  # noqa: F401
from tbsys import wait_for

CHAT = "/v1/chat/completions"


def keys_text(**limits):
    return "".join(f"{name}:{hashlib.sha256(f'key-{name}'.encode()).hexdigest()} {text}\n" for name, text in limits.items())


@pytest.fixture
def keyed(make, tmp_path):  # noqa: F811
    """A running proxy whose keys are those of the arguments: name="rpm=3"."""
    def build(**limits):
        path = tmp_path / "keys"
        path.write_text(keys_text(**limits))
        p = make(TB_API_KEYS=path).ready().start()
        p.keys_file = path
        p.backend.routes[CHAT] = generous
        return p
    return build


def generous(conn, rq):
    """A runtime that writes as many tokens as it may."""
    doc = json.loads(b"".join(rq.pieces()))
    prompt = len(json.dumps(doc)) // 4
    out = doc.get("max_tokens", 10**9) * doc.get("n", 1)
    conn.sendall(simple(json.dumps({"usage": {"prompt_tokens": prompt, "completion_tokens": out}}).encode(),
                        extra="Content-Type: application/json\r\n"))


def ask(p, name, doc=None, **more):
    body = doc if isinstance(doc, bytes) else json.dumps({"messages": [], **(doc or {}), **more}).encode()
    return p.ask("POST", CHAT, body, {"Authorization": f"Bearer key-{name}", "Content-Type": "application/json"})


def test_requests_a_minute(keyed):
    p, begin = keyed(alice="rpm=3", bob="rpm=100"), time.monotonic()
    for left in (2, 1, 0):
        status, _, headers = ask(p, "alice", max_tokens=1)
        assert status == 200
        assert headers["x-ratelimit-limit-requests"] == "3" and headers["x-ratelimit-remaining-requests"] == str(left)
        assert headers["x-ratelimit-reset-requests"]
    answer = ask(p, "alice", max_tokens=1)
    assert error_of(answer) == (429, "rate_limit_exceeded")
    assert 20 - (time.monotonic() - begin) <= int(answer[2]["Retry-After"]) <= 20 and "x-should-retry" not in answer[2]
    assert ask(p, "bob", max_tokens=1)[0] == 200  # to each its own
    assert [r["status"] for r in p.wait_records(5)] == [200, 200, 200, 429, 200]


def test_requests_at_once(keyed):
    p = keyed(alice="concurrent=2")
    go = threading.Event()
    p.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), go.wait(20), conn.sendall(simple(b"{}")))[2]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        running = [pool.submit(ask, p, "alice") for _ in range(2)]
        wait_for(lambda: len(p.backend.requests) == 2, what="two requests at the runtime")
        answer = ask(p, "alice")
        assert error_of(answer) == (429, "rate_limit_exceeded") and answer[2]["Retry-After"] == "1"
        go.set()
        assert [r.result()[0] for r in running] == [200, 200]
    assert ask(p, "alice")[0] == 200


def test_tokens_a_minute(keyed):
    p = keyed(alice="tpm=1000")
    status, _, headers = ask(p, "alice", max_tokens=600)
    assert status == 200 and headers["x-ratelimit-limit-tokens"] == "1000"
    assert int(headers["x-ratelimit-remaining-tokens"]) < 400 and headers["x-ratelimit-reset-tokens"].endswith("s")
    answer = ask(p, "alice", max_tokens=600)
    assert error_of(answer) == (429, "rate_limit_exceeded") and int(answer[2]["Retry-After"]) > 0
    answer = ask(p, "alice", max_tokens=2000)
    assert error_of(answer) == (429, "rate_limit_exceeded")
    assert "Retry-After" not in answer[2] and answer[2]["x-should-retry"] == "false"


def test_what_was_reserved_and_not_used_comes_back(keyed):
    p = keyed(alice="tpm=1000 budget=2000")
    p.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(
        simple(b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}', extra="Content-Type: application/json\r\n")))[1]
    for _ in range(20):
        assert ask(p, "alice", max_tokens=900)[0] == 200
    p.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(b"{}", "500 No")))[1]
    for _ in range(5):
        assert ask(p, "alice", max_tokens=900)[0] == 500
    headers = ask(p, "alice", max_tokens=1)[2]
    assert headers["x-ratelimit-limit-budget"] == "2000" and int(headers["x-ratelimit-remaining-budget"]) > 1800


@pytest.mark.parametrize("doc", [{"max_tokens": 300}, {}, {"n": 3, "max_tokens": 100}])
def test_a_budget_is_never_overspent(keyed, doc):
    """Many at once, each of which would fit alone."""
    p = keyed(alice="budget=5000")
    lock, spent = threading.Lock(), [0]

    def slow(conn, rq):
        body = json.loads(b"".join(rq.pieces()))
        out = body["max_tokens"] * body.get("n", 1)
        with lock:
            spent[0] += out + 10
        conn.sendall(simple(json.dumps({"usage": {"prompt_tokens": 10, "completion_tokens": out}}).encode(),
                            extra="Content-Type: application/json\r\n"))
    p.backend.routes[CHAT] = slow
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda i: ask(p, "alice", doc), range(200)))
    assert {a[0] for a in answers} == {200, 429}
    assert 2500 < spent[0] <= 5000
    p.daemon.kill()  # what is spent stays spent
    p.daemon.wait()
    p.start()
    left = int(ask(p, "alice", max_tokens=4000)[2]["x-ratelimit-remaining-budget"])
    assert left == 5000 - spent[0]
    answer = ask(p, "alice", max_tokens=4000)
    assert error_of(answer) == (429, "insufficient_quota") and answer[2]["x-should-retry"] == "false"


def whole_requests(p):
    """Those whose body came to its end."""
    whole = []
    p.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), whole.append(rq), conn.sendall(simple(b"{}")))[2]
    return whole


@pytest.mark.parametrize("body, want", [
    (b"no json", (400, "invalid_json")), (b'{"max_tokens":5', (400, "invalid_json")), (b"[]", (400, "invalid_json")),
    ('{"max_tokens":9}'.encode("utf-16"), (400, "invalid_json")),
    (b'{"max_tokens":[5]}', (400, "invalid_member")), (b'{"max_tokens":"many"}', (400, "invalid_member")),
    (b'{"max_tokens":1,"max_tokens":100000}', (400, "repeated_member")),
    (b'{"max_tokens":1,"m\\u0061x_tokens":100000}', (400, "repeated_member")),
    (b'{"max_tokens":1,"max_completion_tokens":100000}', (429, "insufficient_quota")),
    (b'{"max_tokens":"100000"}', (429, "insufficient_quota")), (b'{"max_tokens":100000.0}', (429, "insufficient_quota")),
    (b'{"max_tokens":1,"n":1000}', (429, "insufficient_quota")),
])
def test_no_way_around_a_budget(keyed, body, want):
    p = keyed(alice="budget=1000")
    whole = whole_requests(p)
    assert error_of(ask(p, "alice", body)) == want
    assert whole == []
    coded = p.ask("POST", CHAT, b"x", {"Authorization": "Bearer key-alice", "Content-Encoding": "gzip"})
    assert error_of(coded) == (415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["", "identity", " ", "Identity"])
def test_a_body_without_a_coding_is_none(keyed, coding):
    p = keyed(alice="budget=1000")
    body = b'{"messages":[],"max_tokens":5}'
    with p.raw(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-alice\r\nContent-Encoding: {coding}\r\n"
               f"Content-Length: {len(body)}\r\n\r\n".encode() + body) as s:
        assert read_head(s)[0].startswith(b"HTTP/1.1 200")


def test_a_missing_limit_is_set(keyed):
    p = keyed(alice="budget=1000", bob="rpm=5")
    seen = []
    p.backend.routes[CHAT] = lambda conn, rq: (seen.append(json.loads(b"".join(rq.pieces()))), conn.sendall(simple(b"{}")))[1]
    ask(p, "alice", {"stream": True})
    ask(p, "bob")
    assert 0 < seen[0]["max_tokens"] < 1000 and seen[0]["stream_options"] == {"include_usage": True}
    assert "max_tokens" not in seen[1]


def test_a_refused_upload_is_not_seen_by_the_runtime(keyed):
    """A body that does not fit is cut before its end, whatever its size."""
    p = keyed(alice="budget=1000")
    whole = whole_requests(p)
    body = json.dumps({"messages": ["x" * 3_000_000]}).encode()
    assert error_of(ask(p, "alice", body)) == (429, "insufficient_quota")
    assert whole == []
    assert p.wait_records(1)[0]["bytes_in"] == len(body)


@pytest.mark.parametrize("how", ["signal", "rename", "rewrite"])
def test_keys_are_read_again(keyed, how):
    p = keyed(alice="rpm=100")
    with p.raw() as s:
        def one(name):
            s.sendall(f"GET /v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key-{name}\r\n\r\n".encode())
            head, rest = read_head(s)
            n = int(dict(line.split(b": ") for line in head.lower().split(b"\r\n")[1:-2])[b"content-length"])
            while len(rest) < n:
                rest += s.recv(65536)
            return int(head.split()[1])
        assert one("alice") == 200 and one("bob") == 401
        text = keys_text(bob="rpm=100 tpm=5")
        if how == "rename":
            p.keys_file.with_suffix(".new").write_text(text)
            os.rename(p.keys_file.with_suffix(".new"), p.keys_file)
        else:
            p.keys_file.write_text(text)
        if how == "signal":
            os.kill(p.daemon.pid, signal.SIGHUP)
        wait_for(lambda: one("bob") == 200, what="the new key")
        assert one("alice") == 401  # on the same connection
        p.keys_file.write_text("bob:nonsense\n")
        wait_for(lambda: "stay in force" in p.daemon.log_text(), what="the error")
        assert one("bob") == 200
    assert "line 1 is not name:sha256" in p.daemon.log_text()
