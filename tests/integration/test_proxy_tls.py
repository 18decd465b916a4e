# SPDX-License-Identifier: Apache-2.0
"""TLS on tb-proxy's public port: what clients see, what a wrong file is told, and new certificates under open connections."""

import datetime
import os
import shutil
import signal
import socket
import ssl
import subprocess

import pytest

from proxy_backend import body_pieces, headers_of, read_head
from proxy_daemon import make, read_all  # noqa: F401
from tbsys import CA, wait_for
from test_green import tb_status


@pytest.fixture
def ca(tmp_path):
    return CA(tmp_path / "ca")


def tls_proxy(make, tmp_path, pair):  # noqa: F811
    for source, name in zip(pair, ("cert.pem", "key.pem")):
        shutil.copy(source, tmp_path / name)
    return make(TB_TLS_CERT=tmp_path / "cert.pem", TB_TLS_KEY=tmp_path / "key.pem").ready().start()


def s_client(p, *args):
    return subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{p.port}", "-servername", "localhost", *args],
                          input=b"", capture_output=True, timeout=30)


def serial_seen(p):
    with ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", p.port), timeout=20)) as s:
        return s.getpeercert(binary_form=True)


def answer_status(sock):
    """Reads a whole answer."""
    head, rest = read_head(sock)
    list(body_pieces(sock, headers_of(head), rest))
    return int(head.split()[1])


def test_versions_and_clients(make, tmp_path, ca):  # noqa: F811
    p = tls_proxy(make, tmp_path, ca.issue("localhost"))
    out = subprocess.run(["curl", "-sS", "--fail", "--cacert", ca.cert, "--resolve", f"localhost:{p.port}:127.0.0.1",
                          "--data-binary", "abc", f"https://localhost:{p.port}/v1/x"], capture_output=True, timeout=30)
    assert out.returncode == 0 and out.stdout.endswith(b" 3"), out.stderr
    assert p.backend.requests[-1].headers["x-forwarded-proto"] == ["https"]
    for version in ("-tls1_2", "-tls1_3"):
        r = s_client(p, version, "-CAfile", ca.cert, "-verify_return_error", "-brief")
        assert r.returncode == 0 and b"Verification: OK" in r.stderr, r.stderr
    for version in ("-tls1", "-tls1_1"):
        assert s_client(p, version, "-cipher", "ALL:@SECLEVEL=0").returncode != 0


