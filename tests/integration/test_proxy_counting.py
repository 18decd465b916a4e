# SPDX-License-Identifier: Apache-2.0
"""What is counted and what is reserved, input by input: spellings, pictures, halves of a usage, choices, compression. Where llama-server is
named it is the real one."""

import gzip
import hashlib
import json
import os
import socket
import subprocess
import threading
import urllib.request

import pytest

import model
from proxy_backend import simple
from proxy_daemon import error_of, make, proxy, read_all  # noqa: F401
from tbsys import wait_for
from test_proxy_tokens import HEAD, chunk, delta, json_route, sse, stream_route, tokens

CHAT = "/v1/chat/completions"
PICTURE = 1024  # tokens; docs/billing.md


def models(context):
    return lambda conn, rq: conn.sendall(simple(json.dumps({"data": [{"id": "m", "max_model_len": context}]}).encode(),
                                                extra="Content-Type: application/json\r\n"))


@pytest.fixture
def keyed(make, tmp_path):  # noqa: F811
    """A running proxy with one key "k" of these limits, before a runtime with that context; None: it does not say."""
    def build(limits, context=None):
        path = tmp_path / "keys"
        path.write_text(f"alice:{hashlib.sha256(b'k').hexdigest()} {limits}\n")
        p = make(TB_API_KEYS=path).ready()
        p.keys_file = path
        if context:
            p.backend.routes["/v1/models"] = models(context)
        return p.start()
    return build


def ask(p, body, path=CHAT):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return p.ask("POST", path, body, {"Content-Type": "application/json", "Authorization": "Bearer k"})


def left(p):
    return int(p.ask("GET", "/v1/x", headers={"Authorization": "Bearer k"})[2]["x-ratelimit-remaining-budget"])


def writer(seen, prompt=10, write=20000, limits=("max_completion_tokens", "max_tokens")):
    """A runtime that writes as much as it is let: `write` without a limit."""
    def route(conn, rq):
        doc = json.loads(b"".join(rq.pieces()))
        given = [doc[name] for name in limits if doc.get(name)]
        out = int(given[0]) if given else write
        seen.append((doc, out))
        conn.sendall(simple(json.dumps({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": out * (doc.get("n") or 1)}}).encode(),
                            extra="Content-Type: application/json\r\n"))
    return route


# --- the request ---------------------------------------------------------------------------------------------

def test_sixty_repetitions_do_not_overrun(proxy):
    body = b'{"stream":true' + b',"stream_options":{"include_usage":0}' * 60 + b"}"
    whole = []
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), whole.append(rq), conn.sendall(simple(b"{}")))[2]
    assert error_of(ask(proxy, body)) == (400, "repeated_member")
    assert whole == [] and ask(proxy, {})[0] == 200 and len(whole) == 1
    assert proxy.wait_records(2)[0]["error"] == "repeated_member"


def test_a_template_of_the_request_may_make_any_prompt(keyed):
    """chat_template is a program: what it makes is bounded by the context only. As null, or where no budget is, it is nothing special."""
    p, doc = keyed("budget=1000", 20000), {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    whole = []
    p.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), whole.append(rq), conn.sendall(simple(b"{}")))[2]
    assert error_of(ask(p, {**doc, "chat_template": "{{ 'a' * 9999 }}"})) == (429, "insufficient_quota")
    assert error_of(ask(p, {**doc, "chat_template": {"x": 1}})) == (429, "insufficient_quota")
    assert whole == [] and left(p) == 1000
    assert ask(p, {**doc, "chat_template": None})[0] == 200
    p.keys_file.write_text(p.keys_file.read_text().replace("budget=1000", "tpm=1000"))
    wait_for(lambda: "read again" in p.daemon.log_text(), what="the new keys")
    assert ask(p, {**doc, "chat_template": "{{ 'a' * 9999 }}"})[0] == 200 and len(whole) == 2


@pytest.mark.parametrize("context", [None, 30000])
def test_a_misspelt_limit_does_not_lift_the_budget(keyed, context):
    p, seen = keyed("budget=1000", context), []
    p.backend.routes[CHAT] = writer(seen)
    assert ask(p, {"MAX_TOKENS": 1, "messages": []})[0] == 200
    assert seen[0][1] < 1000 and left(p) == 1000 - 10 - seen[0][1]


