# SPDX-License-Identifier: Apache-2.0
"""tb-hydrate against a blob server over TLS, with a fault proxy between them: downloads, resumes, refuses."""
import hashlib
import http.server
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import threading
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import faultproxy as fp
from tbsys import CA, Daemon, program, read_json, wait_for

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
        etag = '"%s"' % hashlib.md5(blob).hexdigest()
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


@pytest.fixture(scope="session", name="ca")
def _ca(tmp_path_factory):
    ca = CA(tmp_path_factory.mktemp("hydrate-ca"))
    ca.pair = ca.issue("localhost")
    return ca


class World:
    """Blob server, fault proxy before it, directories and environment of one tb-hydrate."""

    def __init__(self, tmp, ca):
        self.tmp, self.ca = tmp, ca
        self.target, self.run_dir = tmp / "target", tmp / "run"
        self.server = _Server(("127.0.0.1", 0), _Blobs)
        self.server.blobs, self.server.sig = {}, SIG
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.proxy = fp.FaultProxy("http://127.0.0.1:%d" % self.server.server_address[1], tls=ca.pair).start()
        self.env = {"TB_CONTRACT_ID": "c-1", "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": "https://127.0.0.1:1",
                    "TB_TARGET_DIR": str(self.target), "TB_RUN_DIR": str(self.run_dir), "TB_CA_FILE": ca.cert,
                    "TB_DOWNLOAD_CHUNK_BYTES": str(CHUNK), "TB_DOWNLOAD_CONCURRENCY": str(SLOTS),
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
        assert self.progress() == {"state": "complete", "bytes_done": len(self.data), "bytes_total": len(self.data)}

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


@pytest.fixture(name="w")
def _w(tmp_path, ca):
    world = World(tmp_path, ca)
    world.put(*seal(3_000_001))
    yield world
    world.close()


# Faults that take their time (retries, a stall) run in the background from the start; the last test looks at them.
STUBBORN = {
    # name: action, which requests, exit code, words of the log
    "busy": (fp.status(503), None, 75, "after 6 attempts"),
    "reset": (fp.reset(None), None, 75, "after 6 attempts"),
    "range": (fp.headers({"Content-Range": "bytes 0-1/3000953"}), None, 76, "does not serve ranges"),
    "whole": (fp.status(200, {}, b"x" * 100), None, 76, "does not serve ranges"),
    "stall": (fp.swallow(), 3, 0, "again in"),
    "manifest": (fp.status(503), None, 75, "status 503"),
}


@pytest.fixture(scope="module", autouse=True, name="stubborn")
def _stubborn(tmp_path_factory, ca):
    worlds, (data, manifest) = {}, seal(3_000_001)
    assert len(data) == 3000953
    for name, (action, nth, _, _) in STUBBORN.items():
        w = worlds[name] = World(tmp_path_factory.mktemp("stubborn-" + name), ca)
        w.put(data, manifest)
        w.proxy.rule(action, nth=nth, path="manifest" if name == "manifest" else "model.tbenc$")
        w.running = w.start()
    yield worlds
    for w in worlds.values():
        w.close()


# -- the plain cases ---------------------------------------------------------------------------------------------------
def test_downloads_once(w):
    rc, d = w.run()
    assert rc == 0, w.log()
    w.assert_complete()
    assert d.ready == "1"
    assert (w.target / "model.tbenc").stat().st_mode & 0o777 == 0o640
    ranges = w.ranges()
    assert w.sent() == len(w.data)
    assert "If-Match" not in ranges[0].headers
    assert len(ranges) == -(-len(w.data) // CHUNK) and all("If-Match" in r.headers for r in ranges[1:])

    w.proxy.clear()
    rc, d = w.run()
    assert rc == 0 and d.ready == "1"
    w.assert_complete()
    assert not w.ranges()
    assert "nothing to download" in w.log()


@pytest.mark.parametrize("size", [0, 1, 65536, 65536 * 2])
def test_sizes(w, size):
    w.put(*seal(size))
    assert w.run()[0] == 0, w.log()
    w.assert_complete()


def test_one_range_for_the_whole_file(w):
    rc, _ = w.run(TB_DOWNLOAD_CHUNK_BYTES=67108864)
    assert rc == 0 and len(w.ranges()) == 1
    w.assert_complete()


def test_unknown_complete_file_is_hashed_and_kept(w):
    assert w.run()[0] == 0
    (w.target / "model.tbenc.verified.json").unlink()
    w.proxy.clear()
    assert w.run()[0] == 0
    assert not w.ranges()
    w.assert_complete()


def test_damaged_complete_file_is_fetched_again(w):
    assert w.run()[0] == 0
    with open(w.target / "model.tbenc", "r+b") as f:
        f.seek(1_000_000)
        f.write(b"\0")
    w.proxy.clear()
    assert w.run()[0] == 0
    assert w.sent() == len(w.data)
    w.assert_complete()


def test_new_version_replaces_the_old_one(w):
    assert w.run()[0] == 0
    w.put(*seal(3_000_001, seed=2))
    assert w.run()[0] == 0
    w.assert_complete()


def test_foreign_files_stay(w):
    w.target.mkdir()
    (w.target / "notes.txt").write_text("mine")
    assert w.run()[0] == 0
    assert (w.target / "notes.txt").read_text() == "mine"


def test_second_instance_waits_its_turn(w):
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$")
    first = w.start()
    w.proxy.wait(1, path="model.tbenc$")
    rc, _ = w.run()
    assert rc == 75 and "another tb-hydrate" in w.log()
    go.set()
    assert first.wait() == 0
    w.assert_complete()


# -- resuming ----------------------------------------------------------------------------------------------------------
def test_sigkill_at_ten_points(w):
    w.put(*seal(8_000_001))
    n = -(-len(w.data) // CHUNK)
    w.proxy.rule(fp.delay(0.03), path="model.tbenc$")
    kills = 0
    for _ in range(10):
        before = len(w.ranges())
        d = w.start()
        wait_for(lambda: len(w.ranges()) >= before + SLOTS + 3 or not d.running(), 20, "the next ranges")
        assert d.running(), w.log()
        d.kill()
        kills += 1
    assert w.run()[0] == 0
    w.assert_complete()
    assert kills == 10
    assert len(w.ranges()) <= n + 10 * SLOTS
    assert w.sent() <= len(w.data) + 10 * SLOTS * CHUNK
    assert "resuming" in w.log()


def test_what_a_killed_run_left_half_written_is_removed(w):
    w.target.mkdir(parents=True, exist_ok=True)
    left = [w.target / f".{n}.aB3xYz" for n in ("model.tbenc.part.json", "model.manifest.json", "model.tbenc.verified.json")]
    for p in left:
        p.write_bytes(b"half")
    others = [w.target / n for n in (".model.tbenc.part.json.long-name", ".other.aB3xYz")]
    for p in others:
        p.write_bytes(b"not ours")
    assert w.run()[0] == 0
    assert not any(p.exists() for p in left) and all(p.exists() for p in others)
    for p in others:
        p.unlink()
    w.assert_complete()


def test_after_a_reboot_the_durable_record_counts(w):
    w.proxy.rule(fp.delay(0.1), path="model.tbenc$")
    d = w.start()
    record = w.target / "model.tbenc.part.json"
    wait_for(lambda: read_json(record).get("done"), 20, "a record with ranges")
    d.kill()
    done = read_json(record)["done"]
    live = w.target / "model.tbenc.part.live"
    raw = bytearray(live.read_bytes())
    raw[8] ^= 1  # the boot id is another one
    raw[-3] = 0xff  # what it claims is not to be believed now
    live.write_bytes(raw)
    w.proxy.clear()
    assert w.run()[0] == 0
    w.assert_complete()
    first, _, last = done.split(",")[0].partition("-")
    kept = range(int(first), int(last or first) + 1)
    asked = {int(r.range.removeprefix("bytes=").split("-")[0]) // CHUNK for r in w.ranges()}
    assert asked.isdisjoint(kept) and len(asked) < -(-len(w.data) // CHUNK)


def test_sigterm_saves_and_stops(w):
    w.proxy.rule(fp.delay(0.1), path="model.tbenc$")
    d = w.start()
    w.proxy.wait(3 * SLOTS, path="model.tbenc$")
    t = time.monotonic()
    assert d.stop() == -signal.SIGTERM
    assert time.monotonic() - t < 5
    assert read_json(w.target / "model.tbenc.part.json")["done"]
    assert "stopped by a signal" in w.progress()["reason"]
    w.proxy.clear_rules()
    (w.target / "model.tbenc.part.live").unlink()
    assert w.run()[0] == 0
    w.assert_complete()
    assert w.sent() <= len(w.data) + SLOTS * CHUNK


def test_sigterm_while_the_manifest_does_not_come(w):
    w.proxy.rule(fp.swallow(), path="manifest")
    d = w.start()
    w.proxy.wait(1)
    t = time.monotonic()
    assert d.stop() == -signal.SIGTERM and time.monotonic() - t < 5


@pytest.mark.parametrize("damage", [b"", b"{", b'{"done":"0-99999999999"}', b"\0" * 100])
def test_unusable_record_means_from_zero(w, damage):
    w.proxy.rule(fp.delay(0.1), path="model.tbenc$")
    d = w.start()
    w.proxy.wait(2 * SLOTS, path="model.tbenc$")
    d.kill()
    (w.target / "model.tbenc.part.json").write_bytes(damage)
    w.proxy.clear()
    assert w.run()[0] == 0
    w.assert_complete()
    assert w.sent() == len(w.data)


def test_crash_before_the_final_name(w):
    """Everything but the last rename happened: the next start finishes without a byte."""
    assert w.run()[0] == 0
    os.rename(w.target / "model.tbenc", w.target / "model.tbenc.part")
    (w.target / "model.manifest.json").unlink()
    w.proxy.clear()
    assert w.run()[0] == 0
    assert not w.ranges()
    w.assert_complete()


# -- faults that pass --------------------------------------------------------------------------------------------------
def test_faults_that_a_retry_heals(w):
    at = lambda k: r"^bytes=%d-" % (k * CHUNK)
    w.proxy.rule(fp.status(503), path="manifest", nth=1)
    w.proxy.rule(fp.reset(None), path="manifest", nth=2)
    w.proxy.rule(fp.status(500), range=at(0), nth=1)
    w.proxy.rule(fp.status(503, {"Retry-After": "2"}), range=at(3), nth=1)
    w.proxy.rule(fp.status(429, {"Retry-After": "1"}), range=at(5), nth=1)
    w.proxy.rule(fp.reset(1000), range=at(7), nth=1)
    w.proxy.rule(fp.reset(None), range=at(8), nth=1)
    w.proxy.rule(fp.cut(5000), range=at(9), nth=1)
    w.proxy.rule(fp.headers({"Content-Range": "bytes 0-65535/%d" % len(w.data)}), range=at(11), nth=1)
    w.proxy.rule(fp.headers({"Content-Range": None}), range=at(12), nth=1)
    w.proxy.rule(fp.status(200, {"ETag": '"%s"' % hashlib.md5(w.data).hexdigest()}, b"x" * CHUNK), range=at(13), nth=1)
    # longer than the file: it must not grow
    last = len(w.data) // CHUNK
    w.proxy.rule(fp.status(206, {"Content-Range": "bytes %d-%d/%d" % (last * CHUNK, len(w.data) - 1, len(w.data))},
                           b"y" * (len(w.data) - last * CHUNK + 1)), range=at(last), nth=1)
    rc, _ = w.run()
    assert rc == 0, w.log()
    w.assert_complete()
    tries = w.proxy.select(range=at(3))
    assert len(tries) == 2 and tries[1].time - tries[0].time >= 1.9
    # what a broken range had received is not asked for again
    assert w.proxy.count(range=at(7)) == 1 and w.proxy.count(range=r"^bytes=%d-" % (7 * CHUNK + 1000)) == 1
    assert w.proxy.count(range=r"^bytes=%d-" % (9 * CHUNK + 5000)) == 1


def test_systemd_hears_of_progress_while_there_is_some(w):
    go = threading.Event()
    w.put(*seal(16 * CHUNK))
    w.proxy.rule(fp.drip(CHUNK // 4, 0.5), nth=range(1, 9), path="model.tbenc$")
    w.proxy.rule(fp.hold(go), path="model.tbenc$")
    d = w.start()
    w.proxy.wait(8 + SLOTS, path="model.tbenc$")
    wait_for(lambda: d.notify_values("EXTEND_TIMEOUT_USEC"), 20, "an extension")
    time.sleep(2.2)  # what still arrived is told by now
    extended, told = len(d.notify_values("EXTEND_TIMEOUT_USEC")), len(d.notify_values("STATUS"))
    wait_for(lambda: len(d.notify_values("STATUS")) >= told + 2, 20, "more status")
    assert len(d.notify_values("EXTEND_TIMEOUT_USEC")) == extended, "a stalled download must time out"
    go.set()
    assert d.wait() == 0
    w.assert_complete()
    assert set(d.notify_values("EXTEND_TIMEOUT_USEC")) == {"120000000"}
    assert any(re.fullmatch(r"Downloading [\d.]+ \w+ of [\d.]+ \w+ \(\d+ %\), [\d.]+ \w+/s", s) for s in d.notify_values("STATUS"))


def test_without_etag(w):
    w.proxy.rule(fp.headers({"ETag": None}), path="model.tbenc$")
    assert w.run()[0] == 0
    assert "no strong ETag" in w.log()
    w.assert_complete()


def test_expired_sas_keeps_progress(w):
    w.proxy.rule(fp.status(403, {"x-ms-error-code": "AuthenticationFailed"}), path="model.tbenc$", nth=range(21, 1000))
    rc, _ = w.run()
    w.assert_failed(rc, 75, "403 AuthenticationFailed", "fresh SAS")
    assert w.sent() == 20 * CHUNK
    w.proxy.clear_rules()
    w.server.sig = "Second" + SIG
    w.credentials = {**w.credentials, "sas-url": w.url("model.tbenc", w.server.sig),
                     "manifest-url": w.url("model.manifest.json", w.server.sig)}
    assert w.run()[0] == 0
    w.assert_complete()
    assert w.sent() == len(w.data)


def test_blob_replaced_while_downloading(w):
    old = (w.data, w.manifest)
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$", nth=range(10, 1000))
    d = w.start()
    w.proxy.wait(10, path="model.tbenc$")
    w.put(*seal(2_500_000, seed=3))
    go.set()
    assert d.wait() == 0, w.log()
    assert w.data != old[0] and "replaced during the download" in w.log()
    w.assert_complete()


def test_changed_etag_header(w):
    w.proxy.rule(fp.headers({"ETag": '"other"'}), path="model.tbenc$", nth=5)
    assert w.run()[0] == 0
    assert "replaced during the download" in w.log()
    w.assert_complete()


def test_blob_replaced_again_and_again(w):
    w.proxy.rule(fp.status(412), path="model.tbenc$", nth=range(2, 1000))
    rc, _ = w.run()
    w.assert_failed(rc, 75, "twice")


# -- faults that do not ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path,status,code", [("manifest", 403, 75), ("manifest", 401, 75), ("manifest", 404, 66),
                                              ("model.tbenc$", 403, 75), ("model.tbenc$", 401, 75),
                                              ("model.tbenc$", 404, 66), ("model.tbenc$", 302, 75), ("manifest", 302, 75)])
def test_statuses(w, path, status, code):
    w.proxy.rule(fp.status(status, {"Location": "http://127.0.0.1:1/"}), path=path)
    rc, _ = w.run()
    w.assert_failed(rc, code, "status %d" % status)
    assert w.proxy.count(path=path) <= SLOTS


@pytest.mark.parametrize("cut", [-1, 1, -1_000_000])
def test_size_is_not_the_manifests(w, cut):
    data = w.data[:cut] if cut < 0 else w.data + b"x"
    w.server.blobs["/models/%s/model.tbenc" % ASSET] = data
    rc, _ = w.run()
    w.assert_failed(rc, 76, str(len(data)), str(len(w.data)))
    assert w.sent() <= CHUNK * SLOTS


def test_tampered_blob(w):
    data = bytearray(w.data)
    data[2_000_000] ^= 1
    w.server.blobs["/models/%s/model.tbenc" % ASSET] = bytes(data)
    rc, d = w.run()
    w.assert_failed(rc, 76, "SHA-256")
    assert w.files() == [] and d.ready is None


def test_foreign_header_ends_it_early(w):
    data = bytearray(w.data)
    data[0] ^= 1
    w.server.blobs["/models/%s/model.tbenc" % ASSET] = bytes(data)
    w.proxy.rule(fp.delay(0.05), path="model.tbenc$")
    rc, _ = w.run()
    w.assert_failed(rc, 76, "not what its manifest says")
    assert w.files() == [] and w.sent() <= 4 * SLOTS * CHUNK


def manifest_with(w, **changes):
    m = json.loads(w.manifest)
    m.update(changes)
    return json.dumps(m).encode()


ATTACKS = {
    "traversal": lambda w: manifest_with(w, weights_filename="../../escaped"),
    "absolute": lambda w: manifest_with(w, weights_filename="/tmp/escaped"),
    "own manifest name": lambda w: manifest_with(w, weights_filename="model.manifest.json"),
    "own part name": lambda w: manifest_with(w, weights_filename="x.part"),
    "own record name": lambda w: manifest_with(w, weights_filename="x.verified.json"),
    "hidden": lambda w: manifest_with(w, weights_filename=".x"),
    "dot dot": lambda w: manifest_with(w, weights_filename=".."),
    "long name": lambda w: manifest_with(w, weights_filename="n" * 250),
    "asset": lambda w: manifest_with(w, asset_id="another"),
    "format": lambda w: manifest_with(w, format="tbenc/v9"),
    "hash": lambda w: manifest_with(w, sha256_ciphertext="zz"),
    "negative": lambda w: manifest_with(w, plaintext_bytes=-1),
    "beyond 2^53": lambda w: w.manifest.replace(b"3000001", b"9007199254740993"),
    "duplicate key": lambda w: w.manifest.replace(b"{", b'{"asset_id": "x",', 1),
    "nesting": lambda w: b"[" * 100_000,
    "100 MB": lambda w: b" " * 100_000_000,
    "trailing": lambda w: w.manifest + b"{}",
    "empty": lambda w: b"",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_manifest_attacks(w, name):
    w.server.blobs["/models/%s/model.manifest.json" % ASSET] = ATTACKS[name](w)
    rc, _ = w.run()
    w.assert_failed(rc, 76, "manifest")
    assert w.files() == [] and not w.ranges()
    assert not list(w.tmp.rglob("escaped"))


def test_bound_manifest(w):
    w.credentials["manifest-sha256"] = hashlib.sha256(w.manifest).hexdigest().encode()
    assert w.run()[0] == 0
    w.server.blobs["/models/%s/model.manifest.json" % ASSET] = w.manifest + b"\n"
    rc, _ = w.run()
    assert rc == 76 and "contract names" in w.log()


# -- this machine --------------------------------------------------------------------------------------------------------
@pytest.fixture(name="small")
def _small(w, request):
    w.target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", w.target], check=True)
    yield w
    for d in w.daemons:
        d.kill()
    subprocess.run(["umount", w.target], check=True)


@pytest.mark.parametrize("small", ["size=65m"], indirect=True)
def test_disk_too_small(small):
    w = small
    rc, _ = w.run()
    w.assert_failed(rc, 74, "not enough disk space", str(w.target), str(len(w.data) + 64 * 1024 * 1024), "65.0 MiB")
    assert not w.ranges() and w.files() == []


@pytest.mark.parametrize("small", ["size=100m,nr_inodes=6"], indirect=True)
def test_disk_fills_while_downloading(small):
    """No inode is left for the next record: what is finished stays, and counts once there is room."""
    w = small
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$", nth=range(9, 1000))
    d = w.start()
    w.proxy.wait(9, path="model.tbenc$")
    wait_for(lambda: "model.tbenc.part.live" in w.files(), 20, "the download's files")
    fillers, k = [], 0
    while True:
        try:
            (w.target / ("filler%d" % k)).touch()
            fillers.append(w.target / ("filler%d" % k))
            k += 1
        except OSError:
            break
    go.set()
    assert fillers and d.wait() == 74, w.log()
    assert "No space left" in w.log() and str(w.target) in w.log()
    for f in fillers:
        f.unlink()
    assert w.run()[0] == 0, w.log()
    assert (w.target / "model.tbenc").read_bytes() == w.data
    assert w.sent() <= len(w.data) + SLOTS * CHUNK


def test_too_little_memory_or_disk_for_the_model(w):
    w.server.blobs["/models/%s/model.manifest.json" % ASSET] = manifest_with(w, plaintext_bytes=2**50)
    rc, _ = w.run()
    w.assert_failed(rc, 74, "not enough memory", str(2**50), "TB_DELIVERY=dir")
    rc, _ = w.run(TB_DELIVERY="fifo")
    w.assert_failed(rc, 74, "not enough disk space")
    assert not w.ranges()


def test_target_that_cannot_be_made(w):
    w.target.write_text("a file")
    rc, _ = w.run()
    w.assert_failed(rc, 74, str(w.target))


# -- credentials, TLS, secrets ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["sas-url", "manifest-url", "manifest-sha256"])
def test_refused_credential(w, name):
    w.credentials[name] = b""
    rc, _ = w.run()
    w.assert_failed(rc, 77, name, "refused")


@pytest.mark.parametrize("name", ["sas-url", "manifest-url", "manifest-sha256"])
def test_missing_or_malformed_credential(w, name):
    value = w.credentials.pop(name)
    rc, _ = w.run()
    w.assert_failed(rc, 78, name, "LoadCredential=")
    w.credentials[name] = b"ftp://" + value
    rc, _ = w.run()
    w.assert_failed(rc, 78, name)


def test_no_credentials_directory(w):
    w.credentials = None
    rc, _ = w.run()
    w.assert_failed(rc, 78, "CREDENTIALS_DIRECTORY")


def test_untrusted_certificate(w, tmp_path):
    other = CA(tmp_path / "other")
    rc, _ = w.run(TB_CA_FILE=other.cert)
    w.assert_failed(rc, 75, "127.0.0.1")
    assert not w.proxy.requests


def test_plain_http_needs_permission(w):
    plain = "http://127.0.0.1:%d" % w.server.server_address[1]
    for k in ("sas-url", "manifest-url"):
        w.credentials[k] = w.credentials[k].replace(w.proxy.url.encode(), plain.encode())
    rc, _ = w.run()
    w.assert_failed(rc, 75, "https")
    assert w.run(TB_INSECURE_HTTP="true")[0] == 0
    w.assert_complete()


def test_no_secret_in_the_process(w):
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$", nth=range(5, 1000))
    d = w.start()
    w.proxy.wait(5, path="model.tbenc$")
    proc = pathlib.Path("/proc") / str(d.pid)
    for name in ("environ", "cmdline"):
        assert b"SecretSignature" not in (proc / name).read_bytes()
    locked = int(next(l for l in (proc / "status").read_text().splitlines() if l.startswith("VmLck")).split()[1])
    assert locked > 0 or b"libasan" in (proc / "maps").read_bytes()  # ASan turns mlock() into nothing
    go.set()
    assert d.wait() == 0
    w.assert_no_secret()


@pytest.mark.parametrize("name", STUBBORN)
def test_faults_that_stay(stubborn, name):
    w, (_, _, code, words) = stubborn[name], STUBBORN[name]
    assert w.running.wait(60) == code, w.log()
    assert words in w.log(), w.log()
    if code == 0:
        w.assert_complete()
        return
    assert w.progress()["state"] == "failed" and w.progress()["reason"] in w.log()
    assert name == "manifest" or "model.tbenc.part.json" in w.files()
