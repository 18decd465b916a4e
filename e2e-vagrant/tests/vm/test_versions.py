# SPDX-License-Identifier: Apache-2.0
"""Versions are promoted while a machine serves: downloaded beside, switched to without a refused request. With the real units:
what one of them may not do would show here and nowhere else. The tests are a story."""

import json

import model
import pytest
from appliance import Appliance, GuestProvider
from chain import tbpkg
from scenario import TARGET, KeptAlive, Load, content, models
from tbsys import wait_for

VERSIONED, UPDATES = "vm-versioned", "vm-updates"


@pytest.fixture(scope="module")
def provider(tmp_path_factory):
    p = GuestProvider(tmp_path_factory.mktemp("versions-provider")).start()
    try:
        p.publish(model.make_model(p.dir / "one"), VERSIONED, "64KiB")
        p.controlplane.ctl("contract", "add", UPDATES, "--asset", VERSIONED, "--mode", "open")
        yield p
    finally:
        p.stop()


@pytest.fixture(scope="module")
def updated(image, provider, tmp_path_factory):
    vm = Appliance(image, tmp_path_factory.mktemp("versions-machine"), provider, UPDATES, VERSIONED, model.GGUF,
                   env={"TB_AUDIT_FILE": Appliance.AUDIT_FILE, "TB_UPDATE": "manual",
                        "TB_SWITCH_HOLD": "300s", "TB_SWITCH_DRAIN": "120s"})
    try:
        vm.start()
        yield vm.wait_state("Ready")
    finally:
        vm.discard()


def promote(provider, n):
    """Version n of the asset. tbpkg puts it where the first one was: a machine that serves that has its own copy."""
    provider.dir = provider.dir.parent / f"{provider.dir.name}-{n}"  # a key is never written over
    provider.dir.mkdir()
    tbpkg(*provider.encrypt_args(model.make_model(provider.dir / "model", seed=n), VERSIONED, "64KiB"), env=provider.env())
    tbpkg(*provider.upload_args(VERSIONED), "--force", env=provider.env())
    tbpkg(*provider.register_args(VERSIONED), "--replace", env=provider.env())


def update(vm):
    return json.loads(vm.run("cat /run/tb-update/update.json")[1] or "{}")


def wait_update(vm, state, timeout=300, **more):
    def reached():
        u = update(vm)
        return u.get("state") == state and all(u.get(k) == v for k, v in more.items())
    try:
        wait_for(reached, timeout, f"{state} {more}", every=0.3)
    except AssertionError as e:
        raise AssertionError(f"{e}; now {update(vm)}") from None


def answer(vm):
    return content(vm.chat(model.CHAT))


def nothing_failed(vm):
    return vm.run("systemctl --failed --no-legend")[1].strip() == ""


def test_what_was_served_before_there_were_versions_gets_its_number(updated):
    """As an upgrade leaves it: the model is loaded, and tb-update is new."""
    assert update(updated) == {"state": "none", "serving": 1, "when": "manual", "reason": ""}
    serving, inode = updated.sh(f"cat {TARGET}/serving.json"), updated.sh(f"ls -i {TARGET}/model.tbenc")
    updated.sh(f"systemctl stop tb-update.service && rm {TARGET}/serving.json && systemctl start tb-update.service")
    wait_for(lambda: updated.run(f"test -e {TARGET}/serving.json")[0] == 0, 120, "the number of what serves", every=0.3)
    assert updated.sh(f"cat {TARGET}/serving.json; ls -i {TARGET}/model.tbenc") == serving + inode


def test_a_promotion_refuses_nobody(updated, provider):
    vm, first = updated, answer(updated)
    with Load(vm, KeptAlive(), models) as load:
        promote(provider, 2)
        vm.ask_now()
        wait_update(vm, "ready", serving=1, next=2)
        assert answer(vm) == first, "it serves on"
        assert vm.show("tb-next.service", "Nice") == "19"
        screen = vm.run("tb-status")[1]
        assert "version 2: complete, switched to by tb-update switch" in screen and "What is wrong" not in screen, screen
        vm.sh("tb-update switch", 600)
        load.served(3)
    assert set(load.seen) == {200}, load.seen
    assert answer(vm) != first and update(vm)["serving"] == 2
    wait_for(lambda: vm.run(f"ls {TARGET}")[1].split() == ["serving.json", f"{VERSIONED}@2"], 60, "the old ciphertext to go")
    assert nothing_failed(vm)
