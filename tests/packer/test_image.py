# SPDX-License-Identifier: Apache-2.0
"""packer/ for real: `tbpkg build` has Packer boot a Debian, install the package, generalise and check; then the image is booted as a
customer's machine and serves a model. Two boots under emulation, several minutes: `make check-image`, not part of `make check`."""

import json
import os
import shutil
import subprocess

import build
import debs
import model
import pytest
from appliance import Appliance, GuestProvider
from conftest import REPO
from runner import accelerator
from tbsys import program

ASSET, CONTRACT = "image-model", "image"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Debian with cloud-init, ssh and an inference server, and nothing of TrustBridge: stands for a cloud image."""
    d = tmp_path_factory.mktemp("bare")
    with build.locked():
        tar = build.base("bookworm", "packer-base", ("openssh-server", "sudo"))
        build.make_image("bookworm", "bare", tar, None, d)
    yield d
    shutil.rmtree(d)


@pytest.fixture(scope="module")
def image(bare, tmp_path_factory):
    """Packer's output as a directory that VM() boots."""
    top = tmp_path_factory.mktemp("packer")
    out, packages = top / "out", top / "debs"
    packages.mkdir()
    for name in ("libtbenc1", "trustbridge"):
        shutil.copy(next(debs.build("bookworm").glob(f"{name}_*.deb")), packages)
    args = dict(zip(accelerator()[::2], accelerator()[1::2]))
    variables = {"output_directory": out, "disk_size": "2G", "accelerator": args["-accel"].split(",")[0], "cpu": args["-cpu"],
                 "kernel": bare / "vmlinuz", "initrd": bare / "initrd"}
    argv = [program("tbpkg"), "build", "--target=vm-qemu", "--json", f"--deb-dir={packages}", f"--base-image={bare / 'disk.raw'}",
            f"--template-dir={REPO / 'packer'}", *(f"--var={k}={v}" for k, v in variables.items())]
    env = {**os.environ, "PACKER_CACHE_DIR": str(top / "cache")}
    r = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1500, env=env)
    assert r.returncode == 0, (r.stdout + r.stderr)[-6000:]
    machine = top / "image"
    machine.mkdir()
    for name in ("vmlinuz", "initrd"):
        shutil.copy(bare / name, machine)
    subprocess.run(["qemu-img", "convert", "-O", "raw", out / "trustbridge.qcow2", machine / "disk.raw"], check=True)
    shutil.rmtree(out)
    yield machine, r.stdout, r.stderr
    shutil.rmtree(top)


def test_the_build_checked_itself(image):
    _, said, log = image
    assert json.loads(said)
    assert "ok      package trustbridge is installed" in log and "ok      cloud-init starts afresh" in log
    assert "FAILED" not in log


def test_nothing_of_the_build_is_left(image):
    def read(*command):
        return subprocess.run(["debugfs", "-R", " ".join(command), image[0] / "disk.raw"], capture_output=True, text=True, check=True).stdout
    assert "tb-build" not in read("ls", "-p", "/home")
    assert "root:" in read("cat", "/etc/passwd") and "tb-build" not in read("cat", "/etc/passwd")


def test_the_image_serves(image, tmp_path):
    provider = GuestProvider(tmp_path / "provider").start()
    vm = None
    try:
        source = model.make_model(tmp_path / "model")
        provider.publish(source, ASSET, "64KiB")
        provider.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
        vm = Appliance(image[0], tmp_path / "vm", provider, CONTRACT, ASSET, model.GGUF)
        vm.start().wait_state("Ready")
        status, answer = vm.chat({**model.CHAT, "max_tokens": 4})
        assert status == 200 and answer["usage"]["completion_tokens"] > 0
        assert vm.run("getent passwd tb-build")[0] != 0
        assert vm.sh("systemctl is-enabled ssh.service || true").strip() in ("disabled", "masked")
        assert vm.sh("swapon --noheadings").strip() == ""
        assert vm.sh("cat /proc/sys/kernel/core_pattern").strip() == "|/bin/false"
        assert len(vm.sh("cat /etc/machine-id").strip()) == 32
    except AssertionError as e:
        raise AssertionError(f"{e}\n{vm.report() if vm else ''}") from e
    finally:
        if vm:
            vm.discard()
        provider.stop()
