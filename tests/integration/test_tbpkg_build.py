# SPDX-License-Identifier: Apache-2.0
"""tbpkg build up to the programs it drives. Packer really checks what it is given; building is in tests/packaging/test_oci.py and in
tests/packer."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

import tbsys
from tbsys import wait_for

AZURE = ["--var", "subscription_id=00000000-0000-0000-0000-000000000000", "--var", "resource_group=rg", "--var", "gallery_name=gallery"]
PACKER = pathlib.Path(tbsys.repo) / "packer"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "debs").mkdir()
    for name in ("trustbridge_1_amd64.deb", "libtbenc1_1_amd64.deb"):
        (tmp_path / "debs" / name).write_bytes(b"!<arch>\n")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "base.qcow2").write_bytes(b"QFI\xfb")
    return tmp_path


def command(place, *args, debs=True):
    return [tbsys.program("tbpkg"), "build", *(["--deb-dir", str(place / "debs")] if debs else []), *map(str, args)]


def environment(place, env=None):
    return {"PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place / "tmp"),
            **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}, **(env or {})}


def build(place, *args, rc=0, env=None, debs=True):
    r = subprocess.run(command(place, *args, debs=debs), env=environment(place, env), cwd=place, stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=120, check=False)
    assert r.returncode == rc, (r.returncode, r.stdout, r.stderr)
    assert "Sanitizer" not in r.stderr and list((place / "tmp").iterdir()) == []
    if rc != 0:
        assert r.stdout == ""
    return r


def fake(place, name, script):
    """A PATH that has, besides the system's, a program that writes down its words and does `script`."""
    d = place / "bin"
    d.mkdir(exist_ok=True)
    (d / name).write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>{place}/words\necho -- >>{place}/words\n{script}\n")
    (d / name).chmod(0o755)
    return {"PATH": f"{d}:{os.environ['PATH']}"}


@pytest.mark.parametrize("target", ["vm-qemu", "vm-azure"])
def test_packer_takes_what_it_is_given(place, target):
    more = ["--base-image", place / "base.qcow2"] if target == "vm-qemu" else AZURE
    r = build(place, "--target", target, "--template-dir", PACKER, "--dry-run", *more)
    assert "valid" in r.stderr and r.stdout == ""
    r = build(place, "--target", target, "--template-dir", PACKER, "--dry-run", *more, "--var", "nonsense=1", rc=1)
    assert "nonsense" in r.stderr and "packer: validate ended with exit code 1" in r.stderr


def test_packer_builds_by_the_right_source(place):
    old = fake(place, "packer", 'case $1 in version) echo "Packer v1.6.6" ;; build) ls "$(eval echo \\${$#})" >>' + f"{place}/seen ;; esac")
    r = build(place, "--target", "vm-azure", "--template-dir", PACKER, *AZURE, "--var", "image_version=2.0.1", "--json", env=old)
    assert json.loads(r.stdout) == {"target": "vm-azure", "image":
                                    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.Compute/"
                                    "galleries/gallery/images/trustbridge/versions/2.0.1"}
    calls = (place / "words").read_text().split("--\n")
    assert calls[0].split() == ["version"] and "-only=azure-arm.trustbridge\n" in calls[1] and f"debs={place}/debs\n" in calls[1]
    assert "image_version=2.0.1\n" in calls[1] and not any(c.startswith("init") for c in calls)
    seen = (place / "seen").read_text().split()
    assert "trustbridge.pkr.hcl" in seen and "scripts" in seen and "plugins.pkr.hcl" not in seen
    (place / "words").unlink()
    (place / "seen").unlink()
    new = fake(place, "packer", 'case $1 in version) echo "Packer v1.11.2" ;; build) ls "$(eval echo \\${$#})" >>' + f"{place}/seen ;; esac")
    r = build(place, "--target", "vm-qemu", "--template-dir", PACKER, "--base-image", "base.qcow2", "--var", "output_directory=out", env=new)
    assert r.stdout == "out/trustbridge.qcow2\n"
    calls = (place / "words").read_text().split("--\n")
    assert calls[1].startswith("init\n") and "-only=qemu.trustbridge\n" in calls[2] and "base_image=base.qcow2\n" in calls[2]
    assert "seed=" in calls[2] and "plugins.pkr.hcl" in (place / "seen").read_text().split()


