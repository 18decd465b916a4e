# SPDX-License-Identifier: Apache-2.0
"""Keys: their ids, `tbpkg key`, where --key-out puts them, and that no sequence of commands loses one that something is sealed with."""

import contextlib
import hashlib
import json
import os
import random
import re
import sqlite3
import ssl
import struct
import subprocess
import urllib.request

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import tbsys
from chain import Provider
from tbpkg_local import ok, refused, tbpkg
from tbpkg_templates import write_templates

HISTORIES = int(os.environ.get("TB_KEY_HISTORIES", "10"))


def key_id(hex_key):
    return hashlib.sha256(b"tbenc key id v1\0" + bytes.fromhex(hex_key)).hexdigest()[:16]


@pytest.fixture(scope="module")
def age(tmp_path_factory):
    """(identity file, recipient)"""
    identity = tmp_path_factory.mktemp("age") / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    return identity, subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def gnupg(tmp_path_factory):
    home = tmp_path_factory.mktemp("gnupg", numbered=True)
    home.chmod(0o700)
    subprocess.run(["gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-gen-key", "vault@example.com", "default", "default"],
                   check=True, capture_output=True)
    yield home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "m").write_bytes(os.urandom(3000))
    return tmp_path


def sealed(place, *more, **kw):
    return json.loads(ok("encrypt", "-a", "demo", "m", "--json", *more, cwd=place, **kw).stdout)


# -- ids ---------------------------------------------------------------------------------------------------------------

def test_the_id_is_in_manifest_file_name_and_report(place):
    (place / "keys").mkdir()
    r = sealed(place, "-k", "keys/")
    key = (place / r["key_file"]).read_text().strip()
    assert r["key_id"] == key_id(key) and r["key_file"] == f"keys/demo-{key_id(key)}.key"
    assert json.loads((place / "model.manifest.json").read_text())["key_id"] == key_id(key)
    assert ok("key", "show-id", "-k", r["key_file"], cwd=place).stdout.decode() == key_id(key) + "\n"
    assert json.loads(ok("key", "show-id", "--json", "-k", "-", cwd=place, stdin=key.encode()).stdout) == {"key_id": key_id(key)}
    assert key_id(key) in ok("inspect", cwd=place).stdout.decode()
    assert (place / r["key_file"]).stat().st_mode & 0o777 == 0o600


def test_check_by_id_and_by_the_first_record(place):
    sealed(place, "-k", "right")
    (place / "wrong").write_text("ab" * 32)
    right = key_id((place / "right").read_text().strip())
    for how in ([], ["-i", "model.tbenc"], ["model.tbenc"], ["-m", "model.manifest.json"]):
        assert f"Key {right} opens asset 'demo'" in ok("key", "check", "-k", "right", *how, cwd=place).stderr.decode()
        refused("key", "check", "-k", "wrong", *how, cwd=place, match=f"wrong: holds key {key_id('ab' * 32)}, .* with key {right}")
    for command in (["verify"], ["decrypt", "-o", "out"]):
        refused(*command, "-k", "wrong", cwd=place, match=f"with key {right}")
    m = json.loads((place / "model.manifest.json").read_text())
    del m["key_id"]  # as other writers leave it
    (place / "model.manifest.json").write_text(json.dumps(m))
    ok("key", "check", "-k", "right", cwd=place)
    refused("key", "check", "-k", "wrong", cwd=place, match="model.tbenc: key .* does not open it")
    refused("key", "check", "-k", "right", "-m", "model.manifest.json", cwd=place, match="names no key.*--in")


def test_usage_of_key(place):
    refused("key", cwd=place, rc=2, match="show-id, check or export")
    refused("key", "shred", cwd=place, rc=2, match="show-id, check or export")
    refused("key", "show-id", cwd=place, rc=2, match="a key is needed")
    (place / "k").write_text("ab" * 32)
    refused("key", "export", "-k", "k", cwd=place, rc=2, match="--key-out is missing")
    refused("key", "show-id", "-k", "k", "more", cwd=place, rc=2, match="unexpected argument 'more'")
    refused("key", "export", "-k", "k", "--key-out", "age:", cwd=place, rc=2, match="needs a recipient")
    refused("key", "export", "-k", "k", "--key-out", "age:-d", cwd=place, rc=2, match="needs a recipient")


