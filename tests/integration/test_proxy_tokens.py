# SPDX-License-Identifier: Apache-2.0
"""tb-proxy's token metering: what the runtime says an answer cost, what is counted when it never says so, and what neither side
notices of it."""

import hashlib
import json
import threading

import pytest

from proxy_backend import body_pieces, headers_of, read_head, simple
from proxy_daemon import make, proxy, read_all, usage  # noqa: F401
from tbsys import wait_for

CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18, "prompt_tokens_details": {"cached_tokens": 4}}


def tokens(record):
    return tuple(record.get(k) for k in ("prompt_tokens", "completion_tokens", "cached_tokens", "estimated"))


def counted(p):
    u = usage(p)
    return tuple(u[k] for k in ("prompt_tokens", "completion_tokens", "cached_tokens", "estimated_tokens"))


def json_route(doc, seen=None):
    def route(conn, rq):
        body = b"".join(rq.pieces())
        if seen is not None:
            seen.append(body)
        conn.sendall(simple(json.dumps(doc).encode(), extra="Content-Type: application/json\r\n"))
    return route


def sse(*events):
    return b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events)


def delta(text):
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def stream_route(data, seen=None, size=10**9, length=False):
    """Answers with the events, as a chat runtime does: the usage only to who asked for it."""
    def route(conn, rq):
        body = b"".join(rq.pieces())
        if seen is not None:
            seen.append(body)
        if length:
            conn.sendall(simple(data, extra="Content-Type: text/event-stream\r\n"))
            return
        conn.sendall(HEAD)
        for i in range(0, len(data), size):
            conn.sendall(chunk(data[i:i + size]))
        conn.sendall(b"0\r\n\r\n")
    return route


def ask(p, doc, path=CHAT):
    body = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    return p.ask("POST", path, body, {"Content-Type": "application/json"})


