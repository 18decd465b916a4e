# SPDX-License-Identifier: Apache-2.0
"""Requests that cost more than they seem to: none of them gets past a budget."""

import concurrent.futures
import json
import threading

import pytest

from proxy_backend import simple
from proxy_daemon import error_of, make  # noqa: F401
from tbsys import wait_for
from test_proxy_counting import ask, keyed, left, models  # noqa: F401

JSON = "Content-Type: application/json\r\n"
TEXT = "word " * 20_000  # 100,000 bytes that a runtime may make as many tokens of
USER = {"role": "user", "content": "hi"}

TRICKS = {
    "text of tools as a picture": ("/v1/chat/completions", {"messages": [USER], "tools": [{"function": {"parameters": {"image": TEXT}}}]}),
    "arguments as a file": ("/v1/chat/completions", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"file_url": TEXT}}}]}]}),
    "a tool's use as a picture": ("/v1/messages", {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"image": TEXT}}]}]}),
    "many conversations": ("/v1/chat/completions/batch", {"messages": [[USER]] * 200, "max_tokens": 500}),
    "a list of one query": ("/v1/score", {"text_1": [TEXT[:4000]], "text_2": ["a"] * 200}),
    "a query in parts": ("/v1/rerank", {"query": {"content": [{"type": "text", "text": TEXT[:4000]}]}, "documents": ["a"] * 200}),
    "a slash behind the path": ("/v1/chat/completions/", {"messages": [USER], "n": 100, "max_tokens": 500}),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_what_costs_more_than_there_is_does_not_begin(keyed, trick):  # noqa: F811
    path, doc = TRICKS[trick]
    p, begun = keyed("budget=40000", 128_000), []

    def route(conn, rq):
        b"".join(rq.pieces())
        begun.append(rq)
        conn.sendall(simple(b'{"usage":{"prompt_tokens":100000,"completion_tokens":1}}', extra=JSON))
    p.backend.routes[path] = route
    assert error_of(ask(p, {"max_tokens": 1, **doc}, path)) == (429, "insufficient_quota")
    assert begun == [] and left(p) == 40000


def test_conversations_that_fit_are_counted(keyed):  # noqa: F811
    path = "/v1/chat/completions/batch"
    p = keyed("budget=40000", 128_000)
    doc = {"choices": [{"index": i, "message": {"content": "x"}} for i in range(3)], "usage": {"prompt_tokens": 30, "completion_tokens": 6}}
    p.backend.routes[path] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(json.dumps(doc).encode(), extra=JSON)))[1]
    assert ask(p, {"messages": [[USER]] * 3, "max_tokens": 50}, path)[0] == 200
    assert left(p) == 40000 - 36


def response(status):
    return {"id": "resp_1", "status": status, "output": [], "usage": None}


@pytest.mark.parametrize("status, method, path, code", [
    ("failed", "GET", "", "200 OK"), ("incomplete", "GET", "", "200 OK"), ("cancelled", "POST", "/cancel", "200 OK"),
    ("", "GET", "", "404 Not Found"), ("", "DELETE", "", "200 OK"),
])
def test_a_background_response_that_comes_to_nothing_is_not_held_for_ever(keyed, status, method, path, code):  # noqa: F811
    p = keyed("budget=1000", 20000)
    where = "/v1/responses/resp_1"
    p.backend.routes["/v1/responses"] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(json.dumps(response("queued")).encode(), extra=JSON)))[1]
    p.backend.routes[where] = p.backend.routes["/v1/responses"]
    key = {"Authorization": "Bearer k"}
    assert ask(p, {"background": True, "max_output_tokens": 300, "input": "q" * 40}, "/v1/responses")[0] == 200
    assert p.ask("GET", where, headers=key)[0] == 200
    held = left(p)
    assert held < 700
    last = json.dumps(response(status) if status else {}).encode()
    p.backend.routes[where + path] = lambda conn, rq: conn.sendall(simple(last, code, JSON))
    assert p.ask(method, where + path, headers=key)[0] == int(code[:3])
    assert left(p) == (990 if status else held)  # what the runtime does not know any more may have cost all
    assert ask(p, {"background": True, "max_output_tokens": 300, "input": "q"}, "/v1/responses")[0] == 200
    p.ask(method, where + path, headers=key)
    assert ask(p, {"max_output_tokens": 50, "input": "q"}, "/v1/responses")[0] == 200


