# SPDX-License-Identifier: Apache-2.0
"""The state of a measured machine: over a reboot, over an image update, not over a move to another machine or to another maker's image; and
a disk that was set back, which the control plane tells. One story, on one data disk and one TPM; what else the boots of it can show is
shown in them: a boot takes minutes."""

import json
import shutil

import pytest
from conftest import Machine, no_ledger_runs
from measured import MIB, STATE, Disk
from tbsys import wait_for

SEALED = "/run/credentials/tb-decrypt.service/model-key"


class Story:
    def __init__(self, house, directory):
        self.house, self.dir = house, directory
        self.tpm = house.tpm(directory)
        self.other = house.tpm(directory, "other")
        self.contract = house.contract("--max-hw", "2")
        self.media = house.media(directory / "media", self.contract)
        self.data = Disk(directory / "data.raw")
        with open(self.data.path, "wb") as f:
            f.truncate(96 * MIB)
        self.boots = 0

    def machine(self, image, tpm=None, data=None):
        """A fresh image disk, as an update brings one, and the data disk."""
        self.boots += 1
        disk = self.house.disk(image, self.dir / f"disk-{self.boots}.raw").grow(96)
        return Machine(self.dir / f"m{self.boots}", disk.path, tpm or self.tpm, more=[(data or self.data).path], media=self.media)

    def serve(self, m, chats=2):
        """Ready, some use, and the control plane has heard of it; returns the ledger of that machine as the provider sees it."""
        s = m.wait_said("Ready", "Suspended")
        assert s["state"] == "Ready", s
        for _ in range(chats):
            assert m.chat()[0] == 200
        m.wait_shell()
        wait_for(lambda: self.requests(m) >= chats, 300, "the ledger")
        m.sh("systemctl kill -s HUP tb-authorize.service")
        mine = self.report(m)["ledger"]
        return wait_for(lambda: next((u for u in self.usage() if u["ledger"] == mine and self.total(u) >= self.requests(m)), None), 300,
                        "the report at the control plane")

    @staticmethod
    def report(m):
        return json.loads(m.sh("cat /run/tb-billing/report.json"))

    def requests(self, m):
        return self.report(m)["used"].get("requests", 0)

    @staticmethod
    def total(u):
        return u["used"].get("requests", 0)

    def usage(self):
        return [u for u in json.loads(self.house.cp.ctl("usage", "--json")) if u["contract_id"] == self.contract]


@pytest.fixture(scope="module")
def story(house, tmp_path_factory):
    return Story(house, tmp_path_factory.mktemp("story"))


def test_1_it_begins(story, first):
    m = story.machine(first).start()
    assert m.state()["state"] == "made"
    story.ledger = story.serve(m)
    story.audit = story.report(m)["audit"]
    story.old_key = m.get(SEALED)
    assert story.old_key[:8] == b"TBWK0001"
    m.poweroff()
    shutil.copy(story.data.path, story.dir / "old.raw")
    at, size = story.data.part(STATE)
    assert story.data.read(at, 20) == b"TrustBridge state v1"
    raw = story.data.read(at, size)
    assert b"SQLite format 3" not in raw and story.contract.encode() not in raw, "plaintext on the disk"


def test_2_a_reboot_keeps_it(story, first):
    m = story.machine(first).start()
    assert m.state()["state"] == "kept"
    again = story.serve(m)
    assert again["ledger"] == story.ledger["ledger"] and story.total(again) > story.total(story.ledger)
    assert story.report(m)["audit"]["seq"] > story.audit["seq"]
    assert not again["flagged"], again
    assert m.run("tb-audit verify /var/log/trustbridge/audit.jsonl")[0] == 0
    story.ledger = again
    the_key_of_the_boot_before_does_not_open(m, story.old_key)
    m.poweroff()


