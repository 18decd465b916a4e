# SPDX-License-Identifier: Apache-2.0
"""A control plane's clients see it through this: each exchange is checked against docs/controlplane.openapi.yaml on its way, both
ways, and may be damaged there. It has the server's own certificate; a client's is not passed on."""

import http.client
import http.server
import socket
import ssl
import threading

from openapi import SPEC

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "te", "trailer", "upgrade"}


class Recorder:
    """upstream(): an http.client connection to the server. lose: how many answers to changes are lost from now on, each after the
    server did what was asked; the client sees a connection that ends. exchanges: (method, target, headers, body, status) of each."""

    def __init__(self, upstream, tls=None):
        self.upstream, self.lose, self.exchanges, self.lost = upstream, 0, [], 0
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, answer = recorder.forward(self.command, self.path, self.headers, body)
                if self.command not in ("GET", "HEAD") and recorder.take_loss():
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.port = self.server.server_port
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*map(str, tls))
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def forward(self, method, target, headers, body):
        c = self.upstream()
        try:
            c.request(method, target, body=body or None, headers={k: v for k, v in headers.items() if k.lower() not in HOP})
            r = c.getresponse()
            answer = r.read()
        finally:
            c.close()
        SPEC.note(method, target, dict(headers.items()), body, r.status, dict(r.headers.items()), answer)
        with self.lock:
            self.exchanges.append((method, target, dict(headers.items()), body, r.status))
        return r.status, list(r.headers.items()), answer

    def take_loss(self):
        with self.lock:
            if self.lose == 0:
                return False
            self.lose -= 1
            self.lost += 1
            return True

    def stop(self):
        """Says what was wrong."""
        self.server.shutdown()
        self.server.server_close()
        SPEC.finish()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()
        if exc[0] is None:
            SPEC.finish()
