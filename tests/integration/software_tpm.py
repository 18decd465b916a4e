# SPDX-License-Identifier: Apache-2.0
"""A TPM as Azure provisions one, by swtpm: an RSA attestation key at 0x81000003, its certificate by a CA of the test at NV 0x01C101D0. Speaks
to it in raw commands of its own, so that the product's are checked by another's. A boot starts with PCRs of zeros and extends them."""

import base64
import datetime
import hashlib
import hmac
import pathlib
import shutil
import socket
import struct
import subprocess

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tbsys import wait_for

AK, CERT = 0x81000003, 0x01C101D0
OWNER, ENDORSEMENT, PASSWORD = 0x40000001, 0x4000000B, 0x40000009
SHA256, NULL, RSA, RSASSA, ECC = 0x000B, 0x0010, 0x0001, 0x0014, 0x0023
KEY_ATTRIBUTES = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 17  # fixedTPM, stClear, fixedParent, sensitiveDataOrigin, noDA, decrypt
AK_ATTRIBUTES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 16 | 1 << 18  # fixedTPM, fixedParent, ..., restricted, sign
AIK_USAGE = ObjectIdentifier("2.23.133.8.3")


def digest(text):
    return hashlib.sha256(text.encode()).digest()


def two_b(data):
    return struct.pack(">H", len(data)) + data


class Refused(Exception):
    def __init__(self, code):
        super().__init__(hex(code))
        self.code = code


def authority(name, days=3650, key=None, parent=None):
    """A CA: (certificate, key)."""
    key = key or rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(subject).issuer_name(parent[0].subject if parent else subject).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days)).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(parent[1] if parent else key, hashes.SHA256()))
    return cert, key


def pem(*certs):
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certs)


