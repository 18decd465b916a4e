# SPDX-License-Identifier: Apache-2.0
"""tbpkg encrypt --upload that goes on after an earlier run: with a model that changed, a journal that is not
what it was, a key that is gone."""

import base64
import json
import subprocess
import threading

import pytest

from faultproxy import hold, status, swallow
from stream_place import BLOCK, COMMIT, N_BLOCKS, PUT_BLOCK, azurite, place  # noqa: F401
from tbpkg_local import open_by_hand


# -- a model that changed ----------------------------------------------------------------------------------------------

def sent_by_index(place):
    return {int(base64.b64decode(rq.args["blockid"]).decode()[4:9]) for rq in place.proxy.select(**PUT_BLOCK)}


@pytest.mark.parametrize("n", [1, 2, 4, 7, N_BLOCKS])
def test_what_was_sent_and_changed_means_a_new_key(place, n):
    """A byte that has left under a key never has another value under it."""
    assert place.killed(n, PUT_BLOCK, and_until=lambda: 0 in sent_by_index(place)) == -9
    (old,) = place.key_files()
    place.flip("a.bin", 17)  # in the first block, which was sent
    r = place.run("--json")
    assert "starting again under a new key" in r.stderr and "block 0 differs" in r.stderr
    assert place.check_stored() != old and set(place.key_files()) > {old}, "the old key is kept"
    sessions = place.check_sent()
    assert len(sessions[0]) == 2


def test_what_was_not_sent_may_change(place):
    assert place.killed(2, PUT_BLOCK) == -9
    (old,) = place.key_files()
    recorded = {int(line.split()[1]) for line in place.journal.read_text().splitlines() if line.startswith("B ")}
    assert max(recorded) < N_BLOCKS - 1 and sent_by_index(place) <= recorded
    place.flip("b.bin", -1)
    assert "new key" not in place.run().stderr
    assert place.check_stored() == old
    place.check_sent()


@pytest.mark.parametrize("change", ["longer", "shorter", "moved", "file", "chunk"])
def test_another_layout_means_a_new_key(place, change):
    """Which record a byte belongs to, and so its nonce, depends on the sizes of all files before it."""
    assert place.killed(4, PUT_BLOCK) == -9
    (old,) = place.key_files()
    more = []
    a, b = place.model / "a.bin", place.model / "b.bin"
    if change == "longer":
        b.write_bytes(b.read_bytes() + b"\0")
    elif change == "shorter":
        b.write_bytes(b.read_bytes()[:-1])
    elif change == "moved":
        a.write_bytes(a.read_bytes() + b"\0")
        b.write_bytes(b.read_bytes()[:-1])
    elif change == "file":
        (place.model / "c").write_bytes(b"")
    else:
        more = ["-c", "64K"]
    assert "starting again under a new key" in place.run(*more).stderr
    assert place.check_stored() != old
    place.check_sent()


def test_a_complete_asset_keeps_its_key(place):
    """Its key may be in use: another model under the same names is refused, and nothing of it leaves."""
    key = place.report()["key_id"]
    stored, sent = place.blob(), place.proxy.count(**PUT_BLOCK)
    place.flip("a.bin", 5)
    r = place.run(rc=1)
    assert "is not what asset" in r.stderr and "block 0 differs" in r.stderr
    assert place.blob() == stored and place.proxy.count(**PUT_BLOCK) == sent and list(place.key_files()) == [key]
    place.flip("a.bin", 5)
    place.report()  # the same bytes at another time: compared, and nothing sent
    assert place.proxy.count(**PUT_BLOCK) == sent
    place.flip("a.bin", 5)
    place.run("--force")
    second = place.check_stored()
    assert second != key and key in place.key_files() and place.blob() == stored and place.blob(aside=second), "it lies beside the first"
    sent = place.proxy.count(**PUT_BLOCK)
    place.report()
    assert place.proxy.count(**PUT_BLOCK) == sent
    place.run("--force", "--overwrite")
    assert place.check_stored() not in (key, second) and place.blob() != stored
    place.check_sent()


