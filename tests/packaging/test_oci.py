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
import pytest
from chain import Provider
from tbsys import free_port, program, wait_for
from test_packages import fresh_system, run

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    def __init__(self, directory):
        self.host = f"127.0.0.1:{free_port()}"
        directory.mkdir()
        (directory / "config.yml").write_text("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: "
                                              f"{directory}/data}}}}\nhttp: {{addr: '{self.host}'}}\n")
        self.log = open(directory / "log", "wb")
        self.p = subprocess.Popen(["docker-registry", "serve", directory / "config.yml"], stdin=subprocess.DEVNULL, stdout=self.log,
                                  stderr=self.log)
        wait_for(self.answers, 30, "the registry")

    def answers(self):
        assert self.p.poll() is None, "docker-registry ended"
        try:
            return urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).status == 200
        except OSError:
            return False

    def get(self, path):
        rq = urllib.request.Request(f"http://{self.host}/v2/{path}", headers={"Accept": MANIFEST})
        with urllib.request.urlopen(rq, timeout=60) as r:
            return r.read()

    def stop(self):
        self.p.terminate()
        self.p.wait(10)
        self.log.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    r = Registry(tmp_path_factory.mktemp("registry") / "r")
    yield r
    r.stop()


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """Buildah's storage in a directory of its own, and no more rights than this machine may give."""
    d = tmp_path_factory.mktemp("containers")
    (d / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{d}/root"\nrunroot = "{d}/run"\n')
    (d / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    yield {"PATH": os.environ["PATH"], "HOME": str(d), "CONTAINERS_STORAGE_CONF": str(d / "storage.conf"),
           "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(d)}
    subprocess.run(["buildah", "rm", "--all"], env={"PATH": os.environ["PATH"], "CONTAINERS_STORAGE_CONF": str(d / "storage.conf")},
                   capture_output=True)


def tbpkg(*args, env):
    return subprocess.run([program("tbpkg"), *map(str, args)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=900)


@pytest.fixture(scope="module")
def base(registry, env):
    """A Debian without TrustBridge, with a stand-in for the inference server."""
    tar = fresh_system(lambda name: next(debs.build().glob(f"{name}_*.deb")))
    container = run("buildah", "from", "scratch", env=env).strip()
    run("buildah", "add", container, tar, "/", env=env)
    name = f"{registry.host}/base:1"
    run("buildah", "commit", "--rm", container, name, env=env)
    run("buildah", "push", "--tls-verify=false", name, env=env)
    return name


@pytest.fixture(scope="module")
def built(registry, env, base):
    r = tbpkg("build", "--registry", registry.host, "--image-name", "acme/trustbridge-runtime", "--tag", "v1", "--base-image", base,
              "--deb-dir", debs.build(), "--insecure-registry", "--json", "--sentinel-binary", "./sentinel", env=env)
    assert r.returncode == 0, r.stderr[-4000:]
    assert "--sentinel-binary is obsolete" in r.stderr
    return json.loads(r.stdout)


def test_the_digest_is_what_the_registry_serves(registry, built):
    assert built["image"] == f"{registry.host}/acme/trustbridge-runtime:v1" and built["pushed"]
    by_tag = registry.get("acme/trustbridge-runtime/manifests/v1")
    assert built["digest"] == "sha256:" + hashlib.sha256(by_tag).hexdigest()
    assert registry.get(f"acme/trustbridge-runtime/manifests/{built['digest']}") == by_tag


def test_what_is_in_the_image(registry, built, tmp_path):
    manifest = json.loads(registry.get("acme/trustbridge-runtime/manifests/v1"))
    config = json.loads(registry.get(f"acme/trustbridge-runtime/blobs/{manifest['config']['digest']}"))["config"]
    assert config["Entrypoint"] == ["/sbin/init"] and not config.get("Cmd") and config["StopSignal"] == "SIGRTMIN+3"
    assert set(config["ExposedPorts"]) == {"8000", "8001"} or set(config["ExposedPorts"]) == {"8000/tcp", "8001/tcp"}
    names, links = {}, {}
    for layer in manifest["layers"]:
        blob = tmp_path / "layer"
        blob.write_bytes(registry.get(f"acme/trustbridge-runtime/blobs/{layer['digest']}"))
        with tarfile.open(blob) as t:
            for m in t:
                names[m.name] = t.extractfile(m).read() if m.isfile() and m.size < 4096 else b""
                links[m.name] = m.linkname
    for d in ("tb-authorize", "tb-hydrate", "tb-decrypt", "tb-load", "tb-proxy", "tb-billing"):
        assert f"usr/lib/trustbridge/{d}" in names
    for u in ("tb-authorize", "tb-decrypt", "tb-runtime", "tb-proxy"):
        assert b"AssertCapability=CAP_SYS_ADMIN" in names[f"etc/systemd/system/{u}.service.d/container.conf"]
    assert "etc/systemd/system/multi-user.target.wants/trustbridge.target" in names
    assert "sbin/init" in names or "usr/sbin/init" in names
    assert names.get("etc/machine-id") == b""
    assert [n for n in names if "tb-debs" in n or n.endswith((".deb", ".tbenc", ".key", ".safetensors"))] == []


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
    assert r.returncode == 1 and r.stdout == "" and "buildah: build ended with exit code" in r.stderr
    assert list(pathlib.Path(env["TMPDIR"]).glob("tbpkg-*")) == []


def test_publish_with_everything(registry, env, built, tmp_path):
    """Azurite, the development control plane and the registry; then nothing is left to do."""
    p = Provider(tmp_path / "provider").start()
    try:
        (tmp_path / "model").write_bytes(os.urandom(300_000))
        args = ["publish", "--yes", "--json", "--asset-id", "everything", "--storage-account", p.azurite.account, "--endpoint",
                p.azurite.endpoint, "--edc-endpoint", p.controlplane.url, "--registry", registry.host, "--image-tag", "v7",
                "--base-image", built["image"], "--deb-dir", debs.build(), "--insecure-registry", "--template-dir", debs.REPO / "bicep",
                "--vm-image", "acme:offer:plan", "--output", tmp_path / "out", tmp_path / "model"]
        r = tbpkg(*args, env={**env, **p.env()})
        assert r.returncode == 0, r.stderr[-3000:]
        steps = json.loads(r.stdout)["steps"]
        digest = "sha256:" + hashlib.sha256(registry.get("trustbridge-runtime/manifests/v7")).hexdigest()
        assert steps["build"]["digest"] == digest and not any(s["skipped"] for s in steps.values())
        stored = hashlib.sha256(p.azurite.get_blob("models/everything/model.tbenc")).hexdigest()
        assert stored == steps["encrypt"]["sha256_ciphertext"] and not list(tmp_path.rglob("*.tbenc"))
        again = tbpkg(*args, env={**env, **p.env()})
        assert again.returncode == 0 and again.stdout == r.stdout and again.stderr.count("done already") == 5
    finally:
        p.stop()


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
        assert "contract-allow" in run("buildah", "run", container, "--", "tb-controlplane", "contract", "list", env=env)
        owners = run("buildah", "run", container, "--", "stat", "-c", "%U", "/var/lib/tb-controlplane/master.key", "/var/lib/tb-controlplane",
                     env=env)
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


def test_the_control_plane_in_a_container(env, base, tmp_path):
    image = build_controlplane_image(env, base, debs.build(), tmp_path / "context")
    check_controlplane_image(env, image, tmp_path)