@pytest.mark.parametrize("limits, written", [
    ({"max_completion_tokens": 64, "max_tokens": None}, 64), ({"max_tokens": "64"}, 64), ({"max_tokens": 64.0}, 64), ({"max_tokens": " 6_4 "}, 64),
])
def test_a_limit_is_what_the_runtime_takes_it_for(keyed, limits, written):
    p, held = keyed("budget=1000", 20000), []

    def route(conn, rq):
        doc = json.loads(b"".join(rq.pieces()))
        held.append(left(p))
        assert {k: v for k, v in doc.items() if k.startswith("max")} == {k: v and written for k, v in limits.items()}
        assert not any(isinstance(v, str) for v in doc.values())  # which llama-server would not read
        conn.sendall(simple(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}', extra="Content-Type: application/json\r\n"))
    p.backend.routes[CHAT] = route
    body = json.dumps({"messages": [], **limits}).encode()
    assert ask(p, body)[0] == 200
    assert held == [1000 - written - (len(body) - 1) - 64] and left(p) == 998


def test_a_budget_that_can_pay_leaves_the_request_alone(keyed):
    """The runtime's own context is the most it can write."""
    p, seen = keyed("budget=5000", 2000), []
    p.backend.routes[CHAT] = writer(seen, write=1990)
    assert ask(p, {"messages": []})[0] == 200 and seen[-1][0] == {"messages": []}
    assert left(p) == 3000
    assert ask(p, {"max_tokens": None})[0] == 200 and seen[-1][0] == {"max_tokens": None}
    assert ask(p, {"max_tokens": None, "messages": []})[0] == 200  # 1000 are left
    assert 800 < seen[-1][0]["max_tokens"] < 1000 and left(p) == 1000 - 10 - seen[-1][1]


def test_a_rate_writes_nothing_and_may_go_into_debt(keyed):
    p, seen = keyed("tpm=1000"), []
    p.backend.routes[CHAT] = writer(seen, write=1500)
    assert ask(p, {"messages": []})[0] == 200 and seen[0][0] == {"messages": []}
    answer = ask(p, {"messages": []})
    assert error_of(answer) == (429, "rate_limit_exceeded") and int(answer[2]["Retry-After"]) > 30


@pytest.mark.parametrize("body", [b'{"max_tokens":[5]}', b'{"n":{}}', b'{"stream":"perhaps"}', b'{"max_tokens":"1e2"}'])
def test_what_could_mean_two_things(keyed, make, tmp_path, body):
    p = keyed("tpm=1000")
    assert error_of(ask(p, body)) == (400, "invalid_member")
    p.stop()
    seen = []
    other = make().ready().start()
    other.backend.routes[CHAT] = json_route({}, seen)
    assert ask(other, body)[0] == 200 and seen[0].rstrip(b" ") == body


def test_a_long_prompt_may_go_into_debt_as_well(keyed):
    """Only a limit of its own that is larger than the rate never fits."""
    p, seen = keyed("tpm=1000"), []
    p.backend.routes[CHAT] = json_route({"choices": [], "usage": {"prompt_tokens": 1500, "completion_tokens": 5}}, seen)
    long = {"messages": [{"role": "user", "content": "x" * 6000}]}
    assert ask(p, {**long, "max_tokens": 1001})[2]["x-should-retry"] == "false" and not seen
    assert ask(p, {**long, "max_tokens": 50})[0] == 200
    assert int(ask(p, long)[2]["Retry-After"]) > 60


def test_sound_fits_into_a_budget(keyed):
    p = keyed("budget=200000")
    p.backend.routes["/v1/audio/transcriptions"] = json_route({"text": "hi", "usage": {"input_tokens": 3000, "output_tokens": 40}})
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": "Bearer k"}
    assert p.ask("POST", "/v1/audio/transcriptions", b"--b\r\n" + b"a" * 2_000_000, headers)[0] == 200
    assert left(p) == 200_000 - 3040


def picture(n):
    return {"role": "user", "content": [{"type": "text", "text": "t" * 80},
                                        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * n}}]}


def test_a_picture_fits_into_a_rate(keyed):
    p, seen = keyed("tpm=20000"), []
    p.backend.routes[CHAT] = json_route({"choices": [], "usage": {"prompt_tokens": 300, "completion_tokens": 5}}, seen)
    assert ask(p, {"messages": [picture(300_000)], "max_tokens": 50})[0] == 200


# --- the answer ----------------------------------------------------------------------------------------------

