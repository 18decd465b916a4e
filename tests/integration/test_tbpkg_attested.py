# SPDX-License-Identifier: Apache-2.0
"""tbpkg build --target vm-attested around its recipe (image/): what goes in is judged first, the kernel image that the recipe made is measured, and the whole
gets its name last. A recipe of the test's own stands in for Debian; the real one is built and booted by make check-attested."""

import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess

import pytest

import tbsys
import uki_maker
from tbsys import wait_for

REPO = pathlib.Path(tbsys.repo)
RECIPE = REPO / "image"
EPOCH = 1_750_000_000
DISK_MIB = 3
SETTINGS = "TB_EDC_ENDPOINT=https://controlplane.example.com\nTB_RUNTIME_EXEC=/opt/server --model {model}\n"


@pytest.fixture
def place(tmp_path):
    """Packages, settings, and a recipe that writes its words down and makes of the kernel image beside it what the real one makes."""
    (tmp_path / "debs").mkdir()
    for name in ("trustbridge_1_amd64.deb", "libtbenc1_1_amd64.deb"):
        (tmp_path / "debs" / name).write_bytes(b"!<arch>\n")
    for name in ("tmp", "recipe", "runtime", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "image.env").write_text(SETTINGS)
    (tmp_path / "recipe/uki.efi").write_bytes(uki_maker.uki())
    (tmp_path / "recipe/build.sh").write_text(f"""#!/bin/sh
set -e
printf '%s\\n' "$@" >{tmp_path}/words
while [ $# -gt 0 ]; do [ "$1" != --work ] || work=$2; [ "$1" != --debs ] || ls "$2" >{tmp_path}/taken; shift; done
mkdir "$work/out"; cd "$work/out"
cp {tmp_path}/recipe/uki.efi .
truncate -s {DISK_MIB}M disk.raw; cp disk.raw disk.vhd
echo {EPOCH} >epoch
printf 'os\\tdebian\\t13\\ndeb\\tbase-files\\t13\\tamd64\\tbase-files\\t13\\tA <a@example.com>\\n' >inventory
echo 'dbus.service static' >units
[ ! -e {tmp_path}/recipe/hold ] || {{ touch {tmp_path}/held; exec sleep 300; }}
[ ! -e {tmp_path}/recipe/fail ] || {{ echo 'the mirror is away' >&2; exit 1; }}
""")
    (tmp_path / "recipe/build.sh").chmod(0o755)
    for name in ("mmdebstrap", "dpkg-deb"):
        (tmp_path / "bin" / name).symlink_to("/bin/true")
    return tmp_path


def command(place, *args):
    return [tbsys.program("tbpkg"), "build", "--target", "vm-attested", "--deb-dir", place / "debs", "--recipe-dir", place / "recipe",
            *(["--settings", place / "image.env", "--image", "acme-llm", "--image-version", "1.3.0"] if "--bare" not in args else []),
            *(str(a) for a in args if a != "--bare")]


def environment(place):
    return {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "TMPDIR": str(place / "tmp"),
            **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}


def leftovers(place):
    return [p.name for p in place.iterdir() if p.name.startswith(".")] + [p.name for p in (place / "tmp").iterdir()]


def build(place, *args, rc=0):
    r = subprocess.run(command(place, *args), env=environment(place), cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=120, check=False)
    assert r.returncode == rc, (r.returncode, r.stdout, r.stderr)
    assert "Sanitizer" not in r.stderr and leftovers(place) == []
    if rc != 0:
        assert r.stdout == "" and not (place / "acme-llm-1.3.0").exists()
    return r


def words(place):
    return (place / "words").read_text().splitlines()


# -- what is made ---------------------------------------------------------------------------------------------------------

