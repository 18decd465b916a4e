# SPDX-License-Identifier: Apache-2.0
"""tb-hydrate with several places of the same ciphertext: the first that has it, what is there kept from one to the next."""

import pytest

import faultproxy as fp
from hydrate_world import ASSET, CHUNK, SIG, World, ca, seal, w  # noqa: F401 (fixtures)
from tbsys import free_port


@pytest.fixture
def other(tmp_path, ca, w):  # noqa: F811
    """Another account with the same asset."""
    world = World(tmp_path / "other", ca)
    world.put(w.data, w.manifest)
    yield world
    world.close()


def use(w, *bases):  # noqa: F811
    """The credentials: the asset at each base."""
    for credential, name in (("sas-url", "model.tbenc"), ("manifest-url", "model.manifest.json")):
        w.credentials[credential] = "\n".join(f"{b}/models/{ASSET}/{name}?sv=1&sr=b&sig={SIG}" for b in bases).encode()


def test_the_first_place_is_enough(w, other):  # noqa: F811
    use(w, w.proxy.url, other.proxy.url)
    assert w.run()[0] == 0
    w.assert_complete()
    assert not other.proxy.select(path=".") and "trying" not in w.log()


@pytest.mark.parametrize("fault", ["404", "403", "nobody", "no name", "no manifest", "another", "wrong size"])
def test_another_place_when_the_first_fails_for_good(w, other, fault):  # noqa: F811
    first = w.proxy.url
    blobs = w.server.blobs
    if fault == "404":
        blobs.clear()
    elif fault == "no manifest":
        del blobs[f"/models/{ASSET}/model.manifest.json"]
    elif fault == "403":
        w.server.sig = "another"
    elif fault == "nobody":
        first = f"https://127.0.0.1:{free_port()}"
    elif fault == "no name":
        first = "https://acct.blob.invalid"
    elif fault == "another":
        blobs[f"/models/{ASSET}/model.manifest.json"] = seal(1000, asset="someone-elses")[1]
    else:
        blobs[f"/models/{ASSET}/model.tbenc"] = w.data[:-100]
    use(w, first, other.proxy.url)
    rc, d = w.run()
    assert rc == 0 and d.ready, w.log()
    w.assert_complete()
    said = [line for line in w.log().splitlines() if "does not give the model" in line]
    assert len(said) == 1 and first in said[0] and f"trying {other.proxy.url}, place 2 of 2" in said[0], w.log()
    other.assert_no_secret()


def test_what_is_there_is_kept(w, other):  # noqa: F811
    """The first place fails in the middle of the download: the other gives the rest alone."""
    w.proxy.rule(fp.status(404), path="model.tbenc$", nth=range(20, 10000))
    use(w, w.proxy.url, other.proxy.url)
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert 19 * CHUNK <= w.sent() and other.sent() <= len(w.data) - w.sent() + 4 * CHUNK


def test_what_is_there_is_kept_beside_a_place_that_has_less(w, other, ca):  # noqa: F811
    """What it says of its blob is not of the one that gave what is there."""
    w.proxy.rule(fp.status(404), path="model.tbenc$", nth=range(20, 10000))
    other.proxy.rule(fp.status(416, {"Content-Range": f"bytes */{5 * CHUNK}"}), path="model.tbenc$")
    with fp.FaultProxy(w.proxy.upstream, tls=ca.pair) as third:
        use(w, w.proxy.url, other.proxy.url, third.url)
        assert w.run()[0] == 0, w.log()
        w.assert_complete()
        assert "place 3 of 3" in w.log() and 0 < third.count(path="model.tbenc$") < len(w.data) // CHUNK - 8, w.log()


def other_tag_each_time(proxy):
    """As of an upload that goes on, or of two servers behind one name."""
    for n in range(2, 400):
        proxy.rule(fp.headers({"ETag": f'"x{n}"'}), path="model.tbenc$", nth=n)


def test_a_place_that_is_being_uploaded_is_left_for_the_next(w, other):  # noqa: F811
    use(w, w.proxy.url, other.proxy.url)
    other_tag_each_time(w.proxy)
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    assert "was replaced during the download; trying" in w.log()


def test_what_is_there_is_kept_beside_a_place_that_is_being_uploaded(w, other):  # noqa: F811
    use(w, w.proxy.url, other.proxy.url)
    w.proxy.rule(fp.status(403), path="model.tbenc$", nth=range(35, 10000))
    other_tag_each_time(other.proxy)
    assert w.run()[0] == 75
    w.proxy.clear_rules()
    sent = w.sent()
    assert w.run()[0] == 0 and w.sent() - sent < len(w.data) // 2
    w.assert_complete()


def test_when_no_place_has_it_an_error_that_passes_counts(w, other):  # noqa: F811
    """A refusal may pass with fresh URLs, a missing blob does not: the unit is to try again."""
    w.server.sig = "another"
    other.server.blobs.clear()
    use(w, w.proxy.url, other.proxy.url)
    rc, _ = w.run()
    w.assert_failed(rc, 75, "403", "place 2 of 2", "404")
    w.server.blobs.clear()
    w.server.sig = SIG
    rc, _ = w.run()
    w.assert_failed(rc, 66, "404")


def test_places_beyond_the_fourth_and_uneven_lists(w, other):  # noqa: F811
    use(w, *["https://127.0.0.1:%d" % free_port() for _ in range(3)], other.proxy.url, w.proxy.url)
    w.credentials["manifest-url"] = b"\n".join(w.credentials["manifest-url"].split(b"\n")[:4])
    assert w.run()[0] == 0, w.log()
    w.assert_complete()
    w.credentials["sas-url"] += b"\nftp://x"  # a fifth is not looked at
    assert w.run()[0] == 0, w.log()
    w.credentials["sas-url"] = w.url("model.tbenc") + b"\nftp://x"
    rc, _ = w.run()
    assert rc == 78 and "credential sas-url is no URL" in w.log()


def test_damaged_contents_at_one_place(w, other):  # noqa: F811
    """Every range comes, and the whole is not the manifest's: the next copy is from elsewhere."""
    bad = bytearray(w.data)
    bad[len(bad) // 2] ^= 1
    w.server.blobs[f"/models/{ASSET}/model.tbenc"] = bytes(bad)
    use(w, w.proxy.url, other.proxy.url)
    assert w.run(timeout=90)[0] == 0, w.log()
    w.assert_complete()
    assert len(other.ranges()) > 3
