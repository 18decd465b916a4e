# SPDX-License-Identifier: Apache-2.0
"""What a long command tells: one line that fits a terminal of any width (tmux), events in JSON, and how an upload goes that stands still."""

import json
import os
import re
import shlex
import subprocess
import threading
import time

import pytest

import tbsys
from faultproxy import FaultProxy, delay, hold, status
from tbpkg_local import ENV

WIDTHS = [20, 21, 33, 47, 79, 80, 133]


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    a = tbsys.Azurite(tmp_path_factory.mktemp("azurite")).start()
    a.create_container("models")
    yield a
    a.stop()


_count = 0


class Place:
    def __init__(self, azurite, proxy, directory):
        global _count
        _count += 1
        self.azurite, self.proxy, self.dir, self.asset = azurite, proxy, directory, f"progress-{_count}"
        (directory / "m").write_bytes(os.urandom(3_000_000))
        (directory / "keys").mkdir()

    def argv(self, *more):
        return [tbsys.program("tbpkg"), *map(str, (
            "encrypt", "--upload", "-a", self.asset, "-s", self.azurite.account, "--endpoint", f"{self.proxy.url}/{self.azurite.account}", "-k",
            f"{self.dir}/keys/", "-m", self.dir / "m.json", "--block-bytes", "64K", "-c", "1M", "--concurrency", 2, *more, self.dir / "m"))]

    def env(self):
        return {**ENV, "AZURE_STORAGE_KEY": self.azurite.key, "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"}


@pytest.fixture
def place(azurite, tmp_path):
    with FaultProxy(azurite.endpoint) as p:
        yield Place(azurite, p, tmp_path)


class Tmux:
    """A terminal of that many columns, on a server of its own, in which one command runs."""

    def __init__(self, directory, columns, argv, env):
        self.socket = directory / "tmux"
        command = " ".join(["env", "-i", *(shlex.quote(f"{k}={v}") for k, v in env.items()), "TERM=screen", *map(shlex.quote, argv)])
        self.call("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", "12", f"{command}; echo END $?; sleep 600")

    def call(self, *words):
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        return subprocess.run(["tmux", "-S", str(self.socket), *words], check=True, capture_output=True, text=True, env=env).stdout

    def screen(self):
        return [line for line in self.call("capture-pane", "-p").split("\n") if line]

    def resize(self, columns):
        self.call("resize-window", "-x", str(columns), "-y", "12")

    def wait(self, what):
        tbsys.wait_for(lambda: any(re.search(what, line) for line in self.screen()), 30, what)
        return self.screen()

    def end(self):
        self.call("kill-server")


@pytest.mark.parametrize("columns", WIDTHS)
def test_one_line_at_every_width(place, columns):
    """And after a resize. tmux breaks the old line at once and tells the new width up to 250 ms later: what is drawn meanwhile may
    leave a row above."""
    gate = threading.Event()
    place.proxy.rule(hold(gate), nth=range(20, 10000), method="PUT")
    t = Tmux(place.dir, columns, place.argv(), place.env())
    try:
        screen = t.wait("%")
        bars = [line for line in screen if "%" in line]
        assert len(bars) == 1 and len(bars[0]) < columns, screen
        assert screen[-1] == bars[0], "the last line, and none below"
        for width in (*WIDTHS[WIDTHS.index(columns) + 1:][:1], 20, 60):
            t.resize(width)

            def settled():
                lines = [line for line in t.screen() if "%" in line or "stalled" in line]
                screen = t.screen()
                return lines and len(lines) <= 4 and len(screen[-1]) < width and re.search("%|stalled", screen[-1])
            tbsys.wait_for(settled, 20, f"a line in {width} columns")
        gate.set()
        screen = t.wait("END 0")
        assert not any("\x1b" in line for line in screen)
    finally:
        gate.set()
        t.end()


def test_an_upload_that_stands_still(place):
    place.proxy.rule(status(503), nth=range(5, 10000), method="PUT")
    t = Tmux(place.dir, 80, place.argv(), place.env())
    try:
        line = next(line for line in t.wait(r"stalled \d+ s, retrying \(\d\)") if "stalled" in line)
        assert "Uploading" in line and "%" in line
        place.proxy.clear_rules()
        t.wait("END 0")
    finally:
        t.end()


def test_a_terminal_that_can_do_nothing(place):
    """TERM=dumb gets lines, not escapes."""
    place.proxy.rule(delay(0.2), method="PUT")
    r = subprocess.run(["script", "-qec", " ".join(map(shlex.quote, place.argv())), "/dev/null"], env={**place.env(), "TERM": "dumb"},
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    assert "Uploading" in r.stdout and "\x1b" not in r.stdout


def test_events_for_a_program(place):
    place.proxy.rule(delay(0.15), method="PUT")
    r = subprocess.run(place.argv("--json"), env=place.env(), capture_output=True, text=True, timeout=60, check=True)
    events = [json.loads(line) for line in r.stderr.splitlines() if line.startswith("{")]
    assert len(events) >= 2 and [e["event"] for e in events] == ["progress"] * (len(events) - 1) + ["done"]
    assert all(e["what"] == "Uploading" and e["total"] == 3_000_092 for e in events)
    done = [e["done"] for e in events]
    assert done == sorted(done) and done[-1] == 3_000_092 and any("seconds_left" in e for e in events[:-1])
    assert json.loads(r.stdout)["asset_id"] == place.asset
    r = subprocess.run(place.argv("--json", "-q"), env=place.env(), capture_output=True, text=True, timeout=60, check=True)
    assert "{" not in r.stderr


def test_bandwidth(place):
    """3 MB at 1 MB/s: no less than the bytes need; how much longer a busy machine takes is not asked."""
    start = time.monotonic()
    subprocess.run(place.argv("-q", "--bandwidth", "1M"), env=place.env(), capture_output=True, timeout=120, check=True)
    assert time.monotonic() - start >= 2
