# SPDX-License-Identifier: Apache-2.0
"""tb-configure: what it says of wrong settings, and that a wrong file reaches nobody. The units around it are for the scenario
test_settings.py."""

import datetime
import json
import os
import pathlib
import re
import socket
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tbsys import free_port, program

GOOD = {"TB_CONTRACT_ID": "c", "TB_ASSET_ID": "a", "TB_EDC_ENDPOINT": "https://cp.example", "TB_RUNTIME_EXEC": "/bin/sleep 1"}
PORTS = {}


def base(**more):
    """Lines that are in order. The listeners are where nobody else's are."""
    if not PORTS:
        PORTS.update(TB_PUBLIC_ADDR=f"127.0.0.1:{free_port()}", TB_HEALTH_ADDR=f"127.0.0.1:{free_port()}")
    return [f"{k}={v}" for k, v in {**GOOD, **PORTS, **more}.items() if v is not None]


def run(*argv, **kw):
    return subprocess.run([program("tb-configure"), *map(str, argv)], capture_output=True, text=True, timeout=60, **kw)


class Settings:
    def __init__(self, tmp):
        self.path, self.run_dir = tmp / "trustbridge.env", tmp / "run"
        self.run_dir.mkdir()

    def check(self, text):
        """(exit status, [(line or None, level, name, message)])"""
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        r = run("--check", "--run-dir", self.run_dir, self.path)
        assert r.stderr == "", r.stderr
        *lines, last = r.stdout.splitlines()
        found = [re.fullmatch(rf"{re.escape(str(self.path))}(?::(\d+))?: (error|warning|note): (?:((?:TB|tb)_\w+|credential [\w-]+|\w*): )?(.*)", line)
                 for line in lines]
        assert all(found), r.stdout
        found = [(int(m[1]) if m[1] else None, m[2], m[3] or "", m[4]) for m in found]
        errors = sum(level == "error" for _, level, _, _ in found)
        assert r.returncode == (78 if errors else 0) and (f"{errors} error" in last or "in order" in last), r.stdout
        return r.returncode, found

    def one(self, line, **unset):
        """What is said of one line behind good ones, but for notes."""
        _, found = self.check("\n".join([*base(**unset), line]) + "\n")
        return [x for x in found if x[1] != "note"]


@pytest.fixture
def settings(tmp_path):
    return Settings(tmp_path)


def test_good_settings_are_in_order(settings):
    assert settings.check("# TrustBridge\n\n" + "\n".join(base()) + "\n") == (0, [])
    r = run("--check", "--run-dir", settings.run_dir, settings.path)
    assert r.stdout == f"{settings.path}: the settings are in order\n"


@pytest.mark.parametrize("given", [
    'TB_ROUTES="/v1/*, /x"', "TB_ROUTES=/v1/*,/x", "  TB_LOG_LEVEL  =  debug  ", "TB_LOG_LEVEL='debug'\r", "TB_LEASE_GRACE=1h30m", "HF_HOME=/x", "TB_MAX_LORAS=4",
    "TB_CORS_ORIGINS=https://a.example, https://b.example", "TB_ROUTES=/v1/*,\\\n/x", "TB_LEASE_GRACE=", "TB_INSECURE_HTTP=YES",
    "TB_IMDS_ENDPOINT=http://127.0.0.1:1", "TB_TARGET_DIR=/srv/x/y", "TB_ROUTES=*,/a;b", 'HF_ARGS={"a": 1}',
])
def test_what_is_right_is_not_complained_about(settings, given):
    assert settings.one(given) == []


def test_signs_in_a_command_are_no_remark(settings):
    assert settings.one("""TB_RUNTIME_EXEC=/bin/sleep 1 '# 2' #fff "a # b" x#y""", TB_RUNTIME_EXEC=None) == []