def test_the_kernel_image_that_was_made_is_what_is_measured(place):
    d = json.loads(build(place, "--json").stdout)
    out = place / "acme-llm-1.3.0"
    assert d["target"] == "vm-attested" and d["measurements"] == "acme-llm-1.3.0/measurements.json" and d["vhd"] == "acme-llm-1.3.0/disk.vhd"
    assert sorted(p.name for p in out.iterdir()) == ["disk.raw", "disk.vhd", "measurements.json", "uki.efi", "units"]
    m = json.loads((out / "measurements.json").read_text())
    parts = uki_maker.parts()
    program = uki_maker.authenticode(uki_maker.uki())
    assert (m["image"], m["version"], m["debug"], m["roothash"]) == ("acme-llm", "1.3.0", False, uki_maker.ROOTHASH)
    assert m["created"] == "2025-06-15T15:06:40Z"
    assert m["pcrs"]["11"] == [uki_maker.pcr11(parts)] and m["pcrs"]["4"][0] == uki_maker.pcr4(program)
    assert set((place / "taken").read_text().split()) == {"trustbridge_1_amd64.deb", "libtbenc1_1_amd64.deb"}
    bill = json.loads((place / "acme-llm-1.3.0.spdx.json").read_text())
    assert bill["packages"][0]["name"] == "acme-llm" and bill["packages"][0]["versionInfo"] == "1.3.0"


def test_the_disk_for_azure_is_a_fixed_vhd_of_the_same_bytes(place):
    build(place)
    raw, vhd = ((place / "acme-llm-1.3.0" / n).read_bytes() for n in ("disk.raw", "disk.vhd"))
    assert vhd[:-512] == raw and len(raw) == DISK_MIB << 20
    footer = vhd[-512:]
    assert footer[:8] == b"conectix" and struct.unpack(">Q", footer[48:56])[0] == len(raw) and struct.unpack(">I", footer[60:64])[0] == 2
    assert struct.unpack(">I", footer[64:68])[0] == ~sum(footer[:64] + footer[68:]) & 0xffffffff
    assert struct.unpack(">I", footer[24:28])[0] == EPOCH - 946684800
    # Others' reading of it: what qemu-img makes of the same disk, but for time, id and sum.
    shutil.copy(place / "acme-llm-1.3.0/disk.raw", place / "again.raw")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", place / "again.raw", place / "again.vhd"],
                   check=True, timeout=60)
    other = (place / "again.vhd").read_bytes()[-512:]
    varies = set(range(24, 28)) | set(range(64, 84))
    assert [(i, a, b) for i, (a, b) in enumerate(zip(footer, other)) if a != b and i not in varies and not 32 <= i < 36] == []
    info = json.loads(subprocess.run(["qemu-img", "info", "--output=json", "-f", "vpc", place / "acme-llm-1.3.0/disk.vhd"], check=True,
                                     capture_output=True, timeout=60).stdout)
    assert info["virtual-size"] == len(raw)


def test_the_same_inputs_make_the_same_bytes(place):
    for out in ("one", "two"):
        build(place, "--output-dir", out)
    names = sorted(p.name for p in (place / "one").iterdir())
    assert names == sorted(p.name for p in (place / "two").iterdir())
    assert [n for n in names if (place / "one" / n).read_bytes() != (place / "two" / n).read_bytes()] == []
    bills = [json.loads((place / f"{n}.spdx.json").read_text()) for n in ("one", "two")]
    assert bills[0] == bills[1] and bills[0]["creationInfo"]["created"] == "2025-06-15T15:06:40Z"


def test_the_recipe_gets_what_was_said(place):
    for name in ("db.key", "db.crt", "setup"):
        (place / name).write_text("x")
    state_key(place)
    build(place, "--overlay", "runtime", "--overlay", "bin", "--run-script", "setup", "--extra-package", "libgomp1", "--allow-unit", "acme@.service",
          "--secure-boot-key", "db.key", "--secure-boot-cert", "db.crt", "--state-key", "state.key", "--mirror", "http://mirror.invalid/debian",
          "--cache-dir", "cache/")
    said = words(place)
    assert said[0] == "make"
    pairs = list(zip(said[1::2], said[2::2]))
    for pair in (("--overlay", "runtime"), ("--overlay", "bin"), ("--script", "setup"), ("--package", "libgomp1"), ("--unit", "acme@.service"),
                 ("--secure-boot-key", "db.key"), ("--secure-boot-cert", "db.crt"), ("--state-key", "state.key"), ("--image", "acme-llm"),
                 ("--image-version", "1.3.0"), ("--mirror", "http://mirror.invalid/debian"), ("--cache", "cache"), ("--settings", str(place / "image.env"))):
        assert pair in pairs, pair
    assert "--append-cmdline" not in said and "--provider-key" not in said


