# SPDX-License-Identifier: Apache-2.0
"""What the health port has for people: the status page and its events, and the runtime's own metrics. tests/browser drives the page in
a browser."""

import http.client
import itertools
import json
import re
import socket
import threading
import time

import pytest

from patience import patient
from proxy_backend import body_pieces, headers_of, read_head, simple
from proxy_daemon import boottime_us, make, proxy, read_all  # noqa: F401
from tbsys import wait_for


class Events:
    """One stream of events, read with a socket."""

    def __init__(self, p):
        self.sock = socket.create_connection(("127.0.0.1", p.health.getsockname()[1]), timeout=20)
        self.sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        head, rest = read_head(self.sock)
        self.status, self.headers = int(head.split()[1]), headers_of(head)
        self.pieces, self.text = body_pieces(self.sock, self.headers, rest), b""

    def next(self):
        while b"\n\n" not in self.text:
            self.text += next(self.pieces)
        event, self.text = self.text.split(b"\n\n", 1)
        assert event.startswith(b"data: ")
        return json.loads(event[6:])

    def until(self, what):
        end = time.monotonic() + patient(20)
        while time.monotonic() < end:
            doc = self.next()
            if what(doc):
                return doc
        raise AssertionError("no such event")

    def close(self):
        self.sock.close()


def test_page_is_whole_without_a_script_and_tells_nothing_secret(proxy):  # noqa: F811
    proxy.lease(expires_at="2030-01-01T00:00:00Z", deadline_boottime_us=boottime_us() + 30 * 86400 * 10**6)
    proxy.ask("POST", "/v1/chat/completions?secret=1", b"{}", {"X-Request-Id": "my-id", "Authorization": "Bearer k"})
    proxy.ask("GET", "/v1/files/secret-name")
    proxy.ask("GET", "/<script>alert(1)</script>")
    page = wait_for(lambda: (b := proxy.ask_health("/")[1].decode()) and "29 d" in b and b, what="the lease on the page")
    status, _, headers = proxy.ask_health("/")
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy and "http" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert "{{" not in page and '<span data-f="state">Ready</span>' in page and "POST /v1/chat/completions" in page
    assert re.search(r'<td class="path">GET other path</td><td><b>404</b>', page)
    for secret in ("contract-1", "127.0.0.1", "my-id", "secret", "alert", "Bearer"):
        assert secret not in page, secret
    assert "style=" not in page and not re.search(r"\son\w+=", page)  # what the policy would refuse
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(re.fullmatch(r"/[a-z.]+", link) for link in links)
    for link in links:
        assert proxy.ask_health(link)[0] == 200, link
    assert proxy.ask_health("/", "HEAD")[:2] == (200, b"") and proxy.ask_health("/", "POST")[0] == 405
    assert proxy.ask("GET", "/")[0] == 404  # not on the public port
    assert proxy.ask("GET", "/events")[0] == 404


def test_events_follow_the_state(make):  # noqa: F811
    p = make().start(wait="Boot")
    e = Events(p)
    assert e.status == 200 and e.headers["content-type"] == ["text/event-stream"]
    first = e.next()
    assert first["fields"]["state"] == "Boot" and first["rows"] == []
    p.lease()
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=1 << 30, bytes_total=4 << 30)
    doc = e.until(lambda d: d["fields"]["hydrate_pct"] == "25")
    assert doc["fields"]["state"] == "Hydrate" and doc["fields"]["hydrate"] == "1.0 GiB of 4.0 GiB"
    assert doc["fields"]["step_authorize"] == "done" and doc["fields"]["step_hydrate"] == "now"
    p.ready()
    e.until(lambda d: d["fields"]["state"] == "Ready")
    p.ask("GET", "/v1/models")
    doc = e.until(lambda d: d["rows"])
    assert doc["rows"][0][1:3] == ["GET /v1/models", "200"] and doc["fields"]["answered"] == "1"
    p.write("tb-authorize", "suspended", reason="contract_revoked")
    doc = e.until(lambda d: d["fields"]["state"] == "Suspended")
    assert "contract revoked" in doc["fields"]["sentence"] and doc["fields"]["lease_class"] == "bad"
    e.close()


