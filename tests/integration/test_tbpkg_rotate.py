# SPDX-License-Identifier: Apache-2.0
"""tbpkg rotate before a real Azurite and the development control plane: another key, the same plaintext, nothing on this disk, and
nothing lost whatever happens."""

import json
import os
import shutil
import signal
import subprocess

import pytest

import tbsys
from publish_place import FILES, place, provider  # noqa: F401
from tbsys import wait_for


def command(place, key, *more, out=None):
    return [tbsys.program("tbpkg"), "rotate", "--asset-id", place.asset, "--key-file", str(key), "--key-out", str(out or place.dir / "new"),
            "--storage-account", place.provider.azurite.account, "--container", place.container, "--endpoint",
            f"{place.blob.url}/{place.provider.azurite.account}", "--account-key-file", str(place.key), "--edc-endpoint", place.plane.url,
            "--token-file", str(place.token), "--ca-file", place.provider.ca.cert, "--block-bytes", "256K", *more]


def rotate(place, key, *more, rc=0):
    r = subprocess.run(command(place, key, *more), env=place.env(), cwd=place.dir, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=60, check=False)
    assert r.returncode == rc, (r.returncode, r.stderr)
    place.no_secrets(r.stdout + r.stderr)
    return r


def versions(place):
    r = subprocess.run([tbsys.program("tbpkg"), "asset", "show", "--json", place.asset, "--edc-endpoint", place.plane.url, "--token-file",
                        place.token, "--ca-file", place.provider.ca.cert], env=place.env(), capture_output=True, text=True, check=True)
    return json.loads(r.stdout)["versions"]


def opened(place, version, key):
    """What the key makes of what lies where the control plane says."""
    at = version["ciphertext_url"].split(f"/{place.provider.azurite.account}/", 1)[1]
    d = place.dir / "fetched"
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir()
    (d / "model.tbenc").write_bytes(place.provider.azurite.get_blob(at))
    (d / "model.manifest.json").write_bytes(place.provider.azurite.get_blob(at.replace("model.tbenc", "model.manifest.json")))
    subprocess.run([tbsys.program("tbpkg"), "decrypt", "-q", d / "model.tbenc", "-k", key, "-o", d / "plain"], check=True)
    return {p.name: p.read_bytes() for p in (d / "plain").iterdir()}


@pytest.fixture
def old(place):
    (place.dir / "new").mkdir()
    place.publish()
    return place.model_key


def test_another_key_and_the_same_model(place, old):
    before = {p for p in place.dir.rglob("*")}
    r = rotate(place, old)
    assert json.loads(r.stdout)["version"] == 2 and "its key is needed as long as something serves it" in r.stderr
    v2, v1 = versions(place)
    new = next((place.dir / "new").glob("*.key"))
    assert (v2["current"], v1["current"]) == (False, True) and v2["key_id"] != v1["key_id"] and v2["key_id"] in new.name
    assert f"{place.asset}/{v2['key_id']}/" in v2["ciphertext_url"]
    assert opened(place, v2, new) == opened(place, v1, old) == FILES and old.exists()
    made = {p for p in place.dir.rglob("*") if p.is_file()} - before - {p for p in (place.dir / "fetched").rglob("*")}
    assert sorted(p.suffix for p in made) == [".json", ".key"] and sum(p.stat().st_size for p in made) < 5000, "no copy of the model"
    rotate(place, new, "--promote", rc=1)  # that is the key of version 2, and version 1 is the current one
    r = rotate(place, old, "--promote")
    assert json.loads(r.stdout)["version"] == 3 and versions(place)[0]["current"]


def test_killed_at_any_moment(place, old):
    """The next run begins anew; every key that was made is still there, and opens what it sealed, if that became a version."""
    for at in (0.05, 0.2, 0.4, 0.6):
        p = subprocess.Popen(command(place, old, "--bandwidth", "4M"), env=place.env(), cwd=place.dir, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            p.wait(at)
        except subprocess.TimeoutExpired:
            os.kill(p.pid, signal.SIGKILL)
            p.wait()
    keys = list((place.dir / "new").glob("*.key"))
    rotate(place, old)
    assert set(keys) < set((place.dir / "new").glob("*.key")) and old.exists()
    for v in versions(place):
        key = next((k for k in (old, *(place.dir / "new").glob("*.key")) if v["key_id"] in k.name))
        assert opened(place, v, key) == FILES


@pytest.mark.parametrize("damage", ["flip", "short", "gone", "replaced"])
def test_what_is_wrong_with_the_old_version_makes_no_new_one(place, old, damage):
    azurite, path = place.provider.azurite, f"models/{place.asset}/model.tbenc"
    data = bytearray(azurite.get_blob(path))
    if damage == "gone":
        azurite.request("DELETE", path)
    else:
        data = data[:-100] if damage == "short" else data
        data[len(data) // 2] ^= 1
        azurite.request("PUT", path, bytes(data), {"x-ms-blob-type": "BlockBlob"})
    r = rotate(place, old, rc=1)
    assert "model.tbenc" in r.stderr and len(versions(place)) == 1
    ls = json.loads(subprocess.run([tbsys.program("tbpkg"), "ls", "--json", *command(place, old)[8:16], "--ca-file", place.provider.ca.cert],
                                   env=place.env(), capture_output=True, text=True, check=True).stdout)
    assert all(a["state"] in ("uploading", "no ciphertext") or a["folder"] == place.asset for a in ls["assets"]
               if a["folder"].startswith(place.asset))


def test_what_it_refuses(place, old):
    other = place.dir / "other.key"
    other.write_text("ab" * 32)
    assert "key" in rotate(place, other, rc=1).stderr
    assert "there is no such version" in rotate(place, old, "--asset-id", f"{place.asset}@7", rc=3).stderr
    (place.model / "config.json").write_bytes(b"{2}")
    place.out = place.dir / "out2"
    place.publish("--base", place.asset, "--key-file", old, "--no-promote")
    r = rotate(place, old, "--asset-id", f"{place.asset}@2", rc=1)
    assert "version 2 is an overlay; rotate version 1" in r.stderr
    assert list((place.dir / "new").glob("*.key")) == [] and wait_for(lambda: old.exists(), what="the old key")
