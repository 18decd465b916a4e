# SPDX-License-Identifier: Apache-2.0
"""The units, without a booted machine: what systemd says about them, the rules they are written by, and the generator. Whether the
chain works by them is for the VM scenarios in e2e-vagrant/."""

import os
import re
import shutil
import subprocess

import pytest
from tbsys import build_dir, repo

UNITS = repo / "units"
SERVICES = sorted(p.name for p in UNITS.glob("*.service"))
# systemd-analyze multiplies by ten.
# tb-settings looks at every file and address that the settings name, and may change none.
# tb-runtime may make a user and a mount namespace and open /dev/fuse, until tb-load becomes the inference server, which may not.
# tb-verify looks into every process, and at all ports: it may not hide them from itself.
# tb-scratch is no daemon: it runs for a moment at boot, formats a disk and gives the directory on it to somebody else.
# tb-state makes mounts for others, so nothing may give it a mount namespace of its own; closed images alone have it, for a moment at boot.
# tb-provision is root without capabilities, asks the metadata service and may read a disk; it runs for a moment at boot, in closed images alone.
EXPOSURE = {"tb-attest.service": 3, "tb-configure.service": 5, "tb-decrypt.service": 3, "tb-lost-view.service": 5, "tb-provision.service": 16, "tb-proxy.service": 6, "tb-repair.service": 5, "tb-runtime.service": 14, "tb-update.service": 5, "tb-verify.service": 18, "tb-wish.service": 5, "tb-scratch.service": 14, "tb-state.service": 57,
            "tb-settings.service": 14}
EXPOSURE_OTHERS = 13
# What every service has, unless it says why not on a commented line.
EVERYWHERE = """AmbientCapabilities CapabilityBoundingSet DevicePolicy EnvironmentFile KeyringMode LimitCORE LockPersonality LogNamespace
MemoryDenyWriteExecute MemorySwapMax NoNewPrivileges PrivateDevices PrivateIPC PrivateMounts PrivateTmp PrivateUsers ProcSubset
ProtectClock ProtectControlGroups ProtectHome ProtectHostname ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc
ProtectSystem RemoveIPC RestrictAddressFamilies RestrictNamespaces RestrictRealtime RestrictSUIDSGID SystemCallArchitectures
SystemCallErrorNumber SystemCallFilter UMask""".split()



