# SPDX-License-Identifier: Apache-2.0
"""The model on its way from the storage to the runtime, as /status, the page, the metrics and tb-status show it: one picture, the same in
each, and sane at every instant, whatever is restarted."""

import http.client
import json
import pathlib
import random
import re
import subprocess
import sys
import threading

import pytest

import faultproxy as fp
from delivery_asset import Asset
from delivery_house import house, rot  # noqa: F401
from delivery_rig import NO_MOUNT, rig  # noqa: F401
from hydrate_world import ca  # noqa: F401
from proxy_daemon import Proxy, boottime_us, make  # noqa: F401
from tbsys import program, wait_for
from test_follow import RANGE, RECORD, SIZE
from test_follow_view import READER
from test_mend import ON_DISK, place

REPO = pathlib.Path(__file__).resolve().parents[2]
ALWAYS = 3600 * 10**6  # a file of the test's is from the future, so that it looks fresh however slow the machine is


def tb_status(p, *options, columns=80):
    env = {"TB_RUN_DIR": str(p.run), "TB_HEALTH_ADDR": f"127.0.0.1:{p.health.getsockname()[1]}", "PATH": "/usr/bin:/bin", "COLUMNS": str(columns)}
    r = subprocess.run([program("tb-status"), *options], env=env, capture_output=True, text=True, timeout=60)
    assert r.returncode in (0, 3) and not r.stderr, r.stderr
    return json.loads(r.stdout) if "--json" in options else r.stdout


def metrics(p):
    text = p.ask_health("/metrics")[1].decode()
    return {m[1]: int(m[2]) for m in re.finditer(r"^(tb_(?:step|model|records|download|mirror)\S*) (\d+)$", text, re.M)}


def page(p):
    text = p.ask_health("/")[1].decode()
    return dict(re.findall(r'data-f="(\w+)">([^<]*)<', text))


def figures(doc):
    """What both JSON documents have of it."""
    parts = {k: {m: doc.get(k, {}).get(m) for m in ("bytes_done", "bytes_total", "percent", "bytes_per_second", "seconds_left")} for k in ("hydrate", "decrypt")}
    parts["source"] = {m: doc.get("hydrate", {}).get(m) for m in ("mirror", "mirror_bytes", "storage_bytes")}
    return {**parts, "repairs": doc.get("repairs"),
            "delivery": {m: doc.get("delivery", {}).get(m) for m in ("mode", "read_bytes", "served_bytes", "memory_bytes", "cache_bytes")}}


@pytest.fixture
def streaming(make):  # noqa: F811
    p = make().start(wait="Boot")
    now = boottime_us()
    p.lease()
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=3 << 30, bytes_total=4 << 30, bytes_per_second=100 << 20,
            mirror="fails", mirror_bytes=2 << 30, storage_bytes=1 << 30, started_boottime_us=now, written_boottime_us=now + ALWAYS)
    p.write("tb-runtime", "delivery.json", state="streaming", mode="view", started_boottime_us=now, written_boottime_us=now)
    p.write("tb-decrypt", "progress.json", state="serving", bytes_done=1 << 30, bytes_total=4 << 30, bytes_per_second=50 << 20,
            read_bytes=512 << 20, served_bytes=700 << 20, cached_bytes=96 << 20, cache_bytes=128 << 20,
            repairs={"waiting": 1, "fetched": 2, "records": [{"file": "sub/<model>.gguf", "chunk": 17, "tries": 2, "state": "waiting"},
                                                             {"file": "sub/<model>.gguf", "chunk": 3, "tries": 1, "state": "fetched"}]},
            started_boottime_us=now + 1, written_boottime_us=now + ALWAYS)
    wait_for(lambda: p.status().get("repairs"), what="the picture")
    return p


