# SPDX-License-Identifier: Apache-2.0
"""What an image pins (/usr/lib/trustbridge/provider.pub) stays in force, whatever the settings of a deployment say."""

import pathlib
import shlex
import subprocess

import pytest
import tbsys
from configure_place import base
from tbsys import program

VECTORS = pathlib.Path(tbsys.repo) / "tests/vectors/minisign"
ONE, TWO = ((VECTORS / f"{name}.pub").read_text().splitlines()[1] for name in ("one", "two"))
IMAGE = "/usr/lib/trustbridge/provider.pub"
OTHERS = f"this image pins other keys, those in {IMAGE}; remove the line"


@pytest.fixture
def check(tmp_path):
    """tb-configure --check with these lines in a machine whose image pins that; None: nothing. What it says."""
    def run(pinned, *lines):
        (tmp_path / "env").write_text("\n".join([*base(), *lines]) + "\n")
        top = tmp_path / f"top{len(list(tmp_path.iterdir()))}"
        for d in ("upper", "work"):
            (top / d).mkdir(parents=True)
        if pinned is not None:
            (top / "upper/trustbridge").mkdir()
            (top / "upper/trustbridge/provider.pub").write_text(pinned)
        layers = f"lowerdir=/usr/lib,upperdir={top}/upper,workdir={top}/work"
        script = f"mount -t overlay overlay -o {layers} /usr/lib && exec {shlex.join([program('tb-configure'), '--check', str(tmp_path / 'env')])}"
        return subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60).stdout
    return run


def test_other_keys_than_the_images_are_an_error(check):
    for line in (f"TB_PROVIDER_KEY={TWO}", f"TB_PROVIDER_KEY={ONE},{TWO}"):
        said = check(ONE, line)
        assert f"env:{len(base()) + 1}: error: TB_PROVIDER_KEY: {OTHERS}" in said, said
    assert OTHERS in check(f"{ONE},{TWO}", f"TB_PROVIDER_KEY={ONE}")
    assert OTHERS in check(ONE, f"TB_PROVIDER_KEY={VECTORS}/two.pub")


def test_the_same_keys_may_be_said_again(check):
    for pinned, lines in ((ONE + "\n", ()), (ONE, (f"TB_PROVIDER_KEY={ONE}",)), (f"{ONE},{TWO}\n", (f"TB_PROVIDER_KEY={TWO},{ONE}",)),
                          (None, (f"TB_PROVIDER_KEY={TWO}",)), (ONE, (f"TB_PROVIDER_KEY={VECTORS}/one.pub",))):
        said = check(pinned, *lines)
        assert "error: TB_PROVIDER_KEY" not in said, said  # a warning says where units see no file, as below /tmp


def test_a_pin_that_cannot_be_read_opens_nothing(check):
    """It is in force, and no model fits it."""
    said = check("oops\n")
    assert "error: TB_PROVIDER_KEY: " in said and IMAGE in said, said
