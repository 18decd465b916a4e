# SPDX-License-Identifier: Apache-2.0
"""Answers that say little, or say it oddly: none of them is free, and what is told is never replaced by a guess."""

import json
import threading

import pytest

from proxy_backend import simple
from proxy_daemon import make, proxy  # noqa: F401
from test_proxy_counting import ask
from test_proxy_tokens import CHAT, HEAD, chunk, delta, json_route, sse, tokens

QUESTION = {"messages": [{"role": "user", "content": "q" * 40}]}
TOLD = {"prompt_tokens": 11, "completion_tokens": 7}
ANSWER = {"choices": [{"message": {"content": "x" * 400}}], "usage": TOLD}


@pytest.mark.parametrize("kind", ["", "Content-Type: text/plain\r\n", "Content-Type: text/json\r\n", "Content-Type: application/x+json\r\n"])
def test_json_that_nobody_calls_so(proxy, kind):  # noqa: F811
    body = json.dumps(ANSWER).encode()
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(body, extra=kind)))[1]
    assert ask(proxy, QUESTION)[1] == body
    assert tokens(proxy.wait_records(1)[0]) == (11, 7, 0, None)


@pytest.mark.parametrize("body", [b"x" * 400, b"<p>" + b"x" * 397, b'{"choices":[' + b" " * 388, b"\0" * 400])
def test_what_is_no_json_counts_as_text(proxy, body):  # noqa: F811
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(body)))[1]
    assert ask(proxy, QUESTION)[1] == body
    assert tokens(proxy.wait_records(1)[0]) == (10, 100, 0, True)


@pytest.mark.parametrize("told, want", [
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (10, 100)), ({"prompt_tokens": 0, "completion_tokens": 5}, (10, 5)),
    ({"prompt_tokens": 9, "completion_tokens": 0}, (9, 100)), (None, (10, 100)), ([], (10, 100)), ({"prompt_tokens": "7"}, (10, 100)),
    ({"prompt_tokens": -3, "completion_tokens": 1.5}, (10, 100)), ({"prompt_tokens": {"a": 1}, "completion_tokens": 10**30}, (10, 100)),
])
def test_what_cannot_be_is_estimated(proxy, told, want):  # noqa: F811
    proxy.backend.routes[CHAT] = json_route({**ANSWER, "usage": told})
    ask(proxy, QUESTION)
    assert tokens(proxy.wait_records(1)[0]) == (*want, 0, True)


def test_an_echo_is_no_completion(proxy):  # noqa: F811
    proxy.backend.routes["/v1/completions"] = json_route({"choices": [{"text": "q" * 40}], "usage": {"prompt_tokens": 9, "completion_tokens": 0}})
    ask(proxy, {"prompt": "q" * 40, "echo": True, "max_tokens": 0}, "/v1/completions")
    assert tokens(proxy.wait_records(1)[0]) == (9, 0, 0, None)


@pytest.mark.parametrize("path, mark, events", [
    ("/v1/messages", b"message_stop", [
        {"type": "message_start", "message": {"usage": {"input_tokens": 11, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "h" * 400}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}, {"type": "message_stop"}]),
    (CHAT, b"[DONE]", [delta("h" * 400), {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": TOLD}, b"[DONE]"]),
    ("/v1/completion", b'"stop"', [{"content": "h" * 400}, {"content": "", "stop": True, "timings": {"prompt_n": 11, "predicted_n": 7}}]),
])
def test_a_client_may_leave_when_it_has_all(proxy, path, mark, events):  # noqa: F811
    """Before the runtime ends the stream: what it told stands."""
    gone = threading.Event()

    def route(conn, rq):
        b"".join(rq.pieces())
        conn.sendall(HEAD + chunk(sse(*events)))
        gone.wait(20)
        return False
    proxy.backend.routes[path] = route
    body = json.dumps({**QUESTION, "stream": True}).encode()
    with proxy.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body) as s:
        got = b""
        while mark not in got:
            got += s.recv(65536)
    [record] = proxy.wait_records(1)
    gone.set()
    assert record["status"] == 499 and tokens(record) == (11, 7, 0, None)


def test_a_transcript_in_events(proxy):  # noqa: F811
    """As vLLM writes it; the client leaves before there is a usage."""
    path = "/v1/audio/transcriptions"
    data = sse(*[{"object": "transcription.chunk", "choices": [{"delta": {"content": "word" * 10}}]}] * 5, b"[DONE]")
    proxy.backend.routes[path] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(data, extra="Content-Type: text/event-stream\r\n")))[1]
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert proxy.ask("POST", path, b"--b\r\n" + b"a" * 32_000, headers)[1] == data
    assert tokens(proxy.wait_records(1)[0]) == (75, 50, 0, True)