def aborted(p, body, events, until, path=CHAT):
    """A client that leaves when it has seen so many of the marks. The record."""
    gone = threading.Event()

    def route(conn, rq):
        b"".join(rq.pieces())
        conn.sendall(HEAD + b"".join(chunk(sse(e)) for e in events))
        gone.wait(20)
        return False
    p.backend.routes[path] = route
    body = json.dumps(body).encode()
    with p.raw(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body) as s:
        got = b""
        while got.count(b"data:") < until:
            got += s.recv(65536)
    [record] = p.wait_records(1)
    gone.set()
    return record


def test_a_picture_of_an_aborted_stream(proxy):
    record = aborted(proxy, {"stream": True, "messages": [picture(800_000)]}, [delta("word")] * 2, 2)
    assert tokens(record) == (80 // 4 + PICTURE, 2, 0, True)


DATA = "A" * 40_000
URL = "data:%s;base64," + DATA
SECONDS = 30_000 // 16_000 + 1  # of the decoded data, as docs/billing.md has it
CHAT_PARTS = {
    "a picture by URL": ([{"type": "image_url", "image_url": {"url": "https://h/p.png", "detail": "high"}}], PICTURE),
    "a picture embedded": ([{"type": "image_url", "image_url": {"url": URL % "image/jpeg"}}], PICTURE),
    "its URL alone": ([{"type": "image_url", "image_url": URL % "image/webp"}], PICTURE),
    "three pictures": ([{"type": "image_url", "image_url": {"url": URL % "image/png"}}] * 3, 3 * PICTURE),
    "a video by URL": ([{"type": "video_url", "video_url": {"url": "https://h/v.mp4"}}], 8 * PICTURE),
    "a video embedded": ([{"type": "video_url", "video_url": {"url": URL % "video/mp4"}}], 8 * PICTURE),
    "a video of frames": ([{"type": "video_url", "video_url": {"url": URL % "video/jpeg"}}], 8 * PICTURE),
    "sound embedded": ([{"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}], 25 * SECONDS),
    "sound by data URL": ([{"type": "audio_url", "audio_url": {"url": URL % "audio/ogg"}}], 25 * SECONDS),
    "a file": ([{"type": "file", "file": {"filename": "abcd", "file_data": URL % "application/pdf"}}], PICTURE + 1),
    "a picture made into vectors": ([{"type": "image_embeds", "image_embeds": DATA}], 30_000 // 8192 + 1),
}


@pytest.mark.parametrize("kind", CHAT_PARTS)
def test_media_count_by_what_they_are(proxy, kind):
    """By the rules of docs/billing.md, never by the bytes they came in."""
    parts, want = CHAT_PARTS[kind]
    proxy.backend.routes[CHAT] = json_route({"choices": [{"message": {"content": "x" * 8}}]})
    text = [{"type": "text", "text": "q" * 80}]
    assert ask(proxy, {"messages": [{"role": "user", "content": text + parts}]})[0] == 200
    assert tokens(proxy.wait_records(1)[0]) == (80 // 4 + want, 2, 0, True)


@pytest.mark.parametrize("path, doc", [
    ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}]}]}),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": URL % "image/png"}]}]}),
    ("/v1/embeddings", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL % "image/png"}}]}]}),
    ("/v1/rerank", {"query": "", "documents": [{"content": [{"type": "image_url", "image_url": {"url": URL % "image/png"}}]}]})])
def test_a_picture_is_one_in_every_api(proxy, path, doc):
    shape = {"content": [{"text": "x" * 8}], "output": [{"content": [{"text": "x" * 8}]}], "data": [], "results": []}
    proxy.backend.routes[path] = json_route(shape)
    assert ask(proxy, doc, path)[0] == 200
    prompt, _, _, estimated = tokens(proxy.wait_records(1)[0])
    assert (prompt, estimated) == (PICTURE, True)


def test_events_of_many_tokens(proxy):
    """An event is as many tokens as its text has, not one."""
    record = aborted(proxy, {"stream": True, "messages": []}, [delta("word" * 60)] * 6, 6)
    assert tokens(record)[1:] == (360, 0, True)


