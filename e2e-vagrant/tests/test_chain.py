# SPDX-License-Identifier: Apache-2.0
"""The whole chain with Azurite, the control plane and a real llama-server: what must hold when all goes well, and when each
part is damaged, denied, killed or cut off."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.request

import model
import pytest
import tbsys
from chain import Chain, Provider, http_json, tbpkg
from tbsys import Daemon, free_port, wait_for

ASSET = "chain-model"


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    d = tmp_path_factory.mktemp("provider")
    p = Provider(d).start()
    try:
        p.source = model.make_model(d / "model")
        p.publish(p.source, ASSET, "64KiB")
        yield p
    finally:
        p.stop()


def contract(provider, name, asset=ASSET, **options):
    args = [x for k, v in options.items() for x in (f"--{k.replace('_', '-')}", v)]
    provider.controlplane.ctl("contract", "add", name, "--asset", asset, "--mode", "open", *args)
    return name


PATIENCE = 120  # with a refusal: a record that nobody fetches once more is waited for, on a view once before the runtime dies of it and once after


def chain_of(provider, directory, name, asset=ASSET, env=None, edc=None):
    return Chain(directory, provider.ca, edc or provider.controlplane.url, name, asset, runtime_exec=model.llama_command(),
                 env={"TB_BILLING_INTERVAL": "1s", "TB_LOG_LEVEL": "debug", **(env or {})})


def chat(chain, **more):
    return http_json(chain.url("/v1/chat/completions"), {**model.CHAT, **more})


def settled_audit(chain):
    """How many audit records there are once the queue has been written."""
    def settled():
        first = len(chain.audit())
        time.sleep(0.3)
        return len(chain.audit()) == first and first
    return wait_for(settled, 10, "the audit queue")


def content(answer):
    return answer[1]["choices"][0]["message"]["content"]


def ask_now(chain):
    """SIGHUP: tb-authorize asks at once instead of at its next renewal."""
    os.kill(chain.pid("tb-authorize"), signal.SIGHUP)


@pytest.fixture(scope="module")
def chain(provider, tmp_path_factory):
    with chain_of(provider, tmp_path_factory.mktemp("consumer"), contract(provider, "shared")) as c:
        yield c.wait_state("Ready", 90)


def test_temperature_0_equals_the_plaintext(provider, chain):
    port = free_port()
    direct = Daemon(shlex.split(model.llama_command(provider.source / model.GGUF, port))).start()
    try:
        def up():
            try:
                return http_json(f"http://127.0.0.1:{port}/health")[0] == 200
            except OSError:
                return False
        wait_for(up, 30, "llama-server on the plaintext")
        want = content(http_json(f"http://127.0.0.1:{port}/v1/chat/completions", model.CHAT))
    finally:
        direct.stop()
    assert want
    assert content(chat(chain)) == want
    rq = urllib.request.Request(chain.url("/v1/chat/completions"), json.dumps({**model.CHAT, "stream": True}).encode(),
                                {"Content-Type": "application/json"})
    text = ""
    with urllib.request.urlopen(rq, timeout=30) as r:
        assert r.headers["Content-Type"].startswith("text/event-stream")
        for line in r:
            if line.startswith(b"data: {"):
                text += ((json.loads(line[6:]).get("choices") or [{}])[0].get("delta") or {}).get("content") or ""
    assert text == want


def test_other_weights_answer_otherwise(provider, chain, tmp_path):
    """The comparison above can fail: another seed gives another text."""
    port, other = free_port(), model.make_model(tmp_path / "other", seed=2)
    direct = Daemon(shlex.split(model.llama_command(other / model.GGUF, port))).start()
    try:
        wait_for(lambda: tbsys.socket.socket().connect_ex(("127.0.0.1", port)) == 0, 30, "llama-server")
        wait_for(lambda: http_json(f"http://127.0.0.1:{port}/health")[0] == 200, 30, "health")
        assert content(http_json(f"http://127.0.0.1:{port}/v1/chat/completions", model.CHAT)) != content(chat(chain))
    finally:
        direct.stop()


def test_usage_reaches_the_ledger_and_the_control_plane(chain, provider):
    before = chain.status()["requests_processed"]
    assert chat(chain)[0] == 200
    wait_for(lambda: chain.status()["requests_processed"] == before + 1, 10, "the request to be counted")

    def booked():
        r = subprocess.run([tbsys.program("tb-billing"), "ledger", "--json"], capture_output=True, text=True,
                           env={"PATH": "/bin", "STATE_DIRECTORY": str(chain.state / "tb-billing"),
                                **{k: str(v) for k, v in chain.env.items()}})
        return sum(row["quantity"] for row in json.loads(r.stdout or '{"used": []}')["used"] if row["counter"] == "requests")
    wait_for(lambda: booked() >= before + 1, 15, "the booking")
    report = tbsys.read_json(chain.run / "tb-billing/report.json")
    assert report["contract_id"] == chain.env["TB_CONTRACT_ID"] and report["used"]["requests"] >= before + 1

    def reported():
        rows = json.loads(provider.controlplane.ctl("usage", "--json"))
        return [r for r in rows if r["contract_id"] == report["contract_id"] and r["report"]["used"]["requests"] > before]
    chain.units["tb-authorize"].daemon.kill(signal.SIGHUP)  # renew now
    wait_for(reported, 20, "the signed report")
    # With it goes where the audit chain stands: what the provider has in writing must be among the records.
    audit = reported()[0]["report"]["audit"]
    r = subprocess.run([tbsys.program("tb-audit"), "verify", "--no-head", "--expect", f"{audit['seq']}:{audit['head']}", chain.audit_file],
                       capture_output=True, text=True)
    assert r.returncode == 0, r
    other = f"{audit['seq']}:{'0' * 64}"
    assert subprocess.run([tbsys.program("tb-audit"), "verify", "--no-head", "--expect", other, chain.audit_file],
                          capture_output=True).returncode == 76


def descendants(pid):
    found, todo = [], [pid]
    while todo:
        p = todo.pop()
        found.append(p)
        for t in pathlib.Path(f"/proc/{p}/task").glob("*/children"):
            try:
                todo += [int(x) for x in t.read_text().split()]
            except OSError:
                pass
    return found


def needles(provider):
    """Every form in which a secret of this run could leak."""
    key = pathlib.Path(provider.dir / "model.key").read_text().strip()
    raw = bytes.fromhex(key)
    token = pathlib.Path(provider.controlplane.token_file).read_text().strip()
    return {"key hex": key.encode(), "key HEX": key.upper().encode(), "key raw": raw, "key base64": base64.b64encode(raw),
            "SAS": b"sig=", "provider token": token.encode(), "storage key": provider.azurite.key.encode()}


def test_no_secret_in_any_log_argv_environ_or_file(provider, chain):
    chat(chain)
    secrets = needles(provider)
    files = [p for root in (chain.dir, chain.shm) for p in root.rglob("*") if p.is_file()]
    files += [provider.controlplane.dir / "controlplane.log"]
    assert len(files) > 10
    for p in files:
        data = p.read_bytes()
        for what, needle in secrets.items():
            assert needle not in data, f"{what} in {p}"
    seen = 0
    for unit in [u.daemon for u in chain.units.values()] + [provider.controlplane.daemon]:
        for pid in descendants(unit.pid) if unit.running() else []:
            for kind in ("cmdline", "environ"):
                data = pathlib.Path(f"/proc/{pid}/{kind}").read_bytes()
                seen += len(data) > 0
                for what, needle in secrets.items():
                    assert needle not in data, f"{what} in {kind} of {unit.name}"
    assert seen >= 8


def test_no_plaintext_in_any_file_outside_the_runtime(chain):
    for root in (chain.dir, chain.shm):
        for p in root.rglob("*"):
            if p.is_file():
                data = p.read_bytes()
                for marker in model.MARKERS:
                    assert marker not in data, p


def test_the_runtime_restarted_three_times_serves_the_same(chain):
    want = content(chat(chain))
    authorize, hydrate = chain.pid("tb-authorize"), chain.units["tb-hydrate"].restarts
    for _ in range(3):
        old = chain.pid("tb-runtime")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: chain.status().get("state") != "Ready", 20, "not Ready")
        assert chain.status()["ready"] is False
        wait_for(lambda: chain.pid("tb-runtime") != old, 20, "a new runtime")
        chain.wait_state("Ready")
        assert content(chat(chain)) == want
    assert chain.pid("tb-authorize") == authorize and chain.units["tb-hydrate"].restarts == hydrate


@pytest.mark.parametrize("name", ["tb-authorize", "tb-proxy", "tb-billing"])
def test_sigkill_of_a_service_moves_nothing_else(chain, name):
    others = {n: chain.pid(n) for n in ("tb-authorize", "tb-proxy", "tb-billing", "tb-runtime") if n != name}
    want, count = content(chat(chain)), settled_audit(chain)
    old = chain.pid(name)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: chain.pid(name) != old and chain.units[name].daemon.running(), 20, f"{name} to restart")
    chain.wait_state("Ready", 30)
    assert content(chat(chain)) == want
    assert {n: chain.pid(n) for n in others} == others
    assert settled_audit(chain) == count + 1


def test_sigkill_while_downloading_and_decrypting(provider, tmp_path):
    with chain_of(provider, tmp_path, contract(provider, "killed"), env={"TB_DOWNLOAD_CHUNK_BYTES": "65536"}) as c:
        for name in ("tb-hydrate", "tb-decrypt"):
            unit = c.units[name]
            wait_for(lambda: unit.started, 30, f"{name} to start", every=0.001)
            unit.daemon.kill()
        c.wait_state("Ready", 60)
        assert chat(c)[0] == 200


def test_a_complete_download_is_not_fetched_again(provider, tmp_path):
    name = contract(provider, "reboot")
    with chain_of(provider, tmp_path, name) as c:
        c.wait_state("Ready")
        st = (c.target / "model.tbenc").stat()
    shutil.rmtree(tmp_path / "run")  # what a reboot does to /run
    with chain_of(provider, tmp_path, name) as c:
        c.wait_state("Ready")
        again = (c.target / "model.tbenc").stat()
        assert (again.st_ino, again.st_mtime_ns) == (st.st_ino, st.st_mtime_ns)


def test_revoked_while_serving_then_allowed_again(provider, tmp_path):
    name = contract(provider, "revoked")
    with chain_of(provider, tmp_path, name) as c:
        c.wait_state("Ready")
        want = content(chat(c))
        provider.controlplane.ctl("contract", "revoke", name)
        ask_now(c)
        wait_for(lambda: chat(c)[0] == 403, 10, f"403\n{c.logs()}")
        status, body = chat(c)
        assert body["error"]["type"] and body["error"]["code"] and body["error"]["message"]
        assert http_json(c.url("/health"))[0] == 503
        wait_for(lambda: not c.units["tb-runtime"].daemon.running(), 10, "the runtime to stop")
        # A restart does not clear a suspension, even when nobody can be asked.
        old = c.pid("tb-authorize")
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: c.pid("tb-authorize") != old, 20, "tb-authorize to restart")
        assert c.status()["state"] == "Suspended" and chat(c)[0] == 403
        provider.controlplane.ctl("contract", "allow", name)
        c.wait_state("Ready", 60)
        assert content(chat(c)) == want
        statuses = [r["status"] for r in c.audit()]
        assert 200 in statuses and 403 in statuses


def test_control_plane_down_at_boot(provider, tmp_path):
    """The chain waits, says so, and goes on by itself when the control plane comes."""
    name, cp = contract(provider, "late"), provider.controlplane
    cp.stop()
    try:
        with chain_of(provider, tmp_path, name) as c:
            wait_for(lambda: c.status().get("state") in ("Boot", "Authorize"), 20, "Authorize")
            assert chat(c)[0] == 503
            status = c.units["tb-authorize"].daemon
            wait_for(lambda: re.search("control plane|try again|retry|connect", status.notified("STATUS") or "", re.I), 20, "STATUS")
            cp.start()
            c.wait_state("Ready", 60)
    finally:
        if not cp.daemon.running():
            cp.start()


def test_control_plane_down_past_the_grace(provider, tmp_path):
    name, cp = contract(provider, "grace", lease_seconds=4), provider.controlplane
    with chain_of(provider, tmp_path, name, env={"TB_LEASE_GRACE": "3s"}) as c:
        c.wait_state("Ready")
        cp.stop()
        try:
            begin = time.monotonic()
            wait_for(lambda: chat(c)[0] == 403, 30, "the lease to run out")
            assert time.monotonic() - begin > 2  # the grace was served
            c.wait_state("Suspended", 10)
        finally:
            cp.start()
        ask_now(c)
        c.wait_state("Ready", 60)


# -- damage -------------------------------------------------------------------------------------------------------------

def records(blob):
    """[(start, end)] of the records of a .tbenc."""
    at, out = 32, []
    while at < len(blob):
        n = int.from_bytes(blob[at:at + 4], "big")
        out.append((at, at + 20 + n))
        at += 20 + n
    return out


def flip(at):
    def damage(blob):
        b = bytearray(blob)
        b[at(blob)] ^= 0x10
        return bytes(b)
    return damage


def swap(blob):
    r = records(blob)
    (a, b), (c, d) = r[1], r[2]
    return blob[:a] + blob[c:d] + blob[a:b] + blob[d:]


DAMAGE = {
    "header": flip(lambda b: 9), "nonce": flip(lambda b: 16), "reserved": flip(lambda b: 25),
    "length": flip(lambda b: records(b)[3][0] + 3), "ciphertext": flip(lambda b: records(b)[5][0] + 700),
    "tag": flip(lambda b: records(b)[7][1] - 1), "swapped": swap,
    "dropped": lambda b: b[:records(b)[4][0]] + b[records(b)[4][1]:],
    "duplicated": lambda b: b[:records(b)[4][1]] + b[records(b)[4][0]:records(b)[4][1]] + b[records(b)[4][1]:],
    "cut at a boundary": lambda b: b[:records(b)[-1][0]], "cut inside": lambda b: b[:-100],
    "trailing": lambda b: b + b"\0" * 40,
    "oversized length": lambda b: b[:32] + b"\xff\xff\xff\xff" + b[36:],
}


@pytest.fixture(scope="module")
def hostile(provider, tmp_path_factory):
    """An asset whose blobs the test rewrites, with a manifest that is not bound to the contract: the weakest case there is."""
    return hostile_asset(provider, tmp_path_factory.mktemp("hostile"))


def hostile_asset(provider, d):
    asset = "hostile"
    files = {n: d / n for n in ("model.tbenc", "model.manifest.json", "model.key")}
    encrypt(asset, provider.source, files)
    contract(provider, "hostile", asset)
    return asset, files


def encrypt(asset, source, files):
    tbpkg("encrypt", "--asset-id", asset, "--in", source, "--out", files["model.tbenc"], "--manifest",
          files["model.manifest.json"], "--key-out", files["model.key"], "--chunk-bytes", "64KiB")


def put(provider, asset, files, blob, manifest):
    """Registers the asset of files as it is, for the control plane tries the key. Then uploads blob and manifest, and binds them in the
    control plane's database: an attacker who holds both."""
    p = provider.azurite
    p.put_blob(f"models/{asset}/model.tbenc", files["model.tbenc"].read_bytes())
    p.put_blob(f"models/{asset}/model.manifest.json", files["model.manifest.json"].read_bytes())
    tbpkg("register", "--edc-endpoint", provider.controlplane.url, "--asset-id", asset, "--manifest", files["model.manifest.json"],
          "--key-file", files["model.key"], "--blob-url", f"{p.endpoint}/models", "--replace", env=provider.env())
    text = json.dumps(manifest, indent=2).encode()
    p.put_blob(f"models/{asset}/model.tbenc", blob)
    p.put_blob(f"models/{asset}/model.manifest.json", text)
    with contextlib.closing(sqlite3.connect(provider.controlplane.dir / "controlplane.db")) as db, db:
        n = db.execute("UPDATE asset_versions SET sha256_ciphertext=?, manifest_sha256=? WHERE asset_id=? AND version="
                       "(SELECT current_version FROM assets a WHERE a.asset_id=asset_versions.asset_id)",
                       [manifest["sha256_ciphertext"], hashlib.sha256(text).hexdigest(), asset]).rowcount
    assert n == 1


