# SPDX-License-Identifier: Apache-2.0
"""Registration that cannot hurt: what is registered is proved, what live contracts use is not replaced by accident."""

import hashlib
import json
import subprocess

import tbsys
from controlplane_fixtures import plain, postgres
from controlplane_server import ASSET, BLOBS, KEY, SEALED, Sealed


def test_a_wrong_key_and_a_wrong_blob_are_told_apart(plain):
    """And nothing of them is kept: the key that is registered goes on to be handed out."""
    other, longer = Sealed("77" * 32), Sealed(plaintext=b"weights " * 500)
    mixed, cut, unnamed, plain_file = (Sealed() for _ in range(4))
    mixed.ciphertext = bytearray(mixed.ciphertext)
    mixed.ciphertext[50] ^= 1
    mixed.ciphertext = bytes(mixed.ciphertext)
    cut.ciphertext = cut.ciphertext[:-1]
    plain_file.ciphertext = b"x" * len(plain_file.ciphertext)
    del unnamed.manifest["key_id"]  # as the first TrustBridge writes it
    unnamed.text = json.dumps(unnamed.manifest).encode()
    assert plain.register(asset="proof")[0] == 201
    for sealed, claims, error, says in (
            (SEALED, {"key": "66" * 32}, "wrong_key", "not the one that the manifest names"),
            (unnamed, {"key": "66" * 32}, "wrong_key", "does not open the first record"),
            (mixed, {}, "wrong_blob", "does not open"),
            (cut, {}, "wrong_blob", "bytes"),
            (plain_file, {}, "wrong_blob", "no encrypted asset"),
            (longer, {"sealed": SEALED}, "wrong_manifest", "other contents"),
            (other, {"manifest_sha256": SEALED.manifest_sha256}, "wrong_manifest", "another SHA-256"),
    ):
        url = BLOBS.put(sealed, "wrong")
        status, body, _ = plain.register(url, asset="proof", **{"sealed": sealed, **claims})
        assert (status, body["error"]) == (422, error) and says in body["details"], (error, body)
        assert "66" * 32 not in json.dumps(body)
        assert plain.authorize(asset="proof")[1]["decryption_key_hex"] == KEY
    assert plain.register(BLOBS.put(unnamed, "wrong"), asset="proof", sealed=unnamed)[0] == 200


def test_storage_that_fails_is_no_verdict(plain):
    url = BLOBS.put(SEALED, "away")
    for path, status, expected in (("", 404, 422), ("", 403, 422), (".json", 404, 422), ("", 503, 503), (".json", 500, 503),
                                   ("", 429, 503), ("", 302, 422)):
        BLOBS.faults[f"/artifacts/away.tbenc{path}"] = status
        answer, body, headers = plain.register(url, asset="away")
        del BLOBS.faults[f"/artifacts/away.tbenc{path}"]
        assert (answer, body["error"]) == (expected, "blob_missing" if expected == 422 else "storage_unavailable"), (path, status, body)
        assert (headers["Retry-After"] == "1") == (expected == 503)
    dead = plain.register("http://127.0.0.1:9/a", asset="away")
    assert (dead[0], dead[1]["error"]) == (503, "storage_unavailable")
    assert plain.denied("contract-allow", asset="away") == "asset_unknown"
    assert plain.register(url, asset="away")[0] == 201


def test_only_the_beginning_of_an_asset_is_read(plain):
    """A server that knows no ranges, too, is left when there is enough."""
    large = Sealed(plaintext=bytes(8 << 20), chunk_bytes=1 << 20)
    for ranges in (True, False):
        BLOBS.ranges, BLOBS.asked[:] = ranges, []
        assert plain.register(asset=f"large-{ranges}", sealed=large)[0] == 201
        assert BLOBS.asked[-1] == (f"/artifacts/large-{ranges}.tbenc", f"bytes=0-{32 + 20 + (1 << 20) - 1}")
    BLOBS.ranges = True


