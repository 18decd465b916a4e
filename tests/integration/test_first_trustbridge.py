# SPDX-License-Identifier: Apache-2.0
"""The command lines that the guide and the README of the first TrustBridge print, run one by one under its name `trustbridge`, word
for word but for what stands for something: paths, the key, and the two services, which are an Azurite and a control plane here. What
docs/provider-guide.md says they need besides is in tbpkg.ini and in the environment."""

import json
import os
import re
import shlex
import subprocess
import zipfile

import pytest

import tbsys
from publish_place import IMAGE, place, provider  # noqa: F401
from tbpkg_templates import write_templates

GUIDE = """
trustbridge encrypt --asset-id "my-model-v1" --in /path/to/model.safetensors --out model.tbenc --manifest model.manifest.json --chunk-bytes 4194304
trustbridge upload --storage-account "mystorageaccount" --container "models" --asset-id "my-model-v1" --encrypted-file model.tbenc --manifest model.manifest.json
trustbridge register --edc-endpoint "https://controlplane.example.com" --asset-id "my-model-v1" --manifest model.manifest.json --key-hex "<64-character-hex-key>"
trustbridge build --registry "myacr.azurecr.io" --image-name "trustbridge-runtime" --tag "v1.0.0" --sentinel-binary ./sentinel
trustbridge package --asset-id "my-model-v1" --edc-endpoint "https://controlplane.example.com" --image "myacr.azurecr.io/trustbridge-runtime:v1.0.0" --output-zip managed-app.zip
trustbridge publish --asset-id "my-model-v1" --in /path/to/model.safetensors --storage-account "mystorageaccount" --container "models" --edc-endpoint "https://controlplane.example.com" --registry "myacr.azurecr.io" --output-zip managed-app.zip
"""
README = """
trustbridge encrypt --asset-id my-model-001 --in /path/to/model.safetensors --out model.tbenc --manifest model.manifest.json
trustbridge upload --storage-account myaccount --container models --asset-id my-model-001 --encrypted-file model.tbenc --manifest model.manifest.json
trustbridge register --edc-endpoint https://controlplane.example.com --asset-id my-model-001 --manifest model.manifest.json --key-hex <decryption-key>
trustbridge build --registry myacr.azurecr.io --image-name trustbridge-runtime --tag v1.0.0
trustbridge package --asset-id my-model-001 --image myacr.azurecr.io/trustbridge-runtime:v1.0.0 --output-zip managed-app.zip
"""


