# SPDX-License-Identifier: Apache-2.0
"""A small HTTP proxy that does damage on command, for tests of clients.

    with FaultProxy("http://127.0.0.1:10000") as p:     # upstream: scheme, host, port; the path is kept as it came
        p.rule(status(503, {"Retry-After": "1"}), method="PUT", args={"comp": "block"}, nth=2)
        p.rule(reset(after=1000), method="GET", range=r"^bytes=4194304-")
        ... run the client against p.url ("http://127.0.0.1:PORT"; https with tls=(cert, key)) ...
        assert p.count(method="PUT", args={"comp": "block"}) == 9

Matching. A rule has criteria (all optional, all must hold) and an action. Every request increments the counter of every
rule whose criteria hold; the first rule in order whose counter then lies in `nth` acts, otherwise the request is
forwarded untouched.
    method  "PUT"
    path    regular expression, searched in the path without the query
    args    {"comp": "block", "blockid": None}: query arguments; None: present with any value
    range   regular expression, searched in the Range or x-ms-range header ("" when there is none)
    nth     1-based: a number, or anything that supports `in` ({1, 3}, range(2, 5)); default: every request

Actions. Request bodies are read to the end first unless said otherwise.
    status(code, headers={}, body=b"")     answer so, do not forward
    reset(after=0)                         forward, send the head and `after` body bytes, then RST; after=None: RST before
                                           the upstream is asked
    reset_upload(after=0)                  RST after `after` bytes of the request body, do not forward
    cut(n)                                 forward, send n body bytes of the promised length, then close
    headers({"ETag": '"x"', "MD5": None})  forward, change (None: drop) response headers; e.g. a wrong Content-Range
    corrupt(at=0)                          forward, flip one bit of the response body's byte `at`
    corrupt_upload(at=0)                   flip one bit of the request body's byte `at`, then forward
    delay(seconds)                         wait, then forward
    drip(size, seconds)                    forward, send the body in pieces of `size` with a pause between (slow loris)
    hold(event)                            wait for a threading.Event (or the proxy's end), then forward
    swallow()                              forward nothing, never answer
    lose_reply()                           forward, let the upstream do it, then RST without an answer

The record. p.requests holds a Request for each request in order of arrival: n, method, path, args (without `sig`), range,
headers, body_bytes (received from the client), body (what these were, also of a request that broke off;
only with keep_bodies=True), status (of the answer, 0: none), sent (answer's body bytes), rule (the
acting rule's action name or None), done (the exchange is over). p.select(**criteria) and p.count(**criteria) take
the criteria above (without nth); p.wait(n, timeout=20, **criteria) waits until n of them have arrived.
"""
import http.client
import http.server
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse

from patience import PATIENCE

_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
_PIECE = 64 * 1024


class Action:
    def __init__(self, name, **kw):
        self.name = name
        self.__dict__.update(kw)


def status(code, headers=None, body=b""):
    return Action("status", code=code, headers=headers or {}, body=body.encode() if isinstance(body, str) else body)


def reset(after=0):
    return Action("reset", after=after)


def reset_upload(after=0):
    return Action("reset_upload", after=after)


def cut(n):
    return Action("cut", n=n)


def headers(changes):
    return Action("headers", changes=changes)


def corrupt(at=0):
    return Action("corrupt", at=at)


def corrupt_upload(at=0):
    return Action("corrupt_upload", at=at)


def delay(seconds):
    return Action("delay", seconds=seconds)


def drip(size, seconds):
    return Action("drip", size=size, seconds=seconds)


def hold(event):
    return Action("hold", event=event)


def swallow():
    return Action("swallow")


def lose_reply():
    return Action("lose_reply")


