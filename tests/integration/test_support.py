# SPDX-License-Identifier: Apache-2.0
"""tb-support over a full run: nothing of it that is secret, an id or an address is in the archive, and it comes whatever is broken."""

import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tarfile
import time
import uuid

import pytest
from backup_place import KEY, SECRETS, Machine, new_root
from tbsys import program, wait_for

REMOTE = "/lib/systemd/systemd-journal-remote"
BOOT = uuid.uuid4().hex
SAS = "sv=2022-11-02&se=2026-12-31&sr=b&sig=Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MA%3D%3D"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLWl0"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQC7\n-----END PRIVATE KEY-----"
MODEL_KEY = os.urandom(32).hex()
ENV = """TB_CONTRACT_ID=contract-1
TB_ASSET_ID=asset-1
TB_EDC_ENDPOINT=https://controlplane.provider-corp.example
TB_BLOB_MIRROR=https://modelcache7:8443/blobs
TB_RUNTIME_EXEC=/usr/local/bin/llama-server -m {model} --host 127.0.0.1 --port 8081 --api-key runtime-secret-77 --alias customer-x
TB_PUBLIC_ADDR=203.0.113.7:8000
TB_BILLING_PLAN_ID=gold-plan-2026
TB_BILLING_RESOURCE_ID=/subscriptions/11111111-2222-3333-4444-555555555555/resourceGroups/customer-rg/providers/x/y
TB_TLS_KEY=/run/credentials/tb-proxy.service/tls-key
HF_TOKEN=hf_abcdefghijklmnop
https_proxy=http://proxyuser:proxypass@proxy.corp.example:3128
TB_UNHEARD_SECRET=unheard-of-secret
"""
# Said in the journal by programs that should not have.
SAID = [f"tb-hydrate: GET https://acct77.blob.core.windows.net/models/asset-1/model.tbenc?{SAS} failed",
        f"tb-hydrate: redirected to https://evil.example.org/x?{SAS}#frag",
        f"header Authorization: Bearer {JWT}", f"got Authorization: Basic dXNlcjpwYXNz and x-api-key: {KEY}",
        f"key {MODEL_KEY} of contract contract-1", f"could not connect to 198.51.100.23 port 443 from 2001:db8:77::5",
        f"Could not resolve host: controlplane.provider-corp.example; mail ops@customer-corp.example",
        "tb-hydrate: the mirror of TB_BLOB_MIRROR fails: Failed to connect to modelcache7 port 8443",
        PEM, f"environment: HF_TOKEN=hf_abcdefghijklmnop TB_ASSET_ID=asset-1", f"client alice with sha256 {hashlib.sha256(KEY.encode()).hexdigest()}",
        f"peer 52:54:00:ab:cd:ef asked on {socket.gethostname()}", f'{{"password": "json-secret-1", "connection_string": "AccountKey=QWNjb3VudEtleQ=="}}',
        f"instance 123e4567-e89b-12d3-a456-426614174000 of ssh-ed25519"]
GONE = {"secret": [SAS.split("sig=")[1], "Zm9vYmFyYmF6cXV4", JWT, "dXNlcjpwYXNz", KEY, hashlib.sha256(KEY.encode()).hexdigest(), MODEL_KEY, "hf_abcdefghijklmnop",
                   "MIIEvgIBADANBgkqhkiG9w0", "runtime-secret-77", "proxypass", "unheard-of-secret", "json-secret-1", "QWNjb3VudEtleQ", "sv=2022-11-02",
                   "hunter2-hunter2", "verysecret", "customer-x", "what is the capital", "the prompt of a request"],
        "id": ["contract-1", "asset-1", "gold-plan-2026", "11111111-2222-3333-4444-555555555555", "customer-rg", "alice",
               "123e4567-e89b-12d3-a456-426614174000", BOOT],
        "address": ["controlplane.provider-corp.example", "acct77", "evil.example.org", "198.51.100.23", "2001:db8:77::5", "203.0.113.7",
                    "customer-corp.example", "52:54:00:ab:cd:ef", "proxy.corp.example", "modelcache7", socket.gethostname()]}


