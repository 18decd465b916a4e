# SPDX-License-Identifier: Apache-2.0
"""tbpkg build up to the programs it drives. Packer really checks what it is given; building is in tests/packaging/test_oci.py and in
tests/packer."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

import tbsys
from tbsys import wait_for

AZURE = ["--var", "subscription_id=00000000-0000-0000-0000-000000000000", "--var", "resource_group=rg", "--var", "gallery_name=gallery"]
PACKER = pathlib.Path(tbsys.repo) / "packer"
VECTORS = pathlib.Path(tbsys.repo) / "tests/vectors/minisign"
KEYS = [(VECTORS / f"{name}.pub").read_text().splitlines()[1] for name in ("one", "two")]


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
    assert [p.name for p in place.iterdir() if p.name.startswith(".")] == []
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
    r = build(place, "--target", target, "--template-dir", PACKER, "--dry-run", "--json", "--quiet", *more)
    assert json.loads(r.stdout) == {"target": target, "valid": True} and r.stderr == ""
    # what only Packer knows, in its words
    r = build(place, "--target", target, "--template-dir", PACKER, "--dry-run", "--quiet", *more, "--var", "memory=much", rc=1)
    assert "memory" in r.stderr and "packer: validate ended with exit code 1" in r.stderr


PRECHECKED = [
    (["--var", "nonsense=1"], 2, "--var nonsense: the templates have no such variable; there are debs "),
    (["--var", "image_version=1.0"], 2, "--var image_version: three numbers such as 1.0.0, not '1.0'"),
    (["--var", "gallery_name="], 2, "missing: --var gallery_name=NAME of the Compute Gallery"),
    (["--var", "subscription_id=", "--var", "resource_group="], 2,
     "missing: --var subscription_id=ID of the subscription that builds, --var resource_group=NAME of the gallery's resource group"),
]


@pytest.mark.parametrize("args,rc,words", PRECHECKED)
def test_what_packer_would_say_in_its_words_is_said_in_ours(place, args, rc, words):
    """Packer is not even started for it."""
    env = fake(place, "packer", 'case $1 in version) echo "Packer v1.6.6" ;; esac')
    r = build(place, "--target", "vm-azure", "--template-dir", PACKER, *AZURE, *args, rc=rc, env=env)
    assert words in r.stderr and not (place / "words").exists()


def test_variables_of_the_environment_count(place):
    env = fake(place, "packer", 'case $1 in version) echo "Packer v1.6.6" ;; esac')
    names = {f"PKR_VAR_{a.split('=')[0]}": a.split("=")[1] for a in AZURE[1::2]}
    r = build(place, "--target", "vm-azure", "--template-dir", PACKER, "--no-sbom", env={**env, **names})
    assert "/resourceGroups/rg/" in r.stdout and "/galleries/gallery/" in r.stdout


def test_what_a_machine_of_our_own_needs(place):
    made = "case $1 in version) echo 'Packer v1.6.6' ;; esac"
    qemu = ("--target", "vm-qemu", "--template-dir", PACKER, "--base-image", place / "base.qcow2")
    env = fake(place, "packer", made)
    (place / "output-qemu").mkdir()
    assert "output-qemu: exists; remove it, or name another with --var output_directory=DIR" in build(place, *qemu, rc=1, env=env).stderr
    (place / "output-qemu").rmdir()
    r = build(place, *qemu[:-1], place / "nothere.qcow2", rc=1, env=env)
    assert "nothere.qcow2: No such file or directory; --base-image is a qcow2 of a Debian cloud image" in r.stderr
    (place / "bin" / "sh").symlink_to("/bin/sh")
    r = build(place, *qemu, "--var", "seed=x", rc=1, env={"PATH": str(place / "bin")})
    assert "qemu-system-x86_64: is not installed; apt-get install qemu-system-x86 qemu-utils" in r.stderr
    r = build(place, *qemu, "--sbom", place / "no" / "sbom", rc=1, env=env)
    assert "no/sbom: No such file or directory" in r.stderr


INVENTORY = ("os\tdebian\t12\ndeb\tlibc6\t2.36-9+deb12u1\tamd64\tglibc\t2.36-9+deb12u1\tGNU Libc Maintainers <debian-glibc@lists.debian.org>\n"
             "deb\ttzdata\t1:2024a-0\tall\ttzdata\t1:2024a-0\tnobody\npypi\tTyping_Extensions\t4.8.0\n")
# Writes down what it sees of the templates, makes an image where it is told, and hands the inventory out.
PACKER_STANDIN = r"""case $1 in version) echo "Packer v%s" ;; build)
    for last; do case $last in -var=output_directory=*) mkdir "${last##*=}" && echo image >"${last##*=}/trustbridge.qcow2" ;;
        -var=inventory=*) cp %s "${last##*=}" ;; esac; done
    ls "$last" >>%s/seen; echo noise; echo noise >&2 ;; esac"""


def packer_standin(place, version):
    (place / "inventory").write_text(INVENTORY)
    return fake(place, "packer", PACKER_STANDIN % (version, place / "inventory", place))


def test_packer_builds_by_the_right_source(place):
    old = packer_standin(place, "1.6.6")
    r = build(place, "--target", "vm-azure", "--template-dir", PACKER, *AZURE, "--var", "image_version=2.0.1", "--json", env=old)
    assert "noise" in r.stderr
    assert json.loads(r.stdout) == {"target": "vm-azure", "image":
                                    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg/providers/Microsoft.Compute/"
                                    "galleries/gallery/images/trustbridge/versions/2.0.1", "sbom": "trustbridge-2.0.1.spdx.json"}
    calls = (place / "words").read_text().split("--\n")
    assert calls[0].split() == ["version"] and "-only=azure-arm.trustbridge\n" in calls[1] and f"-var=debs={place}/debs\n" in calls[1]
    assert "-var=image_version=2.0.1\n" in calls[1] and not any(c.startswith("init") for c in calls)
    seen = (place / "seen").read_text().split()
    assert "trustbridge.pkr.hcl" in seen and "scripts" in seen and "plugins.pkr.hcl" not in seen
    (place / "words").unlink()
    (place / "seen").unlink()
    new = packer_standin(place, "1.11.2")
    accelerator = ("--var", "accelerator=tcg")
    r = build(place, "--target", "vm-qemu", "--template-dir", PACKER, "--base-image", "base.qcow2", "--var", "output_directory=out/", *accelerator,
              "--quiet", env=new)
    assert r.stdout == "out/trustbridge.qcow2\n" and r.stderr == ""
    assert (place / "out/trustbridge.qcow2").read_text() == "image\n" and (place / "out.spdx.json").exists()
    calls = (place / "words").read_text().split("--\n")
    assert calls[1].startswith("init\n") and "-only=qemu.trustbridge\n" in calls[2] and "-var=base_image=base.qcow2\n" in calls[2]
    assert "-var=seed=" in calls[2] and "plugins.pkr.hcl" in (place / "seen").read_text().split()


def test_the_bill_of_materials(place):
    env = {**packer_standin(place, "1.6.6"), "SOURCE_DATE_EPOCH": "1700000000"}
    azure = ("--target", "vm-azure", "--template-dir", PACKER, *AZURE)
    build(place, *azure, "--sbom", place / "a.json", env=env)
    build(place, *azure, "--sbom", place / "b.json", env=env)
    assert (place / "a.json").read_bytes() == (place / "b.json").read_bytes()
    doc = json.loads((place / "a.json").read_text())
    assert doc["spdxVersion"] == "SPDX-2.3" and doc["dataLicense"] == "CC0-1.0" and doc["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    subject, libc, tz, typing = doc["packages"]
    assert (subject["name"], subject["versionInfo"]) == ("trustbridge", "1.0.0")
    assert libc["externalRefs"][0]["referenceLocator"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u1?arch=amd64&distro=debian-12"
    assert libc["supplier"] == "Organization: GNU Libc Maintainers (debian-glibc@lists.debian.org)" and tz["supplier"] == "NOASSERTION"
    assert libc["sourceInfo"] == "built from source package glibc 2.36-9+deb12u1"
    assert typing["name"] == "Typing_Extensions" and typing["externalRefs"][0]["referenceLocator"] == "pkg:pypi/typing-extensions@4.8.0"
    ids = [p["SPDXID"] for p in doc["packages"]]
    related = {(r["spdxElementId"], r["relationshipType"], r["relatedSpdxElement"]) for r in doc["relationships"]}
    assert len(set(ids)) == 4 and related == {("SPDXRef-DOCUMENT", "DESCRIBES", ids[0]), *((ids[0], "CONTAINS", i) for i in ids[1:])}
    # none is asked for; none can be had; what comes is no list
    build(place, *azure, "--no-sbom", env=env)
    assert not list(place.glob("*.spdx.json")) and "inventory=" not in (place / "words").read_text().split("--\n")[-2]
    (place / "inventory").write_text("oops\n")
    r = build(place, *azure, "--sbom", place / "c.json", env=env, rc=1)
    assert "tb-inventory: says something else" in r.stderr and not (place / "c.json").exists()
    templates = place / "templates"
    shutil.copytree(PACKER, templates)
    text = (templates / "trustbridge.pkr.hcl").read_text()
    (templates / "trustbridge.pkr.hcl").write_text(text.replace('variable "inventory"', 'variable "other"'))
    r = build(place, "--target", "vm-azure", "--template-dir", templates, *AZURE, "--json", env=env)
    assert "no bill of materials: the templates in" in r.stderr and "sbom" not in json.loads(r.stdout) and not list(place.glob("*.spdx.json"))


def test_a_quiet_tool_is_heard_when_it_fails(place):
    env = fake(place, "packer", 'case $1 in version) echo "Packer v1.6.6" ;; build) echo "first words"; echo "the reason" >&2; exit 3 ;; esac')
    r = build(place, "--target", "vm-azure", "--template-dir", PACKER, *AZURE, "--quiet", "--json", rc=1, env=env)
    assert "first words\n" in r.stderr and "the reason\n" in r.stderr and "packer: build ended with exit code 3" in r.stderr


def test_two_builds_at_once_do_not_mix(place):
    """Both make their own; the one that comes second to the name is told so, and leaves nothing."""
    env = fake(place, "packer", f'[ $1 = version ] || touch {place}/$$.in\nuntil [ $1 = version ] || [ -e {place}/go ]; do sleep 0.05; done\n' +
               PACKER_STANDIN % ("1.6.6", "/dev/null", place))
    argv = command(place, "--target", "vm-qemu", "--template-dir", PACKER, "--base-image", place / "base.qcow2", "--no-sbom", "--var",
                   "accelerator=tcg")
    both = [subprocess.Popen(argv, env=environment(place, env), cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True) for _ in range(2)]
    wait_for(lambda: len(list(place.glob("*.in"))) == 2, 20, "both")
    (place / "go").touch()
    ends = [p.communicate(timeout=30) for p in both]
    assert sorted(p.returncode for p in both) == [0, 1], ends
    lost = next(err for p, (_, err) in zip(both, ends) if p.returncode)
    assert "output-qemu: " in lost and "was made by somebody else meanwhile" in lost
    assert (place / "output-qemu/trustbridge.qcow2").read_text() == "image\n"
    assert [p.name for p in place.iterdir() if p.name.startswith(".")] == [] and list((place / "tmp").iterdir()) == []


def test_the_containerfile_has_no_weights_and_starts_systemd(place):
    r = build(place, "--registry", "acme.azurecr.io", "--base-image", "docker.io/acme/server:1", "--dry-run")
    assert r.stdout.startswith("FROM docker.io/acme/server:1\n") and 'ENTRYPOINT ["/usr/lib/trustbridge/tb-init"]' in r.stdout
    assert "AssertCapability=CAP_$c" in r.stdout
    r = build(place, "--registry", "acme.azurecr.io", "--base-image", "docker.io/acme/server:1", "--dry-run", "--json")
    assert json.loads(r.stdout)["containerfile"].startswith("FROM docker.io/acme/server:1\n")
    # the first TrustBridge's command line, its defaults, and its names of the environment
    r = build(place, "--image-name", "trustbridge-runtime", "--tag", "v1.0.0", "--sentinel-binary", "./sentinel", "--entrypoint", "x",
              "--dry-run", env={"DOCKER_REGISTRY": "myacr.azurecr.io"})
    assert r.stdout.startswith("FROM nvcr.io/nvidia/vllm:latest\n")
    assert "--sentinel-binary is obsolete: the programs come from" in r.stderr and "--entrypoint is obsolete" in r.stderr
    r = build(place, "--dry-run", env={"DOCKER_REGISTRY": "r", "DOCKER_BASE_IMAGE": "b:1"})
    assert r.stdout.startswith("FROM b:1\n")


def test_the_providers_key_is_pinned_in_each_kind_of_image(place):
    oci = ("--registry", "r.example", "--base-image", "b:1", "--dry-run")
    line = f"RUN echo '{KEYS[0]}' >/usr/lib/trustbridge/provider.pub\n"
    for given, env in ((("--provider-key", KEYS[0]), {}), (("--provider-key", VECTORS / "one.pub"), {}), ((), {"TB_PROVIDER_KEY": KEYS[0]})):
        assert line in build(place, *oci, *given, env=env).stdout
    assert json.loads(build(place, *oci, "--json", "--provider-key", ",".join(KEYS)).stdout)["provider_key"] == ",".join(KEYS)
    assert "provider.pub" not in build(place, *oci).stdout and "provider_key" not in json.loads(build(place, *oci, "--json").stdout)
    env = packer_standin(place, "1.6.6")
    azure = ("--target", "vm-azure", "--template-dir", PACKER, *AZURE, "--no-sbom")
    r = build(place, *azure, "--provider-key", VECTORS / "one.pub", "--json", env=env)
    assert json.loads(r.stdout)["provider_key"] == KEYS[0] and f"-var=provider_key={KEYS[0]}\n" in (place / "words").read_text()
    # what is said for this one image wins over what is set for all
    (place / "words").unlink()
    build(place, *azure, "--var", f"provider_key={KEYS[1]}", env={**env, "TB_PROVIDER_KEY": KEYS[0]})
    assert f"-var=provider_key={KEYS[1]}\n" in (place / "words").read_text() and KEYS[0] not in (place / "words").read_text()


def test_a_key_that_cannot_be_pinned(place):
    """Said before a tool is started: an image that pins nothing would look like one that does."""
    env = fake(place, "packer", 'case $1 in version) echo "Packer v1.6.6" ;; esac') | fake(place, "buildah", "exit 3")
    oci = ("--registry", "r.example", "--base-image", "b:1")
    for given, words in ((place / "nothere", "is neither a public key of minisign nor a file"), (VECTORS / "one.key", "give the .pub that tbpkg keygen made")):
        assert words in build(place, *oci, "--provider-key", given, env=env, rc=1).stderr
    azure = ("--target", "vm-azure", *AZURE)
    r = build(place, *azure, "--template-dir", PACKER, "--provider-key", KEYS[0], "--var", f"provider_key={KEYS[0]}", env=env, rc=2)
    assert "--provider-key and --var provider_key exclude each other" in r.stderr
    shutil.copytree(PACKER, place / "templates")
    text = (PACKER / "trustbridge.pkr.hcl").read_text()
    (place / "templates/trustbridge.pkr.hcl").write_text(text.replace('variable "provider_key"', 'variable "other"'))
    r = build(place, *azure, "--template-dir", place / "templates", env={**env, "TB_PROVIDER_KEY": KEYS[0]}, rc=2)
    assert "--provider-key: the templates in" in r.stderr and "have no variable provider_key, so their image would pin none" in r.stderr
    assert not (place / "words").exists()


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
    (["--registry", "r", "surplus"], "surplus"), (["--registry", "r", "--label", "x"], "--label"),
    (["--registry", "https://acme.azurecr.io"], "--registry: a host"), (["--registry", "acme.azurecr.io/"], "--registry: a host"),
    (["--registry", "r", "--var", "x=1"], "--var is for vm-qemu and vm-azure"),
    (["--target", "vm-azure", *AZURE, "--tag", "v1"], "--tag is for oci, and means nothing for vm-azure"),
    (["--target", "vm-azure", *AZURE, "--no-push"], "--no-push is for oci"),
    (["--registry", "r", "--base-image", "--privileged"], "--base-image"), (["--registry", "r", "--sbom", "x", "--no-sbom"], "exclude each other"),
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
