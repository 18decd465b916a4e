# SPDX-License-Identifier: Apache-2.0
"""A machine that enrols, written from docs/contracts.md alone."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

JSON = {"Content-Type": "application/json"}


class Machine:
    """A key, and the certificate that the control plane gave for it."""

    def __init__(self, directory, name="machine", key=None):
        directory.mkdir(exist_ok=True)
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.cert_file, self.key_file = directory / f"{name}.crt", directory / f"{name}.key"
        self.key_file.write_bytes(self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                         serialization.NoEncryption()))

    def csr(self, subject="whatever", digest=hashes.SHA256()):
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        rq = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(self.key, digest)
        return rq.public_bytes(serialization.Encoding.PEM).decode()

    def take(self, answer):
        status, body, _ = answer
        if status == 200:
            self.cert_file.write_text(body["certificate"])
            self.id = body["machine_id"]
            self.certificate = x509.load_pem_x509_certificate(body["certificate"].encode())
        return status, body

    def enrol(self, server, contract, code, csr=None):
        return self.take(server.call("POST", "/api/v1/machines/enrol",
                                     {"contract_id": contract, "code": code, "csr": csr or self.csr()}, JSON))

    def renew(self, server, csr=None, cert=True):
        return self.take(server.call("POST", "/api/v1/machines/renew", {"csr": csr or self.csr()}, JSON,
                                     **({"cert": self.pair} if cert else {})))

    @property
    def pair(self):
        return str(self.cert_file), str(self.key_file)

    def authorize(self, server, contract, **kw):
        return server.authorize(contract, cert=self.pair, **kw)