@pytest.mark.parametrize("path, doc, want", [
    (CHAT, {"choices": [{"message": {"content": "hi"}}], "usage": USAGE}, (11, 7, 4, None)),
    ("/v1/completions", {"choices": [{"text": '"usage":{"prompt_tokens":99}'}], "usage": USAGE}, (11, 7, 4, None)),
    ("/v1/embeddings", {"data": [{"embedding": [0.5] * 4000}], "usage": {"prompt_tokens": 5, "total_tokens": 5}}, (5, 0, 0, None)),
    ("/v1/rerank", {"results": [], "usage": {"total_tokens": 6}}, (6, 0, 0, None)),
    ("/v1/responses", {"output": [{"content": [{"text": "x"}]}], "usage": {
        "input_tokens": 9, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}}, (9, 3, 2, None)),
    ("/v1/messages", {"content": [{"type": "text", "text": "x"}], "usage": {
        "input_tokens": 9, "cache_read_input_tokens": 2, "output_tokens": 3}}, (11, 3, 2, None)),
    ("/v1/completion", {"content": "abcdefgh", "timings": {"cache_n": 1, "prompt_n": 2, "predicted_n": 3}}, (3, 3, 1, None)),
    (CHAT, {"choices": [{"message": {"content": "x" * 400}}]}, (None, 100, 0, True)),
    (CHAT, {"anything": "else"}, (None, None, None, None)),
])
def test_usage_of_a_whole_answer(proxy, path, doc, want):
    proxy.backend.routes[path] = json_route(doc)
    rq = {"messages": [{"role": "user", "content": "q" * 100}]}
    status, body, _ = ask(proxy, rq, path)
    assert status == 200 and json.loads(body) == doc
    if want[3]:
        want = (100 // 4, *want[1:])  # of the text, whatever stands around it
    [record] = proxy.wait_records(1)
    assert tokens(record) == want
    total = sum(w or 0 for w in want[:2])
    assert counted(proxy) == tuple(w or 0 for w in want[:3]) + (total if want[3] else 0,)


@pytest.mark.parametrize("size", [1, 7, 10**9])
@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("asked", [None, {}, {"include_usage": False}, {"include_usage": True}, {"x": 1}])
def test_usage_of_a_stream(proxy, size, length, asked):
    """The runtime is asked for the usage; the client gets it only when it asked itself."""
    seen = []
    content = [delta("a"), delta("b\n\ndata: "), delta(""), delta("c")]
    last = {"id": "c", "choices": [], "usage": USAGE}
    proxy.backend.routes[CHAT] = stream_route(sse(*content, last, b"[DONE]"), seen, size, length)
    rq = {"model": "m", "stream": True, "messages": []}
    if asked is not None:
        rq["stream_options"] = asked
    raw = json.dumps(rq).encode()
    status, body, headers = ask(proxy, raw)
    wants = bool(asked and asked.get("include_usage"))
    assert status == 200 and body == sse(*content, *([last] if wants else []), b"[DONE]")
    assert json.loads(seen[0]) == {**rq, "stream_options": {**(asked or {}), "include_usage": True}}
    [record] = proxy.wait_records(1)
    assert tokens(record) == (11, 7, 4, None) and counted(proxy) == (11, 7, 4, 0)
    assert record["req_sha256"] == hashlib.sha256(raw).hexdigest()
    assert record["bytes_in"] == len(raw) and record["bytes_out"] == len(body)


@pytest.mark.parametrize("body, options", [
    (b'{"stream":true}', {"include_usage": True}),
    (b'{"stream":true,"stream_options":null}', {"include_usage": True}),
    (b'{"stream_options":null,"stream":true}', {"include_usage": True}),
    (b'{"str\\u0065am":true}', {"include_usage": True}),
    (b'{"stream":false}', "absent"), (b'{}', "absent"), (b'{"a":{"stream":true}}', "absent"),
    (b' {"stream_options" : {"include_usage" : false , "y" : [1,{"include_usage":false}]},"stream":true} \n',
     {"include_usage": True, "y": [1, {"include_usage": False}]}),
    (b'{"prompt":"%s","stream":true}' % (b"x\\n" * 300_000), {"include_usage": True}),
])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_what_the_runtime_is_sent(proxy, body, options, framing):
    seen = []
    proxy.backend.routes[CHAT] = json_route({"usage": USAGE}, seen)
    headers = {"Content-Type": "application/json"}
    if framing == "chunked":
        pieces = (body[i:i + 4000] for i in range(0, len(body), 4000))
        import http.client
        c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        c.request("POST", CHAT, pieces, headers, encode_chunked=True)
        assert c.getresponse().status == 200
        c.close()
    else:
        assert proxy.ask("POST", CHAT, body, headers)[0] == 200
    got = json.loads(seen[0])
    assert got.pop("stream_options", "absent") == options
    want = json.loads(body)
    want.pop("stream_options", None)
    assert got == want
    [record] = proxy.wait_records(1)
    assert record["req_sha256"] == hashlib.sha256(body).hexdigest() and record["bytes_in"] == len(body)


@pytest.mark.parametrize("body", [b"", b"no json", b'{"stream":true', b'[{"stream":true}]', b"\xff\xfe{\x00}\x00", b'{"stream":true}}{'])
def test_a_body_that_is_no_json_passes_as_it_is(proxy, body):
    seen = []
    proxy.backend.routes[CHAT] = json_route({}, seen)
    assert ask(proxy, body)[0] == 200
    if body.startswith(b'{"stream":true}'):
        assert seen[0].rstrip(b" ").endswith(b"}}{")
    else:
        assert seen[0].rstrip(b" ") == body
    assert len(seen[0]) == (len(body) + 128 if body else 0)


def test_other_bodies_are_not_touched(proxy):
    """Parts of a form, compressed bodies, other paths."""
    for path, headers in ((CHAT, {"Content-Type": "multipart/form-data; boundary=x"}), (CHAT, {"Content-Encoding": "gzip"}),
                          ("/v1/models", {"Content-Type": "application/json"})):
        seen = []
        proxy.backend.routes[path] = json_route({}, seen)
        proxy.ask("POST", path, b'{"stream":true}', headers)
        assert seen == [b'{"stream":true}']


def test_usage_of_an_anthropic_stream(proxy):
    events = [{"type": "message_start", "message": {"usage": {"input_tokens": 20, "output_tokens": 1}}},
              {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
              {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}}]
    data = b"".join(b"event: x\r\ndata:" + json.dumps(e).encode() + b"\r\n\r\n" for e in events)
    proxy.backend.routes["/v1/messages"] = stream_route(data, size=3)
    assert ask(proxy, {"stream": True}, "/v1/messages")[1] == data
    assert tokens(proxy.wait_records(1)[0]) == (20, 15, 0, None)


def test_usage_of_a_responses_stream(proxy):
    data = sse({"type": "response.output_text.delta", "delta": "hi"},
               {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 2}}})
    proxy.backend.routes["/v1/responses"] = stream_route(data)
    assert ask(proxy, {"stream": True}, "/v1/responses")[1] == data
    assert tokens(proxy.wait_records(1)[0]) == (3, 2, 0, None)


