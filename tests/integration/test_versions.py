# SPDX-License-Identifier: Apache-2.0
"""Versions of an asset on a machine: whose key it gets, how a new one comes beside the one that serves, and how it is switched to."""

import hashlib
import json

from authorize_world import DECRYPT, HYDRATE, KEY, ca, grant, world  # noqa: F401
from tbsys import wait_for

OLD_KEY = hashlib.sha256(b"the key of the version that serves").hexdigest()
NEXT = "tb-next.service"


def held(version=1, key=OLD_KEY, n=1):
    url = f"https://blob.example/models/a/model-{version}.tbenc?n={n}&sig=SECRETSIGNATURE"
    return {"asset_version": version, "decryption_key_hex": key, "sas_url": url, "manifest_url": url, "manifest_sha256": "ab" * 32}


def serving(w, version, **more):
    w.target.mkdir(exist_ok=True)
    (w.target / "serving.json").write_text(json.dumps({"asset_id": "asset-1", "version": version, "beside": False, **more}))


def versioned(world, tmp_path, answer, **options):
    w = world(answer, start=False, env={"TB_TARGET_DIR": tmp_path / "target"}, **options)
    w.target = tmp_path / "target"
    return w


def keeper(w_requests, current):
    """A control plane that gives what is named beside the current version."""
    def answer(n):
        named = w_requests()[-1][3].get("held_version")
        more = {"held": held(named)} if named and named != current else {}
        return grant(asset_version=current, **more)
    return answer


def test_what_serves_and_what_comes_next_get_the_keys_of_their_own_versions(world, tmp_path):
    w = versioned(world, tmp_path, None)
    w.plane.answer = keeper(lambda: w.plane.requests, 2)
    serving(w, 1)
    w.start().ready()
    assert w.plane.requests[0][3]["held_version"] == 1
    assert w.lease()["asset_version"] == 2
    assert w.key() == bytes.fromhex(OLD_KEY)
    assert w.fetch(HYDRATE, "asset-version") == b"1" and b"model-1.tbenc" in w.fetch(HYDRATE, "sas-url")
    assert w.fetch(NEXT, "asset-version") == b"2" and b"model.tbenc" in w.fetch(NEXT, "sas-url")
    assert w.fetch(NEXT, "manifest-sha256") == b"none" and w.fetch(DECRYPT, "manifest-sha256") == b"ab" * 32
    assert w.fetch(NEXT, "model-key") == b""
    assert len(w.plane.requests) == 1
    serving(w, 2)  # the switch: from now on it is the current one's
    assert w.key() == bytes.fromhex(KEY)


def test_a_version_that_is_not_here_is_asked_for_before_another_is_given(world, tmp_path):
    """At boot the disk may come after the first answer; a switch back comes between two renewals."""
    w = versioned(world, tmp_path, None)
    w.plane.answer = keeper(lambda: w.plane.requests, 2)
    w.start().ready()
    assert "held_version" not in w.plane.requests[0][3]
    serving(w, 1)
    assert w.key() == bytes.fromhex(OLD_KEY)
    assert [r[3].get("held_version") for r in w.plane.requests] == [None, 1]


def test_while_one_is_on_trial_the_key_of_the_other_is_kept(world, tmp_path):
    w = versioned(world, tmp_path, None)
    w.plane.answer = keeper(lambda: w.plane.requests, 2)
    serving(w, 2, previous=1, previous_beside=False)
    w.start().ready()
    assert w.plane.requests[0][3]["held_version"] == 1
    assert w.key() == bytes.fromhex(KEY)
    serving(w, 1)  # back
    assert w.key() == bytes.fromhex(OLD_KEY)
    assert len(w.plane.requests) == 1


def test_who_knows_no_versions_or_no_longer_has_one_gives_the_current_one(world, tmp_path):
    for n, more in enumerate(({}, {"asset_version": 2}, {"asset_version": 2, "held": held(key="short")}, {"asset_version": 2, "held": held(3)},
                              {"asset_version": "two", "held": 1})):
        w = world(grant(**more), start=False, env={"TB_TARGET_DIR": tmp_path / "target"})
        w.target = tmp_path / "target"
        serving(w, 1)
        w.start().ready()
        assert w.key() == bytes.fromhex(KEY), more
        assert w.fetch(HYDRATE, "asset-version") == (b"2" if more.get("asset_version") == 2 else b"none")
        w.stop()


def test_the_wrong_key_is_never_given_while_the_control_plane_thinks(world, tmp_path):
    """An answer that was asked for before the disk was there is not taken for one that names the version."""
    w = versioned(world, tmp_path, None)
    asked = []

    def answer(n):
        if len(asked) == 1:
            serving(w, 1)  # while this one, which names nothing, is under way
        asked.append(w.plane.requests[-1][3].get("held_version"))
        return grant(asset_version=2, **({"held": held(1)} if asked[-1] else {}))
    w.plane.answer = answer
    w.start().ready()
    w.ask_now()
    wait_for(lambda: len(asked) >= 2, what="the second exchange")
    assert w.key() == bytes.fromhex(OLD_KEY)