@pytest.mark.parametrize("start, want", [(True, (50, 12, 0, None)), (False, (25, 12, 0, True))])
def test_anthropic_streams(proxy, start, want):
    events = [{"type": "message_start", "message": {"usage": {"input_tokens": 50, "output_tokens": 1}}},
              {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
              {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12, **({"input_tokens": 50} if start else {})}}]
    data = sse(*events[0 if start else 1:])
    proxy.backend.routes["/v1/messages"] = stream_route(data)
    assert ask(proxy, {"stream": True, "messages": [{"role": "user", "content": "q" * 100}]}, "/v1/messages")[1] == data
    assert tokens(proxy.wait_records(1)[0]) == want


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_compressed_answer_is_counted(proxy, coding, stream):
    import zlib
    doc = {"choices": [{"message": {"content": "x" * 400}}], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}
    plain = sse(delta("x" * 400), {"choices": [], "usage": doc["usage"]}, b"[DONE]") if stream else json.dumps(doc).encode()
    body = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain) if coding == "deflate" else os.urandom(60)
    kind = "text/event-stream" if stream else "application/json"
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(
        simple(body, extra=f"Content-Type: {kind}\r\nContent-Encoding: {coding}\r\n")))[1]
    answer = ask(proxy, {"stream": stream, "messages": [{"role": "user", "content": "q" * 100}]})
    assert answer[1] == body and answer[2]["Content-Encoding"] == coding
    want = (25, 15, 0, True) if coding == "br" else (11, 7, 0, None)
    assert tokens(proxy.wait_records(1)[0]) == want


@pytest.mark.parametrize("padding", [b"", b"\0" * 20, b"junk"])
def test_a_compressed_answer_may_have_several_members(proxy, padding):
    events = [sse(delta("x" * 400)), sse({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}, b"[DONE]")]
    body = b"".join(map(gzip.compress, events)) + padding
    proxy.backend.routes[CHAT] = lambda conn, rq: (rq.sha256(), conn.sendall(
        simple(body, extra="Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n")))[1]
    assert ask(proxy, {"stream": True, "messages": []})[1] == body
    assert tokens(proxy.wait_records(1)[0]) == (11, 7, 0, None)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/messages/count_tokens", "/v1/chat/completions/input_tokens", "/v1/tokenize"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_infers_nothing_costs_nothing(keyed, path, method):
    p = keyed("budget=1000", 20000)
    p.backend.routes[path] = json_route({"input_tokens": 400, "usage": {"prompt_tokens": 400}})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
    assert p.ask(method, path, json.dumps({"messages": ["x" * 5000]}) if method == "POST" else None, headers)[0] == 200
    assert left(p) == 1000 and tokens(p.wait_records(2)[0]) == (None,) * 4


# --- the real llama-server -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    home = tmp_path_factory.mktemp("llama")
    model.make_model(home)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with open(home / "log", "w") as log:
        command = [model.llama_server(), "-m", str(home / model.GGUF), "-c", "1536", "-t", "1", "--host", "127.0.0.1", "--port", str(port),
                   "--parallel", "3"]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), what="llama-server", every=0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


WHOLE = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 40, "ignore_eos": True, "seed": 1, "temperature": 0, "cache_prompt": False}


