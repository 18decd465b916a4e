# SPDX-License-Identifier: Apache-2.0
"""packer/ without a build: Packer accepts the templates, and the check list tells a good root file system from a bad one."""

import base64
import re
import shutil
import string
import subprocess

import build
import pytest
from conftest import REPO

PACKER = REPO / "packer"
CHECK = PACKER / "scripts/check-image.sh"


def run(*argv, **kw):
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, **kw)


@pytest.fixture
def template(tmp_path):
    """The templates as Packer 1.6 takes them: without plugins.pkr.hcl."""
    d = tmp_path / "packer"
    shutil.copytree(PACKER, d)
    (d / "plugins.pkr.hcl").unlink()
    return d


@pytest.fixture
def seed(tmp_path):
    r = run("sh", PACKER / "scripts/seed.sh", tmp_path / "seed")
    assert r.returncode == 0, r.stderr
    return tmp_path / "seed"


def validate(template, source, **variables):
    argv = ["packer", "validate", f"-only={source}.trustbridge"]
    for k, v in variables.items():
        argv += ["-var", f"{k}={v}"]
    return run(*argv, template)


AZURE = {"subscription_id": "00000000-0000-0000-0000-000000000000", "resource_group": "rg", "gallery_name": "gallery"}


@pytest.mark.parametrize("source", ["qemu", "azure-arm"])
def test_packer_accepts_the_template(template, seed, source):
    variables = {"base_image": "/base.qcow2", "seed": seed} if source == "qemu" else AZURE
    r = validate(template, source, debs=template, provider_key="RWQ+/=,RWR", **variables)
    assert r.returncode == 0, r.stdout + r.stderr


@pytest.mark.parametrize("source,variables,what", [
    ("qemu", {}, "seed"), ("azure-arm", {**AZURE, "resource_group": ""}, "resource_group"),
    ("azure-arm", {**AZURE, "replication_regions": "west"}, "replication_regions"), ("qemu", {"no_such": "1"}, "no_such")])
def test_packer_refuses_what_is_missing(template, source, variables, what):
    r = validate(template, source, debs=template, **variables)
    assert r.returncode != 0 and re.search(what.replace("_", "[_ ]").replace("seed", "seed|private_key"), r.stdout + r.stderr), r.stdout


def test_a_newer_packer_finds_its_plugins():
    text = (PACKER / "plugins.pkr.hcl").read_text()
    used = set(re.findall(r'^source "([a-z]+)', (PACKER / "trustbridge.pkr.hcl").read_text(), re.M))
    assert used == set(re.findall(r"^    (\w+) = \{", text, re.M)) == {"azure", "qemu"}


def test_the_seed(seed, tmp_path):
    assert (seed / "key").stat().st_mode & 0o777 == 0o600
    assert not [p.name for p in (seed / "http").iterdir() if "PRIVATE" in p.read_text()]
    again = run("sh", PACKER / "scripts/seed.sh", seed)
    assert again.returncode == 1 and "exists" in again.stderr
    assert run("sh", PACKER / "scripts/seed.sh", tmp_path / "x", "a b").returncode == 2


# -- the check list -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A Debian with the package in it, as the VM tests have it, generalised by hand: no process of it ever ran."""
    top = tmp_path_factory.mktemp("root")
    root, staged = top / "root", top / "debs"
    for d in (root, staged):
        d.mkdir(mode=0o755)
    with build.locked():
        tar = build.base("bookworm")
        build.run("tar", "-C", root, "-xf", tar, "--numeric-owner", "--exclude=./dev/*")
    build.stage_debs("bookworm", staged)
    subprocess.run(["mknod", "-m", "666", root / "dev/null", "c", "1", "3"], check=True)
    build.install_debs(root, staged)
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "etc/machine-id").write_text("uninitialized\n")
    (root / "etc/credstore").mkdir(mode=0o700)
    yield root
    shutil.rmtree(top)


def schema_complaints(root, user_data):
    """What cloud-init says of it; of the Debian in `root`, since on this machine cloud-init would act at the next boot."""
    (root / "user-data").write_text(user_data)
    r = run("chroot", root, "cloud-init", "schema", "--config-file", "/user-data")
    (root / "user-data").unlink()
    return "" if r.returncode == 0 else r.stdout + r.stderr


def test_cloud_init_accepts_what_it_is_told(good, seed):
    assert schema_complaints(good, (seed / "http/user-data").read_text()) == ""
    values = {name: base64.b64encode(b"content").decode() for name in ("ENV", "CA", "CLIENT_CERT", "CLIENT_KEY", "ENROLMENT_CODE")}
    appliance = string.Template((REPO / "cloud-init/user-data.yaml").read_text()).substitute(values)
    assert schema_complaints(good, appliance) == ""
    assert schema_complaints(good, appliance.replace("encoding: b64", "encoding: rot13"))
    assert schema_complaints(good, appliance.replace("write_files:", "write_files: yes"))


