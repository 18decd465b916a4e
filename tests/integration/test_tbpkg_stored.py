# SPDX-License-Identifier: Apache-2.0
"""tbpkg ls, status, rm and abort before a real Azurite and the development control plane: what lies in a container, what is
registered of it, and what may go."""

import json
import subprocess

import tbsys
from publish_place import place, provider  # noqa: F401
from tbsys import wait_for


def stored(place, *words, rc=0, plane=True):
    control = ["--edc-endpoint", place.plane.url, "--token-file", place.token] if plane else []
    r = subprocess.run([tbsys.program("tbpkg"), words[0], "--storage-account", place.provider.azurite.account, "--container", place.container,
                        "--endpoint", f"{place.blob.url}/{place.provider.azurite.account}", "--account-key-file", place.key, *control,
                        "--ca-file", place.provider.ca.cert, *words[1:]], env=place.env(), stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=60, check=False)
    assert r.returncode == rc, (r.returncode, r.stderr)
    place.no_secrets(r.stdout + r.stderr)
    return r.stdout if rc == 0 else r.stderr


def remote(place, *words, rc=0):
    r = subprocess.run([tbsys.program("tbpkg"), *words, "--edc-endpoint", place.plane.url, "--token-file", place.token, "--ca-file",
                        place.provider.ca.cert], env=place.env(), capture_output=True, text=True, timeout=60, check=False)
    assert r.returncode == rc, (r.returncode, r.stderr)
    return r.stdout


def row(place, folder, **kw):
    return {a["folder"]: a for a in json.loads(stored(place, "ls", "--json", **kw))["assets"]}.get(folder)


def test_what_lies_there_and_what_is_registered(place):
    place.publish()
    a = row(place, place.asset)
    manifest = json.loads((place.out / "encrypted/model.manifest.json").read_text())
    assert a["state"] == "complete" and a["asset_id"] == place.asset and a["key_id"] == manifest["key_id"]
    assert (a["registered"], a["version"], a["current"]) == (True, 1, True) and a["age_seconds"] < 600
    assert a["sha256_ciphertext"] == manifest["sha256_ciphertext"] and a["url"].endswith(f"/models/{place.asset}")
    assert row(place, place.asset, plane=False).get("registered") is None
    table = stored(place, "ls")
    assert table.splitlines()[0].split()[:3] == ["FOLDER", "STATE", "SIZE"] and place.asset in table
    one = stored(place, "status", place.asset)
    assert manifest["key_id"] in one and "Registered" in one
    again = json.loads(stored(place, "status", "--json", place.asset))
    assert {k: v for k, v in again.items() if "age" not in k} == {k: v for k, v in a.items() if "age" not in k}
    assert "tbpkg ls lists them" in stored(place, "status", "nothing", rc=3)


def test_what_something_needs_is_not_removed(place):
    place.publish()
    assert f"tbpkg asset delete {place.asset}@1" in stored(place, "rm", "--yes", place.asset, rc=5)
    assert "--edc-endpoint is missing" in stored(place, "rm", "--yes", place.asset, rc=2, plane=False)
    key = next(place.out.glob("*.key"))
    (place.model / "config.json").write_bytes(b'{"b": 1}')
    place.out = place.dir / "out2"
    place.publish("--base", place.asset, "--key-file", key, "--no-promote")
    fix = f"{place.asset}/" + json.loads((place.out / "encrypted/model.manifest.json").read_text())["sha256_ciphertext"][:16]
    a, b = row(place, place.asset), row(place, fix)
    assert a["overlay"] == fix and (b["base_version"], b["version"], b["current"]) == (1, 2, False)
    assert "version 2 of" in stored(place, "rm", "--yes", place.asset, rc=5)
    remote(place, "asset", "delete", f"{place.asset}@2", "--yes")
    assert f"tbpkg asset delete {place.asset}@1" in stored(place, "rm", "--yes", place.asset, rc=5)
    alone = ("rm", "--yes", "--no-control-plane", place.asset)  # what lies there says it, too
    assert f"tbpkg rm {fix}" in stored(place, *alone, rc=5, plane=False)
    assert "use --yes" in stored(place, "rm", fix, rc=2)
    stored(place, "rm", "--yes", fix)
    stored(place, *alone, plane=False)
    assert row(place, place.asset) is None and row(place, fix) is None
    assert key.exists(), "a key is never removed"


def test_an_upload_in_progress_is_seen_and_let_go(place):
    with open(place.model / "model-3.safetensors", "wb") as f:
        f.truncate(40 << 20)
    p = place.start("--bandwidth", "8M")
    wait_for(lambda: any(r.status == 201 for r in place.blob.select(method="PUT")), what="a block")
    p.kill()
    p.wait()
    a = wait_for(lambda: row(place, place.asset), what="the upload in the list")
    assert a["state"] == "uploading" and a["uncommitted_blocks"] >= 1 and a["bytes"] == a["uncommitted_bytes"] > 0
    assert "tbpkg abort" in stored(place, "rm", "--yes", place.asset, rc=5)
    stored(place, "abort", "--yes", place.asset)
    assert row(place, place.asset) is None
    place.publish()  # what was let go is sent again
    assert row(place, place.asset)["state"] == "complete"
    assert "has no upload in progress" in stored(place, "abort", "--yes", place.asset, rc=5)