def state_key(place):
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", place / "state.key"], check=True, capture_output=True)


@pytest.mark.parametrize("options", [[], ["--no-drivers"]], ids=["", "no-drivers"])
def test_the_image_is_approved_for_the_state(place, options):
    """In the partition that the recipe left for it, on both disks, as `tbpkg image approve` says it; of the registers that its measurements name."""
    state_key(place)
    out = build(place, "--state-key", "state.key", *options) and place / "acme-llm-1.3.0"
    text = (out / "approval.json").read_bytes()
    said = subprocess.run([tbsys.program("tbpkg"), "image", "approve", out / "uki.efi", "--key", place / "state.key", *options], check=True, capture_output=True).stdout
    assert [str(n) for n in json.loads(text)["pcrs"]] == list(json.loads((out / "measurements.json").read_text())["pcrs"])
    assert json.loads(text) == json.loads(said) and len(json.loads(text)["approved"]) == 2
    raw, vhd = (out / "disk.raw").read_bytes(), (out / "disk.vhd").read_bytes()
    at = len(raw) - (2 << 20)
    assert raw[at:at + (1 << 20)] == text.ljust(1 << 20, b"\0") and vhd[:len(raw)] == raw


def test_an_image_that_lets_others_in_has_no_state(place):
    state_key(place)
    r = subprocess.run(command(place, "--state-key", "state.key", "--append-cmdline", "systemd.debug_shell=1"), cwd=place, capture_output=True, text=True)
    assert r.returncode == 2 and "exclude each other" in r.stderr


def test_the_providers_key_is_pinned(place):
    key = (REPO / "tests/vectors/minisign/one.pub").read_text().splitlines()[1]
    build(place, "--provider-key", key)
    assert words(place)[words(place).index("--provider-key") + 1] == key


# -- what is refused ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("args, word", [
    (["--bare"], "--image is missing"),
    (["--bare", "--image", "a/b", "--image-version", "1", "--settings", "x"], "--image \"a/b\": must be"),
    (["--image-version", "-1"], "--image-version \"-1\": must be"),
    (["--secure-boot-key", "x"], "--secure-boot-key and --secure-boot-cert are given together"),
    (["--extra-package", "a b"], "--extra-package \"a b\""),
    (["--extra-package=-y"], "--extra-package \"-y\""),
    (["--allow-unit", "acme"], "--allow-unit \"acme\""),
    (["--append-cmdline", "a\nb"], "--append-cmdline: must be printable"),
    (["--append-cmdline", 'a="b"'], "--append-cmdline: must be printable"),
    (["--tag", "v1"], "--tag is for oci, and means nothing for vm-attested"),
    (["--var", "a=b"], "--var is for vm-qemu and vm-azure"),
    (["--base-image", "debian:13"], "--base-image is for oci, vm-qemu and vm-azure"),
])
def test_usage(place, args, word):
    assert word in build(place, *args, rc=2).stderr
    assert not (place / "words").exists()


def test_options_of_a_closed_image_mean_nothing_elsewhere(place):
    r = subprocess.run([tbsys.program("tbpkg"), "build", "--registry", "r.example.com", "--deb-dir", place / "debs", "--state-key", "k", "--overlay", "d"],
                       env=environment(place), capture_output=True, text=True, timeout=60, check=False)
    assert r.returncode == 2 and "--state-key is for vm-attested, and means nothing for oci" in r.stderr and "--overlay is for vm-attested" in r.stderr


