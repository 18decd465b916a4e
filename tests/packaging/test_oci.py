# SPDX-License-Identifier: Apache-2.0
"""tbpkg build --target oci: Buildah, the packages of this checkout, and a registry on loopback."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import tarfile
import urllib.request

import debs
import oci
import pytest
from chain import Provider
from oci import tbpkg
from tbsys import free_port, wait_for
from test_packages import run


def test_the_digest_is_what_the_registry_serves(registry, built):
    assert built["image"] == f"{registry.host}/acme/trustbridge-runtime:v1" and built["pushed"]
    by_tag = registry.get("acme/trustbridge-runtime/manifests/v1")
    assert built["digest"] == "sha256:" + hashlib.sha256(by_tag).hexdigest()
    assert registry.get(f"acme/trustbridge-runtime/manifests/{built['digest']}") == by_tag


def test_what_is_in_the_image(registry, built, tmp_path):
    manifest = json.loads(registry.get("acme/trustbridge-runtime/manifests/v1"))
    config = json.loads(registry.get(f"acme/trustbridge-runtime/blobs/{manifest['config']['digest']}"))["config"]
    assert config["Entrypoint"] == ["/usr/lib/trustbridge/tb-init"] and not config.get("Cmd") and config["StopSignal"] == "SIGRTMIN+3"
    assert set(config["ExposedPorts"]) == {"8000", "8001"} or set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp"}
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}
    assert labels["title"] == "trustbridge-runtime" and labels["version"] == "v1" and labels["vendor"] == "ACME" and labels["created"].endswith("Z")
    assert labels["base.name"] == f"{registry.host}/base:1"
    assert labels["base.digest"] == "sha256:" + hashlib.sha256(registry.get("base/manifests/1")).hexdigest()
    names, links = {}, {}
    for layer in manifest["layers"]:
        blob = tmp_path / "layer"
        blob.write_bytes(registry.get(f"acme/trustbridge-runtime/blobs/{layer['digest']}"))
        with tarfile.open(blob) as t:
            for m in t:
                names[m.name] = t.extractfile(m).read() if m.isfile() and m.size < 4096 else b""
                links[m.name] = m.linkname
    for d in ("tb-init", "tb-inventory", "tb-authorize", "tb-hydrate", "tb-decrypt", "tb-load", "tb-proxy", "tb-billing"):
        assert f"usr/lib/trustbridge/{d}" in names
    for u in (p.name for p in (debs.REPO / "units").glob("tb-*.service")):
        assert names[f"etc/systemd/system/{u}.d/container.conf"] == (b"[Unit]\nAssertCapability=CAP_SYS_ADMIN\nAssertCapability=CAP_NET_ADMIN\n"
                                                                   b"AssertCapability=CAP_SYS_PTRACE\n")
    assert "etc/systemd/system/multi-user.target.wants/trustbridge.target" in names
    assert "sbin/init" in names or "usr/sbin/init" in names
    assert names.get("etc/machine-id") == b""
    pinned = (debs.REPO / "tests/vectors/minisign/one.pub").read_text().splitlines()[1]
    assert names["usr/lib/trustbridge/provider.pub"].decode() == pinned + "\n" and built["provider_key"] == pinned
    assert [n for n in names if "tb-debs" in n or n.endswith((".deb", ".tbenc", ".key", ".safetensors"))] == []


def said_inside(env, container, *argv):
    """What a program prints in a container. By buildah's chroot isolation on a busy machine now and then nothing of it arrives: then it is asked again."""
    return next((said for _ in range(5) if (said := run("buildah", "run", container, "--", *argv, env=env)).strip()), "")


def test_the_bill_of_materials_is_what_dpkg_says(env, built):
    doc = json.loads((pathlib.Path(env["HOME"]) / built["sbom"]).read_text())
    assert built["sbom"] == "trustbridge-runtime-v1.spdx.json"
    listed = {(p["name"], p["versionInfo"]) for p in doc["packages"][1:]}
    container = run("buildah", "from", "--pull=false", built["image_id"], env=env).strip()
    said = said_inside(env, container, "dpkg-query", "-W", "-f", "${Package} ${Version}\n")
    run("buildah", "rm", container, env=env)
    assert listed == {tuple(line.split()) for line in said.splitlines()} and "trustbridge" in {n for n, _ in listed}
    registry, name = built["image"].split("/", 1)
    assert doc["packages"][0]["externalRefs"][0]["referenceLocator"] == (
        f"pkg:oci/trustbridge-runtime@{built['digest'].replace(':', '%3A')}?repository_url={registry}/{name.removesuffix(':v1')}&tag=v1")


