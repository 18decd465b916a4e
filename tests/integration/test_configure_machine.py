# SPDX-License-Identifier: Apache-2.0
"""tb-configure as its units run it: a wrong file reaches nobody. The units around it are for the scenario
test_settings.py."""

import os
import subprocess

import pytest
from configure_place import base, run
from tbsys import program


class Machine:
    """tb-configure as its units run it, with a systemctl that runs the check and writes down what it was told."""

    def __init__(self, tmp):
        self.env, self.run_dir, self.kept, self.bin = tmp / "trustbridge.env", tmp / "run", tmp / "generator", tmp / "bin"
        self.said, self.told = tmp / "said", tmp / "told"
        for d in (self.run_dir, self.kept, self.bin):
            d.mkdir()
        systemctl = self.bin / "systemctl"
        systemctl.write_text(f"""#!/bin/sh
echo "$*" >> {self.told}
case "$*" in
    "--quiet restart tb-settings.service") exec {program("tb-configure")} --accept --run-dir {self.run_dir} {self.env} 2>> {self.said} ;;
    "--quiet daemon-reload") rm -rf {self.kept}/* && exec {program("tb-configure")} --generate --run-dir {self.run_dir} {self.env} {self.kept} ;;
esac
""")
        systemctl.chmod(0o755)

    def write(self, *lines, **settings):
        self.env.write_text("\n".join([*base(**settings), *lines]) + "\n")

    def apply(self):
        self.told.write_text("")
        self.said.write_text("")
        r = run("--apply", "--run-dir", self.run_dir, self.env, self.kept, env={**os.environ, "PATH": f"{self.bin}:/usr/bin:/bin"})
        return r.returncode, r.stderr

    def accept(self):
        r = run("--accept", "--run-dir", self.run_dir, self.env)
        return r.returncode, r.stderr

    def generate(self):
        out = self.run_dir.parent / "out"
        subprocess.run(["rm", "-rf", out], check=True)
        out.mkdir()
        r = run("--generate", "--run-dir", self.run_dir, self.env, out)
        assert r.returncode == 0
        return {p.parent.name: p.read_text() for p in out.rglob("*.conf")}

    def in_force(self):
        return (self.run_dir / "trustbridge.env").read_text()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


RESTARTED = "--quiet --no-block restart trustbridge-apply.target"


def test_good_settings_come_into_force(machine):
    machine.write()
    assert machine.apply()[0] == 0
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service", "--quiet daemon-reload", RESTARTED]
    assert machine.in_force() == machine.env.read_text() and (machine.run_dir / "contract").exists()
    code, said = machine.apply()
    assert code == 0 and "systemd knows the settings" in said
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service", RESTARTED]


@pytest.mark.parametrize("line", ["TB_PUBLIC_ADDR=0.0.0.0:80000", "TB_LOG_LEVEL=loud", "TB_RUNTIME_EXEC=/opt/nowhere", "nonsense", "TB_CA_FILE=/nowhere"])
def test_wrong_settings_change_nothing(machine, line):
    machine.write()
    assert machine.apply()[0] == 0
    before, dropins = machine.in_force(), machine.generate()
    machine.write(line)
    code, said = machine.apply()
    assert code == 78 and said.count("error: ") == 1 and "nothing was restarted" in said, said
    assert machine.said.read_text() == "", "the unit that was asked leaves it to the one that asked"
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service"]
    assert machine.in_force() == before and machine.generate() == dropins
    machine.write(TB_LOG_LEVEL="debug")
    assert machine.apply()[0] == 0 and machine.in_force() == machine.env.read_text()
    assert machine.told.read_text().splitlines() == ["--quiet restart tb-settings.service", RESTARTED]


def test_a_program_that_starts_gets_what_was_good(machine):
    machine.write()
    assert machine.apply()[0] == 0
    before = machine.in_force()
    machine.write("TB_LOG_LEVEL=loud")
    code, said = machine.accept()
    assert code == 78 and "TB_LOG_LEVEL" in said and "stays in force" in said and machine.in_force() == before
    assert machine.accept() == (78, ""), "said once"
    machine.write("TB_LOG_LEVEL=debug")
    assert machine.accept() == (0, "") and "debug" in machine.in_force()
    # Its listeners change only with tb-configure.service, which restarts them.
    machine.write(TB_PUBLIC_ADDR="127.0.0.7:7")
    assert machine.accept()[0] == 0 and "127.0.0.7" in machine.in_force() and "127.0.0.7" not in str(machine.generate())
    assert machine.apply()[0] == 0 and "127.0.0.7:7" in str(machine.generate())


def test_the_same_file_is_checked_again_when_it_is_applied(machine, tmp_path):
    """What it names may have changed."""
    server = tmp_path / "server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    machine.write(TB_RUNTIME_EXEC=server)
    assert machine.apply()[0] == 0
    server.unlink()
    assert machine.accept() == (0, "")
    code, said = machine.apply()
    assert code == 78 and f"{server} is not an executable file" in said


def test_a_boot_goes_on_with_what_there_is(machine):
    machine.write("TB_LOG_LEVEL=loud", TB_PUBLIC_ADDR="0.0.0.0:80000")
    code, said = machine.apply()
    assert code == 78 and "TB_LOG_LEVEL" in said and "TB_PUBLIC_ADDR" in said
    assert machine.in_force() == machine.env.read_text() and (machine.run_dir / "contract").exists()
    assert machine.told.read_text().splitlines()[-1] == RESTARTED
    assert machine.generate()["tb-proxy.socket.d"].endswith("[Socket]\nListenStream=\n\n")
    machine.write()
    assert machine.apply()[0] == 0 and "ListenStream=127.0.0.1" in machine.generate()["tb-proxy.socket.d"]


def test_without_a_contract(machine):
    for text in ("", "# nothing\n", "TB_CONTRACT_ID=\nTB_ASSET_ID=a\n"):
        machine.env.write_text(text)
        code, said = machine.apply()
        assert code == 0 and "no TB_CONTRACT_ID in trustbridge.env: nothing is started" in said, said
        assert not (machine.run_dir / "contract").exists()
    machine.env.unlink()
    assert machine.apply()[0] == 0
    machine.write()
    assert machine.apply()[0] == 0 and (machine.run_dir / "contract").exists()
    machine.env.write_text("TB_CONTRACT_ID=\n")
    assert machine.apply()[0] == 0 and not (machine.run_dir / "contract").exists()


def test_the_check_that_cannot_run_is_said(machine):
    machine.write()
    assert machine.apply()[0] == 0
    (machine.bin / "systemctl").write_text("#!/bin/sh\nexit 5\n")
    code, said = machine.apply()
    assert code == 78 and "tb-settings.service could not check the settings" in said


def test_the_boot_wants_it(machine):
    machine.write()
    assert "Wants=tb-configure.service" in machine.generate()["sockets.target.d"]
