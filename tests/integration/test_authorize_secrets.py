# SPDX-License-Identifier: Apache-2.0
"""What tb-authorize proves and keeps to itself: certificates of both sides, no secret outside its socket, memory that cannot be
read or dumped; and how it starts."""

import datetime
import os
import pathlib
import resource
import signal
import subprocess
import time

import pytest

from authorize_world import HYDRATE, KEY, as_nobody, ca, denied, grant, world  # noqa: F401
from tbsys import CA, program, program_in, takes_no_core, wait_for


def expired_certificate(ca, directory):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    import ipaddress
    issuer = x509.load_pem_x509_certificate(pathlib.Path(ca.cert).read_bytes())
    issuer_key = serialization.load_pem_private_key(pathlib.Path(ca.key).read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.utcnow()
    cert = (x509.CertificateBuilder().subject_name(issuer.subject).issuer_name(issuer.subject)
            .public_key(key.public_key()).serial_number(7)
            .not_valid_before(now - datetime.timedelta(days=9)).not_valid_after(now - datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
            .sign(issuer_key, hashes.SHA256()))
    cert_path, key_path = directory / "old.crt", directory / "old.key"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    return str(cert_path), str(key_path)


@pytest.mark.parametrize("fault", ["other CA", "expired", "other name"])
def test_a_control_plane_that_cannot_prove_itself_is_not_asked(world, ca, tmp_path, fault):
    server = {"other CA": lambda: CA(tmp_path / "ca2", "Other CA").issue("server"),
              "expired": lambda: expired_certificate(ca, tmp_path),
              "other name": lambda: ca.issue("elsewhere", "DNS:elsewhere.example")}[fault]()
    w = world(grant(), server=server)
    wait_for(lambda: "certificate" in w.lease().get("reason", "").lower() or "subject name" in w.lease().get("reason", ""),
             20, f"a reason, have {w.lease()}")
    assert w.plane.requests == [] and w.lease()["state"] == "pending"
    assert w.daemon.running() and w.flags() == (False, False)


def test_client_certificate_from_settings_and_from_credentials(world, ca):
    cert, key = ca.issue("machine")
    w = world(grant(), client_ca=ca.cert)
    wait_for(lambda: w.lease().get("reason"), 20, "a refusal without a certificate")
    assert w.plane.requests == []
    w.daemon.stop()
    w.daemon.env.update({"TB_CLIENT_CERT_PATH": cert, "TB_CLIENT_KEY_PATH": key})
    w.start().ready()
    assert w.key() == bytes.fromhex(KEY)
    w.daemon.stop()
    del w.daemon.env["TB_CLIENT_CERT_PATH"], w.daemon.env["TB_CLIENT_KEY_PATH"]
    w.daemon.credentials.update({"client-cert": pathlib.Path(cert).read_bytes(), "client-key": pathlib.Path(key).read_bytes()})
    (w.run / "lease.json").unlink()
    w.start().ready()
    assert w.key() == bytes.fromhex(KEY)


@pytest.mark.parametrize("where", ["setting", "credential"])
def test_an_encrypted_client_key_is_a_configuration_error(world, ca, tmp_path, where):
    cert, key = ca.issue("machine2")
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked], check=True)
    w = world(grant(), client_ca=ca.cert, start=False)
    if where == "setting":
        w.daemon.env.update({"TB_CLIENT_CERT_PATH": cert, "TB_CLIENT_KEY_PATH": str(locked)})
        name = f"TB_CLIENT_KEY_PATH {locked}"
    else:
        w.daemon.credentials.update({"client-cert": pathlib.Path(cert).read_bytes(), "client-key": locked.read_bytes()})
        name = "credential client-key"
    w.start()
    assert w.daemon.wait(10) == 78
    assert f"{name}" in w.log() and "the private key is encrypted" in w.log() and "openssl pkey" in w.log()


