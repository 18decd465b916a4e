# SPDX-License-Identifier: Apache-2.0
"""tb-controlplane under test: its server, its command line, and what its clients send."""

import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import re
import ssl
import subprocess
import sys
import threading
import time

import tbsys
from openapi import SPEC
from recorder import Recorder

sys.path.insert(0, str(tbsys.repo / "tests" / "vectors"))
import tbenc_ref

KEY = hashlib.sha256(b"controlplane test key").hexdigest()
ASSET = "tb-asset-1"


class Sealed:
    """A small asset, encrypted under a key."""

    def __init__(self, key=KEY, plaintext=b"weights " * 400, prefix=b"abcd", chunk_bytes=1024, **manifest):
        self.key = key
        self.ciphertext, self.manifest = tbenc_ref.seal(bytes.fromhex(key), prefix, chunk_bytes, plaintext)
        self.manifest.update(manifest)
        self.text = tbenc_ref.format_manifest(self.manifest).encode()
        self.sha256 = self.manifest["sha256_ciphertext"]
        self.manifest_sha256 = hashlib.sha256(self.text).hexdigest()


SEALED = Sealed()
SHA = SEALED.sha256


def signed_report(key=KEY, **report):
    """Of a usage report, what authorize is told."""
    text = json.dumps(report)
    derived = hmac.new(bytes.fromhex(key), b"trustbridge usage report v1", hashlib.sha256).digest()
    return {"usage_report": text, "usage_hmac": hmac.new(derived, text.encode(), hashlib.sha256).hexdigest()}


def until_limited(ask, burst=30, a_second=10 / 60, spent=0):
    """Asks until the answer is 429. What was answered before: of that, as much as the limit lets through in the time that it took, be it long,
    or up to `spent` less."""
    begin, answers = time.monotonic(), []
    while (status := ask(len(answers))) != 429:
        answers.append(status)
        assert len(answers) <= burst + 1 + (time.monotonic() - begin) * a_second, answers
    assert len(answers) >= burst - spent, answers
    return set(answers)


class Blobs:
    """A blob server without authentication, which looks at no query: what was put there, by range. faults[path] is a status to answer with."""

    def __init__(self):
        self.files, self.faults, self.ranges, self.asked = {}, {}, True, []
        blobs = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path = self.path.partition("?")[0]
                data, wanted = blobs.files.get(path), re.fullmatch(r"bytes=0-(\d+)", self.headers.get("Range") or "")
                blobs.asked.append((path, self.headers.get("Range")))
                status = blobs.faults.get(path) or (404 if data is None else 206 if wanted and blobs.ranges else 200)
                body = b"no" if status >= 300 else data[:int(wanted[1]) + 1] if status == 206 else data
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status == 206:
                    self.send_header("Content-Range", f"bytes 0-{len(body) - 1}/{len(data)}")
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:  # it had enough
                    self.close_connection = True

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, sealed, name=ASSET):
        self.files[f"/artifacts/{name}.tbenc"], self.files[f"/artifacts/{name}.tbenc.json"] = sealed.ciphertext, sealed.text
        return f"{self.url}/artifacts/{name}.tbenc"


BLOBS = Blobs()


class Answer:
    """An answer that was read whole."""

    def __init__(self, r):
        self.status, self.headers, self.body = r.status, r.headers, r.read()
        self.getheader = self.headers.get

    def read(self):
        return self.body


class Checked:
    """Each exchange over the connection is judged by docs/controlplane.openapi.yaml."""

    def request(self, method, url, body=None, headers=None, **kw):
        self.asked = method, url, headers or {}, body.encode() if isinstance(body, str) else body
        super().request(method, url, body, headers or {}, **kw)

    def getresponse(self):
        answer = Answer(super().getresponse())
        SPEC.check(*self.asked, answer.status, dict(answer.headers.items()), answer.body)
        return answer


class CheckedHTTP(Checked, http.client.HTTPConnection):
    pass


class CheckedHTTPS(Checked, http.client.HTTPSConnection):
    pass


