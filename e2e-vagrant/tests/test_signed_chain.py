# SPDX-License-Identifier: Apache-2.0
"""The chain with TB_PROVIDER_KEY, and an attacker who has the storage and the control plane: he registers a model, a manifest and a key of
his own under the provider's asset, and everything fits but the signature."""

import pathlib

import model
import pytest
from chain import http_json, tbpkg
from test_chain import chain_of, chat, content, contract, never_ready, provider  # noqa: F401

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "tests/vectors/minisign"
PINNED = (VECTORS / "one.pub").read_text().splitlines()[1]
JOBS = "/v1/fine_tuning/jobs"


def publish(provider, asset, source, directory, *more, sign="one", replace=False):
    """As the provider guide says; by whoever has the storage's key and the control plane's token."""
    files = {n: directory / n for n in ("model.tbenc", "model.manifest.json", "model.key")}
    directory.mkdir()
    tbpkg("encrypt", "--asset-id", asset, "--in", source, "--out", files["model.tbenc"], "--manifest", files["model.manifest.json"],
          "--key-out", files["model.key"], "--chunk-bytes", "64KiB", *(["--sign-key", VECTORS / f"{sign}.key"] if sign else []), *more)
    p = provider.azurite
    for name in ("model.tbenc", "model.manifest.json"):
        p.put_blob(f"models/{asset}/{name}", files[name].read_bytes())
    tbpkg("register", "--edc-endpoint", provider.controlplane.url, "--asset-id", asset, "--manifest", files["model.manifest.json"],
          "--key-file", files["model.key"], "--blob-url", f"{p.endpoint}/models", *(["--replace"] if replace else []), env=provider.env())
    return files


@pytest.fixture
def asset(provider, request, tmp_path):
    """Published by the provider, and a contract about it of the same name."""
    name = request.node.name.replace("[", "-").rstrip("]").replace(" ", "-")[:60]
    publish(provider, name, provider.source, tmp_path / "provider")
    return contract(provider, name, name)


def signed_chain(provider, directory, asset, **env):
    return chain_of(provider, directory / "machine", asset, asset, env={"TB_PROVIDER_KEY": PINNED, **env})


def test_what_the_provider_signed_is_served_and_may_be_tuned(provider, asset, tmp_path):
    with signed_chain(provider, tmp_path, asset) as c:
        c.wait_state("Ready", 90)
        assert content(chat(c))
        assert http_json(c.url(JOBS), {})[0] != 403  # the runtime's own answer


def test_a_signed_no_closes_fine_tuning(provider, asset, tmp_path):
    publish(provider, asset, provider.source, tmp_path / "no", "--no-finetune", replace=True)
    with signed_chain(provider, tmp_path, asset) as c:
        c.wait_state("Ready", 90)
        assert content(chat(c))
        status, answer = http_json(c.url(JOBS), {})[:2]
        assert (status, answer["error"]["code"]) == (403, "finetuning_not_allowed")


@pytest.mark.parametrize("sign", ["two", None], ids=["signed by the attacker", "unsigned"])
def test_hydrate_refuses_the_attackers_model(provider, asset, tmp_path, sign):
    evil = model.make_model(tmp_path / "evil", seed=66)
    publish(provider, asset, evil, tmp_path / "attacker", sign=sign, replace=True)
    with signed_chain(provider, tmp_path, asset) as c:
        logs = never_ready(c, "tb-hydrate")
        assert "TB_PROVIDER_KEY pins whose signature counts" in logs
        assert not list(c.target.iterdir()), "nothing of it was fetched"
    # and without the key it would have been served: the attack is a real one
    with chain_of(provider, tmp_path / "trusting", asset, asset) as c:
        c.wait_state("Ready", 90)
        assert content(chat(c))


def test_decrypt_refuses_it_too(provider, asset, tmp_path):
    """Though a tb-hydrate that was taken over, or a machine that pinned nothing when it fetched, has put it there."""
    evil = model.make_model(tmp_path / "evil", seed=66)
    publish(provider, asset, evil, tmp_path / "attacker", sign="two", replace=True)
    c = chain_of(provider, tmp_path / "machine", asset, asset)
    c.units["tb-decrypt"].daemon.env = {**c.units["tb-decrypt"].daemon.env, "TB_PROVIDER_KEY": PINNED}
    with c:
        logs = never_ready(c, "tb-runtime")
        assert "TB_PROVIDER_KEY pins whose signature counts" in logs
        assert not (c.shm / "model").exists() or not list((c.shm / "model").iterdir())


def test_an_older_manifest_of_the_same_asset_is_the_control_planes_to_refuse(provider, asset, tmp_path):
    """A signature says who, not which: the storage alone cannot go back, for the contract names the manifest by its hash."""
    old = {n: (tmp_path / "provider" / n).read_bytes() for n in ("model.tbenc", "model.manifest.json")}
    publish(provider, asset, provider.source, tmp_path / "new", replace=True)
    for name, data in old.items():
        provider.azurite.put_blob(f"models/{asset}/{name}", data)
    with signed_chain(provider, tmp_path, asset) as c:
        assert "not the one the contract names" in never_ready(c, "tb-hydrate")
