# SPDX-License-Identifier: Apache-2.0
"""--key-out akv:VAULT: the key in Azure Key Vault (a strict stand-in after the REST reference, with the machine's identity) and on no disk."""

import json
import os
import subprocess

import pytest

import tbsys
from faultproxy import FaultProxy, swallow
from key_services import SecretVault
from tbpkg_local import ENV, ok, open_by_hand, refused


@pytest.fixture
def vault():
    with SecretVault() as v:
        yield v


@pytest.fixture
def place(tmp_path, vault):
    (tmp_path / "m").write_bytes(os.urandom(700_000))
    return tmp_path


def env_of(vault, **more):
    return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": vault.url, **more}


def no_clear_key(directory, value):
    for path in directory.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert value.encode() not in data and bytes.fromhex(value) not in data, path


def test_a_key_in_the_vault_only(place, vault):
    r = json.loads(ok("encrypt", "-a", "Llama-3.1_8B", "m", "-c", "64K", "--json", "-k", f"akv:{vault.url}", cwd=place, env=env_of(vault)).stdout)
    ((name, ((version, value, more),)),) = vault.secrets.items()
    assert name == f"Llama-3-1-8B-{r['key_id']}" and r["key_file"] == f"{vault.url}/secrets/{name}/{version}"
    assert more == {"contentType": "application/vnd.trustbridge.key", "tags": {"asset_id": "Llama-3.1_8B", "key_id": r["key_id"]}}
    no_clear_key(place, value)
    m = json.loads((place / "model.manifest.json").read_text())
    assert open_by_hand((place / "model.tbenc").read_bytes(), m, bytes.fromhex(value)) == (place / "m").read_bytes()


def test_a_name_of_ones_own_keeps_every_version(place, vault):
    for n in (1, 2):
        ok("encrypt", "-a", "a", "m", "-f", "-k", f"akv:{vault.url}/my-key", cwd=place, env=env_of(vault))
        assert len(vault.secrets["my-key"]) == n
    (place / "k").write_text("ab" * 32)
    ok("key", "export", "-k", "k", "--key-out", f"akv:{vault.url}/my-key", cwd=place, env=env_of(vault))
    assert vault.secrets["my-key"][-1][1] == "ab" * 32 and len({v[1] for v in vault.secrets["my-key"]}) == 3


def test_refusals_leave_nothing(place, vault):
    vault.denied = True
    refused("encrypt", "-a", "a", "m", "-k", f"akv:{vault.url}", cwd=place, env=env_of(vault), match="403.*Key Vault Secrets Officer")
    vault.denied, vault.busy = False, 9
    refused("encrypt", "-a", "a", "m", "-k", f"akv:{vault.url}", cwd=place, env=env_of(vault), match="Key Vault answered .*503")
    assert [f.name for f in place.iterdir()] == ["m"] and not vault.secrets
    vault.busy = 2
    ok("encrypt", "-a", "a", "m", "-k", f"akv:{vault.url}", cwd=place, env=env_of(vault))
    assert len(vault.secrets) == 1


@pytest.mark.parametrize("target, says", [("akv:", "needs a vault"), ("akv:x", "not the name of a key vault"), ("akv:my_vault", "not the name"),
                                          ("akv:vault/", "a secret's name"), ("akv:vault/a.b", "a secret's name"), ("akv:vault/a/b", "a secret's name"),
                                          ("akv:http://h.example", "plain http"), ("akv:https://u@h", "no user name")])
def test_usage(place, target, says):
    refused("encrypt", "-a", "a", "m", "-k", target, cwd=place, rc=2, match=says)


def test_an_upload_goes_on_with_the_key_of_the_vault(place, vault, tmp_path_factory):
    """Killed in its middle: the key is read again from where it was put, and never touches the disk."""
    azurite = tbsys.Azurite(tmp_path_factory.mktemp("azurite")).start()
    try:
        azurite.create_container("models")
        with FaultProxy(azurite.endpoint) as proxy:
            argv = [tbsys.program("tbpkg"), "encrypt", "--upload", "-a", "a", "-s", azurite.account, "--endpoint", f"{proxy.url}/{azurite.account}",
                    "-k", f"akv:{vault.url}", "--block-bytes", "64K", "-c", "64K", "--concurrency", "2", "--json", str(place / "m")]
            env = {**ENV, **env_of(vault, AZURE_STORAGE_KEY=azurite.key)}
            proxy.rule(swallow(), nth=range(6, 1000), method="PUT")
            p = subprocess.Popen(argv, cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            proxy.wait(7, method="PUT")  # both connections hang: no other one comes after the kill
            p.kill()
            p.wait()
            proxy.clear_rules()
            sent, vault.denied = proxy.count(method="PUT"), True  # for now: no reason to begin anew under another key
            denied = subprocess.run(argv, cwd=place, env=env, capture_output=True, text=True, timeout=60, check=False)
            assert denied.returncode == 1 and "Key Vault answered" in denied.stderr and "new key" not in denied.stderr, denied.stderr
            assert proxy.count(method="PUT") == sent and len(vault.secrets) == 1
            vault.denied = False
            r = json.loads(subprocess.run(argv, cwd=place, env=env, check=True, capture_output=True, timeout=60).stdout)
        ((_, ((_, value, _),)),) = vault.secrets.items()
        assert r["upload"]["ciphertext"]["bytes_resumed"] >= 4 * 65536
        no_clear_key(place, value)
        m = json.loads((place / "model.manifest.json").read_text())
        assert open_by_hand(azurite.get_blob("models/a/model.tbenc"), m, bytes.fromhex(value)) == (place / "m").read_bytes()
    finally:
        azurite.stop()
