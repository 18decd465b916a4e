# SPDX-License-Identifier: Apache-2.0
"""The assertions of the workflow guide's E2E demo: 16 MiB through the FIFO to the runtime stand-in. Against the environment that
`make e2e-up` left running when there is one, else against one of its own on free ports."""

import hashlib
import os
import pathlib
import re
import socket
import ssl
import stat
import urllib.request

import pytest
import stack
from chain import Chain, http_json, tbpkg
from tbsys import program, read_json, read_records, wait_for


class Running:
    """What the tests need to know of an environment, theirs or the one of make e2e-up."""

    def __init__(self, info, chain=None):
        self.api, self.health, self.controlplane, self.ca = info["api"], info["health"], info["controlplane"], info["ca"]
        self.dir, self.chain = pathlib.Path(info["dir"]), chain
        self.consumer = self.dir / "consumer"

    def authorize(self, contract):
        body = {"contract_id": contract, "asset_id": stack.ASSET, "hw_id": "test", "client_version": "test/1"}
        return http_json(self.controlplane + "/api/v1/license/authorize", body, ca=self.ca)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    info = read_json(stack.STACK)
    if stack.running() and info["contract"] == "contract-allow":
        e = Running(info)
        wait_for(lambda: http_json(e.health + "/health")[0] == 200, 60, "Ready")
        yield e
        return
    e2e = stack.E2E(tmp_path_factory.mktemp("e2e"), blob=0, controlplane=0, api=0, health=0).start()
    try:
        e2e.chain.wait_state("Ready")
        yield Running(e2e.describe(), e2e.chain)
    finally:
        e2e.stop()


def test_the_runtime_received_the_plaintext(env):
    def arrived():
        status, body = http_json(env.api + "/plaintext-hash")
        assert status in (200, 202)
        return body if status == 200 else None
    body = wait_for(arrived, 60, "the plaintext hash")
    assert body == {"sha256": stack.PLAIN_SHA256, "bytes_read": stack.PLAIN_BYTES}


def test_requests_are_forwarded(env):
    status, body = http_json(env.api + "/v1/demo")
    assert (status, body["message"]) == (200, "Hello from runtime-mock")
    data = os.urandom(100_000)
    status, body = http_json(env.api + "/v1/demo", data, headers={"Content-Type": "application/octet-stream"})
    assert status == 200
    assert body["request"]["body_sha256"] == hashlib.sha256(data).hexdigest()
    assert body["request"]["body_size"] == len(data)


def test_no_plaintext_on_disk(env):
    target = env.consumer / "target"
    assert sorted(p.name for p in target.iterdir()) == ["model.manifest.json", "model.tbenc", "model.tbenc.verified.json", "serving.json"]
    for p in env.consumer.rglob("*"):
        if p.is_file():
            assert b"TRUSTBRIDGE_E2E_TRUSTBRIDGE" not in p.read_bytes(), p


def test_every_request_is_audited(env):
    def records():
        return read_records(env.consumer / "audit.jsonl")
    before = len(records())
    http_json(env.api + "/v1/demo", b"audited", headers={"Content-Type": "text/plain"})
    http_json(env.api + "/not/allowed")
    new = wait_for(lambda: records()[before:] if len(records()) >= before + 2 else None, 10, "audit records")
    assert [(r["method"], r["path"], r["status"]) for r in new] == [("POST", "/v1/demo", 200), ("GET", "/not/allowed", 404)]
    assert new[0]["req_sha256"] == hashlib.sha256(b"audited").hexdigest()
    assert new[1]["req_sha256"] == hashlib.sha256(b"").hexdigest()
    for r in new:
        assert list(r)[:8] == ["ts", "contract_id", "asset_id", "method", "path", "req_sha256", "status", "latency_ms"]
        assert (r["contract_id"], r["asset_id"]) == ("contract-allow", stack.ASSET)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", r["ts"])


def test_a_denied_contract_never_serves(env, tmp_path):
    import tbsys
    ca = tbsys.CA.__new__(tbsys.CA)
    ca.cert = env.ca
    chain = Chain(tmp_path, ca, env.controlplane, "contract-deny", stack.ASSET, env={"TB_DELIVERY": "fifo"})
    with chain:
        chain.wait_state("Suspended", 30)
        assert http_json(chain.url("/health"))[0] == 503
        status, body = http_json(chain.url("/v1/demo"))
        assert status == 403 and body["error"]["message"]
        assert not list(chain.target.iterdir())
        assert not chain.units["tb-hydrate"].started
        assert chain.status()["reason"] == "contract_invalid"