def check(root, kind="root"):
    r = run("sh", CHECK, root, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TB_IMAGE_KIND": kind})
    return r.returncode, [line.split(":")[0][8:] for line in r.stdout.splitlines() if line.startswith("FAILED")], r


def test_a_good_root_passes(good):
    rc, failed, r = check(good)
    assert rc == 0 and failed == [], r.stdout + r.stderr
    assert r.stdout.count("ok ") >= 17


def append(path, text):
    def do(root):
        p = root / path
        if p.exists():
            old = p.read_bytes()
            p.write_bytes(old + text.encode())
            return lambda: p.write_bytes(old)
        new = next(q for q in reversed([p, *p.parents]) if not q.exists())  # the topmost that this makes
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(text)
        return lambda: shutil.rmtree(new) if new.is_dir() else new.unlink()
    return do


def hide(path):
    def do(root):
        p = root / path
        q = p.with_name(p.name + ".hidden")
        p.rename(q)
        return lambda: q.rename(p)
    return do


def mode(path, new):
    def do(root):
        old = (root / path).stat().st_mode & 0o7777
        (root / path).chmod(new)
        return lambda: (root / path).chmod(old)
    return do


BREAKS = {
    "its units are there": hide("lib/systemd/system/tb-decrypt.service"),
    "the chain starts at boot": hide("etc/systemd/system/multi-user.target.wants/trustbridge.target"),
    "the listeners open at boot": hide("etc/systemd/system/sockets.target.wants/tb-proxy.socket"),
    "no contract in trustbridge.env": append("etc/trustbridge/trustbridge.env", "TB_CONTRACT_ID=mine\n"),
    "no operator's secret in /etc/credstore": append("etc/credstore/trustbridge.client-key", "key"),
    "/etc/credstore is root's alone": mode("etc/credstore", 0o755),
    "no state of a former life": append("var/lib/tb-proxy/usage", "1"),
    "no password, no empty password": append("etc/shadow", "operator::19000:0:99999:7:::\n"),
    "root alone has uid 0": append("etc/passwd", "toor:x:0:0::/root:/bin/sh\n"),
    "no user of a person": append("etc/passwd", "builder:x:1000:1000::/home/builder:/bin/sh\n"),
    "no ssh host keys": append("etc/ssh/ssh_host_ed25519_key", "key"),
    "no authorized keys": append("root/.ssh/authorized_keys", "ssh-ed25519 AAAA"),
    "no shell history": append("root/.bash_history", "ls\n"),
    "machine-id is unset": lambda root: (lambda p, old: (p.write_text("0123456789abcdef0123456789abcdef\n"),
                                                         lambda: p.write_bytes(old))[1])(root / "etc/machine-id",
                                                                                         (root / "etc/machine-id").read_bytes()),
    "no swap": append("etc/fstab", "/dev/sda2 none swap sw 0 0\n"),
    "no package lists": append("var/lib/apt/lists/main", "Package: x\n"),
    "package trustbridge is installed": hide("var/lib/dpkg/status"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_check_list_finds(good, what):
    undo = BREAKS[what](good)
    try:
        rc, failed, r = check(good)
        assert rc == 1 and what in failed, r.stdout
        assert what == "package trustbridge is installed" or failed == [what], failed
    finally:
        undo()


def test_what_only_a_machine_has(good):
    """The tests' Debian is no machine of the Marketplace: what it lacks is told, with the remedy."""
    rc, failed, r = check(good, "azure")
    assert rc == 1 and {"cores go nowhere", "kernel line has console=ttyS0", "Azure agent 2.2.41 or newer"} <= set(failed), r.stdout
    undo = [append("etc/sysctl.d/50-trustbridge-cores.conf", "kernel.core_pattern=|/bin/false\n")(good),
            append("etc/default/grub.d/50-trustbridge.cfg", 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX console=tty1 console=ttyS0 earlyprintk=ttyS0"\n')(good),
            append("etc/waagent.conf", "ResourceDisk.Format=y\nResourceDisk.EnableSwap=y\nAutoUpdate.Enabled=n\n")(good)]
    rc, failed, r = check(good, "azure")
    assert set(failed) == {"Azure agent 2.2.41 or newer", "the agent leaves the scratch disk to tb-scratch", "the agent makes no swap",
                           "the agent may update itself"}, r.stdout
    for u in undo:
        u()


def test_wrong_use_is_told(tmp_path):
    assert check(tmp_path)[0] == 2
    assert check(tmp_path, "docker")[0] == 2
