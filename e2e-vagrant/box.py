#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the Vagrant box `trustbridge` of the appliance's image and adds it; what Vagrantfile needs beside it goes to
run/vagrant/boot.json. Needs root, vagrant and vagrant-libvirt."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "vm"), str(HERE / "lib")]

import build  # noqa: E402

RUN = HERE / "run" / "vagrant"
BOX = "trustbridge"


def make_box(image, path):
    """A tar of the disk as qcow2 and what vagrant-libvirt wants to know of it."""
    with tempfile.TemporaryDirectory(dir=RUN) as tmp:
        tmp = pathlib.Path(tmp)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", image / "disk.raw", tmp / "box.img"], check=True)
        (tmp / "metadata.json").write_text(json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": build.DISK_BYTES >> 30}))
        (tmp / "Vagrantfile").write_text("")
        subprocess.run(["tar", "-C", tmp, "-cf", path, "metadata.json", "Vagrantfile", "box.img"], check=True)


def main():
    if os.geteuid() != 0:
        sys.exit("box.py: needs root, as build.py does")
    RUN.mkdir(parents=True, exist_ok=True)
    image = build.build(os.environ.get("TB_VM_SUITE", "bookworm"), "vagrant")
    box = RUN / "trustbridge.box"
    make_box(image, box)
    subprocess.run(["vagrant", "box", "add", "--force", "--name", BOX, box], check=True)
    box.unlink()
    (RUN / "boot.json").write_text(json.dumps({
        "kernel": str(image / "vmlinuz"), "initrd": str(image / "initrd"),
        "cmd_line": "root=/dev/vda rootfstype=ext4 rw console=ttyS0 net.ifnames=0 quiet systemd.show_status=yes"}))
    print(image)


if __name__ == "__main__":
    main()
