# SPDX-License-Identifier: Apache-2.0
"""A model, an output directory and an asset for tbpkg publish, before a real Azurite and the development control plane."""

import json
import os
import shutil
import ssl
import subprocess
import urllib.request
import zipfile

import pytest

import tbsys
from chain import Provider
from faultproxy import FaultProxy
from tbpkg_templates import write_templates
from tbsys import read_json

IMAGE = "acme:trustbridge-gpu:hidden-plan"
STEPS = ["encrypt", "upload", "register", "package"]
FILES = {"config.json": b'{"a": 1}', "model-1.safetensors": b"\x01" * 1_500_000, "model-2.safetensors": os.urandom(1_500_000)}


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    p = Provider(tmp_path_factory.mktemp("provider")).start()
    yield p
    p.stop()


_count = 0


class Place:
    """A model, an output directory and an asset of its own; blob service and control plane behind fault proxies."""

    def __init__(self, provider, blob, plane, directory):
        global _count
        _count += 1
        self.provider, self.blob, self.plane, self.dir = provider, blob, plane, directory
        self.asset, self.container, self.out = f"asset-{_count}", "models", directory / "out"
        self.model, self.image, self.path = directory / "model", ["--vm-image", IMAGE], os.environ["PATH"]
        self.local = None  # where --out keeps the ciphertext
        self.model.mkdir()
        for name, data in FILES.items():
            (self.model / name).write_bytes(data)
        write_templates(directory / "t")
        self.key, self.token = directory / "account.key", directory / "token"
        self.key.write_text(provider.azurite.key)
        self.token.write_text(open(provider.controlplane.token_file).read())

    def argv(self, *more, yes=True):
        return [tbsys.program("tbpkg"), "publish", "--asset-id", self.asset, "--storage-account", self.provider.azurite.account,
                "--container", self.container, "--endpoint", f"{self.blob.url}/{self.provider.azurite.account}", "--account-key-file",
                self.key, "--edc-endpoint", self.plane.url, "--token-file", self.token, "--ca-file", self.provider.ca.cert,
                *self.image, "--template-dir", self.dir / "t", "--output", self.out, "--chunk-bytes", "64K",
                *(["--out", self.local] if self.local else []), *(["--yes"] if yes else []), *more]

    def env(self):
        return {"PATH": self.path, "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
                **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def publish(self, *more, model=True, rc=0, yes=True):
        r = subprocess.run([*map(str, self.argv(*more, yes=yes)), *([str(self.model)] if model else [])], env=self.env(),
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        assert r.returncode == rc, (r.returncode, r.stderr)
        assert "Sanitizer" not in r.stderr
        self.no_secrets(r.stdout + r.stderr)
        return r

    def start(self, *more, **kw):
        return subprocess.Popen([*map(str, self.argv(*more)), str(self.model)], env=self.env(),
                                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **kw})

    def state(self):
        return read_json(self.out / "publish-state.json").get("steps", {})

    def done(self, step):
        return self.state().get(step, {}).get("done", False)

    def no_secrets(self, *texts):
        secrets = [self.key.read_text().strip(), self.token.read_text().strip()]
        if self.model_key.exists():
            secrets.append(self.model_key.read_text().strip())
        state = (self.out / "publish-state.json").read_text() if (self.out / "publish-state.json").exists() else ""
        for s in secrets:
            assert all(s.lower() not in t.lower() for t in (*texts, state))

    def key_of_a_consumer(self):
        """The one the control plane would give to a machine with a contract."""
        return self.answer_to_a_consumer()["decryption_key_hex"]

    def answer_to_a_consumer(self):
        body = json.dumps({"contract_id": "contract-allow", "asset_id": self.asset, "hw_id": "h", "client_version": "t"}).encode()
        rq = urllib.request.Request(f"{self.provider.controlplane.url}/api/v1/license/authorize", body,
                                    {"Content-Type": "application/json"})
        context = ssl.create_default_context(cafile=self.provider.ca.cert)
        with urllib.request.urlopen(rq, context=context, timeout=20) as answer:
            return json.load(answer)

    @property
    def model_key(self):
        """The file of the asset's key: the one that the manifest names (a killed run may leave another, of no ciphertext), else the
        only one."""
        named = read_json(self.out / "encrypted/model.manifest.json").get("key_id", "*")
        return next(iter(self.out.glob(f"{self.asset}-{named}.key")), self.out / "no.key")

    def puts(self):
        return self.blob.count(method="PUT")

    def looked_only(self):
        """Nothing was stored or changed: of all requests only one could have, and its condition cannot be met."""
        return all(r.method in ("HEAD", "GET") or (r.method == "PUT" and r.path.endswith("/tbpkg-write-check") and r.status == 412)
                   for r in (*self.blob.requests, *self.plane.requests))

    def check_published(self):
        """What the run promises, however often it was interrupted."""
        assert all(self.done(s) for s in STEPS)
        manifest = (self.out / "encrypted/model.manifest.json").read_bytes()
        azurite = self.provider.azurite
        sealed = azurite.get_blob(f"{self.container}/{self.asset}/model.tbenc")
        local = self.local or self.out / "encrypted/model.tbenc"
        assert local.read_bytes() == sealed if local.exists() else not self.local
        (self.dir / "stored.tbenc").write_bytes(sealed)
        assert azurite.get_blob(f"{self.container}/{self.asset}/model.manifest.json") == manifest
        assert self.asset in self.provider.controlplane.ctl("asset", "list")
        summary = read_json(self.out / "publish-summary.json")
        assert summary["steps"]["encrypt"]["sha256_ciphertext"] == json.loads(manifest)["sha256_ciphertext"]
        assert set(summary["steps"]) == {*STEPS, "build"}
        with zipfile.ZipFile(self.out / "managed-app.zip") as z:
            assert json.loads(z.read("mainTemplate.json"))["parameters"]["assetId"]["defaultValue"] == self.asset
        assert self.model_key.stat().st_mode & 0o777 == 0o600
        opened = self.dir / "opened"
        shutil.rmtree(opened, ignore_errors=True)
        r = subprocess.run([tbsys.program("tbpkg"), "decrypt", "-q", "-i", self.dir / "stored.tbenc", "-m",
                            self.out / "encrypted/model.manifest.json", "-k", self.model_key, "-o", opened], capture_output=True, text=True)
        assert r.returncode == 0, r.stderr
        assert {p.name: p.read_bytes() for p in opened.iterdir()} == FILES
        assert self.key_of_a_consumer() == self.model_key.read_text().strip()
        left = [p.name for p in (*self.out.iterdir(), *(self.out / "encrypted").iterdir()) if p.name.startswith(".")]
        assert left == []
        self.no_secrets((self.out / "publish-summary.json").read_text())
        return summary


@pytest.fixture
def place(provider, tmp_path):
    with FaultProxy(provider.azurite.endpoint.rsplit("/", 1)[0], tls=provider.ca.issue("blob")) as blob, \
            FaultProxy(provider.controlplane.url, tls=provider.ca.issue("plane")) as plane:
        yield Place(provider, blob, plane, tmp_path)
