# SPDX-License-Identifier: Apache-2.0
"""tb-proxy before FastAPI on uvicorn, which is what vLLM and SGLang stand on, with either of uvicorn's two HTTP parsers."""

import concurrent.futures
import http.client
import json
import socket
import subprocess
import sys
import time

import pytest

from proxy_backend import body_pieces, headers_of, read_head
from proxy_daemon import make  # noqa: F401
from tbsys import free_port, wait_for

APP = """
import asyncio, hashlib, json
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

app = FastAPI()

@app.get("/health")
async def health():
    return {}

@app.post("/v1/echo")
async def echo(rq: Request):
    body = await rq.body()
    return {"path": rq.scope["raw_path"].decode(), "host": rq.headers["host"], "n": len(body), "sha256": hashlib.sha256(body).hexdigest(),
            "forwarded": rq.headers.getlist("x-forwarded-for")}

@app.post("/v1/completions")
async def completions(rq: Request):
    asked = await rq.json()
    return {"usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, "asked": asked}

@app.post("/v1/chat/completions")
async def chat(rq: Request):
    asked = await rq.json()

    async def events():
        for i in range(5):
            yield 'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\\n\\n'
            await asyncio.sleep(0.02)
        if (asked.get("stream_options") or {}).get("include_usage"):
            yield 'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\\n\\n'
        yield 'data: [DONE]\\n\\n'
    return StreamingResponse(events(), media_type="text/event-stream")
"""


@pytest.fixture(params=["httptools", "h11"])
def p(make, tmp_path, request):  # noqa: F811
    port = free_port()
    (tmp_path / "app.py").write_text(APP)
    with open(tmp_path / "uvicorn.log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--http", request.param, "--no-access-log"],
                                  cwd=tmp_path, stdout=log, stderr=log)
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60, "uvicorn")
        yield make(TB_RUNTIME_URL=f"http://127.0.0.1:{port}").ready().start()
    finally:
        server.terminate()
        server.wait()


def ask_json(p, path, body, headers=None):
    status, text, _ = p.ask("POST", path, body, headers)
    assert status == 200, text
    return json.loads(text)


def answer_of(sock):
    head, rest = read_head(sock)
    return int(head.split()[1]), b"".join(body_pieces(sock, headers_of(head), rest))


@pytest.mark.alone
def test_an_early_refusal_owes_nothing_to_the_next_client(p):
    """The head and 10 of 4010 bytes for a path that is not there: uvicorn answers 404 at once."""
    for _ in range(5):
        with p.raw(b"POST /v1/nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4010\r\n\r\n0123456789") as s:
            assert answer_of(s)[0] == 404  # before the rest is sent
            s.sendall(b"y" * 4000)
            s.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            status, text = answer_of(s)
            assert status == 200 and json.loads(text)["n"] == 3  # on the same connection of the client
        start = time.monotonic()
        assert ask_json(p, "/v1/echo", b"abc")["n"] == 3
        assert time.monotonic() - start < 2
    assert [r["status"] for r in p.wait_records(15)] == [404, 200, 200] * 5


@pytest.mark.parametrize("length", [True, False])
def test_sixty_repetitions_leave_nothing_behind(p, length):
    """Refused, not forwarded: no byte of it is the beginning of the next request at uvicorn."""
    body = b'{"stream":true' + b',"stream_options":{"include_usage":0}' * 60 + b',"messages":[]}'
    framing, data = (f"Content-Length: {len(body)}", body) if length else ("Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    for _ in range(5):
        with p.raw(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode() + data) as s:
            status, text = answer_of(s)
            assert status == 400 and json.loads(text)["error"]["code"] == "repeated_member"
        assert ask_json(p, "/v1/echo", b"abc")["n"] == 3
    assert [r["status"] for r in p.wait_records(10)] == [400, 200] * 5


def test_bodies_of_either_framing(p):
    for n in (0, 1, 300, 70_000, 1_000_000):
        body = bytes(i % 251 for i in range(n))
        assert ask_json(p, "/v1/echo", body)["n"] == n
        c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=20)
        c.request("POST", "/v1/echo", iter([body[i:i + 1000] for i in range(0, n, 1000)]), encode_chunked=True)
        assert json.loads(c.getresponse().read())["n"] == n
        c.close()


def test_a_body_that_comes_late_finds_a_connection(p):
    """uvicorn closes a connection that is idle for five seconds; the one that waits for this body must not be lost with it."""
    ask_json(p, "/v1/echo", b"abc")
    with p.raw(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n") as s:
        time.sleep(6)
        s.sendall(b"abc")
        assert answer_of(s)[0] == 200


def test_one_path_and_all_fields(p):
    got = ask_json(p, "/v1/%65cho", b"{}", {"Connection": "host, x-forwarded-for", "Host": "model.example", "X-Forwarded-For": "192.0.2.1"})
    assert got["path"] == "/v1/echo" and got["host"] == "model.example" and got["forwarded"] == ["192.0.2.1, 127.0.0.1"]
    with p.raw(b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nX-Forwarded-For: 192.0.2.3\r\n"
               b"Content-Length: 0\r\n\r\n") as s:
        assert json.loads(answer_of(s)[1])["forwarded"] == ["192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1"]
    assert ask_json(p, "/v1/completion%73", b'{"prompt":"x"}')["usage"]["total_tokens"] == 8
    record = p.wait_records(3)[-1]
    assert record["path"] == "/v1/completions" and record["completion_tokens"] == 5


def test_a_stream_is_metered_and_its_connection_kept(p):
    def one(_):
        status, text, _ = p.ask("POST", "/v1/chat/completions", b'{"stream":true,"messages":[]}')
        assert status == 200 and text.endswith(b"data: [DONE]\n\n") and b"usage" not in text
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert {(r["prompt_tokens"], r["completion_tokens"], r["status"]) for r in p.wait_records(40)} == {(7, 5, 200)}
