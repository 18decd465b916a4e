# SPDX-License-Identifier: Apache-2.0
"""tb-configure --check: no secret is repeated, and what is said of certificates, keys and who may read them."""

import datetime
import os
import pathlib
import subprocess

import pytest
from configure_place import base, run, settings  # noqa: F401
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


# -- secrets ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("line", [
    "TB_API_KEYS=S3CRET", "TB_TLS_KEY=S3CRET", "TB_CLIENT_KEY_PATH=S3CRET", "TB_API_KEY=S3CRET", "S3CRET", "S3CRET more", "export S3CRET",
    "TB_EDC_ENDPOINT=https://me:S3CRET@cp.example", "TB_EDC_ENDPOINT=https://cp.example?sig=S3CRET", "TB_RUNTIME_EXEC=/opt/nowhere --api-key S3CRET",
    'TB_RUNTIME_EXEC="/opt/nowhere --api-key S3CRET', "TB_RUNTIME_EXEC=/opt/nowhere 'S3CRET", "TB_RUNTIME_EXEC=\u201cS3CRET\u201d",
])
def test_no_secret_is_repeated(settings, line):
    settings.path.write_text(line + "\n")
    for how in ((), ("--json",)):
        r = run("--check", *how, "--run-dir", settings.run_dir, settings.path)
        assert r.returncode == 78 and "S3CRET" not in r.stdout + r.stderr


# -- certificates and keys ----------------------------------------------------------------------------------------------