# line, name, what is wrong, what to do
WRONG = [
    ("TB_PUBLC_ADDR=:80", "TB_PUBLC_ADDR", "unknown setting", "did you mean TB_PUBLIC_ADDR"),
    ("TB_API_KEY=x", "TB_API_KEY", "unknown setting", "did you mean TB_API_KEYS"),
    ("TB_RUNTME_EXEC=x", "TB_RUNTME_EXEC", "unknown setting", "did you mean TB_RUNTIME_EXEC"),
    ("TB_TLS_CRET=/x", "TB_TLS_CRET", "unknown setting", "did you mean TB_TLS_CERT"),
    ("tb_log_level=info", "tb_log_level", "unknown setting", "did you mean TB_LOG_LEVEL"),
    ("LOG_LEVEL=info", "LOG_LEVEL", "unknown setting", "did you mean TB_LOG_LEVEL"),
    ("T_ROUTES=/v1/*", "T_ROUTES", "unknown setting", "did you mean TB_ROUTES"),
    ("TB_SOMETHING_ELSE=1", "TB_SOMETHING_ELSE", "unknown setting", r"trustbridge.env\(5\)"),
    ("TB-ROUTES=/v1/*", "", "not the name of a setting", "letters, digits"),
    ("export TB_ROUTES=/v1/*", "TB_ROUTES", '"export"', "write NAME=value"),
    ("TB_ROUTES: /v1/*", "", "begins with TB_ROUTES has no '='", "write TB_ROUTES=value"),
    ("some words", "", "not NAME=value", "put # before"),
    ('TB_ROUTES="/v1/*', "TB_ROUTES", "a quote is not closed", "close it"),
    ('TB_ROUTES="/v1/*" /x', "TB_ROUTES", "behind the closing quote", "quotes around the whole value"),
    ("TB_LOG_LEVEL=\u201cdebug\u201d", "TB_LOG_LEVEL", "typographic quotes", "write"),
    ("TB_LOG_LEVEL=debug\u00a0", "TB_LOG_LEVEL", "no-break space", "remove"),
    ('TB_LOG_LEVEL=" debug"', "TB_LOG_LEVEL", "a blank within its quotes", "remove"),
    ("TB_LOG_LEVEL=verbose", "TB_LOG_LEVEL", '"verbose"', "debug, info, warn or error"),
    ("TB_PUBLIC_ADDR=0.0.0.0:80000", "TB_PUBLIC_ADDR", '"0.0.0.0:80000"', "0 to 65535; choose a smaller port"),
    ("TB_PUBLIC_ADDR=8000", "TB_PUBLIC_ADDR", '"8000"', "as :8000"),
    ("TB_PUBLIC_ADDR=:8000,", "TB_PUBLIC_ADDR", '":8000,"', "host:port"),
    ("TB_PUBLIC_ADDR=0.0.0.0", "TB_PUBLIC_ADDR", '"0.0.0.0"', "the port is missing"),
    ("TB_PUBLIC_ADDR=0.0.0.0:", "TB_PUBLIC_ADDR", '"0.0.0.0:"', "host:port"),
    ("TB_PUBLIC_ADDR=::1:8000", "TB_PUBLIC_ADDR", '"::1:8000"', r"brackets .* \[::1\]:8000"),
    ("TB_PUBLIC_ADDR=[::1:8000", "TB_PUBLIC_ADDR", '"\\[::1:8000"', r"\[v6\]:port"),
    ("TB_PUBLIC_ADDR=[::g]:8000", "TB_PUBLIC_ADDR", "not on names", "give an address"),
    ("TB_PUBLIC_ADDR=http://0.0.0.0:8000", "TB_PUBLIC_ADDR", "must be host:port", "without http://"),
    ("TB_PUBLIC_ADDR=0.0.0.0:http", "TB_PUBLIC_ADDR", '"0.0.0.0:http"', "0 to 65535"),
    ("TB_PUBLIC_ADDR=-1:80", "TB_PUBLIC_ADDR", "not on names", "give an address"),
    ("TB_PUBLIC_ADDR=api.example:8000", "TB_PUBLIC_ADDR", "not on names", "ip -brief address"),
    ("TB_PUBLIC_ADDR=1.2.3.400:80", "TB_PUBLIC_ADDR", "not on names", "give an address"),
    ("TB_PUBLIC_ADDR=:0", "TB_PUBLIC_ADDR", "systemd needs a port", "1 to 65535"),
    ("TB_PUBLIC_ADDR=203.0.113.77:8000", "TB_PUBLIC_ADDR", "does not have the address", "ip -brief address"),
    ("TB_HEALTH_ADDR=[2001:db8::77]:8001", "TB_HEALTH_ADDR", "does not have the address", "ip -brief address"),
    ("TB_EDC_ENDPOINT=http://cp.example", "TB_EDC_ENDPOINT", "must be https://", "TB_INSECURE_HTTP"),
    ("TB_EDC_ENDPOINT=cp.example", "TB_EDC_ENDPOINT", '"cp.example"', "has no https://"),
    ("TB_EDC_ENDPOINT=https://", "TB_EDC_ENDPOINT", '"https://"', "with a host"),
    ("TB_EDC_ENDPOINT=https://cp.example:99999", "TB_EDC_ENDPOINT", "must be an https:// URL", "with a host"),
    ("TB_EDC_ENDPOINT=https://cp example", "TB_EDC_ENDPOINT", "must be an https:// URL", "with a host"),
    ("TB_METERING_ENDPOINT=http://m.example", "TB_METERING_ENDPOINT", "must be https://", "TB_INSECURE_HTTP"),
    ("TB_RUNTIME_URL=http://10.0.0.1:8081", "TB_RUNTIME_URL", '"http://10.0.0.1:8081"', "127.0.0.0/8"),
    ("TB_RUNTIME_URL=127.0.0.1:8081", "TB_RUNTIME_URL", '"127.0.0.1:8081"', "must be http://"),
    ("TB_RUNTIME_HEALTH=health", "TB_RUNTIME_HEALTH", '"health"', "as /health"),
    ("TB_CONTRACT_ID=a b", "TB_CONTRACT_ID", '"a b"', "1 to 100 of"),
    ("TB_ASSET_ID=a/b", "TB_ASSET_ID", '"a/b"', "1 to 100 of"),
    ("TB_INSECURE_HTTP=ja", "TB_INSECURE_HTTP", '"ja"', "true or false"),
    ("TB_LEASE_GRACE=24", "TB_LEASE_GRACE", '"24"', "the unit is missing"),
    ("TB_LEASE_GRACE=1 day", "TB_LEASE_GRACE", '"1 day"', "90s, 10m or 24h"),
    ("TB_LEASE_GRACE=-1h", "TB_LEASE_GRACE", '"-1h"', "90s, 10m or 24h"),
    ("TB_BILLING_INTERVAL=10ms", "TB_BILLING_INTERVAL", "too short", "at least 1s"),
    ("TB_MAX_BODY_BYTES=4G", "TB_MAX_BODY_BYTES", '"4G"', "without a unit: 4294967296"),
    ("TB_MAX_BODY_BYTES=4GiB", "TB_MAX_BODY_BYTES", '"4GiB"', "without a unit: 4294967296"),
    ("TB_MAX_BODY_BYTES=50%", "TB_MAX_BODY_BYTES", '"50%"', "a whole number"),
    ("TB_DOWNLOAD_CONCURRENCY=0", "TB_DOWNLOAD_CONCURRENCY", '"0"', "from 1 to 32"),
    ("TB_DOWNLOAD_CONCURRENCY=-4", "TB_DOWNLOAD_CONCURRENCY", '"-4"', "from 1 to 32"),
    ("TB_DOWNLOAD_CHUNK_BYTES=1e6", "TB_DOWNLOAD_CHUNK_BYTES", '"1e6"', "a whole number"),
    ("TB_ROUTES=v1/*", "TB_ROUTES", "starts with a slash", "as in /v1/"),
    ("TB_CORS_ORIGINS=app.example", "TB_CORS_ORIGINS", "scheme://host", "as in https://app.example.com"),
    ("TB_DELIVERY=fuse", "TB_DELIVERY", '"fuse"', "dir or fifo"),
    ("TB_TARGET_DIR=models", "TB_TARGET_DIR", '"models"', "absolute path"),
    ("TB_TARGET_DIR=/a b", "TB_TARGET_DIR", '"/a b"', "letters, digits"),
    ("TB_TARGET_DIR=/a/../b", "TB_TARGET_DIR", '"/a/../b"', "without .."),
    ("TB_CA_FILE=ca.pem", "TB_CA_FILE", '"ca.pem"', "absolute path"),
    ("TB_CA_FILE=/nowhere/at/all.pem", "TB_CA_FILE", "/nowhere/at/all.pem does not exist: there is only /", "correct the path"),
    ("TB_CA_FILE=/etc", "TB_CA_FILE", "/etc is a directory", "name a file"),
    ("TB_CA_FILE=/dev/null", "TB_CA_FILE", "/dev/null is no regular file", "name a file"),
    ("TB_CA_FILE=/etc/hostname", "TB_CA_FILE", "holds no certificate in PEM format", "openssl x509"),
    ("TB_RUNTIME_EXEC=/opt/nowhere/server -m {model}", "TB_RUNTIME_EXEC", "/opt/nowhere/server is not an executable file", "install"),
    ("TB_RUNTIME_EXEC=no-such-server", "TB_RUNTIME_EXEC", "no-such-server is not an executable file in PATH", "install"),
    ("TB_RUNTIME_EXEC=/etc/passwd", "TB_RUNTIME_EXEC", "/etc/passwd is not an executable file", "install"),
    ("TB_RUNTIME_EXEC=/bin/sleep 'x", "TB_RUNTIME_EXEC", "a ' quote is not closed", "correct the command line"),
    ("TB_AUDIT_FILE=/nowhere/audit.jsonl", "TB_AUDIT_FILE", "the directory /nowhere does not exist", "make it"),
    ("TB_AUDIT_FILE=/etc", "TB_AUDIT_FILE", "/etc is a directory", "name a file"),
    ("TB_BILLING_DIMENSION=requests,secs", "TB_BILLING_DIMENSION", '"requests,secs"', "prompt_tokens"),
    ("TB_BILLING_RESOURCE_ID=x", "TB_BILLING_RESOURCE_ID", '"x"', "/subscriptions/"),
    ("TB_TARGET_DIR=/etc/hostname", "TB_TARGET_DIR", "/etc/hostname is no directory", "another path"),
    ("TB_TARGET_DIR=/etc/hostname/x/y", "TB_TARGET_DIR", "/etc/hostname is no directory", "another path"),
    ("TB_TARGET_DIR=//", "TB_TARGET_DIR", "root directory", "as /srv/trustbridge"),
    ("TB_STATE_DIR=/etc/hostname", "TB_STATE_DIR", "is no directory", "make it"),
    ("TB_RUN_DIR=/nowhere", "TB_RUN_DIR", "is no directory", "make it"),
    ("NOTIFY_SOCKET=/x", "NOTIFY_SOCKET", "systemd sets this itself", "remove the line"),
    ("TB_CONTRACT_ID=c # ours", "TB_CONTRACT_ID", "a remark behind it", "line of its own"),
    ("TB_LEASE_GRACE=12h\t#half a day", "TB_LEASE_GRACE", "a remark behind it", "line of its own"),
    ("TB_AUDIT_FILE=/var/log/audit.jsonl # kept", "TB_AUDIT_FILE", "a remark behind it", "line of its own"),
    ("TB_RUNTIME_EXEC=/bin/sleep 1 # the server", "TB_RUNTIME_EXEC", "a remark behind it", "line of its own"),
    ("TB_ROUTES=/v1/.*", "TB_ROUTES", "no regular expression", r"as in /v1/\*"),
    ("TB_ROUTES=/v1/*;/x", "TB_ROUTES", "separated by commas", "as in"),
    ("TB_ROUTES=/v1/models?a=*", "TB_ROUTES", r"without \? and #", "any query"),
    ("TB_TLS_KEY=-----BEGIN", "TB_TLS_KEY", "which is not shown", "absolute path"),
]


