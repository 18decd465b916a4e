# SPDX-License-Identifier: Apache-2.0
"""tb-proxy's states on both ports, the end of the lease, and restarts and stops that lose no request."""

import http.client
import json
import os
import re
import signal
import threading

from proxy_backend import body_pieces, headers_of, read_head, simple
from proxy_daemon import boottime_us, error_of, live_stream, make, proxy, queue_length, read_all, readable  # noqa: F401
from tbsys import Daemon, program, read_json, wait_for


# --- states ---------------------------------------------------------------------------------------------------------

def check_codes(p, state, health, readiness, api):
    p.wait_state(state)
    for port in (p.port, p.health.getsockname()[1]):
        assert p.ask("GET", "/health", port=port)[0] == health
        assert p.ask("GET", "/readiness", port=port)[0] == readiness
        assert p.ask("HEAD", "/status", port=port)[0] == 200
        doc = json.loads(p.ask("GET", "/status", port=port)[1])
        assert doc["state"] == state and doc["ready"] == (state == "Ready") and doc["suspended"] == (state == "Suspended")
    answer = p.ask("POST", "/v1/chat/completions", b"{}")
    assert answer[0] == api
    if api != 200:
        assert set(json.loads(answer[1])["error"]) == {"message", "type", "code"}
    if api == 503:
        assert int(answer[2]["Retry-After"]) > 0
    assert read_json(p.run / "tb-proxy/proxy.json")["state"] == state
    return answer


def test_states_on_both_ports(make):
    p = make().start(wait=None)
    check_codes(p, "Boot", 503, 503, 503)
    p.lease("pending")
    check_codes(p, "Authorize", 503, 503, 503)
    p.lease(expires_at="2030-01-01T00:00:00Z", deadline_boottime_us=boottime_us() + 3600 * 10**6)
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=5, bytes_total=10)
    check_codes(p, "Hydrate", 503, 503, 503)
    wait_for(lambda: p.status()["hydrate"].get("bytes_done") == 5, what="progress in /status")
    assert p.status()["lease_expires_at"] == "2030-01-01T00:00:00Z"
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=10, bytes_total=10)
    check_codes(p, "Decrypt", 503, 200, 503)
    p.backend.healthy = False
    p.write("tb-runtime", "delivery.json", state="delivered", mode="dir")
    check_codes(p, "Decrypt", 503, 200, 503)
    p.backend.healthy = True
    check_codes(p, "Ready", 200, 200, 200)
    p.backend.healthy = False
    check_codes(p, "Decrypt", 503, 200, 503)
    p.backend.healthy = True
    p.wait_state("Ready")
    p.write("tb-authorize", "suspended", reason="contract_revoked", since="2026-01-01T00:00:00Z")
    assert error_of(check_codes(p, "Suspended", 503, 503, 403)) == (403, "contract_revoked")
    (p.run / "tb-authorize/suspended").unlink()
    check_codes(p, "Ready", 200, 200, 200)
    p.lease("denied", reason="subscription_inactive")
    assert error_of(check_codes(p, "Suspended", 503, 503, 403)) == (403, "subscription_inactive")


def test_a_view_is_ready_when_all_of_it_was_verified(make):
    """The runtime reads, and may be healthy, before that."""
    p = make().start(wait=None)
    p.lease()
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=10, bytes_total=10)
    p.write("tb-runtime", "delivery.json", state="streaming", mode="view", started_boottime_us=1000)
    p.write("tb-decrypt", "progress.json", state="complete", bytes_done=9, bytes_total=9, started_boottime_us=900)  # of the start before
    check_codes(p, "Decrypt", 503, 200, 503)
    p.write("tb-decrypt", "progress.json", state="serving", bytes_done=5, bytes_total=9, started_boottime_us=1100)
    wait_for(lambda: p.status()["reason"] == "streaming", what="the view's word")
    check_codes(p, "Decrypt", 503, 200, 503)
    p.write("tb-decrypt", "progress.json", state="complete", bytes_done=9, bytes_total=9, started_boottime_us=1100)
    check_codes(p, "Ready", 200, 200, 200)
    p.write("tb-decrypt", "progress.json", state="failed", reason="chunk 7: not authentic", bytes_done=9, bytes_total=9, started_boottime_us=1100)
    wait_for(lambda: p.status()["reason"] == "chunk 7: not authentic", what="the reason")
    check_codes(p, "Decrypt", 503, 503, 503)
    assert p.status()["reason"] == "chunk 7: not authentic"


def test_the_health_of_a_runtime_ends_with_its_delivery(make):
    """Also where nobody looked between the end of one and the next: a busy machine, and a switch of versions."""
    p = make()
    p.lease()
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=10, bytes_total=10)
    p.write("tb-runtime", "delivery.json", state="delivered", mode="dir", asset_version=1, started_boottime_us=1000)
    p.start()
    wait_for(lambda: read_json(p.run / "tb-proxy/proxy.json")["healthy_version"] == 1, what="the first version's health")
    p.daemon.proc.send_signal(signal.SIGSTOP)
    p.backend.healthy = False
    p.write("tb-runtime", "delivery.json", state="delivered", mode="dir", asset_version=2, started_boottime_us=2000)
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=12, bytes_total=12)
    p.daemon.proc.send_signal(signal.SIGCONT)
    wait_for(lambda: p.status()["hydrate"]["bytes_done"] == 12, what="the files of the second version")
    assert p.status()["state"] == "Decrypt"
    assert read_json(p.run / "tb-proxy/proxy.json")["healthy_version"] == 0
    p.backend.healthy = True
    check_codes(p, "Ready", 200, 200, 200)


