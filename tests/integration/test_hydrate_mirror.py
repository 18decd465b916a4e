# SPDX-License-Identifier: Apache-2.0
"""tb-hydrate with TB_BLOB_MIRROR: the bulk from a cache that may be gone, slow or lie; the storage for what it does not give."""

import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import faultproxy as fp
from hydrate_world import ASSET, CHUNK, SIG, ca, seal, w  # noqa: F401 (fixtures)
from tbsys import free_port, read_json, repo, wait_for

RANGES = -(-len(seal(3_000_001)[0]) // CHUNK)


@pytest.fixture
def mirror(w, ca):  # noqa: F811
    """A pull-through cache without the cache: it asks the same blobs by the query that it is shown."""
    with fp.FaultProxy("http://127.0.0.1:%d" % w.server.server_address[1], tls=ca.pair) as m:
        w.env["TB_BLOB_MIRROR"] = m.url
        yield m


def complete(w):  # noqa: F811
    """All is there, whatever the mirror did, at the first try; returns the ranges that the storage was asked for."""
    rc, d = w.run(timeout=90)
    assert rc == 0 and d.ready == "1", w.log()
    w.assert_complete()
    assert "is damaged" not in w.log()
    return w.ranges()


def old_version(w):  # noqa: F811
    return seal(3_000_001, seed=2)[0]


def test_the_mirror_gives_all_but_the_first_range(w, mirror):  # noqa: F811
    """And what it is shown is the blob's URL alone: no manifest, no certificate of this machine, no condition."""
    cert, key = w.ca.issue("machine")
    rc, _ = w.run(TB_CLIENT_CERT_PATH=cert, TB_CLIENT_KEY_PATH=key)
    assert rc == 0, w.log()
    w.assert_complete()
    assert [r.range for r in w.ranges()] == [f"bytes=0-{CHUNK - 1}"]
    assert mirror.count() == RANGES - 1 == mirror.count(path=f"^/models/{ASSET}/model.tbenc$", args={"sp": "r"})
    assert all("If-Match" not in r.headers for r in mirror.requests)
    told = w.progress()
    assert (told["mirror"], told["mirror_bytes"], told["storage_bytes"]) == ("used", len(w.data) - CHUNK, CHUNK)
    assert f"of these came from the mirror {mirror.url}" in w.log()
    # A second start fetches nothing; one without the setting says nothing of a mirror.
    mirror.clear()
    assert w.run()[0] == 0 and not mirror.requests


def test_what_is_said_of_the_mirror_meanwhile_is_what_came(w, mirror):  # noqa: F811
    mirror.rule(fp.drip(8192, 0.1), path="model.tbenc$")
    d = w.start()
    told = lambda: w.progress() if (w.run_dir / "tb-hydrate/progress.json").exists() else {}  # noqa: E731
    wait_for(lambda: told().get("mirror_bytes"), what="bytes of the mirror")
    p = told()
    assert p["state"] == "downloading" and p["mirror_bytes"] + p["storage_bytes"] == p["bytes_done"] < len(w.data), p
    d.kill()


def test_a_mirror_that_is_not_to_see_the_permission_does_not(w, mirror):  # noqa: F811
    """One that needs it gives nothing then, and all comes from the storage."""
    rc, _ = w.run(TB_BLOB_MIRROR_SAS="false")
    assert rc == 0, w.log()
    w.assert_complete()
    assert mirror.count() > 0 and all(r.args == {} for r in mirror.requests)
    assert {r.status for r in mirror.requests} == {403} and w.progress()["mirror_bytes"] == 0


@pytest.mark.parametrize("path", ["/", "/cache/a/"])
def test_the_mirror_may_have_a_path_of_its_own(w, mirror, path):  # noqa: F811
    blobs = w.server.blobs
    blobs[path.rstrip("/") + f"/models/{ASSET}/model.tbenc"] = w.data
    w.env["TB_BLOB_MIRROR"] = mirror.url + path
    assert len(complete(w)) == 1


FAULTS = {
    "403": lambda w: fp.status(403),  # noqa: F811
    "404": lambda w: fp.status(404),
    "500": lambda w: fp.status(500, body=b"x" * 100_000),
    "503 with Retry-After": lambda w: fp.status(503, {"Retry-After": "3600"}),
    "301": lambda w: fp.status(301, {"Location": "https://elsewhere.invalid/"}),
    "416": lambda w: fp.status(416, {"Content-Range": "bytes */10"}),
    "412": lambda w: fp.status(412),
    "200 for a range": lambda w: fp.status(200, {"ETag": w.server.etag(w.data)}, w.data),
    "200 of an error page": lambda w: fp.status(200, {}, b"<html>login</html>"),
    "206 without a range": lambda w: fp.headers({"Content-Range": None}),
    "another range": lambda w: fp.headers({"Content-Range": f"bytes 0-{CHUNK - 1}/{len(w.data)}"}),
    "another size": lambda w: fp.headers({"Content-Range": f"bytes {CHUNK}-{2 * CHUNK - 1}/{len(w.data) + 1}"}),
    "an old version": lambda w: fp.headers({"ETag": w.server.etag(old_version(w))}),
    "reset": lambda w: fp.reset(after=1000),
    "refused": lambda w: fp.reset(after=None),
    "cut": lambda w: fp.cut(CHUNK // 2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_mirror_does_not_give_the_storage_does(w, mirror, fault):  # noqa: F811
    """Each range once more from there and no more; the mirror is not hammered meanwhile, and no error is final."""
    mirror.rule(FAULTS[fault](w), path="model.tbenc$")
    origin = complete(w)
    assert len({r.range.split("-")[1] for r in origin}) == len(origin) == RANGES
    assert mirror.count() < RANGES
    log = w.log()
    assert "the mirror of TB_BLOB_MIRROR fails: " + mirror.url in log and "the storage gives the range" in log
    if fault != "cut" and fault != "reset":
        assert w.sent() == len(w.data)
    told = w.progress()
    assert (told["mirror"], told["mirror_bytes"]) == ("fails", 0) and 0 < told["storage_bytes"] <= len(w.data)


@pytest.mark.parametrize("gone", ["nobody", "no name", "another certificate"])
def test_a_mirror_that_is_gone(w, tmp_path, gone):  # noqa: F811
    other = None
    w.env["TB_BLOB_MIRROR"] = {"nobody": f"https://127.0.0.1:{free_port()}", "no name": "https://cache.invalid"}.get(gone, "")
    if gone == "another certificate":
        from tbsys import CA  # pylint: disable=import-outside-toplevel
        other = fp.FaultProxy("http://127.0.0.1:%d" % w.server.server_address[1],
                              tls=CA(tmp_path / "strange").issue("localhost")).start()
        w.env["TB_BLOB_MIRROR"] = other.url
    assert len(complete(w)) == RANGES
    assert other is None or not other.requests
    if other:
        other.stop()


@pytest.mark.parametrize("stall", ["never answers", "drips"])
def test_a_mirror_that_stalls(w, mirror, stall):  # noqa: F811
    """It is given up after seconds, not after the half minute that the storage has; what dripped in is kept."""
    mirror.rule(fp.swallow() if stall == "never answers" else fp.drip(100, 0.5), path="model.tbenc$")
    origin = complete(w)
    assert len(origin) == RANGES
    assert mirror.count() < RANGES // 2
    assert "the mirror of TB_BLOB_MIRROR fails" in w.log()


def test_a_mirror_that_comes_back_is_used_again(w, mirror):  # noqa: F811
    """The storage is held until the mirror's rest is over: then the mirror gives what is left, one range first."""
    gate = threading.Event()
    w.env["TB_DOWNLOAD_CONCURRENCY"] = "1"
    mirror.rule(fp.status(500), path="model.tbenc$", nth=1)
    w.proxy.rule(fp.hold(gate), path="model.tbenc$", nth=2)
    d = w.start()
    w.proxy.wait(2, path="model.tbenc$")
    wait_for(lambda: "tried again" in w.log(), what="the warning")
    rest_ms = int(re.search(r"tried again in (\d+) ms", w.log()).group(1))
    over = time.monotonic() + rest_ms / 1000
    wait_for(lambda: time.monotonic() > over, what="the end of the rest")
    gate.set()
    assert d.wait(60) == 0, w.log()
    w.assert_complete()
    assert len(w.ranges()) == 2 and mirror.count() == RANGES - 1
    assert w.log().count("fails") == 1


@pytest.mark.parametrize("lie", ["a flipped bit", "zeros", "an old version"])
def test_a_mirror_that_lies_costs_a_download_and_is_no_permanent_stop(w, mirror, lie):  # noqa: F811
    """Every header is right, and the bytes are not. The hash finds out; the next copy is from the storage alone."""
    action = {"a flipped bit": fp.corrupt(CHUNK // 2), "zeros": None, "an old version": None}[lie]
    if action:
        mirror.rule(action, path="model.tbenc$", nth=7)
    else:
        bad = old_version(w) if lie == "an old version" else bytes(len(w.data))
        etag = w.server.etag(w.data)
        for i in range(1, RANGES):
            first, last = i * CHUNK, min((i + 1) * CHUNK, len(w.data)) - 1
            mirror.rule(fp.status(206, {"ETag": etag, "Content-Range": f"bytes {first}-{last}/{len(w.data)}"}, bad[first:last + 1]),
                        path="model.tbenc$", range=f"^bytes={first}-")
    rc, d = w.run(timeout=90)
    assert rc == 0 and d.ready == "1", w.log()
    w.assert_complete()
    assert mirror.count() == RANGES - 1 and len(w.ranges()) == 1 + RANGES
    log = w.log()
    assert log.count("is damaged") == 1 and "try 1 of 3" in log and "the storage alone gives" in log
    told = w.progress()
    assert (told["mirror"], told["mirror_bytes"], told["storage_bytes"]) == ("left_out", 0, len(w.data))


def test_the_storage_is_asked_when_its_blob_is_replaced(w, mirror):  # noqa: F811
    """An old mirror does not hide it: the condition is asked of the storage with the first range that it gives."""
    w.run()
    for f in w.target.iterdir():
        f.unlink()
    old_etag = w.server.etag(w.data)
    w.put(*seal(2_000_000, seed=3))
    mirror.rule(fp.headers({"ETag": old_etag}), path="model.tbenc$")
    w.proxy.clear()
    complete(w)


def test_sigkill_at_any_instant_resumes(w, mirror):  # noqa: F811
    """Threads, a mirror that fails now and then, and kills: no byte twice but for ranges that were under way."""
    mirror.rule(fp.status(500), path="model.tbenc$", nth=range(5, 1000, 7))
    mirror.rule(fp.drip(8192, 0.02), path="model.tbenc$")
    w.proxy.rule(fp.drip(8192, 0.02), path="model.tbenc$")
    kills = 0
    for n in range(12):
        d = w.start()
        seen = mirror.count() + len(w.ranges())
        wait_for(lambda: mirror.count() + len(w.ranges()) >= seen + 1 + n % 5 or d.proc.poll() is not None, what="requests")
        if d.proc.poll() is not None:
            break
        d.kill(signal.SIGKILL)
        kills += 1
    assert kills > 3
    mirror.clear_rules()
    w.proxy.clear_rules()
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    got = w.sent() + sum(r.sent for r in mirror.requests if r.status == 206)
    assert got <= len(w.data) + kills * 4 * CHUNK + 4096


def test_the_permission_ends_in_the_middle(w, mirror):  # noqa: F811
    """Mirror and storage refuse from some range on: 75, progress kept; with a fresh URL only the rest is fetched."""
    for p in (mirror, w.proxy):
        p.rule(fp.status(403, {"x-ms-error-code": "AuthenticationFailed"}), path="model.tbenc$",
               nth=range(20 if p is mirror else 2, 1000))
    rc, _ = w.run()
    w.assert_failed(rc, 75, "refused access: status 403")
    had = mirror.count() - 1
    before = sum(r.sent for r in mirror.requests if r.status == 206)
    assert had >= 19 and before >= 15 * CHUNK
    mirror.clear()
    w.proxy.clear()
    w.server.sig = "Fresh"
    for name, blob in (("sas-url", "model.tbenc"), ("manifest-url", "model.manifest.json")):
        w.credentials[name] = w.url(blob, sig="Fresh")
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert w.sent() + sum(r.sent for r in mirror.requests) <= len(w.data) - before + 4 * CHUNK


def test_without_the_setting_nothing_is_said_of_one(w):  # noqa: F811
    assert w.run()[0] == 0
    assert "mirror_bytes" not in read_json(w.run_dir / "tb-hydrate" / "progress.json") and "mirror" not in w.log()


# -- nginx, as docs/mirror.md says --------------------------------------------------------------------------------------

def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def nginx(w, ca, tmp_path):  # noqa: F811
    """The configuration of the guide, with places and names of this test; its slices are as large as its ranges."""
    port, conf, place = free_port(), tmp_path / "nginx.conf", tmp_path / "nginx"
    place.mkdir()
    text = re.search(r"```nginx\n(.*?)```", (repo / "docs/mirror.md").read_text(), re.S).group(1)
    for a, b in (("/var/cache/nginx/models", str(place / "models")), ("/var/log/nginx", str(place)), ("slice 8m", f"slice {CHUNK}"),
                 ("/etc/nginx/mirror.crt", str(ca.pair[0])), ("/etc/nginx/mirror.key", str(ca.pair[1])), ("listen 8443", f"listen 127.0.0.1:{port}"),
                 ("proxy_pass https://account.blob.core.windows.net", f"proxy_pass {w.proxy.url}"), ("account.blob.core.windows.net", "localhost"),
                 ("/etc/ssl/certs/ca-certificates.crt", str(ca.cert))):
        assert a in text, a
        text = text.replace(a, b)
    temp = " ".join(f"{m}_temp_path {place}/{m};" for m in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf.write_text(f"daemon off; user root; pid {place}/pid; worker_processes 1; error_log {place}/error.log;\n"
                    f"events {{ worker_connections 256; }}\nhttp {{ {temp}\n{text} }}\n")
    p = subprocess.Popen(["nginx", "-e", place / "error.log", "-c", conf])
    wait_for(lambda: listens(port), what="nginx")
    w.env["TB_BLOB_MIRROR"] = f"https://127.0.0.1:{port}"
    yield place
    p.terminate()
    p.wait()


@pytest.mark.alone("a mirror that is silent for seconds, as one of many programs may be, is left alone")
def test_nginx_asks_the_storage_once_for_many_machines(w, nginx):  # noqa: F811
    """Six machines at once: the storage sends the model once, and each machine's first range. No permission is in a log."""
    envs = [{"TB_TARGET_DIR": str(w.tmp / f"t{i}"), "TB_RUN_DIR": str(w.tmp / f"r{i}"), "TB_STATE_DIR": str(w.tmp / f"s{i}")} for i in range(6)]
    running = [w.start(**e) for e in envs]
    assert [d.wait(90) for d in running] == [0] * 6, w.log()
    for e in envs:
        assert (w.tmp / e["TB_TARGET_DIR"] / "model.tbenc").read_bytes() == w.data
        assert read_json(w.tmp / e["TB_RUN_DIR"] / "tb-hydrate/progress.json")["mirror_bytes"] == len(w.data) - CHUNK
    assert w.sent() == len(w.data) + 5 * CHUNK
    assert "fails" not in w.log()
    for f in nginx.glob("*.log"):
        assert "Secret" not in f.read_text(), f
    assert "HIT" in (nginx / "models.log").read_text()


def test_what_rotted_in_nginx_is_fetched_from_the_storage(w, nginx):  # noqa: F811
    assert w.run()[0] == 0, w.log()
    for f in w.target.iterdir():
        f.unlink()
    cached = next(p for p in sorted((nginx / "models").rglob("*")) if p.is_file() and p.stat().st_size > CHUNK)
    data = bytearray(cached.read_bytes())
    data[-100] ^= 1
    cached.write_bytes(data)
    w.proxy.clear()
    rc, _ = w.run(timeout=90)
    assert rc == 0, w.log()
    w.assert_complete()
    assert w.log().count("is damaged") == 1


def test_a_blob_that_was_replaced_does_not_come_from_the_old_cache(w, nginx):  # noqa: F811
    assert w.run()[0] == 0, w.log()
    for f in w.target.iterdir():
        f.unlink()
    w.put(*seal(3_000_001, seed=2))
    w.proxy.clear()
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert "the entity tag changed" in w.log() and "is damaged" not in w.log()
