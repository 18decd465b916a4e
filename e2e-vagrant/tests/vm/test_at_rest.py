# SPDX-License-Identifier: Apache-2.0
"""What is left when the power goes, in an orderly way."""

import base64
import mmap
import pathlib

import model
from scenario import CONTRACT, SHORT, content


def test_reboot_downloads_nothing_again(vm):
    want, stat = content(vm.chat(model.CHAT)), "stat -c '%i %Y %Z %s' /mnt/resource/trustbridge/model.tbenc"
    before = vm.sh(stat)
    vm.reboot()
    vm.wait_state("Ready")
    assert content(vm.chat(model.CHAT)) == want
    assert vm.sh(stat) == before
    received = int(vm.sh("cat /sys/class/net/eth0/statistics/rx_bytes"))
    assert received < 1_000_000, "more came in than the manifest and the lease"


def occurrences(path, needles):
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        return {name: m.find(needle) for name, needle in needles.items() if m.find(needle) >= 0}


def test_no_plaintext_and_no_key_on_the_disk(vm, provider):
    """Last: the machine is switched off."""
    weights = (provider.source / model.GGUF).read_bytes()
    key = pathlib.Path(provider.dir / "model.key").read_text().strip()
    raw = bytes.fromhex(key)
    secrets = {f"weights at {i}/4": weights[len(weights) * i // 4:][:32] for i in (1, 2, 3)}
    secrets.update({"side file": b"trustbridge-demo-side-file", "key": raw, "key in hex": key.encode(), "key in HEX": key.upper().encode(),
                    "key in base64": base64.b64encode(raw), "SAS": b"&sig="})
    assert len(set(secrets.values())) == len(secrets)
    vm.wait_state("Ready")
    assert vm.chat(SHORT)[0] == 200
    vm.poweroff()
    disk = vm.raw_disk()
    ciphertext = (provider.dir / "model.tbenc").read_bytes()
    control = {"contract": f"TB_CONTRACT_ID={CONTRACT}".encode(), "ciphertext": ciphertext[len(ciphertext) // 2:][:32]}
    assert set(occurrences(disk, control)) == set(control), "the search finds what is there"
    assert occurrences(disk, secrets) == {}
