# SPDX-License-Identifier: Apache-2.0
"""tb-attest started by a connection, as its units have it."""

import hashlib
import json
import secrets
import socket
import struct

import pytest

from software_tpm import GOOD, Tpm, authority
from tbsys import Daemon, program, unix_listener

PCRS = [4, 7, 11, 12, 13, 14]


@pytest.fixture(scope="module")
def issuer():
    return authority("Test TPM CA")


@pytest.fixture(scope="module")
def shared_tpm(tmp_path_factory, issuer):
    tpm = Tpm(tmp_path_factory.mktemp("t"), issuer)
    yield tpm
    tpm.off()


@pytest.fixture
def tpm(shared_tpm):
    """On, after a good boot."""
    yield shared_tpm.reboot(GOOD)
    shared_tpm.off()


def question(**more):
    return {"challenge": secrets.token_hex(32), "challenge_pcrs": PCRS, "contract_id": "acme-1", "asset_id": "my-model", "hw_id": "hw-1", **more}


def extra(q):
    text = b"trustbridge attestation v1\0" + bytes.fromhex(q["challenge"])
    for name in ("contract_id", "asset_id", "hw_id"):
        text += struct.pack(">H", len(q[name])) + q[name].encode()
    return hashlib.sha256(text).digest()


class Attest:
    def __init__(self, directory, device):
        self.path, self.dir, self.device, self.log = directory / "a.sock", directory, device, directory / "log"

    def ask(self, q):
        """(answer, exit status)"""
        listener = unix_listener(self.path, "seqpacket")
        daemon = Daemon([program("tb-attest")], listen={"attest": listener}, log=self.log,
                        env={"TB_CONTRACT_ID": "acme-1", "TB_ASSET_ID": "my-model", "TB_EDC_ENDPOINT": "https://127.0.0.1:1", "TB_TPM": self.device,
                             "TB_RUN_DIR": self.dir / "run"})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.settimeout(120)
            s.connect(str(self.path))
            s.sendall(q if isinstance(q, bytes) else json.dumps(q).encode())
            daemon.start()
            answer = s.recv(65536)
        rc = daemon.wait()
        listener.close()
        return json.loads(answer), rc
