# SPDX-License-Identifier: Apache-2.0
"""tb-decrypt with a key that is sealed to the TPM and the boot (swtpm); the sealing is Python's, from RFC 9180."""

import secrets

import pytest

from attest_rig import PCRS, issuer, shared_tpm, tpm  # noqa: F401
from delivery_asset import ASSET, Asset
from delivery_rig import FILES, Rig
from software_tpm import EVIL, digest, key_info, wrapped_credential


@pytest.fixture
def rig(tmp_path):
    r = Rig(tmp_path)
    yield r
    r.close()


def sealed(tpm, asset, contract="c", name=ASSET, bound="none", pcrs=PCRS):
    return wrapped_credential(tpm.boot_point(pcrs), key_info(contract, name, bound), asset.key, pcrs)


def deliver(rig, tpm, asset, key, bound="none", **env):
    """(exit code of tb-decrypt, what it said)"""
    asset.write(rig.target)
    decrypt = rig.decrypt(asset, key=key, bound=bound, TB_TPM=tpm.path if tpm else rig.tmp / "no-tpm", **env).start()
    load = rig.probe().start()
    rc = decrypt.wait()
    if rc == 0:
        rig.facts()
    rig.stay.unlink(missing_ok=True)
    load.wait()
    return rc, decrypt.log_text()


def test_the_model_is_delivered_by_the_tpm(rig, tpm):
    asset = Asset(FILES)
    assert deliver(rig, tpm, asset, sealed(tpm, asset))[0] == 0


def test_bound_to_its_manifest(rig, tpm):
    import hashlib
    asset = Asset(FILES)
    sha = hashlib.sha256(asset.manifest_text()).hexdigest() if isinstance(asset.manifest_text(), bytes) else hashlib.sha256(asset.manifest_text().encode()).hexdigest()
    assert deliver(rig, tpm, asset, sealed(tpm, asset, bound=sha), bound=sha)[0] == 0


@pytest.mark.parametrize("how", ["another contract", "another asset", "another manifest", "a later register", "another boot", "one bit", "other PCRs"])
def test_sealed_for_something_else_is_asked_for_again(rig, tpm, how):
    asset = Asset(FILES)
    key = sealed(tpm, asset, **{"another contract": {"contract": "d"}, "another asset": {"name": "other"},
                                "another manifest": {"bound": "0" * 64}}.get(how, {}))
    if how == "a later register":
        tpm.extend(11, digest("later"))
    elif how == "another boot":
        tpm.reboot(EVIL)
    elif how == "one bit":
        key = key[:-1] + bytes([key[-1] ^ 1])
    elif how == "other PCRs":
        key = key[:8] + (1 << 7).to_bytes(4, "big") + key[12:]
    rc, log = deliver(rig, tpm, asset, key)
    assert rc == 75 and "sealed for another contract, manifest or state of this machine" in log


@pytest.mark.parametrize("key", [b"x" * 31, b"TBWK0001" + b"\0" * 117, b"TBWK0001" + b"\0\x80\0\0" + b"\1" * 113, b"TBWK0002" + b"\0\0\0\x10" + b"\1" * 113,
                                 b"TBWK0001" + b"\0\0\0\x10" + b"\1" * 112], ids=["31 bytes", "no PCRs", "PCR 23", "another format", "too short"])
def test_what_is_no_sealed_key_is_a_refusal(rig, tpm, key):
    rc, log = deliver(rig, tpm, Asset(FILES), key)
    assert rc == 77 and "neither a key's 32 nor a sealed one's 125" in log


def test_without_the_tpm(rig, tpm):
    asset = Asset(FILES)
    rc, log = deliver(rig, None, asset, sealed(tpm, asset))
    assert rc == 75 and "not there; choose a machine with a virtual TPM" in log


def test_a_point_that_is_none(rig, tpm):
    """A sealed key whose sender is not on the curve: the TPM refuses it."""
    asset = Asset(FILES)
    key = sealed(tpm, asset)
    key = key[:13] + secrets.token_bytes(64) + key[77:]
    assert deliver(rig, tpm, asset, key)[0] == 75