def test_what_live_contracts_use_is_replaced_only_when_asked(plain):
    new = Sealed("55" * 32)
    assert plain.register(asset="live")[0] == 201
    plain.cli("contract", "add", "live-1", "--asset", "live", "--mode", "open")
    plain.cli("contract", "add", "live-2", "--asset", "live", "--mode", "open", "--version", "1")
    plain.cli("contract", "add", "live-3", "--asset", "live", "--mode", "open")
    plain.cli("contract", "revoke", "live-3")
    status, body, _ = plain.register(asset="live", sealed=new)  # live-1, and contract-allow, which is for every asset
    assert (status, body["error"]) == (409, "asset_in_use") and "2 live contracts use" in body["message"] and "--replace" in body["message"]
    assert plain.authorize("live-1", asset="live")[1]["decryption_key_hex"] == KEY
    assert plain.register(asset="live", sealed=new, replace=True)[0] == 200
    assert plain.authorize("live-1", asset="live")[1]["decryption_key_hex"] == "55" * 32
    assert plain.authorize("live-2", asset="live")[1]["decryption_key_hex"] == KEY  # it names version 1
    changes = [json.loads(line) for line in plain.cli("changes").splitlines()]
    assert [(c["action"], c["version"]) for c in changes if c["object"] == "live"] == [("asset.register", "1"), ("asset.replace", "2")]
    plain.cli("asset", "restore", "live")
    assert plain.authorize("live-1", asset="live")[1]["decryption_key_hex"] == KEY
    log = json.loads(plain.cli("log", "--json", "--limit", "4"))
    assert [e.get("version") for e in log if e["contract_id"] == "live-1"] == [1, 2, 1]


def test_the_version_that_is_served_has_its_key_beside_the_current_one(plain):
    """One answer, one log row for each key; only what the machine was given before, and an old client is answered as before."""
    first, second = Sealed(hashlib.sha256(b"one").hexdigest()), Sealed(hashlib.sha256(b"two").hexdigest())
    first_sha, second_sha = {"manifest_sha256": first.manifest_sha256}, {"manifest_sha256": second.manifest_sha256}
    assert plain.register(asset="served", sealed=first, **first_sha)[0] == 201
    plain.cli("contract", "add", "serving", "--asset", "served", "--mode", "open")

    def ask(held=None, hw="served-1"):
        return plain.authorize("serving", asset="served", hw=hw, more={} if held is None else {"held_version": held})[1]

    assert (ask()["asset_version"], ask(1).get("held")) == (1, None)
    assert plain.register(asset="served", sealed=second, replace=True, **second_sha)[0] == 200
    old = ask()  # says nothing of what it holds
    assert (old["asset_version"], old["decryption_key_hex"], "held" in old) == (2, second.key, False)
    before = len(json.loads(plain.cli("log", "--json", "--limit", "1000000")))
    both = ask(1)
    assert (both["asset_version"], both["decryption_key_hex"], both["manifest_sha256"]) == (2, second.key, second.manifest_sha256)
    held = both["held"]
    assert (held["asset_version"], held["decryption_key_hex"], held["manifest_sha256"]) == (1, first.key, first.manifest_sha256)
    assert set(held) == {"asset_version", "decryption_key_hex", "manifest_sha256", "sas_url", "manifest_url"}
    rows = json.loads(plain.cli("log", "--json", "--limit", "1000000"))[before:]
    assert sorted(r["version"] for r in rows if r["hw_id"] == "served-1") == [1, 2]
    assert "held" not in ask(1, hw="served-2"), "another machine was never given it"
    for odd in (-1, "1", 1.5, 10**15, [1], None):
        assert ask(odd)["asset_version"] == 2
    assert "held" not in ask(2)
    assert "held" not in ask(1), "it has said that it serves the current one"


def test_changes_are_a_chain_that_tb_audit_verifies(plain, tmp_path):
    plain.cli("contract", "add", "chain", "--asset", ASSET, "--mode", "open")
    plain.cli("contract", "revoke", "chain")
    plain.cli("contract", "allow", "chain")  # the last record has no other behind it that would tell
    (tmp_path / "changes").write_text(plain.cli("changes"))
    verify = [tbsys.program("tb-audit"), "verify", tmp_path / "changes"]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    (tmp_path / "changes").write_text(plain.cli("changes").replace('"state":"contract_revoked"', '"state":"active"', 1))
    assert subprocess.run(verify, capture_output=True).returncode == 76
