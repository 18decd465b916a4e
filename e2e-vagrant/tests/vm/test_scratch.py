# SPDX-License-Identifier: Apache-2.0
"""The first boot and the ephemeral disk, in a virtual machine with disks of every kind. Where Azure's controllers would name the disk a udev
rule does it here in the words of cloud-init's; local NVMe is a real device of that model, made by the kernel's own NVMe target. One
machine for all tests, in the order of this file. It never serves: its control plane does not exist."""

import hashlib
import pathlib
import struct
import subprocess
import zlib

import pytest
from chain import http_json
from runner import VM, write_seed
from tbsys import CA, wait_for

MIB = 1 << 20
MOUNT, TARGET = "/mnt/resource", "/mnt/resource/models"
MSR = "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"


def tool(*argv, **kw):
    subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True, **kw)


def lvm_label():
    """The second sector of a physical volume."""
    tail = struct.pack("<I8s", 32, b"LVM2 001").ljust(512 - 20, b"\0")
    crc = ~zlib.crc32(tail, ~0xF597A6CF & 0xFFFFFFFF) & 0xFFFFFFFF
    return b"LABELONE" + struct.pack("<QI", 1, crc) + tail


def write_at(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def temporary_storage(path, table, *extra):
    """As Azure hands it out: NTFS with a warning, and `extra` files beside it."""
    reserved = f"start=2048, size=32768, type={MSR}\n" if table == "gpt" else ""
    start = 2048 + (32768 if reserved else 0)
    kind = BASIC_DATA if table == "gpt" else "7"
    size = path.stat().st_size // 512 - start - 2048
    tool("sfdisk", "-q", path, input=f"label: {table}\n{reserved}start={start}, size={size}, type={kind}\n")
    volume, readme = path.with_name("volume"), path.with_name("readme")
    readme.write_text("WARNING: THIS IS A TEMPORARY DISK.\n")
    with open(volume, "wb") as f:
        f.truncate(size * 512)
    tool("mkntfs", "-q", "-F", "-f", "-L", "Temporary Storage", "-p", start, "-H", "0", "-S", "0", volume)
    for name in ("DATALOSS_WARNING_README.txt", *extra):
        tool("ntfscp", "-q", volume, readme, name)
    tool("dd", f"if={volume}", f"of={path}", "bs=1M", f"seek={start // 2048}", "conv=notrunc,sparse")


# What must stay as it is, byte for byte, and what is said of it.
DATA = {
    "ext4": (lambda p: tool("mkfs.ext4", "-q", p), "it holds ext4"),
    "gpt": (lambda p: tool("sfdisk", "-q", p, input="label: gpt\nsize=16M\n"), "is not Azure's temporary storage"),
    "lvm": (lambda p: write_at(p, 512, lvm_label()), "it holds LVM2_member"),
    "swap": (lambda p: tool("mkswap", p), "it holds swap"),
    "luks": (lambda p: write_at(p, 0, b"LUKS\xba\xbe\x00\x01"), "it holds crypto_LUKS"),
    "bytes": (lambda p: write_at(p, 5 * MIB, b"something of somebody's"), "bytes of no known kind"),
    "end": (lambda p: write_at(p, 80 * MIB - 700, b"something of somebody's"), "bytes of no known kind"),
    "ntfs": (lambda p: temporary_storage(p, "dos", "thesis.doc"), "holds 'thesis.doc'"),
    "named": (lambda p: tool("mkfs.ext4", "-q", "-L", "tb-scratch", p), "it holds ext4 tb-scratch"),
}
DISKS = {**{f"data-{k}": v[0] for k, v in DATA.items()}, "nvme-back": None, "azure-dos": lambda p: temporary_storage(p, "dos"),
         "azure-gpt": lambda p: temporary_storage(p, "gpt")}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """{serial: image}"""
    d = tmp_path_factory.mktemp("disks")
    made = {}
    for serial, make in DISKS.items():
        made[serial] = d / serial
        with open(made[serial], "wb") as f:
            f.truncate((256 if serial == "nvme-back" else 80) * MIB)
        if make:
            make(made[serial])
    return made


@pytest.fixture(scope="module")
def originals(disks):
    return {kind: digest(disks[f"data-{kind}"]) for kind in DATA}


@pytest.fixture(scope="module")
def vm(image, disks, originals, tmp_path_factory):
    d = tmp_path_factory.mktemp("machine")
    ca = CA(d / "ca")
    cert, key = (pathlib.Path(p).read_bytes() for p in ca.issue("client"))
    seed = write_seed(d / "seed", {"TB_CONTRACT_ID": "none", "TB_ASSET_ID": "none", "TB_EDC_ENDPOINT": "https://127.0.0.1:9",
                                   "TB_PUBLIC_ADDR": ":8100", "TB_HEALTH_ADDR": ":8101", "TB_TARGET_DIR": TARGET},
                      {"CA": pathlib.Path(ca.cert).read_bytes(), "CLIENT_CERT": cert, "CLIENT_KEY": key})
    devices = ["-device", "virtio-scsi-pci"]
    for serial, path in disks.items():
        devices += ["-drive", f"file={path},if=none,id={serial},format=raw,discard=unmap", "-device", f"scsi-hd,drive={serial},serial={serial}"]
    machine = VM(image, d, seed, forward=(8100, 8101, 8200), devices=devices)
    try:
        yield machine.start()
    finally:
        machine.discard()


# What a rule of the operator's says, and what cloud-init's say of the resource disk.
OPERATOR, AZURE = 'SYMLINK+="disk/trustbridge/%k"', 'ENV{fabric_name}="azure_resource"'


def offer(vm, serials, rule, count=1):
    """Has udev offer the disks of these serial numbers to tb-scratch, and no others."""
    vm.put("/etc/udev/rules.d/66-test.rules", f'SUBSYSTEM=="block", ENV{{DEVTYPE}}=="disk", ENV{{ID_SERIAL}}=="*{serials}", {rule}\n'.encode())
    vm.sh("udevadm control --reload && udevadm trigger --action=change --subsystem-match=block && udevadm settle", timeout=180)
    assert vm.sh("ls /dev/disk/trustbridge | wc -l").strip() == str(count)


def start(vm):
    """Starts tb-scratch again; returns what it says."""
    vm.sh("systemctl restart tb-scratch.service", timeout=180)
    return vm.sh("journalctl --namespace=trustbridge --sync; journalctl --namespace=trustbridge --no-pager -o cat "
                 "_SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID tb-scratch.service)")


def device(vm, serial):
    return vm.sh(f"lsblk -dno PATH,SERIAL | awk '$2 == \"{serial}\" {{print $1}}'").strip()


def mounted(vm):
    """(device, type, options) of what the directory is on."""
    return vm.sh(f"findmnt -no SOURCE,FSTYPE,OPTIONS --target {TARGET}").split()


def owner(vm):
    return vm.sh(f"stat -c %U:%G:%a {TARGET}").strip()


def unmount(vm):
    vm.sh(f"systemctl stop mnt-resource.mount tb-hydrate.service; ! mountpoint -q {MOUNT}")


# -- the first boot -------------------------------------------------------------------------------------------------------

def test_the_first_boot_listens_where_the_seed_says(vm):
    wait_for(lambda: vm.show("tb-proxy.service", "ActiveState") == "active", 400, "tb-proxy")
    listening = {line.split()[3].rsplit(":", 1)[1] for line in vm.sh("ss -Hltn").splitlines()}
    assert {"8100", "8101"} <= listening and not {"8000", "8001"} & listening
    assert http_json(vm.url("/status", 8101))[1]["state"]
    assert http_json(vm.url("/v1/models", 8100))[0] == 503
    assert vm.show("tb-proxy.service", "NRestarts") == "0"
    assert "reloading" in vm.sh("journalctl --namespace='*' --no-pager -o cat -u tb-configure.service")
    # Nothing was thrown out of the boot for a cycle.
    assert vm.run("journalctl -b --no-pager -o cat | grep -i 'ordering cycle'")[0] == 1
    assert vm.sh("systemctl list-units --failed --plain --no-legend 'tb-[!h]*'").strip() == ""


def test_the_first_boot_opens_the_directory(vm):
    assert vm.show("tb-hydrate.service", "ReadWritePaths") == TARGET
    assert owner(vm) == "tb-hydrate:tb-assets:750"
    assert mounted(vm)[0] == "/dev/vda"
    vm.sh("systemctl stop trustbridge.target tb-hydrate.service")  # it has nobody to ask


# -- disks with data ------------------------------------------------------------------------------------------------------

def test_disks_with_data_are_left_alone(vm):
    offer(vm, "data-*", OPERATOR, len(DATA))
    said = start(vm).splitlines()
    for kind, (_, reason) in DATA.items():
        dev = device(vm, f"data-{kind}")
        line = next((s for s in said if s.startswith(f"{dev}: ")), None)
        assert line and reason in line and "not used" in line and "To give it up" in line, (kind, line, said)
    assert "no ephemeral disk" in said[-1]
    assert mounted(vm)[0] == "/dev/vda" and owner(vm) == "tb-hydrate:tb-assets:750"


def test_a_disk_in_use_is_left_alone(vm):
    dev = device(vm, "nvme-back")
    vm.sh(f"mkfs.ext4 -q {dev} && mount {dev} /srv")
    offer(vm, "nvme-back", OPERATOR)
    assert f"{dev}: not used: it is in use" in start(vm)
    vm.sh(f"umount /srv && blkdiscard -f -z {dev} && rm /etc/udev/rules.d/66-test.rules && udevadm control --reload")


# -- local NVMe -----------------------------------------------------------------------------------------------------------

NVME = """modprobe -a nvmet nvmet-tcp nvme-tcp
cd /sys/kernel/config/nvmet
mkdir subsystems/scratch && cd subsystems/scratch
echo 1 > attr_allow_any_host && echo 'Microsoft NVMe Direct Disk v2' > attr_model
mkdir namespaces/1 && echo -n BACK > namespaces/1/device_path && echo 1 > namespaces/1/enable
mkdir /sys/kernel/config/nvmet/ports/1 && cd /sys/kernel/config/nvmet/ports/1
echo 127.0.0.1 > addr_traddr && echo tcp > addr_trtype && echo 4420 > addr_trsvcid && echo ipv4 > addr_adrfam
ln -s /sys/kernel/config/nvmet/subsystems/scratch subsystems/scratch
echo 'nqn=scratch,transport=tcp,traddr=127.0.0.1,trsvcid=4420' > /dev/nvme-fabrics
udevadm settle"""


def test_an_empty_nvme_disk_becomes_the_place(vm):
    vm.sh(f"set -e; mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config\n{NVME.replace('BACK', device(vm, 'nvme-back'))}")
    wait_for(lambda: vm.run("test -b /dev/disk/trustbridge/nvme0n1")[0] == 0, 30, "the disk of Azure's model")
    said = start(vm)
    assert "/dev/nvme0n1: empty" in said and f"mounted on {MOUNT}" in said
    source, kind, options = mounted(vm)
    assert (source, kind) == ("/dev/nvme0n1", "ext4") and {"nosuid", "nodev", "noexec", "rw"} <= set(options.split(","))
    assert owner(vm) == "tb-hydrate:tb-assets:750"
    # Where tb-hydrate would write.
    vm.sh("systemd-run --quiet --wait --collect -p User=tb-hydrate -p ProtectSystem=strict -p ReadWritePaths=%s sh -c 'echo kept > %s/file'"
          % (TARGET, TARGET))


def uuid(vm):
    return vm.sh("blkid -p -o value -s UUID /dev/nvme0n1").strip()


def test_another_start_changes_nothing(vm):
    before = uuid(vm)
    assert "file system of its own already" in start(vm)
    unmount(vm)
    assert "formatted by an earlier start" in start(vm)
    assert uuid(vm) == before and vm.sh(f"cat {TARGET}/file") == "kept\n"


def test_it_may_be_started_as_often_as_one_likes(vm):
    vm.sh("for i in 1 2 3 4 5 6 7 8; do systemctl restart tb-scratch.service || exit; done", timeout=180)


def test_a_file_system_that_cannot_be_mended_is_made_again(vm):
    unmount(vm)
    before = uuid(vm)
    vm.sh("dd if=/dev/urandom of=/dev/nvme0n1 bs=4k seek=1 count=2000 conv=notrunc,fsync status=none")
    assert "formatting it" in start(vm)
    assert uuid(vm) != before and mounted(vm)[0] == "/dev/nvme0n1"


def test_killed_at_any_instant_the_next_start_finishes(vm):
    unmount(vm)
    for i, delay in enumerate((0.5, 1, 1.5, 2, 3)):
        vm.sh("blkdiscard -f -z /dev/nvme0n1")
        vm.sh(f"systemctl restart --no-block tb-scratch.service; sleep {delay}; systemctl kill -s KILL tb-scratch.service; sleep 0.2; true")
        start(vm)
        assert mounted(vm)[0] == "/dev/nvme0n1" and owner(vm) == "tb-hydrate:tb-assets:750", i
        unmount(vm)
    # And as a power cut may leave it: with the mark and part of the rest.
    vm.sh("wipefs -q -a /dev/nvme0n1")
    assert "half formatted" in start(vm)
    assert mounted(vm)[0] == "/dev/nvme0n1"


def test_files_on_the_system_disk_are_not_hidden(vm):
    unmount(vm)
    vm.sh(f"mkdir -p {TARGET} && touch {TARGET}/model.tbenc")
    assert "holds files" in start(vm)
    assert mounted(vm)[0] == "/dev/vda"
    vm.sh(f"rm {TARGET}/model.tbenc")
    vm.sh("echo 1 > /sys/class/nvme/nvme0/delete_controller; udevadm settle; test ! -e /dev/nvme0n1")


# -- the resource disk ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("table", ["dos", "gpt"])
def test_the_resource_disk_as_azure_hands_it_out(vm, table):
    dev = device(vm, f"azure-{table}")
    offer(vm, f"azure-{table}", AZURE)
    said = start(vm)
    assert f"{dev}: Azure's temporary storage" in said
    assert mounted(vm)[0] == dev
    assert vm.sh(f"lsblk -nro NAME {dev}").split() == [dev.removeprefix("/dev/")], "the old partition is gone"
    unmount(vm)
    # After a deallocation it comes back raw.
    vm.sh(f"blkdiscard -f -z {dev}")
    assert f"{dev}: empty" in start(vm)
    unmount(vm)


# -- later changes --------------------------------------------------------------------------------------------------------

def test_a_change_is_applied_by_one_restart(vm):
    vm.sh("sed -i -e 's/^TB_PUBLIC_ADDR=.*/TB_PUBLIC_ADDR=:8200/' -e 's|^TB_TARGET_DIR=.*|TB_TARGET_DIR=/srv/models|' "
          "/etc/trustbridge/trustbridge.env && systemctl restart tb-configure.service", timeout=180)
    wait_for(lambda: vm.run("ss -Hltn | grep -q :8200")[0] == 0, 60, "the new address")
    assert vm.run("ss -Hltn | grep -q :8100")[0] == 1
    wait_for(lambda: vm.run("stat -c %U:%G:%a /srv/models")[1].strip() == "tb-hydrate:tb-assets:750", 60, "the new directory")
    assert vm.show("tb-hydrate.service", "ReadWritePaths") == "/srv/models"
    assert http_json(vm.url("/v1/models", 8200))[0] == 503


# -- last -----------------------------------------------------------------------------------------------------------------

def test_not_a_byte_of_other_disks_was_changed(vm, disks, originals):
    """The machine is switched off."""
    vm.poweroff()
    assert {kind: digest(disks[f"data-{kind}"]) for kind in DATA} == originals
