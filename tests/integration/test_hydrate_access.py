# SPDX-License-Identifier: Apache-2.0
"""tb-hydrate's credentials and certificates: refused, missing and malformed ones, plain HTTP, and no secret in the process."""

import pathlib
import subprocess
import threading

import pytest

import faultproxy as fp
from hydrate_world import ca, w  # noqa: F401
from tbsys import CA, takes_no_core


@pytest.mark.parametrize("name", ["sas-url", "manifest-url", "manifest-sha256"])
def test_refused_credential(w, name):
    w.credentials[name] = b""
    rc, _ = w.run()
    w.assert_failed(rc, 77, name, "refused")


@pytest.mark.parametrize("name", ["sas-url", "manifest-url", "manifest-sha256"])
def test_missing_or_malformed_credential(w, name):
    value = w.credentials.pop(name)
    rc, _ = w.run()
    w.assert_failed(rc, 78, name, "LoadCredential=")
    w.credentials[name] = b"ftp://" + value
    rc, _ = w.run()
    w.assert_failed(rc, 78, name)


def test_no_credentials_directory(w):
    w.credentials = None
    rc, _ = w.run()
    w.assert_failed(rc, 78, "CREDENTIALS_DIRECTORY")


def test_untrusted_certificate(w, tmp_path):
    other = CA(tmp_path / "other")
    rc, _ = w.run(TB_CA_FILE=other.cert)
    w.assert_failed(rc, 75, "127.0.0.1")
    assert not w.proxy.requests


def test_an_encrypted_client_key_is_a_configuration_error(w, ca, tmp_path):
    cert, key = ca.issue("machine")
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked], check=True)
    rc, _ = w.run(TB_CLIENT_CERT_PATH=cert, TB_CLIENT_KEY_PATH=str(locked))
    w.assert_failed(rc, 78, f"TB_CLIENT_KEY_PATH {locked}: the private key is encrypted")
    assert not w.proxy.requests
    assert w.run(TB_CLIENT_CERT_PATH=cert, TB_CLIENT_KEY_PATH=key)[0] == 0


def test_plain_http_needs_permission(w):
    plain = "http://127.0.0.1:%d" % w.server.server_address[1]
    for k in ("sas-url", "manifest-url"):
        w.credentials[k] = w.credentials[k].replace(w.proxy.url.encode(), plain.encode())
    rc, _ = w.run()
    w.assert_failed(rc, 75, "https")
    assert w.run(TB_INSECURE_HTTP="true")[0] == 0
    w.assert_complete()


def test_no_secret_in_the_process(w):
    go = threading.Event()
    w.proxy.rule(fp.hold(go), path="model.tbenc$", nth=range(5, 1000))
    d = w.start()
    w.proxy.wait(5, path="model.tbenc$")
    proc = pathlib.Path("/proc") / str(d.pid)
    for name in ("environ", "cmdline"):
        assert b"SecretSignature" not in (proc / name).read_bytes()
    locked = int(next(l for l in (proc / "status").read_text().splitlines() if l.startswith("VmLck")).split()[1])
    assert locked > 0 or b"libasan" in (proc / "maps").read_bytes()  # ASan turns mlock() into nothing
    assert takes_no_core(d.pid)
    go.set()
    assert d.wait() == 0
    w.assert_no_secret()