class First:
    """A directory to type in, tbpkg.ini with what the guide's table names, and a Buildah that only writes down what it is told."""

    def __init__(self, place):
        self.place, self.dir, self.key = place, place.dir / "here", None
        a = place.provider.azurite
        for d in (self.dir, place.dir / "bin", place.dir / "debs", place.dir / "config/trustbridge"):
            d.mkdir(parents=True)
        (place.dir / "model.safetensors").write_bytes(os.urandom(1_000_000))
        (place.dir / "bin/trustbridge").symlink_to(tbsys.program("tbpkg"))
        buildah = place.dir / "bin/buildah"
        buildah.write_text(f"#!/bin/sh\necho \"$@\" >>{place.dir}/buildah.log\nfor w; do case $w in --iidfile=*) echo id >\"${{w#*=}}\";; "
                           f"--digestfile=*) echo sha256:{'ab' * 32} >\"${{w#*=}}\";; */tb-inventory) printf 'os\\tdebian\\t12\\ndeb\\tlibc6\\t2.36\\tamd64\\tglibc\\t2.36\\tnobody\\n';; esac; done\n")
        buildah.chmod(0o755)
        for name in ("trustbridge_1_amd64.deb", "libtbenc1_1_amd64.deb"):
            (place.dir / "debs" / name).write_bytes(b"1")
        write_templates(place.dir / "t2")
        (place.dir / "config/trustbridge/tbpkg.ini").write_text(
            f"[azure]\nstorage_account = {a.account}\nendpoint = {place.blob.url}/{a.account}\n[controlplane]\nendpoint = {place.plane.url}\n"
            f"[tls]\nca_file = {place.provider.ca.cert}\n[docker]\nbase_image = docker.io/library/debian:12\n[build]\ndeb_dir = {place.dir}/debs\n"
            f"[package]\nvm_image = {IMAGE}\ntemplate_dir = {place.dir}/t2\n")
        self.env = {**place.env(), "PATH": f"{place.dir}/bin:{os.environ['PATH']}", "XDG_CONFIG_HOME": str(place.dir / "config"),
                    "AZURE_STORAGE_KEY": place.key.read_text(), "HOME": str(place.dir)}
        self.run("trustbridge login", stdin=place.token.read_text())

    def run(self, line, stdin="", rc=0, more=()):
        place = self.place
        for a, b in (("/path/to/model.safetensors", f"{place.dir}/model.safetensors"), ("my-model-v1", place.asset), ("my-model-001", place.asset),
                     ("mystorageaccount", place.provider.azurite.account), ("myaccount", place.provider.azurite.account),
                     ("https://controlplane.example.com", place.plane.url), ("<64-character-hex-key>", self.key), ("<decryption-key>", self.key)):
            line = line.replace(a, str(b))
        r = subprocess.run([*shlex.split(line), *more], env=self.env, cwd=self.dir, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert r.returncode == rc, (line, r.returncode, r.stdout, r.stderr)
        return r


@pytest.fixture
def first(place):  # noqa: F811
    return First(place)


@pytest.mark.parametrize("text", [GUIDE, README], ids=["guide", "readme"])
def test_each_printed_line_works(first, text):
    asset, lines = first.place.asset, text.strip().splitlines()
    assert [x.split()[1] for x in lines] == ["encrypt", "upload", "register", "build", "package", "publish"][:len(lines)]
    for line in lines:
        command = line.split()[1]
        more = []
        if command == "publish":  # the same model again, as an asset of its own; the registry of the guide is not there
            first.place.asset = asset + "-all"
            line, more = line.replace("my-model-v1", asset + "-all"), ["--yes", "--no-push"]
        r = first.run(line, more=more)
        if command == "encrypt":
            first.key = r.stdout.strip()
            assert re.fullmatch("[0-9a-f]{64}", first.key)
        elif command == "upload":
            assert first.place.provider.azurite.get_blob(f"models/{asset}/model.tbenc") == (first.dir / "model.tbenc").read_bytes()
        elif command == "register":
            assert first.place.key_of_a_consumer() == first.key and "use --key-file" in r.stderr and first.key not in r.stdout + r.stderr
        elif command == "build":
            assert r.stdout.startswith("myacr.azurecr.io/trustbridge-runtime@sha256:")
            assert ("--sentinel-binary is obsolete" in r.stderr) == ("--sentinel-binary" in line)
        elif command in ("package", "publish"):
            with zipfile.ZipFile(first.dir / "managed-app.zip") as z:
                got = json.loads(z.read("mainTemplate.json"))["parameters"]
            assert got["assetId"]["defaultValue"] == first.place.asset and got["edcEndpoint"]["defaultValue"] == first.place.plane.url


def test_what_the_lines_lack_is_named_at_once(first):
    """Without the settings: each command says what the guide's table says it needs."""
    (first.place.dir / "config/trustbridge/tbpkg.ini").unlink()
    first.key = "ab" * 32
    first.env.pop("AZURE_STORAGE_KEY")
    lines = {x.split()[1]: x for x in GUIDE.strip().splitlines()}
    for command, missing in (("register", ["--storage-account"]), ("build", ["--deb-dir"]), ("publish", ["--deb-dir", "--yes"])):
        r = first.run(lines[command], rc=2)
        assert all(any(m in x and x.startswith(f"tbpkg {command}: ") for x in r.stderr.splitlines()) for m in missing), r.stderr
    assert "--edc-endpoint is missing" in first.run(README.strip().splitlines()[4], rc=2).stderr


def test_the_next_line_can_be_pasted(first):
    """As a shell reads it, with names that need quotes."""
    (first.dir / "my files").mkdir()
    first.run("trustbridge encrypt --asset-id my-model-v1 --in /path/to/model.safetensors --out 'my files/it''s.tbenc' --key-out 'my files/'")
    r = first.run("trustbridge upload --encrypted-file 'my files/it''s.tbenc' --manifest 'my files/it''s.manifest.json'")
    (line,) = [x.removeprefix("Next: ") for x in r.stderr.splitlines() if x.startswith("Next")]
    (first.place.dir / "bin/tbpkg").symlink_to(tbsys.program("tbpkg"))
    subprocess.run(["sh", "-c", line], env=first.env, cwd=first.dir, check=True, capture_output=True, timeout=60)
    (key,) = (first.dir / "my files").glob("*.key")
    assert first.place.key_of_a_consumer() == key.read_text().strip()
    key.rename(first.dir / "elsewhere")
    r = first.run("trustbridge upload --encrypted-file 'my files/it''s.tbenc' --manifest 'my files/it''s.manifest.json'")
    assert "Next, with --key-file: tbpkg register --asset-id" in r.stderr