def test_all_show_the_same(streaming):
    p = streaming
    status, told, numbers, shown = p.status(), tb_status(p, "--json"), metrics(p), page(p)
    assert figures(status) == figures(told)
    assert figures(status) == {
        "hydrate": {"bytes_done": 3 << 30, "bytes_total": 4 << 30, "percent": 75, "bytes_per_second": 100 << 20, "seconds_left": 11},
        "decrypt": {"bytes_done": 1 << 30, "bytes_total": 4 << 30, "percent": 25, "bytes_per_second": 50 << 20, "seconds_left": 62},
        "source": {"mirror": "fails", "mirror_bytes": 2 << 30, "storage_bytes": 1 << 30},
        "delivery": {"mode": "view", "read_bytes": 512 << 20, "served_bytes": 700 << 20, "memory_bytes": 96 << 20, "cache_bytes": 128 << 20},
        "repairs": {"waiting": 1, "fetched": 2, "records": [{"file": "sub/<model>.gguf", "chunk": 17, "tries": 2, "state": "waiting"},
                                                            {"file": "sub/<model>.gguf", "chunk": 3, "tries": 1, "state": "fetched"}]}}
    for step in ("hydrate", "decrypt"):
        names = {"tb_step_done_bytes": "bytes_done", "tb_step_size_bytes": "bytes_total", "tb_step_bytes_per_second": "bytes_per_second",
                 "tb_step_left_seconds": "seconds_left"}
        assert {m: numbers[f'{n}{{step="{step}"}}'] for n, m in names.items()} == {m: status[step][m] for m in names.values()}
    for name, member in (("read_bytes", "read_bytes"), ("served_bytes_total", "served_bytes"), ("memory_bytes", "memory_bytes"), ("cache_bytes", "cache_bytes")):
        assert numbers[f"tb_model_{name}"] == status["delivery"][member]
    assert [numbers[f'tb_download_source_bytes{{source="{s}"}}'] for s in ("mirror", "storage")] == [2 << 30, 1 << 30] and numbers["tb_mirror_used"] == 0
    assert (numbers["tb_records_waiting"], numbers["tb_records_fetched_again_total"]) == (1, 2)
    said = {"hydrate": "3.0 GiB of 4.0 GiB", "hydrate_more": "downloading, 100.0 MiB/s, 11 s left", "decrypt": "1.0 GiB of 4.0 GiB",
            "decrypt_more": "serving, 50.0 MiB/s, 1 min left", "read": "512.0 MiB of 4.0 GiB", "source": "2.0 GiB",
            "source_more": "2.0 GiB from the mirror, 1.0 GiB from the storage; the mirror fails, and the storage gives what it does not", "memory": "96.0 MiB of at most 128.0 MiB",
            "records": "1 being fetched once more, 2 were",
            "records_more": "chunk 17 of sub/&lt;model&gt;.gguf (waiting, try 2), chunk 3 of sub/&lt;model&gt;.gguf (done)"}
    assert {k: shown[k] for k in said} == said
    text = " ".join(tb_status(p).split())
    for k, v in said.items():
        if k.endswith("_more") and "left" in v:
            v = v.split(", ", 1)[1]  # a line of its own
        assert v.replace("&lt;", "<").replace("&gt;", ">") in text, (k, text)
    assert "records" not in json.loads(p.ask("GET", "/status")[1])["repairs"], "strangers see names of files"


def test_all_say_why_it_is_no_view(make):  # noqa: F811
    p, now = make().start(wait="Boot"), boottime_us()
    p.lease()
    why = "user namespaces are forbidden (Operation not permitted)"
    p.write("tb-hydrate", "progress.json", state="complete", bytes_done=9, bytes_total=9)
    p.write("tb-decrypt", "progress.json", state="decrypting", bytes_done=3, bytes_total=9, started_boottime_us=now + 1)
    p.write("tb-runtime", "delivery.json", state="delivering", mode="dir", no_view=why, started_boottime_us=now, written_boottime_us=now)
    wait_for(lambda: p.status().get("delivery"), what="the delivery")
    assert p.status()["delivery"]["no_view"] == why == tb_status(p, "--json")["delivery"]["no_view"]
    said = f"mode dir, as no view can be had: {why}"
    assert f"delivering, {said}" in " ".join(tb_status(p).split()) and page(p)["memory_more"] == f"decrypted, for {said}"
    assert page(p)["source"] == "0 B" and 'data-c="source_class" class="absent"' in p.ask_health("/")[1].decode()


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_it_fits_the_width(streaming, columns):
    text = tb_status(streaming, columns=columns).split("\nUnits")[0]
    assert "100.0 MiB/s" in text and max(map(len, text.splitlines())) <= columns, text