def test_a_second_version_goes_on_where_it_was_begun(place):
    """Beside the first, after a kill at any block and after the end."""
    place.report()
    first = place.blob()
    place.flip("a.bin", 5)
    place.killed(3, PUT_BLOCK, more=("--force",))
    begun, = set(place.key_files()) - {json.loads(place.blob("model.manifest.json"))["key_id"]}
    before = place.proxy.count(**PUT_BLOCK)
    report = place.report("--force")
    assert report["key_id"] == begun == place.check_stored() and place.blob() == first
    assert f"/{begun}/model.tbenc" in json.dumps(report), report
    place.check_sent()
    sent = place.proxy.count(**PUT_BLOCK)
    assert sent > before and place.report() and place.proxy.count(**PUT_BLOCK) == sent


def test_a_model_that_is_only_touched(place):
    """Compared once for each time, and the journal does not grow by a manifest."""
    place.report()
    before, puts = place.journal.stat().st_size, place.proxy.count(method="PUT")
    (place.model / "a.bin").touch()
    assert place.report()["seconds"] > 0 and place.report()["seconds"] == 0
    assert place.journal.stat().st_size - before < 100 and place.proxy.count(method="PUT") == puts


def test_the_same_asset_into_another_container(place):
    """From the model again, and block by block the same."""
    key, stored = place.report()["key_id"], place.blob()
    if place.azurite.get_blob("elsewhere/x") is None:
        place.azurite.create_container("elsewhere")
    r = place.report("-C", "elsewhere")
    assert r["key_id"] == key and place.azurite.get_blob(f"elsewhere/{place.asset}/model.tbenc") == stored
    place.check_sent()


