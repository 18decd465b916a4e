# SPDX-License-Identifier: Apache-2.0
"""tbpkg encrypt --upload through random histories of kills, failures and changes of the model: none reuses a nonce."""

import os
import random
import re

import pytest

from faultproxy import lose_reply, reset_upload, status, swallow
from stream_place import BLOCK, COMMIT, MANIFEST, N_BLOCKS, PUT_BLOCK, azurite, place  # noqa: F401

HISTORIES = int(os.environ.get("TB_UPLOAD_HISTORIES", "12"))


class History:
    def __init__(self, place, seed):
        self.place, self.random, self.log = place, random.Random(seed), [f"seed {seed}"]

    def say(self, *words):
        self.log.append(" ".join(map(str, words)))

    def kill(self):
        at = self.random.choice([PUT_BLOCK] * 6 + [COMMIT, MANIFEST])
        n = self.random.randint(1, N_BLOCKS) if at is PUT_BLOCK else 1
        how = self.random.choice([swallow(), lose_reply(), reset_upload(self.random.randint(0, BLOCK))])
        self.say("kill at", n, at.get("args", at), how.name, "->", self.place.killed(n, at, how))

    def fail(self):
        at = self.random.choice([PUT_BLOCK, COMMIT, MANIFEST])
        self.place.proxy.rule(status(403), nth=range(self.random.randint(1, 5), 1000), **at)
        r = self.place.run(rc=None)
        self.say("fail at", at, "->", r.returncode, r.stderr.splitlines()[-1:])
        assert r.returncode in (0, 1, 4, 5, 6), self.log
        self.place.proxy.clear_rules()

    def change(self):
        name, keep = self.random.choice(["a.bin", "b.bin", "config.json"]), self.random.random() < 0.7
        path = self.place.model / name
        what = self.random.choice(["flip", "flip", "flip", "longer", "shorter", "touch", "swap"])
        self.say(what, name, keep)
        if what == "flip":
            self.place.flip(name, self.random.randrange(path.stat().st_size), keep)
        elif what == "touch":
            path.touch()
        elif what == "swap" and (self.place.model / "b.bin").stat().st_size > 9:
            data = bytearray((self.place.model / "b.bin").read_bytes())
            at = self.random.randrange(len(data) - 8)
            data[at:at + 8] = os.urandom(8)
            (self.place.model / "b.bin").write_bytes(data)
        elif what == "longer":
            path.write_bytes(path.read_bytes() + os.urandom(self.random.randint(1, 70_000)))
        elif path.stat().st_size > 2:
            path.write_bytes(path.read_bytes()[:-self.random.randint(1, path.stat().st_size // 2)])

    def check_stored_somehow(self):
        """Each blob that was ever made can be opened."""
        data = self.place.blob()
        if data:
            assert any(first_record_opens(data, k) for k in self.place.key_files().values()), "\n".join(self.log)


def first_record_opens(data, key):
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    n = data[32:36]
    try:
        AESGCM(key).decrypt(data[15:19] + bytes(8), data[36:36 + int.from_bytes(n, "big") + 16], data[:19] + bytes(8) + n)
        return True
    except InvalidTag:
        return False


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_no_history_reuses_a_nonce(place, seed):
    h = History(place, seed)
    for _ in range(7):
        h.random.choice([h.kill] * 5 + [h.change] * 4 + [h.fail])()
        h.check_stored_somehow()
    r = place.run(rc=None)
    h.say("at last", r.returncode, r.stderr)
    if r.returncode:  # an asset was complete, or made, and the model changed after that
        assert re.search("another file is stored there|is not what asset|another manifest|exists already|is needed", r.stderr), "\n".join(h.log)
        place.run("--force", "--overwrite")
    try:
        place.check_stored()
        place.check_sent()
    except AssertionError as e:
        raise AssertionError("\n".join(h.log)) from e
