# SPDX-License-Identifier: Apache-2.0
"""tb-authorize, tb-attest and tb-controlplane together (swtpm): the key travels sealed, and no program with a network ever has it."""

import json
import signal
import subprocess
import threading

import pytest

from attest_rig import PCRS, issuer, shared_tpm  # noqa: F401
from authorize_world import DECRYPT, HYDRATE, UUID
from controlplane_server import ASSET, KEY, Server
from software_tpm import GOOD, digest, hpke_open, key_info, pem
from tbsys import Daemon, fetch_credential, free_port, program, read_json, unix_listener, wait_for
from test_authorize_secrets import memory_holds


class Activated:
    """tb-attest.socket: each connection is one run of tb-attest."""

    def __init__(self, path, tpm):
        self.path, self.listener, self.runs, self.stopping = path, unix_listener(path, "seqpacket"), 0, False
        self.daemon = Daemon([program("tb-attest")], listen={"attest": self.listener}, log=path.parent / "attest.log",
                             env={"TB_CONTRACT_ID": "acme", "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_TPM": tpm,
                                  "TB_RUN_DIR": path.parent})
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        import select
        while not self.stopping:
            if select.select([self.listener], [], [], 0.1)[0] and not self.stopping:
                self.daemon.start()
                self.runs += 1
                self.daemon.wait()

    def stop(self):
        self.stopping = True
        self.thread.join(30)
        self.listener.close()
        self.path.unlink(missing_ok=True)


class House:
    """One machine: its TPM, tb-attest's socket, tb-authorize; and the provider's server."""

    def __init__(self, directory, tpm, issuer, attest=("--attest", "tpm", "--ak", "own"), lease="60"):
        self.dir, self.tpm = directory, tpm
        (directory / "ca.pem").write_bytes(pem(issuer[0]))
        self.server = Server(directory / "cp", "--seed", "--attest-ca", directory / "ca.pem").start()
        assert self.server.register()[0] == 201
        self.server.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--lease-seconds", lease, *attest)
        self.run = directory / "r"
        self.run.mkdir()
        self.attest = Activated(self.run / "tb-attest.sock", tpm.path)
        self.keys = unix_listener(directory / "k.sock")
        self.authorize = Daemon([program("tb-authorize")], listen={"keys": self.keys}, credentials={"product-uuid": UUID.encode()},
                                runtime_dir=self.run / "tb-authorize", state_dir=directory / "s", log=directory / "authorize.log",
                                env={"TB_CONTRACT_ID": "acme", "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": f"https://localhost:{self.server.port}",
                                     "TB_CA_FILE": self.server.data / "ca.crt", "TB_RUN_DIR": self.run, "TB_STATE_DIR": directory / "s",
                                     "TB_INSECURE_HTTP": "true", "TB_LOG_LEVEL": "debug"})

    def start(self):
        self.authorize.start()
        return self

    def lease(self):
        return read_json(self.run / "tb-authorize/lease.json")

    def wait(self, state, timeout=30):
        wait_for(lambda: self.lease().get("state") == state, timeout, f"{state}; {self.lease()} {self.authorize.log_text()[-1500:]}")

    def shown(self, *options):
        """What tb-status says."""
        r = subprocess.run([program("tb-status"), *options], capture_output=True, text=True, timeout=60,
                           env={"TB_RUN_DIR": str(self.run), "TB_HEALTH_ADDR": f"127.0.0.1:{free_port()}", "PATH": "/usr/bin:/bin"})
        return json.loads(r.stdout) if "--json" in options else " ".join(r.stdout.split())

    def machines(self):
        return json.loads(self.server.cli("machine", "list", "--json"))

    def key(self):
        return fetch_credential(self.dir / "k.sock", DECRYPT, "model-key")

    def open(self, blob):
        assert blob[:8] == b"TBWK0001" and len(blob) == 125
        assert int.from_bytes(blob[8:12], "big") == sum(1 << n for n in PCRS)
        sha = fetch_credential(self.dir / "k.sock", DECRYPT, "manifest-sha256").decode()
        handle, area = self.tpm.boot_key(PCRS)
        try:
            return hpke_open(self.tpm.ecdh(handle, PCRS, blob[12:77]), blob[12:77], self.tpm.point(area), key_info("acme", ASSET, sha), blob[77:]).hex()
        finally:
            self.tpm.flush(handle)

    def stop(self):
        self.authorize.stop()
        self.attest.stop()
        self.keys.close()
        self.server.__exit__()


@pytest.fixture
def house(tmp_path, shared_tpm, issuer):
    made = []

    def make(**options):
        made.append(House(tmp_path, shared_tpm.reboot(GOOD), issuer, **options))
        return made[-1]
    yield make
    for h in made:
        h.stop()
    shared_tpm.off()


def test_the_key_travels_sealed(house):
    h = house().start()
    h.wait("authorized")
    assert h.open(h.key()) == KEY
    assert fetch_credential(h.dir / "k.sock", HYDRATE, "sas-url").startswith(b"http")
    for secret in (bytes.fromhex(KEY), KEY.encode()):
        assert not memory_holds(h.authorize.pid, secret)
    assert KEY not in h.authorize.log_text() and h.attest.runs == 1
    entries = h.server.cli("log")
    assert "attestation_required" in entries and "authorized" in entries
    seen = h.shown("--json")["attestation"]
    assert seen == {"level": "tpm", "at": h.lease()["attested"]["at"]} and "attested level tpm, shown " in h.shown()
    machine, = h.machines()
    assert machine["attested"] == {"level": "tpm", "at": machine["last_seen"]}
    assert machine["hw_id"] in (table := h.server.cli("machine", "list")) and f" tpm      {machine['attested']['at']} -\n" in table