def the_key_of_the_boot_before_does_not_open(m, old):
    """The sealed key that this machine had before: the same machine, the same registers, another boot. That of this boot, given the same
    way, opens."""
    new = m.get(SEALED)
    m.put("/run/key", old, mode="0600")
    m.sh("mkdir -p /run/systemd/system/tb-decrypt.service.d")
    m.put("/run/systemd/system/tb-decrypt.service.d/key.conf", b"[Service]\nLoadCredential=model-key:/run/key\n")
    m.sh("systemctl daemon-reload && systemctl restart --no-block tb-runtime.service", timeout=300)
    wait_for(lambda: m.run("journalctl --namespace=trustbridge -b --no-pager -t tb-decrypt | grep -q 'sealed for another contract, manifest or state'",
                           timeout=120)[0] == 0, 600, "the refusal of the old key", every=2)
    assert m.status()["state"] != "Ready"
    m.put("/run/key", new, mode="0600")
    m.sh("systemctl restart --no-block tb-runtime.service")
    assert m.wait_said("Ready")["state"] == "Ready"


def test_3_the_next_image_of_the_maker_opens_it_until_it_is_revoked(story, house):
    """An update: the state is that of the last image's boot. Revoked while it serves, it is suspended at its next renewal."""
    m = story.machine(house.image("2.0.0")).start()
    assert m.state()["state"] == "kept"
    again = story.serve(m)
    assert again["ledger"] == story.ledger["ledger"] and story.total(again) > story.total(story.ledger) and not again["flagged"]
    story.ledger = again
    house.tbpkg("image", "revoke", "acme-llm@2.0.0")
    assert "image_revoked" in json.dumps(m.wait_said("Suspended", timeout=600))
    assert m.chat()[0] == 403
    assert [u["hw_id"] for u in story.usage() if u["ledger"] == story.ledger["ledger"]] == [story.ledger["hw_id"]]  # refused, it is still itself
    m.poweroff()


def test_4_another_machine_does_not_open_it(story, first):
    """Nor does it touch it: on its own disk it begins anew."""
    before = story.data.path.read_bytes()
    m = story.machine(first, tpm=story.other).start()
    assert m.state()["state"] == "made" and m.state()["device"] != "/dev/vdb1"
    mine = story.serve(m)
    assert mine["ledger"] != story.ledger["ledger"] and mine["hw_id"] != story.ledger["hw_id"]
    m.poweroff()
    assert story.data.path.read_bytes() == before


def test_5_an_image_of_another_maker_does_not_open_it(story, house):
    """The same machine."""
    before = story.data.path.read_bytes()
    m = story.machine(house.image("1.0.0-other", state_key="other")).start()
    assert m.state()["state"] == "made" and m.state()["device"] != "/dev/vdb1"
    assert story.serve(m)["ledger"] != story.ledger["ledger"]
    m.poweroff()
    assert story.data.path.read_bytes() == before


def test_6_a_disk_that_was_set_back_is_told(story, first):
    """It opens: it is this machine's. Its totals have gone back, and the control plane keeps the greater ones and says so."""
    old = Disk(story.dir / "old.raw").copy(story.dir / "back.raw")
    m = story.machine(first, data=old).start()
    assert m.state()["state"] == "kept"
    assert m.wait_said("Ready", "Suspended")["state"] == "Ready"
    mine = ("ledger", "hw_id")
    seen = wait_for(lambda: next((u for u in story.usage() if all(u[k] == story.ledger[k] for k in mine) and u["flagged"] > story.ledger["flagged"]), None),
                    600, "a flag")
    assert "back" in seen["flags"].split() and story.total(seen) == story.total(story.ledger), seen
    m.poweroff()


def test_7_what_was_changed_on_the_disk_reads_as_an_error(story, first):
    """Every block of the volume but those of its superblocks: nothing garbled is taken for state, and nothing is made anew."""
    at, size = story.data.part(STATE)
    for block in range(at + 12 * MIB, at + size - MIB, 4096):
        story.data.write(block + 99, b"\xa5")
    before = {u["ledger"] for u in story.usage()}
    m = story.machine(first).start()
    assert m.state()["state"] == "failed"
    assert m.run("dmesg | grep -c 'INTEGRITY AEAD ERROR\\|Checksum failed'")[1].strip() != "0"
    no_ledger_runs(m)
    assert {u["ledger"] for u in story.usage()} == before
