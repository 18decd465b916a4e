# SPDX-License-Identifier: Apache-2.0
"""Model directories as people have them: snapshots of a Hugging Face cache, clones with Git and Git LFS, downloads that broke off."""

import json
import os
import shutil

import pytest

from tbpkg_local import ok, refused

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4000000000\n"


def listed(path, *more, cwd):
    doc = json.loads(ok("encrypt", "--list", "--json", path, *more, cwd=cwd).stdout)
    return [f["path"] for f in doc["files"]], doc["left_out"]


@pytest.fixture
def snapshot(tmp_path):
    """(snapshot, what a file of it holds)"""
    repo = tmp_path / "models--acme--small"
    revision = repo / "snapshots" / "0123abcd"
    for d in ("blobs", "refs", "snapshots/0123abcd/onnx"):
        (repo / d).mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123abcd")
    files = {"config.json": b"{}", "model.safetensors": os.urandom(3000), "onnx/model.onnx": os.urandom(2000)}
    for i, (name, data) in enumerate(files.items()):
        (repo / "blobs" / f"{i:040x}").write_bytes(data)
        (revision / name).symlink_to("../" * (2 + name.count("/")) + f"blobs/{i:040x}")
    return revision, files


def opened(place, model, *more):
    ok("encrypt", "-q", "-a", "m", model, "-o", "a.tbenc", "-k", "k", *more, cwd=place)
    ok("decrypt", "-q", "-i", "a.tbenc", "-k", "k", "-o", "opened", cwd=place)
    found = {str(p.relative_to(place / "opened")): p.read_bytes() for p in (place / "opened").rglob("*") if p.is_file()}
    for name in ("a.tbenc", "a.manifest.json", "k"):
        (place / name).unlink()
    shutil.rmtree(place / "opened")
    return found


# -- links -------------------------------------------------------------------------------------------------------------

def test_a_snapshot_of_a_cache(snapshot, tmp_path):
    revision, files = snapshot
    assert opened(tmp_path, revision) == files
    (tmp_path / "current").symlink_to(revision)
    assert opened(tmp_path, tmp_path / "current") == files
    refused("encrypt", "-a", "m", revision.parent.parent, "-k", "k", cwd=tmp_path, match="is the cache.*snapshots/REVISION")


@pytest.mark.parametrize("target, says", [
    ("/etc/passwd", "leaves the directory; use --follow-links"), ("../../refs/main", "leaves the directory"), ("../../blobs/none", "to nothing"),
    ("link", "to nothing"), ("../../blobs/../refs/main", "leaves the directory"), ("../../blobs-of-others/x", "leaves the directory"),
    ("onnx", "to a directory"), ("/dev/null", "leaves the directory"),
])
def test_links_that_are_refused(snapshot, tmp_path, target, says):
    revision, _ = snapshot
    (revision.parent.parent / "blobs-of-others").mkdir()
    (revision.parent.parent / "blobs-of-others" / "x").write_bytes(b"1")
    (revision / "link").symlink_to(target)
    refused("encrypt", "-a", "m", revision, "-k", "k", cwd=tmp_path, match=f"0123abcd/link: is a symbolic link.*{says}")
    assert not (tmp_path / "model.tbenc").exists() and not (tmp_path / "k").exists()


def test_links_within_the_directory_and_beyond(tmp_path):
    m = tmp_path / "m"
    (m / "d").mkdir(parents=True)
    (m / "d" / "w").write_bytes(b"weights")
    (m / "alias").symlink_to("d/w")
    assert opened(tmp_path, m) == {"d/w": b"weights", "alias": b"weights"}
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "o").write_bytes(b"outside")
    (m / "out").symlink_to("../outside")
    (m / "o").symlink_to("../outside/o")
    refused("encrypt", "-a", "m", m, "-k", "k", cwd=tmp_path, match="symbolic link")
    assert opened(tmp_path, m, "--follow-links") == {"d/w": b"weights", "alias": b"weights", "out/o": b"outside", "o": b"outside"}
    (m / "d" / "circle").symlink_to("..")
    refused("encrypt", "-a", "m", m, "-k", "k", "--follow-links", cwd=tmp_path, match="circle: is a symbolic link to a directory that it is in")
    (m / "d" / "other").symlink_to("..")
    refused("encrypt", "-a", "m", m, "-k", "k", "--follow-links", cwd=tmp_path, match="to a directory that it is in")
    (m / "d" / "other").unlink()
    (m / "d" / "circle").unlink()
    (m / "device").symlink_to("/dev/zero")
    refused("encrypt", "-a", "m", m, "-k", "k", "--follow-links", cwd=tmp_path, match="device: is a device")