def test_a_damaged_download_is_refused(env, tmp_path):
    """A provider of its own, since the running blob must stay whole."""
    e2e = stack.E2E(tmp_path, blob=0, controlplane=0, api=0, health=0)
    e2e.provider.start()
    try:
        p = e2e.provider
        p.publish(stack.generate_plain(tmp_path / "plain.bin"), stack.ASSET)
        name = f"models/{stack.ASSET}/model.tbenc"
        blob = bytearray(p.azurite.get_blob(name))
        blob[1000] ^= 1
        p.azurite.put_blob(name, bytes(blob))
        e2e.start_chain()
        decrypt = e2e.chain.units["tb-decrypt"]
        wait_for(lambda: decrypt.started and decrypt.daemon.rc == 76, 60, "tb-decrypt to refuse")
        assert re.search("chunk 0 of model.tbenc.*not authentic", decrypt.daemon.log_text())
        assert http_json(e2e.chain.url("/health"))[0] == 503
    finally:
        e2e.stop()


def test_the_runtime_is_reachable_only_inside(env):
    with socket.socket() as s:
        s.settimeout(2)
        assert s.connect_ex(("127.0.0.1", 8081)) != 0
    if env.chain:
        assert env.chain.reachable_inside(8081)


def test_health_endpoints(env):
    for base in (env.api, env.health):
        assert http_json(base + "/health")[0] == 200
        assert http_json(base + "/readiness")[0] == 200
        status, body = http_json(base + "/status")
        assert status == 200 and body["ready"] is True and body["state"] == "Ready" and body["suspended"] is False
        for k in ("asset_id", "contract_id", "uptime_seconds", "requests_processed", "lease_expires_at", "hydrate", "decrypt"):
            assert k in body, k


def test_blob_ranges(env):
    status, body = env.authorize("contract-allow")
    assert status == 200
    ctx = ssl.create_default_context(cafile=env.ca)
    rq = urllib.request.Request(body["sas_url"], headers={"Range": "bytes=0-99"})
    with urllib.request.urlopen(rq, context=ctx, timeout=30) as r:
        assert r.status == 206
        assert r.headers["Content-Range"].startswith("bytes 0-99/")
        data = r.read()
    assert len(data) == 100 and data.startswith(b"TBENC001")


def test_control_plane_answers(env):
    status, body = env.authorize("contract-allow")
    assert status == 200 and body["status"] == "authorized"
    assert re.fullmatch("[0-9a-f]{64}", body["decryption_key_hex"])
    assert body["sas_url"] and body["manifest_url"] and body["expires_at"]
    status, body = env.authorize("contract-deny")
    assert (status, body["status"], body["reason"]) == (200, "denied", "contract_invalid")
    assert http_json(env.controlplane + "/api/v1/health", ca=env.ca)[0] == 200


def test_the_fifo_is_private_and_fresh(tmp_path):
    """While tb-load waits for a reader the FIFO stands with mode 0600; nobody else's FIFO is reused."""
    e2e = stack.E2E(tmp_path, blob=0, controlplane=0, api=0, health=0)
    e2e.provider.start()
    try:
        e2e.provider.publish(stack.generate_plain(tmp_path / "plain.bin"), stack.ASSET)
        chain = Chain(tmp_path / "consumer", e2e.provider.ca, e2e.provider.controlplane.url, asset=stack.ASSET,
                      env={"TB_DELIVERY": "fifo"})
        fifo = chain.shm / "model-pipe"
        os.mkfifo(fifo, 0o666)
        os.chmod(fifo, 0o666)
        old = fifo.stat().st_ino
        keep = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # an attacker who waits on the old one
        with chain:
            st = wait_for(lambda: fifo.exists() and fifo.stat().st_ino != old and fifo.stat(), 60, "a fresh FIFO")
            assert stat.S_ISFIFO(st.st_mode) and stat.S_IMODE(st.st_mode) == 0o600
            data = hashlib.sha256()
            with open(fifo, "rb") as f:
                while chunk := f.read(1 << 20):
                    data.update(chunk)
            assert data.hexdigest() == stack.PLAIN_SHA256
        assert os.read(keep, 1) == b""
        os.close(keep)
    finally:
        e2e.stop()


def test_verify_and_decrypt_agree_with_the_chain(env, tmp_path):
    p = env.dir / "provider"
    tbpkg("verify", "--in", p / "model.tbenc", "--manifest", p / "model.manifest.json", "--key-file", p / "model.key")
    tbpkg("decrypt", "--in", p / "model.tbenc", "--manifest", p / "model.manifest.json", "--key-file", p / "model.key", "--out",
          tmp_path / "plain")
    assert hashlib.sha256((tmp_path / "plain").read_bytes()).hexdigest() == stack.PLAIN_SHA256
    assert os.path.exists(program("tbpkg"))
