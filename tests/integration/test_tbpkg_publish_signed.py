# SPDX-License-Identifier: Apache-2.0
"""tbpkg publish --sign-key: what is stored and registered is signed, and the package pins the key. Nothing is left unsigned unsaid."""

import hashlib
import json
import subprocess
import zipfile

import pytest

from publish_place import place, provider  # noqa: F401
from tbpkg_local import REPO, TBPKG, ok
from tbpkg_templates import write_templates

KEY, PUBLIC = REPO / "tests/vectors/minisign/one.key", REPO / "tests/vectors/minisign/one.pub"
LINE = PUBLIC.read_text().splitlines()[1]


def package_of(place, name="mainTemplate.json"):
    with zipfile.ZipFile(place.out / "managed-app.zip") as z:
        return json.loads(z.read(name))


def test_all_of_it_is_signed(place):
    place.publish("--sign-key", KEY)
    manifest = place.out / "encrypted/model.manifest.json"
    assert subprocess.run(["minisign", "-Vm", manifest, "-p", PUBLIC], capture_output=True, check=False).returncode == 0
    assert place.provider.azurite.get_blob(f"models/{place.asset}/model.manifest.json") == manifest.read_bytes()
    assert package_of(place)["parameters"]["providerKey"]["defaultValue"] == LINE
    assert f"Provider's key: {LINE}" in json.dumps(package_of(place, "createUiDefinition.json"))
    puts = place.puts()
    r = place.publish("--sign-key", KEY)
    assert place.puts() == puts and r.stderr.count("done already") == 4


def test_what_was_published_unsigned_is_not_taken_for_signed(place):
    place.publish()
    puts = place.puts()
    r = place.publish("--sign-key", KEY, rc=1)
    assert f"is not signed with {KEY}; run tbpkg sign --sign-key {KEY} {place.out}/encrypted/model.manifest.json, then this command again" in r.stderr
    assert place.puts() == puts
    ok("sign", "--sign-key", KEY, place.out / "encrypted/model.manifest.json")
    place.publish("--sign-key", KEY, "--replace")
    manifest = (place.out / "encrypted/model.manifest.json").read_bytes()
    assert place.provider.azurite.get_blob(f"models/{place.asset}/model.manifest.json") == manifest
    assert hashlib.sha256(manifest).hexdigest() in json.dumps(place.state()) or place.done("register")


def test_a_key_that_cannot_be_used_is_said_before_anything_is_done(place):
    r = place.publish("--sign-key", PUBLIC, rc=1)
    assert "is no secret key of minisign" in r.stderr and "other users" not in r.stderr and place.looked_only()


@pytest.mark.parametrize("key, want", [(PUBLIC, LINE), (LINE, LINE), (f"{LINE},{LINE}", LINE)])
def test_a_package_pins_the_key_that_was_named(tmp_path, key, want):
    write_templates(tmp_path / "t")
    out = ok("package", "-a", "a", "-E", "https://h", "--vm-image", "a:b:c", "--template-dir", tmp_path / "t", "--provider-key", key, "-o", tmp_path / "z.zip", "--json")
    assert json.loads(out.stdout)["provider_key"] == want
    with zipfile.ZipFile(tmp_path / "z.zip") as z:
        assert json.loads(z.read("mainTemplate.json"))["parameters"]["providerKey"]["defaultValue"] == want


def test_a_package_does_not_pin_what_is_no_key(tmp_path):
    write_templates(tmp_path / "t")
    p = subprocess.run([TBPKG, "package", "-a", "a", "-E", "https://h", "--vm-image", "a:b:c", "--template-dir", tmp_path / "t", "--provider-key", KEY, "-o",
                        tmp_path / "z.zip"], capture_output=True, text=True, check=False)
    assert p.returncode == 1 and "is no public key of minisign" in p.stderr and not (tmp_path / "z.zip").exists()