class Pki:
    """An authority, an issuer below it and certificates of that, one after the other."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.ca_key, self.ca = self.make("ca")
        self.issuer_key, self.issuer = self.make("issuer", self.ca, self.ca_key, ca=True)

    def make(self, name, issuer=None, issuer_key=None, ca=False, days=(-1, 365), san=("api.example.com",)):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject if issuer else subject).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(now + datetime.timedelta(days=days[0]))
                   .not_valid_after(now + datetime.timedelta(days=days[1]))
                   .add_extension(x509.BasicConstraints(ca or issuer is None, None), True))
        if san and issuer and not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in san]), False)
        return key, builder.sign(issuer_key or key, hashes.SHA256())

    def leaf(self, **kw):
        return self.make("leaf", self.issuer, self.issuer_key, **kw)

    def write(self, name, *things, mode=0o600, password=None):
        path, data = self.tmp / name, b""
        for t in things:
            if isinstance(t, bytes):
                data += t
            elif isinstance(t, x509.Certificate):
                data += t.public_bytes(serialization.Encoding.PEM)
            else:
                how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
                data += t.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
        path.write_bytes(data)
        path.chmod(mode)
        return path


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


PAIRS = [("TB_TLS_CERT", "TB_TLS_KEY"), ("TB_CLIENT_CERT_PATH", "TB_CLIENT_KEY_PATH")]


def of_pair(settings, cert_name, key_name, cert, key):
    """{(level, setting): message}, but for what is said of a place that units do not see."""
    found = settings.one(f"{cert_name}={cert}\n{key_name}={key}")
    return {x[1:3]: x[3] for x in found if "the units do not see" not in x[3]}


@pytest.mark.parametrize("names", PAIRS, ids=["server", "client"])
def test_a_pair(settings, pki, names):
    cert_name, key_name = names
    key, cert = pki.leaf()
    good = pki.write("cert", cert, pki.issuer), pki.write("key", key)
    other = pki.write("other", pki.leaf()[0])

    def said(cert=good[0], key=good[1]):
        return of_pair(settings, *names, cert, key)

    assert said() == {}
    assert "is not the key of the certificate" in said(key=other)["error", key_name]
    locked = pki.write("locked", key, password=b"x")
    assert "is encrypted" in said(key=locked)["error", key_name] and "openssl pkey" in said(key=locked)["error", key_name]
    assert "damaged" in said(cert=pki.write("cut", cert.public_bytes(serialization.Encoding.PEM)[:300]))["error", cert_name]
    assert "not a private key" in said(key=pki.write("cutkey", good[1].read_bytes()[:80]))["error", key_name]
    assert "is empty" in said(cert=pki.write("empty"))["error", cert_name]
    assert "mixed up" in said(cert=good[1], key=good[0])["error", cert_name] and "mixed up" in said(cert=good[1], key=good[0])["error", key_name]
    assert "DER" in said(cert=pki.write("der", cert.public_bytes(serialization.Encoding.DER)))["error", cert_name]
    assert "put this certificate first" in said(cert=pki.write("order", pki.issuer, cert))["error", cert_name]
    assert "not the issuer" in said(cert=pki.write("chain", cert, pki.ca, pki.issuer))["warning", cert_name]
    assert "everybody" in said(key=pki.write("open", key, mode=0o644))["warning", key_name]
    link = pki.tmp / "link"
    link.unlink(missing_ok=True)
    link.symlink_to("/nowhere/key.pem")
    assert "a link to /nowhere/key.pem" in said(key=link)["error", key_name]


@pytest.mark.parametrize("days,said", [((-10, -1), "expired on"), ((1, 10), "is not valid before"), ((-1, 3), "expires on")])
def test_dates_are_warnings(settings, pki, days, said):
    key, cert = pki.leaf(days=days)
    found = of_pair(settings, *PAIRS[0], pki.write("dated", cert), pki.write("dated.key", key))
    assert list(found) == [("warning", "TB_TLS_CERT")] and said in found["warning", "TB_TLS_CERT"]


def test_names_of_the_server_are_noted(settings, pki):
    key, cert = pki.leaf(san=("api.example.com", "*.example.org"))
    _, found = settings.check("\n".join(base(TB_TLS_CERT=pki.write("named", cert), TB_TLS_KEY=pki.write("named.key", key))) + "\n")
    assert ("note", "TB_TLS_CERT") in [x[1:3] for x in found] and "api.example.com, *.example.org" in str(found)
    key, cert = pki.leaf(san=())
    assert "subjectAltName" in of_pair(settings, *PAIRS[0], pki.write("nameless", cert), pki.write("nameless.key", key))["warning", "TB_TLS_CERT"]


def test_authorities(settings, pki):
    def said(path):
        return {x[1:3]: x[3] for x in settings.one(f"TB_CA_FILE={path}") if "the units do not see" not in x[3]}

    assert said(pki.write("ca", pki.ca, pki.issuer)) == {}
    assert said("/etc/ssl/certs/ca-certificates.crt") == {}
    assert "is empty" in said(pki.write("ca.empty"))["error", "TB_CA_FILE"]
    assert "certificate 2 in it is damaged" in said(pki.write("ca.cut", pki.ca, pki.issuer.public_bytes(serialization.Encoding.PEM)[:200]))["error", "TB_CA_FILE"]
    assert "not one of an authority" in said(pki.write("ca.leaf", pki.leaf()[1]))["warning", "TB_CA_FILE"]
    assert "expired" in said(pki.write("ca.old", pki.make("old", days=(-9, -1))[1]))["warning", "TB_CA_FILE"]


@pytest.mark.parametrize("text,level,said", [
    ("ci:" + "0" * 64 + " rpm=60\n", None, ""), ("", "warning", "holds no key"), ("# none\n", "warning", "holds no key"),
    ("ci:" + "0" * 63 + "\n", "error", "line 1 is not name:sha256 with 64 hex digits"), ("\nS3CRET\n", "error", "line 2 is not name:sha256"),
    ("a:" + "0" * 64 + " rpm=x\n", "error", "line 1 has an invalid limit"),
], ids=["right", "empty", "comments", "short", "bare", "limit"])
def test_api_keys(settings, tmp_path, text, level, said):
    keys = tmp_path / "keys"
    keys.write_text(text)
    found = [x for x in settings.one(f"TB_API_KEYS={keys}") if "the units do not see" not in x[3]]
    assert [x[1:3] for x in found] == ([(level, "TB_API_KEYS")] if level else [])
    assert said in str(found) and "S3CRET" not in str(found)


# -- who may read -------------------------------------------------------------------------------------------------------

@pytest.fixture
def daemon_user():
    """tb-proxy, whom the packages make."""
    made = subprocess.run(["useradd", "--system", "--no-create-home", "tb-proxy"], capture_output=True).returncode == 0
    yield "tb-proxy"
    if made:
        subprocess.run(["userdel", "tb-proxy"], check=True, capture_output=True)


def test_files_that_the_program_s_user_cannot_read(settings, tmp_path_factory, daemon_user):
    place = pathlib.Path("/srv") / f"tb-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        keys = place / "keys"
        keys.write_text("ci:" + "0" * 64 + "\n")
        keys.chmod(0o600)
        found = settings.one(f"TB_API_KEYS={keys}")
        assert [x[1:3] for x in found] == [("error", "TB_API_KEYS")] and f"user {daemon_user}, who needs it, may not read it" in found[0][3]
        keys.chmod(0o644)
        assert settings.one(f"TB_API_KEYS={keys}") == []
        place.chmod(0o700)
        found = settings.one(f"TB_API_KEYS={keys}")
        assert [x[1:3] for x in found] == [("error", "TB_API_KEYS")] and f"may not enter {place}" in found[0][3]
    finally:
        keys.unlink()
        place.rmdir()


def test_places_that_units_do_not_see(settings, tmp_path):
    keys = tmp_path / "keys"  # below /tmp
    keys.write_text("ci:" + "0" * 64 + "\n")
    found = settings.one(f"TB_API_KEYS={keys}")
    assert [x[1:3] for x in found] == [("warning", "TB_API_KEYS")] and "the units do not see /tmp/" in found[0][3]


def test_credentials_are_looked_for_where_systemd_takes_them_from(settings):
    found = settings.one("TB_API_KEYS=/run/credentials/tb-proxy.service/no-such-keys")
    assert [x[1:3] for x in found] == [("error", "TB_API_KEYS")] and "/etc/credstore/trustbridge.no-such-keys does not exist" in found[0][3]