class Tpm:
    """The TPM of one machine; its state outlives its boots."""

    def __init__(self, directory, issuer, name="machine", usage=(AIK_USAGE,), start=None, end=None, ak_attributes=AK_ATTRIBUTES):
        self.dir, self.name = pathlib.Path(directory) / name, name
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self.path = self.dir / "s"  # short: a socket's path holds 107 bytes
        self.proc = None
        self.boot({})
        try:
            self._provision(issuer, usage, start, end, ak_attributes)
        finally:
            self.off()

    def command(self, code, body, sessions=True):
        message = struct.pack(">HII", 0x8002 if sessions else 0x8001, 10 + len(body), code) + body
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(120)
            s.connect(str(self.path))
            s.sendall(message)
            answer = b""
            while len(answer) < 10 or len(answer) < struct.unpack(">I", answer[2:6])[0]:
                answer += s.recv(4096) or b"\xff" * 10
        result = struct.unpack(">I", answer[6:10])[0]
        if result:
            raise Refused(result)
        return answer[10:]

    @staticmethod
    def password(handle=PASSWORD):
        return struct.pack(">IIHBH", 9, handle, 0, 1, 0)

    def boot(self, events):
        """events: {PCR: [digests]}, as the firmware and the boot measure them."""
        assert self.proc is None
        self.proc = subprocess.Popen(["swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate", f"dir={self.dir}",
                                      "--server", f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,path={self.path}.c"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens, 20, "swtpm")
        for pcr, digests in events.items():
            for d in digests:
                self.extend(pcr, d)
        return self

    def _listens(self):
        with socket.socket(socket.AF_UNIX) as s:
            return s.connect_ex(str(self.path)) == 0

    def off(self):
        if self.proc:
            self.proc.terminate()
            self.proc.wait(20)
            self.proc = None
            self.path.unlink(missing_ok=True)

    def reboot(self, events):
        self.off()
        return self.boot(events)

    def extend(self, pcr, value):
        self.command(0x182, struct.pack(">I", pcr) + self.password() + struct.pack(">IH", 1, SHA256) + value)

    def pcr(self, n):
        mask = (1 << n).to_bytes(3, "little")
        return self.command(0x17E, struct.pack(">IHB", 1, SHA256, 3) + mask, sessions=False)[-32:]

    def boot_key(self, pcrs, policy=None):
        """The key of this boot, as anybody may make it: (handle, public area)."""
        mask = sum(1 << n for n in pcrs).to_bytes(3, "little")
        used = hashlib.sha256(b"".join(self.pcr(n) for n in sorted(pcrs))).digest()
        policy = policy if policy is not None else hashlib.sha256(b"\0" * 32 + struct.pack(">IIHB", 0x17F, 1, SHA256, 3) + mask + used).digest()
        public = struct.pack(">HHI", ECC, SHA256, KEY_ATTRIBUTES) + two_b(policy) + struct.pack(">HHHH", NULL, NULL, 0x0003, NULL) + two_b(b"") * 2
        body = struct.pack(">I", 0x40000007) + self.password() + two_b(struct.pack(">HH", 0, 0)) + two_b(public) + two_b(b"") + struct.pack(">I", 0)
        answer = self.command(0x131, body)
        size = struct.unpack(">H", answer[8:10])[0]
        return struct.unpack(">I", answer[:4])[0], answer[10:10 + size]

    def ecdh(self, handle, pcrs, point):
        """x of key * point, by a session that the PCRs open."""
        answer = self.command(0x176, struct.pack(">II", 0x40000007, 0x40000007) + two_b(b"\0" * 16) + two_b(b"")
                              + struct.pack(">BHH", 1, NULL, SHA256), sessions=False)
        session = struct.unpack(">I", answer[:4])[0]
        try:
            mask = sum(1 << n for n in pcrs).to_bytes(3, "little")
            self.command(0x17F, struct.pack(">I", session) + two_b(b"") + struct.pack(">IHB", 1, SHA256, 3) + mask, sessions=False)
            body = struct.pack(">I", handle) + self.password(session) + two_b(two_b(point[1:33]) + two_b(point[33:]))
            answer = self.command(0x154, body)
        finally:
            self.flush(session)
        n = struct.unpack(">H", answer[6:8])[0]
        return answer[8:8 + n].rjust(32, b"\0")

    def flush(self, handle):
        self.command(0x165, struct.pack(">I", handle), sessions=False)

    def unwrap(self, wrapped, info):
        """What was sealed to this boot."""
        pcrs, enc, ct = wrapped["pcrs"], base64.b64decode(wrapped["enc"]), base64.b64decode(wrapped["ct"])
        handle, area = self.boot_key(pcrs)
        try:
            return hpke_open(self.ecdh(handle, pcrs, enc), enc, self.point(area), info, ct)
        finally:
            self.flush(handle)

    @staticmethod
    def point(area):
        return b"\4" + area[-66:-34] + area[-32:]

    def boot_point(self, pcrs):
        handle, area = self.boot_key(pcrs)
        self.flush(handle)
        return self.point(area)

    def _provision(self, issuer, usage, start, end, attributes):
        public = struct.pack(">HHI", RSA, SHA256, attributes) + two_b(b"")
        public += struct.pack(">HHHHI", NULL, RSASSA, SHA256, 2048, 0) + two_b(b"")
        body = struct.pack(">I", ENDORSEMENT) + self.password() + two_b(struct.pack(">HH", 0, 0)) + two_b(public) + two_b(b"") + struct.pack(">I", 0)
        answer = self.command(0x131, body)
        handle = struct.unpack(">I", answer[:4])[0]
        size = struct.unpack(">H", answer[8:10])[0]
        area = answer[10:10 + size]
        self.ak_public = area
        self.command(0x120, struct.pack(">II", OWNER, handle) + self.password() + struct.pack(">I", AK))  # EvictControl
        self.command(0x165, struct.pack(">I", handle), sessions=False)
        modulus = int.from_bytes(area[-256:], "big")
        self.ak = rsa.RSAPublicNumbers(65537, modulus).public_key()
        self.certificate = self._certificate(issuer, usage, start, end)
        self.write_certificate(self.certificate.public_bytes(serialization.Encoding.DER))

    def _certificate(self, issuer, usage, start, end):
        now = datetime.datetime.utcnow()
        b = (x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{self.name}.TrustedVM.test")]))
             .issuer_name(issuer[0].subject).public_key(self.ak).serial_number(x509.random_serial_number())
             .not_valid_before(start or now - datetime.timedelta(days=1)).not_valid_after(end or now + datetime.timedelta(days=300)))
        if usage:
            b = b.add_extension(x509.ExtendedKeyUsage(usage), False)
        return b.sign(issuer[1], hashes.SHA256())

    def write_nv(self, index, data):
        attributes = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18  # owner and auth, read and write
        public = struct.pack(">IHI", index, SHA256, attributes) + two_b(b"") + struct.pack(">H", len(data))
        self.command(0x12A, struct.pack(">I", OWNER) + self.password() + two_b(b"") + two_b(public))  # NV_DefineSpace
        for at in range(0, len(data), 512):
            self.command(0x137, struct.pack(">II", OWNER, index) + self.password() + two_b(data[at:at + 512]) + struct.pack(">H", at))

    def forget_nv(self, index):
        self.command(0x122, struct.pack(">II", OWNER, index) + self.password())

    def write_certificate(self, der):
        self.write_nv(CERT, der)

    def forget_certificate(self):
        self.forget_nv(CERT)

    def forget_key(self):
        self.command(0x120, struct.pack(">II", OWNER, AK) + self.password() + struct.pack(">I", AK))


def hpke_schedule(z, enc, public, info):
    """RFC 9180, mode base, DHKEM(P-256), HKDF-SHA256, AES-256-GCM: key and nonce of the first message."""
    def extract(suite, salt, label, ikm):
        return hmac.new(salt or b"\0" * 32, b"HPKE-v1" + suite + label + ikm, hashlib.sha256).digest()

    def expand(suite, prk, label, info, n):
        return hmac.new(prk, struct.pack(">H", n) + b"HPKE-v1" + suite + label + info + b"\1", hashlib.sha256).digest()[:n]
    kem, suite = b"KEM\0\x10", b"HPKE\0\x10\0\1\0\2"
    shared = expand(kem, extract(kem, b"", b"eae_prk", z), b"shared_secret", enc + public, 32)
    context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, shared, b"secret", b"")
    return expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)


def hpke_open(z, enc, public, info, ct):
    key, nonce = hpke_schedule(z, enc, public, info)
    return AESGCM(key).decrypt(nonce, ct, None)


def hpke_seal(public, info, text):
    """(enc, ct): the other side, written from the RFC as well."""
    own = ec.generate_private_key(ec.SECP256R1())
    enc = own.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    z = own.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public))
    key, nonce = hpke_schedule(z, enc, public, info)
    return enc, AESGCM(key).encrypt(nonce, text, None)


def wrapped_credential(public, info, key, pcrs):
    """The credential model-key, as tb-authorize releases one that is sealed."""
    enc, ct = hpke_seal(public, info, key)
    return b"TBWK0001" + struct.pack(">I", sum(1 << n for n in pcrs)) + enc + ct


def key_info(contract, asset, manifest):
    text = b"trustbridge model key v1\0"
    for name in (contract, asset, manifest or "none"):
        text += two_b(name.encode())
    return text


GOOD = {4: [digest("uki")], 7: [digest("secure boot")], 11: [digest("section"), digest("phase")]}
EVIL = {**GOOD, 4: [digest("another loader")]}