def test_lease_deadline_is_checked_by_the_proxy_itself(make):
    p = make().ready()
    p.lease(deadline_boottime_us=boottime_us() + 2 * 10**6)
    p.start(wait=None)
    wait_for(lambda: p.ask("GET", "/v1/x")[0] == 200, what="service before the deadline")
    answer = wait_for(lambda: (a := p.ask("GET", "/v1/x"))[0] != 200 and a, what="refusal after the deadline")
    assert error_of(answer) == (403, "lease_expired")


def test_health_endpoints(proxy):
    assert proxy.ask("POST", "/health", b"x")[0] == 405
    status, body, headers = proxy.ask_health("/health", "DELETE")
    assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert error_of(proxy.ask_health("/nothing")) == (404, "not_found")
    assert proxy.ask("GET", "/metrics")[0] == 404
    assert proxy.ask_health("/health")[1] == b"OK"
    text = proxy.ask_health("/metrics")[1].decode()
    assert 'tb_state{state="Ready"} 1' in text and "tb_requests_in_flight 0" in text
    for line in text.splitlines():
        assert line.startswith("#") or re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"\})? -?[0-9.]+', line), line


# --- restarts -------------------------------------------------------------------------------------------------------

def test_restarts_under_load_lose_no_request(proxy):
    stop, failures, done = threading.Event(), [], [0] * 6

    def work(k):
        c = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
        while not stop.is_set():
            try:
                c.request("POST", "/v1/x", b"x" * 1000)
                r = c.getresponse()
                body = r.read()
                if r.status == 200 and body.endswith(b" 1000"):
                    done[k] += 1
                else:
                    failures.append((r.status, body))
            except (OSError, http.client.HTTPException) as e:
                failures.append(repr(e))
                c.close()
        c.close()
    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for _ in range(3):
        before = sum(done)
        wait_for(lambda: sum(done) > before + 100, what="load")
        assert proxy.daemon.stop(timeout=20) == 0
        proxy.start()
    stop.set()
    for t in threads:
        t.join()
    assert failures == []
    proxy.wait_records(sum(done))


def test_a_restart_waits_for_a_busy_runtime(proxy):
    """Clients wait in the listener's queue until the runtime has said that it is well; none is told 503."""
    assert proxy.ask("GET", "/v1/x")[0] == 200
    assert proxy.daemon.stop() == 0
    proxy.backend.health_delay = 2.5
    proxy.daemon.start()
    assert proxy.ask("GET", "/v1/x")[0] == 200
    proxy.daemon.wait_notify("READY", "1")


def test_a_proxy_that_stops_takes_no_new_connection(proxy):
    """They stay in the listener's queue for the next process: one that came at the very end would be lost."""
    go = live_stream(proxy, "/v1/live", b"0\r\n\r\n")
    with proxy.raw(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n") as live:
        read_head(live)
        os.kill(proxy.daemon.pid, signal.SIGTERM)
        wait_for(lambda: "finishing 1 requests" in proxy.daemon.log_text(), what="the proxy to drain")
        heir = Daemon([program("tb-proxy")], env={**proxy.env, "TB_STATE_DIR": proxy.tmp / "heir", "TB_AUDIT_FILE": proxy.tmp / "heir.jsonl"},
                      listen=proxy.daemon.listen, log=proxy.tmp / "heir.log")
        with proxy.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n") as queued:
            wait_for(lambda: queue_length(proxy.port) == 1 or readable(queued), what="the connection to be queued")
            heir.start().wait_notify("READY", "1")
            # The one that stops marks each of its answers as its connection's last.
            assert "connection" not in headers_of(read_head(queued)[0])
        go.set()
        assert proxy.daemon.wait(20) == 0
        assert heir.stop() == 0


def test_an_answer_while_it_stops_is_its_connections_last(proxy):
    """What came behind the request is not begun: the client sees the close and asks the next process."""
    started, go = threading.Event(), threading.Event()

    def route(conn, rq):
        started.set()
        assert go.wait(20)
        conn.sendall(simple(b"late"))
    proxy.backend.routes["/v1/slow"] = route
    with proxy.raw(b"GET /v1/slow HTTP/1.1\r\nHost: x\r\n\r\n") as s, proxy.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n") as idle:
        read_head(idle)
        assert started.wait(20)
        os.kill(proxy.daemon.pid, signal.SIGTERM)
        wait_for(lambda: proxy.daemon.notified("STOPPING"), what="STOPPING=1")
        s.sendall(b"GET /v1/next HTTP/1.1\r\nHost: x\r\n\r\n")
        go.set()
        answer = read_all(s)
        assert proxy.daemon.wait() == 0
        assert b"HTTP/1.1" not in read_all(idle)
    assert b"\r\nConnection: close\r\n" in answer and answer.endswith(b"late") and answer.count(b"HTTP/1.1 ") == 1
    assert {r.path for r in proxy.backend.requests} == {"/v1/slow", "/v1/x"}


def test_stop_finishes_a_live_stream(proxy):
    go = live_stream(proxy, "/v1/live", b"2\r\ncd\r\n0\r\n\r\n")
    with proxy.raw(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        head, rest = read_head(s)
        os.kill(proxy.daemon.pid, signal.SIGTERM)
        wait_for(lambda: proxy.daemon.notified("STOPPING"), what="STOPPING=1")
        go.set()
        assert b"".join(body_pieces(s, headers_of(head), rest)) == b"abcd"
    assert proxy.daemon.wait() == 0