def test_a_model_that_changes_while_it_is_sent(place):
    gate = threading.Event()
    place.proxy.rule(hold(gate), nth=2, **PUT_BLOCK)
    p = subprocess.Popen(place.argv(), env=place.env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    place.proxy.wait(2, **PUT_BLOCK)
    place.flip("a.bin", 1, keep_time=False)
    gate.set()
    err = p.communicate(timeout=60)[1]
    assert p.returncode == 1 and "changed while it was read" in err and place.blob() is None and not place.manifest.exists()
    place.run()
    place.check_stored()
    place.check_sent()


def test_an_asset_made_in_the_place_of_another_is_continued(place):
    """--force begins anew where there is a complete asset; not where the one in its place was begun."""
    place.report()
    place.flip("a.bin", 5)
    assert place.killed(6, PUT_BLOCK, more=("--force", "--overwrite")) == -9
    r = place.run("--overwrite", rc=1)
    assert "--force" in r.stderr and "was begun in its place" in r.stderr
    r = place.report("--force", "--overwrite")
    assert place.check_stored() == r["key_id"] and len(place.key_files()) == 2
    assert r["upload"]["ciphertext"]["bytes_resumed"] >= 3 * BLOCK
    place.check_sent()


def test_the_journal_of_another_asset(place):
    """It may be of a night's work, under a key that is still there."""
    place.killed(6, PUT_BLOCK)
    text, first = place.journal.read_bytes(), place.asset
    place.asset += "-b"
    r = place.run(rc=1)
    assert f"is of the upload of asset '{first}'" in r.stderr and place.journal.read_bytes() == text and len(place.key_files()) == 1
    place.asset = first
    assert place.report()["upload"]["ciphertext"]["bytes_resumed"] > 0


def test_a_file_that_has_the_name_of_the_journal(place):
    """A key of something else, say."""
    place.journal.write_text("ab" * 32 + "\n")
    r = place.run(rc=1)
    assert "is no record of an upload" in r.stderr and place.journal.read_text() == "ab" * 32 + "\n" and not place.key_files()


def test_blocks_that_expired_before_the_commit(place):
    """All is sent, and the service has dropped it: it is sent again, under the same key."""
    place.proxy.rule(status(400, body="<?xml version='1.0'?><Error><Code>InvalidBlockList</Code><Message>m</Message></Error>",
                            headers={"Content-Type": "application/xml"}), nth=1, **COMMIT)
    r = place.run(rc=1)
    assert "InvalidBlockList" in r.stderr and "run the same command again" in r.stderr
    place.azurite.put_blob(f"models/{place.asset}/model.tbenc", b"x")  # which drops what waits
    place.azurite.request("DELETE", f"models/{place.asset}/model.tbenc")
    (key,) = place.key_files()
    r = place.report()
    assert place.check_stored() == key and r["upload"]["ciphertext"]["bytes_resumed"] == 0
    place.check_sent()


# -- what is left of an earlier run ------------------------------------------------------------------------------------

def test_a_journal_that_is_damaged_counts_for_nothing(place):
    place.killed(5, PUT_BLOCK)
    text = place.journal.read_bytes()
    (old,) = place.key_files()
    place.journal.write_bytes(text.replace(b"\nB ", b"\nB\0", 1))
    place.run()
    assert place.check_stored() != old
    place.check_sent()


def test_a_journal_that_is_an_old_copy(place):
    """It lacks blocks that were sent since: the service tells."""
    place.killed(3, PUT_BLOCK)
    old = place.journal.read_bytes()
    (key,) = place.key_files()
    place.killed(1, COMMIT)  # all of them have arrived
    place.journal.write_bytes(old)
    r = place.run()
    assert "is older than what was uploaded" in r.stderr and place.check_stored() != key
    place.check_sent()


def rolled_back(place):
    """All is stored, and the output directory is as it was after three blocks; a byte that has left since is another one."""
    place.killed(3, PUT_BLOCK)
    old = place.journal.read_bytes()
    recorded = {int(line.split()[1]) for line in place.journal.read_text().splitlines() if line.startswith("B ")}
    (key,) = place.key_files()
    place.run()
    assert max(recorded) < N_BLOCKS - 1
    place.manifest.unlink()
    place.flip("b.bin", -1)
    return old, key


def test_a_journal_that_is_an_old_copy_of_a_stored_asset(place):
    """The blocks are no longer staged: they are the blob."""
    old, key = rolled_back(place)
    place.journal.write_bytes(old)
    r = place.run("--overwrite")
    assert "is older than what was uploaded" in r.stderr and place.check_stored() != key and key in place.key_files()
    place.check_sent()


@pytest.mark.parametrize("how", ["copy", "elsewhere"])
def test_a_journal_that_is_not_where_it_was_written(place, how):
    """Nothing in that container tells what has left already."""
    old, key = rolled_back(place)
    more = []
    if how == "copy":
        place.azurite.request("DELETE", f"models/{place.asset}/model.tbenc")
        place.azurite.request("DELETE", f"models/{place.asset}/model.manifest.json")
        place.journal.rename(place.dir / "original")
    else:
        more = ["-C", f"{how}-{place.asset}"]
        place.azurite.create_container(more[1])
    place.journal.write_bytes(old)
    r = place.run(*more)
    assert ("is a copy" if how == "copy" else "was begun to") in r.stderr and "starting again under a new key" in r.stderr
    m = json.loads(place.manifest.read_text())
    assert m["key_id"] != key
    place.check_sent()

def test_a_line_without_an_end(place):
    """What a killed process left of its last line: nothing of it was sent."""
    place.killed(4, PUT_BLOCK)
    (key,) = place.key_files()
    with open(place.journal, "ab") as f:
        f.write(b"B 9 0123")
    place.run()
    assert place.check_stored() == key and b"B 9 0123\n" not in place.journal.read_bytes()


def test_a_key_that_is_gone(place):
    place.killed(4, PUT_BLOCK)
    (key,) = place.key_files()
    (path,) = place.keys.iterdir()
    kept = path.rename(place.dir / "kept")
    place.killed(4, PUT_BLOCK)  # nothing that may exist needs it: a new one
    assert key not in place.key_files() and len(place.key_files()) == 1
    r = place.run("--key-file", kept, rc=1)
    assert f"holds key {key}" in r.stderr
    place.run()
    place.check_stored()
    place.check_sent()


def test_a_key_that_is_gone_and_may_be_needed(place):
    """The blob may have been made: stop, and say which key it is and where it was."""
    place.killed(1, COMMIT)
    (path,) = place.keys.iterdir()
    kept = path.rename(place.dir / "kept")
    place.flip("b.bin", -1, keep_time=False)
    r = place.run(rc=1)
    assert path.stem.rsplit("-", 1)[1] in r.stderr and str(path) in r.stderr and "--key-file" in r.stderr
    place.flip("b.bin", -1, keep_time=False)
    place.run("--key-file", kept)
    kept.rename(path)
    place.check_stored()


def test_a_key_that_is_gone_before_the_commit(place):
    """All is sealed and sent: it does not become a blob that nothing opens."""
    place.proxy.rule(status(403), **COMMIT)
    place.run(rc=4)
    place.proxy.clear_rules()
    (path,) = place.keys.iterdir()
    kept = path.rename(place.dir / "kept")
    r = place.run(rc=1)
    assert path.stem.rsplit("-", 1)[1] in r.stderr and "--key-file" in r.stderr and place.blob() is None and not place.manifest.exists()
    place.run("--key-file", kept)
    kept.rename(path)
    place.check_stored()
    assert place.proxy.count(**PUT_BLOCK) == N_BLOCKS


def test_key_for_a_recipient(place):
    subprocess.run(["age-keygen", "-o", place.dir / "identity"], check=True, capture_output=True)
    recipient = subprocess.run(["age-keygen", "-y", place.dir / "identity"], check=True, capture_output=True, text=True).stdout.strip()
    argv = place.argv
    place.argv = lambda *more: argv(*more, key_out=f"age:{recipient}")
    assert place.killed(4, PUT_BLOCK) == -9
    (sealed,) = place.dir.glob("*.key.age")
    clear = place.dir / "clear"
    clear.write_bytes(subprocess.run(["age", "-d", "-i", place.dir / "identity", sealed], check=True, capture_output=True).stdout)
    r = place.report("--key-file", clear)
    assert r["upload"]["ciphertext"]["bytes_resumed"] > 0 and r["key_recipient"] == recipient
    m = json.loads(place.manifest.read_text())
    assert open_by_hand(place.blob(), m, bytes.fromhex(clear.read_text())) == place.plain()
    place.check_sent()
    place.asset, place.manifest = place.asset + "-b", place.dir / "b.manifest.json"
    assert place.killed(4, PUT_BLOCK) == -9
    r = place.run("--json")  # without the key: from the start, under another one
    assert "starting again under a new key" in r.stderr and json.loads(r.stdout)["upload"]["ciphertext"]["bytes_resumed"] == 0
    place.check_sent()


def test_two_at_once(place):
    place.proxy.rule(swallow(), nth=range(3, 1000), **PUT_BLOCK)
    p = subprocess.Popen(place.argv("-q"), env=place.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    place.proxy.wait(3, **PUT_BLOCK)
    r = place.run(rc=1)
    assert "another tbpkg is working on this upload" in r.stderr
    p.kill()
    p.wait()
    place.proxy.clear_rules()
    place.run()
    place.check_stored()


def test_a_journal_that_does_not_reach_the_disk(place):
    """A hash that only the page cache has is lost with the power, and what left by then could be sealed otherwise: nothing leaves."""
    env = place.env()
    env["ASAN_OPTIONS"] = ":".join(filter(None, [env.get("ASAN_OPTIONS"), "detect_leaks=0"]))  # which needs ptrace itself
    r = subprocess.run(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", *place.argv()],
                       env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert r.returncode == 1 and f"{place.journal}: Input/output error" in r.stderr, r.stderr
    assert place.proxy.count(**PUT_BLOCK) == 0
    place.run()
    place.check_stored()
    place.check_sent()


def test_a_disk_that_is_full(place):
    """The journal cannot be written: nothing more is sent."""
    limit = ["/usr/bin/prlimit", "--fsize=1500"]
    r = subprocess.run([*limit, *place.argv()], env=place.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert r.returncode == 1 and str(place.journal) in r.stderr, r.stderr
    recorded = {int(line.split()[1]) for line in place.journal.read_text().splitlines(True) if line.startswith("B ") and line.endswith("\n")}
    assert sent_by_index(place) <= recorded
    place.run()
    place.check_stored()
    place.check_sent()


def test_a_blob_that_can_take_no_more_blocks(place):
    """Uploads that were begun anew leave blocks, of which the service keeps a hundred thousand."""
    place.proxy.rule(status(409, {"x-ms-error-code": "BlockCountExceedsLimit"}), nth=range(2, 1000), method="PUT", args={"comp": "block"})
    r = place.run(rc=1)
    assert "409 BlockCountExceedsLimit" in r.stderr and "store any small blob there and delete it" in r.stderr and "wait a week" in r.stderr
    assert place.blob() is None and not place.manifest.exists() and place.key_files()
    place.proxy.clear_rules()
    place.run()
    place.check_stored()
