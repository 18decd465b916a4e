#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an inference server, for demonstrations and tests: it reads the model once, hashes it, and says so over HTTP.

Usage: runtime-standin.py [PATH]

Without PATH it waits for $TB_READY_SIGNAL and reads the FIFO $TB_PIPE_PATH to its end. With a PATH it reads that: a FIFO, a
file, or all files of a directory (in the order of their paths; the hash is over their concatenation).
Listens on $TB_RUNTIME_HOST:$TB_RUNTIME_PORT (127.0.0.1:8081). It answers no /v1/chat/completions: it is no model."""

import hashlib
import http.server
import json
import os
import pathlib
import stat
import sys
import threading
import time

READ_BYTES = 1024 * 1024
SIGNAL_POLL_SECONDS = 0.5


class Model:
    """What has been read so far."""

    def __init__(self):
        self.sha256, self.hash, self.bytes_read = hashlib.sha256(), None, 0
        self.complete, self.error, self.started = False, None, time.monotonic()

    def read_file(self, path):
        with open(path, "rb", buffering=0) as f:
            while data := f.read(READ_BYTES):
                self.sha256.update(data)
                self.bytes_read += len(data)

    def read(self, path):
        try:
            if path is None:
                wait_for_signal()
                path = os.environ.get("TB_PIPE_PATH", "/dev/shm/model-pipe")
            path = pathlib.Path(path)
            if stat.S_ISDIR(path.stat().st_mode):
                for file in sorted(p for p in path.rglob("*") if p.is_file()):
                    self.read_file(file)
            else:
                self.read_file(path)
            self.hash, self.complete = self.sha256.hexdigest(), True
            print(f"runtime-standin: read {self.bytes_read} bytes, sha256 {self.hash}", flush=True)
        except (OSError, TimeoutError) as e:
            self.error = str(e)
            print(f"runtime-standin: {e}", file=sys.stderr, flush=True)


def wait_for_signal():
    path = os.environ.get("TB_READY_SIGNAL", "/dev/shm/weights/ready.signal")
    limit = float(os.environ.get("TB_STARTUP_TIMEOUT", "300"))
    end = time.monotonic() + limit
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear within {limit:.0f} s")
        time.sleep(SIGNAL_POLL_SECONDS)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = None

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def plaintext_hash(self):
        m = self.model
        if m.error:
            return 500, {"error": m.error}
        if not m.complete:
            return 202, {"status": "reading", "bytes_read": m.bytes_read}
        return 200, {"sha256": m.hash, "bytes_read": m.bytes_read}

    def status(self):
        m = self.model
        return 200, {"plaintext_hash": m.hash, "bytes_read": m.bytes_read, "read_complete": m.complete, "read_error": m.error,
                     "uptime_seconds": round(time.monotonic() - m.started, 3)}

    def demo(self, body):
        m = self.model
        request = {"method": self.command, "path": self.path, "content_type": self.headers.get("Content-Type")}
        if body is not None:
            request.update(body_sha256=hashlib.sha256(body).hexdigest(), body_size=len(body))
        return 200, {"message": "Hello from runtime-mock", "plaintext_hash": m.hash, "bytes_read": m.bytes_read,
                     "read_complete": m.complete, "request": request}

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/health":
            self.reply(200, {"status": "ok", "service": "runtime-mock"})
        elif path == "/plaintext-hash":
            self.reply(*self.plaintext_hash())
        elif path == "/status":
            self.reply(*self.status())
        elif path == "/v1/demo":
            self.reply(*self.demo(None))
        else:
            self.reply(404, {"error": "not found"})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.body()
        if self.path.split("?")[0] == "/v1/demo":
            self.reply(*self.demo(body))
        else:
            self.reply(404, {"error": "not found"})

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1] in ("-h", "--help")):
        print(__doc__)
        return 0 if len(sys.argv) == 2 else 64
    model = Handler.model = Model()
    host, port = os.environ.get("TB_RUNTIME_HOST", "127.0.0.1"), int(os.environ.get("TB_RUNTIME_PORT", "8081"))
    server = Server((host, port), Handler)
    threading.Thread(target=model.read, args=(sys.argv[1] if len(sys.argv) == 2 else None,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
