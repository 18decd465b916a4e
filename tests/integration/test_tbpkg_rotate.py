# SPDX-License-Identifier: Apache-2.0
"""tbpkg rotate before a real Azurite and the development control plane: another key, the same plaintext, nothing on this disk, and
nothing lost whatever happens; what was sent is not sent again, and never another thing under its nonces."""

import base64
import json
import re
import shutil
import subprocess

import pytest

import tbsys
from faultproxy import lose_reply, swallow
from publish_place import FILES, place, provider  # noqa: F401
from stream_place import COMMIT, MANIFEST, PUT_BLOCK
from tbpkg_local import ok
from tbsys import wait_for

REGISTER = {"method": "POST", "path": "/assets/register$"}


def command(place, key, *more, out=None):
    return [tbsys.program("tbpkg"), "rotate", "--asset-id", place.asset, "--key-file", str(key), "--key-out", str(out or place.dir / "new"),
            "--storage-account", place.provider.azurite.account, "--container", place.container, "--endpoint",
            f"{place.blob.url}/{place.provider.azurite.account}", "--account-key-file", str(place.key), "--edc-endpoint", place.plane.url,
            "--token-file", str(place.token), "--ca-file", place.provider.ca.cert, "--block-bytes", "256K", *more]


def rotate(place, key, *more, rc=0):
    r = subprocess.run(list(map(str, command(place, key, *more))), env=place.env(), cwd=place.dir, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=60, check=False)
    assert rc is None or r.returncode == rc, (r.returncode, r.stderr)
    assert "Sanitizer" not in r.stderr
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
    return {str(p.relative_to(d / "plain")): p.read_bytes() for p in (d / "plain").rglob("*") if p.is_file()}


def killed(place, key, proxy, n, criteria, *more, action=None, out=None, done=lambda: True):
    """Until the n-th such request has arrived, which is not answered, and, with lose_reply(), that has come of it."""
    proxy.rule(action or swallow(), nth=range(n, 10000), **criteria)
    before = proxy.count(**criteria)
    p = subprocess.Popen(list(map(str, command(place, key, "--concurrency", "2", *more, out=out))), env=place.env(), cwd=place.dir, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: p.poll() is not None or (proxy.count(**criteria) >= before + n and done()), 120, "the request", every=0.001)
    p.kill()
    assert p.wait() == -9, "it was killed, not done"
    proxy.clear_rules()


def new_keys(place):
    return sorted((place.dir / "new").glob("*.key*"))


def sent_once(place):
    """Of each block of each key that ever left one value, as far as it got; and how often that was."""
    bodies = {}
    for rq in place.blob.select(**PUT_BLOCK):
        name = re.fullmatch(r"tb2-(\d{5})-([0-9a-f]{9})-.{22}", base64.b64decode(rq.args["blockid"]).decode()).groups()
        bodies.setdefault(name, []).append(rq.body)
    for name, sent in bodies.items():
        assert all(max(sent, key=len).startswith(b) for b in sent), name
    return bodies


def key_of(place, version):
    return next(k for k in new_keys(place) if version["key_id"] in k.name)


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


KILLS = {"the first block": ("blob", 1, PUT_BLOCK), "a block": ("blob", 7, PUT_BLOCK), "the last": ("blob", 12, PUT_BLOCK),
         "the commit": ("blob", 1, COMMIT), "the manifest": ("blob", 1, MANIFEST), "registration": ("plane", 1, REGISTER)}