def test_no_secret_leaves_but_by_the_socket(world):
    w = world(lambda n: grant(lease=2, n=n)).ready()
    assert w.key() == bytes.fromhex(KEY) and b"SECRETSIGNATURE" in w.fetch(HYDRATE, "sas-url")
    assert b"SECRETSIGNATURE" in w.fetch(HYDRATE, "manifest-url")
    wait_for(lambda: len(w.plane.requests) >= 2, 10, "a renewal")
    w.plane.answer = denied()
    w.wait_state("denied")
    places = [f"/proc/{w.daemon.pid}/environ", f"/proc/{w.daemon.pid}/cmdline", w.dir / "log"]
    places += [p for d in (w.run, w.state, w.dir / "r", w.dir / "s") for p in d.rglob("*") if p.is_file()]
    for place in places:
        data = pathlib.Path(place).read_bytes()
        for secret in (KEY.encode(), bytes.fromhex(KEY), b"SECRETSIGNATURE", b"sig="):
            assert secret not in data, (place, secret)
    assert not memory_holds(w.daemon.pid, bytes.fromhex(KEY))  # wiped once it is denied
    if b"__asan_init" not in pathlib.Path(program("tb-authorize")).read_bytes():  # which keeps freed memory as it was
        assert not memory_holds(w.daemon.pid, KEY.encode()) and not memory_holds(w.daemon.pid, b"SECRETSIGNATURE")


def memory_holds(pid, secret):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for line in maps:
            span, perms, *_ = line.split()
            begin, end = (int(x, 16) for x in span.split("-"))
            if "rw" not in perms or "[v" in line or end - begin > 1 << 27:  # larger: a sanitizer's shadow
                continue
            try:
                mem.seek(begin)
                if secret in mem.read(end - begin):
                    return True
            except OSError:
                pass
    return False


def test_the_key_is_in_memory_while_it_may_be(world):
    """So that the check above can fail."""
    w = world(grant()).ready()
    assert memory_holds(w.daemon.pid, bytes.fromhex(KEY)) and memory_holds(w.daemon.pid, b"SECRETSIGNATURE")


def drop():
    """To an ordinary user, who by his limits may dump core."""
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)


def ordinary_user(world):
    w = world(grant(), start=False, preexec=drop)
    for d in (w.run, w.state, w.dir / "r", w.dir / "s"):
        d.mkdir(exist_ok=True)
        os.chown(d, 65534, 65534)
    for d in [w.dir, *w.dir.parents]:
        if "pytest" in str(d):
            d.chmod(0o755)
    w.daemon.credentials = None  # they would have to be readable to that user
    (w.dir / "ca.crt").write_bytes(pathlib.Path(w.daemon.env["TB_CA_FILE"]).read_bytes())
    w.daemon.env["TB_CA_FILE"] = str(w.dir / "ca.crt")
    w.daemon.cwd = w.run  # where it could write a core
    w.daemon.argv = [program_in(w.dir, "tb-authorize")]
    return w.start().ready()


def test_memory_cannot_be_read(world):
    pid = ordinary_user(world).daemon.pid
    # A process that is not dumpable belongs to root in /proc: its own user may not look into it.
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0
    assert as_nobody(lambda: open(f"/proc/{pid}/mem", "rb").read(1)) == b"error:PermissionError"
    assert takes_no_core(pid)


def aborted(pid):
    """Ends it as a crash would; returns whether the kernel dumped its core."""
    os.kill(pid, signal.SIGABRT)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def test_memory_cannot_be_dumped(world):
    w = ordinary_user(world)
    # The same user, limit and directory, so that nothing but the program itself makes the difference.
    control = subprocess.Popen(["sleep", "60"], cwd=w.run, preexec_fn=drop)
    control.returncode = -signal.SIGABRT
    control_dumped = aborted(control.pid)
    w.daemon.proc.returncode = -signal.SIGABRT
    assert not aborted(w.daemon.pid)
    if not control_dumped:
        pattern = pathlib.Path("/proc/sys/kernel/core_pattern").read_text().strip()
        pytest.skip(f"no core was dumped, but sleep(1) of the same user left none either (kernel.core_pattern is {pattern!r}); "
                    "that it is not dumpable and its limit is 1 is checked by test_memory_cannot_be_read")


def test_watchdog_is_fed(world):
    w = world(grant(), start=False)
    w.daemon.env["WATCHDOG_USEC"] = "1000000"
    w.start().ready()
    wait_for(lambda: len(w.daemon.notify_values("WATCHDOG")) >= 3, 10, "three pings")


def test_configuration_errors_come_together(world):
    w = world(grant(), start=False)
    w.daemon.env.update({"TB_CONTRACT_ID": "a b", "TB_EDC_ENDPOINT": "http://127.0.0.1:1"})
    w.start()
    assert w.daemon.wait(10) == 78
    assert "TB_CONTRACT_ID" in w.log() and "TB_EDC_ENDPOINT" in w.log() and "TB_INSECURE_HTTP" in w.log()
