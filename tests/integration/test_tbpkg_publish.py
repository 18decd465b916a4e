# SPDX-License-Identifier: Apache-2.0
"""tbpkg publish against a real Azurite and the development control plane: straight, killed at each step, refused at each step,
interrupted at a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import subprocess
import termios
import time
import zipfile

import pytest

import tbsys
from faultproxy import status, swallow
from publish_place import FILES, IMAGE, STEPS, place, provider  # noqa: F401
from tbsys import read_json, wait_for


# -- the straight way --------------------------------------------------------------------------------------------------

def test_publish_and_nothing_left_to_do(place):
    r = place.publish("--json")
    summary = place.check_published()
    assert json.loads(r.stdout) == summary and summary["asset_id"] == place.asset
    assert place.plane.count(method="POST") == 1
    before, puts = (place.out / "publish-summary.json").read_bytes(), place.puts()
    assert not list(place.dir.rglob("model.tbenc")), "no second copy of the model"
    r = place.publish()
    assert place.puts() == puts and place.plane.count(method="POST") == 1
    assert r.stderr.count("done already") == 4 and "Step" not in r.stderr
    assert (place.out / "publish-summary.json").read_bytes() == before
    for word in (place.asset, "managed-app.zip", place.plane.url, place.model_key.name):
        assert word in r.stdout


def test_copies_elsewhere_are_registered_too(place):
    """The same container by other names, as a replicated account has it."""
    endpoint = place.provider.azurite.endpoint
    copies = [f"{endpoint}/{place.container}", f"{endpoint.replace('127.0.0.1', 'localhost')}/{place.container}/"]
    place.publish("--blob-url", copies[0], "--blob-url", copies[1])
    body = place.answer_to_a_consumer()
    places = {u.partition("?")[0] for u in (body["sas_url"], *(f["sas_url"] for f in body["fallbacks"]))}
    assert places == {f"{c.rstrip('/')}/{place.asset}/model.tbenc" for c in (*copies, f"{place.blob.url}/{place.provider.azurite.account}/{place.container}")}
    n = place.plane.count(method="POST")
    place.publish("--blob-url", copies[0], "--blob-url", copies[1])
    assert place.plane.count(method="POST") == n  # nothing is left to do
    place.publish("--blob-url", copies[0])
    assert len(place.answer_to_a_consumer()["fallbacks"]) == 1
    assert "--blob-url" in place.publish("--blob-url", "ftp://x/y", rc=2).stderr


def test_dry_run_changes_nothing(place):
    r = place.publish("--dry-run", "--json", yes=False)
    assert json.loads(r.stdout)["steps"] == {**{s: "to do" for s in STEPS}, "build": "skipped"}
    assert not place.out.exists() and place.looked_only()
    plan = place.publish("--dry-run", yes=False).stderr
    assert f"2.9 MiB in 3 files of {place.model}" in plan and "sealed on the way to the storage; no copy is kept here" in plan
    assert f"2.9 MiB to {place.blob.url}/{place.provider.azurite.account}/models/{place.asset}/" in plan
    assert f"at {place.plane.url}" in plan and "managed-app.zip" in plan
    place.publish("--skip-package")
    r = place.publish("--dry-run", yes=False)
    assert r.stderr.count("done already") == 3 and r.stderr.count("to do") == 1 and not (place.out / "managed-app.zip").exists()


def test_a_copy_is_kept_on_request(place):
    place.local = place.dir / "copies.tbenc"
    r = place.publish()
    assert "Step 1 of 5: encrypt\n" in r.stderr and "Step 2 of 5: upload\n" in r.stderr
    summary = place.check_published()
    assert place.local.exists() and summary["steps"]["encrypt"]["encrypted_file"] == str(place.local)
    assert "--out: name a file" in place.publish("--out", "x/", rc=2).stderr


def test_a_new_target_repeats_only_what_it_must(place):
    """The same ciphertext goes to the other container, block by block compared."""
    place.publish()
    sealed = place.provider.azurite.get_blob(f"models/{place.asset}/model.tbenc")
    posts, manifest = place.plane.count(method="POST"), (place.out / "encrypted/model.manifest.json").stat()
    place.provider.azurite.create_container("elsewhere")
    place.container = "elsewhere"
    place.publish()
    assert place.provider.azurite.get_blob(f"elsewhere/{place.asset}/model.tbenc") == sealed
    assert (place.out / "encrypted/model.manifest.json").stat().st_size == manifest.st_size
    assert place.plane.count(method="POST") == posts + 1  # its URL is another one
    place.publish("--set", "instanceCount=2")
    assert place.plane.count(method="POST") == posts + 1
    place.check_published()
    (place.out / "managed-app.zip").unlink()
    place.publish("--set", "instanceCount=2")
    place.check_published()


def test_another_model_under_the_same_id_is_refused(place):
    place.publish()
    (place.model / "config.json").write_bytes(b"{}")
    key = place.model_key.read_bytes()
    r = place.publish(rc=1)
    assert "is not what" in r.stderr and "new asset id" in r.stderr and place.model_key.read_bytes() == key
    (place.model / "config.json").write_bytes(FILES["config.json"])  # same bytes, another time: not known to be the same
    place.publish(rc=1)
    place.asset += "-2"
    assert "belongs to asset" in place.publish(rc=1).stderr


def test_skipping_and_key_elsewhere(place):
    place.publish("--skip-upload", "--skip-register", "--skip-package")
    assert place.blob.requests == [] and place.plane.requests == []
    was = place.model_key
    was.rename(place.dir / "kept.key")
    place.publish("--skip-encrypt", "--key-file", place.dir / "kept.key", model=False)
    (place.dir / "kept.key").rename(was)
    place.state()
    assert place.asset in place.provider.controlplane.ctl("asset", "list") and all(place.done(s) for s in STEPS)
    assert read_json(place.out / "publish-summary.json")["steps"]["encrypt"]["skipped"]
    place.publish()
    place.check_published()


def test_forget_key_only_after_the_control_plane_has_it(place):
    place.plane.rule(status(403, body="{}"), method="POST")
    place.publish("--forget-key", rc=4)
    assert place.model_key.exists()
    place.plane.clear_rules()
    r = place.publish("--forget-key")
    assert not place.model_key.exists() and "only the control plane has the key" in r.stderr
    assert "key_file" not in read_json(place.out / "publish-summary.json")
    place.publish()


def test_the_image_that_was_built_goes_into_the_package(place):
    """Packer is played by a script here: what matters is what becomes of its result."""
    (place.dir / "bin").mkdir()
    (place.dir / "bin" / "packer").write_text(f"#!/bin/sh\necho Packer v1.6.6\n[ $1 = version ] || echo $1 >>{place.dir}/calls\n")
    (place.dir / "bin" / "packer").chmod(0o755)
    (place.dir / "debs").mkdir()
    (place.dir / "debs" / "trustbridge_1_amd64.deb").write_bytes(b"1")
    build = ["--target", "vm-azure", "--deb-dir", place.dir / "debs", "--packer-dir", tbsys.repo / "packer", "--var", "subscription_id=s",
             "--var", "resource_group=rg", "--var", "gallery_name=g"]
    place.path, image = f"{place.dir}/bin:{os.environ['PATH']}", place.image
    place.image = []
    r = place.publish(*build, "--all-steps", "--sentinel-binary", "x")
    assert "--all-steps is obsolete: all steps are" in r.stderr and "no --vm-image" not in r.stderr
    gallery = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Compute/galleries/g/images/trustbridge/versions/1.0.0"
    with zipfile.ZipFile(place.out / "managed-app.zip") as z:
        assert json.loads(z.read("mainTemplate.json"))["parameters"]["imageId"]["defaultValue"] == gallery
    assert gallery in r.stdout and (place.dir / "calls").read_text() == "build\n"
    place.publish(*build)
    assert (place.dir / "calls").read_text() == "build\n"
    (place.dir / "debs" / "trustbridge_1_amd64.deb").write_bytes(b"2")
    place.publish(*build)
    assert (place.dir / "calls").read_text() == "build\nbuild\n"
    place.image = image
    assert "--deb-dir" in place.publish("--registry", "r.example", rc=2).stderr


# -- kills -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("step,done", [(s, d) for s in STEPS for d in (False, True)],
                         ids=[f"{s}-{d}" for s in STEPS for d in ("begun", "done")])
def test_killed_at_a_step_and_run_again(place, step, done):
    """When the state says so the run is killed; wherever it then is, the next one ends as if nothing had happened."""
    p = place.start()
    try:
        wait_for(lambda: p.poll() is not None or (step in place.state() and (not done or place.done(step))), 30,
                 f"{step}", every=0.0005)
    finally:
        p.kill()
        p.wait()
    encrypted = place.done("encrypt") and place.model_key.read_bytes()
    place.publish()
    place.check_published()
    if encrypted:
        assert place.model_key.read_bytes() == encrypted


@pytest.mark.parametrize("what", ["upload", "register"])
def test_killed_while_a_service_is_asked(place, what):
    proxy, criteria = (place.blob, {"method": "PUT", "path": "tbenc$"}) if what == "upload" else (place.plane, {"method": "POST"})
    proxy.rule(swallow(), **criteria)
    p = place.start()
    proxy.wait(1, **criteria)
    p.kill()
    p.wait()
    assert place.done("encrypt") == (what == "register") and not place.done(what)
    key = place.model_key.read_bytes()
    proxy.clear_rules()
    place.publish()
    place.check_published()
    assert place.model_key.read_bytes() == key


def test_killed_while_the_image_is_built(place):
    (place.dir / "bin").mkdir()
    script = place.dir / "bin" / "packer"
    script.write_text(f"#!/bin/sh\necho Packer v1.6.6\n[ $1 = version ] || {{ touch {place.dir}/began; sleep 2; }}\n")
    script.chmod(0o755)
    (place.dir / "debs").mkdir()
    (place.dir / "debs" / "trustbridge_1_amd64.deb").write_bytes(b"1")
    place.path = f"{place.dir}/bin:{os.environ['PATH']}"
    build = ["--target", "vm-azure", "--deb-dir", place.dir / "debs", "--packer-dir", tbsys.repo / "packer", "--var=subscription_id=s",
             "--var=resource_group=rg", "--var=gallery_name=g"]
    p = place.start(*map(str, build))
    wait_for(lambda: (place.dir / "began").exists(), 30, "packer")
    p.kill()
    p.wait()
    assert place.done("register") and not place.done("build")
    script.write_text("#!/bin/sh\necho Packer v1.6.6\n")
    posts = place.plane.count(method="POST")
    place.publish(*build)
    assert place.done("build") and place.plane.count(method="POST") == posts
    place.check_published()


def test_killed_again_and_again(place):
    for i in range(60):
        p = place.start()
        try:
            if p.wait(0.02 + 0.015 * i) == 0:
                break
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
    place.publish()
    place.check_published()


def test_what_a_killed_encryption_leaves(place):
    """Key without ciphertext: another key is made, and the old one stays; its id is part of its name."""
    place.publish("--skip-upload", "--skip-register", "--skip-package")
    state = read_json(place.out / "publish-state.json")
    state["steps"]["encrypt"]["done"] = False
    (place.out / "publish-state.json").write_text(json.dumps(state))
    sealed = (place.out / "encrypted/model.tbenc").read_bytes()
    r = place.publish("--skip-upload", "--skip-register", "--skip-package")  # all three are there: checked and taken
    assert "checking it" in r.stderr and (place.out / "encrypted/model.tbenc").read_bytes() == sealed
    (place.out / "publish-state.json").write_text(json.dumps(state))
    (place.out / "encrypted/model.manifest.json").unlink()
    (place.out / "encrypted/.model.tbenc.AbCdEf").write_bytes(b"half")
    (place.out / f".{place.model_key.name}.AbCdEf").write_bytes(b"half")
    old, bytes_of_old = place.model_key, place.model_key.read_bytes()
    place.publish()
    assert old.read_bytes() == bytes_of_old
    old.rename(place.dir / old.name)
    place.check_published()


def test_an_asset_nobody_recorded_is_left_alone(place):
    (place.out / "encrypted").mkdir(parents=True)
    for name, other in (("model.tbenc", "model.manifest.json"), ("model.manifest.json", "model.tbenc")):
        (place.out / "encrypted" / name).write_bytes(b"made by hand")
        r = place.publish(rc=1)
        assert "--skip-encrypt" in r.stderr and (place.out / "encrypted" / name).read_bytes() == b"made by hand"
        assert not (place.out / "encrypted" / other).exists() and "encrypt" not in place.state()
        (place.out / "encrypted" / name).unlink()


def test_one_at_a_time(place):
    place.blob.rule(swallow(), method="PUT", path="tbenc$")
    p = place.start()
    place.blob.wait(1, method="PUT", path="tbenc$")
    assert "another tbpkg publish" in place.publish(rc=1).stderr
    p.kill()
    p.wait()


# -- refusals ----------------------------------------------------------------------------------------------------------

def test_wrong_storage_key_then_the_right_one(place):
    good = place.key.read_text()
    place.key.write_text("A" * 86 + "==")
    for place.local in (None, place.dir / "kept.tbenc"):
        r = place.publish(rc=4)
        assert "403" in r.stderr and "Nothing was done" in r.stderr and not place.done("encrypt")
        assert not place.out.exists(), "nothing was made for a service that refuses"
    place.blob.rule(status(403), method="PUT", path="tbenc$")  # refused later: the work so far is kept
    place.key.write_text(good)
    r = place.publish(rc=4)
    assert "403" in r.stderr and "The step 'upload' failed" in r.stderr and place.done("encrypt")
    key = place.model_key.read_bytes()
    place.blob.clear_rules()
    place.publish()
    place.check_published()
    assert place.model_key.read_bytes() == key


def test_wrong_token_then_the_right_one(place):
    good = place.token.read_text()
    place.token.write_text("expired-token-0123456789")
    r = place.publish(rc=4)
    assert f"does not take the token in {place.token}" in r.stderr and place.looked_only() and not place.out.exists()
    place.token.write_text(good)
    place.plane.rule(status(401), method="POST")  # revoked while the model is sent
    r = place.publish(rc=4)
    assert "answered 401" in r.stderr and "--token-file" in r.stderr and place.done("upload") and not place.done("register")
    place.plane.clear_rules()
    puts = place.puts()
    place.token.write_text(good)
    place.publish()
    assert place.puts() == puts
    place.check_published()


def test_missing_container_names_the_command(place):
    place.container = "nosuchcontainer"
    r = place.publish(rc=3)
    assert "az storage container create" in r.stderr and "--name nosuchcontainer" in r.stderr
    place.provider.azurite.create_container("nosuchcontainer")
    place.publish()
    place.check_published()


def test_asset_id_of_other_contents(place):
    """At the control plane. In storage the new version lies beside the one before, in the same container."""
    place.plane.rule(status(409, {"Content-Type": "application/json"}, b'{"message": "asset exists with another sha256"}'), method="POST")
    r = place.publish(rc=5)
    assert "409: asset exists with another sha256" in r.stderr and "new asset id" in r.stderr
    place.plane.clear_rules()
    place.publish()
    other = place.dir / "other"
    place.out = other
    azurite = place.provider.azurite
    first = azurite.get_blob(f"{place.container}/{place.asset}/model.tbenc")
    place.plane.clear()
    assert "--replace" in place.publish(rc=5).stderr  # contract-allow is for every asset
    place.publish("--replace")
    assert azurite.get_blob(f"{place.container}/{place.asset}/model.tbenc") == first
    manifest = (other / "encrypted/model.manifest.json").read_bytes()
    second = f"{place.container}/{place.asset}/{json.loads(manifest)['key_id']}"
    assert azurite.get_blob(f"{second}/model.manifest.json") == manifest
    shown, = [line.split() for line in place.provider.controlplane.ctl("asset", "list").splitlines() if line.startswith(place.asset)]
    assert shown[1] == "2" and shown[-1].endswith(f"/{second}/model.tbenc"), shown


def test_errors_of_late_steps_are_found_first(place):
    for args, word in ((["--set", "vmSize=Huge"], "vmSize"), (["--template-dir", "/nonexistent"], "--template-dir"),
                       (["--token-file", "/nonexistent"], "/nonexistent"), (["--ca-file", place.dir / "absent"], "absent")):
        r = place.publish(*args, rc=1)
        assert word in r.stderr and not place.model_key.exists(), args
    for args, word in ((["--edc-endpoint", "http://h"], "--edc-endpoint"), (["--container", "X"], "--container"),
                       (["--vm-image", "a:b:c", "--package-version", "1"], None)):
        if word:
            assert word in place.publish(*args, rc=2).stderr
    assert "not a terminal" in place.publish(yes=False, rc=2).stderr
    assert place.looked_only() and "encrypt" not in place.state()


def test_too_large_for_the_disk(place):
    free = os.statvfs(place.dir).f_bavail * os.statvfs(place.dir).f_frsize
    with open(place.model / "huge", "wb") as f:
        f.truncate(free + (30 << 30))
    place.publish("--dry-run")  # straight into the storage
    place.local = place.dir / "kept.tbenc"
    for more in (["--dry-run"], []):
        r = place.publish(*more, rc=7)
        assert "are needed" in r.stderr and "are free" in r.stderr
    assert not place.model_key.exists() and "encrypt" not in place.state()


def test_unwritable_output(place):
    place.out = place.dir / "file"
    place.out.write_text("")
    assert str(place.out) in place.publish(rc=1).stderr
    place.out = place.model / "sub" / ".."
    r = place.publish("--output", place.model / "out", rc=1)
    assert "is inside the input directory" in r.stderr and not (place.model / "out").exists()
    r = place.publish("--output", "/proc/nothere", rc=1)
    assert "/proc/nothere" in r.stderr


# -- at a terminal -----------------------------------------------------------------------------------------------------

class Terminal:
    def __init__(self, place, *more):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x18\x00\x64\x00\x00\x00\x00\x00")
        self.slave, self.before, self.text = slave, termios.tcgetattr(slave), ""
        self.p = subprocess.Popen([*map(str, place.argv(*more, yes=False)), str(place.model)], env=place.env(), stdin=slave,
                                  stdout=slave, stderr=slave, start_new_session=True,
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))

    def read_until(self, word, seconds=30):
        end = time.monotonic() + seconds
        while not re.search(word, self.text):
            assert time.monotonic() < end, self.text
            if select.select([self.master], [], [], 0.2)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
        return self.text

    def end(self):
        rc = self.p.wait(30)
        while select.select([self.master], [], [], 0.2)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")
        after = termios.tcgetattr(self.slave)
        os.close(self.master)
        os.close(self.slave)
        assert after == self.before
        return rc


def test_control_c_leaves_terminal_and_state_whole(place):
    place.blob.rule(swallow(), method="PUT", path="tbenc$")
    t = Terminal(place)
    t.read_until(r"Go on\? \[Y/n\] ")
    os.write(t.master, b"\n")
    place.blob.wait(1, method="PUT", path="tbenc$")
    t.read_until("Uploading")
    os.write(t.master, b"\x03")
    assert t.end() == 130
    assert "to continue" in t.text or "to resume" in t.text
    assert t.text.endswith("\r\n") and "\x1b[?25l" not in t.text and "\x1b[?1049" not in t.text
    assert not place.done("encrypt") and not place.done("upload")
    key = place.model_key.read_bytes()
    place.blob.clear_rules()
    place.publish()
    place.check_published()
    assert place.model_key.read_bytes() == key


def test_control_c_while_encrypting(place):
    with open(place.model / "large", "wb") as f:
        f.truncate(1 << 30)
    t = Terminal(place, "--skip-upload", "--skip-register", "--skip-package")
    t.read_until(r"Go on\?")
    os.write(t.master, b"y\n")
    t.read_until("Encrypting")
    os.write(t.master, b"\x03")
    assert t.end() == 130 and t.text.endswith("\r\n")
    assert [p.name for p in place.out.rglob("*") if p.is_file()] == ["publish-state.json"]
    (place.model / "large").unlink()
    place.publish("--skip-upload", "--skip-register", "--skip-package")


def test_no_means_no(place):
    t = Terminal(place)
    t.read_until(r"Go on\?")
    os.write(t.master, b"n\n")
    assert t.end() == 1 and "nothing was done" in t.text
    assert not place.model_key.exists() and place.looked_only()
