# SPDX-License-Identifier: Apache-2.0
"""The demo that `make demo-local` runs. What it has in common with `make demo` is most of it."""

import os
import pathlib
import re
import signal
import subprocess
import sys

from tbsys import repo, wait_for

DEMO = [sys.executable, str(repo / "e2e-vagrant/demo.py"), "--local"]


def leftovers():
    """Processes whose command line or directory names the demo's directory."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            text = (p / "cmdline").read_bytes() + (p / "environ").read_bytes()
        except OSError:
            continue
        if str(repo / "e2e-vagrant/run/demo").encode() in text:
            found.append(int(p.name))
    return found


def test_the_whole_demo_says_what_it_should():
    r = subprocess.run(DEMO, capture_output=True, text=True, timeout=900)
    assert r.returncode == 0, r.stdout + r.stderr
    for want in ("-> 200", "equal text: True", "the same answer: True", "markers found in it: 0", "answers on this machine: False",
                 "serving  version 2", "refused: 0;", "-> 403", "llama-server is gone", "Done in"):
        assert want in r.stdout, (want, r.stdout)
    assert r.stdout.count("the same answer: True") == 2, "of version 1, and of version 2"
    assert int(re.search(r"requests sent meanwhile: (\d+),", r.stdout)[1]) > 4
    assert not leftovers()


def test_an_interrupt_leaves_nothing_running():
    p = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        for line in p.stdout:
            if line.startswith("\n3.") or line.startswith("3."):
                break
        wait_for(leftovers, 30, "the demo's programs")
        os.killpg(p.pid, signal.SIGINT)  # as a terminal does
        text = p.communicate(timeout=180)[0]
        assert p.returncode == 130 and "interrupted" in text, text
        assert not leftovers()
    finally:
        if p.poll() is None:
            os.killpg(p.pid, signal.SIGKILL)