def entry(i, message, unit="tb-hydrate.service", **more):
    fields = {"MESSAGE": message, "_SYSTEMD_UNIT": unit, "SYSLOG_IDENTIFIER": unit.removesuffix(".service"), "PRIORITY": "4", "_PID": "77", **more}
    out = f"__REALTIME_TIMESTAMP={int(time.time() * 1e6) + i}\n__MONOTONIC_TIMESTAMP={1000 + i}\n_BOOT_ID={BOOT}\n".encode()
    for k, v in fields.items():
        data = v.encode()
        out += k.encode() + (b"\n" + len(data).to_bytes(8, "little") + data if b"\n" in data else b"=" + data) + b"\n"
    return out + b"\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    d = tmp_path_factory.mktemp("world")
    root = new_root(d / "one")
    for name, data in SECRETS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "etc/trustbridge/trustbridge.env").write_text(ENV)
    m = Machine(root, d / "work").start()
    for _ in range(5):
        m.ask()
    m.proxy.wait_records(5)
    audit = m.proxy.audit_file.read_text().splitlines()
    entries = [entry(i, text) for i, text in enumerate(SAID)]
    entries += [entry(100 + i, line, "tb-proxy.service", MESSAGE_ID="c1d7f3a95e1b4d3f8a60b7a2e94c5d12") for i, line in enumerate(audit)]
    entries += [entry(200, audit[0], "tb-proxy.service"), entry(201, "prompt: 'what is the capital of France'", "tb-runtime.service"),
                entry(202, "delivered", "tb-runtime.service", SYSLOG_IDENTIFIER="tb-load")]
    (d / "journal").mkdir()
    subprocess.run([REMOTE, "-o", d / "journal/remote.journal", "-"], input=b"".join(entries), check=True, capture_output=True)
    yield m, d
    m.stop()


def support(world, *args, rc=0, exe=None, **kw):
    m, d = world
    env = {"PATH": "/usr/bin:/bin", "TB_STATE_DIR": str(m.state), "TB_RUN_DIR": str(m.proxy.run),
           "TB_HEALTH_ADDR": "127.0.0.1:%d" % m.proxy.health.getsockname()[1],
           **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}
    r = subprocess.run([exe or program("tb-support"), "--root", m.root, "--directory", d / "journal", *map(str, args)], capture_output=True,
                       env=env, timeout=200, **kw)
    assert b"Sanitizer" not in r.stderr, r.stderr
    assert r.returncode == rc, r
    return r