@pytest.mark.parametrize("line,name,reason,remedy", WRONG, ids=[w[0][:40] for w in WRONG])
def test_what_is_wrong_has_place_reason_and_remedy(settings, line, name, reason, remedy):
    setting = line.split("=")[0] if line.split("=")[0] in {**GOOD, **PORTS} else None
    n = len(base(**({setting: None} if setting else {}))) + 1
    found = [x for x in settings.one(line, **({setting: None} if setting else {})) if "must be set too" not in x[3] and "required" not in x[3]]
    assert len(found) == 1, found
    where, level, who, text = found[0]
    assert (where, level, who) == (n, "error", name), found
    assert re.search(reason, text) and re.search(remedy, text), text


def test_everything_is_said_at_once_in_the_order_of_the_file(settings):
    lines = [w[0] for w in WRONG if "\n" not in w[0] and '="' not in w[0]]
    _, found = settings.check("\n".join(lines) + "\n")
    with_line = [x[0] for x in found if x[0]]
    assert with_line == sorted(with_line)
    said = {x[2] for x in found}
    assert {"TB_PUBLC_ADDR", "TB_LEASE_GRACE", "TB_CA_FILE", "TB_RUNTIME_EXEC", "TB_TLS_KEY", "TB_AUDIT_FILE"} <= said
    assert len(found) == len(set(found)), "said once"


