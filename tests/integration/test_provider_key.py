# SPDX-License-Identifier: Apache-2.0
"""TB_PROVIDER_KEY: tb-hydrate and tb-decrypt take nothing that the provider has not signed, whoever serves it and whatever the
contract names."""

import hashlib
import subprocess

import pytest

from delivery_asset import Asset
from delivery_rig import DIR, rig  # noqa: F401
from hydrate_world import ASSET, ca, seal, w  # noqa: F401
from minisign_signer import Signer, hostile
from tbsys import program
from test_decrypt_clients import ask, memfd, request

PROVIDER, ATTACKER = Signer("provider"), Signer("attacker")
NAMES = list(hostile(seal(1)[1], PROVIDER, ATTACKER))


def sign(w, signer=PROVIDER):
    w.put(w.data, signer.sign(w.manifest))


# -- tb-hydrate --------------------------------------------------------------------------------------------------------

def test_hydrate_takes_what_the_provider_signed(w):
    sign(w)
    rc, _ = w.run(TB_PROVIDER_KEY=PROVIDER.public)
    assert rc == 0, w.log()
    w.assert_complete()
    before = len(w.proxy.requests)
    assert w.run(TB_PROVIDER_KEY=f"{ATTACKER.public},{PROVIDER.public}")[0] == 0
    w.credentials["manifest-sha256"] = hashlib.sha256(w.manifest).hexdigest().encode()
    assert w.run(TB_PROVIDER_KEY=PROVIDER.public)[0] == 0 and len(w.proxy.requests) == before + 1


@pytest.mark.parametrize("bound", ["not bound", "bound by the attacker"])
@pytest.mark.parametrize("name", NAMES)
def test_hydrate_refuses_what_the_provider_did_not_sign(w, name, bound):
    """Storage is the attacker's, and with the control plane's help the contract names the attacker's manifest."""
    manifest, why = hostile(w.manifest, PROVIDER, ATTACKER)[name]
    w.put(w.data, manifest)
    if bound != "not bound":
        w.credentials["manifest-sha256"] = hashlib.sha256(manifest).hexdigest().encode()
    rc, _ = w.run(TB_PROVIDER_KEY=PROVIDER.public)
    w.assert_failed(rc, 76, why)
    assert w.ranges() == [] and "model.manifest.json" not in w.files()


def test_hydrate_names_object_reason_and_remedy(w):
    rc, _ = w.run(TB_PROVIDER_KEY=PROVIDER.public)
    w.assert_failed(rc, 76, "it is not signed, or its signature was lost", "TB_PROVIDER_KEY pins whose signature counts", f"of {ASSET} (tbpkg sign)")


def test_what_is_on_the_disk_is_checked_again_when_a_key_is_pinned(w):
    w.credentials["manifest-sha256"] = hashlib.sha256(w.manifest).hexdigest().encode()
    assert w.run()[0] == 0
    rc, _ = w.run(TB_PROVIDER_KEY=PROVIDER.public)
    assert rc == 76 and "it is not signed" in w.log()
    # signed later, the same ciphertext is not fetched again
    sign(w)
    w.credentials["manifest-sha256"] = hashlib.sha256(w.manifest).hexdigest().encode()
    sent = w.sent()
    assert w.run(TB_PROVIDER_KEY=PROVIDER.public)[0] == 0 and w.sent() == sent
    w.assert_complete()


def test_another_place_may_have_what_the_provider_signed(w):
    """One of two storage accounts is the attacker's."""
    good = PROVIDER.sign(w.manifest)
    w.server.blobs["/models/%s/evil.json" % ASSET] = ATTACKER.sign(w.manifest)
    w.put(w.data, good)
    w.credentials["sas-url"] = w.url("model.tbenc") + b"\n" + w.url("model.tbenc")
    w.credentials["manifest-url"] = w.url("evil.json") + b"\n" + w.url("model.manifest.json")
    rc, _ = w.run(TB_PROVIDER_KEY=PROVIDER.public)
    assert rc == 0, w.log()
    assert "is not trusted here" in w.log()
    w.assert_complete()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_of_keys_for_a_change_of_key(w, tmp_path, end):
    keys = tmp_path / "provider.pub"
    keys.write_bytes(end.join(["untrusted comment: the old one", ATTACKER.public, "", "# the new one", PROVIDER.public, ""]).encode())
    sign(w)
    assert w.run(TB_PROVIDER_KEY=keys)[0] == 0, w.log()
    keys.write_text(ATTACKER.public)
    w.put(w.data, w.manifest)
    assert w.run(TB_PROVIDER_KEY=keys)[0] == 76