def install(dest, **variables):
    args = [f"{k}={v}" for k, v in variables.items()]
    subprocess.run(["make", "-s", "-C", repo, "install-units", f"DESTDIR={dest}", "prefix=/usr", *args], check=True, capture_output=True)
    return dest


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Installed as by `make install`, but for programs that are where they were built: systemd looks whether they are there."""
    return install(tmp_path_factory.mktemp("root"), libexecdir=build_dir(), sbindir=build_dir())


def unit_dir(root):
    return root / "usr/lib/systemd/system"


def analyze(root, *args):
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{unit_dir(root)}:", "SYSTEMD_LOG_LEVEL": "info"}
    return subprocess.run(["systemd-analyze", "--no-pager", *map(str, args)], capture_output=True, text=True, env=env, cwd=unit_dir(root))


def test_verify_has_nothing_to_say(root):
    r = analyze(root, "verify", "--man=no", *sorted(p.name for p in unit_dir(root).iterdir()))
    assert (r.returncode, r.stdout + r.stderr) == (0, "")


@pytest.mark.parametrize("unit", SERVICES)
def test_exposure(root, unit):
    limit = EXPOSURE.get(unit, EXPOSURE_OTHERS)
    r = analyze(root, "security", "--offline=yes", f"--threshold={limit}", unit_dir(root) / unit)
    text = r.stdout + r.stderr
    assert r.returncode == 0 and "ignoring" not in text, text
    assert re.search(rf"level for {unit}: [\d.]+", text), text


def test_nobody_starts_beside_what_mounts_his_state():
    """tb-state.service is started again by those that need it. Required alone is no order: one that failed would have them run without their state."""
    text = (UNITS / "tb-state.service").read_text()
    before, mounts = (set(re.search(rf"(?m)^{key}=(.*)", text)[1].split()) for key in ("Before", "ExecStart"))
    users = {p.name for p in UNITS.glob("tb-*.service") for m in re.finditer(r"(?m)^(State|Logs)Directory=(\S+)", p.read_text())
             if {"State": "/var/lib/", "Logs": "/var/log/"}[m[1]] + m[2] in mounts}
    needy = set(re.search(r"(?m)^RequiredBy=(.*)", text)[1].split())
    assert len(users) > 3 and users | needy <= before


def test_one_unit_alone_starts_a_handler():
    """systemd gives no MONITOR_EXIT_STATUS to a unit that several name in OnFailure= or OnSuccess=; and a failure is lost while the handler runs
    for another reason."""
    of = {}
    for p in UNITS.glob("tb-*.*"):
        if p.suffix == ".path":
            of.setdefault(p.with_suffix(".service").name, set()).add(p.name)
        for m in re.finditer(r"(?m)^On(?:Failure|Success)=(.*)", p.read_text() if p.is_file() else ""):
            for handler in m[1].split():
                of.setdefault(handler, set()).add(p.name)
    assert of["tb-repair.service"] == {"tb-runtime.service"} and all(len(by) == 1 for by in of.values()), of


def test_examples_say_what_was_tried_and_the_document_has_all():
    listed = (repo / "docs/runtimes.md").read_text()
    for p in sorted((UNITS / "examples").glob("*.conf")):
        head = " ".join(p.read_text().split("\n[", 1)[0].replace("\n#", "").split())
        assert re.search(r"\b(Tried|Not tried) with this version", head), p.name
        assert f"`{p.name}`" in listed or f"units/examples/{p.name}" in listed, p.name


def test_a_view_is_all_that_exposes_the_runtime_more(root, tmp_path):
    """tb-runtime may be where it is for what tb-load needs to mount one, and the unit says so: without that it is below all others."""
    text = (unit_dir(root) / "tb-runtime.service").read_text()
    needs = {r"^BindPaths=-/dev/fuse\n": "", r"^DeviceAllow=/dev/fuse rw\n": "", r"^RestrictNamespaces=mnt user$": "RestrictNamespaces=yes",
             r"^SystemCallFilter=mount\n": ""}
    assert re.search(r"^# For a view tb-load mounts .*\nBindPaths=", text, re.M) and re.search(r"^# takes both away again.*\nRestrictNamespaces=", text, re.M)
    for line, instead in needs.items():
        text, n = re.subn(line, instead, text, flags=re.M)
        assert n == 1, line
    (tmp_path / "tb-runtime.service").write_text(text)
    r = analyze(root, "security", "--offline=yes", "--threshold=9", tmp_path / "tb-runtime.service")
    assert r.returncode == 0, r.stdout + r.stderr


def test_exposure_is_measured(root, tmp_path):
    """The threshold bites: without its seccomp filter tb-decrypt is over it."""
    text = (unit_dir(root) / "tb-decrypt.service").read_text()
    (tmp_path / "tb-decrypt.service").write_text("\n".join(x for x in text.splitlines() if not x.startswith("SystemCallFilter")))
    r = analyze(root, "security", "--offline=yes", f"--threshold={EXPOSURE['tb-decrypt.service']}", tmp_path / "tb-decrypt.service")
    assert r.returncode != 0


@pytest.fixture(scope="module")
def controlplane(tmp_path_factory):
    d = tmp_path_factory.mktemp("controlplane")
    subprocess.run(["make", "-s", "-C", repo, "install-controlplane", f"DESTDIR={d}", "prefix=/usr"], check=True, capture_output=True)
    return d


def test_the_unit_of_the_control_plane(controlplane):
    """A package of its own: exposed no more than the others, and understood."""
    unit = unit_dir(controlplane) / "tb-controlplane.service"
    r = analyze(controlplane, "verify", "--man=no", "tb-controlplane.service")
    assert [x for x in r.stderr.splitlines() if "is not executable" not in x] == []  # the program is in another root
    text = unit.read_text()
    assert "@" not in text.replace("@system-service", "").replace("@privileged", "").replace("@resources", "")
    r = analyze(controlplane, "security", "--offline=yes", "--threshold=13", unit)
    level = re.search(r"level for tb-controlplane.service: ([\d.]+)", r.stdout + r.stderr)
    assert r.returncode == 0 and float(level[1]) <= 1.3, r.stdout + r.stderr
    for section, lines in sections(unit):
        names = [m[1] for _, line in lines if (m := re.match(r"#?(\w+)=", line))]
        names = names[2:] if section == "[Unit]" else names
        assert names == sorted(names), section
    users = controlplane / "usr/lib/sysusers.d/trustbridge-controlplane.conf"
    assert re.search(r"^User=(.+)$", text, re.M)[1] in users.read_text()


def sections(path):
    """[(section, [(line number, line)])] of a unit file."""
    found = []
    for n, line in enumerate(path.read_text().splitlines(), 1):
        if re.fullmatch(r"\[\w+\]", line):
            found.append((line, []))
        elif found:
            found[-1][1].append((n, line))
    return found


UNIT_FILES = sorted(p for kind in ("service", "socket", "target", "path") for p in UNITS.glob(f"*.{kind}"))


@pytest.mark.parametrize("path", UNIT_FILES, ids=lambda p: p.name)
def test_directives_are_in_order(path):
    for section, lines in sections(path):
        names = [m[1] for _, line in lines if (m := re.match(r"#?(\w+)=", line))]
        if section == "[Unit]":
            assert names[:2] == ["Description", "Documentation"], section
            names = names[2:]
        assert names == sorted(names), section


@pytest.mark.parametrize("path", [p for p in UNIT_FILES if p.suffix != ".target"], ids=lambda p: p.name)
def test_no_start_is_refused_for_their_number(path):
    """systemd's default is five within ten seconds. What restarts by itself waits in between; the rest is what an operator asks for."""
    assert "\nStartLimitIntervalSec=0\n" in path.read_text()
    if "\nRestart=" in path.read_text():
        assert "\nRestartSec=" in path.read_text()


