# SPDX-License-Identifier: Apache-2.0
"""A good image gets the key; what was changed about disk, firmware or settings gets none, or does not boot. Each row is one machine."""

import base64
import json
import subprocess

import pytest
from conftest import Machine, no_ledger_runs
from measured import MIB, ROOT, VERITY, run
from tbsys import wait_for

VARIABLE = "/sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67"
PWN_UNIT = "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'id > /run/pwned'\n"
UKI = "EFI/BOOT/BOOTX64.EFI"


def credential(name, text):
    return f"io.systemd.credential.binary:{name}={base64.b64encode(text.encode()).decode()}"


@pytest.fixture
def place(house, first, tmp_path):
    """A function that makes a machine on a disk that `change` has had."""
    tpm = house.tpm(tmp_path)
    contract = house.contract()

    def make(change=None, image=first, media=None, **kw):
        disk = house.disk(image, tmp_path / "disk.raw")
        if change:
            change(disk)
        disk.grow(128)
        return Machine(tmp_path / "m", disk.path, tpm, media=media or house.media(tmp_path / "media", contract), **kw)
    make.dir, make.contract, make.house = tmp_path, contract, house
    return make


def test_good_with_secure_boot(place):
    m = place(secure=True).power_on()
    s = m.wait_said("Ready", "Suspended")
    assert s["state"] == "Ready", s
    assert (s["attestation"]["level"], s["attestation"]["image"], s["attestation"]["version"]) == ("image", "acme-llm", "1.0.0")
    assert m.chat()[0] == 200
    assert m.sh("mokutil --sb-state 2>/dev/null || od -An -tu1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-*").strip().endswith(("1", "enabled"))


# -- what does not boot ---------------------------------------------------------------------------------------------------------------------

def no_boot(m, timeout=600):
    """It goes off, or stands still without ever having a network: nobody answered it."""
    m.power_on()
    try:
        m.wait_off(timeout)
    except subprocess.TimeoutExpired:
        assert m.status() == {}, m.status()
        m.hard_kill()


@pytest.mark.parametrize("what", ["superblock", "hash tree"])
def test_a_byte_of_the_root_or_of_its_hashes(place, what):
    m = place(lambda d: d.flip(d.part(ROOT)[0] + 1024 + 8) if what == "superblock" else d.flip(d.part(VERITY)[0] + 4096 + 100))
    no_boot(m, 300)
    assert "Ready" not in m.serial_text()


