# SPDX-License-Identifier: Apache-2.0
"""tbpkg makes overlays, opens, verifies and shows them, and publishes them: before a real Azurite and the development control plane."""

import hashlib
import json
import random
import shutil
import subprocess

import pytest

import tbsys
from delivery_asset import Asset
from overlay_asset import Overlay, key_id, whole
from publish_place import place, provider  # noqa: F401
from tbpkg_local import ok, refused, tbpkg
from tbsys import read_json

MODEL = {"chat_template.jinja": b"old" * 100, "config.json": b'{"a": 1}', "empty": b"", "model.safetensors": random.Random(3).randbytes(900_000),
         "tokenizer.json": b"t" * 5000}


def write(directory, files):
    shutil.rmtree(directory, ignore_errors=True)
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def read(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


class Bench:
    def __init__(self, tmp):
        self.tmp, self.model, self.v1 = tmp, tmp / "model", tmp / "v1"
        self.v1.mkdir()
        write(self.model, MODEL)
        ok("encrypt", "-a", "m", "-o", self.v1 / "model.tbenc", "-k", self.v1 / "m.key", "-c", "64K", self.model)
        self.key, self.manifest = self.v1 / "m.key", self.v1 / "model.manifest.json"

    def encrypt(self, out, *more, run=ok, **kw):
        (self.tmp / out).mkdir(exist_ok=True)
        return run("encrypt", "-a", "m", "--base", "m@1", "--base-manifest", self.manifest, "--key-file", self.key, "-o",
                   self.tmp / out / "model.tbenc", *more, self.model, **kw)

    def opened(self, out):
        shutil.rmtree(self.tmp / "plain", ignore_errors=True)
        ok("decrypt", self.tmp / out / "model.tbenc", "--base", self.v1 / "model.tbenc", "-k", self.key, "-o", self.tmp / "plain")
        return read(self.tmp / "plain")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


# -- making and opening ------------------------------------------------------------------------------------------------

def test_only_what_changed_is_sealed(bench):
    files = {**MODEL, "chat_template.jinja": b"new" * 200}
    write(bench.model, files)
    r = json.loads(bench.encrypt("v2", "--json").stdout)
    assert r["base_version"] == 1 and r["files_of_base"] == 3 and r["plaintext_bytes"] == 600 and r["key_file"] == str(bench.key)
    assert (bench.tmp / "v2" / "model.tbenc").stat().st_size < 1000 and not list((bench.tmp / "v2").glob("*.key"))
    m = read_json(bench.tmp / "v2" / "model.manifest.json")
    assert m["format"] == "tbenc/v1-overlay" and m["key_id"] == read_json(bench.manifest)["key_id"]
    assert m["base"]["manifest_sha256"] == hashlib.sha256(bench.manifest.read_bytes()).hexdigest()
    assert bench.opened("v2") == files


@pytest.mark.parametrize("seed", range(12))
def test_any_change_comes_back_as_it_is(bench, seed):
    """Changed, added, left out, moved, doubled, emptied, filled, other permissions: in any mixture."""
    rng, files = random.Random(seed), dict(MODEL)
    for _ in range(rng.randrange(1, 5)):
        name = rng.choice(sorted(files))
        what = rng.randrange(6)
        if what == 0:
            files[name] = rng.randbytes(rng.choice([0, 1, 65536, 70000]))
        elif what == 1 and len(files) > 1:
            files[f"sub/{rng.randrange(9)}/{name.replace('/', '_')}"] = files.pop(name)
        elif what == 2:
            files[f"copy-{rng.randrange(9)}"] = files[name]
        elif what == 3 and len(files) > 2:
            del files[name]
        elif what == 4:
            files[f"new-{rng.randrange(9)}.json"] = rng.randbytes(rng.randrange(3000))
    files["always.txt"] = b"new"
    write(bench.model, files)
    modes = {name: rng.choice([0o644, 0o600, 0o755]) for name in files}
    for name, mode in modes.items():
        (bench.model / name).chmod(mode)
    bench.encrypt("v2")
    assert bench.opened("v2") == files
    table = read_json(bench.tmp / "v2" / "model.manifest.json")
    assert {e["path"]: e["mode"] for e in table["files"] + table["base"]["files"]} == {n: f"{m:04o}" for n, m in modes.items()}
    ok("verify", bench.tmp / "v2" / "model.tbenc", "--base", bench.v1 / "model.tbenc", "-k", bench.key)


def test_two_overlays_share_no_bytes(bench):
    """The same change under the same key, sealed twice: the salt makes another key of the records each time."""
    write(bench.model, {**MODEL, "config.json": b"x" * 5000})
    bench.encrypt("a")
    bench.encrypt("b")
    a, b = ((bench.tmp / n / "model.tbenc").read_bytes()[36:] for n in "ab")
    assert len(a) == len(b) and sum(x == y for x, y in zip(a, b)) < 100


def test_what_another_writer_made(tmp_path):
    base = whole(MODEL).write(tmp_path / "v1")
    over = Overlay(base, {**MODEL, "config.json": b"{}"}).write(tmp_path / "v2")
    (tmp_path / "key").write_text(base.key.hex())
    ok("decrypt", tmp_path / "v2" / "model.tbenc", "--base", tmp_path / "v1" / "model.tbenc", "-k", tmp_path / "key", "-o", tmp_path / "plain")
    assert read(tmp_path / "plain") == over.tree and over.manifest["key_id"] == key_id(base.key)


def test_verify_and_inspect_follow_it(bench):
    write(bench.model, {**MODEL, "config.json": b"{}"})
    bench.encrypt("v2")
    over, under = bench.tmp / "v2" / "model.tbenc", bench.v1 / "model.tbenc"
    assert b"not checked  all of it for what the overlay stands on, and that it is that (needs --base)" in ok("verify", over, "-k", bench.key).stdout
    assert b"  checked      all of it for what the overlay" in ok("verify", over, "-k", bench.key, "--base", under).stdout
    assert "base" in json.loads(ok("verify", over, "--json", "--base", under).stdout)["checked"]
    shown = ok("inspect", over).stdout.decode()
    assert "stands on       version 1 of m" in shown and "taken from it   3" in shown and "tokenizer.json" in shown
    refused("verify", under, "--base", under, match="is no overlay's")
    refused("decrypt", over, "-k", bench.key, "-o", bench.tmp / "x", match="overlay on version 1: name that version's .tbenc by --base")
    with open(under, "r+b") as f:
        f.seek(300_000)
        f.write(b"rotten")
    refused("verify", over, "-k", bench.key, "--base", under, match="v1/model.tbenc.*chunk")
    refused("decrypt", over, "-k", bench.key, "--base", under, "-o", bench.tmp / "x", match="v1/model.tbenc.*chunk")
    assert not (bench.tmp / "x").exists()


def test_what_cannot_be_an_overlay_is_said(bench):
    bench.encrypt("v2", run=refused, match="is what version 1 is already")
    write(bench.model, {**MODEL, "config.json": b"{}"})
    other = bench.tmp / "other.key"
    other.write_text("ab" * 32)
    args = ["-a", "m", "--base", "m@1", "--base-manifest", bench.manifest, "-o", bench.tmp / "o.tbenc", bench.model]
    refused("encrypt", *args, "--key-file", other, match="key")
    refused("encrypt", *args, "--key-file", bench.key, "-c", "1M", rc=2)
    refused("encrypt", *args, "--key-file", bench.key, "-k", "x", rc=2)
    p = tbpkg("encrypt", *args, "--key-file", bench.key, "--upload")
    assert p.returncode == 2 and b"--base and --upload exclude each other" in p.stderr
    refused("encrypt", *args, rc=2)
    for version in ("m", "m@0", "n@1", "m@x"):
        refused("encrypt", *[version if a == "m@1" else a for a in args], "--key-file", bench.key, match="not a version of asset 'm'")
    bench.encrypt("v2")
    refused("encrypt", *[bench.tmp / "v2" / "model.manifest.json" if a == bench.manifest else a for a in args], "--key-file", bench.key,
            match="overlay itself")
    one = Asset(b"x" * 100).write(bench.tmp / "one")
    refused("encrypt", *["one" if a == "m" else "one@1" if a == "m@1" else a for a in args], "--key-file", bench.key, match="another asset")
    assert one and not (bench.tmp / "o.tbenc").exists()


# -- publishing ---------------------------------------------------------------------------------------------------------

def remote(place, *words, rc=0):
    r = subprocess.run([tbsys.program("tbpkg"), *words, "--edc-endpoint", place.plane.url, "--token-file", place.token, "--ca-file",
                        place.provider.ca.cert], env=place.env(), capture_output=True, text=True, timeout=60, check=False)
    assert r.returncode == rc, (r.returncode, r.stderr)
    return r.stdout if rc == 0 else r.stderr


def asset_show(place):
    return json.loads(remote(place, "asset", "show", place.asset, "--json"))


def uploaded(place):
    return sum(r.body_bytes for r in place.blob.select(method="PUT"))


def test_an_overlay_is_published_and_its_base_stays(place):
    write(place.model, {**MODEL, "model.safetensors": random.Random(4).randbytes(4 << 20)})
    place.publish()
    key = next(place.out.glob("*.key"))
    (place.model / "chat_template.jinja").write_bytes(b"new" * 100)
    first, place.out = place.out, place.dir / "out2"
    before = uploaded(place)
    place.publish("--base", place.asset, "--key-file", key, "--replace")
    sent = uploaded(place) - before
    assert sent < 0.01 * (4 << 20), sent
    v = asset_show(place)["versions"]
    assert [(x["version"], x.get("base_version"), x["current"]) for x in v] == [(2, 1, True), (1, None, False)]
    assert v[0]["key_id"] == v[1]["key_id"] and f"/{place.asset}/{v[0]['sha256_ciphertext'][:16]}/" in v[0]["ciphertext_url"]
    r = remote(place, "asset", "delete", f"{place.asset}@1", "--yes", rc=5)
    assert "is the base of version 2" in r
    # a third stands on the first, too
    (place.model / "config.json").write_bytes(b"{3}")
    place.out = place.dir / "out3"
    r = place.publish("--base", f"{place.asset}@2", "--key-file", key, "--no-promote")
    assert "Version 2 is an overlay on version 1: taking that as the base." in r.stderr
    v = asset_show(place)["versions"]
    assert [(x["version"], x.get("base_version"), x["current"]) for x in v] == [(3, 1, False), (2, 1, True), (1, None, False)]
    assert first.exists()


def test_a_manifest_that_was_not_registered_is_no_base(place):
    """Whoever can write to the storage could have the provider sign what it did not make."""
    write(place.model, MODEL)
    place.publish()
    key, at = next(place.out.glob("*.key")), f"models/{place.asset}/model.manifest.json"
    text = place.provider.azurite.get_blob(at)
    place.provider.azurite.request("PUT", at, text.replace(b'"allow_finetune": true', b'"allow_finetune": false'), {"x-ms-blob-type": "BlockBlob"})
    (place.model / "config.json").write_bytes(b"{2}")
    place.out = place.dir / "out2"
    r = place.publish("--base", place.asset, "--key-file", key, "--no-promote", rc=1)
    assert "model.manifest.json: is not the manifest that was registered" in r.stderr and len(asset_show(place)["versions"]) == 1


def test_an_overlay_whose_base_is_not_there_is_refused(place):
    write(place.model, MODEL)
    place.publish("--skip-register")
    key = next(place.out.glob("*.key"))
    (place.model / "config.json").write_bytes(b"{2}")
    base = place.out / "encrypted" / "model.manifest.json"
    place.out = place.dir / "out2"
    r = place.publish("--base", f"{place.asset}@1", "--base-manifest", base, "--key-file", key, rc=5)
    assert "it is an overlay on version 1" in r.stderr and "register that first" in r.stderr
    place.out = place.dir / "out3"
    r = place.publish("--base", f"{place.asset}@7", "--key-file", key, rc=3)
    assert place.asset in r.stderr and "The step 'encrypt' failed" in r.stderr
