# SPDX-License-Identifier: Apache-2.0
"""The key of a measured machine's state (tb-statekey): who gets it, and who does not. Policies and signatures are made here by other code
than the product's."""

import base64
import hashlib
import json
import struct
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from software_tpm import Tpm, authority, digest
from tbsys import program

PCRS = [4, 11, 12, 13, 14]
NONCE = "00112233445566778899aabbccddeeff"
IMAGE = {4: [digest("uki one")], 7: [digest("keys")], 11: [digest("section one"), digest("enter-initrd"), digest("leave-initrd")]}
NEXT = {4: [digest("uki two")], 7: [digest("keys")], 11: [digest("section two"), digest("enter-initrd"), digest("leave-initrd")]}


@pytest.fixture(scope="module")
def tpm(tmp_path_factory):
    t = Tpm(tmp_path_factory.mktemp("t"), authority("CA"))
    yield t
    t.off()


@pytest.fixture(scope="module")
def other_tpm(tmp_path_factory):
    t = Tpm(tmp_path_factory.mktemp("u"), authority("CA"), "other")
    yield t
    t.off()


@pytest.fixture(scope="module")
def maker():
    return rsa.generate_private_key(65537, 2048)


def value(events, pcr):
    v = b"\0" * 32
    for d in events.get(pcr, ()):
        v = hashlib.sha256(v + d).digest()
    return v


def policy(events, pcrs):
    mask = sum(1 << n for n in pcrs).to_bytes(3, "little")
    used = hashlib.sha256(b"".join(value(events, n) for n in sorted(pcrs))).digest()
    return hashlib.sha256(b"\0" * 32 + struct.pack(">IIHB", 0x17F, 1, 0x000B, 3) + mask + used).digest()


def approval(key, *boots, pcrs=PCRS):
    made = [policy(events, pcrs) for events in boots]
    return {"format": "trustbridge-approval/v1", "pcrs": list(pcrs),
            "approved": [{"policy": p.hex(), "signature": base64.b64encode(key.sign(p, padding.PKCS1v15(), hashes.SHA256())).decode()}
                         for p in made]}


class Machine:
    def __init__(self, directory, tpm, events, key, document):
        self.dir, self.tpm = directory, tpm
        tpm.off()
        tpm.boot(events)
        public = key if isinstance(key, bytes) else key.public_key().public_bytes(serialization.Encoding.PEM,
                                                                                 serialization.PublicFormat.SubjectPublicKeyInfo)
        (directory / "signer.pem").write_bytes(public)
        (directory / "approvals").write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())

    def ask(self, purpose="cipher", nonce=NONCE, *more):
        return subprocess.run([program("tb-statekey"), "--tpm", self.tpm.path, "--signer", self.dir / "signer.pem", "--approvals",
                               self.dir / "approvals", *more, purpose, nonce], capture_output=True, timeout=120)

    def key(self, *words):
        r = self.ask(*words)
        assert r.returncode == 0, r.stderr
        assert len(r.stdout) == 64
        return r.stdout

    def refused(self, rc, text):
        r = self.ask()
        assert (r.returncode, r.stdout) == (rc, b""), r.stderr
        assert text in r.stderr.decode()


def test_the_same_in_each_approved_boot(tmp_path, tpm, maker):
    first = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE)).key()
    assert Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE)).key() == first
    assert Machine(tmp_path, tpm, NEXT, maker, approval(maker, NEXT)).key() == first, "the next image of the same maker"
    assert Machine(tmp_path, tpm, NEXT, maker, approval(maker, IMAGE, NEXT)).key() == first, "one of several"


def test_each_purpose_and_volume_has_its_own(tmp_path, tpm, maker):
    m = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE))
    keys = {m.key(purpose, nonce) for purpose in ("mark", "cipher", "integrity") for nonce in (NONCE, "f" * 32)}
    assert len(keys) == 6
    assert len({k[i:i + 32] for k in keys for i in (0, 32)}) == 12
    hexed = m.ask("mark", NONCE, "--hex")
    assert bytes.fromhex(hexed.stdout.decode().strip()) == m.key("mark")