def test_a_byte_of_a_program(place):
    """Somewhere in the middle of the root: the machine stops when it reads that."""
    def spoil(d):
        at, size = d.part(ROOT)
        for i in range(8, size // MIB - 8):
            d.flip(at + i * MIB + 777)
    no_boot(place(spoil), 400)


def flip_cmdline(d, directory):
    """The last letter of `quiet` in the UKI's command line, on the ESP."""
    uki = directory / "uki.efi"
    d.get(UKI, uki)
    data = bytearray(uki.read_bytes())
    at = data.index(b"systemd.swap=no") + len(b"systemd.swap=n")
    data[at] ^= 1
    uki.write_bytes(data)
    d.put(uki, UKI)


def test_a_byte_of_the_uki_with_secure_boot(place):
    m = place(lambda d: flip_cmdline(d, place.dir), secure=True)
    m.power_on()
    wait_for(lambda: "Access Denied" in m.serial_text() or not m.running() or m.status(), 300, "the firmware's verdict", every=1)
    assert "Access Denied" in m.serial_text()


# -- what boots, and is not let in ----------------------------------------------------------------------------------------------------------

# The image without a state: with one the TPM gives the state's key no more, and nobody asks for that of the weights.

def refused(m, register):
    s = m.power_on().wait_refused("image_unknown")
    assert f"PCR {register}" in json.dumps(s), s
    assert s["state"] != "Ready"


def test_a_byte_of_the_uki_without_secure_boot(place, stateless):
    refused(place(lambda d: flip_cmdline(d, place.dir), image=stateless), 4)


def test_a_byte_of_the_uki_without_secure_boot_and_the_state(place):
    m = place(lambda d: flip_cmdline(d, place.dir)).start()
    assert m.state()["state"] == "failed" and "approved no boot with these measurements" in m.state()["text"]
    no_ledger_runs(m)


def test_an_image_for_debugging(place):
    """The provider's own, registered, with another command line."""
    image = place.house.image("1.0.0-debug", state_key=None, append="systemd.debug_shell=1")
    assert place(image=image).power_on().wait_refused("image_debug")["state"] != "Ready"


def test_a_credential_on_the_esp(place, stateless):
    (place.dir / "c.cred").write_bytes(b"hello")
    refused(place(lambda d: d.put(place.dir / "c.cred", f"{UKI}.extra.d/c.cred"), image=stateless, secure=True), 12)


def test_an_addon_on_the_esp(place, stateless, tmp_path):
    """One that nobody signed: the firmware takes it when Secure Boot is off."""
    addon = addon_of(place.house, tmp_path)
    refused(place(lambda d: d.put(addon, f"{UKI}.extra.d/a.addon.efi"), image=stateless), 4)


def addon_of(house, directory):
    [builder] = sorted((house.cache()).glob("builder-*"))[-1:]
    run("chroot", builder, "sh", "-c", "cd /tmp && ukify build --cmdline=systemd.debug_shell=1 --stub=/usr/lib/systemd/boot/efi/addonx64.efi.stub"
        " --output=/tmp/a.addon.efi")
    (directory / "a.addon.efi").write_bytes((builder / "tmp/a.addon.efi").read_bytes())
    (builder / "tmp/a.addon.efi").unlink()
    return directory / "a.addon.efi"


def test_a_command_line_by_the_host(place, stateless):
    refused(place(image=stateless, secure=True, smbios=["io.systemd.stub.kernel-cmdline-extra=systemd.debug_shell=1"]), 12)


# -- what boots, is let in, and has brought nothing -----------------------------------------------------------------------------------------

def test_credentials_by_the_host_and_partitions_for_swap_and_srv(place):
    """Units by SMBIOS; swap and a file system of the types that systemd finds by itself. None comes in."""
    def add(d):
        d.grow(96)
        swap, srv = place.dir / "swap", place.dir / "srv"
        for p in (swap, srv):
            with open(p, "wb") as f:
                f.truncate(32 * MIB)
        run("mkswap", "-q", swap)
        run("mke2fs", "-q", "-F", "-t", "ext4", srv)
        run("sfdisk", "-q", "--relocate", "gpt-bak-std", d.path)
        d.append("size=65536, type=0657FD6D-A4AB-43C4-84E5-0933C84B4F4F, name=swap", "size=65536, type=3B8F8425-20E0-4F3B-907F-1A25A76F98E8, name=srv",
                 contents=(swap, srv))
    m = place(add, smbios=[credential("systemd.extra-unit.pwn.service", PWN_UNIT),
                           credential("systemd.unit-dropin.multi-user.target", "[Unit]\nWants=pwn.service\n")])
    assert m.power_on().wait_said("Ready", "Suspended")["state"] == "Ready"
    m.wait_shell()
    assert m.sh("ls /run/pwned 2>&1 || true").endswith("No such file or directory\n")
    assert m.sh("swapon --show --noheadings; findmnt -n -o SOURCE /srv || true").strip() == ""


def test_user_data_that_says_what_gets_the_weights(place):
    """The document is refused as a whole: no contract, no key, and the machine's command is the image's."""
    media = place.house.media(place.dir / "media", place.contract, TB_RUNTIME_EXEC="sh -c 'cat {model}/*'")
    m = place(media=media).start()
    wait_for(lambda: m.run("systemctl is-failed tb-provision.service")[1].strip() == "failed", 300, "tb-provision's refusal", every=1)
    assert "TB_RUNTIME_EXEC" in m.sh("journalctl --namespace=trustbridge -u tb-provision.service --no-pager")
    assert m.run("grep -r TB_RUNTIME_EXEC /etc/trustbridge/trustbridge.env /run/tb-configure")[0] != 0
    assert m.status().get("state") != "Ready"
    options_of_the_firmware_end_the_boot(m)


def options_of_the_firmware_end_the_boot(m):
    """Words for systemd in an EFI variable, as another system may leave them there. Secure Boot is off: systemd would take them."""
    value = base64.b64encode(b"\7\0\0\0" + "systemd.mount-extra=tmpfs:/srv:tmpfs\0".encode("utf-16-le")).decode()
    m.sh(f"printf {value} | base64 -d >{VARIABLE}")
    m.poweroff()
    console = m.power_on().wait_off()
    assert "tb-no-efi-options.service" in console and "Power down" in console and "Switch Root" not in console, console[-3000:]