@pytest.mark.parametrize("unit", SERVICES)
def test_a_stop_on_a_busy_machine_is_no_failure(unit):
    """A stop that runs out of its time leaves its unit "failed", for good where nothing is started again. Only plaintext is worth that."""
    m = re.search(r"^TimeoutStopSec=(\d+)(s|ms)$", (UNITS / unit).read_text(), re.M)  # systemd's own: 90 s
    assert not m or (m[2] == "s" and int(m[1]) >= 30) or unit in ("tb-decrypt.service", "tb-runtime.service"), m[0]


@pytest.mark.parametrize("unit", sorted(p.name for p in UNITS.iterdir() if p.suffix in (".path", ".socket")))
def test_nothing_listens_or_watches_without_a_contract(unit):
    """What is wanted by a unit is started whether or not that unit's condition holds. Those that wait for a suspension may always."""
    text = (UNITS / unit).read_text()
    waits = "ConditionPathExists=/run/tb-configure/contract\n" in text and re.search(r"^After=.*\btb-configure.service", text, re.M)
    assert bool(waits) != (unit in ("tb-resume.path", "tb-suspended.path")), unit


@pytest.mark.parametrize("unit", SERVICES)
def test_what_is_left_out_is_explained(unit):
    lines = [line for section, body in sections(UNITS / unit) if section == "[Service]" for _, line in body]
    given = {line.split("=")[0] for line in lines if re.match(r"\w+=", line)}
    for name in EVERYWHERE:
        if name in given:
            continue
        left_out = [i for i, line in enumerate(lines) if line.startswith(f"#{name}=")]
        assert left_out, f"{name}= is missing"
        assert lines[left_out[0] - 1].startswith("# "), f"{name}= is left out without a reason"


def test_each_daemon_is_a_user_of_its_own():
    made = set(re.findall(r"^u (\S+)", (UNITS / "trustbridge.sysusers").read_text(), re.M))
    groups = made | set(re.findall(r"^g (\S+)", (UNITS / "trustbridge.sysusers").read_text(), re.M))
    used = []
    for unit in SERVICES:
        if unit in ("tb-next.service", "tb-switch.service"):  # the same program for the same files
            assert "\nUser=tb-hydrate\n" in (UNITS / unit).read_text()
            continue
        text = (UNITS / unit).read_text()
        used += re.findall(r"^User=(.+)$", text, re.M)
        for names in re.findall(r"^(?:Group|SupplementaryGroups)=(.+)$", text, re.M):
            assert set(names.split()) <= groups, unit
    assert len(used) == len(set(used)) and set(used) == made
    assert set(re.findall(r"^SocketUser=(.+)$", (UNITS / "tb-decrypt.socket").read_text(), re.M)) == {"tb-runtime"}