def test_a_writer_that_says_nothing_more_has_no_speed(streaming):
    p, now = streaming, boottime_us()
    p.write("tb-hydrate", "progress.json", state="downloading", bytes_done=3 << 30, bytes_total=4 << 30, bytes_per_second=100 << 20,
            started_boottime_us=1, written_boottime_us=now - 10 * 10**6)
    wait_for(lambda: "bytes_per_second" not in p.status()["hydrate"], what="the new file")
    assert "seconds_left" not in tb_status(p, "--json")["hydrate"] and page(p)["hydrate_more"] == "downloading"
    assert metrics(p)['tb_step_bytes_per_second{step="hydrate"}'] == 0


def shown(p):
    """The attestation in all of them; they agree."""
    status, told = p.status()["attestation"], tb_status(p, "--json")["attestation"]
    assert status == told
    fields, text = page(p), p.ask_health("/metrics")[1].decode()
    assert int(re.search(r"^tb_attestation_refused (\d)$", text, re.M)[1]) == ("refused" in status)
    assert (re.search(r'^tb_attested_timestamp_seconds\{level="(\w+)"\}', text, re.M) or [0, None])[1] == status.get("level")
    if "refused" in status:
        assert fields["attested"] == "refused" and status["refused"] in fields["attested_more"] and status["remedy"] in fields["attested_more"]
        assert status["remedy"] in " ".join(tb_status(p).split())
    return status, fields


ATTESTED = {"level": "image", "image": "acme-llm", "version": "1.3.0", "at": "2026-01-08T10:00:00Z"}


def test_attestation_is_shown(make):  # noqa: F811
    p = make().start(wait="Boot")
    p.lease(attested=ATTESTED)
    p.wait_state("Hydrate")
    status, fields = shown(p)
    assert status == ATTESTED and (fields["attested"], fields["attested_more"]) == ("level image", "acme-llm 1.3.0, 2026-01-08 10:00:00 UTC")
    assert "attested level image, image acme-llm 1.3.0, shown " in " ".join(tb_status(p).split())
    p.lease(state="denied", reason="image_revoked: acme-llm 1.3.0", attested=ATTESTED)
    p.wait_state("Suspended")
    status, fields = shown(p)
    assert {**ATTESTED, "refused": "image_revoked: acme-llm 1.3.0", "remedy": status["remedy"]} == status and "newer version" in status["remedy"]
    p.lease(state="denied", reason="contract_revoked", attested=ATTESTED)
    wait_for(lambda: p.status()["reason"] == "contract_revoked", what="another reason")
    assert "refused" not in shown(p)[0]


def test_each_reason_has_a_remedy(make):  # noqa: F811
    """Each that docs/attestation.md names."""
    codes = re.findall(r"^\| `((?:attestation|image|secure_boot)_\w+)` \|", (REPO / "docs/attestation.md").read_text(), re.M)
    assert len(codes) >= 11
    p = make().start(wait="Boot")
    for code in codes:
        p.lease(state="denied", reason=code + ": <why>")
        wait_for(lambda: p.status()["reason"].startswith(code), what=code)
        attestation = p.status()["attestation"]
        assert attestation["refused"] == code + ": <why>" and len(attestation["remedy"]) > 30


