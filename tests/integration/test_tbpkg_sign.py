# SPDX-License-Identifier: Apache-2.0
"""tbpkg keygen, sign, and what --sign-key leaves: checked by minisign, by tbpkg, and by hand."""

import json
import os
import pty
import re
import shutil
import stat
import subprocess

import pytest

from faultproxy import swallow
from stream_place import COMMIT, MANIFEST, azurite, place  # noqa: F401
from tbpkg_local import REPO, TBPKG, listing, ok, open_by_hand, refused

VECTORS = REPO / "tests/vectors/minisign"
FOREIGN = (VECTORS / "two.pub").read_text().splitlines()[1]
BEGIN = ',\n  "signature": '


def minisign(*args, good=True, stdin=""):
    r = subprocess.run(["minisign", *map(str, args)], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert (r.returncode == 0) == good, (args, r.stdout, r.stderr)
    return r.stdout


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An unlocked pair of tbpkg."""
    d = tmp_path_factory.mktemp("pair")
    p = ok("keygen", "-W", "-s", d / "provider.key")
    assert b"is not locked" in p.stderr
    return d / "provider.key", d / "provider.pub", p.stdout.decode().strip()


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").write_bytes(os.urandom(5000))
    return tmp_path / "model"


def encrypt(model, *more):
    return ok("encrypt", "-a", "a1", "-o", model.parent / "m.tbenc", "-k", model.parent / "k", *more, model)


def split(text):
    """What is signed, and the signature: by hand, as tbenc(5) says."""
    at = text.rindex(BEGIN)
    assert text.endswith("\n}")
    return text[:at] + "\n}", json.loads(text[at + len(BEGIN):-2])


def test_keys_are_of_minisign(tmp_path):
    (tmp_path / "pass").write_text("open sesame\n")
    secret, public = tmp_path / "p.key", tmp_path / "p.pub"
    report = json.loads(ok("keygen", "--json", "-s", secret, "--passphrase-file", tmp_path / "pass").stdout)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and report["locked"] is True
    assert public.read_text() == f"untrusted comment: minisign public key {report['key_id']}\n{report['provider_key']}\n"
    (tmp_path / "file").write_text("hello")
    minisign("-S", "-s", secret, "-m", tmp_path / "file", stdin="open sesame\n")
    minisign("-V", "-p", public, "-m", tmp_path / "file")
    (tmp_path / "pass").write_text("open barley")
    shutil.copy(REPO / "tests/vectors/tb-hello.manifest.json", tmp_path / "m.json")
    before = (tmp_path / "m.json").read_bytes()
    refused("sign", "--sign-key", secret, "--sign-passphrase-file", tmp_path / "pass", tmp_path / "m.json",
            match="p.key: is not unlocked by this passphrase")
    assert (tmp_path / "m.json").read_bytes() == before and not (tmp_path / "m.json.minisig").exists()


def test_a_key_is_never_replaced_and_none_is_left_half_made(tmp_path):
    (tmp_path / "p.key").write_text("precious")
    refused("keygen", "-W", "-s", tmp_path / "p.key", match="exists already, and a key is never replaced")
    (tmp_path / "q.pub").write_text("precious")
    refused("keygen", "-W", "-s", tmp_path / "q.key", match="q.pub: exists already")
    refused("keygen", "-s", tmp_path / "r.key", "--passphrase-file", "/dev/null", match="passphrase is empty")
    refused("keygen", "-W", "-s", tmp_path / "none" / "r.key", match="none/r.key")
    assert listing(tmp_path) == ["p.key", "q.pub"] and (tmp_path / "p.key").read_text() == "precious"


def test_a_terminal_is_asked_twice_and_shows_nothing(tmp_path):
    primary, secondary = pty.openpty()
    p = subprocess.Popen([TBPKG, "keygen", "-s", str(tmp_path / "p.key")], stdin=secondary, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, preexec_fn=lambda: (os.setsid(), os.open(os.ttyname(secondary), os.O_RDWR)))
    seen = b""
    for _ in range(2):
        while not seen.endswith(b": "):
            seen += os.read(primary, 100)
        os.write(primary, b"sesam\n")
        seen += os.read(primary, 1)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0, err
    assert b"sesam" not in seen + err and out.startswith(b"RW") and (tmp_path / "p.key").exists()
    os.close(primary)
    os.close(secondary)


def test_what_encrypt_leaves(model, pair):
    secret, public, line = pair
    r = encrypt(model, "--sign-key", secret)
    manifest = model.parent / "m.manifest.json"
    assert f"m.manifest.json.minisig, by {line}" in r.stderr.decode()
    out = minisign("-V", "-m", manifest, "-p", public)
    assert re.search(r"^Trusted comment: timestamp:\d{10}\tfile:m.manifest.json\thashed\tasset:a1$", out, re.M)
    signed, sig = split(manifest.read_text())
    (model.parent / "signed").write_text(signed)
    (model.parent / "signed.minisig").write_text(sig)
    minisign("-V", "-m", model.parent / "signed", "-p", public)
    m = json.loads(manifest.read_text())
    assert open_by_hand((model.parent / "m.tbenc").read_bytes(), m, bytes.fromhex((model.parent / "k").read_text())) == model.read_bytes()
    assert m["allow_finetune"] is True and json.loads(signed)["allow_finetune"] is True
    ok("decrypt", model.parent / "m.tbenc", "-k", model.parent / "k", "-o", model.parent / "out")


def test_what_verify_and_inspect_say(model, pair):
    secret, public, line = pair
    d = model.parent
    encrypt(model, "--sign-key", secret)
    for key in (public, line, f"{FOREIGN},{line}"):
        assert "checked      signature of the provider\n" in ok("verify", "--provider-key", key, d / "m.tbenc").stdout.decode()
        assert re.search(r"signature +by key [0-9A-F]{16}, verified\n", ok("inspect", "--provider-key", key, d / "m.tbenc").stdout.decode())
    assert "not checked  signature of the provider (needs --provider-key)" in ok("verify", d / "m.tbenc").stdout.decode()
    assert "not checked (--provider-key)" in ok("inspect", d / "m.tbenc").stdout.decode()
    refused("verify", "--provider-key", FOREIGN, d / "m.tbenc", match="signed with key [0-9A-F]{16}, which is not trusted here; check --provider-key")
    p = subprocess.run([TBPKG, "inspect", "--json", "--provider-key", FOREIGN, d / "m.tbenc"], capture_output=True, text=True, check=False)
    report = json.loads(p.stdout)
    assert p.returncode == 1 and report["manifest"]["signature"]["verified"] is False and "not trusted here" in report["problems"][0]
    text = (d / "m.manifest.json").read_text()
    (d / "m.manifest.json").write_text(text.replace('"allow_finetune": true', '"allow_finetune": false'))
    refused("verify", "--provider-key", public, d / "m.tbenc", match="the signature does not belong to it")
    (d / "m.manifest.json").write_text(json.dumps(json.loads(text)))
    refused("verify", "--provider-key", public, d / "m.tbenc", match="it is not signed, or its signature was lost when it was written anew")
    (d / "m.manifest.json").write_text(text + "\n")
    refused("verify", "--provider-key", public, d / "m.tbenc", match="somebody wrote the manifest anew")


def test_decrypt_opens_nothing_that_the_provider_did_not_sign(model, pair):
    secret, public, line = pair
    d = model.parent
    encrypt(model, "--sign-key", secret)
    for i, key in enumerate((public, line, f"{FOREIGN},{line}")):
        ok("decrypt", "--provider-key", key, "-k", d / "k", "-o", d / f"out{i}", d / "m.tbenc")
        assert (d / f"out{i}").read_bytes() == model.read_bytes()
    before = listing(d)
    decrypt = ("decrypt", "-k", d / "k", "-o", d / "no", d / "m.tbenc")
    refused(*decrypt, "--provider-key", FOREIGN, match="signed with key [0-9A-F]{16}, which is not trusted here; check --provider-key")
    refused(*decrypt, match="not trusted here", env={"TB_PROVIDER_KEY": FOREIGN})
    refused(*decrypt, "--provider-key", d / "none", match="none: is neither a public key of minisign nor a file")
    assert ok(*decrypt[:3], "-o", "-", "--provider-key", public, d / "m.tbenc").stdout == model.read_bytes()
    refused(*decrypt[:3], "-o", "-", "--provider-key", FOREIGN, d / "m.tbenc", match="not trusted")
    text = (d / "m.manifest.json").read_text()
    (d / "m.manifest.json").write_text(text.replace('"allow_finetune": true', '"allow_finetune": false'))
    refused(*decrypt, "--provider-key", public, match="the signature does not belong to it")
    (d / "m.manifest.json").write_text(split(text)[0])
    refused(*decrypt, "--provider-key", public, match="is not signed")
    assert listing(d) == before
    ok(*decrypt)  # who asks for nobody's signature gets what the key opens


def test_keys_that_are_none_are_named(model, pair):
    secret, public, _ = pair
    d = model.parent
    encrypt(model)
    refused("verify", "--provider-key", d / "none", d / "m.tbenc", match="none: is neither a public key of minisign nor a file")
    refused("verify", "--provider-key", secret, d / "m.tbenc", match="is no public key of minisign")
    refused("verify", "--provider-key", d / "k", d / "m.tbenc", match="is no public key of minisign")
    for key, why in ((public, "is no secret key of minisign"), (d / "k", "is no secret key of minisign"), (d / "none", "no such signing key; make one"),
                     (d / "m.tbenc", "is no secret key of minisign")):
        refused("sign", "--sign-key", key, d / "m.manifest.json", match=why)
        refused("encrypt", "-a", "b", "-o", d / "x.tbenc", "-k", d / "k2", "--sign-key", key, model, match=why)
    assert "x.tbenc" not in listing(d) and "k2" not in listing(d)
    assert ok("sign", "--help").stdout and b"--sign-key is missing" in subprocess.run([TBPKG, "sign"], capture_output=True, check=False).stderr


def test_a_locked_key_without_a_terminal_is_no_hang(model):
    p = subprocess.run([TBPKG, "encrypt", "-a", "a", "-o", model.parent / "x.tbenc", "-k", model.parent / "k", "--sign-key", VECTORS / "locked.key", model],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, timeout=60, check=False)
    assert p.returncode == 1 and "no terminal to ask for it; give it with --sign-passphrase-file" in p.stderr
    assert listing(model.parent) == ["model"]


def test_signing_later_and_again(model, pair):
    secret, public, _ = pair
    manifest = model.parent / "m.manifest.json"
    encrypt(model)
    bare = manifest.read_text()
    refused("verify", "--provider-key", public, model.parent / "m.tbenc", match="it is not signed")
    ok("sign", "--sign-key", VECTORS / "two.key", manifest)
    refused("verify", "--provider-key", public, model.parent / "m.tbenc", match="not trusted here")
    ok("sign", "--sign-key", secret, manifest)
    ok("verify", "--provider-key", public, model.parent / "m.tbenc")
    minisign("-V", "-m", manifest, "-p", public)
    assert split(manifest.read_text())[0] == bare


def test_an_old_signature_does_not_stay_beside_a_new_manifest(model, pair):
    secret, public, _ = pair
    manifest = model.parent / "m.manifest.json"
    encrypt(model, "--sign-key", secret)
    model.write_bytes(b"another")
    ok("encrypt", "--force", "-a", "a1", "-o", model.parent / "m.tbenc", "-k", model.parent / "k2", model)
    assert "signature" not in json.loads(manifest.read_text()) and not manifest.with_name("m.manifest.json.minisig").exists()


# -- sealed straight into the storage ----------------------------------------------------------------------------------

@pytest.mark.parametrize("criteria", [COMMIT, MANIFEST], ids=["commit", "manifest"])
def test_an_upload_that_goes_on_is_signed(place, pair, criteria):
    secret, public, line = pair
    place.killed(1, criteria, swallow(), more=["--sign-key", secret])
    report = place.report("--sign-key", secret)
    assert report["provider_key"] == line and place.blob("model.manifest.json") == place.manifest.read_bytes()
    minisign("-V", "-m", place.manifest, "-p", public)
    before = place.manifest.read_bytes()
    place.run("--sign-key", secret)  # all is done: nothing is signed anew
    assert place.manifest.read_bytes() == before == place.blob("model.manifest.json")
    place.run()
    assert place.manifest.read_bytes() == before
    minisign("-V", "-m", place.manifest, "-p", public)


def test_no_signature_of_an_asset_before_stays_beside_another(place, pair):
    place.run("--sign-key", pair[0])
    beside = place.manifest.with_name(place.manifest.name + ".minisig")
    assert beside.exists()
    place.flip("a.bin", 17)
    place.run("--force", "--overwrite")
    assert "signature" not in json.loads(place.manifest.read_text()) and not beside.exists()


def test_an_upload_that_was_begun_without_a_key_is_signed(place, pair):
    secret, public, _ = pair
    place.killed(1, MANIFEST, swallow())
    place.run("--sign-key", secret)
    minisign("-V", "-m", place.manifest, "-p", public)
    assert place.blob("model.manifest.json") == place.manifest.read_bytes()


def test_an_asset_that_is_stored_is_signed_without_being_sent_again(place, pair):
    secret, public, _ = pair
    place.run()
    ok("sign", "--sign-key", secret, place.manifest)
    sent = place.proxy.count(method="PUT", args={"comp": "block"})
    place.run()
    assert place.proxy.count(method="PUT", args={"comp": "block"}) == sent
    assert place.blob("model.manifest.json") == place.manifest.read_bytes()
    minisign("-V", "-m", place.manifest, "-p", public)
    place.check_stored()