class Request:
    def __init__(self, n, method, target, header):
        url = urllib.parse.urlsplit(target)
        self.n, self.method, self.path, self.headers = n, method, url.path, header
        self.args = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.args.pop("sig", None)
        self.range = header.get("Range") or header.get("x-ms-range") or ""
        self.body_bytes = self.status = self.sent = 0
        self.rule, self.done, self.time = None, False, time.monotonic()
        self.body = b""

    def __repr__(self):
        return "<%d %s %s %s %s -> %s sent=%d rule=%s>" % (
            self.n, self.method, self.path, self.args.get("comp", ""), self.range, self.status, self.sent, self.rule)


def _holds(rq, method=None, path=None, args=None, range=None):  # pylint: disable=redefined-builtin
    if method is not None and rq.method != method:
        return False
    if path is not None and not re.search(path, rq.path):
        return False
    for k, v in (args or {}).items():
        if k not in rq.args or (v is not None and rq.args[k] != v):
            return False
    return range is None or re.search(range, rq.range) is not None


class _Rule:
    def __init__(self, action, nth, criteria):
        self.action, self.criteria, self.hits = action, criteria, 0
        self.nth = (nth,) if isinstance(nth, int) else nth

    def due(self):
        return self.nth is None or self.hits in self.nth


class _Gone(Exception):
    """The exchange ends here; the connection is closed."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError, _Gone):
            pass

    def rst(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.abrupt.add(self.connection)
        raise _Gone

    def body(self, rq, limit=None):
        left = int(self.headers.get("Content-Length") or 0)
        left = left if limit is None else min(left, limit)
        while left > 0:
            piece = self.rfile.read1(min(left, _PIECE))
            if not piece:
                raise _Gone
            rq.body_bytes += len(piece)
            rq.body += piece if self.server.proxy.keep_bodies else b""
            left -= len(piece)
            yield piece

    def exchange(self):
        proxy = self.server.proxy
        rq, action = proxy.arrive(self.command, self.path, self.headers)
        try:
            self.act(proxy, rq, action)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            rq.done = True
            proxy.changed()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = exchange

    def act(self, proxy, rq, action):
        name = action.name if action else None
        rq.rule = name
        if name == "reset_upload":
            for _ in self.body(rq, action.after):
                pass
            self.rst()
        body = b"".join(self.body(rq))
        if name == "status":
            return self.answer(rq, action.code, list(action.headers.items()), action.body)
        if name == "reset" and action.after is None:
            self.rst()
        if name == "swallow":
            proxy.stopped.wait()
            raise _Gone
        if name == "corrupt_upload" and action.at < len(body):
            body = body[:action.at] + bytes([body[action.at] ^ 1]) + body[action.at + 1:]
        if name == "delay":
            proxy.stopped.wait(action.seconds)
        while name == "hold" and not action.event.wait(0.05) and not proxy.stopped.is_set():
            pass
        self.forward(proxy, rq, action, name, body)

    def forward(self, proxy, rq, action, name, body):
        up = proxy.connect()
        try:
            up.putrequest(self.command, self.path, skip_host="Host" in self.headers, skip_accept_encoding=True)
            for k, v in self.headers.items():
                if k.lower() not in _HOP and k.lower() != "expect":
                    up.putheader(k, v)
            up.putheader("Connection", "close")
            up.endheaders(body or None)
            rs = up.getresponse()
            if name == "lose_reply":
                rs.read()
                self.rst()
            self.relay(proxy, rq, action, name, rs)
        finally:
            up.close()

    def relay(self, proxy, rq, action, name, rs):
        head = [(k, v) for k, v in rs.getheaders() if k.lower() not in _HOP]
        if name == "headers":
            drop = {k.lower() for k in action.changes}
            head = [(k, v) for k, v in head if k.lower() not in drop]
            head += [(k, v) for k, v in action.changes.items() if v is not None]
        if self.command != "HEAD" and rs.getheader("Content-Length") is None and rs.status != 304:
            return self.answer(rq, rs.status, head, rs.read())
        self.start(rq, rs.status, head)
        limit = {"reset": getattr(action, "after", 0), "cut": getattr(action, "n", 0)}.get(name)
        while limit is None or rq.sent < limit:
            size = action.size if name == "drip" else _PIECE
            piece = rs.read(size if limit is None else min(size, limit - rq.sent))
            if not piece:
                break
            if name == "corrupt" and rq.sent <= action.at < rq.sent + len(piece):
                piece = bytearray(piece)
                piece[action.at - rq.sent] ^= 1
            rq.sent += len(piece)  # before who gets it can know
            try:
                self.wfile.write(piece)
                self.wfile.flush()
            except OSError:
                rq.sent -= len(piece)
                raise
            if name == "drip" and proxy.stopped.wait(action.seconds):
                raise _Gone
        if name == "reset":
            self.rst()
        if name == "cut":
            self.close_connection = True

    def start(self, rq, code, head):
        rq.status = code
        self.send_response_only(code)
        for k, v in head:
            self.send_header(k, v)
        self.end_headers()
        self.wfile.flush()

    def answer(self, rq, code, head, body):
        self.start(rq, code, [(k, v) for k, v in head if k.lower() != "content-length"] +
                   [("Content-Length", str(len(body)))])
        if self.command != "HEAD":
            self.wfile.write(body)
            rq.sent = len(body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    tls = None

    def get_request(self):
        s, a = super().get_request()
        if self.tls:
            s = self.tls.wrap_socket(s, server_side=True, do_handshake_on_connect=False)
        self.open.add(s)
        return s, a

    def shutdown_request(self, request):
        self.open.discard(request)
        if request in self.abrupt:
            self.abrupt.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass


class FaultProxy:
    def __init__(self, upstream, tls=None, port=0, keep_bodies=False):
        self.upstream, self.keep_bodies = upstream, keep_bodies
        self.requests, self._rules = [], []
        self._changed = threading.Condition()
        self.stopped = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.proxy, self._server.open, self._server.abrupt = self, set(), set()
        if tls:
            self._server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._server.tls.load_cert_chain(*map(str, tls))
        self.port = self._server.server_address[1]
        self.url = "%s://127.0.0.1:%d" % ("https" if tls else "http", self.port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def start(self):
        self._thread.start()
        return self

    def stop(self):
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        for s in list(self._server.open):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._thread.join()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def rule(self, action, nth=None, **criteria):
        """Adds a rule at the end of the list."""
        with self._changed:
            self._rules.append(_Rule(action, nth, criteria))

    def clear_rules(self):
        with self._changed:
            self._rules = []

    def clear(self):
        """Forgets rules and recorded requests."""
        with self._changed:
            self._rules, self.requests = [], []

    def select(self, **criteria):
        with self._changed:
            return [r for r in self.requests if _holds(r, **criteria)]

    def count(self, **criteria):
        return len(self.select(**criteria))

    def wait(self, n, timeout=20, **criteria):
        deadline = time.monotonic() + timeout * PATIENCE
        with self._changed:
            while len([r for r in self.requests if _holds(r, **criteria)]) < n:
                left = deadline - time.monotonic()
                assert left > 0, "only %d requests like %r arrived" % (
                    len([r for r in self.requests if _holds(r, **criteria)]), criteria)
                self._changed.wait(left)

    # used by the handlers
    def arrive(self, method, target, header):
        with self._changed:
            rq = Request(len(self.requests) + 1, method, target, header)
            self.requests.append(rq)
            action = None
            for r in self._rules:
                if _holds(rq, **r.criteria):
                    r.hits += 1
                    if action is None and r.due():
                        action = r.action
            self._changed.notify_all()
            return rq, action

    def changed(self):
        with self._changed:
            self._changed.notify_all()

    def connect(self):
        url = urllib.parse.urlsplit(self.upstream)
        if url.scheme == "https":
            context = ssl._create_unverified_context()  # pylint: disable=protected-access
            return http.client.HTTPSConnection(url.hostname, url.port, timeout=120, context=context)
        return http.client.HTTPConnection(url.hostname, url.port, timeout=120)