def test_the_layers_are_kept(registry, env, base, built):
    """With the same base and packages nothing is installed again, and other packages are not taken for the same."""
    args = ("build", "--registry", registry.host, "--tag", "again", "--base-image", base, "--insecure-registry", "--no-push", "--no-sbom", "--json")
    r = tbpkg(*args, "--deb-dir", debs.build(), env=env)
    assert r.returncode == 0, r.stderr[-3000:]
    assert r.stderr.count("Using cache") >= 3 and "Setting up" not in r.stderr
    assert json.loads(r.stdout)["image_id"] != built["image_id"], "another tag is another label"
    other = pathlib.Path(env["HOME"]) / "other"
    other.mkdir()
    shutil.copy(next(debs.build().glob("trustbridge_*.deb")), other / "trustbridge_9.9_amd64.deb")
    r = tbpkg(*args, "--deb-dir", other, env=env)
    assert r.returncode == 0 and "Setting up trustbridge" in r.stderr, r.stderr[-3000:]
    shutil.rmtree(other)


def test_no_push_and_a_registry_that_is_away(registry, env, base, built):
    small = ("--base-image", built["image"], "--deb-dir", debs.build(), "--insecure-registry")
    r = tbpkg("build", "--registry", registry.host, "--tag", "local", "--no-push", "--json", *small, env=env)
    assert r.returncode == 0, r.stderr[-3000:]
    doc = json.loads(r.stdout)
    assert not doc["pushed"] and "digest" not in doc
    run("buildah", "inspect", doc["image"], env=env)
    with pytest.raises(OSError):
        registry.get("trustbridge-runtime/manifests/local")
    nobody = f"127.0.0.1:{free_port()}"
    r = tbpkg("build", "--registry", nobody, "--tag", "v1", *small, env=env)
    assert r.returncode == 1 and r.stdout == "" and f"buildah login {nobody}" in r.stderr
    r = tbpkg("build", "--registry", registry.host, "--base-image", f"{registry.host}/nothere:1", "--deb-dir", debs.build(),
              "--insecure-registry", env=env)
    assert r.returncode == 1 and r.stdout == "" and f"--base-image: {registry.host}/nothere:1 cannot be had; log in with buildah login" in r.stderr
    assert list(pathlib.Path(env["TMPDIR"]).glob("tbpkg-*")) == []


def test_publish_with_everything(registry, env, built, tmp_path):
    """Azurite, the development control plane and the registry; then nothing is left to do."""
    p = Provider(tmp_path / "provider").start()
    try:
        (tmp_path / "model").write_bytes(os.urandom(300_000))
        args = ["publish", "--yes", "--json", "--sign-key", debs.REPO / "tests/vectors/minisign/two.key", "--asset-id", "everything", "--storage-account", p.azurite.account, "--endpoint",
                p.azurite.endpoint, "--edc-endpoint", p.controlplane.url, "--registry", registry.host, "--image-tag", "v7",
                "--base-image", built["image"], "--deb-dir", debs.build(), "--insecure-registry", "--template-dir", debs.REPO / "bicep",
                "--vm-image", "acme:offer:plan", "--output", tmp_path / "out", tmp_path / "model"]
        r = tbpkg(*args, env={**env, **p.env()})
        assert r.returncode == 0, r.stderr[-3000:]
        steps = json.loads(r.stdout)["steps"]
        digest = "sha256:" + hashlib.sha256(registry.get("trustbridge-runtime/manifests/v7")).hexdigest()
        pinned = (debs.REPO / "tests/vectors/minisign/two.pub").read_text().splitlines()[1]
        assert steps["build"]["provider_key"] == pinned == steps["package"]["provider_key"]
        assert steps["build"]["digest"] == digest and not any(s["skipped"] for s in steps.values())
        stored = hashlib.sha256(p.azurite.get_blob("models/everything/model.tbenc")).hexdigest()
        assert stored == steps["encrypt"]["sha256_ciphertext"] and not list(tmp_path.rglob("*.tbenc"))
        again = tbpkg(*args, env={**env, **p.env()})
        assert again.returncode == 0 and again.stdout == r.stdout and again.stderr.count("done already") == 5
    finally:
        p.stop()