def test_who_reads_which_version_serves_may_enter_its_directory():
    """serving.json is open to all, but tb-scratch makes the directory 0750, of group tb-assets. tb-proxy has its number from others."""
    programs = {p.parts[-2] for p in (repo / "services").glob("*/*.c") if "tb_serving_" in p.read_text()}
    assert {"authorize", "decrypt", "hydrate", "load", "update"} <= programs
    for program in programs - {"status", "support"}:  # who is not a daemon has the rights of whoever calls it
        unit = {"load": "tb-runtime"}.get(program, f"tb-{program}")
        assert re.search(r"^(Supplementary)?Groups?=.*\btb-assets\b", (UNITS / f"{unit}.service").read_text(), re.M), unit


def test_only_billing_provision_and_vcek_may_reach_the_instance_metadata():
    """Of the units with the machine's network: a token of its identity is one request to a link-local address away.
    tb-vcek asks it for the processor's certificate, has nothing else to do there, and runs once in a boot, as does tb-provision, which asks it for the user data."""
    for unit in SERVICES:
        given = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), re.M))
        assert ("169.254.169.254" in given.get("IPAddressAllow", "")) == (unit in ("tb-billing.service", "tb-provision.service", "tb-vcek.service")), unit
        if "AF_INET" in given["RestrictAddressFamilies"].split() and "PrivateNetwork" not in given and "JoinsNamespaceOf" not in given:
            assert {"any", "link-local"} & set(given.get("IPAddressDeny", "").split()), unit