def test_missing_settings(settings):
    assert [(x[1], x[2]) for x in settings.check("")[1] if "required" in x[3]] == [("error", n) for n in ("TB_CONTRACT_ID", "TB_ASSET_ID", "TB_EDC_ENDPOINT")]
    found = settings.one("TB_BILLING_ENABLED=true")
    assert [x[1:3] for x in found] == [("error", "TB_BILLING_PLAN_ID")]
    assert [x[1:3] for x in settings.one("TB_CLIENT_CERT_PATH=/bin/sh") if "must be set too" in x[3]] == [("error", "TB_CLIENT_KEY_PATH")]
    assert settings.one("TB_LOG_LEVEL=info", TB_RUNTIME_EXEC=None)[0][1:3] == ("warning", "TB_RUNTIME_EXEC")


@pytest.mark.parametrize("text", [b"\xef\xbb\xbfTB_ROUTES=/v1/*\n", b"TB_ROUTES=/v1/\xe4\n", "TB_ROUTES=/v1/*\n".encode("utf-16")])
def test_files_that_are_not_utf_8(settings, text):
    code, found = settings.check(text)
    assert code == 78 and any("UTF-8" in x[3] for x in found)


def test_windows_line_ends_are_fine(settings):
    assert settings.check("\r\n".join(base()) + "\r\n") == (0, [])