def test_plain_http_to_the_tls_port(make, tmp_path, ca):  # noqa: F811
    p = tls_proxy(make, tmp_path, ca.issue("localhost"))
    with p.raw(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n") as s:
        assert b"HTTP/1.1 200" not in read_all(s)  # ended, by an alert or without a word
    assert not p.backend.requests
    with p.raw() as s:  # and one that says nothing does no harm to others
        assert serial_seen(p)
        s.close()


@pytest.mark.parametrize("how", ["signal", "change"])
def test_a_new_certificate_leaves_connections_alone(make, tmp_path, ca, how):  # noqa: F811
    p = tls_proxy(make, tmp_path, ca.issue("localhost"))
    old = serial_seen(p)
    request = b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n"
    with ssl._create_unverified_context().wrap_socket(socket.create_connection(("127.0.0.1", p.port), timeout=20)) as s:
        s.sendall(request)
        assert answer_status(s) == 200
        for source, name in zip(ca.issue("localhost2"), ("cert.pem", "key.pem")):
            shutil.copy(source, tmp_path / (name + ".new"))
        for name in ("cert.pem", "key.pem"):
            os.rename(tmp_path / (name + ".new"), tmp_path / name)
        if how == "signal":
            os.kill(p.daemon.pid, signal.SIGHUP)
        wait_for(lambda: serial_seen(p) != old, what="the new certificate")
        new = serial_seen(p)
        s.sendall(request)
        s.settimeout(20)
        assert answer_status(s) == 200  # the old connection goes on
        shutil.copy(ca.key, tmp_path / "key.pem")  # another's
        wait_for(lambda: "stays in force" in p.daemon.log_text(), what="the error")
        assert serial_seen(p) == new


def refused(make, tmp_path, cert, key):  # noqa: F811
    p = make(TB_TLS_CERT=cert, TB_TLS_KEY=key)
    p.daemon.start()
    assert p.daemon.wait() == 78
    return p.daemon.log_text()


def test_wrong_files_are_named(make, tmp_path, ca):  # noqa: F811
    cert, key = ca.issue("one")
    other = ca.issue("two")[1]
    junk = tmp_path / "junk.pem"
    junk.write_text("no PEM at all\n")
    locked = tmp_path / "locked.pem"
    subprocess.run(["openssl", "pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:x"], check=True, capture_output=True)
    for c, k, words in ((cert, other, ("TB_TLS_KEY", str(other), "is not the key of the first certificate")),
                        (junk, key, ("TB_TLS_CERT", str(junk), "holds no PEM certificate")),
                        (cert, junk, ("TB_TLS_KEY", str(junk), "holds no PEM private key")),
                        (cert, locked, ("TB_TLS_KEY", str(locked), "without a password")),
                        (tmp_path / "none", key, ("TB_TLS_CERT", "No such file")),
                        (cert, tmp_path, ("TB_TLS_KEY", "Is a directory")),
                        (cert, None, ("must be set too",))):
        text = refused(make, tmp_path, c, k)
        assert all(w in text for w in words), text
        assert "PRIVATE" not in text


@pytest.mark.parametrize("wrong", ["cert.pem", "key.pem", "both"])
def test_a_restart_with_a_wrong_pair_goes_on_with_the_one_before(make, tmp_path, ca, wrong):  # noqa: F811
    """systemd keeps it, as it keeps the listeners; not over a stop, when nothing is to be kept open."""
    for path, name in zip(ca.issue("one"), ("cert.pem", "key.pem")):
        shutil.copy(path, tmp_path / name)
    p = make(TB_TLS_CERT=tmp_path / "cert.pem", TB_TLS_KEY=tmp_path / "key.pem").ready().start()
    before = serial_seen(p)
    for name in ("cert.pem", "key.pem") if wrong == "both" else (wrong,):
        (tmp_path / name).write_text("no PEM at all\n")
    for _ in range(2):
        assert p.daemon.stop() == 0
        p.start()
        assert serial_seen(p) == before
        assert "the certificate of before this restart stays in force" in p.daemon.log_text()
    r = tb_status(p, "--check")
    assert r.returncode == 2 and "tb-proxy goes on with what it read before" in r.stdout, r.stdout
    assert 'tb_certificate_usable{certificate="server"} 0' in p.ask_health("/metrics")[1].decode()
    for path, name in zip(ca.issue("two"), ("cert.pem", "key.pem")):
        shutil.copy(path, tmp_path / name)
    wait_for(lambda: serial_seen(p) != before, what="the new certificate")
    new = serial_seen(p)
    (tmp_path / "key.pem").write_text("no PEM at all\n")
    assert p.daemon.stop() == 0
    p.start()
    assert serial_seen(p) == new  # not the first
    assert p.daemon.stop() == 0
    p.daemon.stored.clear()
    p.daemon.start()
    assert p.daemon.wait() == 78
    assert "PRIVATE" not in p.daemon.log_text()


@pytest.mark.parametrize("days, words", [((-10, -1), "expired on"), ((1, 10), "is not valid before"), ((-1, 5), "expires on")])
def test_dates_are_warned_about(make, tmp_path, days, words):  # noqa: F811
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.utcnow()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    cert = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1) \
        .not_valid_before(now + datetime.timedelta(days=days[0])).not_valid_after(now + datetime.timedelta(days=days[1])) \
        .sign(key, hashes.SHA256())
    (tmp_path / "c").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "k").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                   serialization.NoEncryption()))
    p = make(TB_TLS_CERT=tmp_path / "c", TB_TLS_KEY=tmp_path / "k").ready().start()
    assert words in p.daemon.log_text()
    assert serial_seen(p)
