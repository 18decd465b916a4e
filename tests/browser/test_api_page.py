# SPDX-License-Identifier: Apache-2.0
"""A web page of another origin in headless Chromium that talks to the API as it would to any: its key in a field of its own, a stream read
as it comes, limits and errors that it can read."""

import hashlib
import http.server
import json
import threading

import pytest

from proxy_backend import simple
from proxy_daemon import make  # noqa: F401

PAGE = b"<!doctype html><title>an app of somebody else</title><link rel=icon href=data:,>"
# What an unmodified client library does: fetch() with its own fields, the body read as a stream.
CALL = """
const [url, init, done] = [arguments[0], arguments[1], arguments[arguments.length - 1]];
(async () => {
  try {
    const r = await fetch(url, init), seen = [], reader = r.body.getReader(), text = new TextDecoder();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      seen.push(text.decode(value));
    }
    const names = ["x-request-id", "retry-after", "x-ratelimit-remaining-requests", "x-runtime"];
    done({ status: r.status, body: seen.join(""), pieces: seen.length, fields: Object.fromEntries(names.map(n => [n, r.headers.get(n)])) });
  } catch (e) { done({ error: String(e) }); }
})();
"""


@pytest.fixture(scope="module")
def origin():
    """The other origin."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def api(chromium, make, tmp_path, origin):  # noqa: F811
    """(call, proxy): call(key, path, body) from the page."""
    def build(**env):
        keys = tmp_path / "keys"
        keys.write_text("alice:%s rpm=3\n" % hashlib.sha256(b"key-a").hexdigest())
        p = make(TB_API_KEYS=keys, **env).ready().start()
        chromium.get(origin)

        def call(field, value, path="/v1/chat/completions", body=None):
            init = {"method": "POST", "headers": {"Content-Type": "application/json", field: value, "X-Stainless-Lang": "js"},
                    "body": json.dumps(body or {"messages": []})}
            return chromium.execute_async_script(CALL, f"http://127.0.0.1:{p.port}{path}", init)
        return call, p
    return build


def test_a_page_streams_with_a_key(api):
    call, p = api()

    def stream(conn, rq):
        rq.sha256()
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Runtime: seen\r\n"
                     b"Access-Control-Allow-Origin: https://other.example\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(3):
            text = b"data: {\"choices\":[{\"delta\":{\"content\":\"%d\"}}]}\n\n" % i
            conn.sendall(b"%x\r\n%s\r\n" % (len(text), text))
            threading.Event().wait(0.2)
        conn.sendall(b"0\r\n\r\n")
    p.backend.routes["/v1/chat/completions"] = stream
    for field, value in (("Authorization", "Bearer key-a"), ("x-api-key", "key-a"), ("api-key", "key-a")):
        seen = call(field, value)
        assert seen.get("status") == 200, seen
        assert seen["body"].count("data: ") == 3 and seen["pieces"] > 1
        assert seen["fields"]["x-request-id"] and seen["fields"]["x-runtime"] == "seen" and seen["fields"]["x-ratelimit-remaining-requests"]
    assert all(b"key-a" not in rq.head for rq in p.backend.requests)
    limited = call("Authorization", "Bearer key-a")  # it reads why, and when to come again
    assert limited["status"] == 429 and "rate_limit_exceeded" in limited["body"] and int(limited["fields"]["retry-after"]) > 0


def test_a_page_reads_why_it_was_refused(api):
    call, p = api()
    p.backend.routes["/v1/chat/completions"] = lambda conn, rq: (rq.sha256(), conn.sendall(simple(b"{}")))[1]
    assert call("Authorization", "Bearer wrong")["status"] == 401
    assert "not_found" in call("x-api-key", "key-a", "/admin")["body"]


def test_an_origin_that_may_not_is_stopped_by_the_browser(api):
    call, p = api(TB_CORS_ORIGINS="https://app.example.com")
    assert "error" in call("Authorization", "Bearer key-a")
    assert p.backend.requests == []