# -- where a key goes --------------------------------------------------------------------------------------------------

def test_a_key_for_a_recipient(place, age, gnupg):
    identity, recipient = age
    env = {"GNUPGHOME": str(gnupg)}
    for target, suffix, opener in ((f"age:{recipient}", "age", ["age", "-d", "-i", identity]),
                                   ("gpg:vault@example.com", "gpg", ["gpg", "--homedir", gnupg, "--batch", "-q", "-d"])):
        out = place / suffix
        out.mkdir()
        r = sealed(place, "-o", out / "x.tbenc", "-k", target, env=env)
        assert r["key_file"] == f"{out}/demo-{r['key_id']}.key.{suffix}" and r["key_recipient"] == target[4:]
        key = subprocess.run([*opener, r["key_file"]], check=True, capture_output=True, text=True).stdout
        assert re.fullmatch("[0-9a-f]{64}\n", key) and key_id(key.strip()) == r["key_id"]
        ok("decrypt", "-k", "-", "-i", out / "x.tbenc", "-o", out / "opened", stdin=key.encode())
        assert (out / "opened").read_bytes() == (place / "m").read_bytes()
        assert (place / r["key_file"]).stat().st_mode & 0o777 == 0o600
        (place / "clear").write_text(key)
        exported = json.loads(ok("key", "export", "-k", "clear", "--key-out", target, "-a", "copy", "--json", cwd=place, env=env).stdout)
        assert subprocess.run([*opener, place / exported["key_file"]], check=True, capture_output=True, text=True).stdout == key


@pytest.mark.parametrize("target, says", [("age:age1nobody", "age: .*ended with exit code"), ("gpg:nobody@example.org", "gpg: .*ended with exit code")])
def test_a_recipient_that_is_none_leaves_nothing(place, target, says, gnupg):
    p = tbpkg("encrypt", "-a", "demo", "m", "-k", target, cwd=place, env={"GNUPGHOME": str(gnupg)})
    assert p.returncode == 1 and re.search(says, p.stderr.decode()), p.stderr
    assert [f.name for f in place.iterdir()] == ["m"]


def test_export(place):
    sealed(place, "-k", "k")
    key = (place / "k").read_bytes()
    assert ok("key", "export", "-k", "k", "--key-out", "-", cwd=place).stdout == key
    ok("key", "export", "-k", "k", "--key-out", "copy", cwd=place)
    assert (place / "copy").read_bytes() == key and (place / "copy").stat().st_mode & 0o777 == 0o600
    (place / "d").mkdir()
    r = json.loads(ok("key", "export", "-k", "k", "--key-out", "d", "-m", "model.manifest.json", "--json", cwd=place).stdout)
    assert r["key_file"] == f"d/demo-{r['key_id']}.key" and (place / r["key_file"]).read_bytes() == key
    (place / "other").write_text("ab" * 32)
    refused("key", "export", "-k", "other", "--key-out", "x", "-m", "model.manifest.json", cwd=place, match="other: holds key")
    refused("key", "export", "-k", "other", "--key-out", "copy", cwd=place, match="copy: exists already; keep it")
    assert (place / "copy").read_bytes() == key


def test_no_command_replaces_a_key(place, age):
    sealed(place, "-k", "k")
    r = sealed(place, "-o", "x.tbenc", "-k", f"age:{age[1]}")
    (place / "raw.key").write_bytes(bytes(32))
    write_templates(place / "t")
    for path in ("k", r["key_file"], "raw.key"):
        before = (place / path).read_bytes()
        for words in (["encrypt", "-a", "demo", "m", "-k", path], ["encrypt", "-a", "demo", "m", "-k", "new", "-o", path, "--force"],
                      ["encrypt", "-a", "demo", "m", "-k", "new", "-m", path, "--force"],
                      ["decrypt", "-k", "k", "-i", "model.tbenc", "-o", path, "--force"],
                      ["key", "export", "-k", "k", "--key-out", path],
                      ["package", "--no-image", "-a", "demo", "-E", "https://h", "--template-dir", "t", "-o", path]):
            p = tbpkg(*words, cwd=place)
            assert p.returncode == 1 and path in p.stderr.decode(), (words, p.stderr)
            assert (place / path).read_bytes() == before, words
    assert not (place / "new").exists()