@pytest.mark.parametrize("at,lost", [*((at, False) for at in KILLS), ("the commit", True), ("the manifest", True)])
def test_killed_and_run_again(place, old, at, lost):
    """It goes on with the same key. What is there is not sent again."""
    proxy, n, criteria = KILLS[at]
    place.blob.keep_bodies = True
    killed(place, old, getattr(place, proxy), n, criteria, action=lose_reply() if lost else None)
    before = len(place.blob.select(**PUT_BLOCK))
    r = rotate(place, old)
    assert len(new_keys(place)) == 1 and "starting again" not in r.stderr and "Going on with version 1" in r.stderr
    v2, v1 = versions(place)
    assert v2["version"] == 2 and json.loads(r.stdout)["version"] == 2 and v1["current"]
    assert opened(place, v2, key_of(place, v2)) == opened(place, v1, old) == FILES
    sent = [b for (_, session), b in sent_once(place).items() if v2["key_id"].startswith(session)]
    assert len(sent) == 12, sent
    again = len(place.blob.select(**PUT_BLOCK)) - before
    assert again <= 12 - n + 2 if proxy == "blob" and criteria is PUT_BLOCK else again == 0
    assert list(place.dir.glob("*.upload")) == [], "nothing to go on with is left"


def test_killed_again_and_again(place, old):
    place.blob.keep_bodies = True
    for n in (1, 2, 3, 2, 1):
        killed(place, old, place.blob, n, PUT_BLOCK, action=lose_reply())
    rotate(place, old, "--promote")
    assert len(new_keys(place)) == 1 and opened(place, versions(place)[0], new_keys(place)[0]) == FILES
    sent_once(place)


def test_goes_on_with_what_was_begun_unless_told_otherwise(place, old):
    """Also when another version is the current one by now, as after a run that was killed before it could say so."""
    killed(place, old, place.plane, 1, REGISTER, "--promote", action=lose_reply(), done=lambda: len(versions(place)) == 2)
    v2, v1 = versions(place)
    assert v2["current"] and not v1["current"]
    assert json.loads(rotate(place, old, "--promote").stdout)["version"] == 2 and len(versions(place)) == 2
    first = new_keys(place)
    killed(place, old, place.blob, 5, PUT_BLOCK, "--asset-id", f"{place.asset}@1")
    begun = set(new_keys(place)) - set(first)
    r = rotate(place, first[0], "--asset-id", f"{place.asset}@2")
    assert f"What was begun is of {versions(place)[-1]['ciphertext_url']}: starting again under a new key" in r.stderr
    v3 = versions(place)[0]
    assert v3["version"] == 3 and len(new_keys(place)) == 3 and begun < set(new_keys(place)), "no key is taken away"
    assert opened(place, v3, key_of(place, v3)) == FILES


def test_a_key_that_is_gone_is_not_used_again(place, old):
    killed(place, old, place.blob, 5, PUT_BLOCK)
    lost, = new_keys(place)
    lost.rename(place.dir / "moved")
    r = rotate(place, old)
    assert "starting again under a new key" in r.stderr and new_keys(place) != [lost]
    v2 = versions(place)[0]
    assert opened(place, v2, key_of(place, v2)) == FILES
    killed(place, old, place.plane, 1, REGISTER)
    made, = set(new_keys(place)) - {key_of(place, v2)}
    made.rename(place.dir / "moved2")
    assert re.search("key [0-9a-f]{16} is needed, and it is not in .*; give it with --new-key-file, or move it back", rotate(place, old, rc=1).stderr)
    assert json.loads(rotate(place, old, "--new-key-file", place.dir / "moved2").stdout)["version"] == 3
    assert opened(place, versions(place)[0], place.dir / "moved2") == FILES


def test_key_for_a_recipient(place, old):
    identity = place.dir / "identity"
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    to = "age:" + subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True, text=True).stdout.strip()
    killed(place, old, place.blob, 5, PUT_BLOCK, out=to)
    assert "starting again under a new key" in rotate(place, old, "--key-out", to).stderr
    killed(place, old, place.blob, 1, MANIFEST, out=to)
    r = rotate(place, old, "--key-out", to, rc=1)
    assert "can decrypt; do that and give it with --new-key-file" in r.stderr
    kid = re.search("key ([0-9a-f]{16}) is needed", r.stderr).group(1)
    sealed, = place.dir.glob(f"*{kid}*.age")
    (place.dir / "clear").write_bytes(subprocess.run(["age", "-d", "-i", identity, sealed], check=True, capture_output=True).stdout)
    rotate(place, old, "--key-out", to, "--new-key-file", old, rc=1)
    rotate(place, old, "--key-out", to, "--new-key-file", place.dir / "clear")
    v3 = versions(place)[0]
    assert v3["key_id"] == kid and opened(place, v3, place.dir / "clear") == FILES


