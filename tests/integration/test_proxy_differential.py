# SPDX-License-Identifier: Apache-2.0
"""The same byte strings to nginx, haproxy and tb-proxy, each before a backend of its own that notes what it gets. What all three accept,
they must frame alike; what tb-proxy accepts and both of the others refuse is a finding."""

import concurrent.futures
import pathlib
import re
import socket
import subprocess
import threading

import pytest

from proxy_backend import body_pieces, headers_of
from proxy_daemon import Proxy
from tbsys import free_port, tcp_listener, wait_for

NGINX = """
daemon off; pid {d}/pid; error_log {d}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off; client_max_body_size 100m; large_client_header_buffers 4 64k;
    client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{backend}; proxy_http_version 1.1;
        proxy_set_header Connection ""; proxy_request_buffering off; }} }}
}}
"""
HAPROXY = """
global
    nbthread 1
    tune.bufsize 70000
defaults
    mode http
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server s 127.0.0.1:{backend}
"""


class Recorder:
    """A strict backend: notes (method, body) of each request by the mark in its target, /v1/MARK/..., and answers 200."""

    def __init__(self):
        self.sock, self.seen, self.lock = tcp_listener(), {}, threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def port(self):
        return self.sock.getsockname()[1]

    def accept(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        buf = b""
        with conn:
            try:
                while True:
                    while b"\r\n\r\n" not in buf:
                        data = conn.recv(65536)
                        if not data:
                            return
                        buf += data
                    head, buf = buf.split(b"\r\n\r\n", 1)
                    buf = self.request(conn, head, buf)
            except (OSError, EOFError, ValueError):
                pass

    def request(self, conn, head, rest):
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        h = headers_of(head + b"\r\n\r\n")
        body = b"".join(body_pieces(conn, h, rest)) if "transfer-encoding" in h or "content-length" in h else b""
        if "transfer-encoding" not in h and "content-length" not in h and rest:
            body = b"BEHIND THE REQUEST: " + rest  # nobody may send this
        parts = re.sub(rb"^https?://[^/]*", b"", target).split(b"/")
        mark = parts[2].split(b"?")[0] if len(parts) > 2 else target
        with self.lock:
            self.seen.setdefault(mark, []).append((method, b"marker" if target.endswith(b"/marker") else body))
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (0 if method == b"HEAD" else 2) + (b"" if method == b"HEAD" else b"ok"))
        return b""


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """{name: (port, recorder)}"""
    d = tmp_path_factory.mktemp("differential")
    found, procs = {}, []
    for name, text, argv in (("nginx", NGINX, ["nginx", "-p", str(d), "-c"]), ("haproxy", HAPROXY, ["haproxy", "-db", "-f"])):
        port, recorder = free_port(), Recorder()
        (d / name).write_text(text.format(d=d, port=port, backend=recorder.port))
        procs.append(subprocess.Popen([*argv, str(d / name)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        found[name] = (port, recorder)
    ours = Recorder()
    p = Proxy(pathlib.Path(tmp_path_factory.mktemp("tb")), TB_RUNTIME_URL=f"http://127.0.0.1:{ours.port}")
    p.ready()
    p.start(wait=None)
    found["tb-proxy"] = (p.port, ours)
    for port, _ in found.values():
        wait_for(lambda port=port: status_of(port, b"GET /v1/up HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") == 200, 20, "a peer")
    yield found
    for proc in procs:
        proc.terminate()
        proc.wait()
    p.stop()


def status_of(port, data):
    """The status of the first answer; 0 when there is none."""
    got = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.5) as s:
            s.sendall(data)
            while chunk := s.recv(65536):
                got += chunk
    except OSError:
        pass
    return int(got[9:12]) if got.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")) else 0


def byte_strings():
    """About 300: {name: data}, with MARK where the target's mark goes."""
    get, post, chunked = b"GET /v1/MARK/x HTTP/1.1\r\nHost: x\r\n", b"POST /v1/MARK/x HTTP/1.1\r\nHost: x\r\n", b"Transfer-Encoding: chunked\r\n"
    out = {}

    def add(name, data):
        assert name not in out
        out[name] = data
    lines = [b"GET /v1/MARK/x HTTP/1.1", b"GET\t/v1/MARK/x\tHTTP/1.1", b"GET  /v1/MARK/x HTTP/1.1", b"GET /v1/MARK/x  HTTP/1.1",
             b"GET /v1/MARK/x HTTP/1.1 ", b" GET /v1/MARK/x HTTP/1.1", b"GET /v1/MARK/x", b"GET /v1/MARK/x HTTP/1.0", b"GET /v1/MARK/x HTTP/0.9",
             b"GET /v1/MARK/x HTTP/1.2", b"GET /v1/MARK/x HTTP/1.10", b"GET /v1/MARK/x HTTP/2.0", b"GET /v1/MARK/x HTTP/1", b"GET /v1/MARK/x http/1.1",
             b"GET /v1/MARK/x HTTP/1.1x", b"GET /v1/MARK/x HTTP/11", b"GET /v1/MARK/x HTTP/1.1\t", b"get /v1/MARK/x HTTP/1.1", b"G\x00T /v1/MARK/x HTTP/1.1",
             b"GET /v1/MARK/\x00 HTTP/1.1", b"GET /v1/MARK/\x0b HTTP/1.1", b"GET /v1/MARK/\x7f HTTP/1.1", b"GET /v1/MARK/\xff HTTP/1.1",
             b"GET /v1/MARK/%00 HTTP/1.1", b"GET /v1/MARK/#x HTTP/1.1", b"GET /v1/MARK/x y HTTP/1.1", b"GET http://x/v1/MARK/x HTTP/1.1",
             b"GET https://x/v1/MARK/x HTTP/1.1", b"GET //x/v1/MARK/x HTTP/1.1", b"GET v1/MARK/x HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT x:80 HTTP/1.1",
             b"G=T /v1/MARK/x HTTP/1.1", b"G(T /v1/MARK/x HTTP/1.1", b"HEAD /v1/MARK/x HTTP/1.1", b"DELETE /v1/MARK/x HTTP/1.1", b"FOO /v1/MARK/x HTTP/1.1"]
    for i, line in enumerate(lines):
        add(f"line {line!r}", line + b"\r\nHost: x\r\n\r\n")
        if i < 12:
            add(f"line {line!r} with LF", line + b"\nHost: x\n\n")
    fields = [b"A: b", b"A:b", b"A: b ", b"A:\tb", b"A : b", b" A: b", b"A\t: b", b"A", b": b", b"A: b\r\n c", b"A: b\r\n\tc", b"A: b\rc", b"A: b\nB: c", b"A: b\x00c",
              b"A: b\x0bc", b"A: b\x7fc", b"A: \xff", b"A\x00: b", b"A\xff: b", b"A(: b", b"A_b: c", b"A:", b"A: ", b"\"A\": b", b"A: \x01", b"Host: x", b"Host: y", b"Host:",
              b"Connection: close\r\nConnection: keep-alive", b"Connection: host", b"Connection: content-length", b"Transfer-Encoding:", b"TE: trailers",
              b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__", b"Expect: 100-continue", b"Content-Length:"]
    for f in fields:
        add(f"field {f!r}", get + f + b"\r\n\r\n")
        add(f"first field {f!r}", b"GET /v1/MARK/x HTTP/1.1\r\n" + f + b"\r\nHost: x\r\n\r\n")
    for host in (b"", b" ", b"x y", b"x:80", b"x:y", b"u@x", b"x/y", b"[::1]", b"[::1", b"x,y", b"x\x00", b"x:80:80", b"-x", b"x?y"):
        add(f"host {host!r}", b"GET /v1/MARK/x HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    add("no host", b"GET /v1/MARK/x HTTP/1.1\r\n\r\n")
    add("no host in 1.0", b"GET /v1/MARK/x HTTP/1.0\r\n\r\n")
    lengths = [b"3", b" 3", b"3 ", b"03", b"+3", b"-3", b"3.0", b"0x3", b"3,3", b"3, 3", b"3;x", b"3 3", b"\t3", b"3\x0b", b"\x0c3", b"3a", b"a", b"",
               b"4294967299", b"18446744073709551619", b"99999999999999999999", b"0003", b"3\r\nContent-Length: 3", b"3\r\nContent-Length: 4",
               b"3\r\nContent-length: 3", b"3\r\nContent_Length: 4", b"0", b"\r\n 3", b"3\r\n 0", b"'3'", b"\"3\"", b"3\x00"]
    for n in lengths:
        add(f"length {n!r}", post + b"Content-Length: " + n + b"\r\n\r\nabc")
        add(f"length {n!r} in 1.0", b"POST /v1/MARK/x HTTP/1.0\r\nHost: x\r\nContent-Length: " + n + b"\r\n\r\nabc")
    for name in (b"Content-Length ", b"Content-Length\t", b"Content_Length", b" Content-Length", b"Content-Length\x00", b"Content-Length\x0b", b"Content-length", b"CONTENT-LENGTH"):
        add(f"name {name!r}", post + name + b": 3\r\n\r\nabc")
    codings = [b"chunked", b"Chunked", b" chunked", b"chunked ", b"\tchunked", b"\x0bchunked", b"chunked\x0b", b"xchunked", b"chunkedx", b"chunked, identity",
               b"identity, chunked", b"identity", b"gzip, chunked", b"chunked, chunked", b"chunked;q=1", b"\"chunked\"", b"", b"chunked\r\nTransfer-Encoding: chunked",
               b"chunked\r\nTransfer-Encoding: identity", b"identity\r\nTransfer-Encoding: chunked", b"\r\n chunked", b",chunked", b"chunked,", b"chunked\x00"]
    for c in codings:
        add(f"coding {c!r}", post + b"Transfer-Encoding: " + c + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        add(f"coding {c!r} and length", post + b"Content-Length: 3\r\nTransfer-Encoding: " + c + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    add("coding in 1.0", b"POST /v1/MARK/x HTTP/1.0\r\nHost: x\r\n" + chunked + b"\r\n3\r\nabc\r\n0\r\n\r\n")
    for name in (b"Transfer-Encoding ", b"Transfer-Encoding\t", b"Transfer_Encoding", b" Transfer-Encoding", b"Transfer-Encoding\x00", b"transfer-encoding"):
        add(f"name {name!r}", post + name + b": chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    bodies = [b"3\r\nabc\r\n0\r\n\r\n", b"03\r\nabc\r\n00\r\n\r\n", b"3;x\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0;z\r\n\r\n", b"3 \r\nabc\r\n0\r\n\r\n", b"3 ;x\r\nabc\r\n0\r\n\r\n",
              b"3\t\r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"3\nabc\r\n0\r\n\r\n", b"3\r\nabc\n0\r\n\r\n", b"3\r\nabc\r\n0\n\r\n", b"3\r\nabc\r\n0\r\n\n",
              b"3\rabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nab\r\n0\r\n\r\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3g\r\nabc\r\n0\r\n\r\n",
              b"\r\nabc\r\n0\r\n\r\n", b";x\r\nabc\r\n0\r\n\r\n", b"100000000000000003\r\nabc\r\n0\r\n\r\n", b"ffffffffffffffff\r\nabc", b"3;\x00\r\nabc\r\n0\r\n\r\n", b"3;\n\r\nabc\r\n0\r\n\r\n",
              b"3;x\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\nA: b\r\n\r\n", b"3\r\nabc\r\n0\r\nA b\r\n\r\n", b"3\r\nabc\r\n0\r\n A: b\r\n\r\n", b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
              b"3\r\nabc\r\n0\r\nA: b\nB: c\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\r\nabc\r\n\r\n0\r\n\r\n", b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n0\r\n: b\r\n\r\n",
              b"3\r\nabc\r\n0\r\nA\x00: b\r\n\r\n", b"3\r\nabc\r\r\n0\r\n\r\n", b"1\r\na\r\n" * 50 + b"0\r\n\r\n", b"3;" + b"x" * 3000 + b"\r\nabc\r\n0\r\n\r\n"]
    for b in bodies:
        add(f"chunks {b[:50]!r}", post + chunked + b"\r\n" + b)
    for size in (1000, 10_000, 30_000, 60_000):
        add(f"cookie of {size}", get + b"Cookie: " + b"c" * size + b"\r\n\r\n")
    for lead in (b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" \r\n", b"x\r\n"):
        add(f"behind {lead!r}", lead + get + b"\r\n")
    return out


def probe(peers, number, data):
    """{peer: (first status or 0, what its backend got)}"""
    result = {}
    for name, (port, recorder) in peers.items():
        mark = b"m%d" % number
        status = status_of(port, data.replace(b"MARK", mark) + b"GET /v1/%s/marker HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % mark)
        result[name] = (status, [(m, b) for m, b in recorder.seen.get(mark, []) if b != b"marker"])
    return result


def test_the_same_bytes_mean_the_same(peers):
    strings = byte_strings()
    assert len(strings) >= 300
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        jobs = {name: pool.submit(probe, peers, i, data) for i, (name, data) in enumerate(strings.items())}
        results = {name: j.result() for name, j in jobs.items()}
    table = []
    for name, r in results.items():
        accepted = {peer: status == 200 for peer, (status, _) in r.items()}
        why = None
        if all(accepted.values()) and len({str(seen) for _, seen in r.values()}) > 1:
            why = "framed differently"
        elif accepted["tb-proxy"] and not accepted["nginx"] and not accepted["haproxy"]:
            why = "accepted here alone"
        elif any(b.startswith(b"BEHIND") for _, b in r["tb-proxy"][1]):
            why = "more was sent than announced"
        if why:
            table.append(f"{why:<28} {name}: " + "  ".join(f"{peer} {status} {seen}" for peer, (status, seen) in r.items()))
    taken = sum(r["tb-proxy"][0] == 200 for r in results.values())
    assert not table, "\n".join(table)
    assert taken > 40, f"only {taken} of {len(results)} were accepted: nothing was compared"