def test_another_machine_has_another(tmp_path, tpm, other_tpm, maker):
    first = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE)).key()
    assert Machine(tmp_path, other_tpm, IMAGE, maker, approval(maker, IMAGE)).key() != first


def test_another_maker_has_another(tmp_path, tpm, maker):
    """His image brings his key, and what that signed."""
    first = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE)).key()
    other = rsa.generate_private_key(65537, 2048)
    assert Machine(tmp_path, tpm, NEXT, other, approval(other, NEXT)).key() != first


NOT_APPROVED = {
    "another image": NEXT,
    "nothing measured": {},
    "PCR 11 played by another loader": {**IMAGE, 4: [digest("my loader")]},
    "the loader after the image": {**IMAGE, 4: [*IMAGE[4], digest("more")]},
    "an earlier phase": {**IMAGE, 11: IMAGE[11][:2]},
    "a later phase": {**IMAGE, 11: [*IMAGE[11], digest("sysinit")]},
    "an add-on": {**IMAGE, 12: [digest("addon")]},
    "a system extension": {**IMAGE, 13: [digest("sysext")]},
    "owner's keys": {**IMAGE, 14: [digest("mok")]},
}


@pytest.mark.parametrize("boot", NOT_APPROVED)
def test_not_in_another_boot(tmp_path, tpm, maker, boot):
    Machine(tmp_path, tpm, NOT_APPROVED[boot], maker, approval(maker, IMAGE)).refused(77, "approved no boot with these measurements")


@pytest.mark.parametrize("boot", NOT_APPROVED)
def test_not_by_the_tpm_either(tmp_path, tpm, maker, boot):
    """Whoever has root there asks the TPM by a program of his own: a right policy that he signed himself under the maker's key."""
    events = NOT_APPROVED[boot]
    forged = approval(rsa.generate_private_key(65537, 2048), events)
    r = Machine(tmp_path, tpm, events, maker, forged).ask()
    assert (r.returncode, r.stdout) == (74, b"")
    assert "checking the signature of the policy" in r.stderr.decode()


BARE = {**IMAGE, 2: [digest("separator")]}


@pytest.mark.parametrize("pcr2", [[digest("a driver"), digest("separator")], [], [digest("separator"), digest("a driver")]], ids=["driver", "nothing", "late"])
def test_not_where_the_firmware_loaded_a_driver(tmp_path, tpm, maker, pcr2):
    """Where the image was made for machines without: the driver runs before it, and all that is measured of the image is as it should be."""
    document, boot = approval(maker, BARE, pcrs=[2, *PCRS]), {**IMAGE, 2: pcr2}
    assert Machine(tmp_path, tpm, BARE, maker, document).key() == Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE)).key(), "the key is the maker's"
    Machine(tmp_path, tpm, boot, maker, document).refused(77, "approved no boot with these measurements")
    lie = {**document, "pcrs": PCRS}
    Machine(tmp_path, tpm, boot, maker, lie).refused(77, "approved no boot with these measurements")
    lie["approved"] = [{**document["approved"][0], "policy": policy(boot, PCRS).hex()}]
    Machine(tmp_path, tpm, boot, maker, lie).refused(74, "checking the signature")


def test_a_signature_of_another_policy(tmp_path, tpm, maker):
    document = approval(maker, NEXT)
    document["approved"][0]["policy"] = policy(IMAGE, PCRS).hex()
    Machine(tmp_path, tpm, IMAGE, maker, document).refused(74, "checking the signature")


def test_other_registers_than_those_signed(tmp_path, tpm, maker):
    document = approval(maker, IMAGE)
    document["pcrs"] = [7, 11]
    Machine(tmp_path, tpm, IMAGE, maker, document).refused(77, "approved no boot")


def flip(document):
    text = bytearray(base64.b64decode(document["approved"][0]["signature"]))
    text[100] ^= 1
    document["approved"][0]["signature"] = base64.b64encode(bytes(text)).decode()