class Server:
    """tb-controlplane serve on a free port, and its command line."""

    def __init__(self, directory, *options, tls=True, database=None, name=None, **daemon):
        self.data = pathlib.Path(directory)
        self.env = {"TBCP_DATABASE": database} if database else {}
        self.data.parent.mkdir(parents=True, exist_ok=True)
        self.tls = tls
        self.log = self.data.parent / f"{name or self.data.name}.log"
        self.daemon = tbsys.Daemon([tbsys.program("tb-controlplane"), "serve", "--data", self.data, "--listen", "127.0.0.1:0",
                                    *([] if tls else ["--http"]), *options], log=self.log, env=self.env, **daemon)

    def start(self):
        start = self.log.stat().st_size if self.log.exists() else 0
        self.daemon.start().wait_notify("READY", "1")
        line = tbsys.wait_for(lambda: re.search(r"ready on (https?)://127\.0\.0\.1:(\d+)", self.log.read_text()[start:]),
                              what="the ready line")
        assert line[1] == ("https" if self.tls else "http")
        self.port = int(line[2])
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *exc):
        self.daemon.stop()

    @property
    def token(self):
        return (self.data / "provider.token").read_text().strip()

    def cli(self, *args, rc=0):
        p = subprocess.run([tbsys.program("tb-controlplane"), *args, "--data", self.data], capture_output=True, text=True,
                           timeout=60, env=dict(os.environ, **self.env))
        assert p.returncode == rc, (args, p.returncode, p.stdout, p.stderr)
        return p.stdout if rc == 0 else p.stderr

    def connection(self, ca=None, cert=None):
        if not self.tls:
            return CheckedHTTP("127.0.0.1", self.port, timeout=20)
        context = ssl.create_default_context(cafile=str(ca or self.data / "ca.crt"))
        if cert:
            context.load_cert_chain(*cert)
        return CheckedHTTPS("localhost", self.port, timeout=20, context=context)

    def recorder(self):
        """What tbpkg is pointed to, so that its exchanges are judged, too."""
        return Recorder(self.connection, (self.data / "server.crt", self.data / "server.key") if self.tls else None)

    def raw(self):
        c = self.connection()
        c.connect()
        return c.sock

    def call(self, method, path, body=None, headers=None, **tls):
        c = self.connection(**tls)
        try:
            c.request(method, path, body=json.dumps(body) if isinstance(body, dict) else body, headers=headers or {})
            r = c.getresponse()
            data = r.read()
            assert r.headers["Content-Type"] == "application/json"
            return r.status, json.loads(data or "{}"), r.headers
        finally:
            c.close()

    def register(self, ciphertext=None, manifest=None, asset=ASSET, token=None, sealed=SEALED, key=None, **extra):
        """Of what lies at the URL; without one the asset is put on the blob server first."""
        ciphertext = ciphertext or BLOBS.put(sealed, asset)
        m = sealed.manifest
        body = {"asset_id": asset, "decryption_key_hex": key or sealed.key,
                "blob_urls": {"ciphertext": ciphertext, "manifest": manifest or ciphertext + ".json"},
                "metadata": {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": m["chunk_bytes"],
                             "plaintext_bytes": m["plaintext_bytes"], "sha256_ciphertext": sealed.sha256}, **extra}
        return self.call("POST", "/api/v1/assets/register", body, {"Authorization": f"Bearer {token or self.token}"})

    def authorize(self, contract="contract-allow", asset=ASSET, hw="4c4c4544-0051", more=None, **tls):
        status, body, _ = self.call("POST", "/api/v1/license/authorize",
                                    {"contract_id": contract, "asset_id": asset, "hw_id": hw,
                                     "client_version": "sentinel/0.1.0", **(more or {})}, {"Content-Type": "application/json"}, **tls)
        return status, body

    def denied(self, contract, **kw):
        status, body = self.authorize(contract, **kw)
        assert status == 200 and body["status"] == "denied", body
        assert "decryption_key_hex" not in body and "sas_url" not in body
        return body["reason"]
