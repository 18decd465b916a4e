# SPDX-License-Identifier: Apache-2.0
"""How often a damaged model is fetched again: three times for one damage, and who is told to do what after that."""

import json
import os
import subprocess

import pytest

import faultproxy as fp
from delivery_house import SIZE, house, rot  # noqa: F401
from delivery_rig import rig  # noqa: F401
from hydrate_world import ca  # noqa: F401
from tbsys import program


def test_rot_again_and_again_after_deliveries_is_mended_each_time(house):
    """A delivery ends the count: in five years a disk may lose five bits."""
    house.ready()
    for i in range(5):
        rot(house.file, 1000 * i + 100)
        house.heals()
        assert house.tries() == 1


def test_a_delivery_is_remembered_over_a_reboot(house):
    """The file of tb-decrypt goes with the boot: the stop of tb-hydrate's unit looks at it in time."""
    settle = [program("tb-hydrate"), "settle"]
    environ = {k: str(v) for k, v in house.w.env.items()}
    house.ready()
    rot(house.file)
    assert house.serve() == 76 and house.hydrate() == (0, 1) and house.tries() == 1
    assert subprocess.run(settle, env=environ).returncode == 0 and house.tries() == 1
    assert house.serve() == 0
    del environ["TB_CONTRACT_ID"]  # which the operator has taken out
    r = subprocess.run(settle, env=environ, capture_output=True, text=True)
    assert (r.returncode, r.stderr) == (0, "") and not house.record.exists()


def test_a_source_that_is_damaged_is_asked_three_times(house):
    data = bytearray(house.asset.ciphertext())
    data[SIZE // 2] ^= 1
    house.w.data = bytes(data)
    house.w.server.blobs["/models/tiny-model/model.tbenc"] = bytes(data)
    assert house.hydrate() == (0, 1)  # the tags tell, when it is decrypted
    assert house.serve() == 76 and house.hydrate() == (76, 2)
    reason = house.w.progress()["reason"]
    cure = f"rm {house.record}; systemctl restart tb-hydrate.service"
    assert "upload it again" in reason and cure in reason[:255], reason
    out = subprocess.run([program("tb-status"), "--json"], capture_output=True, text=True,
                         env={**os.environ, **{k: str(v) for k, v in house.w.env.items()}}).stdout
    told, = [p for p in json.loads(out)["problems"] if "is damaged at its source" in p["what"]]
    assert told["remedy"] == cure and "then:" not in told["what"], told
    # A restart, or a reboot: no traffic, the same words.
    assert house.hydrate() == (76, 0) and house.w.progress()["reason"] == reason
    # The cure, typed.
    house.upload(house.asset)
    house.record.unlink()
    assert house.hydrate() == (0, 1) and house.serve() == 0


def test_a_source_that_was_damaged_for_a_moment(house):
    data = bytearray(house.asset.ciphertext())
    data[SIZE // 2] ^= 1
    house.w.proxy.rule(fp.status(206, {"Content-Range": f"bytes 0-65535/{len(data)}"}, bytes(data[:65536])), nth=1, path="model.tbenc$")
    data[100] ^= 1
    house.w.proxy.rule(fp.status(206, {"Content-Range": f"bytes 0-65535/{len(data)}"}, bytes(data[:65536])), nth=1, path="model.tbenc$")
    rc, _ = house.w.run()
    assert rc == 0, house.w.log()
    assert house.serve() == 0


def test_a_disk_that_damages_each_copy_is_given_three(house):
    house.ready()
    for _ in range(3):
        rot(house.file)
        assert house.serve() == 76
        assert house.hydrate() == (0, 1)
    rot(house.file)
    assert house.serve() == 76
    assert house.hydrate() == (76, 0)
    assert "journalctl -k" in house.w.progress()["reason"] and "restart tb-hydrate.service" in house.w.progress()["reason"]
    assert house.hydrate() == (76, 0)


def test_a_wrong_key_is_no_reason_to_fetch_anything(house):
    """The hash of the file is right: another copy would be the same. The second look is for a byte that was bad in memory only."""
    assert house.hydrate() == (0, 1)
    for _ in range(3):
        assert house.serve(key=b"k" * 32) == 76
        assert house.hydrate() == (0, 0)
    assert house.serve(key=b"k" * 32) == 76
    assert house.hydrate() == (76, 0) and "does not go with its key" in house.w.progress()["reason"]
    house.record.unlink()
    assert house.hydrate() == (0, 0) and house.serve() == 0


def test_one_failure_is_counted_once_however_often_tb_hydrate_starts(house):
    assert house.hydrate() == (0, 1)
    assert house.serve(key=b"k" * 32) == 76
    for _ in range(5):
        assert house.hydrate() == (0, 0)
    assert house.tries() == 1 and house.serve() == 0


def test_tries_survive_a_crash_in_between(house):
    house.ready()
    rot(house.file)
    assert house.serve() == 76
    house.w.proxy.rule(fp.status(503), path="model.tbenc$")
    d = house.w.start()
    house.w.proxy.wait(house.w.proxy.count(path="model.tbenc$") + 1, path="model.tbenc$")
    d.kill()
    assert house.tries() == 1
    house.w.proxy.clear_rules()
    assert house.hydrate() == (0, 1) and house.tries() == 1 and house.serve() == 0


@pytest.mark.parametrize("text", ["", "not json", "[]", '{"tries": -1}', '{"tries": "many"}'])
def test_the_count_itself_is_damaged(house, text):
    house.ready()
    house.record.parent.mkdir(parents=True, exist_ok=True)
    house.record.write_text(text)
    rot(house.file)
    house.heals()