def test_one_at_a_time_and_no_file_of_ours_is_replaced(place, old):
    held = subprocess.Popen(command(place, old, "--bandwidth", "200K"), env=place.env(), cwd=place.dir, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(place.dir.glob("*.upload")) and place.blob.count(**PUT_BLOCK), 120, "the upload")
        assert "another tbpkg is working on this upload" in rotate(place, old, rc=1).stderr
    finally:
        held.kill()
        held.wait()
    assert len(new_keys(place)) == 1, "who had to wait made no key"
    for name in ("mine.json", "key"):
        (place.dir / name).write_text("ab" * 32)
        r = rotate(place, old, "--manifest", place.dir / name, rc=1)
        assert "never replaced" in r.stderr and (place.dir / name).read_text() == "ab" * 32
    (place.dir / "mine.json").write_text("{}")
    assert "exists already" in rotate(place, old, "--manifest", place.dir / "mine.json", rc=1).stderr


def test_an_upload_that_was_begun_is_not_forgotten_for_a_rotation(place, old):
    journal = place.out / "encrypted/model.manifest.json.upload"
    manifest, text = place.out / "encrypted/model.manifest.json", journal.read_bytes()
    manifest.rename(place.dir / "moved")
    assert "is of an upload that was begun; finish that, or choose another --manifest" in rotate(place, old, "--manifest", manifest, rc=1).stderr
    assert journal.read_bytes() == text and new_keys(place) == []


def test_a_model_of_one_file(place):
    (place.dir / "new").mkdir()
    shutil.rmtree(place.model)
    place.model.write_bytes(FILES["model-2.safetensors"])
    place.publish()
    old = place.model_key
    killed(place, old, place.blob, 3, PUT_BLOCK)
    rotate(place, old)
    v2 = versions(place)[0]
    at = f"models/{place.asset}/{v2['key_id']}/model"
    (place.dir / "m.tbenc").write_bytes(place.provider.azurite.get_blob(f"{at}.tbenc"))
    (place.dir / "m.manifest.json").write_bytes(place.provider.azurite.get_blob(f"{at}.manifest.json"))
    ok("decrypt", place.dir / "m.tbenc", "-k", key_of(place, v2), "-o", place.dir / "m")
    assert len(new_keys(place)) == 1 and (place.dir / "m").read_bytes() == FILES["model-2.safetensors"]


# -- overlays ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def overlay(place, old):
    """Version 2: files that are changed, renamed (past another), new and empty, on version 1."""
    (place.model / "config.json").write_bytes(b'{"b": 2}')
    (place.model / "model-1.safetensors").rename(place.model / "z.safetensors")
    (place.model / "a").mkdir()
    (place.model / "a/new").write_bytes(bytes(range(256)) * 700)
    (place.model / "empty").touch()
    place.out = place.dir / "out2"
    place.publish("--base", place.asset, "--key-file", old, "--no-promote")
    return {str(p.relative_to(place.model)): p.read_bytes() for p in place.model.rglob("*") if p.is_file()}


def at_2(place):
    return "--asset-id", f"{place.asset}@2"


def test_an_overlay_becomes_a_whole_version(place, old, overlay):
    r = rotate(place, old, *at_2(place))
    assert "Version 2 is an overlay on version 1 and has its key: the new version will have all files of both" in r.stderr
    v3, v2, _ = versions(place)
    assert "base_version" in v2 and "base_version" not in v3 and v3["key_id"] != v2["key_id"]
    assert opened(place, v3, key_of(place, v3)) == overlay
    killed(place, old, place.blob, 7, PUT_BLOCK, *at_2(place))
    rotate(place, old, *at_2(place))
    assert len(new_keys(place)) == 2 and opened(place, versions(place)[0], key_of(place, versions(place)[0])) == overlay