# -- histories ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    p = Provider(tmp_path_factory.mktemp("provider")).start()
    yield p
    p.stop()


class History:
    """Random commands of a provider over some assets, output directories and a vault. Afterwards each ciphertext that lies anywhere
    can be opened by a key that is still somewhere, but for those that only the control plane had when `asset delete` told it to forget
    them, which it says before it does."""

    def __init__(self, provider, age, directory, seed):
        self.random, self.provider, self.age, self.dir, self.seed = random.Random(seed), provider, age, directory, seed
        self.assets = [f"h{seed}-a", f"h{seed}-b"]
        self.outs = [directory / "out1", directory / "out2", directory / "out3"]
        self.runs = list(zip((self.assets[0], self.assets[0], self.assets[1]), self.outs))  # two directories for one asset
        self.vault, self.log, self.forgotten = directory / "vault", [], set()
        self.vault.mkdir()
        (directory / "model").mkdir()
        (directory / "model" / "w").write_bytes(os.urandom(2000))
        write_templates(directory / "t")
        (directory / "account.key").write_text(provider.azurite.key)

    def run(self, *words, kill=None, stdin=None):
        words = [str(w) for w in words]
        self.log.append(" ".join(words) + (f"  # killed after {kill:.3f} s" if kill else ""))
        env = {"PATH": os.environ["PATH"], "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9", "TB_CA_FILE": str(self.provider.ca.cert)}
        p = subprocess.Popen([tbsys.program("tbpkg"), *words], env=env, cwd=self.dir, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        try:
            _, err = p.communicate(stdin or b"", timeout=kill or 60)
        except subprocess.TimeoutExpired:
            p.kill()
            _, err = p.communicate()
        assert p.returncode in (0, 1, 2, 3, 4, 5, 6, -9), (self.log, err)
        self.log.append(f"    {p.returncode} {err.decode(errors='replace').strip().splitlines()[-1:]}")
        return p.returncode

    def storage(self):
        return ["--storage-account", self.provider.azurite.account, "--container", self.provider.container, "--endpoint",
                self.provider.azurite.endpoint, "--account-key-file", self.dir / "account.key"]

    def plane(self):
        return ["--edc-endpoint", self.provider.controlplane.url, "--token-file", self.provider.controlplane.token_file]

    def asked(self, *words):
        env = {"PATH": os.environ["PATH"], "TB_CA_FILE": str(self.provider.ca.cert)}
        r = subprocess.run([tbsys.program("tbpkg"), *map(str, words), "--json"], env=env, cwd=self.dir, capture_output=True, text=True, check=False)
        return json.loads(r.stdout) if r.returncode == 0 else {}

    def versions(self, asset):
        return self.asked("asset", "show", asset, *self.plane()).get("versions", [])

    def folders(self):
        """What lies in the storage of these assets, uploads in progress too."""
        return [a["folder"] for a in self.asked("ls", *self.storage(), *self.plane()).get("assets", [])
                if a["folder"].split("/")[0] in self.assets]

    def publish(self, kill=None):
        pick = self.random.choice
        asset, out = pick(self.runs)
        words = ["publish", "-a", asset, *self.storage(), "--token-file", pick([self.provider.controlplane.token_file] * 4 + [self.dir / "account.key"]), "--edc-endpoint",
                 self.provider.controlplane.url + pick(["", "", "/"]), "--vm-image", "a:b:c", "--template-dir", self.dir / "t", "--output",
                 out, "--chunk-bytes", "1M", "--yes", "-q"]
        words += pick([[], [], ["--forget-key"], ["--forget-key", "--skip-upload"], ["--skip-upload"], ["--skip-register"], ["--skip-encrypt"]])
        words += pick([[], [], ["--key-out", f"age:{self.age[1]}"], ["--key-out", f"{self.vault}/"], ["--key-out", self.vault / "k"]])
        keys = list(self.vault.iterdir())
        if keys and self.random.random() < 0.3:
            words += ["--key-file", pick(keys)]
        self.run(*words, self.dir / "model", kill=kill)

    def kill(self):
        self.publish(kill=self.random.uniform(0.002, 0.3))

    def rotate(self, kill=None):
        """A version whose key is a clear file somewhere, or any with any key."""
        pick, asset = self.random.choice, self.random.choice(self.assets)
        keys = sorted(f for f in self.dir.rglob("*") if f.is_file() and (".key" in f.name or f.parent == self.vault) and f.name != "account.key")
        fits = [(v["version"], k) for v in self.versions(asset) for k in keys if v["key_id"] in k.name and ".age" not in k.name]
        if not keys:
            return
        version, key = pick(fits) if fits and self.random.random() < 0.9 else (1, pick(keys))
        words = ["rotate", "-a", pick([asset, f"{asset}@{version}"]), "--key-file", key, "--key-out",
                 pick([f"{self.vault}/", f"{self.vault}/", self.vault / "r", f"age:{self.age[1]}"]), *self.storage(), *self.plane(), "-q"]
        self.run(*words, *pick([[], [], ["--promote"], ["--new-key-file", pick(keys)], ["--manifest", pick(["r.json", key])]]), kill=kill)

    def kill_rotate(self):
        self.rotate(kill=self.random.uniform(0.01, 0.3))

    def clean_up(self):
        """rm and abort of anything, and the control plane told to forget a version or all."""
        pick, folders = self.random.choice, self.folders()
        what = self.random.random()
        if what < 0.6 and folders:
            self.run(pick(["rm", "abort"]), pick(folders), "--yes", *self.storage(), *self.plane())
            return
        asset = pick(self.assets)
        known = self.keys_of_the_control_plane(asset) - self.keys_of_files()
        numbers = [v["version"] for v in self.versions(asset)]
        if self.run("asset", "delete", pick([asset, *(f"{asset}@{n}" for n in numbers)]), "--yes", *self.plane()) == 0:
            self.forgotten |= known - self.keys_of_the_control_plane(asset)

    def move(self):
        """A file of a key goes to the vault, or from there back; or something that no key is in goes away."""
        files = [f for f in self.dir.rglob("*") if f.is_file() and (".key" in f.name or f.parent == self.vault) and f.name != "account.key"]
        if not files:
            return
        f = self.random.choice(files)
        to = (self.random.choice(self.outs) if f.parent == self.vault else self.vault) / f.name
        to.parent.mkdir(exist_ok=True)
        if not to.exists():
            self.log.append(f"mv {f} {to}")
            f.rename(to)

    def lose_a_ciphertext(self):
        files = [f for f in self.dir.rglob("*") if f.suffix in (".tbenc", ".json") and f.parent.name == "encrypted"]
        if files:
            f = self.random.choice(files)
            self.log.append(f"rm {f}")
            f.unlink()

    def change_the_model(self):
        (self.dir / "model" / "w").write_bytes(os.urandom(2000))

    def encrypt(self):
        target = self.random.choice([self.vault / "k", f"{self.vault}/", f"age:{self.age[1]}"])
        self.run("encrypt", "-a", self.random.choice(self.assets), "model", "-o", self.random.choice(["x.tbenc", self.outs[0] / "encrypted/model.tbenc"]),
                 "--force", "-k", target)

    def mistake(self):
        keys = [f for f in self.dir.rglob("*.key*") if f.is_file() and f.name != "account.key"] + [self.vault / "k"]
        key, pick = self.random.choice(keys), self.random.choice
        manifest = pick([m for m in self.dir.rglob("*.manifest.json")] or ["none"])
        self.run(*pick([["decrypt", "-k", key, "-m", manifest, "-o", pick(keys), "--force"],
                        ["key", "export", "-k", key, "--key-out", pick(keys)],
                        ["encrypt", "-a", self.assets[0], "model", "-o", pick(keys), "--force", "-k", self.vault / "n"],
                        ["register", "-a", self.assets[0], "-m", manifest, "-k", key, "--edc-endpoint", self.provider.controlplane.url,
                         "--blob-url", "https://h/c", "--token-file", self.provider.controlplane.token_file]]))

    def walk(self, steps):
        actions = [self.publish] * 12 + [self.kill] * 6 + [self.move] * 4 + [self.mistake] * 4 + \
            [self.rotate] * 4 + [self.kill_rotate] * 3 + [self.clean_up] * 3 + [self.encrypt, self.lose_a_ciphertext, self.change_the_model]
        for _ in range(steps):
            self.random.choice(actions)()

    # What is left.
    def keys(self):
        return self.keys_of_files().union(*map(self.keys_of_the_control_plane, self.assets))

    def keys_of_files(self):
        found = set()
        for f in self.dir.rglob("*"):
            data = f.read_bytes() if f.is_file() and f.stat().st_size < 5000 else b""
            if re.fullmatch(rb"[0-9a-f]{64}\n?", data):
                found.add(data.decode().strip())
            elif data.startswith(b"age-encryption.org"):
                found.add(subprocess.run(["age", "-d", "-i", self.age[0], f], check=True, capture_output=True, text=True).stdout.strip())
        return found

    def keys_of_the_control_plane(self, asset):
        """The registered one, and those of earlier registrations: `restore` brings one after the other back."""
        found, plane = set(), self.provider.controlplane
        if asset not in [a["asset_id"] for a in json.loads(plane.ctl("asset", "list", "--json"))]:
            return found
        with contextlib.closing(sqlite3.connect(plane.dir / "controlplane.db")) as db:
            earlier = db.execute("SELECT count(*) - 1 FROM asset_versions WHERE asset_id=?", [asset]).fetchone()[0]
        for _ in range(earlier + 1):
            found.add(self.authorize(asset))
            if earlier:
                plane.ctl("asset", "restore", asset)
        return found

    def authorize(self, asset):
        body = json.dumps({"contract_id": "contract-allow", "asset_id": asset, "hw_id": "h", "client_version": "t"}).encode()
        rq = urllib.request.Request(f"{self.provider.controlplane.url}/api/v1/license/authorize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(rq, context=ssl.create_default_context(cafile=self.provider.ca.cert), timeout=20) as answer:
            return json.load(answer)["decryption_key_hex"]

    def ciphertexts(self):
        yield from ((str(f), f.read_bytes()) for f in self.dir.rglob("*.tbenc") if not f.name.startswith("."))
        for folder in {*self.assets, *self.folders()}:
            data = self.provider.azurite.get_blob(f"{self.provider.container}/{folder}/model.tbenc")
            if data:
                yield f"stored {folder}", data

    def check(self):
        keys = self.keys() | self.forgotten
        for name, data in self.ciphertexts():
            assert any(opens(k, data) for k in keys), (name, len(keys), self.seed, "\n".join(self.log))


def opens(hex_key, data):
    chunk, prefix = struct.unpack(">I", data[11:15])[0], data[15:19]
    n = struct.unpack(">I", data[32:36])[0]
    aad = data[:8] + struct.pack(">HBI", 1, 1, chunk) + prefix + struct.pack(">QI", 0, n)
    try:
        AESGCM(bytes.fromhex(hex_key)).decrypt(prefix + bytes(8), data[36:36 + n + 16], aad)
        return True
    except InvalidTag:
        return False


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_no_history_loses_a_key(provider, age, tmp_path, seed):
    h = History(provider, age, tmp_path, seed)
    for _ in range(4):
        h.walk(6)
        h.check()

