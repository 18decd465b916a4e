# SPDX-License-Identifier: Apache-2.0
"""The container image of `tbpkg build`, started by Debian's podman as the provider's guide says. There is no GPU here, so a llama-server is in
the base image. One container, in the order of this file; test_oci.py is about what is in the image."""

import json
import pathlib
import re
import shlex
import sys

import debs
import model
import pytest
from appliance import GuestProvider
from engine import HOST, Engine
from scenario import ASSET, SHORT, content
from tbsys import wait_for

sys.path.append(str(debs.REPO / "e2e-vagrant/tests/vm"))
from test_serving import plaintext_answer

CONTRACT, NAME = "oci-image", "trustbridge"
UNSIGNED = "unsigned"  # a contract and its asset
AUDIT = "/var/log/trustbridge/audit.jsonl"
RUNTIME = f"/opt/runtime-kit/llama-server -m {{model}}/{model.GGUF} -c 1024 -t 1 --host 127.0.0.1 --port 8081 --parallel 2"


def command(image):
    """What the guide says, with our image and without a GPU; and with the port of the state, which a probe may ask."""
    guide = (debs.REPO / "docs/provider-guide.md").read_text()
    words = shlex.split(re.search(r"^    (podman run --detach .*)$", guide, re.M)[1])
    at = words.index("--device")
    del words[at:at + 2]
    assert words[-1].startswith("acme.azurecr.io/") and words[words.index("--name") + 1] == NAME
    return [*words[:-1], "--publish=8001:8001", image]


class Signing(GuestProvider):
    """The provider whose key the image pins."""

    def encrypt_args(self, source, asset, chunk):
        more = ["--sign-key", debs.REPO / "tests/vectors/minisign/one.key"] if asset == ASSET else []
        return [*super().encrypt_args(source, asset, chunk), *more]


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    d = tmp_path_factory.mktemp("provider")
    p = Signing(d).start()
    try:
        p.source = model.make_model(d / "model")
        p.publish(p.source, ASSET, "64KiB")
        p.name = "unsigned"  # its files beside the others
        p.publish(p.source, UNSIGNED, "64KiB")
        p.controlplane.ctl("contract", "add", CONTRACT, "--asset", ASSET, "--mode", "open")
        p.controlplane.ctl("contract", "add", UNSIGNED, "--asset", UNSIGNED, "--mode", "open")
        yield p
    finally:
        p.stop()


@pytest.fixture(scope="module")
def engine(provider, env, tmp_path_factory):
    """With what the consumer has: settings and certificates beside each other in the directory that the command is typed in."""
    d = tmp_path_factory.mktemp("consumer")
    settings = {"TB_CONTRACT_ID": CONTRACT, "TB_ASSET_ID": ASSET, "TB_EDC_ENDPOINT": f"https://{HOST}:{provider.controlplane.port}",
                "TB_CA_FILE": "/etc/trustbridge/ca.pem", "TB_RUNTIME_EXEC": RUNTIME, "TB_AUDIT_FILE": AUDIT}
    (d / "trustbridge").mkdir()
    (d / "trustbridge/trustbridge.env").write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
    (d / "trustbridge/ca.pem").write_bytes(pathlib.Path(provider.ca.cert).read_bytes())
    (d / "credstore").mkdir(mode=0o700)
    for name, source in zip(("cert", "key"), provider.ca.issue("consumer-of-the-image")):
        file = d / f"credstore/trustbridge.client-{name}"
        file.touch(0o600)
        file.write_bytes(pathlib.Path(source).read_bytes())
    e = Engine(d, env, (provider.controlplane.port, provider.azurite.port), NAME)
    e.publish(8000, 8001)
    try:
        yield e
    finally:
        e.stop()


def test_without_the_rights_it_says_which(engine, built):
    """The container ends with a message, and nothing of it serves with half a sandbox."""
    rc, said = engine.run("podman", "run", "--rm", built["image"])
    assert rc == 78 and "lacks CAP_SYS_ADMIN CAP_NET_ADMIN CAP_SYS_PTRACE; run the container with: podman run --systemd=always" in said, said
    rc, said = engine.run("podman", "run", "--rm", "--systemd=always", "--cap-add=SYS_ADMIN", built["image"])
    assert rc == 78 and "lacks CAP_NET_ADMIN CAP_SYS_PTRACE;" in said, said