@pytest.mark.parametrize("name", ["", "r" * 100, "twice"])
def test_a_background_response_without_a_name_of_its_own_costs_what_it_may(keyed, name):  # noqa: F811
    """vLLM lets the client choose the id."""
    p = keyed("budget=5000", 20000)
    doc = {**response("queued"), "id": name}
    p.backend.routes["/v1/responses"] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(json.dumps(doc).encode(), extra=JSON)))[1]
    for n in range(1, 3):
        assert ask(p, {"background": True, "max_output_tokens": 1000, "input": "q"}, "/v1/responses")[0] == 200
        assert left(p) < 5000 - 1000 * n
    record = [r for r in p.wait_records(4) if r["path"] == "/v1/responses"][-1]
    assert record["estimated"] and record["completion_tokens"] >= 1000


def test_a_client_that_does_not_wait_for_the_id_pays(keyed):  # noqa: F811
    p, begun = keyed("budget=5000", 20000), threading.Event()

    def route(conn, rq):
        b"".join(rq.pieces())
        begun.set()
        conn.recv(1)
        return False
    p.backend.routes["/v1/responses"] = route
    body = b'{"background":true,"max_output_tokens":1000,"input":"q","request_id":"mine"}'
    with p.raw(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\n\r\n" % len(body) + body):
        assert begun.wait(20)
    [record] = p.wait_records(1)
    assert record["status"] == 499 and record["estimated"] and left(p) < 4000


# --- prompts that are larger than their bodies ------------------------------------------------------------------------------


def templated(seen, adds, write=20000):
    """A runtime whose chat template adds so many tokens to each conversation, or as many as adds(doc), and which writes as much as it is let."""
    def route(conn, rq):
        doc = json.loads(b"".join(rq.pieces()))
        prompt = len(json.dumps(doc["messages"])) + (adds(doc) if callable(adds) else adds)
        out = min(doc.get("max_tokens") or write, write)
        seen.append((prompt, out))
        conn.sendall(simple(json.dumps({"choices": [{"message": {"content": "x" * out}}], "usage": {
            "prompt_tokens": prompt, "completion_tokens": out}}).encode(), extra=JSON))
    return route


@pytest.mark.parametrize("context", [None, 20000])
@pytest.mark.parametrize("asked", [None, 50, 400, 900])
def test_a_template_of_any_size_fits_the_budget(keyed, context, asked):  # noqa: F811
    """No request that can be paid is refused, and all together get no more than there is."""
    p, seen = keyed("budget=2000", context), []
    p.backend.routes["/v1/chat/completions"] = templated(seen, 300)
    doc = {"messages": [USER], **({"max_tokens": asked} if asked else {})}
    for _ in range(60):
        spent = sum(a + b for a, b in seen)
        status = ask(p, doc)[0]
        assert sum(a + b for a, b in seen) <= 2000
        if status == 429:
            assert spent + 300 + len(json.dumps(doc)) + (asked or 1) > 2000, "could have been paid"
            break
    assert status == 429 and left(p) == 2000 - sum(a + b for a, b in seen)


@pytest.mark.parametrize("text", ["100", " 100 ", "+1_00.0", "-1", "0"])
def test_a_limit_in_quotes_is_a_limit_for_every_runtime(keyed, text):  # noqa: F811
    """Pydantic reads it as a number, llama-server as nothing, and then writes until its context is full: it gets the number."""
    p, seen = keyed("budget=1000", 20000), []

    def route(conn, rq):
        doc = json.loads(b"".join(rq.pieces()))
        limit = doc.get("max_tokens")
        seen.append(20000 if not isinstance(limit, int) or limit < 0 else max(limit, 1))
        conn.sendall(simple(json.dumps({"choices": [{"message": {"content": "x"}}], "usage": {
            "prompt_tokens": 12, "completion_tokens": seen[-1]}}).encode(), extra=JSON))
    p.backend.routes["/v1/chat/completions"] = route
    assert ask(p, {"messages": [USER], "max_tokens": text})[0] == 200
    assert left(p) == 1000 - 12 - seen[0] and (seen[0] == 100 or text in ("-1", "0"))


@pytest.mark.parametrize("first", [
    {"messages": [{"role": "system", "content": "s"}, USER]}, {"messages": [USER], "truncate_prompt_tokens": 1},
    {"messages": [USER], "chat_template_kwargs": {"short": True}}, {"messages": [USER, {"role": "assistant", "content": "a"}]}],
    ids=["system", "truncated", "template", "continued"])
def test_a_small_template_says_nothing_of_a_large_one(keyed, first):  # noqa: F811
    """Many templates add a system message where there is none; a client can choose what is learned first."""
    p, seen = keyed("budget=2000", 20000), []
    p.backend.routes["/v1/chat/completions"] = templated(
        seen, lambda doc: 300 if doc.keys() <= {"messages", "max_tokens"} and doc["messages"] == [USER] else -30)
    assert ask(p, {**first, "max_tokens": 1})[0] == 200
    assert ask(p, {"messages": [USER]})[0] == 200
    assert sum(a + b for a, b in seen) <= 2000


def test_templates_side_by_side_fit_the_budget(keyed):  # noqa: F811
    """Before any answer has shown how large they are."""
    p, seen, go = keyed("budget=2000", 20000), [], threading.Event()
    inner = templated(seen, 300)
    p.backend.routes["/v1/chat/completions"] = lambda conn, rq: (go.wait(20), inner(conn, rq))[1]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(ask, p, {"messages": [USER], "max_tokens": 100}) for _ in range(12)]
        wait_for(lambda: sum(a.done() for a in answers) + len(p.backend.requests) - 1 >= 12, what="all of them decided")
        go.set()
        done = [a.result()[0] for a in answers]
    assert set(done) == {200, 429} and sum(a + b for a, b in seen) <= 2000