@pytest.mark.parametrize("kind", ["events", "continuous", "timings"])
@pytest.mark.parametrize("who", ["client", "runtime"])
def test_an_aborted_stream_is_counted_from_its_events(proxy, kind, who):
    gone = threading.Event()

    def route(conn, rq):
        b"".join(rq.pieces())
        conn.sendall(HEAD + chunk(sse({"choices": [{"delta": {"role": "assistant", "content": ""}}]})))
        for i in range(5):
            event = delta("word ")
            if kind == "continuous":
                event["usage"] = {"prompt_tokens": 30, "completion_tokens": 2 * (i + 1)}
            if kind == "timings":
                event["timings"] = {"prompt_n": 30, "cache_n": 0, "predicted_n": 2 * (i + 1)}
            conn.sendall(chunk(sse(event)))
        if who == "client":
            gone.wait(20)
        return False
    proxy.backend.routes[CHAT] = route
    body = json.dumps({"stream": True, "messages": ["x" * 400]}).encode()
    with proxy.raw(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body) as s:
        if who == "runtime":
            assert b"upstream_aborted" in read_all(s)
        else:
            got = b""
            while got.count(b"word") < 5:
                got += s.recv(65536)
    [record] = proxy.wait_records(1)
    gone.set()
    assert record["status"] == (499 if who == "client" else 502)
    want = (400 // 4, 7, 0, True) if kind == "events" else (30, 10, 0, True)  # 25 bytes are 7 tokens
    assert tokens(record) == want
    assert counted(proxy)[3] == (sum(want[:2]) if kind == "events" else 0)


def test_an_error_costs_nothing(proxy):
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(
        simple(b'{"error":{"message":"no"},"usage":{"prompt_tokens":5}}', "400 Bad Request", "Content-Type: application/json\r\n")))[1]
    assert ask(proxy, {})[0] == 400
    assert tokens(proxy.wait_records(1)[0]) == (None,) * 4 and counted(proxy) == (0, 0, 0, 0)


def test_a_compressed_answer_is_not_asked_for(proxy):
    proxy.ask("POST", CHAT, b"{}", {"Accept-Encoding": "gzip"})
    assert proxy.backend.requests[-1].headers["accept-encoding"] == ["identity"]


@pytest.mark.parametrize("length", [False, True])
@pytest.mark.parametrize("size", [1, 9, 10**9])
def test_null_usage_is_for_those_who_asked(proxy, length, size):
    """OpenAI's rule: with include_usage each event says "usage": null but the last, which has it; without, none has the member."""
    asked = sse({**delta("a"), "usage": None}, {"id": "c", "usage": None, **delta("b")},
                {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None, "timings": {"predicted_n": 2}},
                {"choices": [], "usage": USAGE}, b"[DONE]")
    plain = sse(delta("a"), {"id": "c", **delta("b")}, {"choices": [{"delta": {}, "finish_reason": "stop"}], "timings": {"predicted_n": 2}},
                b"[DONE]")

    def events(data):
        return [json.loads(e[6:]) if e != b"data: [DONE]" else e for e in data.strip().split(b"\n\n")]
    proxy.backend.routes[CHAT] = stream_route(asked, size=size, length=length)
    assert events(ask(proxy, {"stream": True})[1]) == events(plain)
    assert ask(proxy, {"stream": True, "stream_options": {"include_usage": True}})[1] == asked
    assert [tokens(r) for r in proxy.wait_records(2)] == 2 * [(11, 7, 4, None)]


@pytest.mark.parametrize("options, kept", [({"continuous_usage_stats": True}, False), ({"continuous_usage_stats": True, "include_usage": False}, False),
                                           ({"continuous_usage_stats": True, "include_usage": True}, True)])
def test_usage_in_each_event_is_for_those_who_asked(proxy, options, kept):
    """vLLM heeds continuous_usage_stats only beside include_usage, which is ours here."""
    each = [{**delta(c), "usage": {"prompt_tokens": 11, "completion_tokens": n}} for n, c in enumerate("abc")]
    asked = sse(*each, {"choices": [], "usage": USAGE}, b"[DONE]")
    proxy.backend.routes[CHAT] = stream_route(asked)
    assert ask(proxy, {"stream": True, "stream_options": options})[1] == (asked if kept else sse(*map(delta, "abc"), b"[DONE]"))
    assert tokens(proxy.wait_records(1)[0]) == (11, 7, 4, None)