def test_an_overlay_of_names_alone(place, old):
    (place.model / "model-2.safetensors").rename(place.model / "0.safetensors")
    place.out = place.dir / "out2"
    place.publish("--base", place.asset, "--key-file", old, "--no-promote")
    rotate(place, old, *at_2(place))
    v3 = versions(place)[0]
    assert opened(place, v3, key_of(place, v3)) == {("0.safetensors" if k == "model-2.safetensors" else k): v for k, v in FILES.items()}


@pytest.mark.parametrize("which", ["base", "own"])
@pytest.mark.parametrize("damage", ["flip", "short", "gone", "manifest"])
def test_what_is_wrong_with_an_overlay_makes_no_new_version(place, old, overlay, which, damage):
    azurite = place.provider.azurite
    path = versions(place)[which == "base"]["ciphertext_url"].split(f"/{azurite.account}/", 1)[1]
    path = path.replace("model.tbenc", "model.manifest.json") if damage == "manifest" else path
    data = bytearray(azurite.get_blob(path))
    if damage == "gone":
        azurite.request("DELETE", path)
    else:
        data = data[:-100] if damage == "short" else data
        data[len(data) // 2] ^= 1
        azurite.request("PUT", path, bytes(data), {"x-ms-blob-type": "BlockBlob"})
    r = rotate(place, old, *at_2(place), rc=None)
    assert r.returncode in (1, 3) and path.split("/", 1)[1] in r.stderr and len(versions(place)) == 2


def test_signatures(place, old):
    for name in ("a", "b"):
        ok("keygen", "-W", "-s", place.dir / f"{name}.key")
    r = rotate(place, old, "--provider-key", place.dir / "a.pub", rc=1)
    assert "is not signed" in r.stderr and new_keys(place) == []
    rotate(place, old, "--sign-key", place.dir / "a.key")
    v2 = versions(place)[0]
    new, at = key_of(place, v2), ("--asset-id", f"{place.asset}@2")
    assert "not trusted here; check --provider-key" in rotate(place, new, *at, "--provider-key", place.dir / "b.pub", rc=1).stderr
    assert new_keys(place) == [new]
    r = rotate(place, new, *at, "--provider-key", place.dir / "a.pub", "--sign-key", place.dir / "a.key")
    assert "warning" not in r.stderr
    ok("verify", "-i", place.dir / "fetched/model.tbenc", "-m", next(place.dir.glob(f"*{versions(place)[0]['key_id']}.manifest.json")), "--provider-key",
       place.dir / "a.pub") if opened(place, versions(place)[0], key_of(place, versions(place)[0])) == FILES else pytest.fail("not the model")
    assert "version 2 is signed, and the new one will not be" in rotate(place, new, *at).stderr


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


def test_what_would_be_refused_at_the_end_is_said_before_the_first_byte(place, old):
    ctl = place.provider.controlplane.ctl
    for scope, more, word in (("support", [], "publisher"), ("publisher", ["--promote"], "replace")):
        place.token.write_text(ctl("token", "add", f"r-{scope}-{place.asset}", "--scope", scope).split()[-1])
        assert f"has not the scope {word}" in rotate(place, old, *more, rc=4).stderr
    assert "container 'none' does not exist" in rotate(place, old, "--container", "none", rc=3).stderr
    assert new_keys(place) == [] and len(versions(place)) == 1


def test_what_it_refuses(place, old):
    other = place.dir / "other.key"
    other.write_text("ab" * 32)
    assert "key" in rotate(place, other, rc=1).stderr
    assert "there is no such version" in rotate(place, old, "--asset-id", f"{place.asset}@7", rc=3).stderr
    assert new_keys(place) == [] and list(place.dir.glob("*.upload")) == [] and wait_for(lambda: old.exists(), what="the old key")
