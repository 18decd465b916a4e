# SPDX-License-Identifier: Apache-2.0
"""Measured machines: images by `tbpkg build --target vm-attested`, a provider that asks for them, TPMs of the tests. Run by `make
check-attested`; each boot is a minute on an idle processor, and several on a busy one."""

import fcntl
import json
import os
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
for p in (HERE.parents[1], HERE.parents[1] / "lib", HERE.parents[1] / "vm", HERE.parents[2] / "tests/integration",
          HERE.parents[2] / "tests/packaging"):
    sys.path.insert(0, str(p))

import debs
import build
import measured
import model
from appliance import GuestProvider, Looks
from chain import http_json, tbpkg
from measured import Disk, Measured
from runner import VM
from software_tpm import Tpm, authority, pem
from tbsys import program, repo, wait_for

ASSET = "my-model"
IMAGE = "acme-llm"
# The root shell and what carries the runtime: of an image for tests, and measured like everything else.
UNIT = "vm-agent.service"
SETTINGS = """TB_EDC_ENDPOINT=https://10.0.2.2:{port}
TB_CA_FILE=/etc/trustbridge/ca.pem
TB_RUNTIME_EXEC=/opt/runtime-kit/llama-server -m {{model}}/{gguf} -c 1024 -t 1 --host 127.0.0.1 --port 8081 --parallel 2
TB_ROUTES=/v1/chat/*,/v1/models*
TB_AUDIT_FILE=/var/log/trustbridge/audit.jsonl
TB_BILLING_INTERVAL=1s
"""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    report = (yield).get_result()
    if report.failed:
        report.sections += [("machine", machine.report()) for machine in VM.on]


@pytest.fixture(autouse=True)
def nothing_runs_on():
    yield
    for machine in list(VM.on):
        machine.hard_kill()


class Machine(Measured, Looks):
    """One with the product in it."""

    def wait_said(self, *states, timeout=900):
        """Until /status says one of these states; returns the document. A machine that goes off first has failed."""
        def said():
            assert self.running(), f"the machine went off\n{self.serial_text()[-3000:]}"
            s = self.status()
            return s if s.get("state") in states else None
        return wait_for(said, timeout, f"one of {states}", every=1)

    def wait_refused(self, reason, timeout=900):
        """Until the control plane has refused it for that."""
        def said():
            assert self.running(), f"the machine went off\n{self.serial_text()[-3000:]}"
            s = self.status()
            return s if reason in json.dumps(s) else None
        return wait_for(said, timeout, f"a refusal for {reason}; now {self.status()}", every=1)

    def chat(self):
        return http_json(self.url("/v1/chat/completions"), {**model.CHAT, "max_tokens": 4}, timeout=300)


def no_ledger_runs(m):
    """Neither at boot nor when the settings of the deployment have come is anything started that asks for a key or counts."""
    def refused():
        came = int(m.show("tb-provision.service", "InactiveExitTimestampMonotonic"))
        said = m.run("journalctl -b -o json --no-pager UNIT=tb-authorize.service JOB_RESULT=dependency", 120)[1].splitlines()
        return came and any(int(json.loads(line)["__MONOTONIC_TIMESTAMP"]) > came for line in said if line.startswith("{"))
    wait_for(refused, 900, "a start of tb-authorize that fails for its dependency", every=2)
    assert m.sh("systemctl show -P ExecMainStartTimestampMonotonic tb-authorize.service tb-billing.service").split() == ["0", "0"]
    assert m.status().get("state") != "Ready"