def test_a_renewal_takes_one_request(house):
    h = house(lease="4").start()
    h.wait("authorized")
    first = h.lease()["renewed_at"]
    wait_for(lambda: h.lease()["renewed_at"] > first, 30, "a renewal")
    assert h.server.cli("log").count("attestation_required") == 1 and h.attest.runs >= 2


def test_a_register_that_changed_makes_a_fresh_key(house):
    h = house().start()
    h.wait("authorized")
    h.key()
    h.tpm.extend(11, digest("a later phase"))
    wait_for(lambda: h.attest.runs >= 1, 10)

    def opens():
        try:
            return h.open(h.key()) == KEY
        except Exception:
            return False
    wait_for(opens, 40, "a key for the machine as it is now", every=1)


def test_no_evidence_is_no_refusal(house):
    """The TPM is gone while it serves: nothing is asked without evidence, and nothing is suspended for it."""
    h = house(lease="4").start()
    h.wait("authorized")
    h.tpm.off()
    h.authorize.kill(signal.SIGHUP)
    wait_for(lambda: "this machine can make no evidence" in h.authorize.log_text(), 30, "the log to say so")
    seen = wait_for(lambda: (a := h.shown("--json")["attestation"]).get("refused") and a, what="tb-status to say so")
    assert seen["level"] == "tpm" and seen["refused"].startswith("this machine can make no evidence") and "Trusted Launch" in seen["remedy"]
    assert "the lease cannot be renewed: this machine can make no evidence" in h.shown() and "does not answer: this" not in h.shown()
    denied = h.server.cli("log").count("denied")
    assert h.lease()["state"] in ("authorized", "unreachable") and not (h.run / "tb-authorize/suspended").exists()
    h.tpm.boot(GOOD)
    h.authorize.kill(signal.SIGHUP)
    wait_for(lambda: h.lease()["state"] == "authorized" and h.open(h.key()) == KEY, 60, "the return")
    assert h.server.cli("log").count("denied") <= denied + 1


def test_a_machine_that_shows_nothing_good_is_denied(house):
    h = house(attest=("--attest", "tpm", "--ak", "pin:" + "0" * 64)).start()
    h.wait("denied")
    assert h.lease()["reason"].startswith("attestation_untrusted_key: the key") and h.key() == b""
    seen = h.shown("--json")["attestation"]
    assert "level" not in seen and seen["refused"] == h.lease()["reason"] and "does not trust this TPM" in seen["remedy"]
    assert "the control plane refuses what this machine shows: attestation_untrusted_key: the key" in h.shown() and "does not trust this TPM" in h.shown()
    assert h.machines() == []
    h.server.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "own", "--replace")
    h.authorize.kill(signal.SIGHUP)
    h.wait("authorized", 40)
    shown = h.lease()["attested"]
    assert shown["level"] == "tpm"
    h.server.cli("contract", "add", "acme", "--asset", ASSET, "--mode", "open", "--attest", "tpm", "--ak", "pin:" + "0" * 64, "--replace")
    h.authorize.kill(signal.SIGHUP)
    h.wait("denied", 40)
    assert h.lease()["attested"]["level"] == "tpm", "what it showed last is forgotten with a refusal"
    h.server.daemon.stop()
    h.authorize.stop()
    h.authorize.start()
    wait_for(lambda: h.authorize.running() and "attested" in h.lease(), what="what was shown before the restart")


def test_without_the_socket_the_reason_says_so(house):
    h = house()
    h.attest.stop()
    h.start()
    h.wait("denied")
    assert h.lease()["reason"] == "attestation_required: tb-attest.socket is not active on this machine"


def test_a_server_that_forgot_its_challenges(house):
    """Restarted with another database between challenge and evidence: one question more, no refusal."""
    h = house(lease="6").start()
    h.wait("authorized")
    h.server.daemon.stop()
    import sqlite3
    with sqlite3.connect(h.server.data / "controlplane.db") as db:
        db.execute("UPDATE server_secrets SET secret=?", ("ab" * 32,))
    db.close()
    h.server.daemon.argv[h.server.daemon.argv.index("127.0.0.1:0")] = f"127.0.0.1:{h.server.port}"
    h.server.start()
    before = h.lease()["renewed_at"]
    h.authorize.kill(signal.SIGHUP)
    wait_for(lambda: h.lease()["renewed_at"] > before, 40, "a renewal")
    assert h.lease()["state"] == "authorized"
    assert "attestation_stale" in h.server.cli("log")


def test_a_contract_without_a_policy_is_as_before(house):
    h = house(attest=()).start()
    h.wait("authorized")
    assert h.key() == bytes.fromhex(KEY) and h.attest.runs == 0
    assert h.lease()["state"] == "authorized" and "attested" not in h.lease() and "attested" not in h.machines()[0]
    assert h.shown("--json")["attestation"] == {"level": "none"} and "attested level none" in h.shown()