def files(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as t:
        return {m.name.split("/")[1]: t.extractfile(m).read().decode() for m in t}


def test_nothing_that_should_not_be_in_it(world, tmp_path):
    support(world, tmp_path / "s.tgz")
    assert (tmp_path / "s.tgz").stat().st_mode & 0o777 == 0o600
    found = files((tmp_path / "s.tgz").read_bytes())
    everything = "\n".join(f"{n}: {t}" for n, t in found.items())
    for kind, values in GONE.items():
        for value in values:
            word = rf"\b{re.escape(value)}\b" if len(value) < 6 else re.escape(value)  # this machine may be called "vm"
            at = re.search(word, everything, re.I)
            assert not at, (kind, value, everything[max(0, at.start() - 200):at.start() + 200])
    assert "req_sha256" not in everything
    # And it is of use.
    assert {"status.txt", "status.json", "units.txt", "journal.txt", "settings.txt", "machine.txt", "disks.txt", "README.txt", "metrics.txt"} <= set(found)
    assert '"state"' in found["status.json"] and "Ready" in found["status.txt"]
    journal = found["journal.txt"]
    assert "GET https://<address-" in journal and "/models/<id-" in journal and "failed" in journal and "delivered" in journal
    assert "Authorization: <secret>" in journal and "--with-runtime-output" in journal
    assert len(journal.splitlines()) >= len(SAID)
    settings = found["settings.txt"]
    assert "/usr/local/bin/llama-server -m {model} --host 127.0.0.1 --port 8081 --api-key" in settings
    assert "TB_TLS_KEY=/run/credentials/tb-proxy.service/tls-key" in settings and "HF_TOKEN=<secret>" in settings
    assert "Environment=<removed>" in settings
    assert "tb_requests_total" in found["metrics.txt"] and "MemTotal" in found["machine.txt"] and "synchronised" in found["machine.txt"]


DROP_IN = """[Service]
  Environment="CONN_ONE=drop in one" \\
# a remark in between
    CONN_TWO=drop-in-two --api-key drop-in-three
Environment=not an-assignment-of-it
ExecStart=
ExecStart=/usr/bin/vllm --x=1 \\
    --served=drop-in-four
SetCredential=tls:drop-in-five
EnvironmentFile=-/etc/other.env
MemoryMax=1G
"""


def test_drop_ins_and_their_echoes(world, tmp_path):
    """systemd quotes a line of a drop-in that it does not like; a value may go over lines; tb-status wraps what is long."""
    m, d = world
    conf = m.root / "etc/systemd/system/tb-runtime.service.d/odd.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(DROP_IN)
    (m.root / "etc/other.env").write_text('OTHER="long-other-\\\nvalue"\n')
    said = ["Invalid environment assignment, ignoring: an-assignment-of-it", "seen: drop in one, drop-in-two, drop-in-five, long-other-value",
            "x" * 4085 + " drop-in-two"]
    journal = tmp_path / "journal"
    journal.mkdir()
    subprocess.run([REMOTE, "-o", journal / "remote.journal", "-"], input=b"".join(entry(i, t) for i, t in enumerate(said)), check=True, capture_output=True)
    try:
        found = files(support((m, tmp_path), "-").stdout)
    finally:
        conf.unlink()
    everything = "\n".join(found.values())
    for value in ("drop in one", "drop-in", "an-assignment-of-it", "long-other", "--served"):
        assert value not in everything, value
    assert "MemoryMax=1G" in found["settings.txt"] and "Environment=<removed>" in found["settings.txt"]
    assert "ignoring: <secret>" in found["journal.txt"]


def test_what_is_asked_for(world, tmp_path):
    found = files(support(world, "--with-ids", "--with-addresses", "--with-runtime-output", "-").stdout)
    everything = "\n".join(found.values())
    for value in GONE["secret"]:
        if value not in ("what is the capital",):
            assert value not in everything, value
    for value in ("contract-1", "asset-1", "198.51.100.23", "acct77.blob.core.windows.net", "what is the capital", "controlplane.provider-corp.example"):
        assert value in everything, value
    assert "req_sha256" not in everything
    only = files(support(world, "--with-ids", "-").stdout)
    assert "contract-1" in only["journal.txt"] and "198.51.100.23" not in only["journal.txt"]


def broken(tmp_path, **scripts):
    """tb-support beside programs that are not as they should be."""
    shutil.copy(program("tb-support"), tmp_path / "tb-support")
    for name, text in scripts.items():
        (tmp_path / name.replace("_", "-")).write_text("#!/bin/sh\n" + text)
        (tmp_path / name.replace("_", "-")).chmod(0o755)
    return tmp_path / "tb-support"


def test_half_of_the_machine_is_broken(world, tmp_path):
    """A program that hangs and has children, one that never stops talking, one that dies: each costs its part, is told, and no more."""
    exe = broken(tmp_path, tb_status="[ \"$1\" = --json ] || { echo begun; sleep 1000 & sleep 1000; }\nkill -SEGV $$",
                 systemctl="exec cat /dev/zero", tb_billing="echo oops >&2; exit 70")
    began = time.monotonic()
    r = support(world, "-", exe=exe)
    assert time.monotonic() - began < 120
    found = files(r.stdout)
    assert "begun" in found["status.txt"] and "status.txt" in found["README.txt"] and "it took too long" in found["README.txt"]
    assert "ended by signal 11" in found["README.txt"] and "it was too large" in found["README.txt"] and "ended with status 70" in found["README.txt"]
    assert "oops" in found["usage.txt"] and "MemTotal" in found["machine.txt"]
    assert len(r.stdout) < 8 << 20
    left = subprocess.run(["pgrep", "-f", "sleep 1000"], capture_output=True, text=True).stdout.split()
    assert not [p for p in left if pathlib.Path(f"/proc/{p}/environ").read_bytes().find(str(tmp_path).encode()) >= 0]


def test_nothing_is_there(tmp_path):
    """No daemon, no bus, no settings, no state, no journal."""
    root = new_root(tmp_path / "empty")
    env = {"PATH": "/usr/bin:/bin", "TB_STATE_DIR": str(root / "var/lib"), "TB_RUN_DIR": str(tmp_path / "run"), "TB_HEALTH_ADDR": "127.0.0.1:1"}
    r = subprocess.run([program("tb-support"), "--root", root, "--directory", tmp_path / "none", "-"], env=env, capture_output=True, timeout=120)
    assert r.returncode == 0, r.stderr
    found = files(r.stdout)
    assert "cannot be opened" in found["journal.txt"] and "does not answer" in found["metrics.txt"]
    assert "No such file" in found["settings.txt"] and "ended with status" in found["README.txt"]


def test_a_full_disk(world, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small], check=True)
    try:
        r = support(world, small / "s.tgz", rc=74)
        assert b"No space left" in r.stderr and b"tb-support - |" in r.stderr and not list(small.iterdir())
        r = support(world, cwd=small)
        where = pathlib.Path(r.stdout.decode().strip())
        assert str(where).startswith("/run/") and files(where.read_bytes())
        where.unlink()
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True)
    assert support(world, "/dev/null", rc=64).stderr and pathlib.Path("/dev/null").is_char_device()


def test_only_root_knows_what_is_secret(world, tmp_path):
    r = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program("tb-support"), "-"], capture_output=True, text=True)
    assert r.returncode == 77 and "run this as root" in r.stderr