def never_ready(chain, unit, codes=(76,)):
    """Runs the chain until `unit` gives up with one of codes; at no time was it Ready."""
    daemon, log = chain.units[unit].daemon, []

    def gave_up():
        s = chain.status()
        log.append(s.get("state"))
        assert not s.get("ready")
        return chain.units[unit].started and daemon.rc in codes
    wait_for(gave_up, PATIENCE, f"{unit} to give up; saw {set(log)}\n{chain.logs()}")
    assert http_json(chain.url("/health"))[0] == 503
    assert chat(chain)[0] == 503
    return chain.logs()


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damage_never_reaches_ready(provider, hostile, tmp_path, kind):
    """The manifest's whole-file hash is rewritten to fit the damage, so that only the record checks stand in the way."""
    asset, files = hostile
    blob = DAMAGE[kind](files["model.tbenc"].read_bytes())
    manifest = json.loads(files["model.manifest.json"].read_text())
    manifest["sha256_ciphertext"] = hashlib.sha256(blob).hexdigest()
    put(provider, asset, files, blob, manifest)
    whole = len(blob) == files["model.tbenc"].stat().st_size
    with chain_of(provider, tmp_path, "hostile", asset) as c:
        end = wait_for(lambda: next((u for u in ("tb-hydrate", "tb-runtime") if c.units[u].started and c.units[u].daemon.rc == 76), None),
                       PATIENCE, f"a refusal of {kind}\n{c.logs()}")
        logs = never_ready(c, end)
        assert not (c.shm / "model").exists() or not list((c.shm / "model").iterdir())
        if whole and kind not in ("header", "nonce", "reserved"):
            assert re.search(r"(chunk|record) \d+", logs), logs