class Watch:
    """A download on a slow link that stops at a gate, a delivery behind it, tb-proxy beside it; and somebody who looks on all the time."""

    def __init__(self, house):  # noqa: F811
        self.house, self.w, self.rig = house, house.w, house.rig
        self.proxy, self.gate, self.seen, self.over = Proxy(house.rig.tmp), threading.Event(), [], threading.Event()
        self.thread = threading.Thread(target=self.look_on)
        self.proxy.lease()
        self.proxy.start(wait=None)
        self.thread.start()

    def look_on(self):
        while not self.over.wait(0.05):
            try:
                self.seen.append(self.proxy.status())
            except (OSError, ValueError, http.client.HTTPException):
                continue  # it is being restarted

    def begin(self, mode, first=16):
        starts = [str(i * RANGE) for i in range(SIZE // RANGE + 1)]
        self.w.proxy.rule(fp.hold(self.gate), path="model.tbenc$", range=f"^bytes=({'|'.join(starts[first:])})-")
        self.w.proxy.rule(fp.drip(RANGE // 8, 0.05), path="model.tbenc$", range=f"^bytes=({'|'.join(starts[:first])})-")
        self.mode = mode
        self.start_hydrate()
        self.hydrate.wait_notify("READY")
        self.start_delivery()

    def start_hydrate(self):
        self.hydrate = self.w.start()

    def start_delivery(self):
        out = self.rig.tmp / "reader"
        out.mkdir(exist_ok=True)
        command = f"{sys.executable} {self.rig.script('reader.py', READER)} {{model}} {out} plain"
        self.load = self.rig.load("view", command) if self.mode == "view" else self.rig.probe(wrapper=NO_MOUNT)
        self.decrypt = self.rig.decrypt(self.house.asset)
        self.decrypt.start(), self.load.start()

    def is_over(self):
        """The end, and that all that was seen made sense."""
        self.gate.set()
        assert self.hydrate.wait() == 0 and self.decrypt.wait() == 0
        if self.mode == "view":
            assert self.load.wait() == 0
        wait_for(lambda: self.proxy.status()["hydrate"].get("percent") == 100, what="the last figures")
        last = tb_status(self.proxy, "--json")
        self.seen.append(self.proxy.status())
        self.over.set()
        self.thread.join()
        assert len(self.seen) > 3
        for s in self.seen:
            for k, size in (("hydrate", len(self.w.data)), ("decrypt", len(self.house.asset.plain))):
                step = s[k]
                assert step["bytes_total"] in (0, size) and 0 <= step["bytes_done"] <= step["bytes_total"], s
                assert 0 <= step.get("percent", 0) <= 100 and 0 <= step.get("bytes_per_second", 0) <= 1 << 30, s
                assert (step.get("percent") == 100) <= (step["bytes_done"] == step["bytes_total"]), s
                assert step.get("seconds_left", 0) >= 0 and ("seconds_left" not in step or step["bytes_per_second"] > 0), s
            d = s.get("delivery", {})
            assert d.get("read_bytes", 0) <= len(self.house.asset.plain) and d.get("memory_bytes", 0) <= len(self.house.asset.plain), s
        return last

    def close(self):
        self.gate.set()
        self.over.set()
        self.thread.join()
        self.proxy.stop()


@pytest.fixture
def watch(house):  # noqa: F811
    house.asset = Asset(random.Random(31).randbytes(SIZE), chunk_bytes=RECORD)
    house.upload(house.asset)
    house.w.env.update(TB_DOWNLOAD_CHUNK_BYTES=str(RANGE), TB_DOWNLOAD_CONCURRENCY="2")
    w = Watch(house)
    yield w
    w.close()


@pytest.mark.parametrize("mode", ["view", "dir"])
def test_the_middle_of_a_slow_download(watch, mode):
    watch.begin(mode)

    # Of what was seen, not of now: on a busy machine the delivery may begin when no bytes are coming any more.
    s = wait_for(lambda: next((s for s in watch.seen if s["hydrate"].get("bytes_per_second", 0) > 0 and 0 < s["hydrate"].get("percent", 0) < 100), None),
                 what="the middle of the download")
    assert s["hydrate"]["seconds_left"] > 0 and s["state"] == "Hydrate"
    # The gate holds what follows: nothing comes any more, and that is said, not an old speed.
    s = wait_for(lambda: (s := watch.proxy.status())["hydrate"].get("bytes_per_second") == 0 and s, 60, "a link that stands")
    assert "seconds_left" not in s["hydrate"]
    assert "no bytes are coming" in " ".join(tb_status(watch.proxy).split())
    s = wait_for(lambda: (s := watch.proxy.status())["decrypt"]["bytes_done"] and s, what="the delivery behind it")
    assert s["decrypt"]["bytes_done"] <= s["hydrate"]["bytes_done"] <= 16 * RANGE + 8 * RANGE
    assert s["delivery"]["mode"] == mode and s["state"] == "Hydrate"
    if mode == "view":
        s = wait_for(lambda: (s := watch.proxy.status())["delivery"].get("read_bytes", 0) >= 3 * RECORD and s, what="what the runtime has read")
        assert s["delivery"]["read_bytes"] <= s["decrypt"]["bytes_done"] and 0 < s["delivery"]["memory_bytes"] <= s["delivery"]["cache_bytes"]
    else:
        assert "read_bytes" not in s["delivery"] and s["delivery"]["memory_bytes"] == s["decrypt"]["bytes_done"]
    last = watch.is_over()
    assert last["hydrate"]["percent"] == 100 and "repairs" not in last
    if mode == "view":  # the reader has had all of it, and with it the mount went, and what was in memory
        assert last["delivery"]["read_bytes"] == SIZE and last["delivery"]["memory_bytes"] == 0


def test_a_record_that_is_mended_is_seen(watch):
    """Chunk 2 comes wrong. It shows while it is waited for, with its name, and afterwards."""
    mend = threading.Event()
    watch.w.proxy.rule(fp.hold(mend), path="model.tbenc$", range=f"^bytes={place(2)}-{place(2) + ON_DISK - 1}$")
    watch.w.proxy.rule(fp.corrupt(5000), path="model.tbenc$", range=f"^bytes={9 * RANGE}-", nth=1)
    watch.begin("view")
    try:
        s = wait_for(lambda: (s := watch.proxy.status()).get("repairs", {}).get("waiting") and s, what="the repair")
        want = {"file": "model.tbenc", "chunk": 2, "tries": 1}
        assert s["repairs"] == {"waiting": 1, "fetched": 0, "records": [{**want, "state": "waiting"}]}
        assert "1 being fetched once more: chunk 2 of model.tbenc (waiting)" in " ".join(tb_status(watch.proxy).split())
        assert metrics(watch.proxy)["tb_records_waiting"] == 1 and page(watch.proxy)["records"] == "1 being fetched once more"
    finally:
        mend.set()
        watch.gate.set()  # while it is closed, tb-hydrate's connections may all be held there
    wait_for(lambda: watch.proxy.status()["repairs"] == {"waiting": 0, "fetched": 1, "records": [{**want, "state": "fetched"}]}, what="the record")
    last = watch.is_over()
    assert last["repairs"]["fetched"] == 1 and last["repairs"]["records"] == [{**want, "state": "fetched"}]


def test_what_is_mended_after_the_download_is_seen(watch):
    """A record that rotted on the disk: tb-hydrate is started for it alone, and the download stays whole in the picture."""
    assert watch.w.run()[0] == 0
    rot(watch.house.file, place(2) + 10)
    mend = threading.Event()
    watch.w.proxy.rule(fp.hold(mend), path="model.tbenc$", range=f"^bytes={place(2)}-{place(2) + ON_DISK - 1}$")
    watch.mode = "view"
    watch.start_delivery()
    wait_for(lambda: (watch.rig.run / "tb-decrypt/repair").exists(), what="the call")
    watch.start_hydrate()  # as its unit is started by tb-wish.path
    s = wait_for(lambda: (s := watch.proxy.status())["hydrate"].get("state") == "mending" and s.get("repairs") and s, what="the mending")
    assert s["hydrate"]["percent"] == 100 and s["repairs"]["waiting"] == 1
    assert "Fetching damaged records" in page(watch.proxy)["sentence"]
    mend.set()
    watch.is_over()


@pytest.mark.parametrize("who", ["hydrate", "decrypt", "load", "proxy"])
def test_a_restart_in_the_middle(watch, who):
    """What had come is in the picture again, and nothing in it is absurd on the way."""
    watch.begin("view")
    wait_for(lambda: watch.proxy.status()["decrypt"]["bytes_done"] >= 3 * RECORD, what="the middle")
    there = watch.proxy.status()["hydrate"]["bytes_done"]
    if who == "proxy":
        watch.proxy.daemon.kill()
        watch.proxy.daemon.start()
        s = wait_for(lambda: (s := watch.proxy.status())["decrypt"]["bytes_done"] and s, what="the picture of before")
        assert s["hydrate"]["bytes_done"] >= there
    elif who == "hydrate":
        watch.hydrate.kill()
        watch.start_hydrate()
        # tb-hydrate notes what came each second or when a range is whole: of two that were on their way some is fetched again
        s = wait_for(lambda: (s := watch.proxy.status())["hydrate"]["state"] == "downloading" and s["hydrate"]["percent"] > 0 and s, what="the download")
        assert s["hydrate"]["bytes_done"] >= there - 4 * RANGE
    else:
        {"decrypt": watch.decrypt, "load": watch.load}[who].kill()
        watch.load.kill() if who == "decrypt" else watch.decrypt.wait()
        watch.start_delivery()
        wait_for(lambda: watch.proxy.status()["decrypt"]["bytes_done"] >= 2 * RECORD, what="the next delivery")
        assert watch.proxy.status()["hydrate"]["bytes_done"] >= there
    last = watch.is_over()
    assert last["hydrate"]["percent"] == 100 and last["delivery"]["read_bytes"] == SIZE