@pytest.mark.parametrize("text, why", [(None, "No such file"), ("", "there is no key in it"), ("untrusted comment: nothing\n", "there is no key in it"),
                                       ("RWQ", "is no public key"), ("RW" + "A" * 54, "is a key of another kind")])
def test_a_file_without_a_key_pins_as_much_as_one_with(w, tmp_path, text, why):
    if text is not None:
        (tmp_path / "provider.pub").write_text(text)
    rc, _ = w.run(TB_PROVIDER_KEY=tmp_path / "provider.pub")
    w.assert_failed(rc, 78, "TB_PROVIDER_KEY", why)
    assert not w.proxy.requests


@pytest.mark.parametrize("value", ["hello", "RWQ", "provider.pub", PROVIDER.public + "x", PROVIDER.public[:-1], f"{PROVIDER.public};{ATTACKER.public}"])
def test_a_value_that_is_no_key_is_refused_before_anything(w, value):
    rc, _ = w.run(TB_PROVIDER_KEY=value)
    assert rc == 78 and "TB_PROVIDER_KEY: " in w.log() and "must be public keys as tbpkg keygen prints them" in w.log()
    assert not w.proxy.requests


def test_an_empty_setting_pins_nothing(w):
    assert w.run(TB_PROVIDER_KEY="")[0] == 0


# -- tb-decrypt --------------------------------------------------------------------------------------------------------

class Signed(Asset):
    """Whose manifest is that text."""
    text = None

    def manifest_text(self):
        return self.text or super().manifest_text()


def test_decrypt_takes_what_the_provider_signed(rig):
    asset = Signed(b"x" * 9000)
    asset.text = PROVIDER.sign(asset.manifest_text())
    asset.write(rig.target)
    assert ask(rig, asset, request(asset, DIR, 1), memfd(), TB_PROVIDER_KEY=PROVIDER.public) == (0, 9000, "")


@pytest.mark.parametrize("allow", [True, False])
def test_decrypt_passes_on_what_was_signed_about_fine_tuning(rig, allow):
    asset = Signed(b"x" * 9000)
    asset.manifest["allow_finetune"] = allow
    asset.text = PROVIDER.sign(asset.manifest_text())
    asset.write(rig.target)
    assert ask(rig, asset, request(asset, DIR, 1), memfd(), TB_PROVIDER_KEY=PROVIDER.public)[0] == 0
    assert rig.progress()["allow_finetune"] is allow
    assert ask(rig, asset, request(asset, DIR, 1), memfd())[0] == 0
    assert "allow_finetune" not in rig.progress(), "nothing was verified"
    asset.text = ATTACKER.sign(asset.text)
    asset.write(rig.target)
    assert ask(rig, asset, request(asset, DIR, 1), memfd(), TB_PROVIDER_KEY=PROVIDER.public)[0] == 76
    assert "allow_finetune" not in rig.progress()


@pytest.mark.parametrize("name", NAMES)
def test_decrypt_refuses_what_the_provider_did_not_sign(rig, name):
    """Whatever wrote it there. The key is not asked for."""
    asset = Signed(b"x" * 9000)
    manifest, why = hostile(asset.manifest_text(), PROVIDER, ATTACKER)[name]
    asset.text = manifest
    asset.write(rig.target)
    fds = memfd()
    status, count, message = ask(rig, asset, request(asset, DIR, 1), fds, bound=hashlib.sha256(manifest).hexdigest(), key=False,
                                 TB_PROVIDER_KEY=PROVIDER.public)
    assert (status, count) == (76, 0) and why in message, message


def test_decrypt_with_a_file_that_has_no_key(rig, tmp_path):
    asset = Signed(b"x" * 9000).write(rig.target)
    status, _, message = ask(rig, asset, request(asset, DIR, 1), memfd(), TB_PROVIDER_KEY=tmp_path / "none")
    assert status == 78 and "TB_PROVIDER_KEY: " in message


# -- one for all -------------------------------------------------------------------------------------------------------

def check(name, **env):
    r = subprocess.run([program(name), "--check"], capture_output=True, text=True, timeout=30, check=False,
                       env={"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://h", **env})
    return [line for line in r.stdout.splitlines() if "TB_PROVIDER_KEY" in line]


@pytest.mark.parametrize("name", ["tb-hydrate", "tb-decrypt"])
def test_the_check_names_what_is_wrong(name, tmp_path):
    assert check(name, TB_PROVIDER_KEY=PROVIDER.public) == []
    assert check(name, TB_PROVIDER_KEY="x") and check(name, TB_PROVIDER_KEY=str(tmp_path / "none"))
    (tmp_path / "p").write_text("x")
    (line,) = check(name, TB_PROVIDER_KEY=str(tmp_path / "p"))
    assert line.startswith("error: ") and "is no public key of minisign" in line
