# SPDX-License-Identifier: Apache-2.0
"""A stand-in for an instance of Microsoft Azure Attestation: POST /attest/SevSnpVm and GET /certs, by Microsoft's descriptions of both. It is strict: what
the real one could not make sense of, it refuses, and what it says of a report it has checked: the chain, the signature, and the runtime data. That the real one
says the same of a machine of Azure's is not shown by it."""

import base64
import datetime
import hashlib
import json
import struct
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.x509.oid import NameOID

from snp_rig import DEBUG, MIGRATION, certificates
from token_issuer import Key, TokenIssuer


def unb64(text):
    assert text.isascii() and not set(text) & set("=+/"), text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def certified(key):
    """As the real one gives its keys: a certificate, and no numbers."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "instance")])
    now = datetime.datetime.utcnow()
    der = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.private.public_key()).serial_number(1)
           .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9)).sign(key.private, hashes.SHA256())
           .public_bytes(serialization.Encoding.DER))
    return {"kty": "RSA", "kid": key.kid, "x5c": [base64.b64encode(der).decode()]}


class Maa(TokenIssuer):
    """certs_status, attest_status: what to answer instead of 200; reply: instead of a token; change: claims that are others, None: missing."""

    def __init__(self, amd, *keys, tls=None):
        self.amd, self.change, self.header = amd, {}, {}
        self.certs_status = self.attest_status = self.reply = self.shape = None
        super().__init__(*(keys or [Key("J0pAPdfX+/=")]), tls=tls)

    def answer(self, method, path, headers, body):
        if method == "GET":
            return self.certs_status or (200 if path == "/certs" else 404), {"keys": [certified(k) for k in self.keys]}
        try:
            assert path == "/attest/SevSnpVm?api-version=2022-08-01" and headers["Content-Type"] == "application/json", path
            answer = {"token": self.attest(json.loads(body))}
        except Exception as e:
            return 400, {"error": {"code": "InvalidParameter", "message": f"{type(e).__name__}: {e}"}}
        return self.attest_status or 200, answer if self.reply is None else self.reply

    def attest(self, question):
        assert set(question) == {"report", "runtimeData", "nonce"} and question["runtimeData"]["dataType"] == "JSON"
        inner = json.loads(unb64(question["report"]))
        assert set(inner) == {"SnpReport", "VcekCertChain"}
        report, runtime = unb64(inner["SnpReport"]), unb64(question["runtimeData"]["data"])
        vcek, ask, ark = certificates(unb64(inner["VcekCertChain"]))
        assert {ask, ark} == {self.amd.ask[0], self.amd.ark[0]}, "the chain ends elsewhere"
        ask.public_key().verify(vcek.signature, vcek.tbs_certificate_bytes, padding.PKCS1v15(), hashes.SHA256())
        assert len(report) == 1184
        r, s = (int.from_bytes(report[at:at + 72], "little") for at in (0x2A0, 0x2A0 + 72))
        vcek.public_key().verify(utils.encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(hashes.SHA384()))
        assert report[0x50:0x90] == hashlib.sha256(runtime).digest().ljust(64, b"\0"), "the report is not for this runtime data"
        return self.token(self.claims(report, json.loads(runtime), question["nonce"]))

    def claims(self, report, runtime, nonce):
        policy, (vmpl,) = struct.unpack_from("<Q", report, 8)[0], struct.unpack_from("<I", report, 0x30)
        now = int(time.time())
        tee = {"x-ms-attestation-type": "sevsnpvm", "x-ms-compliance-status": "azure-compliant-cvm", "x-ms-runtime": runtime,
               "x-ms-sevsnpvm-bootloader-svn": report[0x180], "x-ms-sevsnpvm-tee-svn": report[0x181], "x-ms-sevsnpvm-snpfw-svn": report[0x186],
               "x-ms-sevsnpvm-microcode-svn": report[0x187], "x-ms-sevsnpvm-idkeydigest": report[0xE0:0x110].hex(),
               "x-ms-sevsnpvm-is-debuggable": bool(policy & DEBUG), "x-ms-sevsnpvm-migration-allowed": bool(policy & MIGRATION), "x-ms-sevsnpvm-vmpl": vmpl,
               "x-ms-sevsnpvm-reportdata": report[0x50:0x90].hex(), "x-ms-sevsnpvm-launchmeasurement": report[0x90:0xC0].hex(), "x-ms-ver": "1.0"}
        outer = {"iss": self.url, "iat": now, "nbf": now, "exp": now + 8 * 3600, "jti": nonce[:16], "x-ms-policy-hash": "p"}
        changed = lambda d: {k: v for k, v in {**d, **{k: v for k, v in self.change.items() if k in d}}.items() if v is not None}  # noqa: E731
        if self.shape == "guest":  # as Azure's guest attestation has it
            inner = {"keys": [{"kid": "TpmEphemeralEncryptionKey"}], "client-payload": {"nonce": base64.b64encode(nonce.encode()).decode()}}
            return {**changed({**outer, "x-ms-attestation-type": "azurevm", "x-ms-runtime": inner}), "x-ms-attestation-type": "azurevm", "x-ms-runtime": inner,
                    "x-ms-isolation-tee": changed(tee)}
        return changed({**outer, "nonce": nonce, **tee})

    def token(self, claims, key=None):
        key = key or self.keys[0]
        return self.signed({"alg": "RS256", "jku": self.url + "/certs", "kid": key.kid, "typ": "JWT", **self.header}, claims, key)
