# SPDX-License-Identifier: Apache-2.0
"""tb-hydrate interrupted and resumed, through faults that pass and against those that do not."""

import hashlib
import os
import random
import re
import signal
import threading
import time

import pytest

import faultproxy as fp
from delivery_asset import Asset
from hydrate_world import ASSET, CHUNK, SIG, SLOTS, World, ca, manifest_with, seal, w  # noqa: F401
from tbsys import read_json, wait_for

# Faults that take their time (retries, a stall) run in the background from the start; the last test looks at them.
STUBBORN = {
    # name: action, which requests, exit code, words of the log
    "busy": (fp.status(503), None, 75, "after 6 attempts"),
    "reset": (fp.reset(None), None, 75, "after 6 attempts"),
    "range": (fp.headers({"Content-Range": "bytes 0-1/3000953"}), None, 76, "does not serve ranges"),
    "no size": (fp.headers({"Content-Range": "bytes 0-65535/*"}), None, 76, "206 with Content-Range bytes 0-65535/*, 3 times"),
    "nothing": (fp.headers({"Content-Range": "*/*"}), None, 76, "206 with Content-Range */*, 3 times; the server or a proxy"),
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


@pytest.mark.alone
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


@pytest.mark.alone
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


@pytest.mark.parametrize("part", [True, False], ids=["", "and the new one is lost"])
@pytest.mark.parametrize("tags", [True, False])
def test_crash_before_the_final_name_of_an_older_version(w, tags, part):
    """It has the name and the size that the new one is to have; and what was verified is the new one."""
    versions = [Asset(random.Random(i).randbytes(1_000_001), asset_id=ASSET) for i in range(2)]
    for n, asset in enumerate(versions):
        if not tags:
            del asset.manifest["tags_sha256"]
        w.put(asset.ciphertext(), asset.manifest_text())
        assert w.run()[0] == 0
        os.rename(w.target / "model.tbenc", w.target / ("model.tbenc.part" if n else "older"))
    os.rename(w.target / "older", w.target / "model.tbenc")
    if not part:
        (w.target / "model.tbenc.part").unlink()
    w.proxy.clear()
    before = w.log()
    assert w.run()[0] == 0
    said = w.log()[len(before):]
    assert "was written to" not in said and (not part or not w.ranges() and "is damaged" not in said)
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
    w.proxy.rule(fp.status(200, {"ETag": w.server.etag(w.data)}, b"x" * CHUNK), range=at(13), nth=1)
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
                                              ("model.tbenc$", 404, 66)])
def test_statuses(w, path, status, code):
    w.proxy.rule(fp.status(status, {"Location": "http://127.0.0.1:1/"}), path=path)
    rc, _ = w.run()
    w.assert_failed(rc, code, "status %d" % status)
    assert w.proxy.count(path=path) <= SLOTS


@pytest.mark.parametrize("path", ["manifest", "model.tbenc$"])
@pytest.mark.parametrize("status,to,shown", [(302, "http://login.example/?sig=X", " to http://login.example)"), (308, "/x", "status 308)"),
                                             (307, "https://u:p@other.example/\x1b[2J", " to https://other.example)"), (301, "", "status 301)")])
def test_a_redirect_is_not_followed_and_not_tried_again(w, path, status, to, shown):
    w.proxy.rule(fp.status(status, {"Location": to}), path=path)
    rc, _ = w.run()
    w.assert_failed(rc, 78, "status %d" % status, shown, "is not followed", "register the asset")
    assert w.proxy.count(path=path) <= SLOTS


@pytest.mark.parametrize("sent,words", [("bytes */*", "is shorter than"), ("bytes */2000000", "is shorter than"),
                                        ("bytes */3000953", "does not serve ranges correctly")])
def test_416_says_what_came_with_it(w, sent, words):
    w.proxy.rule(fp.status(416, {"Content-Range": sent}), path="model.tbenc$")
    rc, _ = w.run()
    w.assert_failed(rc, 76, "416", words)


@pytest.mark.parametrize("status,headers", [(416, {"Content-Range": "bytes */3000953"}), (416, {"Content-Range": "bytes */*"}), (304, {})])
def test_a_server_that_contradicts_itself_is_asked_again(w, status, headers):
    """As a cache on the way may, once. Whoever says it of each range has no more to give."""
    w.proxy.rule(fp.status(status, headers), path="model.tbenc$", range=f"^bytes={9 * CHUNK}-", nth=1)
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert f"status {status} to a range that it has" in w.log()


def test_a_server_that_contradicts_itself_before_the_first_range_came(w):
    w.proxy.rule(fp.drip(CHUNK // 8, 0.3), path="model.tbenc$", range="^bytes=0-", nth=1)
    w.proxy.rule(fp.status(416, {"Content-Range": "bytes */*"}), path="model.tbenc$", range=f"^bytes={CHUNK}-", nth=1)
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert "status 416 to a range that it has" in w.log()


@pytest.mark.parametrize("status", [416, 304])
def test_a_server_that_contradicts_itself_for_good_ends_it(w, status):
    w.proxy.rule(fp.status(status, {"Content-Range": "bytes */3000953"}), path="model.tbenc$", range=f"^bytes={9 * CHUNK}-")
    rc, _ = w.run()
    w.assert_failed(rc, 76, f"status {status} to a range that it has, 3 times", "does not serve ranges correctly")


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
    blob = "/models/%s/model.manifest.json" % ASSET
    w.credentials["manifest-sha256"] = hashlib.sha256(w.manifest).hexdigest().encode()
    w.server.blobs[blob] = w.manifest + b"\n"
    rc, _ = w.run()
    assert rc == 76 and "contract names" in w.log()
    w.server.blobs[blob] = w.manifest
    assert w.run()[0] == 0
    w.assert_complete()


@pytest.mark.parametrize("became", ["another", "gone", "damaged"])
def test_a_machine_that_has_what_the_contract_names_asks_for_no_manifest(w, became):
    """As when another version was uploaded over the name of the one that is served."""
    blob, kept = "/models/%s/model.manifest.json" % ASSET, w.target / "model.manifest.json"
    w.credentials["manifest-sha256"] = hashlib.sha256(w.manifest).hexdigest().encode()
    assert w.run()[0] == 0
    asked = w.proxy.count(path="manifest")
    if became == "damaged":  # here, and not there
        kept.write_bytes(w.manifest[:-1])
    else:
        w.server.blobs[blob] = w.manifest + b"\n" if became == "another" else None
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert w.proxy.count(path="manifest") == asked + (became == "damaged") and kept.read_bytes() == w.manifest


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