@pytest.mark.parametrize("settings, word", [
    ("TB_EDC_ENDPOINT=https://c.example.com\n", "TB_RUNTIME_EXEC is not set"),
    ("TB_RUNTIME_EXEC=/bin/x\n", "TB_EDC_ENDPOINT required, not set"),
    (SETTINGS + "TB_ROUTE=/v1/chat/*\n", "image.env:3: TB_ROUTE"),
    (SETTINGS + "TB_LEASE_GRACE=soon\n", "TB_LEASE_GRACE"),
    (SETTINGS.replace("https://", "http://") + "TB_INSECURE_HTTP=true\n", "TB_INSECURE_HTTP is set"),
    (SETTINGS + "TB_ROUTES='/v1/*\n", "image.env"),
])
def test_settings_that_no_machine_would_take(place, settings, word):
    (place / "image.env").write_text(settings)
    r = build(place, rc=1)
    assert word in r.stderr and not (place / "words").exists(), r.stderr


@pytest.mark.parametrize("args, word", [
    (["--overlay", "away"], "away: No such file or directory; --overlay is a directory"),
    (["--overlay", "image.env"], "image.env: is no directory"),
    (["--run-script", "runtime"], "runtime: is a directory; --run-script is a program"),
    (["--state-key", "away.pem"], "away.pem: No such file or directory; --state-key is an RSA key"),
    (["--recipe-dir", "runtime"], "runtime/build.sh: No such file or directory; name the recipe's directory with --recipe-dir"),
    (["--output-dir", "runtime"], "runtime: exists; remove it, or name another with --output-dir"),
])
def test_inputs_that_are_not_there(place, args, word):
    assert word in build(place, *args, rc=1).stderr
    assert not (place / "words").exists()


def test_only_root_can_build_it(place):
    # A place that somebody else can reach.
    os.chmod(place, 0o755)
    r = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command(place, "--output-dir", "/nonexistent/x", "--no-sbom")],
                       env={**environment(place), "TMPDIR": "/tmp"}, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert r.returncode == 1 and ("needs root" in r.stderr or "Permission denied" in r.stderr), r.stderr


def test_a_dry_run_judges_and_makes_nothing(place):
    r = build(place, "--dry-run")
    assert "vm-attested: settings and inputs are valid." in r.stderr and not (place / "words").exists() and not (place / "acme-llm-1.3.0").exists()


# -- what may go wrong ----------------------------------------------------------------------------------------------------

def test_a_recipe_that_fails_leaves_nothing(place):
    (place / "recipe/fail").touch()
    r = build(place, "--quiet", rc=1)
    assert "the mirror is away" in r.stderr and not (place / "acme-llm-1.3.0.spdx.json").exists()