def test_viewers_are_few_and_leave_the_probes_alone(proxy):  # noqa: F811
    viewers = [Events(proxy) for _ in range(8)]
    assert [v.status for v in viewers] == [200] * 8
    for _ in range(100):  # whoever comes now is sent away and holds nothing
        v = Events(proxy)
        assert v.status == 503 and v.headers["retry-after"]
        v.close()
    for _ in range(20):
        assert proxy.ask_health("/health")[1] == b"OK"
    for v in viewers:
        assert v.next()["fields"]["state"] == "Ready"
    viewers.pop().close()
    last = wait_for(lambda: (v := Events(proxy)).status == 200 and v, what="the place of the one who left")
    # one that does not read what it is sent holds its own place, and nothing else
    for _ in range(3):
        assert last.next()["fields"]["state"] == "Ready"
    assert proxy.ask_health("/metrics")[0] == 200
    assert proxy.daemon.stop(timeout=10) == 0  # with all of them looking on
    for v in [*viewers, last]:
        assert read_all(v.sock) is not None
        v.close()


def test_runtime_metrics(proxy):  # noqa: F811
    text = b"# HELP llamacpp:prompt_tokens_total x\n# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total 7\n"
    proxy.backend.routes["/metrics"] = lambda conn, rq: conn.sendall(simple(text * 100)) and None
    for _ in range(5):
        status, body, headers = proxy.ask_health("/metrics?runtime=1")
        assert (status, body) == (200, text * 100) and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert b"tb_state" in proxy.ask_health("/metrics?runtime=0")[1]
    assert proxy.ask_health("/metrics?runtime=1", "HEAD")[0] == 200
    proxy.backend.routes["/metrics"] = lambda conn, rq: conn.sendall(simple(b"no", "501 Not Implemented")) and None
    status, body, _ = proxy.ask_health("/metrics?runtime=1")
    assert status == 502 and "501" in json.loads(body)["error"]["message"]
    proxy.backend.routes["/metrics"] = lambda conn, rq: conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") and None or False
    assert proxy.ask_health("/metrics?runtime=1")[0] == 502
    proxy.backend.routes["/metrics"] = lambda conn, rq: conn.sendall(simple(b"x" * (5 << 20)))
    assert proxy.ask_health("/metrics?runtime=1")[0] == 502
    assert len(proxy.records() if proxy.audit_file.exists() else []) == 0  # no request of a client


def test_runtime_that_is_silent_does_not_hold_the_port(proxy):  # noqa: F811
    asked, go = threading.Semaphore(0), threading.Event()

    def silent(conn, rq):
        asked.release()
        go.wait(30)
        return False
    proxy.backend.routes["/metrics"] = silent
    port = proxy.health.getsockname()[1]
    waiting = []
    for _ in range(2):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        c.request("GET", "/metrics?runtime=1")
        assert asked.acquire(timeout=20)
        waiting.append(c)
    assert proxy.ask_health("/metrics?runtime=1")[0] == 503
    assert proxy.ask_health("/health")[0] == 200
    assert waiting.pop().getresponse().status == 504
    waiting.pop().close()  # this one does not wait
    wait_for(lambda: proxy.ask_health("/metrics?runtime=1")[0] == 504, what="free places again")
    go.set()
    proxy.backend.healthy = False
    wait_for(lambda: proxy.status()["state"] == "Decrypt", what="the runtime to be down")
    assert proxy.ask_health("/metrics?runtime=1")[0] == 503


@pytest.mark.parametrize("what", ["events", "runtime"])
def test_stop_while_somebody_waits(proxy, what):  # noqa: F811
    asked = threading.Event()

    def silent(conn, rq):
        asked.set()
        conn.recv(1)
        return False
    proxy.backend.routes["/metrics"] = silent
    if what == "events":
        viewer = Events(proxy)
        viewer.next()
    else:
        c = http.client.HTTPConnection("127.0.0.1", proxy.health.getsockname()[1], timeout=30)
        c.request("GET", "/metrics?runtime=1")
        assert asked.wait(20)
    assert proxy.daemon.stop(timeout=10) == 0, proxy.daemon.log_text()


def test_no_control_character_reaches_a_terminal(make):  # noqa: F811
    """A reason comes from a server far away; an operator looks at it with curl."""
    p = make().ready()
    reason = "gone\u009b31m\u009d0;x\u009c\x1b[2J\u202e\u2028end"
    p.write("tb-hydrate", "progress.json", state="failed", reason=reason, bytes_done=1, bytes_total=10)
    p.write("tb-authorize", "suspended", reason=reason)
    p.lease(state="denied", reason=reason)
    p.start(wait=None)
    wait_for(lambda: p.status()["suspended"], what="the suspension")
    for path, port in itertools.product(("/status", "/", "/metrics", "/health"), (p.port, p.health.getsockname()[1])):
        body = p.ask("GET", path, port=port)[1]
        text = body.decode()
        assert not [c for c in text if (ord(c) < 0x20 and c != "\n" and c != "\t") or 0x7f <= ord(c) < 0xa0 or c in "\u202e\u2028"], (path, text)
    assert p.status()["reason"].startswith("gone")
