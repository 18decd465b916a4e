#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tb-proxy against nginx with a JSON access log, haproxy and caddy as reverse proxies before the same nginx backend, all on one machine,
the peers taking turns in each round. wrk (one thread) sends a 300-byte POST that is answered by 293 bytes of JSON, plain and over TLS; a 10 MB POST; and a
streaming client measures how long an event takes from the runtime to the client, and how many of them a core carries. tb-proxy hashes each body and writes a chained
audit record for each request; nginx and caddy write an access log line, haproxy nothing. CPU is that of all threads of the proxy's own processes, as the
scheduler counts it in nanoseconds.

Ratios are medians of the rounds' own ratios to nginx. The goals and what they came to stand at the end; docs/performance.md explains them. As it is called without
options it takes four minutes. It ends with 1 when something could not be measured.

    proxy.py [--rounds 3] [--seconds 1] [--only requests,tls,bodies,events] [--peers nginx,tb-proxy,haproxy,caddy]"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "e2e-vagrant" / "lib"))
from tbsys import Daemon, free_port, program, tcp_listener, wait_for  # noqa: E402
from chain import http_json  # noqa: E402

BACKEND = """
daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 1000000; client_max_body_size 100m; default_type application/json;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 '{body}'; }} }}
}}
"""
NGINX = """
daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    log_format json escape=json '{{"ts":"$time_iso8601","method":"$request_method","path":"$uri","status":$status,"latency":$request_time,'
        '"bytes_in":$request_length,"bytes_out":$body_bytes_sent,"client":"$remote_addr","request_id":"$request_id"}}';
    access_log {dir}/access.log json;
    keepalive_requests 1000000; client_max_body_size 100m;
    client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
    upstream backend {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000; }}
    ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem;
    server {{ listen 127.0.0.1:{port} backlog=4096 {ssl};
        location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                      proxy_request_buffering off; }} }}
}}
"""
# Without http-no-delay each event waits for up to 40 ms.
HAPROXY = """
global
    nbthread 1
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option http-no-delay
frontend f
    bind 127.0.0.1:{port} {ssl}
    default_backend b
backend b
    http-reuse always
    server s 127.0.0.1:{backend}
"""
CADDY = """
{{
    admin off
    auto_https off
    log {{
        output file {dir}/caddy.log
        level ERROR
    }}
}}
{scheme}://127.0.0.1:{port} {{
    {tls}
    log {{
        output file {dir}/access.log
        format json
    }}
    reverse_proxy 127.0.0.1:{backend} {{
        flush_interval -1
    }}
}}
"""
BODY = 10_000_000
WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = string.rep("x", tonumber(os.getenv("BODY")))
if os.getenv("CLOSE") then wrk.headers["Connection"] = "close" end
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("RESULT %d %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(50),
                           latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def spawn(home, name, template, argv, **values):
    conf = home / name
    conf.write_text(template.format(dir=home, **values))
    env = {**os.environ, "XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home), "HOME": str(home)}
    # A session of its own, as Daemon gives to tb-proxy: the kernel schedules by session (autogroup).
    return subprocess.Popen([*argv, conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True)


def make_certificate(home):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", home / "key.pem", "-out", home / "cert.pem"], check=True, capture_output=True)
    (home / "both.pem").write_text((home / "cert.pem").read_text() + (home / "key.pem").read_text())


class Peer:
    """One proxy in front of the backend. tls: with a certificate for 127.0.0.1, on its own port."""

    def __init__(self, name, d, backend, tls=False):
        self.name, self.home, self.scheme = name, d / name, "https" if tls else "http"
        self.home.mkdir()
        self.port = free_port()
        at = {"port": self.port, "backend": backend}
        make_certificate(self.home)
        if name == "nginx":
            self.proc = spawn(self.home, "nginx.conf", NGINX, ["nginx", "-p", self.home, "-c"], ssl="ssl" if tls else "", **at)
        elif name == "haproxy":
            self.proc = spawn(self.home, "haproxy.cfg", HAPROXY, ["haproxy", "-db", "-f"],
                              ssl=f"ssl crt {self.home}/both.pem" if tls else "", **at)
        elif name == "caddy":
            self.proc = spawn(self.home, "Caddyfile", CADDY, ["caddy", "run", "--adapter", "caddyfile", "--config"], scheme=self.scheme,
                              tls=f"tls {self.home}/cert.pem {self.home}/key.pem" if tls else "", **at)
        else:
            self.start_ours(backend, tls)
        self.pid = self.proc.pid

    def start_ours(self, backend, tls):
        """In state Ready: the domain files say what the other programs would."""
        run = self.home / "run"
        for name, doc in (("tb-authorize/lease.json", {"state": "authorized", "contract_id": "c", "asset_id": "a"}),
                          ("tb-hydrate/progress.json", {"state": "complete", "bytes_done": 1, "bytes_total": 1}),
                          ("tb-runtime/delivery.json", {"state": "delivered", "mode": "dir", "pid": os.getpid()})):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(json.dumps(doc))
        http, health = tcp_listener(), tcp_listener()
        env = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_RUN_DIR": run,
               "TB_STATE_DIR": self.home / "state", "TB_RUNTIME_URL": f"http://127.0.0.1:{backend}",
               "TB_AUDIT_FILE": self.home / "audit.jsonl", "TB_ROUTES": "/v1/*"}
        if tls:
            env |= {"TB_TLS_CERT": self.home / "cert.pem", "TB_TLS_KEY": self.home / "key.pem"}
        self.daemon = Daemon([program("tb-proxy")], env=env, listen={"http": http, "health": health}, runtime_dir=run / "tb-proxy",
                             state_dir=self.home / "state/tb-proxy", log=self.home / "proxy.log").start()
        self.proc, self.port = self.daemon.proc, http.getsockname()[1]
        wait_for(lambda: http_json(f"http://127.0.0.1:{health.getsockname()[1]}/health")[0] == 200, 20, "tb-proxy to be Ready")

    def up(self):
        def answers():
            return subprocess.run(["curl", "-skf", "-m", "2", "-d", "x", f"{self.scheme}://127.0.0.1:{self.port}/v1/x"],
                                  capture_output=True).returncode == 0
        wait_for(answers, 20, self.name)
        return self

    def cpu_us(self):
        """What the threads of its processes have run so far. One that has ended is forgotten; none of these ends theirs while it serves."""
        ns, todo = 0, [self.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
                    ns += int((task / "schedstat").read_text().split()[0])
                    todo += map(int, (task / "children").read_text().split())
        return ns / 1e3

    def stop(self):
        self.proc.terminate()
        self.proc.wait(40)


def wrk(d, peer, connections, seconds, body, close=False):
    before = peer.cpu_us()
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", d / "post.lua", f"{peer.scheme}://127.0.0.1:{peer.port}/v1/x"],
                         check=True, capture_output=True, text=True, timeout=seconds + 30,
                         env={**os.environ, "BODY": str(body), **({"CLOSE": "1"} if close else {})}).stdout
    n, duration, p50, p99, errors = map(int, re.search(r"RESULT (.*)", out)[1].split())
    assert errors == 0 and n > 0, f"{peer.name}: {out}"
    return {"rps": n / duration * 1e6, "p50": p50, "p99": p99, "cpu": (peer.cpu_us() - before) / n}


# --- what came of it ------------------------------------------------------------------------------------------------

class Report:
    """Prints each table when it is complete, and the goals at the end."""

    def __init__(self):
        self.goals, self.failures = [], []

    def measure(self, rounds, peers, one):
        """[{peer: {column: value}}] of each round. One that fails is said, and the others go on."""
        results = []
        for _ in range(rounds):
            results.append({})
            for p in peers:
                try:
                    results[-1][p.name] = one(p)
                except (AssertionError, OSError, subprocess.SubprocessError, TypeError) as e:
                    self.failures.append(f"{p.name}: {e}")
                    print(f"  {p.name} failed: {e}", flush=True)
        return results

    def table(self, title, results, columns):
        """Medians, and the median of each round's ratio to nginx."""
        print(title, flush=True)
        for name in dict.fromkeys(n for r in results for n in r):
            cells = []
            for key, unit in columns:
                value = statistics.median(r[name][key] for r in results if name in r)
                cells.append(f"{key} {value:9.1f}{unit} ({ratio(results, key, name):4.2f}x)")
            print(f"  {name:<9} " + "  ".join(cells), flush=True)

    def goal(self, what, results, key, bound, of=("nginx",), least=False, add=0):
        """Ours is to be at most (least: at least) bound times the best of others' and add."""
        value = ratio(results, key, "tb-proxy", of, max if least else min, add)
        self.goals.append((what, value, bound, least))

    def requests_goals(self, what, results):
        for key, bound in (("cpu", 0.8), ("p50", 1.0), ("p99", 1.0)):
            self.goal(f"{what}: {key}", results, key, bound)

    def end(self):
        print("Goals", flush=True)
        for what, value, bound, least in self.goals:
            reached = value >= bound if least else value <= bound
            print(f"  {what:<52} {value:5.2f}  {'>=' if least else '<='} {bound:3.1f}  {'reached' if reached else 'NOT REACHED'}", flush=True)
        for f in self.failures:
            print(f"FAILED: {f}", flush=True)
        return 1 if self.failures else 0


def ratio(results, key, name, of=("nginx",), best=min, add=0):
    """The median of the rounds' ratios of name's value to the best of others'; 0 when there is none."""
    found = []
    for r in results:
        others = [r[n][key] for n in of if n in r]
        if name in r and others and best(others) > 0:
            found.append(r[name][key] / (best(others) + add))
    return statistics.median(found) if found else 0


# --- requests -------------------------------------------------------------------------------------------------------

REQUEST_COLUMNS = (("rps", ""), ("p50", " us"), ("p99", " us"), ("cpu", " us"))


def bench_requests(d, peers, a, report):
    for c in (1, 16, 128):
        results = report.measure(a.rounds, peers, lambda p, c=c: wrk(d, p, c, a.seconds, 300))
        report.table(f"300 B POST, {c} connections", results, REQUEST_COLUMNS)
        report.requests_goals(f"{c} connections", results)


def bench_tls(d, names, backend, a, report):
    """What TLS adds to each request of a kept connection: long enough that the hundred handshakes at the beginning, which keep wrk busier than
    the proxies, are not the slowest hundredth. Then what a handshake costs."""
    (d / "tls").mkdir()
    peers = [Peer(n, d / "tls", backend, tls=True).up() for n in names]
    try:
        for c in (16, 128):
            results = report.measure(a.rounds, peers, lambda p, c=c: wrk(d, p, c, 4 * a.seconds, 300))
            report.table(f"300 B POST over TLS, {c} connections", results, REQUEST_COLUMNS)
            report.requests_goals(f"TLS, {c} connections", results)
        results = report.measure(a.rounds, peers, lambda p: wrk(d, p, 16, a.seconds, 300, close=True))
        report.table("300 B POST over TLS, a handshake for each, 16 at a time", results, REQUEST_COLUMNS)
    finally:
        for p in peers:
            p.stop()


def bench_bodies(d, names, a, report):
    with another(d, "bodies", names, "--body-server") as peers:
        results = report.measure(a.rounds, peers, lambda p: wrk(d, p, 2, a.seconds, BODY))
    report.table("10 MB POST, 2 connections", results, (("rps", ""), ("cpu", " us")))
    hashing = min(sha256_us() for _ in range(5))
    print(f"  the SHA-256 alone: cpu {hashing:9.1f} us", flush=True)
    report.goal("10 MB bodies: cpu, to nginx and the SHA-256", results, "cpu", 1.0, add=hashing)


def sha256_us():
    """CPU time of hashing a body as tb-proxy does, in pieces that stay in the cache."""
    piece, start, h = bytes(1 << 18), time.thread_time_ns(), hashlib.sha256()
    for _ in range(BODY // len(piece)):
        h.update(piece)
    h.update(piece[:BODY % len(piece)])
    return (time.thread_time_ns() - start) / 1e3


# --- bodies ---------------------------------------------------------------------------------------------------------

def receive(conn, buf, n):
    try:
        return conn.recv_into(buf, n)
    except OSError:  # wrk's clients leave as they stand
        return 0


def body_server(port):
    """Reads bodies to their end: nginx's own `return` closes the connection on large ones."""
    def serve(conn):
        buf = bytearray(1 << 20)
        with conn:
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    n = receive(conn, buf, 65536)
                    if n == 0:
                        return
                    head += buf[:n]
                head, rest = head.split(b"\r\n\r\n", 1)
                length = re.search(rb"(?i)content-length: (\d+)", head)
                left = int(length[1]) - len(rest) if length else 0
                while left > 0:
                    n = receive(conn, buf, min(left, len(buf)))
                    if n == 0:
                        return
                    left -= n
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


# --- events ---------------------------------------------------------------------------------------------------------

def event_server(port):
    """A runtime that sends each stream an event every 10 ms, with the time in it."""
    sel, listener = selectors.DefaultSelector(), socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    sel.register(listener, selectors.EVENT_READ)
    streams, due = [], time.monotonic()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    while True:
        for key, _ in sel.select(max(0, due - time.monotonic())):
            if key.fileobj is listener:
                conn = listener.accept()[0]
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sel.register(conn, selectors.EVENT_READ)
                continue
            try:
                data = key.fileobj.recv(65536)
            except OSError:
                data = b""
            if b"/health" in data:
                key.fileobj.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            elif data.startswith(b"POST"):  # the body may come by itself
                key.fileobj.sendall(head)
                streams.append(key.fileobj)
            elif not data:
                sel.unregister(key.fileobj)
                streams = [s for s in streams if s is not key.fileobj]
                key.fileobj.close()
        if time.monotonic() < due:
            continue
        due += 0.01
        for s in streams:
            event = f"data: {time.monotonic_ns()}\n\n".encode()
            try:
                s.sendall(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            except OSError:
                pass


def event_latency(peer, streams, seconds):
    """p50 and p99 of microseconds from the runtime's send to our reading, and to the first byte; how many events a second of one core's time
    carries."""
    sel, late, first = selectors.DefaultSelector(), [], []
    for _ in range(streams):
        start = time.monotonic_ns()
        s = socket.create_connection(("127.0.0.1", peer.port), timeout=10)
        s.sendall(b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 2\r\n\r\n{}" % peer.port)
        assert b" 200 " in s.recv(65536), peer.name
        first.append((time.monotonic_ns() - start) / 1e3)
        sel.register(s, selectors.EVENT_READ)
    end, before = time.monotonic() + seconds, peer.cpu_us()
    while time.monotonic() < end:
        for key, _ in sel.select(1):
            data, now = key.fileobj.recv(65536), time.monotonic_ns()
            late += [(now - int(t)) / 1e3 for t in re.findall(rb"data: (\d+)\n", data)]
    cpu = peer.cpu_us() - before
    for key in list(sel.get_map().values()):
        key.fileobj.close()
    assert len(late) > streams * seconds * 10, peer.name
    late.sort()
    return {"first": statistics.median(first), "p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100],
            "per core": len(late) / max(cpu, 1e4) * 1e6}


@contextlib.contextmanager
def another(d, name, names, option):
    """The peers before another backend, which is this script with an option."""
    port, peers = free_port(), []
    server = subprocess.Popen([sys.executable, __file__, option, str(port)])
    (d / name).mkdir()
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 20, f"the backend for {name}")
        peers = [Peer(n, d / name, port) for n in names]
        time.sleep(1)
        yield peers
    finally:
        for p in peers:
            p.stop()
        server.terminate()
        server.wait()


def bench_events(d, names, a, report):
    with another(d, "events", names, "--event-server") as peers:
        results = report.measure(a.rounds, peers, lambda p: event_latency(p, 16, a.seconds))
        report.table("Events, 16 streams, 100 a second each", results, (("first", " us"), ("p50", " us"), ("p99", " us")))
        for key in ("first", "p50", "p99"):
            report.goal(f"events: {key}, to the best of nginx and caddy", results, key, 1.0, of=("nginx", "caddy"))
        results = report.measure(a.rounds, peers, lambda p: event_latency(p, 200, a.seconds))
        report.table("Events, 200 streams, 100 a second each: what a core carries", results, (("per core", "/s"), ("p50", " us"), ("p99", " us")))
        report.goal("events of 200 streams that a core carries", results, "per core", 1.0, least=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--seconds", type=int, default=1)
    ap.add_argument("--only", default="requests,tls,bodies,events")
    ap.add_argument("--peers", default="nginx,tb-proxy,haproxy,caddy")
    ap.add_argument("--event-server", type=int, help=argparse.SUPPRESS)
    ap.add_argument("--body-server", type=int, help=argparse.SUPPRESS)
    a = ap.parse_args()
    if a.event_server:
        return event_server(a.event_server)
    if a.body_server:
        return body_server(a.body_server)
    names, report = a.peers.split(","), Report()
    with tempfile.TemporaryDirectory(prefix="tb-bench-proxy-") as tmp:
        d = pathlib.Path(tmp)
        (d / "post.lua").write_text(WRK)
        (d / "backend").mkdir()
        backend = free_port()
        server = spawn(d / "backend", "nginx.conf", BACKEND, ["nginx", "-p", d / "backend", "-c"], port=backend,
                       body=json.dumps({"text": "y" * 281}))
        peers = []
        try:
            wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", backend)) == 0, 20, "the backend")
            peers = [Peer(n, d, backend) for n in names]
            for p in peers:
                p.up()
            if "requests" in a.only:
                bench_requests(d, peers, a, report)
            if "tls" in a.only:
                bench_tls(d, names, backend, a, report)
            if "bodies" in a.only:
                bench_bodies(d, names, a, report)
            if "events" in a.only:
                bench_events(d, names, a, report)
        finally:
            for p in peers:
                p.stop()
            server.terminate()
            server.wait()
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