class House:
    """A provider, his control plane, and what his images are made of."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.issuer = authority("Test TPM CA")
        self.provider = GuestProvider(self.dir / "provider", client_ca=False)
        (self.dir / "tpm-ca.pem").write_bytes(pem(self.issuer[0]))
        self.provider.controlplane.options += ["--attest-ca", self.dir / "tpm-ca.pem"]
        self.provider.start()
        self.provider.publish(model.make_model(self.dir / "model"), ASSET)
        self.cp = self.provider.controlplane
        self._make_overlay()
        for name in ("one", "other"):
            measured.run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self.dir / f"{name}.key")
        measured.run("openssl", "rsa", "-in", measured.SECURE_BOOT_KEY, "-passin", f"pass:{measured.SECURE_BOOT_PASSWORD}", "-out",
                     self.dir / "db.key")
        self.contracts = 0

    def _make_overlay(self):
        o = self.overlay = self.dir / "overlay"
        shutil.copytree(repo / "build/llama", o / "opt/runtime-kit", symlinks=True)
        guest = repo / "e2e-vagrant/vm/guest"
        (o / "usr/local/lib").mkdir(parents=True)
        build.compile_agent(o / "usr/local/lib/vm-agent")
        wants = o / "etc/systemd/system/sysinit.target.wants"
        wants.mkdir(parents=True)
        shutil.copy(guest / "etc/systemd/system" / UNIT, o / "etc/systemd/system")
        (wants / UNIT).symlink_to(f"../{UNIT}")
        (o / "etc/trustbridge").mkdir()
        shutil.copy(self.provider.ca.cert, o / "etc/trustbridge/ca.pem")
        (o / "etc/trustbridge/ca.pem").chmod(0o644)

    def image(self, version, state_key="one", register=True, append=None):
        """The directory of one, made once. state_key: whose state its machines keep, or None, as for one with `append`."""
        out = self.dir / f"image-{version}"
        if out.exists():
            return out
        settings = self.dir / "image.env"
        settings.write_text(SETTINGS.format(port=self.cp.port, gguf=model.GGUF))
        cache = self.cache()
        more = ["--append-cmdline", append] if append else []
        more += ["--state-key", self.dir / f"{state_key}.key"] if state_key else []
        with open(cache / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            measured.run(program("tbpkg"), "build", "--target", "vm-attested", "--deb-dir", os.environ.get("TB_ATTESTED_DEBS") or debs.build("trixie"), "--recipe-dir",
                         repo / "image", "--cache-dir", cache, "--settings", settings, "--image", IMAGE, "--image-version", version,
                         "--overlay", self.overlay, "--allow-unit", UNIT, "--no-sbom", "--output-dir", out, "--secure-boot-key",
                         self.dir / "db.key", "--secure-boot-cert", measured.SECURE_BOOT_CERT, *more)
        if register:
            self.tbpkg("image", "register", out / "measurements.json")
        return out

    @staticmethod
    def cache():
        """Debian's trees, over runs."""
        d = pathlib.Path(os.environ.get("TB_IMAGE_CACHE") or repo / "build/attested")
        d.mkdir(parents=True, exist_ok=True)
        return d

    def tbpkg(self, *args):
        return tbpkg(*args, env={**self.provider.env(), "TB_EDC_ENDPOINT": self.cp.url, "HOME": str(self.dir)})

    def contract(self, *more):
        self.contracts += 1
        name = f"acme-{self.contracts}"
        self.cp.ctl("contract", "add", name, "--asset", ASSET, "--mode", "open", "--attest", "image", "--image", IMAGE, "--ak", "own",
                    "--lease-seconds", "20", *more)
        return name

    def media(self, path, contract, **settings):
        """What the machine's deployment says, on a disk."""
        doc = {"trustbridge": 1, "settings": {"TB_CONTRACT_ID": contract, "TB_ASSET_ID": ASSET, **settings}}
        path.write_bytes(json.dumps(doc).encode().ljust(65536, b"\0"))
        return path

    def disk(self, image, path):
        return Disk(image / "disk.raw").copy(path)

    def tpm(self, directory, name="machine"):
        return Tpm(directory, self.issuer, name)


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    base = os.environ.get("TB_ATTESTED_DIR")  # images take a GiB
    d = pathlib.Path(base) if base else tmp_path_factory.mktemp("house")
    d.mkdir(parents=True, exist_ok=True)
    h = House(d)
    try:
        yield h
    finally:
        h.provider.stop()


@pytest.fixture(scope="session")
def first(house):
    return house.image("1.0.0")


@pytest.fixture(scope="session")
def stateless(house):
    """Without the state of tb-state(8), which nothing outlives that was changed: its programs start, ask for the key, and are refused."""
    return house.image("1.0.0-stateless", state_key=None)
