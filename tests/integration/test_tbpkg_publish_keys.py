# SPDX-License-Identifier: Apache-2.0
"""tbpkg publish: no order of runs loses a key, and what is left out of a model directory stays out."""

import subprocess

from faultproxy import status, swallow
from publish_place import FILES, place, provider  # noqa: F401
from tbsys import read_json


# -- keys --------------------------------------------------------------------------------------------------------------

def test_a_forgotten_key_is_not_replaced_for_another_control_plane(place):
    place.local = place.dir / "kept.tbenc"
    place.publish("--forget-key")
    key, sealed = place.key_of_a_consumer(), place.local.read_bytes()
    before = (place.out / "publish-state.json").read_bytes()
    r = place.publish("--edc-endpoint", place.plane.url + "/other", rc=1)
    key_id = read_json(place.out / "encrypted/model.manifest.json")["key_id"]
    for word in (key_id, "--forget-key", place.plane.url, "--key-file"):
        assert word in r.stderr, word
    assert (place.out / "publish-state.json").read_bytes() == before
    assert place.local.read_bytes() == sealed and place.key_of_a_consumer() == key
    (place.dir / "wrong.key").write_text("ab" * 32 + "\n")
    r = place.publish("--edc-endpoint", place.plane.url + "/", "--key-file", place.dir / "wrong.key", rc=1)
    assert f"was encrypted with key {key_id}" in r.stderr and place.key_of_a_consumer() == key
    (place.dir / "right.key").write_text(key + "\n")
    place.publish("--edc-endpoint", place.plane.url + "/", "--key-file", place.dir / "right.key")
    assert place.key_of_a_consumer() == key


def test_a_key_that_was_moved_away_is_asked_for(place):
    place.plane.rule(status(401, body="{}"), method="POST")
    place.local = place.dir / "kept.tbenc"
    place.publish(rc=4)
    place.plane.clear_rules()
    (place.dir / "vault").mkdir()
    was, sealed = place.model_key, place.local.read_bytes()
    vault = was.rename(place.dir / "vault" / "k")
    puts = place.puts()
    for more in ([], ["--dry-run"]):
        r = place.publish(*more, rc=1)
        assert str(was) in r.stderr and was.stem.rsplit("-", 1)[1] in r.stderr and "--key-file" in r.stderr
    assert place.puts() == puts and place.local.read_bytes() == sealed
    place.publish("--key-file", vault)
    vault.rename(was)
    place.check_published()


def test_a_stored_asset_is_not_encrypted_again(place):
    place.local = place.dir / "kept.tbenc"
    place.publish("--skip-package")
    sealed, manifest = place.local, place.out / "encrypted/model.manifest.json"
    text, key = sealed.read_bytes(), place.model_key.read_bytes()
    sealed.unlink()  # the storage account has it
    place.publish()
    assert not sealed.exists() and place.model_key.read_bytes() == key
    sealed.write_bytes(text)
    manifest.rename(place.dir / "m")
    r = place.publish(rc=1)
    assert f"{manifest}: is missing" in r.stderr and "another key" in r.stderr and place.model_key.read_bytes() == key
    (place.dir / "m").rename(manifest)
    place.check_published()


def test_key_for_a_recipient_only(place):
    """The clear key is in no file, and a run that was interrupted before the registration asks for it."""
    subprocess.run(["age-keygen", "-o", place.dir / "identity"], check=True, capture_output=True)
    recipient = subprocess.run(["age-keygen", "-y", place.dir / "identity"], check=True, capture_output=True, text=True).stdout.strip()
    place.plane.rule(status(401, body="{}"), method="POST")
    place.publish("--key-out", f"age:{recipient}", rc=4)
    place.plane.clear_rules()
    sealed_key = next((place.out / "encrypted").glob(f"{place.asset}-*.key.age"))
    r = place.publish("--key-out", f"age:{recipient}", rc=1)
    assert str(sealed_key) in r.stderr and recipient in r.stderr and "--key-file" in r.stderr
    clear = subprocess.run(["age", "-d", "-i", place.dir / "identity", sealed_key], check=True, capture_output=True).stdout
    r = subprocess.run([*map(str, place.argv("--key-out", f"age:{recipient}", "--key-file", "-")), str(place.model)], env=place.env(),
                       input=clear, capture_output=True, timeout=60, check=False)
    assert r.returncode == 0, r.stderr
    assert place.key_of_a_consumer() == clear.decode().strip()
    place.asset, place.out = place.asset + "-b", place.dir / "out-b"
    place.publish("--key-out", f"age:{recipient}")  # in one go, no key has to be given
    key = place.key_of_a_consumer().encode()
    for path in place.dir.rglob("*"):
        assert not path.is_file() or key not in path.read_bytes(), path
    assert "key_recipient" in place.state()["encrypt"]["result"]


def test_key_file_where_a_key_would_be_made(place):
    (place.dir / "k").write_text("ab" * 32)
    assert "encrypting makes a key" in place.publish("--key-file", place.dir / "k", rc=1).stderr
    assert "encrypt" not in place.state() if place.out.exists() else True


def test_a_run_that_was_killed_while_it_sent_asks_for_no_key(place):
    """Nothing under the key exists: another is made, and with the key it goes on."""
    for give in (False, True):
        place.asset, place.out = f"{place.asset}-{give}", place.dir / f"out-{give}"
        place.blob.rule(swallow(), nth=range(1, 1000), method="PUT", path="tbenc$")
        before = place.blob.count(method="PUT", path="tbenc$")
        p = place.start()
        place.blob.wait(before + 1, method="PUT", path="tbenc$")
        p.kill()
        p.wait()
        place.blob.clear_rules()
        kept = place.model_key.rename(place.dir / f"kept-{give}")
        r = place.publish(*(["--key-file", kept] if give else []))
        assert ("starting again under a new key" in r.stderr) != give
        assert (place.key_of_a_consumer() == kept.read_text().strip()) == give


def test_a_run_that_was_killed_goes_on_with_its_own_key(place):
    """And not with one of an earlier version that lies there."""
    place.blob.rule(swallow(), nth=range(1, 1000), method="PUT", path="tbenc$")
    p = place.start()
    place.blob.wait(1, method="PUT", path="tbenc$")
    p.kill()
    p.wait()
    place.blob.clear_rules()
    key = place.model_key.read_text()
    (place.out / "model.key").write_text("ab" * 32 + "\n")
    assert "new key" not in place.publish().stderr
    assert place.key_of_a_consumer() == key.strip()


# -- the model directory -----------------------------------------------------------------------------------------------

def test_publish_leaves_out_what_encrypt_does(place):
    (place.model / ".git").mkdir()
    (place.model / ".git" / "config").write_text("TOKEN")
    (place.model / "notes.md").write_text("x")
    r = place.publish("--exclude", "*.md", "--skip-package", "--dry-run", yes=False)
    assert "Left out: .git/, notes.md" in r.stderr
    r = place.publish("--exclude", "*.md", "--skip-package")
    assert r.stderr.count("Left out: .git/, notes.md") == 1
    manifest = read_json(place.out / "encrypted/model.manifest.json")
    assert [f["path"] for f in manifest["files"]] == sorted(FILES)
    (place.model / "notes.md").write_text("changed")  # is not part of the model
    assert place.publish("--exclude", "*.md", "--skip-package").stderr.count("done already") == 3
    assert "is not what" in place.publish("--skip-package", rc=1).stderr