@pytest.mark.parametrize("change", [
    {"weights_filename": "../../escape"}, {"weights_filename": "/etc/escape"}, {"asset_id": "another"}, {"plaintext_bytes": 5},
    {"sha256_ciphertext": "00" * 32}, {"plaintext_bytes": 2 ** 53 + 2}, {"chunk_bytes": 4096}, {"format": "tbenc/v2"},
    {"tags_sha256": "11" * 32},
], ids=lambda c: "-".join(map(str, c.items()))[:50])
def test_manifest_attacks_never_reach_ready(provider, hostile, tmp_path, change):
    """The storage holds another manifest than the contract binds; and, bound anew, one that tells lies."""
    asset, files = hostile
    good = json.loads(files["model.manifest.json"].read_text())
    blob = files["model.tbenc"].read_bytes()
    put(provider, asset, files, blob, good)
    provider.azurite.put_blob(f"models/{asset}/model.manifest.json", json.dumps({**good, **change}, indent=2).encode())
    with chain_of(provider, tmp_path, "hostile", asset) as c:
        never_ready(c, "tb-hydrate")
        assert not list(c.target.iterdir())
    assert not (tmp_path / "escape").exists() and not pathlib.Path("/etc/escape").exists()


def test_a_manifest_of_100_mb_is_not_read(provider, hostile, tmp_path):
    asset, files = hostile
    put(provider, asset, files, files["model.tbenc"].read_bytes(), json.loads(files["model.manifest.json"].read_text()))
    provider.azurite.put_blob(f"models/{asset}/model.manifest.json", b" " * 100_000_000)
    with chain_of(provider, tmp_path, "hostile", asset) as c:
        never_ready(c, "tb-hydrate")


def test_wrong_key_never_reaches_ready(provider, hostile, tmp_path):
    asset, files = hostile
    good = json.loads(files["model.manifest.json"].read_text())
    (tmp_path / "small").write_bytes(b"weights" * 10000)
    other = {n: tmp_path / n for n in files}
    encrypt(asset, tmp_path / "small", other)
    del good["key_id"]
    put(provider, asset, other, files["model.tbenc"].read_bytes(), good)  # its key is other's
    with chain_of(provider, tmp_path, "hostile", asset) as c:
        assert re.search(r"(chunk|record) 0", never_ready(c, "tb-runtime"))