def test_a_name_given_twice(settings):
    first, *rest = settings.one("TB_LOG_LEVEL=debug\nTB_LOG_LEVEL=info")
    assert first[1:3] == ("warning", "TB_LOG_LEVEL") and f"line {first[0] + 1} sets it again" in first[3] and not rest


def test_ports(settings):
    port = free_port()
    found = settings.one(f"TB_PUBLIC_ADDR=127.0.0.1:{port}\nTB_HEALTH_ADDR=:{port}", TB_PUBLIC_ADDR=None, TB_HEALTH_ADDR=None)
    assert [x[1:3] for x in found] == [("error", "TB_HEALTH_ADDR")] and f"both want port {port}" in found[0][3]
    with socket.create_server(("127.0.0.1", port)):
        for addr in (f"127.0.0.1:{port}", f":{port}", f"0.0.0.0:{port}", f"[::]:{port}"):
            found = settings.one(f"TB_PUBLIC_ADDR={addr}", TB_PUBLIC_ADDR=None)
            assert [x[1:3] for x in found] == [("error", "TB_PUBLIC_ADDR")] and f"another program listens on port {port}" in found[0][3], addr
        assert settings.one(f"TB_PUBLIC_ADDR=127.0.0.2:{port}", TB_PUBLIC_ADDR=None) == []
        # What is in force is not in its own way.
        (settings.run_dir / "listeners.env").write_text(f"TB_PUBLIC_ADDR=:{port}\n")
        assert settings.one(f"TB_PUBLIC_ADDR=0.0.0.0:{port}", TB_PUBLIC_ADDR=None) == []


def test_directories_that_units_do_not_share(settings):
    """tb-hydrate's file must be where tb-decrypt looks; --accept is what the units ask."""
    for where in ("/tmp", "/home/joe/models", "/run/models", "/dev/shm/x", "/root/x"):
        found = settings.one(f"TB_TARGET_DIR={where}")
        assert [x[1:3] for x in found] == [("warning", "TB_TARGET_DIR")] and "do not share" in found[0][3], found
    settings.path.write_text("\n".join(base(TB_TARGET_DIR="/tmp/x", TB_STATE_DIR="/srv", TB_MODEL_DIR="/srv/model")) + "\n")
    r = run("--accept", "--run-dir", settings.run_dir, settings.path)
    said = (settings.run_dir / "report").read_text()
    assert r.returncode == 78 and "do not share /tmp" in said and "TB_STATE_DIR: the units have their directories in /var/lib" in said, said
    assert "TB_MODEL_DIR: tb-runtime.service may not write" in said, said


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


# -- the command line ---------------------------------------------------------------------------------------------------

def test_json(settings):
    settings.path.write_text("\n".join(base(TB_LOG_LEVEL="loud")) + "\n")
    r = run("--check", "--json", "--run-dir", settings.run_dir, settings.path)
    doc = json.loads(r.stdout)
    assert r.returncode == 78 and (doc["file"], doc["ok"], doc["errors"]) == (str(settings.path), False, 1)
    one, = doc["findings"]
    assert (one["level"], one["name"], one["value"], one["file"]) == ("error", "TB_LOG_LEVEL", "loud", str(settings.path)) and one["line"] == len(base()) + 1