@pytest.mark.parametrize("doc, shape", [({"messages": [{"role": "user", "content": "q" * 80}]}, {"delta": {"content": "x" * 40}}),
                                        ({"prompt": "q" * 80}, {"text": "x" * 40})])
def test_invocations_are_inference(proxy, doc, shape):
    """vLLM's path for a cloud's hosting takes the bodies of all its APIs."""
    path, seen = "/v1/invocations", []
    proxy.backend.routes[path] = stream_route(sse({"choices": [{"index": 0, **shape}]}, {"choices": [], "usage": USAGE}), seen)
    assert ask(proxy, {**doc, "stream": True}, path)[1] == sse({"choices": [{"index": 0, **shape}]})
    assert json.loads(seen[0])["stream_options"] == {"include_usage": True}
    proxy.backend.routes[path] = stream_route(sse({"choices": [{"index": 0, **shape}]}))
    ask(proxy, {**doc, "stream": True}, path)
    assert [tokens(r) for r in proxy.wait_records(2)] == [(11, 7, 4, None), (20, 10, 0, True)]


@pytest.mark.parametrize("coding", ["", "identity"])
def test_an_answer_without_a_coding_is_read(proxy, coding):
    body = json.dumps({"choices": [], "usage": USAGE}).encode()
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(
        simple(body, extra=f"Content-Type: application/json\r\nContent-Encoding: {coding}\r\n")))[1]
    assert ask(proxy, {})[1] == body
    assert tokens(proxy.wait_records(1)[0]) == (11, 7, 4, None)


def test_a_broken_stream_ends_with_an_error_event(proxy):
    """Client libraries read events, not the way a connection ends."""
    def route(conn, rq):
        rq.sha256()
        conn.sendall(HEAD + chunk(sse(delta("a"))))
        return False
    proxy.backend.routes[CHAT] = route
    with proxy.raw(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n".encode() + b'{"stream":true}') as s:
        head, rest = read_head(s)
        got = b""
        with pytest.raises(EOFError):
            for piece in body_pieces(s, headers_of(head), rest):
                got += piece
    last = json.loads(got.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
    assert set(last["error"]) == {"message", "type", "code"} and last["error"]["code"] == "upstream_aborted"


@pytest.mark.parametrize("keys", [False, True])
def test_what_a_killed_proxy_had_on_its_way_is_counted(make, tmp_path, keys):
    """As for any other stream that broke off, by the next process, and once."""
    path = tmp_path / "keys"
    path.write_text(f"alice:{hashlib.sha256(b'k').hexdigest()} budget=5000\n")
    p = make(**({"TB_API_KEYS": path} if keys else {})).ready().start()
    go = threading.Event()

    def route(conn, rq):
        rq.sha256()
        conn.sendall(HEAD + b"".join(chunk(sse(delta("word "))) for _ in range(5)))
        go.wait(20)
    p.backend.routes[CHAT] = route
    body = json.dumps({"stream": True, "max_tokens": 50, "messages": ["x" * 360]}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with p.raw(head + body) as s, p.raw(head + body) as t:
        for sock in (s, t):
            got = b""
            while got.count(b"word") < 5:
                got += sock.recv(65536)
        p.daemon.kill()
        p.daemon.wait()
    go.set()
    for _ in range(2):
        p.start()
        want = 2 * 360 // 4, 14, 0, 2 * 360 // 4 + 14
        assert counted(p) == want
        if keys:
            answer = p.ask("GET", "/v1/x", headers={"Authorization": "Bearer k"})
            assert int(answer[2]["x-ratelimit-remaining-budget"]) == 5000 - want[0] - want[1]
        assert p.daemon.stop() == 0


def test_counters_survive_sigkill(proxy):
    proxy.backend.routes[CHAT] = json_route({"usage": USAGE})
    ask(proxy, {})
    wait_for(lambda: counted(proxy) == (11, 7, 4, 0), what="the count")
    proxy.daemon.kill()
    proxy.daemon.wait()
    proxy.start()
    ask(proxy, {})
    wait_for(lambda: counted(proxy) == (22, 14, 8, 0), what="the sum")
