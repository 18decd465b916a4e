# SPDX-License-Identifier: Apache-2.0
"""tbpkg image measure: what it predicts is what systemd-measure and osslsigncode say, and what it cannot predict it says."""

import base64
import hashlib
import json
import re
import struct
import subprocess

import pytest

import uki_maker as um
from tbpkg_local import ok, refused, tbpkg

MEASURE = "/usr/lib/systemd/systemd-measure"


def measure(path, *more, env=None):
    return json.loads(ok("image", "measure", path, "--image", "acme", "--image-version", "1.0", *more, **({"env": env} if env else {})).stdout)


@pytest.fixture
def key(tmp_path):
    subprocess.run(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test db", "-keyout", tmp_path / "db.key",
                    "-out", tmp_path / "db.crt"], check=True, capture_output=True)
    return tmp_path


def authenticode(path):
    """What osslsigncode, another implementation, finds."""
    out = subprocess.run(["osslsigncode", "verify", "-in", path], capture_output=True, text=True).stdout
    return bytes.fromhex(re.search(r"(?:Calculated|Current) message digest *: ([0-9A-Fa-f]{64})", out)[1])


def test_what_two_other_programs_predict(tmp_path, key):
    image, plain, kernel = tmp_path / "a.efi", tmp_path / "plain.efi", tmp_path / "linux"
    plain.write_bytes(um.uki())
    kernel.write_bytes(um.kernel())
    for source, to in ((plain, image), (kernel, tmp_path / "linux.signed")):
        subprocess.run(["osslsigncode", "sign", "-certs", key / "db.crt", "-key", key / "db.key", "-h", "sha256", "-in", source, "-out", to], check=True,
                       capture_output=True)
    got = measure(image)
    p = um.parts()
    assert got["pcrs"]["4"] == [um.pcr4(authenticode(image)), um.pcr4(authenticode(image), authenticode(tmp_path / "linux.signed"))]
    assert got["pcrs"]["11"] == [um.pcr11(p)] and got["pcrs"]["12"] == got["pcrs"]["13"] == got["pcrs"]["14"] == ["0" * 64]
    assert got["uki_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest() and got["cmdline"] == um.CLOSED and got["roothash"] == um.ROOTHASH
    assert got["format"] == "trustbridge-image/v1" and (got["image"], got["version"], got["debug"]) == ("acme", "1.0", False) and "created" not in got
    # Signing changes the file, not what is measured of it.
    assert measure(plain)["pcrs"] == got["pcrs"] and measure(plain)["uki_sha256"] != got["uki_sha256"]
    assert measure(plain, env={"SOURCE_DATE_EPOCH": "1700000000"})["created"] == "2023-11-14T22:13:20Z"


def test_what_systemd_predicts(tmp_path):
    """systemd-measure 252 knows neither .uname nor .sbat, and no phase of ours but by name."""
    plain, args = tmp_path / "a.efi", []
    plain.write_bytes(um.uki(**{".uname": None, ".sbat": None}))
    for name, option in ((".linux", "linux"), (".osrel", "osrel"), (".cmdline", "cmdline"), (".initrd", "initrd")):
        (tmp_path / option).write_bytes(um.parts()[name])
        args.append(f"--{option}={tmp_path / option}")
    out = subprocess.run([MEASURE, "calculate", "--bank=sha256", f"--phase={':'.join(um.PHASES)}", *args], check=True, capture_output=True, text=True).stdout
    assert measure(plain)["pcrs"]["11"] == re.findall(r"11:sha256=([0-9a-f]{64})", out)


def test_the_order_of_the_file_decides_nothing(tmp_path):
    a, b = tmp_path / "a.efi", tmp_path / "b.efi"
    a.write_bytes(um.uki())
    b.write_bytes(um.uki(order=[".initrd", ".cmdline", ".sbat", ".osrel", ".uname", ".linux"]))
    assert measure(a)["pcrs"]["11"] == measure(b)["pcrs"]["11"] and measure(a)["pcrs"]["4"] != measure(b)["pcrs"]["4"]


@pytest.mark.parametrize("change", [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat", ".text", ".sdmagic", "tail"])
def test_every_byte_counts(tmp_path, change):
    good, bad = tmp_path / "good.efi", tmp_path / "bad.efi"
    good.write_bytes(um.uki() + b"tail----")
    sections = [(".text", b"stub" * 333), (".sdmagic", um.STUB), *um.parts().items()]
    data = bytearray(good.read_bytes())
    at = len(data) - 1 if change == "tail" else data.index(dict(sections)[change]) + len(dict(sections)[change]) - 1
    data[at] ^= 1
    bad.write_bytes(data)
    a, b = measure(good)["pcrs"], measure(bad)["pcrs"]
    assert a["4"][0] != b["4"][0] and a["4"][1] != b["4"][1]
    assert (a["11"] == b["11"]) == (change in (".text", ".sdmagic", "tail"))


@pytest.mark.parametrize("cmdline, why", [
    ("quiet", r"lacks or contradicts systemd\.import_credentials=no.*lacks roothash="), (um.CLOSED.replace("systemd.swap=no ", ""), "systemd.swap=no"),
    (um.CLOSED.replace(" SYSTEMD_EFI_OPTIONS=", ""), "SYSTEMD_EFI_OPTIONS="), (um.CLOSED.replace("EFI_OPTIONS=", "EFI_OPTIONS=quiet"), "SYSTEMD_EFI_OPTIONS="),
    (um.CLOSED + " systemd.swap=yes", "contradicts systemd.swap=no"), (um.CLOSED + " systemd.gpt-auto=1", "contradicts systemd.gpt_auto=no"),
    (um.CLOSED + " systemd.debug-shell", "has systemd.debug"), (um.CLOSED + " init=/bin/sh", "has init="), (um.CLOSED + " rw", "has rw"),
    (um.CLOSED + " rd.break=pre-pivot", "has rd.break"), (um.CLOSED + " single", "has single"), (um.CLOSED + ' "x y"', "quotation"),
    (um.CLOSED + " rd.systemd.debug_shell", r"has rd\.systemd\."), (um.CLOSED + " rd.systemd.wants=debug-shell.service", r"has rd\.systemd\."),
    (um.CLOSED + " systemd.verity=0", "has systemd.verity="), (um.CLOSED + " rd.systemd.verity=no", r"has rd\.systemd\."), (um.CLOSED + " -b", "has -b"),
    (um.CLOSED + " rd.rescue", "has rd.rescue"), (um.CLOSED + " systemd.crash_shell=yes", "has systemd.crash_shell"), (um.CLOSED + " rd.cmdline=ask", "has rd.cmdline"),
    (um.CLOSED + " systemd.mount-extra=/dev/sdb:/srv", "has systemd.mount_extra="), (um.CLOSED + " root=/dev/sda2", "root= that is not"),
    (um.CLOSED + f" roothash={'cd' * 32}", "lacks roothash"), (um.CLOSED.replace("lockdown=confidentiality", "lockdown=integrity"), "lockdown"),
    *((f"{um.CLOSED} {word}", f"lets others in: it has {re.escape(said or word.split('=')[0])}") for word, said in [
        ("'systemd.debug_shell'", "a quotation mark"), ("mount.usr=/dev/sdb1", None), ("usrhash=" + "ab" * 32, None), ("systemd.setenv=LD_PRELOAD=/x.so", None),
        ("systemd.early_core_pattern=|/x", None), ("systemd.pull=raw,sysext:x:https://x", None), ("systemd.ssh_listen=0.0.0.0:22", None), ("systemd.getty_auto=yes", None),
        ("systemd.volatile=yes", None), ("rd.luks.key=/k", None), ("rd.live.image", None), ("luks.name=x=y", None), ("fstab=yes", None), ("LD_PRELOAD=/x.so", None),
        ("SYSTEMD_UNIT_PATH=/run/x", None), ("-- --unit=x.target", "--"), ("--crash-shell", None), ("bootconfig", None), ("sysctl.kernel.core_pattern=|/x", "sysctl."),
        ("initrd=\\x", "initrd="), ("rootflags=lowerdir=/x", "rootflags="), ("resume=/dev/sda3", "resume="), ("dm-mod.create=x", "dm_mod.create="),
        ("crashkernel=256M", "crashkernel="), ("kgdboc=ttyS0", "kgdb"), ("lsm=yama", "lsm="), ("initcall_blacklist=lockdown_lsm_init", "initcall_blacklist="),
        ("efivar_ssdt=x", "efivar_ssdt="), ("firmware_class.path=/mnt", "firmware_class.path=")])])
def test_a_command_line_that_is_open(tmp_path, cmdline, why):
    (tmp_path / "a.efi").write_bytes(um.uki(cmdline))
    p = tbpkg("image", "measure", tmp_path / "a.efi", "--image", "a", "--image-version", "1")
    assert p.returncode == 0 and json.loads(p.stdout)["debug"] is True and re.search(why, p.stderr.decode()), p.stderr


@pytest.mark.parametrize("more", ["root=/dev/mapper/root", "quiet console=ttyS0 net.ifnames=0 panic=5 systemd.show_status=yes", "BOOT_IMAGE=/x hugepages=64 modprobe.blacklist=nouveau",
                                  "rd.luks=0 rd.udev.log-level=err systemd.log_level=debug systemd.verity_root_data=/dev/sda2"])
def test_words_that_let_nobody_in(tmp_path, more):
    (tmp_path / "a.efi").write_bytes(um.uki(f"{more} {um.CLOSED}"))
    assert measure(tmp_path / "a.efi")["debug"] is False


def kernel_that_is_none():
    return um.uki(**{".linux": b"no PE file"})


@pytest.mark.parametrize("data, why", [
    (b"", "no PE file"), (b"MZ" + bytes(62), "no PE file"), (um.uki()[:600], "no PE file"), (kernel_that_is_none(), "kernel .* is no PE"),
    (um.uki(stub=b"something"), "not systemd-stub"), (um.uki(stub=b"#### LoaderInfo: systemd-stub 252.39-1 ####"), "252, which measures otherwise"),
    (um.uki(**{".linux": None}), "no kernel"), (um.uki(**{".profile": b"ID=x"}), ".profile depends"), (um.uki(**{".hwids": b"x"}), ".hwids depends"),
    (um.pe([(".linux", b"a"), (".linux", b"b")]), "twice"), (um.uki("\x01"), "not plain text"), (um.uki("x" * 5000), "longer"),
    (um.pe([(".linux", um.kernel()), (".cmdline", b"x")], memory={".cmdline": 1 << 31}), "no PE file")])
def test_what_cannot_be_predicted(tmp_path, data, why):
    (tmp_path / "a.efi").write_bytes(data)
    refused("image", "measure", tmp_path / "a.efi", "--image", "a", "--image-version", "1", match=why)
    assert tbpkg("image", "measure", tmp_path / "a.efi", "--image", "a", "--image-version", "1", "--output", tmp_path / "m").returncode == 1
    assert not (tmp_path / "m").exists()


def test_a_section_that_is_longer_in_memory(tmp_path):
    (tmp_path / "a.efi").write_bytes(um.pe([(".sdmagic", um.STUB), *um.parts().items()], memory={".osrel": 700}))
    assert measure(tmp_path / "a.efi")["pcrs"]["11"] == [um.pcr11({**um.parts(), ".osrel": b"ID=debian\n".ljust(700, b"\0")})]


def test_names_and_output(tmp_path):
    (tmp_path / "a.efi").write_bytes(um.uki())
    for args in (["--image", "a@b", "--image-version", "1"], ["--image", "a"], ["--image-version", "1"], ["--image", "*", "--image-version", "1"],
                 ["--image", "a", "--image-version", "x" * 65], ["--image", "-a", "--image-version", ".1"]):
        assert tbpkg("image", "measure", tmp_path / "a.efi", *args).returncode == 2
    ok("image", "measure", tmp_path / "a.efi", "--image", "a", "--image-version", "1", "--output", tmp_path / "m.json")
    assert json.loads((tmp_path / "m.json").read_text())["version"] == "1"
    refused("image", "measure", tmp_path / "no.efi", "--image", "a", "--image-version", "1", match="no.efi")
    assert struct.unpack_from("<H", um.uki(), 0)[0] == 0x5a4d


# -- approving ------------------------------------------------------------------------------------------------------------

PCRS = (4, 11, 12, 13, 14)


def policy(pcr4, pcr11, pcr2=None):
    """TPM2_PolicyPCR, by the specification."""
    values = hashlib.sha256((pcr2 or b"") + pcr4 + pcr11 + b"\0" * 96).digest()
    mask = sum(1 << n for n in PCRS + ((2,) if pcr2 else ())).to_bytes(3, "little")
    return hashlib.sha256(b"\0" * 32 + struct.pack(">IIHB", 0x17F, 1, 0x000B, 3) + mask + values).digest()


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    d = tmp_path_factory.mktemp("maker")
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", d / "key"], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", d / "key", "-pubout", "-out", d / "pub"], check=True, capture_output=True)
    return d


@pytest.mark.parametrize("drivers", [True, False])
def test_approve(tmp_path, maker, drivers):
    """Both ways of Secure Boot, in the phase before the root's first program; the signatures are OpenSSL's to check."""
    image = tmp_path / "a.efi"
    image.write_bytes(um.uki())
    options = [] if drivers else ["--no-drivers"]
    got = json.loads(ok("image", "approve", image, "--key", maker / "key", *options).stdout)
    assert (got["format"], tuple(got["pcrs"])) == ("trustbridge-approval/v1", PCRS if drivers else (2, *PCRS))
    pcr11 = bytes.fromhex(um.pcr11(um.parts(), um.PHASES[:2]))
    pcr2 = None if drivers else hashlib.sha256(b"\0" * 32 + hashlib.sha256(bytes(4)).digest()).digest()
    wanted = [policy(bytes.fromhex(v), pcr11, pcr2) for v in measure(image)["pcrs"]["4"]]
    assert [bytes.fromhex(a["policy"]) for a in got["approved"]] == wanted
    for a in got["approved"]:
        (tmp_path / "sig").write_bytes(base64.b64decode(a["signature"]))
        (tmp_path / "text").write_bytes(bytes.fromhex(a["policy"]))
        subprocess.run(["openssl", "dgst", "-sha256", "-verify", maker / "pub", "-signature", tmp_path / "sig", tmp_path / "text"], check=True,
                       capture_output=True)
    ok("image", "approve", image, "--key", maker / "key", *options, "--output", tmp_path / "out")
    assert json.loads((tmp_path / "out").read_text()) == got, "the same again"


def test_an_open_command_line_is_not_approved(tmp_path, maker):
    image = tmp_path / "a.efi"
    image.write_bytes(um.uki(um.CLOSED + " systemd.debug_shell=1"))
    assert "approve none such" in refused("image", "approve", image, "--key", maker / "key", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind,text", [("ec", "must be RSA with 2048 bits"), ("rsa3072", "must be RSA with 2048 bits"), ("public", "not a private key"),
                                       ("empty", "not a private key"), ("password", "without a password")])
def test_keys_that_do_not_approve(tmp_path, maker, kind, text):
    image, key = tmp_path / "a.efi", tmp_path / "key"
    image.write_bytes(um.uki())
    made = {"ec": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa3072": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
            "password": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-aes256", "-pass", "pass:x"]}
    if kind in made:
        subprocess.run(["openssl", "genpkey", *made[kind], "-out", key], check=True, capture_output=True)
    else:
        key.write_bytes((maker / "pub").read_bytes() if kind == "public" else b"")
    assert text in refused("image", "approve", image, "--key", key)