def test_a_link_is_no_way_to_what_is_left_out(tmp_path):
    m = tmp_path / "m"
    (m / ".git").mkdir(parents=True)
    (m / ".git" / "config").write_text("url = https://user:TOKEN@host/")
    (m / "w").write_bytes(b"1")
    (m / "notes").symlink_to(".git/config")
    refused("encrypt", "-a", "m", m, "-k", "k", cwd=tmp_path, match="notes: is a symbolic link to something that is left out")
    assert listed(m, "--exclude", "notes", cwd=tmp_path) == (["w"], [".git/", "notes"])
    assert listed(m, "--include", ".git", cwd=tmp_path)[0] == [".git/config", "notes", "w"]


# -- what is left out --------------------------------------------------------------------------------------------------

def test_litter_and_secrets_are_left_out_and_named(tmp_path):
    m = tmp_path / "m"
    for name in (".git/config", ".git/objects/ab", ".gitattributes", ".cache/huggingface/x", "src/__pycache__/a.pyc", "x.lock", ".env",
                 ".DS_Store", "readme.md~", "config.json", "src/tokenizer.py", ".hidden"):
        (m / name).parent.mkdir(parents=True, exist_ok=True)
        (m / name).write_text("TOKEN" if name in (".git/config", ".env") else "x")
    kept, out = listed(m, cwd=tmp_path)
    assert kept == [".hidden", "config.json", "src/tokenizer.py"]
    assert sorted(out) == [".DS_Store", ".cache/", ".env", ".git/", ".gitattributes", "readme.md~", "src/__pycache__/", "x.lock"]
    r = ok("encrypt", "-a", "m", m, "-k", "k", cwd=tmp_path)
    assert "Left out: " in r.stderr.decode() and "and 3 more" in r.stderr.decode() and "--list" in r.stderr.decode()
    assert "Left out" not in ok("encrypt", "-q", "-a", "m", m, "-o", "q.tbenc", "-k", "qk", cwd=tmp_path).stderr.decode()
    text = ok("encrypt", "--list", m, cwd=tmp_path).stdout.decode()
    assert "       left out  .git/\n" in text and "              1  config.json\n" in text
    (tmp_path / "k").unlink()
    assert set(opened(tmp_path, m, "--force")) == set(kept)


PRIVATE = ["-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", "-----BEGIN RSA PRIVATE KEY-----\nMII", "# created: 2026\n# public key: age1\nAGE-SECRET-KEY-1QQ",
           "-----BEGIN PGP PRIVATE KEY BLOCK-----\n", "untrusted comment: minisign encrypted secret key\nRWRTY0Iy"]


@pytest.mark.parametrize("text", PRIVATE, ids=["openssh", "openssl", "age", "pgp", "minisign"])
def test_a_private_key_is_not_shipped_under_any_name(tmp_path, text):
    m = tmp_path / "m"
    (m / "sub").mkdir(parents=True)
    (m / "config.json").write_text("x")
    (m / "sub/deploy").write_text(text)
    refused("encrypt", "-a", "m", m, "-k", "k", cwd=tmp_path, match="m/sub/deploy: holds a private key, .* --exclude, or take it by --include")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert listed(m, "--exclude", "deploy", cwd=tmp_path) == (["config.json"], ["sub/deploy"])
    assert listed(m, "--include", "deploy", cwd=tmp_path)[0] == ["config.json", "sub/deploy"]
    (m / "sub/deploy").rename(m / "sub/deploy.key")
    assert listed(m, cwd=tmp_path) == (["config.json"], ["sub/deploy.key"])


def test_keys_of_tbpkg_in_the_model_are_left_out(tmp_path):
    m = tmp_path / "m"
    m.mkdir()
    (m / "config.json").write_text("x")
    ok("keygen", "-W", "-s", m / "provider.key")
    ok("encrypt", "-a", "old", m, "-o", "old.tbenc", "-k", f"{tmp_path}/", cwd=tmp_path)
    key, = tmp_path.glob("old-*.key")
    key.rename(m / key.name)
    assert set(listed(m, cwd=tmp_path)[0]) <= {"config.json", "provider.pub"}
    (m / "provider.key").rename(m / "signing")
    refused("encrypt", "--list", m, cwd=tmp_path, match="signing: holds a private key")