def test_sysusers_and_tmpfiles_are_understood(root, tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    for args in (["systemd-sysusers", root / "usr/lib/sysusers.d/trustbridge.conf"],
                 ["systemd-tmpfiles", "--create", root / "usr/lib/tmpfiles.d/trustbridge.conf"]):
        r = subprocess.run([args[0], f"--root={tmp_path}", *args[1:]], capture_output=True, text=True)
        assert r.returncode == 0 and "ignoring" not in r.stderr, r.stderr
    assert "tb-decrypt" in (etc / "passwd").read_text()
    assert (etc / "credstore").stat().st_mode & 0o777 == 0o700


def events():
    text = (repo / "common/events.h").read_text()
    return dict(re.findall(r"#define (TB_EVENT_\w+)\s*\\?\s*\"([0-9a-f]{32})\"", text))


def test_catalog_explains_every_event():
    catalog = (UNITS / "trustbridge.catalog").read_text()
    assert sorted(re.findall(r"^-- ([0-9a-f]{32})$", catalog, re.M)) == sorted(events().values())
    code = "".join(p.read_text() for room in ("common", "services", "units") for p in (repo / room).rglob("*") if p.is_file() and p.suffix in (".c", ""))
    fields = set(re.findall(r"@(\w+)@", catalog))
    assert all(re.fullmatch("[A-Z_]+", f) for f in fields), "journalctl fills in no name with a digit"
    assert all(f'"{f}' in code for f in fields), fields
    assert all(name in code for name in events())


ABOVE_NOTICE = r"\btb_(?:warn|error)(?:_errno)?\(|\btb_log_(?:full|errno)\(\s*TB_LOG_(?:WARN|ERR)\b(?:,\s*(\w+))?"
DAEMONS = {"attest": "tb-attest", "authorize": "tb-authorize", "billing": "tb-billing", "decrypt": "tb-decrypt", "hydrate": "tb-hydrate", "load": "tb-load",
           "proxy": "tb-proxy", "update": "tb-update", "vcek": "tb-vcek", "verify": "tb-verify"}


def faults():
    """The event of a warning or error that has none of its own, by program."""
    table = (repo / "common/log.c").read_text()
    table = table[table.index("log_faults[]"):]
    return dict(re.findall(r'\{"(tb-[a-z]+)",\s*(TB_EVENT_\w+)\}', table[:table.index("};")]))


def test_the_catalog_explains_every_message_above_notice():
    """One with an event of its own by that, any other by its program's; and all events are in the catalog, says the test above."""
    assert set(faults()) == set(DAEMONS.values()) and set(faults().values()) < set(events())
    seen = 0
    for path in sorted((repo / "services").rglob("*.c")):
        room = path.relative_to(repo / "services").parts[0]
        for m in re.finditer(ABOVE_NOTICE, path.read_text()):
            seen += 1
            assert m[1] in events() if m[1] not in (None, "NULL") else room in DAEMONS or room in ("audit", "backup", "status", "support"), f"{path}: {m[0]}"
    assert seen > 60
    outcome = (repo / "common/outcome.c").read_text()
    codes = set(re.findall(r"(TB_EXIT_\w+) = (?!0\b)", (repo / "common/exit.h").read_text())) - {"TB_EXIT_USAGE"}
    assert set(re.findall(r"case (TB_EXIT_\w+):\s*return TB_EVENT_ENDED_", outcome)) == codes


@pytest.mark.parametrize("script", [p.name for p in UNITS.glob("tb-*") if not p.suffix and p.with_suffix(".service").exists()])
def test_the_catalog_explains_what_scripts_say(script):
    """By the unit: what a helper of a script sends to the journal is not always known to be the unit's."""
    text = (UNITS / f"{script}.service").read_text()
    assert f"LogExtraFields=MESSAGE_ID={events()['TB_EVENT_' + {'tb-scratch': 'SCRATCH', 'tb-repair': 'TRY_REPAIR', 'tb-state': 'VOLUME'}[script]]}\n" in text
    assert "logger" not in re.sub(r"#.*", "", (UNITS / script).read_text())


def test_catalog_can_be_compiled(root, tmp_path):
    (tmp_path / "usr/lib/systemd/catalog").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(root / "usr/lib/systemd/catalog/trustbridge.catalog", tmp_path / "usr/lib/systemd/catalog")
    r = subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], capture_output=True, text=True)
    assert (r.returncode, r.stderr) == (0, "")
    listed = subprocess.run(["journalctl", f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True).stdout
    assert all(value in listed for value in events().values())


def test_the_default_settings_are_the_documented_ones(root):
    """trustbridge.env names every setting of docs/configuration.md with its default, all commented out."""
    text = (root / "etc/trustbridge/trustbridge.env").read_text()
    assert all(line.startswith("#") for line in text.splitlines() if line)
    given = dict(re.findall(r"^#(TB_\w+)=(.*)$", text, re.M))
    documented = {}
    for names, defaults in re.findall(r"^\| (`TB_.*?) \| (.*?) \|", (repo / "docs/configuration.md").read_text(), re.M):
        names, defaults = re.findall(r"`(\w+)`", names), re.findall(r"`([^`]*)`", defaults)
        documented |= dict(zip(names, defaults + [""] * len(names)))
    assert set(given) <= set(documented)
    for name, value in given.items():
        assert value in (documented[name], "https://"), name


def test_an_upgrade_keeps_the_settings(tmp_path):
    install(tmp_path)
    env = tmp_path / "etc/trustbridge/trustbridge.env"
    env.write_text("TB_ASSET_ID=mine\n")
    install(tmp_path)
    assert env.read_text() == "TB_ASSET_ID=mine\n"


@pytest.mark.parametrize("path", sorted((UNITS / "examples").glob("*.conf")), ids=lambda p: p.name)
def test_examples_are_drop_ins(path, root, tmp_path):
    shutil.copytree(unit_dir(root), tmp_path / "u")
    d = tmp_path / "u/tb-runtime.service.d"
    d.mkdir()
    shutil.copy(path, d)
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/u:"}
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", "tb-runtime.service"], capture_output=True, text=True, env=env)
    assert (r.returncode, r.stdout + r.stderr) == (0, "")


# -- the generator ----------------------------------------------------------------------------------------------------

class Generator:
    def __init__(self, tmp):
        self.etc, self.out = tmp / "etc", tmp / "out"
        root = install(tmp / "root", sysconfdir=self.etc)
        self.program = root / "usr/lib/systemd/system-generators/trustbridge-generator"
        (self.etc / "trustbridge").mkdir(parents=True)

    def run(self, text=None):
        if text is not None:
            (self.etc / "trustbridge/trustbridge.env").write_text(text)
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        r = subprocess.run([self.program, self.out, "/nowhere", "/nowhere"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
        assert r.returncode == 0, r.stderr
        return r.stderr

    def get(self, unit, section, key):
        """All values of one key, in order; None without a drop-in."""
        path = self.out / f"{unit}.d/50-trustbridge-env.conf"
        if not path.exists():
            return None
        body = dict(sections(path))[f"[{section}]"]
        return [line.split("=", 1)[1] for _, line in body if line.startswith(key + "=")]


@pytest.fixture
def generator(tmp_path):
    return Generator(tmp_path)


def test_generator_without_settings(generator):
    assert generator.run() == ""
    assert generator.get("tb-proxy.socket", "Socket", "ListenStream") is None
    assert generator.get("tb-hydrate.service", "Service", "ReadWritePaths") == ["/mnt/resource/trustbridge"]


@pytest.mark.parametrize("given, listen", [
    ("127.0.0.1:9000", "127.0.0.1:9000"), (":9000", "9000"), ("[::1]:9000", "[::1]:9000"), ("[::]:1", "[::]:1"),
    ("localhost:9000", "127.0.0.1:9000"), ('"10.0.0.4:443"', "10.0.0.4:443"), ("'10.0.0.4:443'  ", "10.0.0.4:443"), ("1.2.3.4:65535", "1.2.3.4:65535"),
])
def test_generator_passes_addresses_on(generator, given, listen):
    assert generator.run(f"#TB_PUBLIC_ADDR=1.1.1.1:1\nTB_PUBLIC_ADDR=2.2.2.2:2\n TB_PUBLIC_ADDR={given}\nTB_HEALTH_ADDR=:1\n") == ""
    assert generator.get("tb-proxy.socket", "Socket", "ListenStream") == ["", listen]
    assert generator.get("tb-proxy-health.socket", "Socket", "ListenStream") == ["", "1"]


@pytest.mark.parametrize("given", ["example.org:80", "9000", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:0", "1.2.3.4:65536", "[::1:80", "::1:80", "1.2.3.4:99999999999",
                                   "$(touch /tmp/x):80", "1.2.3.4:80\\nExecStart=x"])
def test_generator_rather_listens_nowhere_than_elsewhere(generator, given):
    assert "TB_PUBLIC_ADDR" in generator.run(f"TB_PUBLIC_ADDR={given}\n")
    assert generator.get("tb-proxy.socket", "Socket", "ListenStream") == [""]


@pytest.mark.parametrize("given", ["relative", "/a b", "/a/../etc", "/a/..", "/%h", "/a;b", "/a\"b"])
def test_generator_refuses_odd_directories(generator, given):
    assert "TB_TARGET_DIR" in generator.run(f"TB_TARGET_DIR={given}\n")
    assert generator.get("tb-hydrate.service", "Service", "ReadWritePaths") is None


def test_generator_makes_the_target_writable(generator):
    assert generator.run("TB_TARGET_DIR=/data/model-1.0\n") == ""
    assert generator.get("tb-hydrate.service", "Service", "ReadWritePaths") == ["/data/model-1.0"]
    assert generator.get("tb-scratch.service", "Unit", "RequiresMountsFor") == ["/data/model-1.0"]


@pytest.mark.parametrize("given", ["/mnt/resource", "/mnt/resource/x", ""])
def test_generator_leaves_the_mount_of_tb_scratch_to_it(generator, given):
    assert generator.run(f"TB_TARGET_DIR={given}\n") == ""
    assert generator.get("tb-scratch.service", "Unit", "RequiresMountsFor") is None
    assert generator.get("tb-hydrate.service", "Service", "ReadWritePaths") == [given or "/mnt/resource/trustbridge"]
    assert "RequiresMountsFor" not in (generator.out / "tb-hydrate.service.d/50-trustbridge-env.conf").read_text()


def test_generator_lets_the_machine_of_a_purchase_alone_reach_its_identity(generator):
    for given, addresses in (("TB_CONTRACT_ID=acme-1\n", None), ("", None), ("TB_CONTRACT_ID=application\n", ["169.254.169.254"])):
        assert generator.run(given) == ""
        assert generator.get("tb-authorize.service", "Service", "IPAddressAllow") == addresses


def test_systemd_takes_what_the_generator_makes(generator, root, tmp_path):
    generator.run("TB_PUBLIC_ADDR=[::1]:9000\nTB_HEALTH_ADDR=:9001\nTB_TARGET_DIR=/data/x\n")
    shutil.copytree(unit_dir(root), tmp_path / "u")
    shutil.copytree(generator.out, tmp_path / "u", dirs_exist_ok=True)
    units = sorted(p.name for p in (tmp_path / "u").iterdir() if p.is_file())
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}/u:"}
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, env=env)
    assert (r.returncode, r.stdout + r.stderr) == (0, "")
