# SPDX-License-Identifier: Apache-2.0
"""A runtime for tests of tb-proxy: a raw-socket HTTP server whose answers a test scripts, and small raw clients."""

import hashlib
import socket
import threading
import time


def read_head(sock, buf=b""):
    """(head bytes with the empty line, what came behind it); (b"", b"") at end of stream."""
    while b"\r\n\r\n" not in buf:
        data = sock.recv(65536)
        if not data:
            return b"", b""
        buf += data
    head, rest = buf.split(b"\r\n\r\n", 1)
    return head + b"\r\n\r\n", rest


def headers_of(head):
    out = {}
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name:
            out.setdefault(name.lower(), []).append(value.strip())
    return out


def body_pieces(sock, headers, rest):
    """Yields the body's bytes as they arrive, chunked or counted."""
    reader = _Reader(sock, rest)
    if "transfer-encoding" in headers:
        while True:
            size = int(reader.line().split(b";")[0], 16)
            if size == 0:
                while reader.line():
                    pass
                return
            yield from reader.exactly(size)
            assert reader.line() == b""
    elif "content-length" in headers:
        yield from reader.exactly(int(headers["content-length"][0]))


class _Reader:
    def __init__(self, sock, buf):
        self.sock, self.buf = sock, buf

    def more(self):
        data = self.sock.recv(262144)
        if not data:
            raise EOFError("connection closed in mid-body")
        self.buf += data

    def line(self):
        while b"\r\n" not in self.buf:
            self.more()
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line

    def exactly(self, n):
        while n > 0:
            if not self.buf:
                self.more()
            piece, self.buf = self.buf[:n], self.buf[n:]
            n -= len(piece)
            yield piece


def simple(body, status="200 OK", extra=""):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


class Backend:
    """Routes: path -> fn(conn, request) where request has method, path, headers, head, body() and sha256(). A function that
    returns False closes the connection. /health answers 200 while `healthy`."""

    def __init__(self, sock):
        self.sock, self.routes, self.healthy, self.health_delay = sock, {}, True, 0
        self.requests, self.conns = [], set()
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop_listening(self):
        if self.sock.fileno() >= 0:
            self.sock.shutdown(socket.SHUT_RDWR)
            self.sock.close()

    def die(self):
        """As SIGKILL would: no listener, and every connection broken."""
        self.stop_listening()
        for conn in list(self.conns):
            try:
                conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            if conn.family != socket.AF_UNIX:
                conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        self.conns.add(conn)
        with conn:
            try:
                rest = b""
                while True:
                    head, rest = read_head(conn, rest)
                    if not head or self._answer(conn, Request(conn, head, rest)) is False:
                        return
                    rest = b""
            except (OSError, EOFError):
                pass
            finally:
                self.conns.discard(conn)

    def _answer(self, conn, rq):
        if rq.path == "/health":
            time.sleep(self.health_delay)
            conn.sendall(simple(b"ok") if self.healthy else simple(b"no", "503 Service Unavailable"))
            return None
        with self.lock:
            self.requests.append(rq)
        return self.routes.get(rq.path.split("?")[0], echo)(conn, rq)


class Request:
    def __init__(self, conn, head, rest):
        self.conn, self.head, self.rest = conn, head, rest
        self.method, self.path, _ = head.split(b"\r\n")[0].decode("latin-1").split(" ")
        self.headers = headers_of(head)

    def pieces(self):
        return body_pieces(self.conn, self.headers, self.rest)

    def sha256(self):
        h, n = hashlib.sha256(), 0
        for piece in self.pieces():
            h.update(piece)
            n += len(piece)
        return h.hexdigest(), n


def echo(conn, rq):
    digest, n = rq.sha256()
    body = b"" if rq.method == "HEAD" else f"{digest} {n}".encode()
    if rq.method == "HEAD":
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 66\r\nX-Kept: yes\r\n\r\n")
    else:
        conn.sendall(simple(body, extra="Content-Type: text/plain\r\n"))