def chained(conn, rq, sizes, n):
    doc = json.loads(b"".join(rq.pieces()))
    prompt = 20 + sum(sizes.get(doc.get("previous_response_id"), (0, 0)))
    sizes[f"resp_{n}"] = prompt, doc["max_output_tokens"]
    conn.sendall(simple(json.dumps({"id": f"resp_{n}", "status": "completed", "output": [{"content": [{"text": "x"}]}], "usage": {
        "input_tokens": prompt, "output_tokens": doc["max_output_tokens"]}}).encode(), extra=JSON))


def test_a_conversation_goes_on_within_the_budget(keyed):  # noqa: F811
    """What the runtime keeps of a response is known to be as large as its usage said: no need to have the whole context left for it."""
    p, sizes, path = keyed("budget=1500", 20000), {}, "/v1/responses"
    p.backend.routes[path] = lambda conn, rq: chained(conn, rq, sizes, len(sizes))
    assert ask(p, {"input": "q" * 60, "max_output_tokens": 50}, path)[0] == 200
    for n in range(4):
        assert ask(p, {"input": "q" * 60, "max_output_tokens": 50, "previous_response_id": f"resp_{n}"}, path)[0] == 200
        assert left(p) == 1500 - sum(a + b for a, b in sizes.values()) >= 0
    for _ in range(40):
        status = ask(p, {"input": "q" * 60, "max_output_tokens": 50, "previous_response_id": f"resp_{len(sizes) - 1}"}, path)[0]
        assert sum(a + b for a, b in sizes.values()) <= 1500
    assert status == 429


def test_a_response_that_nobody_knows_may_fill_the_context(keyed):  # noqa: F811
    p, path, whole = keyed("budget=1500", 20000), "/v1/responses", []
    for kind in (path, "/v1/chat/completions"):  # a head may have gone on before the body was there; a request that is whole may not
        p.backend.routes[kind] = lambda conn, rq: (rq.sha256(), whole.append(rq.path), conn.sendall(simple(b"{}")))[2]
    answer = ask(p, {"input": "q", "max_output_tokens": 50, "previous_response_id": "resp_of_yesterday"}, path)
    assert error_of(answer) == (429, "insufficient_quota") and b"previous_response_id" in answer[1]
    answer = ask(p, {"messages": [USER], "max_tokens": 5, "chat_template": "{% for i in range(9999) %}a{% endfor %}"})
    assert error_of(answer) == (429, "insufficient_quota") and b"chat_template" in answer[1]
    assert left(p) == 1500 and whole == []


@pytest.mark.parametrize("path, doc", [
    ("/v1/responses", {"input": "q", "max_output_tokens": 50, "previous_response_id": "resp_of_yesterday"}),
    ("/v1/chat/completions", {"messages": [USER], "max_tokens": 5, "chat_template": "{{ messages[0].content }}"})])
def test_without_a_context_the_default_stands_for_it(keyed, path, doc):  # noqa: F811
    """TB_DEFAULT_MAX_TOKENS, 4096."""
    p = keyed("budget=4400")
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "input_tokens": 30, "output_tokens": 5}
    p.backend.routes[path] = lambda conn, rq: (b"".join(rq.pieces()), conn.sendall(
        simple(json.dumps({"choices": [], "output": [], "usage": usage}).encode(), extra=JSON)))[1]
    for n in range(1, 12):
        answer = ask(p, doc, path)
        if answer[0] != 200:
            break
        assert left(p) == 4400 - 35 * n
    assert error_of(answer) == (429, "insufficient_quota") and left(p) < 4096 + 50