def test_the_command_of_the_guide_serves(engine, built, provider):
    engine.do(*command(built["image"]))
    engine.wait_state("Ready")
    assert content(engine.chat(model.CHAT)) == plaintext_answer(provider.source, model.CHAT)
    failed = engine.inside("systemctl --failed --plain --no-legend")
    assert not re.search(r"tb-|trustbridge", failed), failed
    assert "Ready" in engine.inside("tb-status")


def test_the_sandboxes_are_whole(engine):
    """What systemd would leave out, with a warning only, where it lacks a right."""
    for unit in ("tb-authorize", "tb-proxy", "tb-runtime"):
        pid = engine.inside(f"systemctl show -P MainPID {unit}.service").strip()
        status = engine.inside(f"cat /proc/{pid}/status")
        assert re.search(r"CapEff:\t0+\n", status) and "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status, (unit, status)
        for space in ("mnt", "user", "ipc"):
            assert len(set(engine.inside(f"readlink /proc/{pid}/ns/{space} /proc/1/ns/{space}").split())) == 2, (unit, space)
    pid = engine.inside("systemctl show -P MainPID tb-runtime.service").strip()
    assert engine.inside(f"nsenter -t {pid} -n cat /proc/net/dev | tail -n +3 | cut -d: -f1").split() == ["lo"]
    assert engine.run("podman", "exec", NAME, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8081")[0] != 0


def test_revoked_and_allowed_again(engine, provider):
    want = content(engine.chat(SHORT))
    provider.controlplane.ctl("contract", "revoke", CONTRACT)
    engine.ask_now()
    wait_for(lambda: engine.chat(SHORT)[0] == 403, 180, "403")
    wait_for(lambda: engine.inside("systemctl show -P ActiveState tb-runtime.service").strip() in ("inactive", "failed"), 60, "the runtime's end")
    provider.controlplane.ctl("contract", "allow", CONTRACT)
    engine.ask_now()
    engine.wait_state("Ready")
    assert content(engine.chat(SHORT)) == want


def test_the_audit_is_whole(engine):
    for records in ("--journal", AUDIT):
        said = json.loads(engine.inside(f"tb-audit verify --json {records}"))
        assert said["intact"] and said["records"] > 0, said


def test_a_new_container_keeps_what_must_be_kept(engine, built):
    """An update of the image is a container in place of another: ledger, audit chain and ciphertext are in volumes."""
    before = engine.inside("ls -i /mnt/resource/trustbridge/*.tbenc")
    records = json.loads(engine.inside(f"tb-audit verify --json {AUDIT}"))["records"]
    engine.do("podman", "rm", "--force", "--time", "30", NAME)
    engine.do(*command(built["image"]))
    engine.wait_state("Ready")
    assert engine.inside("ls -i /mnt/resource/trustbridge/*.tbenc") == before
    assert content(engine.chat(SHORT))
    said = json.loads(engine.inside(f"tb-audit verify --json {AUDIT}"))
    assert said["intact"] and said["records"] > records, said


def test_what_the_provider_did_not_sign_is_not_served(engine):
    """The image pins the provider's key, and the settings, which are the consumer's, cover that with nothing."""
    env = engine.dir / "trustbridge/trustbridge.env"
    good = env.read_text()
    assert "TB_PROVIDER_KEY" not in good
    env.write_text(good.replace(CONTRACT, UNSIGNED).replace(ASSET, UNSIGNED))
    engine.inside("systemctl restart tb-configure.service")
    wait_for(lambda: "TB_PROVIDER_KEY pins whose signature counts" in engine.inside("cat /run/tb-hydrate/progress.json || :"), 120, "the refusal")
    refused = "journalctl --namespace=trustbridge --no-pager -o cat _SYSTEMD_UNIT=tb-hydrate.service"
    wait_for(lambda: "TB_PROVIDER_KEY pins whose signature counts" in engine.inside(refused), 120, "the refusal in the journal")
    assert engine.state() != "Ready" and engine.chat(SHORT)[0] != 200
    env.write_text(good)
    engine.inside("systemctl restart tb-configure.service")
    engine.wait_state("Ready")
    assert content(engine.chat(SHORT))


def test_stopped_it_ends_in_order(engine):
    engine.do("podman", "stop", "--time", "90", NAME, timeout=120)
    assert engine.do("podman", "inspect", "--format", "{{.State.ExitCode}}", NAME).strip() in ("0", "130")