@pytest.mark.parametrize("argv,code", [([], 64), (["--nonsense"], 64), (["--check", "a", "b"], 64), (["--check", "/nowhere.env"], 66), (["--check", "/etc"], 74),
                                       (["--run", "tb-proxy", "/nowhere.env"], 66), (["--accept"], 64), (["--apply", "x"], 64)])
def test_command_lines(argv, code):
    r = run(*argv)
    assert r.returncode == code and r.stdout == "" and r.stderr.startswith("tb-configure: "), r


def test_standard_input():
    r = run("--check", "-", input="TB_LOG_LEVEL=loud\n")
    assert r.returncode == 78 and "-:1: error: TB_LOG_LEVEL" in r.stdout


def test_help_and_version():
    assert run("--help").stdout.startswith("Usage: tb-configure") and run("--version").stdout.startswith("tb-configure ")


def test_a_program_by_hand_gets_the_file(settings):
    settings.path.write_text("A=1\nB=\"2 3\"\nA=4\nexport C=1\n")
    out = run("--run", "/usr/bin/env", settings.path, env={"PATH": "/bin"}).stdout.splitlines()
    assert {"A=4", "B=2 3"} <= set(out) and not any(x.startswith(("C=", "export")) for x in out)


@pytest.mark.parametrize("name", ["tb-authorize", "tb-billing", "tb-decrypt", "tb-hydrate", "tb-load", "tb-proxy"])
def test_each_program_judges_its_settings(name):
    """--check of the daemons themselves: the same rules, in a form that can be read back."""
    r = subprocess.run([program(name), "--check"], capture_output=True, text=True, env={"TB_LOG_LEVEL": "loud"})
    assert r.returncode == 78 and "error: TB_CONTRACT_ID: required, not set\n" in r.stdout and "error: TB_LOG_LEVEL: " in r.stdout and r.stderr == ""
    r = subprocess.run([program(name), "--check"], capture_output=True, text=True, env={**GOOD, "PATH": "/bin"})
    assert (r.returncode, r.stdout) == (0, "")


# -- what is in force ---------------------------------------------------------------------------------------------------

