# SPDX-License-Identifier: Apache-2.0
"""A processor with SEV-SNP that is none: an AMD of the test (ARK, ASK, VCEK) and reports as Azure's firmware leaves them in the vTPM, made field by
field from AMD's and Microsoft's descriptions, so that the product's reader is checked by another's writer."""

import base64
import datetime
import hashlib
import http.server
import json
import secrets
import struct
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from software_tpm import GOOD, Tpm, authority, pem

NV = 0x01400001
TCB = (3, 0, 20, 200)  # boot loader, TEE, SNP, microcode
POLICY = 0x3001F
DEBUG, MIGRATION = 1 << 19, 1 << 18
ID_KEY = hashlib.sha384(b"who signs the firmware").digest()


def b64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwk(kid, key):
    n = key.public_numbers()
    return {"kid": kid, "key_ops": ["sign"], "kty": "RSA", "e": b64url(n.e.to_bytes(3, "big")), "n": b64url(n.n.to_bytes((n.n.bit_length() + 7) // 8, "big"))}


def certificates(text):
    """Those of a PEM file."""
    end = b"-----END CERTIFICATE-----\n"
    return [x509.load_pem_x509_certificate(c + end) for c in text.split(end)[:-1]]


class Amd:
    def __init__(self, name="Test"):
        self.ark = authority(f"ARK-{name}")
        self.ask = authority(f"SEV-{name}", parent=self.ark)

    def pem(self):
        return pem(self.ark[0], self.ask[0])


class Processor:
    def __init__(self, amd, tcb=TCB, chip=None, curve=ec.SECP384R1, end=None, version_of=None):
        self.amd, self.tcb, self.chip = amd, tcb, chip or secrets.token_bytes(64)
        self.key = ec.generate_private_key(curve())
        now = datetime.datetime.utcnow()
        b = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "SEV-VCEK")])).issuer_name(amd.ask[0].subject)
             .public_key(self.key.public_key()).serial_number(1).not_valid_before(now - datetime.timedelta(days=9))
             .not_valid_after(end or now + datetime.timedelta(days=2000)))
        for number, value in zip((1, 2, 3, 8), version_of or tcb):
            der = b"\2\1" + bytes([value]) if value < 128 else b"\2\2\0" + bytes([value])
            b = b.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.3.{number}"), der), False)
        b = b.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.4"), self.chip), False)
        self.certificate = b.sign(amd.ask[1], hashes.SHA256())
        self.der = self.certificate.public_bytes(serialization.Encoding.DER)

    def metadata(self):
        """What the metadata service answers."""
        return json.dumps({"vcekCert": pem(self.certificate).decode(), "tcbm": "", "certificateChain": pem(self.amd.ask[0], self.amd.ark[0]).decode(), "cacheControl": "86400"})

    def report(self, data, **change):
        f = {"version": 3, "policy": POLICY, "vmpl": 0, "algorithm": 1, "flags": 0, "tcb": self.tcb, "chip": self.chip, "id_key": ID_KEY, **change}
        r = bytearray(1184)
        struct.pack_into("<IIQ", r, 0, f["version"], 0, f["policy"])
        struct.pack_into("<II", r, 0x30, f["vmpl"], f["algorithm"])
        struct.pack_into("<I", r, 0x48, f["flags"])
        r[0x50:0x90] = data.ljust(64, b"\0")
        r[0xE0:0x110] = f["id_key"]
        bl, tee, snp, microcode = f["tcb"]
        for at in (0x38, 0x180, 0x1E0, 0x1F0):
            r[at:at + 8] = bytes([bl, tee, 0, 0, 0, 0, snp, microcode])
        r[0x1A0:0x1E0] = f["chip"]
        a, b = utils.decode_dss_signature(self.key.sign(bytes(r[:0x2A0]), ec.ECDSA(hashes.SHA384())))
        r[0x2A0:0x2A0 + 144] = a.to_bytes(72, "little") + b.to_bytes(72, "little")
        return bytes(r)

    def hcl(self, ak, claims=None, data=None, **change):
        """Header, report, claims. ak: the TPM's attestation key; claims: others than the firmware's."""
        text = claims if claims is not None else json.dumps({"keys": [jwk("HCLAkPub", ak)], "vm-configuration": {"secure-boot": True}}).encode()
        report = self.report(data if data is not None else hashlib.sha256(text).digest(), **change)
        head = b"HCLA" + struct.pack("<IIIIIII", 1, 32 + 1184 + 20 + len(text), 2, 0, 0, 0, 0)
        return head + report + struct.pack("<IIIII", 20 + len(text), 1, 2, 1, len(text)) + text + b"\0" * 40


class Metadata:
    """The cloud's metadata service, with one answer to everything. seen: (path, value of the header Metadata)."""

    def __init__(self, body, status=200):
        self.seen = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                service.seen.append((self.path, self.headers.get("Metadata")))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def shared_tpm(tmp_path_factory, issuer, cpu):
    """Of a confidential machine: the firmware's report names its attestation key. issuer and cpu: fixtures of who imports this."""
    tpm = Tpm(tmp_path_factory.mktemp("t"), issuer)
    tpm.boot(GOOD)
    tpm.write_nv(NV, cpu.hcl(tpm.ak))
    yield tpm
    tpm.off()
