# SPDX-License-Identifier: Apache-2.0
"""tbpkg encrypt --upload against a real Azurite: killed at each point, with models that change between the runs. Whatever the
history, no two ciphertexts under one key differ in a byte that both have sent, and what is stored can be opened."""

import base64
import collections
import json
import os
import random
import re
import subprocess
import threading

import pytest

import tbsys
from faultproxy import FaultProxy, hold, lose_reply, reset_upload, status, swallow
from tbpkg_local import open_by_hand

BLOCK, CHUNK = 64 * 1024, 50 * 1024  # records lie across the ends of blocks
HISTORIES = int(os.environ.get("TB_UPLOAD_HISTORIES", "12"))
PUT_BLOCK = {"method": "PUT", "args": {"comp": "block"}}
COMMIT = {"method": "PUT", "args": {"comp": "blocklist"}}
MANIFEST = {"method": "PUT", "path": "manifest.json$"}


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    a = tbsys.Azurite(tmp_path_factory.mktemp("azurite")).start()
    a.create_container("models")
    yield a
    a.stop()


_count = 0


class Place:
    def __init__(self, azurite, proxy, directory, size=700_000):
        global _count
        _count += 1
        self.azurite, self.proxy, self.dir, self.asset = azurite, proxy, directory, f"stream-{_count}"
        self.model, self.keys, self.manifest = directory / "model", directory / "keys", directory / "m.manifest.json"
        self.journal = directory / "m.manifest.json.upload"
        self.model.mkdir()
        self.keys.mkdir()
        for name, n in (("a.bin", size // 3), ("b.bin", size - size // 3), ("config.json", 2)):
            (self.model / name).write_bytes(bytes(n))  # of zeros: two ciphertexts under one key would be alike in most bytes

    def argv(self, *more, key_out=None):
        return [tbsys.program("tbpkg"), *map(str, (
            "encrypt", "--upload", "-a", self.asset, "-s", self.azurite.account, "--endpoint",
            f"{self.proxy.url}/{self.azurite.account}", "-k", key_out or f"{self.keys}/", "-m", self.manifest, "--block-bytes", "64K",
            "-c", CHUNK, "--concurrency", 3, "--retries", 1, *more, self.model))]

    def env(self):
        return {"PATH": os.environ["PATH"], "AZURE_STORAGE_KEY": self.azurite.key, "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
                **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def run(self, *more, rc=0, **kw):
        r = subprocess.run(self.argv(*more, **kw), env=self.env(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert rc is None or r.returncode == rc, (r.returncode, r.stderr)
        assert "Sanitizer" not in r.stderr
        return r

    def report(self, *more, **kw):
        return json.loads(self.run("--json", *more, **kw).stdout)

    def killed(self, n, criteria, action=None, more=()):
        """Runs until the n-th such request has arrived, which is not answered; or to the end, when there are fewer."""
        gate = threading.Event()
        self.proxy.rule(action or swallow(), nth=range(n, 10000), **criteria)
        before = self.proxy.count(**criteria)
        p = subprocess.Popen(self.argv("-q", *more), env=self.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tbsys.wait_for(lambda: p.poll() is not None or self.proxy.count(**criteria) >= before + n, 30, "the request", every=0.001)
        p.kill()
        gate.set()
        self.proxy.clear_rules()
        return p.wait()

    def blob(self, name="model.tbenc"):
        return self.azurite.get_blob(f"models/{self.asset}/{name}")

    def key_files(self):
        return {f.name.rsplit("-", 1)[1].removesuffix(".key"): bytes.fromhex(f.read_text()) for f in self.keys.glob("*.key")}

    def plain(self):
        return b"".join(f.read_bytes() for f in sorted(self.model.iterdir()))

    def flip(self, name, offset, keep_time=True):
        """Another byte, and nothing that stat(2) tells."""
        path = self.model / name
        st, data = path.stat(), bytearray(path.read_bytes())
        data[offset % len(data)] ^= 1
        path.write_bytes(data)
        if keep_time:
            os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))

    def check_stored(self, model=True):
        """What is stored opens with a key that is still there, and is the model."""
        data = self.blob()
        manifest = json.loads(self.blob("model.manifest.json"))
        assert self.manifest.read_bytes() == self.blob("model.manifest.json")
        plain = open_by_hand(data, manifest, self.key_files()[manifest["key_id"]])
        assert not model or plain == self.plain()
        return manifest["key_id"]

    def check_sent(self):
        """Of all that ever left, by key and block: each byte has one value. And blocks of different keys have nothing in common:
        an id that says it is of another key when it is not would show."""
        bodies = collections.defaultdict(lambda: collections.defaultdict(list))
        for rq in self.proxy.select(**PUT_BLOCK):
            index, session = re.fullmatch(r"tb2-(\d{5})-([0-9a-f]{9})-.{22}", base64.b64decode(rq.args["blockid"]).decode()).groups()
            bodies[int(index)][session].append(rq.body)
        for index, sessions in bodies.items():
            longest = []
            for session, sent in sessions.items():
                longest.append(max(sent, key=len))
                assert all(longest[-1].startswith(b) for b in sent), (index, session)
            for i, a in enumerate(longest):
                for b in longest[:i]:
                    n = min(len(a), len(b))
                    same = sum(x == y for x, y in zip(a[64:n], b[64:n]))
                    assert n < 4096 or same < n / 20, (index, same, n)
        return bodies


@pytest.fixture
def place(azurite, tmp_path):
    with FaultProxy(azurite.endpoint, keep_bodies=True) as p:
        yield Place(azurite, p, tmp_path)


N_BLOCKS = -(-700_100 // BLOCK)


# -- the straight way --------------------------------------------------------------------------------------------------

def test_sealed_into_the_service_and_nothing_here(place):
    r = place.report()
    assert "encrypted_file" not in r and not list(place.dir.rglob("*.tbenc"))
    assert place.check_stored() == r["key_id"] and list(place.key_files()) == [r["key_id"]]
    assert place.proxy.count(**PUT_BLOCK) == N_BLOCKS and r["upload"]["ciphertext"]["bytes_sent"] == len(place.blob())
    assert place.journal.stat().st_mode & 0o777 == 0o600 and place.journal.stat().st_size < 3000 + 120 * N_BLOCKS
    assert place.key_files()[r["key_id"]].hex() not in place.journal.read_text()
    place.proxy.clear()
    again = place.report()
    assert place.proxy.select(method="PUT") == [] and again["sha256_ciphertext"] == r["sha256_ciphertext"]


def test_the_same_ciphertext_as_a_file_has(place):
    """One format: what was sealed on the way is what a file would hold, under the same key and nonce."""
    place.report()
    m = json.loads(place.manifest.read_text())
    data, key = place.blob(), next(iter(place.key_files().values()))
    assert open_by_hand(data, m, key) == place.plain() and m["weights_filename"] == "model.tbenc"
    assert [f["path"] for f in m["files"]] == ["a.bin", "b.bin", "config.json"]


def test_one_file_and_one_block(place):
    big = place.model
    place.model = big / "a.bin"
    place.report("--block-bytes", "8M")
    assert place.proxy.count(**PUT_BLOCK) == 1
    m = json.loads(place.manifest.read_text())
    assert open_by_hand(place.blob(), m, place.key_files()[m["key_id"]]) == place.model.read_bytes() and "files" not in m


# -- killed ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", range(1, N_BLOCKS + 1))
def test_killed_at_each_block_and_continued(place, n):
    assert place.killed(n, PUT_BLOCK) == -9
    assert place.blob() is None and not place.manifest.exists()
    (key,) = place.key_files()
    r = place.report()
    assert place.check_stored() == r["key_id"] == key, "the same key"
    assert r["upload"]["ciphertext"]["bytes_resumed"] >= (n - 3) * BLOCK
    place.check_sent()


@pytest.mark.parametrize("at", [COMMIT, MANIFEST], ids=["commit", "manifest"])
@pytest.mark.parametrize("how", [swallow, lose_reply], ids=["asked", "done"])
def test_killed_at_the_end(place, at, how):
    """Nothing is read again: all is there."""
    gate = threading.Event()
    if how is swallow:
        assert place.killed(1, at) == -9
    else:  # the service has done it, and the answer is held back
        place.proxy.rule(hold(gate), **{"method": "HEAD", "path": "never"})
        place.proxy.rule(lose_reply(), nth=1, **at)
        place.proxy.rule(swallow(), nth=range(2, 100), **at)
        p = subprocess.Popen(place.argv("-q"), env=place.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        place.proxy.wait(2, **at)
        p.kill()
        p.wait()
        place.proxy.clear_rules()
    puts = place.proxy.count(**PUT_BLOCK)
    assert puts == N_BLOCKS
    (place.model / "a.bin").chmod(0o000)  # root reads it all the same; what counts is that it is not sent
    (place.model / "a.bin").chmod(0o644)
    place.run()
    assert place.proxy.count(**PUT_BLOCK) in (puts, 2 * puts)
    place.check_stored()
    place.check_sent()
    assert len(place.key_files()) == 1


def test_nothing_is_read_again_when_all_is_there(place):
    """The commit failed, hours later it works: no byte is sealed or sent twice."""
    place.proxy.rule(status(403), **COMMIT)
    place.run(rc=1)
    place.proxy.clear_rules()
    puts = place.proxy.count(**PUT_BLOCK)
    r = place.report()
    assert place.proxy.count(**PUT_BLOCK) == puts and r["seconds"] == 0 and r["upload"]["ciphertext"]["bytes_resumed"] == len(place.blob())
    place.check_stored()


# -- a model that changed ----------------------------------------------------------------------------------------------

def sent_by_index(place):
    return {int(base64.b64decode(rq.args["blockid"]).decode()[4:9]) for rq in place.proxy.select(**PUT_BLOCK)}


@pytest.mark.parametrize("n", [1, 2, 4, 7, N_BLOCKS])
def test_what_was_sent_and_changed_means_a_new_key(place, n):
    """A byte that has left under a key never has another value under it."""
    assert place.killed(n, PUT_BLOCK) == -9
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
    r = place.run("--force", rc=1)
    assert "another file is stored there" in r.stderr and "--overwrite" in r.stderr
    place.run("--force", "--overwrite")
    assert place.check_stored() != key and key in place.key_files()
    place.check_sent()


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
    place.run(rc=1)
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


@pytest.mark.parametrize("words, says", [(["-k", "-"], "--upload needs --key-out"), (["-o", "x"], "leave --out away"),
                                         (["-C", "X"], "--container"), (["-k", "age:"], "needs a recipient")])
def test_usage(place, words, says):
    r = place.run(*words, rc=2)
    assert says in r.stderr and place.proxy.requests == []


def test_a_stream_cannot_be_read_again(place):
    os.mkfifo(place.dir / "fifo")
    place.model = place.dir / "fifo"
    fd = os.open(place.dir / "fifo", os.O_RDWR)
    r = place.run(rc=1)
    os.close(fd)
    assert "is a stream" in r.stderr and not place.key_files()


# -- histories ---------------------------------------------------------------------------------------------------------

class History:
    def __init__(self, place, seed):
        self.place, self.random, self.log = place, random.Random(seed), [f"seed {seed}"]

    def say(self, *words):
        self.log.append(" ".join(map(str, words)))

    def kill(self):
        at = self.random.choice([PUT_BLOCK] * 6 + [COMMIT, MANIFEST])
        n = self.random.randint(1, N_BLOCKS) if at is PUT_BLOCK else 1
        how = self.random.choice([swallow(), lose_reply(), reset_upload(self.random.randint(0, BLOCK))])
        self.say("kill at", n, at.get("args", at), how.name, "->", self.place.killed(n, at, how))

    def fail(self):
        at = self.random.choice([PUT_BLOCK, COMMIT, MANIFEST])
        self.place.proxy.rule(status(403), nth=range(self.random.randint(1, 5), 1000), **at)
        r = self.place.run(rc=None)
        self.say("fail at", at, "->", r.returncode, r.stderr.splitlines()[-1:])
        assert r.returncode in (0, 1), self.log
        self.place.proxy.clear_rules()

    def change(self):
        name, keep = self.random.choice(["a.bin", "b.bin", "config.json"]), self.random.random() < 0.7
        path = self.place.model / name
        what = self.random.choice(["flip", "flip", "flip", "longer", "shorter", "touch", "swap"])
        self.say(what, name, keep)
        if what == "flip":
            self.place.flip(name, self.random.randrange(path.stat().st_size), keep)
        elif what == "touch":
            path.touch()
        elif what == "swap" and (self.place.model / "b.bin").stat().st_size > 9:
            data = bytearray((self.place.model / "b.bin").read_bytes())
            at = self.random.randrange(len(data) - 8)
            data[at:at + 8] = os.urandom(8)
            (self.place.model / "b.bin").write_bytes(data)
        elif what == "longer":
            path.write_bytes(path.read_bytes() + os.urandom(self.random.randint(1, 70_000)))
        elif path.stat().st_size > 2:
            path.write_bytes(path.read_bytes()[:-self.random.randint(1, path.stat().st_size // 2)])

    def check_stored_somehow(self):
        """Each blob that was ever made can be opened."""
        data = self.place.blob()
        if data:
            assert any(first_record_opens(data, k) for k in self.place.key_files().values()), "\n".join(self.log)


def first_record_opens(data, key):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    n = data[32:36]
    try:
        AESGCM(key).decrypt(data[15:19] + bytes(8), data[36:36 + int.from_bytes(n, "big") + 16], data[:19] + bytes(8) + n)
        return True
    except InvalidTag:
        return False


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_no_history_reuses_a_nonce(place, seed):
    h = History(place, seed)
    for _ in range(7):
        h.random.choice([h.kill] * 5 + [h.change] * 4 + [h.fail])()
        h.check_stored_somehow()
    r = place.run(rc=None)
    h.say("at last", r.returncode, r.stderr)
    if r.returncode:  # an asset was complete, or made, and the model changed after that
        assert re.search("another file is stored there|is not what asset|another manifest|exists already|is needed", r.stderr), "\n".join(h.log)
        place.run("--force", "--overwrite")
    try:
        place.check_stored()
        place.check_sent()
    except AssertionError as e:
        raise AssertionError("\n".join(h.log)) from e