class Machine:
    """tb-configure as its units run it, with a systemctl that runs the check and writes down what it was told."""

    def __init__(self, tmp):
        self.env, self.run_dir, self.kept, self.bin = tmp / "trustbridge.env", tmp / "run", tmp / "generator", tmp / "bin"
        self.said, self.told = tmp / "said", tmp / "told"
        for d in (self.run_dir, self.kept, self.bin):
            d.mkdir()
        systemctl = self.bin / "systemctl"
        systemctl.write_text(f"""#!/bin/sh
echo "$*" >> {self.told}
case "$*" in
    "--quiet restart tb-settings.service") exec {program("tb-configure")} --accept --run-dir {self.run_dir} {self.env} 2>> {self.said} ;;
    "--quiet daemon-reload") rm -rf {self.kept}/* && exec {program("tb-configure")} --generate --run-dir {self.run_dir} {self.env} {self.kept} ;;
esac
""")
        systemctl.chmod(0o755)

    def write(self, *lines, **settings):
        self.env.write_text("\n".join([*base(**settings), *lines]) + "\n")

    def apply(self):
        self.told.write_text("")
        self.said.write_text("")
        r = run("--apply", "--run-dir", self.run_dir, self.env, self.kept, env={**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin"})
        return r.returncode, r.stderr

    def accept(self):
        r = run("--accept", "--run-dir", self.run_dir, self.env)
        return r.returncode, r.stderr

    def generate(self):
        out = self.run_dir.parent / "out"
        subprocess.run(["rm", "-rf", out], check=True)
        out.mkdir()
        r = run("--generate", "--run-dir", self.run_dir, self.env, out)
        assert r.returncode == 0
        return {p.parent.name: p.read_text() for p in out.rglob("*.conf")}

    def in_force(self):
        return (self.run_dir / "trustbridge.env").read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


RESTARTED = "--quiet --no-block restart trustbridge-apply.target"


def test_good_settings_come_into_force(machine):
    machine.write()
    assert machine.apply()[0] == 0
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service", "--quiet daemon-reload", RESTARTED]
    assert machine.in_force() == machine.env.read_text() and (machine.run_dir / "contract").exists()
    code, said = machine.apply()
    assert code == 0 and "systemd knows the settings" in said
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service", RESTARTED]


@pytest.mark.parametrize("line", ["TB_PUBLIC_ADDR=0.0.0.0:80000", "TB_LOG_LEVEL=loud", "TB_RUNTIME_EXEC=/opt/nowhere", "nonsense", "TB_CA_FILE=/nowhere"])
def test_wrong_settings_change_nothing(machine, line):
    machine.write()
    assert machine.apply()[0] == 0
    before, dropins = machine.in_force(), machine.generate()
    machine.write(line)
    code, said = machine.apply()
    assert code == 78 and said.count("error: ") == 1 and "nothing was restarted" in said, said
    assert machine.said.read_text() == "", "the unit that was asked leaves it to the one that asked"
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service"]
    assert machine.in_force() == before and machine.generate() == dropins
    machine.write(TB_LOG_LEVEL="debug")
    assert machine.apply()[0] == 0 and machine.in_force() == machine.env.read_text()
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service", RESTARTED]


def test_a_program_that_starts_gets_what_was_good(machine):
    machine.write()
    assert machine.apply()[0] == 0
    before = machine.in_force()
    machine.write("TB_LOG_LEVEL=loud")
    code, said = machine.accept()
    assert code == 78 and "TB_LOG_LEVEL" in said and "stays in force" in said and machine.in_force() == before
    assert machine.accept() == (78, ""), "said once"
    machine.write("TB_LOG_LEVEL=debug")
    assert machine.accept() == (0, "") and "debug" in machine.in_force()
    # Its listeners change only with tb-configure.service, which restarts them.
    machine.write(TB_PUBLIC_ADDR="127.0.0.7:7")
    assert machine.accept()[0] == 0 and "127.0.0.7" in machine.in_force() and "127.0.0.7" not in str(machine.generate())
    assert machine.apply()[0] == 0 and "127.0.0.7:7" in str(machine.generate())


def test_the_same_file_is_checked_again_when_it_is_applied(machine, tmp_path):
    """What it names may have changed."""
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    machine.write(TB_RUNTIME_EXEC=server)
    assert machine.apply()[0] == 0
    server.unlink()
    assert machine.accept() == (0, "")
    code, said = machine.apply()
    assert code == 78 and f"{server} is not an executable file" in said


def test_a_boot_goes_on_with_what_there_is(machine):
    machine.write("TB_LOG_LEVEL=loud", TB_PUBLIC_ADDR="0.0.0.0:80000")
    code, said = machine.apply()
    assert code == 78 and "TB_LOG_LEVEL" in said and "TB_PUBLIC_ADDR" in said
    assert machine.in_force() == machine.env.read_text() and (machine.run_dir / "contract").exists()
    assert machine.told.read_text().splitlines()[-1] == RESTARTED
    assert machine.generate()["tb-proxy.socket.d"].endswith("[Socket]\nListenStream=\n\n")
    machine.write()
    assert machine.apply()[0] == 0 and "ListenStream=127.0.0.1" in machine.generate()["tb-proxy.socket.d"]


def test_without_a_contract(machine):
    for text in ("", "# nothing\n", "TB_CONTRACT_ID=\nTB_ASSET_ID=a\n"):
        machine.env.write_text(text)
        code, said = machine.apply()
        assert code == 0 and "no TB_CONTRACT_ID in trustbridge.env: nothing is started" in said, said
        assert not (machine.run_dir / "contract").exists()
    machine.env.unlink()
    assert machine.apply()[0] == 0
    machine.write()
    assert machine.apply()[0] == 0 and (machine.run_dir / "contract").exists()
    machine.env.write_text("TB_CONTRACT_ID=\n")
    assert machine.apply()[0] == 0 and not (machine.run_dir / "contract").exists()


def test_the_check_that_cannot_run_is_said(machine):
    machine.write()
    assert machine.apply()[0] == 0
    (machine.bin / "systemctl").write_text("#!/bin/sh\nexit 5\n")
    code, said = machine.apply()
    assert code == 78 and "tb-settings.service could not check the settings" in said


def test_the_boot_wants_it(machine):
    machine.write()
    assert "Wants=tb-configure.service" in machine.generate()["sockets.target.d"]