def test_patterns(tmp_path):
    m = tmp_path / "m"
    for name in ("a.bin", "keep.bin", "sub/b.bin", "sub/c.txt", ".env", "docs/x.md"):
        (m / name).parent.mkdir(parents=True, exist_ok=True)
        (m / name).write_text("x")
    (tmp_path / "rules").write_text("# ours\n*.bin\n!keep.bin\ndocs/\n")
    assert listed(m, "--ignore-file", "rules", cwd=tmp_path)[0] == ["keep.bin", "sub/c.txt"]
    assert listed(m, "--exclude", "*.bin", "--include", "sub/*.bin", cwd=tmp_path)[0] == ["docs/x.md", "sub/b.bin", "sub/c.txt"]
    assert listed(m, "--exclude", "sub", "--exclude=docs/", "--include", ".env", cwd=tmp_path)[0] == [".env", "a.bin", "keep.bin"]
    refused("encrypt", "--list", m, "--exclude", "*", cwd=tmp_path, match="is empty")
    refused("encrypt", "--list", m, "--ignore-file", "none", cwd=tmp_path, match="none: No such file")
    refused("encrypt", "--list", m, "--exclude", "", cwd=tmp_path, match="pattern is empty")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["m", "rules"], "--list wrote something"


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path):
    m = tmp_path / "m"
    m.mkdir()
    (m / "w").write_text("x")
    (m / "\x1b[31m\u009b.lock").write_text("x")
    text = ok("encrypt", "--list", m, cwd=tmp_path).stdout.decode() + ok("encrypt", "-a", "m", m, "-k", "k", cwd=tmp_path).stderr.decode()
    assert "\x1b" not in text and "\u009b" not in text and "?[31m?.lock" in text


# -- what is not all there ---------------------------------------------------------------------------------------------

def incomplete(tmp_path, model, match):
    refused("encrypt", "-a", "m", model, "-k", "k", cwd=tmp_path, match=match + ".*--allow-incomplete")
    assert not (tmp_path / "k").exists()
    ok("encrypt", "-q", "-a", "m", model, "-k", "k", "--allow-incomplete", cwd=tmp_path)
    for name in ("model.tbenc", "model.manifest.json", "k"):
        (tmp_path / name).unlink()


def test_git_lfs_pointers(tmp_path):
    m = tmp_path / "m"
    m.mkdir()
    (m / "config.json").write_text("{}")
    (m / "model.safetensors").write_bytes(POINTER)
    incomplete(tmp_path, m, "m/model.safetensors: is a Git LFS pointer.*git lfs pull")
    incomplete(tmp_path, m / "model.safetensors", "model.safetensors: is a Git LFS pointer")
    (m / "model.safetensors").write_bytes(POINTER + b"x" * 2000)  # a text that begins like one
    ok("encrypt", "-q", "-a", "m", m, "-k", "k", cwd=tmp_path)


def test_an_index_names_every_shard(tmp_path):
    m = tmp_path / "m"
    (m / "text_encoder").mkdir(parents=True)
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    for place in (m, m / "text_encoder"):
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
        (place / "one.safetensors").write_text("1")
        (place / "two.safetensors").write_text("2")
    ok("encrypt", "-q", "-a", "m", m, "-k", "k", cwd=tmp_path)
    for name in ("model.tbenc", "model.manifest.json", "k"):
        (tmp_path / name).unlink()
    (m / "text_encoder" / "two.safetensors").unlink()
    incomplete(tmp_path, m, "text_encoder/model.safetensors.index.json: names 'text_encoder/two.safetensors', which is not there")
    (m / "text_encoder" / "two.safetensors").write_text("2")
    refused("encrypt", "-a", "m", m, "-k", "k", "--exclude", "two.safetensors", cwd=tmp_path, match="names 'two.safetensors'|names 'text_encoder/two")
    (m / "model.safetensors.index.json").write_text("not JSON")  # nothing can be said
    ok("encrypt", "-q", "-a", "m", m, "-k", "k", cwd=tmp_path)


@pytest.mark.parametrize("there, missing", [((1, 2), 3), ((2, 3), 1), ((1, 3), 2), ((2,), 3), ((3,), 1)])
def test_every_part_of_a_series(tmp_path, there, missing):
    m = tmp_path / "m"
    (m / "gguf").mkdir(parents=True)
    for i in there:
        (m / "gguf" / f"big-{i:05}-of-00003.gguf").write_text("x")
    incomplete(tmp_path, m, f"is one of several parts, and another is 'gguf/big-0000{missing}-of-00003.gguf', which is not there")


def test_one_part_alone_as_a_file(tmp_path):
    part = tmp_path / "big-00001-of-00003.gguf"
    part.write_text("x")
    incomplete(tmp_path, part, "is part 1 of 3; name the directory")
    part.rename(tmp_path / "big-00001-of-00001.gguf")
    ok("encrypt", "-q", "-a", "m", tmp_path / "big-00001-of-00001.gguf", "-k", "k", cwd=tmp_path)