def test_tbpkg_in_a_container(registry, env, base, tmp_path):
    """`make tbpkg-image`, for people without Debian."""
    run("make", "-C", debs.REPO, "tbpkg-image", f"BASE={base}", "IMAGE=localhost/tbpkg:test", "BUILDAH_FLAGS=--tls-verify=false", env=env)
    config = json.loads(run("buildah", "inspect", "--type", "image", "localhost/tbpkg:test", env=env))["OCIv1"]["config"]
    assert config["Entrypoint"] == ["/usr/bin/tbpkg"] and config["Labels"]["org.opencontainers.image.title"] == "tbpkg"
    container = run("buildah", "from", "localhost/tbpkg:test", env=env).strip()
    (tmp_path / "m").write_bytes(os.urandom(100_000))
    inside = ("buildah", "run", "--volume", f"{tmp_path}:/work", container, "--", "/usr/bin/tbpkg")
    run(*inside, "encrypt", "--quiet", "--asset-id=a", "--out=/work/m.tbenc", "--key-out=/work/key", "/work/m", env=env)
    run(*inside, "verify", "--quiet", "--key-file=/work/key", "/work/m.tbenc", env=env)
    assert run("buildah", "run", container, "--", "sh", "-c", "ls /tmp /var/lib/apt/lists", env=env).split() == ["/tmp:", "/var/lib/apt/lists:"]


def build_controlplane_image(env, base, packages, place):
    """By the Containerfile that the package ships, with the package beside it."""
    place.mkdir()
    [deb] = packages.glob("trustbridge-controlplane_*.deb")
    shutil.copy(deb, place)
    shutil.copy(debs.REPO / "controlplane/system/Containerfile", place)
    run("buildah", "build", "--tls-verify=false", "--build-arg", f"BASE={base}", "-t", "trustbridge-controlplane:test", str(place), env=env)
    return "trustbridge-controlplane:test"


def check_controlplane_image(env, image, place):
    config = json.loads(run("buildah", "inspect", "--type", "image", image, env=env))["OCIv1"]["config"]
    assert config["User"] == "tb-controlplane" and config["Entrypoint"] == ["/usr/bin/tb-controlplane"] and config["Cmd"] == ["serve"]
    assert list(config["Volumes"]) == ["/var/lib/tb-controlplane"]
    container, port = run("buildah", "from", image, env=env).strip(), free_port()
    log = open(place / "serve.log", "wb")
    server = subprocess.Popen(["buildah", "run", "-e", f"TBCP_LISTEN=127.0.0.1:{port}", container, "--", "/usr/bin/tb-controlplane", "serve"],
                              env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        def healthy():
            assert server.poll() is None, (place / "serve.log").read_text()
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{port}/api/v1/health", timeout=5, context=ssl._create_unverified_context()) as r:
                    return json.loads(r.read()) == {"status": "ok"}
            except OSError:
                return False

        wait_for(healthy, 60, "the control plane in its container")
        assert "contract-allow" in said_inside(env, container, "tb-controlplane", "contract", "list")
        owners = said_inside(env, container, "stat", "-c", "%U", "/var/lib/tb-controlplane/master.key", "/var/lib/tb-controlplane")
        assert owners.split() == ["tb-controlplane"] * 2
        assert run("buildah", "run", container, "--", "sh", "-c", "ls /tmp /var/lib/apt/lists", env=env).split() == ["/tmp:", "/var/lib/apt/lists:"]
    finally:
        for pid in pathlib.Path("/proc").glob("[0-9]*"):  # chroot isolation leaves the program behind when buildah is told to end
            try:
                if f"TBCP_LISTEN=127.0.0.1:{port}".encode() in (pid / "environ").read_bytes().split(b"\0"):
                    os.kill(int(pid.name), signal.SIGTERM)
            except OSError:
                pass
        server.wait(30)
        log.close()


def test_the_control_plane_in_a_container(base, tmp_path):
    (tmp_path / "containers").mkdir()
    env = oci.storage(tmp_path / "containers", "vfs")  # two programs of one container see each other's files in no other
    try:
        image = build_controlplane_image(env, base, debs.build(), tmp_path / "context")
        check_controlplane_image(env, image, tmp_path)
    finally:
        oci.forget(env)