def direct(url, doc):
    rq = urllib.request.Request(url + CHAT, json.dumps(doc).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(rq, timeout=60).read()


@pytest.mark.parametrize("stream", [False, True])
def test_llama_choices_count_by_what_was_delivered(make, llama, stream):
    p = make(TB_RUNTIME_URL=llama).ready().start()
    assert ask(p, {**WHOLE, "n": 3, "stream": stream})[0] == 200
    [record] = p.wait_records(1)
    assert record["completion_tokens"] == 120 and record["prompt_tokens"] == 19


def test_llama_prompts_count_each(make, llama):
    p = make(TB_RUNTIME_URL=llama).ready().start()
    one = [json.loads(ask(p, {**WHOLE, "prompt": t}, "/v1/completions")[1])["usage"]["prompt_tokens"] for t in ("abcd", "efgh")]
    assert ask(p, {**WHOLE, "prompt": ["abcd", "efgh"]}, "/v1/completions")[0] == 200
    assert ask(p, {**WHOLE, "prompt": ["abcd", "efgh"]}, "/v1/completion")[0] == 404
    record = p.wait_records(4)[2]
    assert record["completion_tokens"] == 80 and abs(record["prompt_tokens"] - sum(one)) <= 1


def shape(stream):
    """Events without what differs from call to call."""
    out = []
    for line in stream.decode().splitlines():
        if line.startswith("data: {"):
            doc = json.loads(line[6:])
            doc["timings"] = sorted(doc.get("timings", {}))
            out.append({k: v for k, v in doc.items() if k not in ("id", "created")})
        else:
            out.append(line)
    return out


@pytest.mark.parametrize("n", [1, 2])
def test_llama_events_are_as_without_us(make, llama, n):
    p = make(TB_RUNTIME_URL=llama).ready().start()
    doc = {**WHOLE, "stream": True, "max_tokens": 5, "n": n}
    ours, theirs = shape(ask(p, doc)[1]), shape(direct(llama, doc))
    if n == 1:
        assert ours == theirs
    last = [e for e in ours if isinstance(e, dict) and e["choices"][0]["finish_reason"]]
    assert len(last) == n and all("predicted_n" in e["timings"] for e in last) and ours[-2:] == theirs[-2:]
    [record] = p.wait_records(1)
    assert record["completion_tokens"] == 5 * n and "estimated" not in record


def test_llama_says_its_context(make, llama, tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"alice:{hashlib.sha256(b'k').hexdigest()} budget=1000\n")
    p = make(TB_API_KEYS=path, TB_RUNTIME_URL=llama).ready().start()
    assert "context has 512 tokens" in p.daemon.log_text()
    spent = 0
    for n in range(6):
        status, body, _ = ask(p, {**WHOLE, "max_tokens": None})
        if status != 200:
            break
        spent += json.loads(body)["usage"]["total_tokens"]
    assert 700 < spent <= 1000 and error_of((status, body)) == (429, "insufficient_quota") and left(p) == 1000 - spent


# --- responses in the background -----------------------------------------------------------------------------

def background(p):
    """Responses that are done when `done` is set."""
    done = threading.Event()

    def create(conn, rq):
        b"".join(rq.pieces())
        doc = {"id": "resp_" + "a" * 32, "status": "queued", "output": [], "usage": None}
        conn.sendall(simple(json.dumps(doc).encode(), extra="Content-Type: application/json\r\n"))

    def fetch(conn, rq):
        doc = {"id": "resp_" + "a" * 32, "status": "queued", "output": [], "usage": None}
        if done.is_set():
            doc |= {"status": "completed", "usage": {"input_tokens": 9, "output_tokens": 30}}
        conn.sendall(simple(json.dumps(doc).encode(), extra="Content-Type: application/json\r\n"))
    p.backend.routes["/v1/responses"] = create
    p.backend.routes["/v1/responses/resp_" + "a" * 32] = fetch
    return done


def test_a_background_response_is_counted_once(keyed):
    p = keyed("budget=1000", 20000)
    done = background(p)
    get = ("GET", "/v1/responses/resp_" + "a" * 32, None, {"Authorization": "Bearer k"})
    assert ask(p, {"background": True, "max_output_tokens": 300, "input": "q"}, "/v1/responses")[0] == 200
    assert left(p) < 700  # held until it is known
    assert p.ask(*get)[0] == 200 and left(p) < 700
    done.set()
    for _ in range(2):
        assert p.ask(*get)[0] == 200
        assert left(p) == 1000 - 39
    records = p.wait_records(8)
    assert [tokens(r)[:2] for r in records if r["path"].startswith("/v1/resp")] == [(None, None)] * 2 + [(9, 30)] + [(None, None)]


def test_a_background_response_that_nobody_fetches_is_counted_after_all(keyed):
    p = keyed("budget=1000", 20000)
    background(p)
    assert ask(p, {"background": True, "max_output_tokens": 300, "input": "q"}, "/v1/responses")[0] == 200
    p.daemon.kill()
    p.daemon.wait()
    p.start()
    assert 500 < left(p) < 700


@pytest.mark.parametrize("path, too_much, enough", [
    ("/v1/completion%73", 429, 200), ("/v1/%63ompletions", 429, 200), ("/v1/./completions", 400, 400), ("/v1/x/../completions", 400, 400)])
def test_an_escaped_path_is_the_same_path(keyed, path, too_much, enough):
    """What is matched, classified and counted is what the runtime gets."""
    p, seen = keyed("budget=1000", 20000), []
    p.backend.routes["/v1/completions"] = writer(seen)
    answer = ask(p, {"prompt": "x", "max_tokens": 50000}, path)
    assert answer[0] == too_much and seen == []
    assert ask(p, {"prompt": "x", "max_tokens": 50}, path)[0] == enough
    assert [out for _, out in seen] == [50] * (enough == 200) and left(p) == 1000 - 60 * len(seen)
