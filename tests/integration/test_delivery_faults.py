# SPDX-License-Identifier: Apache-2.0
"""What stops a delivery: wrong settings, a peer that is not there or answers nonsense, signals to each side; and who says so."""

import hashlib
import os
import random
import signal
import subprocess

import pytest

import tbsys
from delivery_asset import Asset
from delivery_rig import FILES, NO_MOUNT, REPLY, Server, both, rig, slow_start  # noqa: F401


def test_help_and_usage():
    for name in ("tb-decrypt", "tb-load"):
        r = subprocess.run([tbsys.program(name), "--help"], capture_output=True, text=True)
        assert r.returncode == 0 and r.stdout.startswith(f"Usage: {name}") and "Exit status" in r.stdout
        assert subprocess.run([tbsys.program(name), "--nonsense"], capture_output=True).returncode == 64


@pytest.mark.parametrize("env, what", [
    ({"TB_RUNTIME_EXEC": "a 'b"}, "quote is not closed"),
    ({"TB_RUNTIME_EXEC": "/nonexistent/server {model}"}, "/nonexistent/server is not an executable file"),
    ({"TB_RUNTIME_EXEC": ""}, "TB_RUNTIME_EXEC is not set"),
    ({"TB_RUNTIME_EXEC": "no-such-server-anywhere"}, "in PATH"),
])
def test_bad_command_lines(rig, env, what):
    Asset(b"x").write(rig.target)
    load = rig.load(env=env).start()
    assert load.wait() == 78
    assert what in load.log_text() and not rig.leftovers()


def test_nothing_hydrated_yet(rig):
    load = rig.probe().start()
    assert load.wait() == 66 and "tb-hydrate" in load.log_text()
    asset = Asset(b"x" * 9000).write(rig.target)
    os.rename(rig.target / asset.name, rig.target / (asset.name + ".part"))
    decrypt = both(rig, asset, load)  # without a map nobody knows what of it came
    assert load.wait() == 66 and decrypt.wait() == 66


def test_decrypt_socket_not_there_yet(rig):
    Asset(b"x").write(rig.target)
    os.unlink(rig.run / "tb-decrypt.sock")
    load = rig.probe().start()
    assert load.wait() == 75 and "tb-decrypt.socket" in load.log_text()
    assert not rig.leftovers()


def test_stop_while_waiting_leaves_nothing(rig):
    Asset(FILES).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT).start()
    tbsys.wait_for(lambda: rig.delivery().get("state") == "delivering", what="delivering")
    assert rig.leftovers()
    assert load.stop() == -signal.SIGTERM
    assert not rig.leftovers() and rig.delivery()["state"] == "failed"


@pytest.mark.parametrize("mode", ["dir", "fifo"])
@pytest.mark.parametrize("answer, rc, what", [
    (dict(status=0, count=8999), 76, "8999 bytes"), (dict(status=3), 74, "unknown status 3"),
    (dict(status=0, count=9000, magic=b"TBDONE02"), 74, "one version"), (dict(status=66, message="no x"), 66, "tb-decrypt: no x"),
    (dict(status=77, message="m" * 480), 77, "m" * 479), (None, 75, "without an answer"),
], ids=["short", "unknown", "magic", "66", "unterminated", "none"])
def test_answers_that_are_not_success(rig, answer, rc, what, mode):
    Asset(b"x" * 9000).write(rig.target)
    load = (rig.probe(wrapper=NO_MOUNT) if mode == "dir" else rig.reader()).start()
    server = Server(rig)
    server.close()
    if answer:
        server.reply(**answer)
    server.conn.close()
    assert load.wait() == rc and what in load.log_text()
    assert not rig.leftovers() and not rig.out.exists() and rig.delivery()["state"] == "failed"


def test_answer_before_the_request_is_read(rig):
    """A server that answers and closes while messages of the client are unread resets the connection; the answer still counts."""
    Asset({f"f{i:04}": b"x" for i in range(600)}).write(rig.target)
    load = rig.probe(wrapper=NO_MOUNT).start()
    rig.listener.settimeout(30)
    conn, _ = rig.listener.accept()
    tbsys.wait_for(lambda: rig.delivery().get("state") == "delivering", what="all messages to be sent")
    conn.send(REPLY.pack(b"TBDONE01", 77, 0, 0, b"not you"))
    conn.close()
    assert load.wait() == 77 and "not you" in load.log_text()


def gone(pid):
    return not os.path.exists(f"/proc/{pid}")


def test_sigkill_of_decrypt_in_the_middle(rig):
    decrypt, load, reader = slow_start(rig)
    decrypt.kill()
    assert load.wait() == 75 and "without an answer" in load.log_text()
    assert gone(reader) and not rig.leftovers() and rig.delivery()["state"] == "failed"


def test_sigkill_of_the_reader(rig):
    decrypt, load, reader = slow_start(rig)
    os.kill(reader, signal.SIGKILL)
    assert load.wait() == 75 and decrypt.wait() == 75
    assert not rig.leftovers() and rig.progress()["state"] == "failed"


def test_sigkill_of_load(rig):
    decrypt, load, reader = slow_start(rig)
    load.kill()
    assert decrypt.wait() == 75 and "went away" in rig.progress()["reason"]
    tbsys.wait_for(lambda: gone(reader), what="the runtime to die with its parent")


def test_sigterm_of_decrypt_blocked_in_a_write(rig):
    decrypt, load, reader = slow_start(rig)
    assert decrypt.stop() == 75
    assert load.wait() == 75 and "stopped before the end" in load.log_text() and gone(reader)


def test_sigterm_of_load_stops_all(rig):
    decrypt, load, reader = slow_start(rig)
    assert load.stop() == -signal.SIGTERM
    assert decrypt.wait() == 75 and gone(reader) and not rig.leftovers()


def test_restart_after_each_sigkill_delivers(rig):
    asset = Asset(random.Random(5).randbytes(3_000_000)).write(rig.target)
    decrypt, load, _ = slow_start(rig, asset)
    load.kill()
    decrypt.kill()
    rig.out.unlink()
    load = rig.reader()
    both(rig, asset, load)
    assert load.wait() == 0 and rig.out.read_text() == hashlib.sha256(asset.plain).hexdigest()
