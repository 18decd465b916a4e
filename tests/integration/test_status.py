# SPDX-License-Identifier: Apache-2.0
"""tb-status over files as the daemons leave them, with a health port of the test's own."""

import datetime
import http.server
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest
from tbsys import free_port, program, wait_for


def later(seconds):
    t = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return t.strftime("%Y-%m-%dT%H:%M:%SZ")


class Machine:
    """A TB_RUN_DIR, and a health port that says what .status holds (None: nobody listens)."""

    def __init__(self, run):
        self.run, self.status, self.server = run, None, None
        self.env = {"TB_RUN_DIR": str(run), "TB_HEALTH_ADDR": f"127.0.0.1:{free_port()}", "PATH": "/usr/bin:/bin",
                    **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def write(self, path, doc):
        p = self.run / path
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(doc if isinstance(doc, str) else json.dumps(doc))

    def lease(self, state="authorized", **kw):
        boot = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1e6)
        self.write("tb-authorize/lease.json", {"state": state, "reason": "", "contract_id": "c-1", "asset_id": "a-1",
                                               "expires_at": later(3630), "deadline_boottime_us": boot + 90030 * 10**6,
                                               "renewed_at": later(-5), **kw})

    def answer(self, **status):
        machine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(machine.status).encode()
                self.send_response(200 if self.path == "/status" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass
        self.status = {"contract_id": "c-1", "asset_id": "a-1", "reason": "", "since": later(-60), "uptime_seconds": 61,
                       "requests_processed": 7, **status}
        if not self.server:
            self.server = http.server.ThreadingHTTPServer(("127.0.0.1", int(self.env["TB_HEALTH_ADDR"].split(":")[1])), Handler)
            threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def silence(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def see(self, *args, want=None, **env):
        r = subprocess.run([program("tb-status"), *args], capture_output=True, text=True, env={**self.env, **env}, timeout=20)
        assert want is None or r.returncode == want, (r.returncode, r.stdout, r.stderr)
        assert want is None or not r.stderr, r.stderr
        return r.stdout

    def json(self, want=None):
        return json.loads(self.see("--json", want=want))


@pytest.fixture
def machine(tmp_path):
    m = Machine(tmp_path / "run")
    yield m
    m.silence()


def complete(machine, size=4096):
    machine.lease()
    machine.write("tb-hydrate/progress.json", {"state": "complete", "bytes_done": size, "bytes_total": size})
    machine.write("tb-decrypt/progress.json", {"state": "complete", "bytes_done": size, "bytes_total": size})
    machine.write("tb-runtime/delivery.json", {"state": "delivered", "mode": "dir", "pid": 1})


def test_where_there_is_no_terminal_columns_counts(machine):
    """tb-support needs whole words: a secret that a line's end cuts is not known as one."""
    word = "https://cp.example/" + "x" * 150
    machine.lease("unreachable", reason=word)
    assert word not in machine.see() and word in machine.see(COLUMNS="100000")
    assert max(map(len, machine.see(COLUMNS="junk").splitlines())) <= 80


CONTROLS = "\x07\x1b]0;x\x07\x1b[31m\x7f\x85\x9b2J\u202e\u2066\u200f\n"


def test_what_a_server_said_cannot_drive_the_terminal(machine):
    """C0 and C1 controls, and characters that reorder what stands around them, in every text that comes from elsewhere."""
    def clean(text):
        return not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", text)
    machine.lease("unreachable", reason=CONTROLS + "lease")
    for name in ("tb-hydrate/progress.json", "tb-decrypt/progress.json", "tb-runtime/delivery.json"):
        machine.write(name, {"state": "\x1b[31m\x9b", "reason": CONTROLS + "step", "mode": "\x9b1", "bytes_done": 1, "bytes_total": 2})
    machine.write("tb-authorize/suspended", {"reason": CONTROLS + "flag", "since": "\x9b1m"})
    screens = [machine.see(), machine.see("--json")]
    machine.answer(state="Hydrate", reason=CONTROLS + "answer", contract_id="c\x9b1", asset_id="a\u202e")
    screens += [machine.see(), machine.see("--json")]
    assert all(clean(text) for text in screens), screens
    assert "flag" in screens[0] and "answer" in screens[2]
    assert json.loads(screens[1])["lease"]["reason"].endswith("lease")


def test_ready(machine):
    complete(machine)
    machine.answer(state="Ready")
    text = machine.see(want=0)
    for want in ("TrustBridge Ready", "c-1", "a-1", "expires in 1 h 0 min", "grace ends in 1 d 1 h", "100 % 4.0 KiB, complete",
                 "delivered, mode dir", "7 since tb-proxy started"):
        assert want in " ".join(text.split()), text
    assert "What is wrong" not in text and "\033" not in text and max(map(len, text.splitlines())) <= 80
    doc = machine.json(want=0)
    assert doc["ready"] is True and doc["requests_processed"] == 7 and doc["problems"] == []
    assert doc["delivery"] == {"state": "delivered", "mode": "dir", "writer_dead": False, "written_at": doc["delivery"]["written_at"],
                               "memory_bytes": 4096}


def test_a_dead_proxy_is_never_ready(machine):
    complete(machine)
    machine.answer(state="Ready")
    machine.see(want=0)
    machine.silence()
    doc = machine.json(want=3)
    assert doc["state"] == "Down" and doc["ready"] is False and "requests_processed" not in doc
    assert machine.env["TB_HEALTH_ADDR"] in doc["problems"][0]["what"]


def test_progress_and_a_file_its_writer_left_behind(machine):
    machine.lease()
    machine.write("tb-hydrate/progress.json", {"state": "downloading", "bytes_done": 1 << 30, "bytes_total": 4 << 30})
    machine.answer(state="Hydrate", reason="downloading")
    text = machine.see(want=3)
    assert "[#####...............]  25 %  1.0 GiB of 4.0 GiB, downloading" in text and "What is wrong" not in text
    old = time.time() - 3 * 3600
    os.utime(machine.run / "tb-hydrate/progress.json", (old, old))
    text = machine.see(want=3)
    assert "last written 3 h 0 min ago" in text and "dead or stuck" in " ".join(text.split())


def test_suspended_failed_and_pending(machine):
    machine.lease("denied", reason="contract_revoked", expires_at=None)
    machine.write("tb-authorize/suspended", {"reason": "contract_revoked", "since": later(-30)})
    doc = machine.json(want=3)
    assert (doc["state"], doc["reason"]) == ("Suspended", "contract_revoked")
    assert "then ask the provider" in " ".join(machine.see().split())
    (machine.run / "tb-authorize/suspended").unlink()
    machine.lease("pending", reason="https://cp: refused", expires_at=None, deadline_boottime_us=None)
    assert machine.json(want=3)["state"] in ("Authorize", "Suspended")
    machine.write("tb-authorize/lease.json", {"state": "pending", "reason": "https://cp: refused"})
    assert machine.json(want=3)["state"] == "Authorize"
    machine.lease()
    machine.write("tb-hydrate/progress.json", {"state": "failed", "bytes_done": 0, "bytes_total": 0, "reason": "404 for model.tbenc"})
    assert "! tb-hydrate.service: 404 for model.tbenc" in machine.see(want=3)


def test_nothing_there(machine):
    assert machine.json(want=4)["state"] == "Unknown"
    assert "nothing of TrustBridge" in machine.see(want=4)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 5}', "\x00", "x" * 70000])
def test_a_broken_file_is_named_and_permits_nothing(machine, content):
    machine.write("tb-authorize/lease.json", content)
    doc = machine.json(want=3 if content != '{"state": 5}' else 4)
    assert doc["ready"] is False
    if content != '{"state": 5}':
        assert "tb-authorize/lease.json" in doc["problems"][-1]["what"]


def reachable(directory):
    """A copy that any user can execute, wherever this repository lies."""
    return shutil.copy(program("tb-status"), directory)


def test_an_unreadable_file_of_another_user(machine):
    with tempfile.TemporaryDirectory() as d:  # pytest's own directories are root's alone
        os.chmod(d, 0o755)
        machine.run = pathlib.Path(d)
        machine.env["TB_RUN_DIR"] = d
        complete(machine)
        (machine.run / "tb-authorize/lease.json").chmod(0)
        r = subprocess.run([reachable(d)], capture_output=True, text=True, env=machine.env, user=65534, group=65534, extra_groups=[])
    assert r.returncode == 3 and "lease.json cannot be read: Permission denied" in r.stdout


def test_the_health_port_of_somebody_else(machine):
    complete(machine)
    machine.answer(state="Ready")
    machine.status = {"hello": "world"}
    doc = machine.json(want=3)
    assert doc["state"] == "Down" and "is not tb-proxy" in doc["problems"][0]["what"]


def test_a_proxy_for_the_web_is_not_used(machine):
    complete(machine)
    machine.answer(state="Ready")
    machine.see(want=0, http_proxy="http://127.0.0.1:9")


def test_check_is_a_plugin_of_a_monitoring_system(machine):
    """One line, figures, and the exit status that goes with the word; a wrong command line is UNKNOWN, never an alarm."""
    assert machine.see("--check", want=3).startswith("TRUSTBRIDGE UNKNOWN: Unknown, nothing of TrustBridge")
    complete(machine)
    machine.answer(state="Ready")
    line = machine.see("--check", want=0)
    assert re.fullmatch(r"TRUSTBRIDGE OK: Ready, 7 requests, may serve for 1 d 1 h \| requests=7c lease=\d+s grace=\d+s;3600:;1:\n", line), line
    machine.lease("unreachable", reason="https://cp: refused")
    assert machine.see("-c", want=1).startswith("TRUSTBRIDGE WARNING: Ready, the control plane does not answer: https://cp: refused -> ")
    machine.silence()
    assert machine.see("--check", want=2).startswith("TRUSTBRIDGE CRITICAL: Down, tb-proxy does not answer")
    machine.answer(state="Hydrate", reason="downloading")
    machine.lease()
    assert machine.see("--check", want=1).startswith("TRUSTBRIDGE WARNING: Hydrate, downloading")
    for args in (["--check", "--json"], ["--check", "--watch"], ["--check", "extra"], ["--check", "--nonsense"]):
        r = subprocess.run([program("tb-status"), *args], capture_output=True, text=True, env=machine.env)
        assert r.returncode == 3 and not r.stdout and r.stderr.startswith(("tb-status: ", program("tb-status")))


@pytest.mark.parametrize("args", [["--nonsense"], ["extra"], ["--watch=0"], ["--watch=x"]])
def test_wrong_command_lines(machine, args):
    r = subprocess.run([program("tb-status"), *args], capture_output=True, text=True, env=machine.env)
    assert r.returncode == 2 and r.stderr.startswith(("tb-status: ", program("tb-status"))) and not r.stdout


def test_help_and_a_full_disk(machine):
    text = machine.see("--help", want=0)
    assert text.startswith("Usage: tb-status") and "tb-status(8)" in text
    with open("/dev/full", "w") as full:
        r = subprocess.run([program("tb-status")], stdout=full, stderr=subprocess.PIPE, env=machine.env)
    assert r.returncode == 1 and b"cannot write" in r.stderr


def test_watch_in_a_pipe_prints_changes_only(machine):
    machine.lease()
    machine.write("tb-hydrate/progress.json", {"state": "downloading", "bytes_done": 0, "bytes_total": 4096})
    machine.answer(state="Hydrate", reason="downloading")
    p = subprocess.Popen([program("tb-status"), "--watch=1"], stdout=subprocess.PIPE, text=True, env=machine.env)
    try:
        first = p.stdout.readline()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ Hydrate 0 B of 4.0 KiB \(downloading\)\n", first), first
        assert not select.select([p.stdout], [], [], 2.5)[0]  # two more looks say nothing new
        complete(machine)
        machine.status["state"], machine.status["reason"] = "Ready", ""
        assert p.stdout.readline().endswith("Z Ready\n")
    finally:
        p.send_signal(signal.SIGINT)
        assert p.wait(10) == -signal.SIGINT


def read_terminal(machine, argv, seconds_or_text, **env):
    """What a terminal gets."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, {**machine.env, "TERM": "xterm", **env})
    out = b""
    try:
        def more():
            nonlocal out
            if select.select([fd], [], [], 0.1)[0]:
                try:
                    out += os.read(fd, 65536)
                except OSError:
                    return True
            return out.count(seconds_or_text) >= 2
        wait_for(more, 20, "the screen")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)
    return out


def test_a_terminal_gets_colours_and_is_redrawn_in_place(machine):
    complete(machine)
    machine.answer(state="Ready")
    tb = program("tb-status")
    out = read_terminal(machine, [tb, "--watch=1"], b"\033[H")
    assert out.count(b"\033[2J") == 1 and b"\033[1;32mReady\033[0m" in out
    assert b"\033" not in read_terminal(machine, [tb], b"never", NO_COLOR="1")
    assert b"\033" not in read_terminal(machine, [tb], b"never", TERM="dumb")


def test_a_low_window_keeps_its_head(machine):
    complete(machine)
    machine.answer(state="Ready")
    out = read_terminal(machine, ["/bin/sh", "-c", f"stty rows 5 cols 60; exec {program('tb-status')} --watch=1"], b"\033[H").decode()
    first = out.split("\033[H")[1]
    assert "Ready" in first and first.count("\n") == 4 and "Units" not in first, first


def test_watch_json_is_a_line_each_time(machine):
    complete(machine)
    machine.answer(state="Ready")
    p = subprocess.Popen([program("tb-status"), "--watch=1", "--json"], stdout=subprocess.PIPE, text=True, env=machine.env)
    try:
        assert [json.loads(p.stdout.readline())["state"] for _ in range(2)] == ["Ready", "Ready"]
    finally:
        p.kill()
        p.wait()