def test_an_interrupt_leaves_nothing(place):
    (place / "recipe/hold").touch()
    p = subprocess.Popen(command(place), env=environment(place), cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
    assert wait_for((place / "held").exists, 60)
    p.send_signal(signal.SIGTERM)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 130 and out == "" and leftovers(place) == [] and not (place / "acme-llm-1.3.0").exists()


def test_a_command_line_that_is_not_closed(place):
    """Such an image comes out only where it was asked for, and says so itself."""
    (place / "recipe/uki.efi").write_bytes(uki_maker.uki(uki_maker.CLOSED + " systemd.debug_shell=1"))
    assert "lets others in: it has systemd.debug" in build(place, rc=1).stderr
    r = build(place, "--append-cmdline", "systemd.debug_shell=1")
    assert "--allow-debug" in r.stderr and json.loads((place / "acme-llm-1.3.0/measurements.json").read_text())["debug"] is True


def test_a_kernel_image_that_cannot_be_measured(place):
    (place / "recipe/uki.efi").write_bytes(b"MZ")
    assert "uki.efi: is no PE file" in build(place, rc=1).stderr


# -- the recipe -----------------------------------------------------------------------------------------------------------

def listed(name):
    return [line.split() for line in (RECIPE / name).read_text().splitlines() if line.strip() and not line.startswith("#")]


def test_the_recipes_command_line_is_closed(place):
    """As the measurer judges it; and each word that the design asks for is in it once."""
    text = " ".join(w for line in listed("cmdline") for w in line)
    (place / "recipe/uki.efi").write_bytes(uki_maker.uki(f"roothash={uki_maker.ROOTHASH} {text}"))
    build(place)
    m = json.loads((place / "acme-llm-1.3.0/measurements.json").read_text())
    assert m["debug"] is False and m["cmdline"] == f"roothash={uki_maker.ROOTHASH} {text}"
    assert text.split() == ["root=/dev/mapper/root", "ro", "systemd.volatile=overlay", "systemd.verity_root_options=panic-on-corruption", "panic=5",
                            "systemd.import_credentials=no", "SYSTEMD_EFI_OPTIONS=", "systemd.gpt_auto=no", "systemd.swap=no", "rd.shell=0", "rd.emergency=reboot",
                            "lockdown=confidentiality", "net.ifnames=0", "console=ttyS0", "quiet", "systemd.show_status=yes"]


def test_nothing_that_lets_anybody_in_is_in_the_lists():
    units = dict(listed("units"))
    assert len(units) > 200 and set(units.values()) <= {"alias", "disabled", "enabled", "generated", "indirect", "linked", "masked", "static"}
    for unit in ("getty@.service", "serial-getty@.service", "console-getty.service", "debug-shell.service", "emergency.service", "rescue.service",
                 "systemd-pcrlock.socket", "systemd-pcrextend.socket", "systemd-storagetm.service", "systemd-soft-reboot.service",
                 "systemd-creds.socket", "systemd-sysext.service", "systemd-confext.service", "user@.service", "apt-daily.timer", "kexec.target"):
        assert units[unit] == "masked", unit
    assert units["tb-provision.service"] in ("static", "enabled") and units["systemd-networkd.service"] == "enabled"
    assert not [u for u in units if any(w in u for w in ("ssh.", "sshd", "cloud-", "waagent", "walinux", "hv-fcopy", "cron"))]
    packages = {p for line in listed("packages.root") for p in line}
    assert not [p for p in packages if any(w in p for w in ("ssh", "cloud-init", "waagent", "cron", "lvm", "mdadm", "udisks", "sudo", "kexec", "kdump"))
                and p != "linux-image-cloud-amd64"]
    assert {g for line in listed("generators") for g in line} == {"systemd-cryptsetup-generator", "systemd-fstab-generator", "systemd-tpm2-generator",
                                                                 "systemd-veritysetup-generator", "trustbridge-generator"}


def test_options_in_the_firmware_end_the_boot_in_the_initrd():
    """systemd reads an EFI variable that nobody measures: the initrd has what ends a boot with it, and the recipe puts it there to be started."""
    unit = RECIPE / "initrd/etc/systemd/system/tb-no-efi-options.service"
    lines = [line for line in unit.read_text().splitlines() if not line.startswith("#")]
    assert "ConditionPathExists=/sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67" in lines
    assert {"SuccessAction=poweroff-immediate", "FailureAction=poweroff-immediate", "DefaultDependencies=no"} <= set(lines)
    before = next(line for line in lines if line.startswith("Before=")).split("=")[1].split()
    assert {"sysinit.target", "veritysetup-pre.target"} <= set(before)
    recipe = (RECIPE / "build.sh").read_text()
    assert "--include /tb-initrd/own /" in recipe and "own/etc/systemd/system/sysinit.target.requires" in recipe


def test_a_directory_that_is_read_in_part_is_not_put_in(tmp_path):
    """The recipe's own function: what packs fails while what unpacks is content."""
    text = (RECIPE / "build.sh").read_text()
    function = text[text.index("put() {"):text.index("}\nrun_scripts\n") + 2]
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("x")
    for packs, rc in ((0, 0), (2, 1)):
        (tmp_path / "try").write_text("set -eu\nwork=$1\nfail() { echo \"build.sh: $1\" >&2; exit 1; }\nin_root() { cat >/dev/null; }\n"
                                      f"tar() {{ command tar \"$@\"; return {packs}; }}\n{function}\nput \"$1/d\"\necho whole\n")
        p = subprocess.run(["sh", tmp_path / "try", tmp_path], capture_output=True, text=True, timeout=60, check=False)
        assert p.returncode == rc and ("whole" in p.stdout) == (rc == 0), (p.stdout, p.stderr)
        assert rc == 0 or "could not be read whole" in p.stderr


GUARD = "tb-no-efi-options.service"


@pytest.mark.parametrize("without, builtin, said", [
    (None, "", None), ("efivarfs.ko.xz", "kernel/fs/efivarfs/efivarfs.ko\n", None), ("efivarfs.ko.xz", "kernel/fs/fuse/fuse.ko\n", "no efivarfs.ko"),
    (f"sysinit.target.requires/{GUARD}", "", f"does not start {GUARD}"), ("dm-verity.ko.xz", "", "no dm-verity.ko"), ("systemd-pcrextend", "", "no systemd-pcrextend")])
def test_an_initrd_that_lacks_something_is_no_image(tmp_path, without, builtin, said):
    """The recipe's own function. What guards against an EFI variable would be missed by nobody: a machine without it boots as ever."""
    text = (RECIPE / "build.sh").read_text()
    function = text[text.index("check_initrd() {"):text.index("}\nin_root lsinitrd") + 2]
    names = ["systemd-pcrextend", "systemd-pcrphase-initrd.service", "libtss2-esys.so.0", "libtss2-mu.so.0", "libtss2-rc.so.0", "libtss2-sys.so.1",
             "libtss2-tcti-device.so.0", "systemd-tpm2-generator", "systemd-veritysetup-generator", "systemd-volatile-root", "dm-verity.ko.xz", "erofs.ko.xz",
             "efivarfs.ko.xz", GUARD, f"sysinit.target.requires/{GUARD}"]
    (tmp_path / "list").write_text("".join(f"-rw-r--r-- 1 root root 1 Jan  1 1970 usr/lib/{n}\n" for n in names if n != without))
    (tmp_path / "builtin").write_text(builtin)
    (tmp_path / "try").write_text(f"set -eu\nhere={RECIPE}\nfail() {{ echo \"build.sh: $1\" >&2; exit 1; }}\n{function}\ncheck_initrd \"$1/list\" \"$1/builtin\"\n")
    p = subprocess.run(["sh", tmp_path / "try", tmp_path], capture_output=True, text=True, timeout=60, check=False)
    assert (p.returncode, said or "") == (1 if said else 0, said if said and said in p.stderr else ""), p


def test_where_packages_came_from_is_not_in_the_image():
    recipe = (RECIPE / "build.sh").read_text()
    removed = " ".join(line for line in recipe.splitlines() if line.strip().startswith("rm -rf etc/apt"))
    assert {"etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/auth.conf.d/*", "etc/apt/apt.conf.d/99mmdebstrap"} <= set(removed.split())
    assert recipe.index("rm -rf etc/apt") < recipe.index("mkfs.erofs")


def test_the_auditors_page_has_the_recipes_lists():
    text = (REPO / "docs/closed-image.md").read_text()
    section = text[text.index("## What may start"):text.index("A provider adds units")]
    blocks = dict(zip(("enabled", "static", "disabled", "masked", "generators"),
                      [set(re.findall(r"`([^`]+)`", b)) for b in re.split(r"Started by themselves|May be started|There and not|Masked: |Of systemd's", section)[1:]]))
    units = dict(listed("units"))
    for block, states in (("enabled", {"enabled"}), ("static", {"static", "indirect", "alias"}), ("disabled", {"disabled"}), ("masked", {"masked"})):
        assert blocks[block] == {u for u, s in units.items() if s in states}, block
    assert blocks["generators"] == {g for line in listed("generators") for g in line}
    words_said = re.findall(r"^\| `([^`]+)` \|", text[text.index("The command line is"):text.index("## What may start")], re.M)
    assert words_said == [w for line in listed("cmdline") for w in line]
