# SPDX-License-Identifier: Apache-2.0
"""tbpkg publish against a real Azurite and the development control plane: straight, killed at each step, refused at each step,
interrupted at a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import ssl
import subprocess
import termios
import time
import urllib.request
import zipfile

import pytest

import tbsys
from chain import Provider
from faultproxy import FaultProxy, status, swallow
from tbpkg_templates import write_templates
from tbsys import read_json, wait_for

IMAGE = "acme:trustbridge-gpu:hidden-plan"
STEPS = ["encrypt", "upload", "register", "package"]
FILES = {"config.json": b'{"a": 1}', "model-1.safetensors": b"\x01" * 1_500_000, "model-2.safetensors": os.urandom(1_500_000)}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    p = Provider(tmp_path_factory.mktemp("provider")).start()
    yield p
    p.stop()


_count = 0


class Place:
    """A model, an output directory and an asset of its own; blob service and control plane behind fault proxies."""

    def __init__(self, provider, blob, plane, directory):
        global _count
        _count += 1
        self.provider, self.blob, self.plane, self.dir = provider, blob, plane, directory
        self.asset, self.container, self.out = f"asset-{_count}", "models", directory / "out"
        self.model, self.image, self.path = directory / "model", ["--vm-image", IMAGE], os.environ["PATH"]
        self.model.mkdir()
        for name, data in FILES.items():
            (self.model / name).write_bytes(data)
        write_templates(directory / "t")
        self.key, self.token = directory / "account.key", directory / "token"
        self.key.write_text(provider.azurite.key)
        self.token.write_text(open(provider.controlplane.token_file).read())

    def argv(self, *more, yes=True):
        return [tbsys.program("tbpkg"), "publish", "--asset-id", self.asset, "--storage-account", self.provider.azurite.account,
                "--container", self.container, "--endpoint", f"{self.blob.url}/{self.provider.azurite.account}", "--account-key-file",
                self.key, "--edc-endpoint", self.plane.url, "--token-file", self.token, "--ca-file", self.provider.ca.cert,
                *self.image, "--template-dir", self.dir / "t", "--output", self.out, "--chunk-bytes", "64K",
                *(["--yes"] if yes else []), *more]

    def env(self):
        return {"PATH": self.path, "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
                **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def publish(self, *more, model=True, rc=0, yes=True):
        r = subprocess.run([*map(str, self.argv(*more, yes=yes)), *([str(self.model)] if model else [])], env=self.env(),
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert r.returncode == rc, (r.returncode, r.stderr)
        assert "Sanitizer" not in r.stderr
        self.no_secrets(r.stdout + r.stderr)
        return r

    def start(self, *more, **kw):
        return subprocess.Popen([*map(str, self.argv(*more)), str(self.model)], env=self.env(),
                                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **kw})

    def state(self):
        return read_json(self.out / "publish-state.json").get("steps", {})

    def done(self, step):
        return self.state().get(step, {}).get("done", False)

    def no_secrets(self, *texts):
        secrets = [self.key.read_text().strip(), self.token.read_text().strip()]
        if self.model_key.exists():
            secrets.append(self.model_key.read_text().strip())
        state = (self.out / "publish-state.json").read_text() if (self.out / "publish-state.json").exists() else ""
        for s in secrets:
            assert all(s.lower() not in t.lower() for t in (*texts, state))

    def key_of_a_consumer(self):
        """The one the control plane would give to a machine with a contract."""
        body = json.dumps({"contract_id": "contract-allow", "asset_id": self.asset, "hw_id": "h", "client_version": "t"}).encode()
        rq = urllib.request.Request(f"{self.provider.controlplane.url}/api/v1/license/authorize", body,
                                    {"Content-Type": "application/json"})
        context = ssl.create_default_context(cafile=self.provider.ca.cert)
        with urllib.request.urlopen(rq, context=context, timeout=20) as answer:
            return json.load(answer)["decryption_key_hex"]

    @property
    def model_key(self):
        """The key's file: the only one that is named after the asset."""
        return next(iter(self.out.glob(f"{self.asset}-*.key")), self.out / "no.key")

    def puts(self):
        return self.blob.count(method="PUT")

    def check_published(self):
        """What the run promises, however often it was interrupted."""
        assert all(self.done(s) for s in STEPS)
        sealed = (self.out / "encrypted/model.tbenc").read_bytes()
        manifest = (self.out / "encrypted/model.manifest.json").read_bytes()
        azurite = self.provider.azurite
        assert azurite.get_blob(f"{self.container}/{self.asset}/model.tbenc") == sealed
        assert azurite.get_blob(f"{self.container}/{self.asset}/model.manifest.json") == manifest
        assert self.asset in self.provider.controlplane.ctl("asset", "list")
        summary = read_json(self.out / "publish-summary.json")
        assert summary["steps"]["encrypt"]["sha256_ciphertext"] == json.loads(manifest)["sha256_ciphertext"]
        assert set(summary["steps"]) == {*STEPS, "build"}
        with zipfile.ZipFile(self.out / "managed-app.zip") as z:
            assert json.loads(z.read("mainTemplate.json"))["parameters"]["assetId"]["defaultValue"] == self.asset
        assert self.model_key.stat().st_mode & 0o777 == 0o600
        opened = self.dir / "opened"
        shutil.rmtree(opened, ignore_errors=True)
        r = subprocess.run([tbsys.program("tbpkg"), "decrypt", "-q", "-i", self.out / "encrypted/model.tbenc", "-k",
                            self.model_key, "-o", opened], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        assert {p.name: p.read_bytes() for p in opened.iterdir()} == FILES
        assert self.key_of_a_consumer() == self.model_key.read_text().strip()
        assert [p.name for p in (*self.out.iterdir(), *(self.out / "encrypted").iterdir()) if p.name.startswith(".")] == []
        self.no_secrets((self.out / "publish-summary.json").read_text())
        return summary


@pytest.fixture
def place(provider, tmp_path):
    with FaultProxy(provider.azurite.endpoint.rsplit("/", 1)[0], tls=provider.ca.issue("blob")) as blob, \
            FaultProxy(provider.controlplane.url, tls=provider.ca.issue("plane")) as plane:
        yield Place(provider, blob, plane, tmp_path)


# -- the straight way --------------------------------------------------------------------------------------------------

def test_publish_and_nothing_left_to_do(place):
    r = place.publish("--json")
    summary = place.check_published()
    assert json.loads(r.stdout) == summary and summary["asset_id"] == place.asset
    assert place.plane.count(method="POST") == 1
    before, puts = (place.out / "publish-summary.json").read_bytes(), place.puts()
    sealed = (place.out / "encrypted/model.tbenc").stat()
    r = place.publish()
    assert place.puts() == puts and place.plane.count(method="POST") == 1
    assert r.stderr.count("done already") == 4 and "Step" not in r.stderr
    assert (place.out / "publish-summary.json").read_bytes() == before
    assert (place.out / "encrypted/model.tbenc").stat() == sealed
    for word in (place.asset, "managed-app.zip", place.plane.url, place.model_key.name):
        assert word in r.stdout


def test_dry_run_changes_nothing(place):
    r = place.publish("--dry-run", "--json", yes=False)
    assert json.loads(r.stdout)["steps"] == {**{s: "to do" for s in STEPS}, "build": "skipped"}
    assert not place.out.exists() and place.blob.requests == [] and place.plane.requests == []
    place.publish("--skip-package")
    r = place.publish("--dry-run", yes=False)
    assert r.stderr.count("done already") == 3 and r.stderr.count("to do") == 1 and not (place.out / "managed-app.zip").exists()


def test_a_new_target_repeats_only_what_it_must(place):
    place.publish()
    sealed, posts = (place.out / "encrypted/model.tbenc").stat(), place.plane.count(method="POST")
    place.provider.azurite.create_container("elsewhere")
    place.container = "elsewhere"
    place.publish()
    assert (place.out / "encrypted/model.tbenc").stat() == sealed
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
    place.publish("--forget-key", rc=1)
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
    proxy, criteria = (place.blob, {"method": "PUT"}) if what == "upload" else (place.plane, {"method": "POST"})
    proxy.rule(swallow(), **criteria)
    p = place.start()
    proxy.wait(1, **criteria)
    p.kill()
    p.wait()
    assert place.done("encrypt") and not place.done(what)
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
    build = ["--target", "vm-azure", "--deb-dir", place.dir / "debs", "--packer-dir", tbsys.repo / "packer"]
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
    place.blob.rule(swallow(), method="PUT")
    p = place.start()
    place.blob.wait(1, method="PUT")
    assert "another tbpkg publish" in place.publish(rc=1).stderr
    p.kill()
    p.wait()


# -- refusals ----------------------------------------------------------------------------------------------------------

def test_wrong_storage_key_then_the_right_one(place):
    good = place.key.read_text()
    place.key.write_text("A" * 86 + "==")
    r = place.publish(rc=1)
    assert "403" in r.stderr and "The step 'upload' failed" in r.stderr and place.done("encrypt")
    key = place.model_key.read_bytes()
    place.key.write_text(good)
    place.publish()
    place.check_published()
    assert place.model_key.read_bytes() == key


def test_wrong_token_then_the_right_one(place):
    good = place.token.read_text()
    place.token.write_text("expired-token-0123456789")
    r = place.publish(rc=1)
    assert "answered 401" in r.stderr and "--token-file" in r.stderr and place.done("upload") and not place.done("register")
    puts = place.puts()
    place.token.write_text(good)
    place.publish()
    assert place.puts() == puts
    place.check_published()


def test_missing_container_names_the_command(place):
    place.container = "nosuchcontainer"
    r = place.publish(rc=1)
    assert "az storage container create" in r.stderr and "--name nosuchcontainer" in r.stderr
    place.provider.azurite.create_container("nosuchcontainer")
    place.publish()
    place.check_published()


def test_asset_id_of_other_contents(place):
    """In storage, and at the control plane."""
    place.plane.rule(status(409, {"Content-Type": "application/json"}, b'{"message": "asset exists with another sha256"}'), method="POST")
    r = place.publish(rc=1)
    assert "409: asset exists with another sha256" in r.stderr and "new asset id" in r.stderr
    place.plane.clear_rules()
    place.publish()
    other = place.dir / "other"
    place.out = other
    r = place.publish(rc=1)
    assert "another file is stored there" in r.stderr and "new asset id" in r.stderr


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
    assert place.blob.requests == [] and place.plane.requests == [] and "encrypt" not in place.state()


def test_too_large_for_the_disk(place):
    free = os.statvfs(place.dir).f_bavail * os.statvfs(place.dir).f_frsize
    with open(place.model / "huge", "wb") as f:
        f.truncate(free + (30 << 30))
    for more in (["--dry-run"], []):
        r = place.publish(*more, rc=1)
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
    place.blob.rule(swallow(), method="PUT")
    t = Terminal(place)
    t.read_until(r"Go on\? \[Y/n\] ")
    os.write(t.master, b"\n")
    place.blob.wait(1, method="PUT")
    t.read_until("Uploading")
    os.write(t.master, b"\x03")
    assert t.end() == 130
    assert "to continue" in t.text or "to resume" in t.text
    assert t.text.endswith("\r\n") and "\x1b[?25l" not in t.text and "\x1b[?1049" not in t.text
    assert place.done("encrypt") and not place.done("upload")
    place.blob.clear_rules()
    place.publish()
    place.check_published()


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
    assert not place.model_key.exists() and place.blob.requests == []


# -- keys --------------------------------------------------------------------------------------------------------------

def test_a_forgotten_key_is_not_replaced_for_another_control_plane(place):
    place.publish("--forget-key")
    key, sealed = place.key_of_a_consumer(), (place.out / "encrypted/model.tbenc").read_bytes()
    before = (place.out / "publish-state.json").read_bytes()
    r = place.publish("--edc-endpoint", place.plane.url + "/other", rc=1)
    key_id = read_json(place.out / "encrypted/model.manifest.json")["key_id"]
    for word in (key_id, "--forget-key", place.plane.url, "--key-file"):
        assert word in r.stderr, word
    assert (place.out / "publish-state.json").read_bytes() == before
    assert (place.out / "encrypted/model.tbenc").read_bytes() == sealed and place.key_of_a_consumer() == key
    (place.dir / "wrong.key").write_text("ab" * 32 + "\n")
    r = place.publish("--edc-endpoint", place.plane.url + "/", "--key-file", place.dir / "wrong.key", rc=1)
    assert f"was encrypted with key {key_id}" in r.stderr and place.key_of_a_consumer() == key
    (place.dir / "right.key").write_text(key + "\n")
    place.publish("--edc-endpoint", place.plane.url + "/", "--key-file", place.dir / "right.key")
    assert place.key_of_a_consumer() == key


def test_a_key_that_was_moved_away_is_asked_for(place):
    place.plane.rule(status(401, body="{}"), method="POST")
    place.publish(rc=1)
    place.plane.clear_rules()
    (place.dir / "vault").mkdir()
    was, sealed = place.model_key, (place.out / "encrypted/model.tbenc").read_bytes()
    vault = was.rename(place.dir / "vault" / "k")
    puts = place.puts()
    for more in ([], ["--dry-run"]):
        r = place.publish(*more, rc=1)
        assert str(was) in r.stderr and was.stem.rsplit("-", 1)[1] in r.stderr and "--key-file" in r.stderr
    assert place.puts() == puts and (place.out / "encrypted/model.tbenc").read_bytes() == sealed
    place.publish("--key-file", vault)
    vault.rename(was)
    place.check_published()


def test_a_stored_asset_is_not_encrypted_again(place):
    place.publish("--skip-package")
    sealed, manifest = place.out / "encrypted/model.tbenc", place.out / "encrypted/model.manifest.json"
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
    place.publish("--key-out", f"age:{recipient}", rc=1)
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
