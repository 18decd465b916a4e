# SPDX-License-Identifier: Apache-2.0
"""The Debian packages as a customer gets them: what is in them, how they were built, and that they install, work and go again in
a fresh Debian. What needs a running systemd (upgrade under load, removal of a serving machine) is debian/tests/smoke."""

import hashlib
import io
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tarfile

import debs
import pytest

REPO = debs.REPO
SUITE = debs.running_suite()
PACKAGES = ("libtbenc1", "libtbenc-dev", "tbpkg", "trustbridge", "trustbridge-controlplane")
DAEMONS = ("tb-attest", "tb-authorize", "tb-billing", "tb-decrypt", "tb-hydrate", "tb-proxy", "tb-runtime", "tb-vcek")
ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


def run(*argv, **kw):
    r = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       **kw)
    assert r.returncode == 0, f"{argv} exited {r.returncode}:\n{r.stdout[-4000:]}"
    return r.stdout


@pytest.fixture(scope="module")
def built():
    return debs.build()


@pytest.fixture(scope="module")
def deb(built):
    def find(name):
        found = list(built.glob(f"{name}_*.deb"))
        assert len(found) == 1, found
        return found[0]
    return find


def members(path):
    """{name without leading dot: TarInfo} of a package."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as p:
        with tarfile.open(fileobj=p.stdout, mode="r|") as t:
            return {m.name.lstrip("."): m for m in t}


# -- how they were built --------------------------------------------------------------------------------------------------

def test_each_package_is_built(deb):
    for name in PACKAGES:
        assert deb(name).stat().st_size > 1000


def test_lintian_has_nothing_to_say(built):
    # As root lintian warns about itself; informational tags are not asked for.
    out = run("lintian", "--allow-root", "--fail-on", "error,warning", *built.glob("*.changes"))
    assert not re.search(r"^[EW]:", out, re.M), out


def test_maintainer_scripts_are_clean_shell():
    scripts = [p for p in (REPO / "debian").glob("*.p*") if p.suffix in (".preinst", ".postinst", ".prerm", ".postrm")]
    assert len(scripts) >= 3
    run("shellcheck", "-s", "sh", *scripts)


def test_two_builds_are_equal(built, tmp_path):
    """Another time zone, language, umask and directory; and, as it takes a while, another clock."""
    proven = debs.OUT / f"{SUITE}.reproduced"
    stamp = (debs.OUT / f"{SUITE}.stamp").read_text()
    if proven.exists() and proven.read_text() == stamp:
        return
    elsewhere = tmp_path / "a" / "much-longer-name-of-a-directory"
    elsewhere.mkdir(parents=True)
    elsewhere.chmod(0o755)
    before = os.umask(0o077)
    try:
        again = debs.build_into(SUITE, tmp_path / "again", built / "source.tar", TZ="Pacific/Kiritimati", LC_ALL="C", LANG="C",
                                TMPDIR=str(elsewhere), HOME=str(tmp_path))
    finally:
        os.umask(before)

    def sums(d):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in d.glob("*.deb")}
    assert sums(again) == sums(built)
    proven.write_text(stamp)


# -- what is in them ------------------------------------------------------------------------------------------------------

PLACES = {
    "libtbenc1": r"/usr/lib/[^/]+-linux-gnu/libtbenc\.so\.[0-9.]+",
    "libtbenc-dev": r"/usr/include/tbenc\.h|/usr/lib/[^/]+-linux-gnu/(libtbenc\.so|pkgconfig/tbenc\.pc)",
    "tbpkg": r"/usr/bin/(tbpkg|trustbridge)|/usr/share/bash-completion/completions/(tbpkg|trustbridge)|"
             r"/usr/share/zsh/vendor-completions/_tbpkg|/usr/share/fish/vendor_completions\.d/(tbpkg|trustbridge)\.fish|"
             r"/usr/share/man/man[15]/(tbpkg|tbenc|trustbridge)\.[15]\.gz|"
             r"/usr/share/trustbridge/managed-app/(mainTemplate|createUiDefinition|viewDefinition)\.json|"
             r"/usr/share/trustbridge/packer/([a-z]+\.pkr\.hcl|scripts/[a-z-]+\.sh)|/usr/share/trustbridge/image/.+|/usr/share/lintian/overrides/tbpkg|"
             r"/usr/share/doc/tbpkg/([A-Za-z-]+\.md|controlplane\.openapi\.yaml)",
    "trustbridge": r"(/usr)?/lib/systemd/system/(tb-[a-z-]+\.(service|socket|path|target)|trustbridge(-apply)?\.target)|"
                   r"(/usr)?/lib/systemd/system-generators/trustbridge-generator|"
                   r"/usr/lib/systemd/(catalog/trustbridge\.catalog|journald@trustbridge\.conf\.d/[0-9a-z-]+\.conf)|"
                   r"/usr/lib/(sysusers|tmpfiles)\.d/trustbridge\.conf|/usr/lib/trustbridge/tb-[a-z-]+|/usr/bin/tb-[a-z-]+|"
                   r"/usr/lib/udev/rules\.d/90-trustbridge\.rules|"
                   r"/usr/share/bash-completion/completions/tb-[a-z]+|/usr/sbin/tb-[a-z]+|/etc/logrotate\.d/trustbridge|"
                   r"/usr/share/trustbridge/([a-z.-]+|monitoring/trustbridge\.(rules\.yml|dashboard\.json))|/usr/share/man/man[158]/(tb-[a-z-]+|trustbridge[a-z.-]*)\.[158]\.gz|"
                   r"/usr/share/doc/trustbridge/(examples/.*|README\.Debian|chain\.svg|[A-Za-z-]+\.md)",
    "trustbridge-controlplane": r"/usr/bin/tb-controlplane|(/usr)?/lib/systemd/system/tb-controlplane\.service|"
                                r"/usr/lib/sysusers\.d/trustbridge-controlplane\.conf|/usr/share/trustbridge-controlplane/(controlplane\.env|Containerfile|trustbridge-controlplane\.rules\.yml)|"
                                r"/usr/share/man/man8/tb-controlplane\.8\.gz|"
                                r"/usr/share/doc/trustbridge-controlplane/([A-Za-z-]+\.md|controlplane\.openapi\.yaml)",
}


@pytest.mark.parametrize("name", PACKAGES)
def test_every_file_is_where_it_belongs(deb, name):
    allowed = re.compile(f"({PLACES[name]}|/usr/share/doc/{name}/(copyright|changelog(\\.Debian)?\\.gz))$")
    for path, m in members(deb(name)).items():
        assert m.uname == m.gname == "root", path
        if m.isdir():
            assert m.mode == 0o755, (path, oct(m.mode))
            continue
        assert allowed.match(path), path
        if m.issym():
            continue
        assert m.isreg(), path
        program = path.startswith(("/usr/bin/", "/usr/sbin/", "/usr/lib/trustbridge/", "/usr/share/trustbridge/packer/scripts/")) or \
            path.endswith(("-generator", "/trustbridge/image/build.sh"))
        assert m.mode == (0o755 if program else 0o644), (path, oct(m.mode))


def test_the_appliance_is_complete(deb):
    names = {pathlib.PurePath(p).name for p in members(deb("trustbridge"))}
    units = {p.name for p in (REPO / "units").iterdir() if p.suffix in (".service", ".socket", ".target", ".path")}
    assert units and units <= names
    assert {"tb-load", *DAEMONS} - {"tb-runtime"} <= names
    assert not any("controlplane" in n for n in names)
    # No package of ours may stop an upgrade with a question, and cloud-init owns the settings: a conffile is only what nobody has to edit.
    allowed = {"trustbridge": "/etc/logrotate.d/trustbridge\n"}
    for name in PACKAGES:
        conffiles = subprocess.run(["dpkg-deb", "--ctrl-tarfile", deb(name)], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(conffiles)) as t:
            found = t.extractfile("./conffiles").read().decode() if "./conffiles" in t.getnames() else ""
        assert found == allowed.get(name, ""), name


GUIDES = {
    "tbpkg": {"CHANGELOG.md", "attestation.md", "billing.md", "closed-image.md", "contracts.md", "provider-guide.md", "security.md"},
    "trustbridge-controlplane": {"CHANGELOG.md", "controlplane-backup.md"},
    "trustbridge": {"CHANGELOG.md", "architecture.md", "attestation.md", "billing.md", "closed-image.md", "configuration.md", "consumer-guide.md", "contracts.md",
                    "mirror.md", "monitoring.md", "operator-guide.md", "runtimes.md", "security.md", "versions.md"},
}


@pytest.mark.parametrize("name", GUIDES)
def test_the_guides_are_in_the_packages(deb, tmp_path, name):
    """As they are in the tree, and what one links to is there too."""
    run("dpkg-deb", "-x", deb(name), tmp_path)
    folder = tmp_path / "usr/share/doc" / name
    assert {p.name for p in folder.glob("*.md*")} == GUIDES[name]
    for guide in folder.glob("*.md"):
        tree = REPO / guide.name if guide.name == "CHANGELOG.md" else REPO / "docs" / guide.name
        assert guide.read_bytes() == tree.read_bytes()
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", guide.read_text()):
            assert (folder / link).exists(), f"{guide.name} links to {link}"


def test_programs_are_hardened(deb, tmp_path):
    found = 0
    fortified = set()
    for name in PACKAGES:
        run("dpkg-deb", "-x", deb(name), tmp_path / name)
        for p in sorted((tmp_path / name).rglob("*")):
            if p.is_symlink() or not p.is_file() or p.read_bytes()[:4] != b"\x7fELF":
                continue
            found += 1
            dynamic, headers = run("readelf", "-dW", p), run("readelf", "-hlW", p)
            symbols = run("nm", "-D", p)
            assert re.search(r"Type:\s+DYN", headers), f"{p}: not position independent"
            assert "GNU_RELRO" in headers and "NOW" in dynamic, f"{p}: relocations stay writable"
            assert re.search(r"GNU_STACK.* RW  ", headers), f"{p}: executable stack"
            assert "__stack_chk_fail" in symbols, f"{p}: no stack protector"
            assert not re.search(r"RPATH|RUNPATH", dynamic), f"{p}: runpath"
            assert ".debug_info" not in run("readelf", "-SW", p), f"{p}: not stripped"
            if re.search(r"__\w+_chk\b", symbols.replace("__stack_chk_fail", "")):
                fortified.add(p.name)
    assert found >= 8
    assert len(fortified) == found, fortified


# -- in a fresh Debian ----------------------------------------------------------------------------------------------------

def fresh_system(deb):
    """A tar of a minimal Debian with what our packages depend on, made once per list."""
    needed = set()
    for name in PACKAGES:
        depends = ", ".join(run("dpkg-deb", "-f", deb(name), f) for f in ("Depends", "Pre-Depends"))
        needed |= {re.split(r"[ (|]", d.strip())[0] for d in depends.split(",") if d.strip()}
    needed = sorted(needed - set(PACKAGES))
    tar = debs.OUT / f"fresh-{SUITE}-{hashlib.sha256(' '.join(needed).encode()).hexdigest()[:16]}.tar"
    if not tar.exists():
        new = tar.with_name(f"new-{tar.name}")
        run("mmdebstrap", "--variant=minbase", f"--include={','.join(needed)}", '--aptopt=Acquire::Languages "none"',
            '--aptopt=APT::Install-Recommends "false"', SUITE, new, run(REPO / "tests/packaging/mirror.sh").strip())
        for old in debs.OUT.glob(f"fresh-{SUITE}-*.tar"):
            old.unlink()
        new.rename(tar)
    return tar


class System:
    def __init__(self, root):
        self.root = root

    def run(self, *argv):
        return run("chroot", self.root, *argv, env=ENV)

    def with_proc(self, *argv):
        """A command line that runs argv in it with /proc, as on every machine that is up."""
        return ["unshare", "--mount", "sh", "-ec", 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"', str(self.root), *argv]

    def path(self, name):
        return self.root / name.lstrip("/")

    def files(self):
        """Everything that is there, but for the books of dpkg and the caches of others."""
        found = set()
        for top, dirs, names in os.walk(self.root):
            rel = "/" + os.path.relpath(top, self.root).removeprefix(".")
            if rel.startswith(("/var/lib/dpkg", "/var/cache", "/proc", "/sys", "/dev")):
                dirs.clear()
                continue
            found |= {os.path.join(rel, n) for n in dirs + names}
        return found


@pytest.fixture(scope="module")
def system(deb, tmp_path_factory):
    if os.geteuid() != 0:
        pytest.fail("these tests make a Debian of their own; run them as root")
    root = tmp_path_factory.mktemp("debian") / "root"
    root.mkdir(mode=0o755)
    run("tar", "-C", root, "-xf", fresh_system(deb), "--numeric-owner", "--exclude=./dev/*")
    subprocess.run(["mknod", "-m", "666", root / "dev/null", "c", "1", "3"], check=True)
    s = System(root)
    s.before = s.files()
    yield s
    shutil.rmtree(root)


def install(system, deb):
    (system.path("tmp") / "debs").mkdir()
    for name in PACKAGES:
        shutil.copy(deb(name), system.path("tmp/debs"))
    system.run("sh", "-c", "dpkg -i /tmp/debs/*.deb")
    shutil.rmtree(system.path("tmp/debs"))


def test_it_installs(system, deb):
    install(system, deb)
    passwd = system.path("etc/passwd").read_text()
    for user in DAEMONS:
        assert re.search(rf"^{user}:.*:/usr/sbin/nologin$", passwd, re.M), user
    settings = system.path("etc/trustbridge/trustbridge.env")
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    # Nothing in it takes effect: a machine without a contract has no settings.
    assert not re.search(r"^[^#\n]", settings.read_text(), re.M)
    wants = {p.name for p in system.path("etc/systemd/system").glob("*.wants/*")}
    assert {"trustbridge.target", "tb-proxy.socket"} <= wants
    # tb-state.service has a condition that only a closed image meets.
    assert {n for n in wants if n.startswith("tb-") and n.endswith(".service")} == {"tb-controlplane.service", "tb-state.service"}
    assert "\nConditionPathExists=" in (REPO / "units/tb-state.service").read_text()
    settings = system.path("etc/trustbridge/controlplane.env")
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    group = re.search(r"^tb-controlplane:x:(\d+):", system.path("etc/group").read_text(), re.M)[1]
    assert (settings.stat().st_uid, settings.stat().st_gid) == (0, int(group))
    # Both work with what the file says: as the service's user, whatever root makes.
    system.run("install", "-d", "-m", "700", "-o", "tb-controlplane", "-g", "tb-controlplane", "/var/lib/tb-controlplane")
    system.run("tb-controlplane", "contract", "add", "acme-1", "--asset", "Llama-3.1-8B")
    assert "acme-1" in system.run("setpriv", "--reuid=tb-controlplane", "--regid=tb-controlplane", "--clear-groups",
                                  "tb-controlplane", "contract", "list")
    assert "contract-allow" not in system.run("tb-controlplane", "contract", "list")
    system.run("dpkg", "--audit")
    system.run("ldconfig", "-p")


def test_the_units_are_accepted(system):
    units = sorted(p.name for p in (REPO / "units").iterdir() if p.suffix in (".service", ".socket", ".target", ".path"))
    out = run(*system.with_proc("systemd-analyze", "verify", "--man=no", *units), env=ENV)
    assert not [line for line in out.splitlines() if "tb-" in line or "trustbridge" in line], out


def test_tbpkg_works_there(system):
    version = re.search(r'TB_VERSION "(.*)"', (REPO / "common/version.h").read_text())[1]
    assert version in system.run("tbpkg", "--version")
    model = os.urandom(300000)
    system.path("tmp/model.bin").write_bytes(model)
    system.run("tbpkg", "encrypt", "--quiet", "--asset-id=demo", "--out=/tmp/demo.tbenc", "--key-out=/tmp/key", "/tmp/model.bin")
    system.run("tbpkg", "verify", "--quiet", "--key-file=/tmp/key", "/tmp/demo.tbenc")
    system.run("tbpkg", "decrypt", "--quiet", "--key-file=/tmp/key", "--out=/tmp/again.bin", "/tmp/demo.tbenc")
    assert system.path("tmp/again.bin").read_bytes() == model
    sealed = bytearray(system.path("tmp/demo.tbenc").read_bytes())
    sealed[len(sealed) // 2] ^= 1
    system.path("tmp/demo.tbenc").write_bytes(sealed)
    r = subprocess.run(["chroot", system.root, "tbpkg", "verify", "--key-file=/tmp/key", "/tmp/demo.tbenc"], capture_output=True)
    assert r.returncode == 1
    for name in ("model.bin", "demo.tbenc", "demo.manifest.json", "key", "again.bin"):
        system.path(f"tmp/{name}").unlink()


def test_every_program_starts_there(system):
    """With all its libraries; without settings each says which ones it misses. A closed image has its own, tb-verify and tb-statekey need none."""
    programs = [p for p in system.path("usr/lib/trustbridge").iterdir() if p.read_bytes()[:4] == b"\x7fELF"]
    assert len(programs) >= 6
    for name in sorted(p.name for p in programs):
        argv = system.with_proc(f"/usr/lib/trustbridge/{name}", *{"tb-configure": ["--check"], "tb-update": ["run"], "tb-verify": ["--help"], "tb-statekey": ["--help"]}.get(name, []))
        code, said = {"tb-provision": (66, "image.env"), "tb-verify": (0, "--challenge"), "tb-statekey": (0, "--approvals")}.get(name, (78, "TB_CONTRACT_ID"))
        r = subprocess.run(argv, capture_output=True, text=True, env=ENV, stdin=subprocess.DEVNULL, timeout=20)
        assert r.returncode == code and said in r.stdout + r.stderr, (name, r)


def test_an_upgrade_keeps_the_settings(system, deb):
    settings = system.path("etc/trustbridge/trustbridge.env")
    settings.write_text("TB_CONTRACT_ID=mine\nTB_TARGET_DIR=/srv/asset\n")
    install(system, deb)
    assert settings.read_text() == "TB_CONTRACT_ID=mine\nTB_TARGET_DIR=/srv/asset\n"
    settings.unlink()
    install(system, deb)
    assert not settings.exists()
    settings.write_text("TB_CONTRACT_ID=mine\nTB_TARGET_DIR='/srv/asset'\n")


SECRETS = ("/etc/trustbridge/client.key", "/etc/credstore/trustbridge.client-key", "/var/lib/tb-authorize/suspended",
           "/var/lib/tb-billing/ledger.db", "/run/tb-authorize/lease.json", "/var/log/trustbridge/audit.jsonl",
           "/var/log/journal/0123456789abcdef0123456789abcdef.trustbridge/system.journal", "/srv/asset/model.tbenc",
           "/srv/asset/model.tbenc.verified.json", "/srv/asset/other.tbenc.part", "/srv/asset/other.tbenc.part.json",
           "/srv/asset/model.manifest.json")
OTHERS = ("/etc/credstore/of-somebody-else", "/srv/asset/of-somebody-else")


def test_removal_keeps_and_purge_takes(system, deb):
    for name in (*SECRETS, *OTHERS):
        system.path(name).parent.mkdir(parents=True, exist_ok=True)
        system.path(name).write_text("secret")
    said = system.run("dpkg", "-r", *PACKAGES)
    assert "the usage ledger stays in /var/lib/tb-billing" in said and "file is not a database" in said, said
    left = [n for n in SECRETS if system.path(n).exists()]
    assert left == [n for n in SECRETS if not n.startswith("/run/")]
    assert not system.path("usr/lib/trustbridge").exists()

    # The ledger outlives the package, unless the operator has said otherwise.
    said = system.run("dpkg", "-P", *PACKAGES)
    assert [n for n in SECRETS if system.path(n).exists()] == ["/var/lib/tb-billing/ledger.db"]
    assert "kept in /var/lib/tb-billing" in said and "file is not a database" in said, said
    # So do the keys of models that customers serve.
    assert "are kept in /var/lib/tb-controlplane" in said and system.path("var/lib/tb-controlplane/controlplane.db").exists(), said
    assert not system.path("etc/trustbridge").exists()
    shutil.rmtree(system.path("var/lib/tb-controlplane"))
    install(system, deb)
    system.path("etc/trustbridge/purge-ledger").touch()
    said = system.run("dpkg", "-P", *PACKAGES)
    assert [n for n in SECRETS if system.path(n).exists()] == []
    assert "the usage ledger is deleted" in said, said
    for name in OTHERS:
        system.path(name).unlink()
    # Users stay (and what their making left); the rest is of this test or of dpkg and systemd-analyze.
    left = {n for n in system.files() - system.before if not re.match(
        r"/etc/(passwd|group|shadow|gshadow)-?$|/etc/\.pwd\.lock$|/etc/credstore$|/srv/asset$|/var/log/journal$|"
        r"/var/log/dpkg.log$|/run/systemd(/systemd-units-load)?$|/var/lib/systemd/catalog(/database)?$", n)}
    assert not left, left
    assert re.search(r"^tb-proxy:", system.path("etc/passwd").read_text(), re.M)


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", __file__]))