MALFORMED = {
    "empty": b"",
    "zeros": b"\0" * 8192,
    "no JSON": b"policy",
    "another format": lambda d: d.update(format="trustbridge-approval/v2"),
    "no registers": lambda d: d.update(pcrs=[]),
    "a register that anybody resets": lambda d: d.update(pcrs=[4, 11, 16]),
    "a register twice": lambda d: d.update(pcrs=[4, 4]),
    "a register that is none": lambda d: d.update(pcrs=[-1]),
    "a register of words": lambda d: d.update(pcrs=["4"]),
    "half a register": lambda d: d.update(pcrs=[4.5]),
    "nothing approved": lambda d: d.update(approved=[]),
    "too much approved": lambda d: d.update(approved=d["approved"] * 9),
    "no list": lambda d: d.update(approved="all"),
    "no policy": lambda d: d["approved"][0].pop("policy"),
    "short policy": lambda d: d["approved"][0].update(policy="00"),
    "no signature": lambda d: d["approved"][0].pop("signature"),
    "short signature": lambda d: d["approved"][0].update(signature="AAAA"),
    "long signature": lambda d: d["approved"][0].update(signature="A" * 1368),
}


@pytest.mark.parametrize("how", MALFORMED)
def test_malformed(tmp_path, tpm, maker, how):
    document = approval(maker, IMAGE)
    change = MALFORMED[how]
    if callable(change):
        change(document)
    else:
        document = change
    r = Machine(tmp_path, tpm, IMAGE, maker, document).ask()
    assert (r.returncode, r.stdout) == (76, b"")
    assert r.stderr.decode().startswith(f"tb-statekey: {tmp_path}/approvals: "), r.stderr


def test_one_bit_of_the_signature(tmp_path, tpm, maker):
    document = approval(maker, IMAGE)
    flip(document)
    Machine(tmp_path, tpm, IMAGE, maker, document).refused(74, "checking the signature")


def test_a_partition_has_zeros_behind_it(tmp_path, tpm, maker):
    text = json.dumps(approval(maker, IMAGE)).encode()
    assert len(Machine(tmp_path, tpm, IMAGE, maker, text.ljust(1 << 20, b"\0")).key()) == 64
    Machine(tmp_path, tpm, IMAGE, maker, text.ljust(4096, b"\0") + b"x").key()


SIGNERS = {
    "EC": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RSA 3072": lambda: rsa.generate_private_key(65537, 3072),
    "exponent 3": lambda: rsa.generate_private_key(3, 2048),
    "no key": lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    "empty": lambda: b"",
}


@pytest.mark.parametrize("kind", SIGNERS)
def test_signers_of_another_kind(tmp_path, tpm, maker, kind):
    Machine(tmp_path, tpm, IMAGE, SIGNERS[kind](), approval(maker, IMAGE)).refused(76, "not a public key of RSA with 2048 bits")


def test_what_is_missing(tmp_path, tpm, maker):
    m = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE))
    (tmp_path / "approvals").unlink()
    m.refused(66, "approvals: No such file")
    (tmp_path / "signer.pem").unlink()
    m.refused(66, "signer.pem: No such file")


def test_no_tpm(tmp_path, tpm, maker):
    m = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE))
    tpm.off()
    m.refused(74, "not there; choose a machine with a virtual TPM")


@pytest.mark.parametrize("words", [(), ("cipher",), ("all", NONCE), ("cipher", NONCE[:31]), ("cipher", NONCE + "0"), ("cipher", "G" * 32),
                                   ("cipher", NONCE, "more"), ("--tpm",), ("--wrong", "cipher", NONCE)])
def test_usage(words):
    r = subprocess.run([program("tb-statekey"), *words], capture_output=True, text=True)
    assert (r.returncode, r.stdout) == (64, "")
    assert r.stderr.startswith("tb-statekey: ") and len(r.stderr.splitlines()) == 1


def test_nothing_is_left_in_the_tpm(tmp_path, tpm, maker):
    m = Machine(tmp_path, tpm, IMAGE, maker, approval(maker, IMAGE))
    for _ in range(4):
        m.key()
    for kind in (0x80, 0x02, 0x03):  # transient objects, sessions that are loaded or saved
        answer = tpm.command(0x17A, struct.pack(">III", 1, kind << 24, 10), sessions=False)  # GetCapability of handles
        assert struct.unpack(">I", answer[5:9])[0] == 0, hex(kind)