def test_the_containerfile_has_no_weights_and_starts_systemd(place):
    r = build(place, "--registry", "acme.azurecr.io", "--base-image", "docker.io/acme/server:1", "--dry-run")
    assert r.stdout.startswith("FROM docker.io/acme/server:1\n") and 'ENTRYPOINT ["/sbin/init"]' in r.stdout
    assert "AssertCapability=CAP_SYS_ADMIN" in r.stdout
    # the first TrustBridge's command line, its defaults, and its names of the environment
    r = build(place, "--image-name", "trustbridge-runtime", "--tag", "v1.0.0", "--sentinel-binary", "./sentinel", "--entrypoint", "x",
              "--dry-run", env={"DOCKER_REGISTRY": "myacr.azurecr.io"})
    assert r.stdout.startswith("FROM nvcr.io/nvidia/vllm:latest\n")
    assert "--sentinel-binary is obsolete: the programs come from" in r.stderr and "--entrypoint is obsolete" in r.stderr
    r = build(place, "--dry-run", env={"DOCKER_REGISTRY": "r", "DOCKER_BASE_IMAGE": "b:1"})
    assert r.stdout.startswith("FROM b:1\n")


def test_a_missing_tool_is_named_with_its_package(place):
    (place / "bin").mkdir()
    r = build(place, "--registry", "r.example", rc=1, env={"PATH": str(place / "bin")})
    assert "buildah: is not installed; apt-get install buildah" in r.stderr
    r = build(place, "--target", "vm-azure", "--template-dir", PACKER, *AZURE, rc=1, env={"PATH": str(place / "bin")})
    assert "packer: is not installed; apt-get install packer" in r.stderr


@pytest.mark.parametrize("args,word", [
    (["--target", "iso"], "--target"), ([], "--registry"), (["--registry", "a b"], "--registry"),
    (["--registry", "r", "--tag", "a:b"], "--tag"), (["--registry", "r", "--image-name", "A"], "--image-name"),
    (["--registry", "r", "--base-image", "x\nRUN evil"], "--base-image"), (["--target", "vm-qemu"], "--base-image"),
    (["--target", "vm-azure", "--var", "x"], "NAME=VALUE"), (["--target", "vm-azure", "--var", "client_secret=S3CRET"], "az login"),
    (["--registry", "r", "surplus"], "surplus"),
])
def test_usage(place, args, word):
    r = build(place, *args, rc=2)
    assert word in r.stderr and "S3CRET" not in r.stderr


def test_inputs_that_are_missing(place):
    assert "--deb-dir" in build(place, "--registry", "r", debs=False, rc=2).stderr
    r = build(place, "--target", "vm-azure", "--template-dir", place / "nothere", *AZURE, rc=1)
    assert "nothere" in r.stderr and "--template-dir" in r.stderr
    r = build(place, "--target", "vm-azure", "--template-dir", place, *AZURE, rc=1)
    assert "has no trustbridge.pkr.hcl" in r.stderr
    (place / "debs" / "trustbridge_2_amd64.deb").touch()
    assert "2 versions of trustbridge" in build(place, "--registry", "r", rc=1).stderr
    for p in (place / "debs").glob("trustbridge_*"):
        p.unlink()
    assert "has no trustbridge_*.deb" in build(place, "--registry", "r", rc=1).stderr


def test_an_interrupt_waits_for_the_tool_and_cleans_up(place):
    """Packer gets the time to remove what it made in a cloud."""
    env = fake(place, "packer", f"case $1 in version) echo 'Packer v1.6.6'; exit ;; esac\n"
                                f"trap 'sleep 0.3; touch {place}/tidied; exit 1' TERM INT\ntouch {place}/started\n"
                                "while :; do sleep 0.05; done")
    p = subprocess.Popen(command(place, "--target", "vm-azure", "--template-dir", PACKER, *AZURE), env=environment(place, env),
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (place / "started").exists(), 20, "packer")
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=20)
    assert p.returncode == 130 and out == "" and "interrupted" in err, err
    assert (place / "tidied").exists() and list((place / "tmp").iterdir()) == []
