# SPDX-License-Identifier: Apache-2.0
"""A blob server behind a fault proxy over TLS, with the directories of one tb-hydrate, and a small writer of tbenc/v1: what the
tests of tb-hydrate share."""

import hashlib
import http.server
import json
import os
import struct
import threading

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import faultproxy as fp
from tbsys import CA, Daemon, program, read_json

ASSET = "tiny-model"
SIG = "SecretSignature%2B123"
CHUNK = 64 * 1024
SLOTS = 4


def seal(size, chunk_bytes=64 * 1024, asset=ASSET, seed=1, name="model.tbenc", **extra):
    """An independent tbenc/v1 writer. Returns (ciphertext, manifest text)."""
    key, prefix = bytes([seed]) * 32, struct.pack(">I", seed)
    head = b"TBENC001" + struct.pack(">HBI", 1, 1, chunk_bytes) + prefix
    out, plain = [head + bytes(13)], bytes([seed]) * size
    for i in range((size + chunk_bytes - 1) // chunk_bytes):
        part = plain[i * chunk_bytes:(i + 1) * chunk_bytes]
        aad = head + struct.pack(">QI", i, len(part))
        out += [struct.pack(">I", len(part)), AESGCM(key).encrypt(prefix + struct.pack(">Q", i), part, aad)]
    data = b"".join(out)
    manifest = {"format": "tbenc/v1", "algo": "aes-256-gcm-chunked", "chunk_bytes": chunk_bytes, "plaintext_bytes": size,
                "sha256_ciphertext": hashlib.sha256(data).hexdigest(), "asset_id": asset, "weights_filename": name}
    return data, json.dumps({**manifest, **extra}, indent=2).encode()


class _Blobs(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, code, body=b"", **headers):
        self.send_response(code)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        blob = self.server.blobs.get(path)
        if "sig=" + self.server.sig not in query:
            return self.reply(403, b"<Error/>", x_ms_error_code="AuthenticationFailed")
        if blob is None:
            return self.reply(404, b"<Error/>", x_ms_error_code="BlobNotFound")
        etag = self.server.etag(blob)
        if self.headers.get("If-Match", etag) != etag:
            return self.reply(412, b"<Error/>", x_ms_error_code="ConditionNotMet")
        wanted = self.headers.get("Range")
        if not wanted:
            return self.reply(200, blob, ETag=etag)
        first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
        if first >= len(blob):
            return self.reply(416, b"<Error/>", x_ms_error_code="InvalidRange")
        last = min(last, len(blob) - 1)
        return self.reply(206, blob[first:last + 1], ETag=etag, Content_Range="bytes %d-%d/%d" % (first, last, len(blob)))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def etag(self, blob):
        """Each account has its own."""
        return '"%s"' % hashlib.md5(blob + self.salt).hexdigest()


@pytest.fixture(scope="session")
def ca(tmp_path_factory):
    authority = CA(tmp_path_factory.mktemp("hydrate-ca"))
    authority.pair = authority.issue("localhost")
    return authority


class World:
    """Blob server, fault proxy before it, directories and environment of one tb-hydrate."""

    def __init__(self, tmp, ca):
        self.tmp, self.ca = tmp, ca
        self.target, self.run_dir = tmp / "target", tmp / "run"
        self.server = _Server(("127.0.0.1", 0), _Blobs)
        self.server.blobs, self.server.sig, self.server.salt = {}, SIG, os.urandom(8)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.proxy = fp.FaultProxy("http://127.0.0.1:%d" % self.server.server_address[1], tls=ca.pair).start()
        self.env = {"TB_CONTRACT_ID": "c-1", "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": "https://127.0.0.1:1",
                    "TB_TARGET_DIR": str(self.target), "TB_RUN_DIR": str(self.run_dir), "TB_STATE_DIR": str(tmp / "state"),
                    "TB_CA_FILE": ca.cert,
                    "TB_DOWNLOAD_CHUNK_BYTES": str(CHUNK), "TB_DOWNLOAD_CONCURRENCY": str(SLOTS),
                    "TB_DOWNLOAD_THREADS": "3",
                    "TB_LOG_LEVEL": "debug"}
        self.credentials = {"sas-url": self.url("model.tbenc"), "manifest-url": self.url("model.manifest.json"),
                            "manifest-sha256": b"none"}
        self.daemons = []

    def url(self, name, sig=SIG):
        return ("%s/models/%s/%s?sv=2024-11-04&sr=b&sp=r&sig=%s" % (self.proxy.url, ASSET, name, sig)).encode()

    def put(self, data, manifest):
        self.data, self.manifest = data, manifest
        self.server.blobs["/models/%s/model.tbenc" % ASSET] = data
        self.server.blobs["/models/%s/model.manifest.json" % ASSET] = manifest

    def start(self, **env):
        d = Daemon([program("tb-hydrate")], env={**self.env, **env}, credentials=lambda: self.credentials,
                   log=self.tmp / "log")
        self.daemons.append(d)
        return d.start()

    def run(self, timeout=60, **env):
        d = self.start(**env)
        rc = d.wait(timeout)
        d.ready = d.notified("READY")
        return rc, d

    def ranges(self):
        return self.proxy.select(path="model.tbenc$")

    def sent(self):
        return sum(r.sent for r in self.ranges() if r.status in (200, 206))

    def files(self):
        return sorted(os.listdir(self.target)) if self.target.exists() else []

    def log(self):
        return (self.tmp / "log").read_text()

    def progress(self):
        return read_json(self.run_dir / "tb-hydrate" / "progress.json")

    def assert_complete(self):
        assert (self.target / "model.tbenc").read_bytes() == self.data
        assert (self.target / "model.manifest.json").read_bytes() == self.manifest
        assert self.files() == ["model.manifest.json", "model.tbenc", "model.tbenc.verified.json"]
        p = self.progress()
        assert (p["state"], p["bytes_done"], p["bytes_total"]) == ("complete", len(self.data), len(self.data)) and "reason" not in p

    def assert_failed(self, rc, code, *words):
        assert rc == code, self.log()
        for w in words:
            assert w in self.log(), self.log()
        p = self.progress()
        assert p["state"] == "failed" and p["reason"] in self.log()
        assert not (self.target / "model.tbenc").exists()

    def assert_no_secret(self):
        places = [self.tmp / "log", *self.run_dir.rglob("*.json"), *self.target.rglob("*")]
        for place in places:
            if place.is_file():
                assert b"SecretSignature" not in place.read_bytes(), place

    def close(self):
        for d in self.daemons:
            d.kill()
        self.assert_no_secret()
        self.proxy.stop()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def w(tmp_path, ca):
    world = World(tmp_path, ca)
    world.put(*seal(3_000_001))
    yield world
    world.close()


def manifest_with(w, **changes):
    m = json.loads(w.manifest)
    m.update(changes)
    return json.dumps(m).encode()
