# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile as Vagrant and its libvirt provider read it. Bringing it up is `make -C e2e-vagrant vagrant-up`, by hand: it takes
minutes where there is no KVM."""

import json
import os
import shutil
import subprocess

import pytest
from tbsys import repo


def validate(directory, home):
    return subprocess.run(["vagrant", "validate"], cwd=directory, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "VAGRANT_HOME": str(home), "VAGRANT_CHECKPOINT_DISABLE": "1"})


@pytest.mark.parametrize("made", [False, True])
def test_the_vagrantfile_is_valid(tmp_path, made):
    """Before and after box.py and the operator's settings have been."""
    shutil.copy(repo / "e2e-vagrant/Vagrantfile", tmp_path)
    if made:
        (tmp_path / "run/vagrant").mkdir(parents=True)
        (tmp_path / "run/vagrant/boot.json").write_text(json.dumps({"kernel": "/k", "initrd": "/i", "cmd_line": "root=/dev/vda"}))
        (tmp_path / "trustbridge.env").write_text("TB_CONTRACT_ID=c\n")
    r = validate(tmp_path, tmp_path / "home")
    assert r.returncode == 0 and "validated successfully" in r.stdout, r.stdout + r.stderr


def test_an_invalid_one_is_noticed(tmp_path):
    text = (repo / "e2e-vagrant/Vagrantfile").read_text()
    (tmp_path / "Vagrantfile").write_text(text.replace("config.vm.box = ", "config.vm.bix = "))
    assert validate(tmp_path, tmp_path / "home").returncode != 0
